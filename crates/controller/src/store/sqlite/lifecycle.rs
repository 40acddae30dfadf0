//! What operators do to a server as a whole: let it in, revoke it, want a new key of it; and what a
//! change of its identity ends.

use sqlx::sqlite::SqliteConnection;

use super::clones;
use super::events;
use super::keys;
use super::map::database;
use crate::clock::to_text;
use crate::rules::lifecycle::{approved, revoked};
use crate::rules::state::{KeyRole, ServerStatus, word};
use crate::store::StoreError;

pub(super) async fn approve(
    conn: &mut SqliteConnection,
    server_id: String,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE servers SET status = ?, status_reason = NULL, status_changed_at = ?
         WHERE server_id = ? AND status = ?",
    )
    .bind(word(&ServerStatus::Active))
    .bind(to_text(now_ms))
    .bind(&server_id)
    .bind(word(&ServerStatus::Pending))
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if done.rows_affected() != 1 {
        return Ok(false);
    }
    events::record(conn, &approved(&server_id, now_ms)).await?;
    Ok(true)
}

/// There is no way back: tokens for this server end with it, its next key, and the question whom of
/// two holders to keep.
pub(super) async fn revoke(
    conn: &mut SqliteConnection,
    server_id: String,
    reason: String,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE servers
         SET status = 'revoked', available = FALSE, status_reason = ?, status_changed_at = ?,
             authorisation = 'lapsed', grace_period_enabled = FALSE, grace_period_expires_at = NULL
         WHERE server_id = ? AND status <> 'revoked'",
    )
    .bind(&reason)
    .bind(to_text(now_ms))
    .bind(&server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if done.rows_affected() != 1 {
        return Ok(false);
    }
    close_directives(conn, &server_id, "revoked", now_ms).await?;
    keys::retire(conn, &server_id, KeyRole::Next, now_ms).await?;
    clones::resolved(conn, &server_id, None, now_ms).await?;
    sqlx::query(
        "UPDATE registration_keys SET status = 'revoked'
         WHERE for_server_id = ? AND used = FALSE AND status = 'active'",
    )
    .bind(&server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    events::record(conn, &revoked(&server_id, &reason, now_ms)).await?;
    Ok(true)
}

/// Ends everything that still waits for the host; challenges end with this failure.
pub(super) async fn close_directives(
    conn: &mut SqliteConnection,
    server_id: &str,
    failure: &'static str,
    now_ms: i64,
) -> Result<(), StoreError> {
    let now = to_text(now_ms);
    sqlx::query(
        "UPDATE server_verifications
         SET verification_time = ?, verification_result = FALSE, failure_reason = ?
         WHERE server_id = ? AND verification_result IS NULL",
    )
    .bind(&now)
    .bind(failure)
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    sqlx::query(
        "UPDATE directives SET status = 'expired', closed_at = ?
         WHERE server_id = ?
           AND (status = 'pending' OR (status = 'applied' AND kind IN ('challenge', 'rotate')))",
    )
    .bind(&now)
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}
