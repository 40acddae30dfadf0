//! Whose a connection is, and the end of those whose device or personal key is refused.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;
use vpn_node_protocol::directive::DisconnectReason;

use super::disconnects::{ask, id_list};
use super::events;
use super::map::{database, enum_of, instant_optional, parse};
use crate::clock::to_text;
use crate::rules::devices::{
    self, CAME_BACK_QUIET_MS, DISCONNECT_AGAIN_MS, DISCONNECT_APPLIED_AGAIN_MS, Holder,
    HolderStatus, Revoked,
};
use crate::rules::events::EventType;
use crate::rules::state::word;
use crate::store::{Asked, NewIdentity, Revocation, StoreError, Swept};

/// Connections that one sweep has ended: keeps its transaction short; the next one goes on. Each host
/// gets its turn, so that one with very many does not keep the others waiting.
const SWEEP: i64 = 4096;
/// Open directives of one host that new records still add to, some 4,000 connections; the sweep sees
/// to the rest. A hostile host may report refused connections without end, and each look at what is
/// open reads all of it.
const MAX_OPEN_OF_HOST: i64 = 64;

/// What new records of a server's connections lead to: each is its device's and its user's, as far
/// as that is known; the device was seen; and those that are up and refused are to be ended.
pub(super) async fn ingested(
    conn: &mut SqliteConnection,
    server_id: &str,
    touched: &BTreeSet<Uuid>,
    at_ms: i64,
) -> Result<(), StoreError> {
    if touched.is_empty() {
        return Ok(());
    }
    let ids = id_list(touched);
    sqlx::query(
        "UPDATE connections
         SET device_id = d.device_id, key_id = d.key_id, user_name = k.user_name,
             needs_mapping = FALSE
         FROM device_identities i JOIN devices d ON d.device_id = i.device_id
              LEFT JOIN personal_keys k ON k.key_id = d.key_id
         WHERE connections.connection_id IN (SELECT value FROM json_each(?))
           AND +connections.needs_mapping = TRUE
           AND i.identity_kind = connections.client_identity_kind
           AND i.identity = connections.client_identity",
    )
    .bind(&ids)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    seen(
        conn,
        "connection_id IN (SELECT value FROM json_each(?)) AND +device_id IS NOT NULL",
        &ids,
    )
    .await?;
    let live = live(
        conn,
        "c.connection_id IN (SELECT value FROM json_each(?)) AND +c.status = 'active'",
        &ids,
    )
    .await?;
    let refused: Vec<(&Live, &str)> = live
        .iter()
        .filter_map(|one| Some((one, one.holder.refusal(at_ms)?)))
        .collect();
    if refused.is_empty() || open_of_host(conn, server_id, at_ms).await? >= MAX_OPEN_OF_HOST {
        return Ok(());
    }
    let ids: Vec<Uuid> = refused.iter().map(|(one, _)| one.connection_id).collect();
    let asked = ask(conn, &ids, DisconnectReason::Revoked, at_ms).await?;
    let mut told = BTreeSet::new();
    for (one, why) in refused {
        let is_news = asked.new.contains(&one.connection_id) && told.insert(&one.device_id);
        if is_news && !was_told(conn, &one.device_id, at_ms).await? {
            let (id, name) = (&one.device_id, one.device_name.as_deref());
            let event = devices::came_back(id, name, why, server_id, at_ms);
            events::record(conn, &event).await?;
        }
    }
    Ok(())
}

async fn open_of_host(
    conn: &mut SqliteConnection,
    server_id: &str,
    at_ms: i64,
) -> Result<i64, StoreError> {
    sqlx::query_scalar(
        "SELECT COUNT(*) FROM directives
         WHERE server_id = ? AND kind = 'disconnect' AND status = 'pending' AND expires_at >= ?",
    )
    .bind(server_id)
    .bind(to_text(at_ms))
    .fetch_one(conn)
    .await
    .map_err(database)
}

/// Whether there is a young event about this device that it is connected though refused.
async fn was_told(
    conn: &mut SqliteConnection,
    device_id: &str,
    at_ms: i64,
) -> Result<bool, StoreError> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM security_events
                        WHERE timestamp > ? AND event_type = ? AND source_id = ?)",
    )
    .bind(to_text(at_ms.saturating_sub(CAME_BACK_QUIET_MS)))
    .bind(EventType::RevokedDeviceConnected.word())
    .bind(device_id)
    .fetch_one(conn)
    .await
    .map_err(database)
}

/// Connections with this identity that were nobody's are the device's now. Returns how many.
pub(super) async fn fill(
    conn: &mut SqliteConnection,
    new: &NewIdentity,
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "UPDATE connections
         SET device_id = d.device_id, key_id = d.key_id, user_name = k.user_name,
             needs_mapping = FALSE
         FROM devices d LEFT JOIN personal_keys k ON k.key_id = d.key_id
         WHERE d.device_id = ? AND connections.needs_mapping = TRUE
           AND connections.client_identity_kind = ? AND connections.client_identity = ?",
    )
    .bind(&new.device_id)
    .bind(word(&new.kind))
    .bind(&new.identity)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    seen(conn, "device_id = ?", &new.device_id).await?;
    Ok(done.rows_affected())
}

/// `devices.first_seen` and `last_seen` by the connections that `which` names: whatever the order
/// in which records come, they only widen.
async fn seen(
    conn: &mut SqliteConnection,
    which: &'static str,
    bound: &str,
) -> Result<(), StoreError> {
    let update = format!(
        "UPDATE devices
         SET first_seen = MIN(devices.first_seen, t.first),
             last_seen = MAX(devices.last_seen, t.last)
         FROM (SELECT device_id, MIN(connection_start) AS first, MAX(last_event_at) AS last
               FROM connections WHERE {which} GROUP BY device_id) t
         WHERE devices.device_id = t.device_id
           AND (t.first < devices.first_seen OR t.last > devices.last_seen)"
    );
    sqlx::query(sqlx::AssertSqlSafe(update))
        .bind(bound)
        .execute(conn)
        .await
        .map(drop)
        .map_err(database)
}

/// A connection that is up, and whose it is.
struct Live {
    connection_id: Uuid,
    device_id: String,
    device_name: Option<String>,
    holder: Holder,
}

async fn live(
    conn: &mut SqliteConnection,
    which: &'static str,
    bound: &str,
) -> Result<Vec<Live>, StoreError> {
    let select = format!(
        "SELECT c.connection_id, d.device_id, d.device_name, d.status AS device_status,
                COALESCE(k.status, 'active') AS key_status, k.expiration_date
         FROM connections c JOIN devices d ON d.device_id = c.device_id
         LEFT JOIN personal_keys k ON k.key_id = c.key_id WHERE {which}"
    );
    sqlx::query(sqlx::AssertSqlSafe(select))
        .bind(bound)
        .fetch_all(conn)
        .await
        .map_err(database)?
        .iter()
        .map(one_live)
        .collect()
}

fn one_live(row: &SqliteRow) -> Result<Live, StoreError> {
    Ok(Live {
        connection_id: parse("connections.connection_id", row.get("connection_id"))?,
        device_id: row.get("device_id"),
        device_name: row.get("device_name"),
        holder: Holder {
            device: enum_of("devices.status", row.get("device_status"))?,
            key: enum_of("personal_keys.status", row.get("key_status"))?,
            key_expires_ms: instant_optional(
                "personal_keys.expiration_date",
                row.get("expiration_date"),
            )?,
        },
    })
}

/// Has the live connections of a device or a key ended, as far as they are refused.
pub(super) async fn end_if_refused(
    conn: &mut SqliteConnection,
    whom: &Revoked,
    at_ms: i64,
) -> Result<Asked, StoreError> {
    let live = match whom {
        Revoked::Device(id) => live(conn, "c.device_id = ? AND c.status = 'active'", id).await?,
        Revoked::Key(id) => live(conn, "c.key_id = ? AND c.status = 'active'", id).await?,
    };
    let refused: Vec<Uuid> = live
        .iter()
        .filter(|one| one.holder.refusal(at_ms).is_some())
        .map(|one| one.connection_id)
        .collect();
    let asked = ask(conn, &refused, DisconnectReason::Revoked, at_ms).await?;
    Ok(asked.all)
}

pub(super) async fn revoke(
    conn: &mut SqliteConnection,
    revocation: Revocation,
) -> Result<Option<Asked>, StoreError> {
    let Revocation {
        whom,
        reason,
        at_ms,
    } = revocation;
    let (update, id) = match &whom {
        Revoked::Device(id) => (
            "UPDATE devices SET status = 'revoked', status_reason = ?, status_changed_at = ?
             WHERE device_id = ? AND status <> 'revoked'
             RETURNING COALESCE(device_name, '')",
            id,
        ),
        Revoked::Key(id) => (
            "UPDATE personal_keys SET status = 'revoked', status_reason = ?, status_changed_at = ?
             WHERE key_id = ? AND status <> 'revoked'
             RETURNING user_name",
            id,
        ),
    };
    let name: Option<String> = sqlx::query_scalar(update)
        .bind(&reason)
        .bind(to_text(at_ms))
        .bind(id)
        .fetch_optional(&mut *conn)
        .await
        .map_err(database)?;
    let Some(name) = name else {
        return Ok(None);
    };
    let asked = end_if_refused(conn, &whom, at_ms).await?;
    let count = asked.connections.len();
    let event = devices::revoked(&whom, &name, &reason, count, at_ms);
    events::record(conn, &event).await?;
    Ok(Some(asked))
}

pub(super) async fn refuse_all(
    conn: &mut SqliteConnection,
    now_ms: i64,
    heard_since_ms: i64,
) -> Result<Swept, StoreError> {
    let expired: Vec<(String, String)> = sqlx::query_as(
        "UPDATE personal_keys INDEXED BY idx_personal_keys_expiration
         SET status = ?1, status_reason = NULL, status_changed_at = ?2
         WHERE status = 'active' AND expiration_date IS NOT NULL AND expiration_date <= ?2
         RETURNING key_id, user_name",
    )
    .bind(word(&HolderStatus::Expired))
    .bind(to_text(now_ms))
    .fetch_all(&mut *conn)
    .await
    .map_err(database)?;
    for (key_id, user_name) in &expired {
        events::record(conn, &devices::expired(key_id, user_name, now_ms)).await?;
    }
    let refused = up_though_refused(conn, now_ms, heard_since_ms).await?;
    let asked = ask(conn, &refused, DisconnectReason::Revoked, now_ms).await?;
    Ok(Swept {
        expired: expired.len(),
        asked: asked.new.len(),
    })
}

/// Connections that are up although their device or key is refused, of hosts that can hear it: the
/// first time, when a directive was never taken, and from time to time when the host could not do
/// it.
async fn up_though_refused(
    conn: &mut SqliteConnection,
    now_ms: i64,
    heard_since_ms: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "WITH asked AS MATERIALIZED (
             SELECT j.value AS connection_id FROM directives x, json_each(x.connection_ids) j
             WHERE x.kind = 'disconnect' AND x.issued_at > ?2
               AND (x.status = 'applied'
                    OR (x.status IN ('failed', 'unsupported') AND x.issued_at > ?3)
                    OR (x.status = 'pending' AND x.expires_at >= ?4))),
         refused AS (
             SELECT c.connection_id, c.server_id FROM devices d
             CROSS JOIN connections c ON c.device_id = d.device_id AND c.status = 'active'
             WHERE d.status = 'revoked'
             UNION
             SELECT c.connection_id, c.server_id FROM personal_keys k
             CROSS JOIN connections c ON c.key_id = k.key_id AND c.status = 'active'
             WHERE k.status IN ('revoked', 'expired'))
         SELECT r.connection_id FROM refused r JOIN servers s ON s.server_id = r.server_id
         WHERE s.status IN ('active', 'pending') AND s.last_heartbeat >= ?1
           AND r.connection_id NOT IN (SELECT connection_id FROM asked)
         ORDER BY ROW_NUMBER() OVER (PARTITION BY r.server_id) LIMIT ?5",
    )
    .bind(to_text(heard_since_ms))
    .bind(to_text(now_ms.saturating_sub(DISCONNECT_APPLIED_AGAIN_MS)))
    .bind(to_text(now_ms.saturating_sub(DISCONNECT_AGAIN_MS)))
    .bind(to_text(now_ms))
    .bind(SWEEP)
    .fetch_all(conn)
    .await
    .map_err(database)?;
    ids.iter()
        .map(|id| parse("connections.connection_id", id))
        .collect()
}
