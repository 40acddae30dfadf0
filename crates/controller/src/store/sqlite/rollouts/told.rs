//! What hosts say: their software, and how a deployment fares.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use vpn_node_protocol::update::DeploymentStatus;

use super::{EARLY, OPEN};
use crate::clock::to_text;
use crate::rules::rollout::ended_badly;
use crate::rules::rollout::report::{DeploymentWrite, From, SoftwareWrite};
use crate::rules::rollout::schedule::AGAIN_MS;
use crate::store::StoreError;
use crate::store::sqlite::events;
use crate::store::sqlite::map::{counter, database};

pub(in crate::store::sqlite) async fn software_told(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: &SoftwareWrite,
) -> Result<(), StoreError> {
    let report = &new.report;
    sqlx::query(
        "INSERT INTO server_software
             (server_id, platform, managed, channel, previous_version, counter, metadata_age_s,
              pinned, disabled, blocked, reported_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (server_id) DO UPDATE SET
             platform = excluded.platform, managed = excluded.managed,
             channel = excluded.channel, previous_version = excluded.previous_version,
             counter = excluded.counter, metadata_age_s = excluded.metadata_age_s,
             pinned = excluded.pinned, disabled = excluded.disabled,
             blocked = excluded.blocked, reported_at = excluded.reported_at",
    )
    .bind(server_id)
    .bind(&report.platform)
    .bind(report.managed)
    .bind(&report.channel)
    .bind(&report.previous)
    .bind(counter(report.counter))
    .bind(report.metadata_age_s.map(counter))
    .bind(&report.pinned)
    .bind(report.disabled)
    .bind(serde_json::to_string(&report.blocked).expect("texts have a JSON form"))
    .bind(to_text(new.at_ms))
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// Moves a deployment of this server on, if it is still where it may move from. With its end come the
/// end of its directives, the count of its rollout and its event. Returns whether it moved.
pub(in crate::store::sqlite) async fn move_on(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: &DeploymentWrite,
) -> Result<bool, StoreError> {
    let from = match new.from {
        From::Exactly(status) => format!("('{}')", status.as_str()),
        From::Open => OPEN.to_owned(),
        From::Early => EARLY.to_owned(),
    };
    let update = format!(
        "UPDATE server_update_deployments
         SET status = ?1, bytes = COALESCE(?2, bytes), total = COALESCE(?3, total),
             bytes_per_s = COALESCE(?4, bytes_per_s),
             -- What stood in the way of a host that speaks, and says nothing of it, is over.
             code = CASE WHEN ?10 THEN ?5 ELSE COALESCE(?5, code) END,
             failure_reason = CASE WHEN ?10 THEN ?5 || ': ' || ?6
                                   ELSE COALESCE(?5 || ': ' || ?6, failure_reason) END,
             previous_version = COALESCE(?7, previous_version),
             installation_time = CASE WHEN ?1 = 'installed' THEN ?8 ELSE installation_time END,
             -- A host that was silent meanwhile stood still by no fault of its own.
             changed_at = CASE WHEN status <> ?1 OR bytes <> COALESCE(?2, bytes)
                                 OR reported_at IS NULL OR reported_at < ?9
                               THEN ?8 ELSE changed_at END,
             reported_at = CASE WHEN ?10 THEN ?8 ELSE reported_at END
         WHERE deployment_id = ?11 AND server_id = ?12 AND status IN {from}
         RETURNING rollout_id"
    );
    let [bytes, total, rate] = match new.progress {
        Some(numbers) => numbers.map(|number| Some(counter(number))),
        None => [None; 3],
    };
    let failure = new.failure.as_ref();
    let moved: Option<Option<String>> = sqlx::query_scalar(AssertSqlSafe(update))
        .bind(new.status.as_str())
        .bind(bytes)
        .bind(total)
        .bind(rate)
        .bind(failure.map(|(code, _)| code))
        .bind(failure.map(|(_, detail)| detail))
        .bind(&new.previous_version)
        .bind(to_text(new.at_ms))
        .bind(to_text(new.at_ms.saturating_sub(AGAIN_MS)))
        .bind(new.said)
        .bind(new.id)
        .bind(server_id)
        .fetch_optional(&mut *conn)
        .await
        .map_err(database)?;
    let Some(rollout_id) = moved else {
        return Ok(false);
    };
    if new.status.is_final() {
        expire(conn, server_id, new.id, new.at_ms).await?;
        count(conn, rollout_id.as_deref(), new.status).await?;
    }
    if let Some(event) = &new.event {
        events::record(conn, event).await?;
    }
    Ok(true)
}

/// Nothing more is handed out for a deployment.
pub(super) async fn expire(
    conn: &mut SqliteConnection,
    server_id: &str,
    deployment_id: i64,
    at_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE directives SET status = 'expired', closed_at = ?
         WHERE server_id = ? AND status = 'pending' AND deployment_id = ?",
    )
    .bind(to_text(at_ms))
    .bind(server_id)
    .bind(deployment_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

async fn count(
    conn: &mut SqliteConnection,
    rollout_id: Option<&str>,
    status: DeploymentStatus,
) -> Result<(), StoreError> {
    let (well, badly) = (status == DeploymentStatus::Installed, ended_badly(status));
    if !well && !badly {
        return Ok(());
    }
    sqlx::query(
        "UPDATE rollouts SET ended_well = ended_well + ?, ended_badly = ended_badly + ?
         WHERE rollout_id = ?",
    )
    .bind(i64::from(well))
    .bind(i64::from(badly))
    .bind(rollout_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}
