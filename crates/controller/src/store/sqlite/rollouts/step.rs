//! One step of the scheduler: what was decided is carried out in the transaction that read the facts.

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;
use vpn_node_protocol::update::DeploymentStatus;

use super::facts;
use super::told::{expire, move_on};
use crate::clock::{to_text, uuid_v7};
use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;
use crate::rules::rollout::report::{DeploymentWrite, From, bad_end};
use crate::rules::rollout::schedule::{Decision, Deployment, Facts, decide};
use crate::rules::rollout::{RolloutState, UPDATE_DEADLINE_S, ended_badly, is_early};
use crate::rules::state::word;
use crate::store::sqlite::events;
use crate::store::sqlite::map::database;
use crate::store::{Rolled, StoreError, Turn};

/// What the step comes to when nothing is to be written.
pub(super) async fn idle(
    conn: &mut SqliteConnection,
    turn: &Turn,
) -> Result<Option<Rolled>, StoreError> {
    let Some((rollout, facts, last)) = facts::load(conn, turn).await? else {
        return Ok(Some(Rolled::default()));
    };
    let nothing = decide(&rollout, &facts, turn.pace, turn.now_ms).is_empty();
    Ok(nothing.then(|| Rolled {
        after: last.unwrap_or(0),
        ..Rolled::default()
    }))
}

pub(super) async fn step(conn: &mut SqliteConnection, turn: &Turn) -> Result<Rolled, StoreError> {
    let Some((rollout, facts, last)) = facts::load(conn, turn).await? else {
        return Ok(Rolled::default());
    };
    let decisions = decide(&rollout, &facts, turn.pace, turn.now_ms);
    let told = |decision: &&Decision| matches!(decision, Decision::Tell(_));
    let told = decisions.iter().filter(told).count();
    for decision in &decisions {
        carry_out(conn, turn, &rollout.version, &facts, decision).await?;
    }
    Ok(Rolled {
        // As long as hosts are told, the first of those that wait are the next ones.
        after: if told > 0 {
            turn.after
        } else {
            last.unwrap_or(0)
        },
        told,
        decided: decisions.len(),
    })
}

async fn carry_out(
    conn: &mut SqliteConnection,
    turn: &Turn,
    version: &str,
    facts: &Facts,
    decision: &Decision,
) -> Result<(), StoreError> {
    match decision {
        Decision::Tell(id) => tell(conn, find(facts, *id)?, turn.now_ms).await,
        Decision::WaitForWindow(id) => wait_for_window(conn, *id, turn.now_ms).await,
        Decision::TakeBack(id) => take_back(conn, find(facts, *id)?, turn.now_ms).await,
        Decision::Cancel(id) => {
            let one = find(facts, *id)?;
            expire(conn, &one.host.server_id, one.id, turn.now_ms).await?;
            cancel(conn, &one.host.server_id, one.id, turn.now_ms).await
        }
        Decision::End {
            id,
            status,
            code,
            detail,
        } => {
            let one = find(facts, *id)?;
            let why = (*code, detail.as_str());
            end(conn, one, version, *status, why, turn.now_ms).await
        }
        Decision::Halt(why) => {
            let event = NewEvent {
                event_type: EventType::RolloutHalted,
                source_id: Some(turn.rollout_id.clone()),
                description: format!("the rollout of {version} stopped by itself: {why}"),
                at_ms: turn.now_ms,
            };
            events::record(conn, &event).await?;
            state(conn, turn, RolloutState::Halted, Some(why)).await
        }
        Decision::Complete => state(conn, turn, RolloutState::Completed, None).await,
    }
}

/// What was decided is about what was read in this very transaction.
fn find(facts: &Facts, id: i64) -> Result<&Deployment, StoreError> {
    let mut all = facts
        .in_flight
        .iter()
        .chain(&facts.canaries)
        .chain(&facts.waiting);
    all.find(|one| one.id == id).ok_or(StoreError::Conflict)
}

/// A directive for this deployment: the first, or another one in place of one that got lost.
async fn tell(
    conn: &mut SqliteConnection,
    one: &Deployment,
    now_ms: i64,
) -> Result<(), StoreError> {
    let server_id = &one.host.server_id;
    expire(conn, server_id, one.id, now_ms).await?;
    let directive_id = uuid_v7(now_ms);
    let target = sqlx::query(
        "SELECT d.version, u.target_path FROM server_update_deployments d
         JOIN server_updates u ON u.update_id = d.update_id
         WHERE d.deployment_id = ? AND u.target_path IS NOT NULL",
    )
    .bind(one.id)
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?
    .ok_or(StoreError::Impossible("server_updates.target_path"))?;
    let new = Directive {
        id: directive_id,
        kind: "update",
        deployment_id: one.id,
        version: Some(target.get("version")),
        target: Some(target.get("target_path")),
        at_ms: now_ms,
    };
    if !insert(conn, server_id, new).await? {
        // It may not speak any more.
        return Ok(());
    }
    sqlx::query(
        "UPDATE server_update_deployments
         SET directive_id = ?1, attempts = attempts + 1, changed_at = ?2,
             deployment_time = COALESCE(deployment_time, ?2),
             status = CASE WHEN status = 'waiting_window' THEN 'pending' ELSE status END
         WHERE deployment_id = ?3",
    )
    .bind(directive_id.to_string())
    .bind(to_text(now_ms))
    .bind(one.id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

struct Directive {
    id: Uuid,
    kind: &'static str,
    deployment_id: i64,
    version: Option<String>,
    target: Option<String>,
    at_ms: i64,
}

/// `false` when the server may not speak.
async fn insert(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: Directive,
) -> Result<bool, StoreError> {
    let expires_ms = new
        .at_ms
        .saturating_add(i64::from(UPDATE_DEADLINE_S) * 1000);
    sqlx::query(
        "INSERT INTO directives
             (directive_id, server_id, key_epoch, kind, deployment_id, update_version,
              update_target, issued_at, deadline_s, expires_at)
         SELECT ?, server_id, c.key_epoch, ?, ?, ?, ?, ?, ?, ? FROM server_chains c
         JOIN servers s USING (server_id)
         WHERE server_id = ? AND s.status IN ('active', 'pending')",
    )
    .bind(new.id.to_string())
    .bind(new.kind)
    .bind(new.deployment_id)
    .bind(new.version)
    .bind(new.target)
    .bind(to_text(new.at_ms))
    .bind(i64::from(UPDATE_DEADLINE_S))
    .bind(to_text(expires_ms))
    .bind(server_id)
    .execute(conn)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(database)
}

/// Tells a host to leave a deployment.
pub(super) async fn cancel(
    conn: &mut SqliteConnection,
    server_id: &str,
    deployment_id: i64,
    now_ms: i64,
) -> Result<(), StoreError> {
    let new = Directive {
        id: uuid_v7(now_ms),
        kind: "cancel_update",
        deployment_id,
        version: None,
        target: None,
        at_ms: now_ms,
    };
    insert(conn, server_id, new).await.map(drop)
}

async fn wait_for_window(
    conn: &mut SqliteConnection,
    id: i64,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE server_update_deployments SET status = 'waiting_window', changed_at = ?
         WHERE deployment_id = ? AND status = 'pending' AND directive_id IS NULL",
    )
    .bind(to_text(now_ms))
    .bind(id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// It waits for its turn again; one that was never handed out does not count as an attempt.
async fn take_back(
    conn: &mut SqliteConnection,
    one: &Deployment,
    now_ms: i64,
) -> Result<(), StoreError> {
    expire(conn, &one.host.server_id, one.id, now_ms).await?;
    let delivered = one.told.as_ref().is_some_and(|told| told.delivered);
    sqlx::query(
        "UPDATE server_update_deployments
         SET directive_id = NULL, attempts = attempts - ? WHERE deployment_id = ?",
    )
    .bind(i64::from(!delivered && one.attempts > 0))
    .bind(one.id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// The end of a deployment that its host did not say. A host that may still work on it is told to
/// leave it.
async fn end(
    conn: &mut SqliteConnection,
    one: &Deployment,
    version: &str,
    status: DeploymentStatus,
    (code, detail): (&'static str, &str),
    at_ms: i64,
) -> Result<(), StoreError> {
    let server_id = &one.host.server_id;
    let why = format!(": {code}: {detail}");
    let new = DeploymentWrite {
        id: one.id,
        from: From::Open,
        status,
        progress: None,
        failure: Some((code.to_owned(), detail.to_owned())),
        previous_version: None,
        at_ms,
        said: false,
        event: ended_badly(status).then(|| bad_end(server_id, version, status, &why, at_ms)),
    };
    move_on(conn, server_id, &new).await?;
    let told = one.told.as_ref().is_some_and(|told| told.delivered);
    if told && is_early(one.status) && !one.cancelled {
        cancel(conn, server_id, one.id, at_ms).await?;
    }
    Ok(())
}

async fn state(
    conn: &mut SqliteConnection,
    turn: &Turn,
    to: RolloutState,
    why: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE rollouts SET state = ?, state_reason = ?, state_changed_at = ?
         WHERE rollout_id = ? AND state = 'running'",
    )
    .bind(word(&to))
    .bind(why)
    .bind(to_text(turn.now_ms))
    .bind(&turn.rollout_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}
