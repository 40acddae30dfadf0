//! What operators write: a rollout, its end, and groups.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use vpn_node_protocol::update::DeploymentStatus;

use super::step::cancel;
use super::told::move_on;
use super::{EARLY, OPEN};
use crate::clock::to_text;
use crate::rules::rollout::RolloutState;
use crate::rules::rollout::report::{DeploymentWrite, From};
use crate::rules::state::word;
use crate::store::sqlite::map::database;
use crate::store::{GroupChange, NewRollout, RolloutChange, StoreError};

pub(super) async fn create(conn: &mut SqliteConnection, new: NewRollout) -> Result<(), StoreError> {
    let at = to_text(new.created_ms);
    let list = |texts: &[String]| serde_json::to_string(texts).expect("texts have a JSON form");
    sqlx::query(
        "INSERT INTO rollouts
             (rollout_id, version, channel, created_at, state_changed_at, group_names, server_ids,
              canary, percent, max_in_flight, maintenance_window, stop_on_failures, mandatory,
              notes)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&new.rollout_id)
    .bind(&new.version)
    .bind(&new.channel)
    .bind(&at)
    .bind(&at)
    .bind(list(&new.groups))
    .bind(list(&new.servers))
    .bind(new.canary)
    .bind(new.percent)
    .bind(new.max_in_flight)
    .bind(&new.window)
    .bind(new.stop_on_failures)
    .bind(new.mandatory)
    .bind(&new.notes)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    // As one statement each: a transaction of a hundred thousand would keep the server waiting.
    let chosen = serde_json::to_string(&new.chosen).expect("ids have a JSON form");
    supersede(conn, &chosen, &new).await?;
    sqlx::query(
        "INSERT INTO server_update_deployments
             (update_id, server_id, status, rollout_id, version, changed_at)
         SELECT value ->> 1, value ->> 0, 'pending', ?, ?, ? FROM json_each(?) ORDER BY key",
    )
    .bind(&new.rollout_id)
    .bind(&new.version)
    .bind(&at)
    .bind(&chosen)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// Older deployments of these hosts give way, as long as a host has not handed them to its updater: what
/// is further goes on to its end, and the new one waits for that. `chosen` is [`NewRollout::chosen`].
async fn supersede(
    conn: &mut SqliteConnection,
    chosen: &str,
    new: &NewRollout,
) -> Result<(), StoreError> {
    const CODE: &str = "newer_rollout";
    let why = format!("rollout {} takes its place", new.rollout_id);
    let update = format!(
        "UPDATE server_update_deployments
         SET status = 'superseded', code = ?1, failure_reason = ?1 || ': ' || ?2, changed_at = ?3
         WHERE directive_id IS NULL AND status IN {EARLY}
           AND server_id IN (SELECT value ->> 0 FROM json_each(?4))"
    );
    sqlx::query(AssertSqlSafe(update))
        .bind(CODE)
        .bind(&why)
        .bind(to_text(new.created_ms))
        .bind(chosen)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    // No more than are in flight.
    let select = format!(
        "SELECT d.deployment_id, d.server_id, x.delivered_at IS NOT NULL
         FROM server_update_deployments d INDEXED BY idx_server_update_deployments_in_flight
         LEFT JOIN directives x ON x.directive_id = d.directive_id
         WHERE d.directive_id IS NOT NULL AND d.status IN {OPEN} AND d.status IN {EARLY}
           AND d.server_id IN (SELECT value ->> 0 FROM json_each(?))"
    );
    let older: Vec<(i64, String, bool)> = sqlx::query_as(AssertSqlSafe(select))
        .bind(chosen)
        .fetch_all(&mut *conn)
        .await
        .map_err(database)?;
    for (id, server_id, delivered) in older {
        let write = DeploymentWrite {
            id,
            from: From::Early,
            status: DeploymentStatus::Superseded,
            progress: None,
            failure: Some((CODE.to_owned(), why.clone())),
            previous_version: None,
            at_ms: new.created_ms,
            said: false,
            event: None,
        };
        move_on(conn, &server_id, &write).await?;
        if delivered {
            cancel(conn, &server_id, id, new.created_ms).await?;
        }
    }
    Ok(())
}

/// An abort ends at once what waits for its turn; the scheduler sees to what hosts were told of. A
/// rollout that stopped by itself and goes on counts its failures anew.
pub(super) async fn change(
    conn: &mut SqliteConnection,
    change: RolloutChange,
) -> Result<bool, StoreError> {
    let from = match change.to {
        RolloutState::Running => "('paused', 'halted')",
        RolloutState::Paused => "('running')",
        RolloutState::Aborted => "('running', 'paused', 'halted')",
        RolloutState::Halted | RolloutState::Completed => return Ok(false),
    };
    let update = format!(
        "UPDATE rollouts
         SET ended_well = CASE WHEN state = 'halted' AND ?1 = 'running' THEN 0 ELSE ended_well END,
             ended_badly = CASE WHEN state = 'halted' AND ?1 = 'running' THEN 0
                                ELSE ended_badly END,
             state = ?1, state_reason = ?2, state_changed_at = ?3
         WHERE rollout_id = ?4 AND state IN {from}"
    );
    let at = to_text(change.at_ms);
    let done = sqlx::query(AssertSqlSafe(update))
        .bind(word(&change.to))
        .bind(&change.reason)
        .bind(&at)
        .bind(&change.rollout_id)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    if done.rows_affected() != 1 {
        return Ok(false);
    }
    if change.to == RolloutState::Aborted {
        let update = format!(
            "UPDATE server_update_deployments
             SET status = 'superseded', code = 'aborted', changed_at = ?,
                 failure_reason = 'aborted: ' || ?
             WHERE rollout_id = ? AND directive_id IS NULL AND status IN {OPEN}"
        );
        sqlx::query(AssertSqlSafe(update))
            .bind(&at)
            .bind(
                change
                    .reason
                    .as_deref()
                    .unwrap_or("an operator ended the rollout"),
            )
            .bind(&change.rollout_id)
            .execute(conn)
            .await
            .map_err(database)?;
    }
    Ok(true)
}

pub(super) async fn add_to_group(
    conn: &mut SqliteConnection,
    change: GroupChange,
) -> Result<u64, StoreError> {
    let mut added = 0;
    for server_id in &change.server_ids {
        let done = sqlx::query(
            "INSERT INTO server_groups (group_name, server_id, created_at) VALUES (?, ?, ?)
             ON CONFLICT DO NOTHING",
        )
        .bind(&change.group_name)
        .bind(server_id)
        .bind(to_text(change.at_ms))
        .execute(&mut *conn)
        .await
        .map_err(database)?;
        added += done.rows_affected();
    }
    Ok(added)
}

pub(super) async fn remove_from_group(
    conn: &mut SqliteConnection,
    change: GroupChange,
) -> Result<u64, StoreError> {
    let mut removed = 0;
    for server_id in &change.server_ids {
        let done = sqlx::query("DELETE FROM server_groups WHERE group_name = ? AND server_id = ?")
            .bind(&change.group_name)
            .bind(server_id)
            .execute(&mut *conn)
            .await
            .map_err(database)?;
        removed += done.rows_affected();
    }
    Ok(removed)
}
