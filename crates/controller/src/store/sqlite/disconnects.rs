//! Directives `disconnect`: made for connections that are to be ended, and what became of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use uuid::Uuid;
use vpn_node_protocol::directive::DisconnectReason;
use vpn_node_protocol::limits::MAX_DISCONNECTS;

use super::directives::insert_disconnect;
use super::map::{database, parse};
use crate::clock::{to_text, uuid_v7};
use crate::rules::effect::NewDisconnect;
use crate::store::{Asked, DisconnectionRow, NotAsked, StoreError};

/// What a wish to end connections came to.
#[derive(Default)]
pub(super) struct Wished {
    pub(super) all: Asked,
    /// Those of `all` for which no directive was open yet.
    pub(super) new: BTreeSet<Uuid>,
}

/// Ids as a JSON array, for `json_each`.
pub(super) fn id_list<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> String {
    let ids: Vec<&Uuid> = ids.into_iter().collect();
    serde_json::to_string(&ids).expect("ids have a JSON form")
}

/// Has these connections ended, as far as they are up: one directive or more for each server, of at
/// most [`MAX_DISCONNECTS`] connections. One that an open directive names already is asked for with
/// that.
pub(super) async fn ask(
    conn: &mut SqliteConnection,
    connections: &[Uuid],
    reason: DisconnectReason,
    at_ms: i64,
) -> Result<Wished, StoreError> {
    let mut wished = Wished::default();
    let mut directives = BTreeSet::new();
    for (server_id, live) in by_server(conn, connections, &mut wished.all).await? {
        let open = open_now(conn, &server_id, at_ms).await?;
        let mut missing = vec![];
        for id in live {
            wished.all.connections.push(id);
            match open.get(&id) {
                Some(directive) => _ = directives.insert(*directive),
                None => missing.push(id),
            }
        }
        for part in missing.chunks(MAX_DISCONNECTS) {
            let new = NewDisconnect {
                id: uuid_v7(at_ms),
                connection_ids: part.to_vec(),
                reason,
                issued_ms: at_ms,
            };
            insert_disconnect(conn, &server_id, &new).await?;
            directives.insert(new.id);
            wished.new.extend(part);
        }
    }
    wished.all.directives = directives.into_iter().collect();
    Ok(wished)
}

/// Those that are up, by the server that can be asked; the others are put down in `asked`.
async fn by_server(
    conn: &mut SqliteConnection,
    connections: &[Uuid],
    asked: &mut Asked,
) -> Result<BTreeMap<String, Vec<Uuid>>, StoreError> {
    if connections.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT c.connection_id, s.server_id, s.hostname, s.status
         FROM connections c JOIN servers s ON s.server_id = c.server_id
         WHERE c.connection_id IN (SELECT value FROM json_each(?)) AND +c.status = 'active'
         ORDER BY c.connection_id",
    )
    .bind(id_list(connections))
    .fetch_all(conn)
    .await
    .map_err(database)?;
    let mut servers: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
    for (id, server_id, hostname, status) in rows {
        let connection_id = parse("connections.connection_id", &id)?;
        match status.as_str() {
            "active" | "pending" => servers.entry(server_id).or_default().push(connection_id),
            _ => asked.not_asked.push(NotAsked {
                connection_id,
                hostname,
                status,
            }),
        }
    }
    Ok(servers)
}

/// Connections that an open directive of a server names, with that.
async fn open_now(
    conn: &mut SqliteConnection,
    server_id: &str,
    at_ms: i64,
) -> Result<HashMap<Uuid, Uuid>, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT j.value, d.directive_id FROM directives d, json_each(d.connection_ids) j
         WHERE d.server_id = ? AND d.kind = 'disconnect' AND d.status = 'pending'
           AND d.expires_at >= ?",
    )
    .bind(server_id)
    .bind(to_text(at_ms))
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.iter()
        .map(|(connection, directive)| {
            Ok((
                parse("directives.connection_ids", connection)?,
                parse("directives.directive_id", directive)?,
            ))
        })
        .collect()
}

/// A connection, its host and its device, with a directive that names it.
const ROW: &str = "SELECT c.connection_id, c.server_id, s.hostname, s.last_heartbeat,
        v.device_name, c.user_name, c.client_identity, c.status, c.connection_end,
        c.disconnection_reason, c.end_confidence, d.directive_id, d.status AS directive_status,
        d.disconnect_reason, d.issued_at, d.delivered_at, d.closed_at, d.outcome_detail
    FROM directives d, json_each(d.connection_ids) j
    JOIN connections c ON c.connection_id = j.value AND c.server_id = d.server_id
    JOIN servers s ON s.server_id = c.server_id
    LEFT JOIN devices v ON v.device_id = c.device_id";

pub(super) async fn rows(
    pool: &SqlitePool,
    asked: &Asked,
) -> Result<Vec<DisconnectionRow>, StoreError> {
    let select = format!(
        "{ROW} WHERE d.directive_id IN (SELECT value FROM json_each(?))
           AND c.connection_id IN (SELECT value FROM json_each(?))
         ORDER BY s.hostname, c.connection_id"
    );
    sqlx::query_as(AssertSqlSafe(select))
        .bind(id_list(&asked.directives))
        .bind(id_list(&asked.connections))
        .fetch_all(pool)
        .await
        .map_err(database)
}

pub(super) async fn rows_of(
    pool: &SqlitePool,
    connection_id: Uuid,
) -> Result<Vec<DisconnectionRow>, StoreError> {
    let select = format!(
        "{ROW} WHERE d.kind = 'disconnect' AND j.value = ?1
           AND d.server_id = (SELECT server_id FROM connections WHERE connection_id = ?1)
         ORDER BY d.issued_at DESC, d.directive_id DESC"
    );
    sqlx::query_as(AssertSqlSafe(select))
        .bind(connection_id.to_string())
        .fetch_all(pool)
        .await
        .map_err(database)
}
