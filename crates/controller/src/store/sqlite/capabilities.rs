//! What hosts offer: `server_capabilities`, one row for each backend.

use std::collections::HashMap;

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use vpn_node_protocol::limits::MAX_BACKENDS;
use vpn_node_protocol::message::{BackendReport, Heartbeat};

use super::map::database;
use crate::clock::to_text;
use crate::store::{CapabilityRow, Counts, StoreError};

/// Rows of one server: a host that names others with every heartbeat fills no disk. Those that it
/// no longer tells of go first.
const MAX_ROWS: i64 = 4 * MAX_BACKENDS as i64;

/// As a heartbeat tells: what it names is there, and enabled while the agent can read it; what it
/// does not name any more is not enabled. A backend without details keeps those that it had.
pub(super) async fn told(
    conn: &mut SqliteConnection,
    server_id: &str,
    backends: &[BackendReport],
    at_ms: i64,
) -> Result<(), StoreError> {
    let at = to_text(at_ms);
    for backend in backends {
        let details = backend.details.as_ref();
        let details = details.map(|d| serde_json::to_string(d).expect("details have a JSON form"));
        sqlx::query(
            "INSERT INTO server_capabilities
                 (server_id, capability_type, instance, capability_details, enabled, seen_at)
             VALUES (?1, ?2, ?3, COALESCE(?4, '{}'), ?5, ?6)
             ON CONFLICT (server_id, capability_type, instance) DO UPDATE SET
                 capability_details = COALESCE(?4, capability_details),
                 enabled = excluded.enabled, seen_at = excluded.seen_at",
        )
        .bind(server_id)
        .bind(&backend.kind)
        .bind(&backend.instance)
        .bind(details)
        .bind(backend.up)
        .bind(&at)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    }
    let enabled: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT capability_id, capability_type, instance FROM server_capabilities
         WHERE server_id = ? AND enabled = TRUE",
    )
    .bind(server_id)
    .fetch_all(&mut *conn)
    .await
    .map_err(database)?;
    let is_told = |kind: &str, instance: &str| {
        backends
            .iter()
            .any(|one| one.kind == kind && one.instance == instance)
    };
    for (id, kind, instance) in enabled {
        if is_told(&kind, &instance) {
            continue;
        }
        sqlx::query("UPDATE server_capabilities SET enabled = FALSE WHERE capability_id = ?")
            .bind(id)
            .execute(&mut *conn)
            .await
            .map_err(database)?;
    }
    sqlx::query(
        "DELETE FROM server_capabilities WHERE capability_id IN
             (SELECT capability_id FROM server_capabilities WHERE server_id = ?
              ORDER BY seen_at DESC, capability_id DESC LIMIT -1 OFFSET ?)",
    )
    .bind(server_id)
    .bind(MAX_ROWS)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

pub(super) async fn of_server(
    pool: &SqlitePool,
    server_id: &str,
) -> Result<Vec<CapabilityRow>, StoreError> {
    let last: Option<String> = sqlx::query_scalar(
        "SELECT system_metrics FROM heartbeats WHERE server_id = ? AND signature_valid = TRUE
         ORDER BY heartbeat_id DESC LIMIT 1",
    )
    .bind(server_id)
    .fetch_optional(pool)
    .await
    .map_err(database)?
    .flatten();
    let last: Option<Heartbeat> = last.and_then(|body| serde_json::from_str(&body).ok());
    let backends = last.map_or_else(Vec::new, |heartbeat| heartbeat.backends);
    let counts: HashMap<(&str, &str), Counts> = backends
        .iter()
        .map(|one| ((one.kind.as_str(), one.instance.as_str()), counts(one)))
        .collect();
    let rows: Vec<(String, String, String, bool, Option<String>)> = sqlx::query_as(
        "SELECT capability_type, instance, capability_details, enabled, seen_at
         FROM server_capabilities WHERE server_id = ? ORDER BY capability_type, instance",
    )
    .bind(server_id)
    .fetch_all(pool)
    .await
    .map_err(database)?;
    let row =
        |(capability_type, instance, details, enabled, seen_at): (String, String, String, _, _)| {
            Ok(CapabilityRow {
                counts: counts
                    .get(&(capability_type.as_str(), instance.as_str()))
                    .copied(),
                capability_details: serde_json::from_str(&details).map_err(|_| {
                    StoreError::Impossible("server_capabilities.capability_details")
                })?,
                capability_type,
                instance,
                enabled,
                seen_at,
            })
        };
    rows.into_iter().map(row).collect()
}

fn counts(backend: &BackendReport) -> Counts {
    Counts {
        active: backend.active,
        started: backend.started,
        ended: backend.ended,
        rx_bytes: backend.rx_bytes,
        tx_bytes: backend.tx_bytes,
        rx_bytes_per_s: backend.rx_bytes_per_s,
        tx_bytes_per_s: backend.tx_bytes_per_s,
    }
}
