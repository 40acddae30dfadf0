//! Connections and gaps as operators look at them, and one that is to be ended.

use sqlx::sqlite::SqlitePool;
use sqlx::{QueryBuilder, Sqlite};
use uuid::Uuid;
use vpn_node_protocol::directive::DisconnectReason;

use super::devices::LAST;
use super::map::database;
use super::{SqliteStore, capabilities, disconnects};
use crate::store::{
    Answer, Asked, CapabilityRow, ConnectionFilter, ConnectionRow, ConnectionStore,
    DisconnectionRow, GapRow, StoreError,
};

impl ConnectionStore for SqliteStore {
    fn connections(&self, filter: ConnectionFilter) -> Answer<'_, Vec<ConnectionRow>> {
        Box::pin(connections(&self.readers, filter))
    }

    fn gaps<'a>(&'a self, server_id: Option<&'a str>, limit: u32) -> Answer<'a, Vec<GapRow>> {
        Box::pin(gaps(&self.readers, server_id, limit))
    }

    fn disconnect(&self, connection_id: Uuid, now_ms: i64) -> Answer<'_, Asked> {
        Box::pin(self.write(move |conn| {
            Box::pin(async move {
                let ids = [connection_id];
                let wished = disconnects::ask(conn, &ids, DisconnectReason::AdminKick, now_ms);
                wished.await.map(|wished| wished.all)
            })
        }))
    }

    fn disconnections<'a>(&'a self, asked: &'a Asked) -> Answer<'a, Vec<DisconnectionRow>> {
        Box::pin(disconnects::rows(&self.readers, asked))
    }

    fn disconnections_of(&self, connection_id: Uuid) -> Answer<'_, Vec<DisconnectionRow>> {
        Box::pin(disconnects::rows_of(&self.readers, connection_id))
    }

    fn capabilities<'a>(&'a self, server_id: &'a str) -> Answer<'a, Vec<CapabilityRow>> {
        Box::pin(capabilities::of_server(&self.readers, server_id))
    }
}

async fn connections(
    pool: &SqlitePool,
    filter: ConnectionFilter,
) -> Result<Vec<ConnectionRow>, StoreError> {
    // Only what is asked for stands in the statement, so that the database finds its index.
    let mut select = QueryBuilder::<Sqlite>::new(
        "SELECT c.*, s.hostname, d.device_name
         FROM connections c JOIN servers s ON s.server_id = c.server_id
              LEFT JOIN devices d ON d.device_id = c.device_id WHERE TRUE",
    );
    let texts = [
        (" AND c.server_id = ", filter.server_id),
        (" AND c.user_name = ", filter.user_name),
        (" AND c.device_id = ", filter.device_id),
        // Whatever begins with the text lies between it and it with the last character behind.
        (
            " AND c.connection_id <= ",
            filter.id.as_ref().map(|id| format!("{id}{LAST}")),
        ),
        (" AND c.connection_id >= ", filter.id),
    ];
    for (is, text) in texts {
        if let Some(text) = text {
            select.push(is).push_bind(text);
        }
    }
    if filter.active {
        select.push(" AND c.status = 'active'");
    }
    if filter.unmapped {
        select.push(" AND c.needs_mapping = TRUE");
    }
    select
        .push(" ORDER BY c.connection_start DESC, c.connection_id LIMIT ")
        .push_bind(filter.limit)
        .build_query_as()
        .fetch_all(pool)
        .await
        .map_err(database)
}

async fn gaps(
    pool: &SqlitePool,
    server_id: Option<&str>,
    limit: u32,
) -> Result<Vec<GapRow>, StoreError> {
    sqlx::query_as(
        "SELECT g.*, s.hostname FROM connection_gaps g
         JOIN servers s ON s.server_id = g.server_id
         WHERE ?1 IS NULL OR g.server_id = ?1
         ORDER BY g.reported_at DESC, g.server_id, g.ledger_epoch, g.first_seq LIMIT ?2",
    )
    .bind(server_id)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(database)
}
