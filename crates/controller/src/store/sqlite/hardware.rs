//! Fingerprints: the log, the server's hardware columns, permits for a rehost, and the end of grace
//! periods.

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use vpn_node_protocol::encoding::Digest;

use super::map::database;
use super::{directives, events};
use crate::clock::to_text;
use crate::rules::effect::HardwareWrite;
use crate::store::{HardwareLogRow, RehostPermit, StoreError};

pub(super) async fn log_row(
    conn: &mut SqliteConnection,
    server_id: &str,
    row: &HardwareWrite,
) -> Result<(), StoreError> {
    let at = to_text(row.at_ms);
    sqlx::query(
        "INSERT INTO hardware_verification_log
             (id, server_id, hardware_id, raw_components, verification_result, error_details,
              client_ip, os_version, verified_at, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.log_id.to_string())
    .bind(server_id)
    .bind(row.hardware_id.to_string())
    .bind(&row.raw_components)
    .bind(row.result)
    .bind(&row.error_details)
    .bind(&row.client_ip)
    .bind(&row.os_version)
    .bind((row.result == "success").then_some(&at))
    .bind(&at)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// The server's own columns, when the attempt changes them.
pub(super) async fn status(
    conn: &mut SqliteConnection,
    server_id: &str,
    row: &HardwareWrite,
) -> Result<(), StoreError> {
    let Some(status) = row.status else {
        return Ok(());
    };
    let verified = (row.result == "success").then(|| to_text(row.at_ms));
    sqlx::query(
        "UPDATE servers
         SET hardware_verification_status = ?, os_version = COALESCE(?, os_version),
             last_hardware_verification_at = COALESCE(?, last_hardware_verification_at)
         WHERE server_id = ?",
    )
    .bind(status.as_str())
    .bind(&row.os_version)
    .bind(verified)
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// These components are the enrolled ones now, and the permit is used up.
pub(super) async fn rehost(
    conn: &mut SqliteConnection,
    server_id: &str,
    hardware_id: &Digest,
    raw_components: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE servers
         SET verification_hash = ?, raw_hardware_components = ?, rehost_permitted_until = NULL
         WHERE server_id = ?",
    )
    .bind(hardware_id.to_string())
    .bind(raw_components)
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

pub(super) async fn permit(
    conn: &mut SqliteConnection,
    server_id: String,
    permit: RehostPermit,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE servers SET rehost_permitted_until = ?
         WHERE server_id = ? AND status IN ('pending', 'active')",
    )
    .bind(permit.until_ms.map(to_text))
    .bind(&server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if done.rows_affected() != 1 {
        return Ok(false);
    }
    events::record(conn, &permit.event).await?;
    if let Some(challenge) = permit.challenge {
        directives::queue(conn, server_id, challenge).await?;
    }
    Ok(true)
}

pub(super) async fn enrolled(
    pool: &SqlitePool,
    server_id: &str,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar("SELECT raw_hardware_components FROM servers WHERE server_id = ?")
        .bind(server_id)
        .fetch_optional(pool)
        .await
        .map(Option::flatten)
        .map_err(database)
}

pub(super) async fn log(
    pool: &SqlitePool,
    server_id: &str,
    limit: u32,
) -> Result<Vec<HardwareLogRow>, StoreError> {
    sqlx::query_as(
        "SELECT * FROM hardware_verification_log WHERE server_id = ?
         ORDER BY created_at DESC, rowid DESC LIMIT ?",
    )
    .bind(server_id)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(database)
}

/// The newest components that were compared, as JSON.
pub(super) async fn last(
    conn: &mut SqliteConnection,
    server_id: &str,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar(
        "SELECT raw_components FROM hardware_verification_log
         WHERE server_id = ? AND verification_result IN ('success', 'mismatch')
           AND raw_components IS NOT NULL
         ORDER BY created_at DESC, rowid DESC LIMIT 1",
    )
    .bind(server_id)
    .fetch_optional(conn)
    .await
    .map_err(database)
}

/// When the newest verification was begun, or ended.
pub(super) async fn last_challenge(
    conn: &mut SqliteConnection,
    server_id: &str,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar(
        "SELECT verification_time FROM server_verifications WHERE server_id = ?
         ORDER BY verification_id DESC LIMIT 1",
    )
    .bind(server_id)
    .fetch_optional(conn)
    .await
    .map_err(database)
}

/// When it ended stays to be read.
pub(super) async fn expire_grace(
    conn: &mut SqliteConnection,
    now_ms: i64,
) -> Result<u64, StoreError> {
    sqlx::query(
        "UPDATE servers SET grace_period_enabled = FALSE
         WHERE grace_period_enabled = TRUE AND grace_period_expires_at <= ?",
    )
    .bind(to_text(now_ms))
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
    .map_err(database)
}
