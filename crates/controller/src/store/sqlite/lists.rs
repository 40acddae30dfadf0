//! What the operator's commands show.

use sqlx::sqlite::SqlitePool;

use super::map::database;
use crate::store::{HeartbeatRow, RegistrationKeyRow, ServerRow, StoreError};

pub(super) async fn registration_keys(
    pool: &SqlitePool,
) -> Result<Vec<RegistrationKeyRow>, StoreError> {
    sqlx::query_as("SELECT * FROM registration_keys ORDER BY creation_date DESC, registration_key")
        .fetch_all(pool)
        .await
        .map_err(database)
}

pub(super) async fn servers(pool: &SqlitePool) -> Result<Vec<ServerRow>, StoreError> {
    // A heartbeat states controller minus host; turned round here, with the one number left out
    // that has no opposite: a host chooses it.
    sqlx::query_as(
        "SELECT s.*, ch.key_epoch,
                (SELECT k.identity_key_id FROM server_keys k
                 WHERE k.server_id = s.server_id AND k.status = 'next') AS next_key_id,
                (SELECT COUNT(*) FROM connections c
                      WHERE c.server_id = s.server_id AND c.status = 'active')
                     AS active_connections,
                     (SELECT -max(json_extract(h.system_metrics, '$.clock_offset_ms'),
                                  -9223372036854775807)
                      FROM heartbeats h
                      WHERE h.server_id = s.server_id AND h.signature_valid
                      ORDER BY h.heartbeat_id DESC LIMIT 1)
                     AS clock_offset_ms
         FROM servers s JOIN server_chains ch ON ch.server_id = s.server_id
         ORDER BY s.hostname, s.server_id",
    )
    .fetch_all(pool)
    .await
    .map_err(database)
}

pub(super) async fn heartbeats(
    pool: &SqlitePool,
    server_id: Option<&str>,
    limit: u32,
) -> Result<Vec<HeartbeatRow>, StoreError> {
    sqlx::query_as(
        "SELECT * FROM heartbeats WHERE (?1 IS NULL OR server_id = ?1)
         ORDER BY heartbeat_id DESC LIMIT ?2",
    )
    .bind(server_id)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(database)
}
