//! Carrying a rule's effects out, one after the other, inside the operation's savepoint.

use std::collections::BTreeSet;

use sqlx::sqlite::SqliteConnection;

use super::map::{counter, database};
use super::{capabilities, clones, directives, events, hardware, holders, keys, rollouts};
use crate::clock::to_text;
use crate::rules::Effect;
use crate::rules::connections::ConnectionWrite;
use crate::rules::effect::{ChainStep, HeartbeatWrite, NewEvent, StandingWrite};
use crate::rules::events::EventType;
use crate::rules::state::word;
use crate::store::StoreError;

/// Requests of a server whose digests are kept: more than a day of heartbeats, in some 400 KB.
const REMEMBERED: u64 = 4096;

pub(super) async fn apply(
    conn: &mut SqliteConnection,
    server_id: &str,
    effects: Vec<Effect>,
) -> Result<(), StoreError> {
    let now_ms = crate::clock::now_ms();
    let mut foreign: Option<(u64, ConnectionWrite)> = None;
    let mut touched = BTreeSet::new();
    for effect in effects {
        match effect {
            Effect::Advance(step) => advance(conn, server_id, &step).await?,
            Effect::Heartbeat(row) => heartbeat(conn, server_id, &row).await?,
            Effect::Standing(row) => standing(conn, server_id, &row).await?,
            Effect::NextKey(new) => keys::set_next(conn, server_id, &new).await?,
            Effect::KeyInForce(new) => keys::set_current(conn, server_id, &new).await?,
            Effect::Quarantine(new) => clones::suspect(conn, server_id, &new).await?,
            Effect::ResolveClones { kept, at_ms } => {
                clones::resolved(conn, server_id, Some(kept), at_ms).await?;
            }
            Effect::RefusedAhead { epoch, seq, digest } => {
                clones::refused_ahead(conn, server_id, (epoch, seq), digest).await?;
            }
            Effect::OpenChallenge(new) => directives::open(conn, server_id, &new).await?,
            Effect::OpenRotation(new) => {
                directives::open_rotation(conn, server_id, new).await?;
            }
            Effect::Delivered(ids) => {
                directives::delivered(conn, ids.into_iter(), now_ms).await?;
            }
            Effect::DirectiveStatus { id, status, detail } => {
                directives::set_status(conn, server_id, id, status, detail, now_ms).await?;
            }
            Effect::CloseVerification(end) => directives::close(conn, server_id, &end).await?,
            Effect::StrayVerification {
                challenge,
                purpose,
                end,
            } => {
                let challenge = challenge.to_string();
                directives::stray(conn, server_id, &challenge, purpose.as_str(), &end).await?;
            }
            Effect::Hardware(row) => {
                hardware::log_row(conn, server_id, &row).await?;
                hardware::status(conn, server_id, &row).await?;
            }
            Effect::Rehost {
                hardware_id,
                raw_components,
            } => hardware::rehost(conn, server_id, &hardware_id, &raw_components).await?,
            Effect::Connection(row) => match connection(conn, server_id, &row).await? {
                Applied::New => _ = touched.insert(row.id()),
                Applied::Before => {}
                Applied::Foreign => foreign.get_or_insert((0, *row)).0 += 1,
            },
            Effect::Holders { at_ms } => {
                holders::ingested(conn, server_id, &std::mem::take(&mut touched), at_ms).await?;
            }
            Effect::Lost {
                ledger_epoch,
                range,
            } => {
                sqlx::query(
                    "INSERT INTO connection_gaps
                         (server_id, ledger_epoch, first_seq, last_seq, reason, reported_at)
                     VALUES (?, ?, ?, ?, ?, ?)
                     ON CONFLICT (server_id, ledger_epoch, first_seq) DO NOTHING",
                )
                .bind(server_id)
                .bind(ledger_epoch.to_string())
                .bind(counter(range.first))
                .bind(counter(range.last))
                .bind(range.reason)
                .bind(to_text(now_ms))
                .execute(&mut *conn)
                .await
                .map_err(database)?;
            }
            Effect::LedgerAck {
                ledger_epoch,
                through,
            } => {
                sqlx::query(
                    "INSERT INTO connection_ledgers (server_id, ledger_epoch, acked_through)
                     VALUES (?, ?, ?)
                     ON CONFLICT (server_id, ledger_epoch)
                     DO UPDATE SET acked_through = excluded.acked_through, set_back = FALSE",
                )
                .bind(server_id)
                .bind(ledger_epoch.to_string())
                .bind(counter(through))
                .execute(&mut *conn)
                .await
                .map_err(database)?;
            }
            Effect::Software(new) => rollouts::software_told(conn, server_id, &new).await?,
            Effect::Deployment(new) => _ = rollouts::move_on(conn, server_id, &new).await?,
            Effect::Event(new) => events::record(conn, &new).await?,
            Effect::QuietEvent { event, quiet_ms } => {
                events::record_quietly(conn, &event, quiet_ms).await?;
            }
        }
    }
    // One for the whole batch, and by our clock: the host names the connections and their times.
    if let Some((count, first)) = foreign {
        let id = first.id();
        let new = NewEvent {
            event_type: EventType::ConnectionOfAnotherServer,
            source_id: Some(server_id.to_owned()),
            description: format!(
                "the host reports {count} records of connections that belong to another server, first of {id}"
            ),
            at_ms: now_ms,
        };
        events::record(conn, &new).await?;
    }
    Ok(())
}

/// Compare-and-set: the chain moves from the number that was judged, or not at all.
async fn advance(
    conn: &mut SqliteConnection,
    server_id: &str,
    step: &ChainStep,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "UPDATE server_chains
         SET key_epoch = ?, seq = ?, chain = ?, previous_nonce = nonce, nonce = ?, last_digest = ?,
             last_reply = ?, boot_id = ?, booted = ?, made_at = ?, peer_ip = ?
         WHERE server_id = ? AND key_epoch = ? AND seq = ?",
    )
    .bind(counter(step.epoch.into()))
    .bind(counter(step.seq))
    .bind(step.chain.to_string())
    .bind(step.nonce.to_string())
    .bind(step.digest.to_string())
    .bind(&step.reply)
    .bind(step.boot.id.to_string())
    .bind(to_text(step.boot.at_ms))
    .bind(to_text(step.made_ms))
    .bind(&step.peer_ip)
    .bind(server_id)
    .bind(counter(step.from_epoch.into()))
    .bind(counter(step.from_seq))
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Conflict);
    }
    if step.epoch != step.from_epoch {
        // Numbers begin anew; requests of the old key are refused as a whole.
        sqlx::query("DELETE FROM request_digests WHERE server_id = ?")
            .bind(server_id)
            .execute(&mut *conn)
            .await
            .map_err(database)?;
    }
    remember(conn, server_id, step).await
}

/// The digest of an accepted request, for as long as [`REMEMBERED`] says.
async fn remember(
    conn: &mut SqliteConnection,
    server_id: &str,
    step: &ChainStep,
) -> Result<(), StoreError> {
    sqlx::query("INSERT OR REPLACE INTO request_digests (server_id, seq, digest) VALUES (?, ?, ?)")
        .bind(server_id)
        .bind(counter(step.seq))
        .bind(step.digest.to_string())
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    sqlx::query("DELETE FROM request_digests WHERE server_id = ? AND seq <= ?")
        .bind(server_id)
        .bind(counter(step.seq.saturating_sub(REMEMBERED)))
        .execute(conn)
        .await
        .map(drop)
        .map_err(database)
}

async fn heartbeat(
    conn: &mut SqliteConnection,
    server_id: &str,
    row: &HeartbeatWrite,
) -> Result<(), StoreError> {
    let received = to_text(row.received_ms);
    sqlx::query(
        "INSERT INTO heartbeats
             (server_id, received_time, signature_valid, active_connections, current_location,
              system_metrics)
         VALUES (?, ?, TRUE, ?, ?, ?)",
    )
    .bind(server_id)
    .bind(&received)
    .bind(counter(row.active_connections))
    .bind(&row.location)
    .bind(&row.body)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    sqlx::query(
        "UPDATE servers
         SET last_heartbeat = ?, version = ?, location = ?, public_ip = ?, available = ?,
             authorisation = ?, grace_period_enabled = ?, grace_period_expires_at = ?,
             grace_period_usage_count = grace_period_usage_count + ?
         WHERE server_id = ?",
    )
    .bind(&received)
    .bind(&row.version)
    .bind(&row.location)
    .bind(&row.peer_ip)
    .bind(row.available)
    .bind(word(&row.authorisation))
    .bind(row.grace_expires_ms.is_some())
    .bind(row.grace_expires_ms.map(to_text))
    .bind(i64::from(row.grace_began))
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    capabilities::told(conn, server_id, &row.backends, row.received_ms).await
}

async fn standing(
    conn: &mut SqliteConnection,
    server_id: &str,
    row: &StandingWrite,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE servers
         SET verdict = ?, verdict_reason = ?, challenges_missed = ?, available = ?
         WHERE server_id = ?",
    )
    .bind(word(&row.verdict))
    .bind(&row.reason)
    .bind(i64::from(row.challenges_missed))
    .bind(row.available)
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// What became of a ledger record.
enum Applied {
    /// It changed its connection.
    New,
    /// It was applied before.
    Before,
    /// The connection is another server's.
    Foreign,
}

/// Applies a ledger record: once by its place in the ledger (another record of that place comes
/// from a ledger that was set back, and is new), and only to a connection of the same server. An end
/// or an update without its start makes the row.
async fn connection(
    conn: &mut SqliteConnection,
    server_id: &str,
    row: &ConnectionWrite,
) -> Result<Applied, StoreError> {
    let id = row.id().to_string();
    let at = to_text(row.at_ms);
    let new = sqlx::query(
        "INSERT INTO connection_events
             (server_id, ledger_epoch, seq, connection_id, event, event_time)
         VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (server_id, ledger_epoch, seq) DO UPDATE SET
             connection_id = excluded.connection_id, event = excluded.event,
             event_time = excluded.event_time
         WHERE connection_events.connection_id <> excluded.connection_id
            OR connection_events.event <> excluded.event
            OR connection_events.event_time <> excluded.event_time",
    )
    .bind(server_id)
    .bind(row.ledger_epoch.to_string())
    .bind(counter(row.seq))
    .bind(&id)
    .bind(row.event)
    .bind(&at)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if new.rows_affected() == 0 {
        return Ok(Applied::Before);
    }
    let record = &row.record;
    let end = row.end();
    let done = sqlx::query(
        "INSERT INTO connections
             (connection_id, server_id, connection_start, connection_end, status,
              connection_type, client_ip, disconnection_reason, backend_instance, client_port,
              client_identity_kind, client_identity, virtual_ips, rx_bytes, tx_bytes,
              end_confidence, end_uncertainty_ms, last_event_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (connection_id) DO UPDATE SET
             connection_end = COALESCE(connections.connection_end, excluded.connection_end),
             status = CASE WHEN connections.status = 'ended' THEN 'ended'
                           ELSE excluded.status END,
             client_ip = CASE WHEN excluded.client_ip = '' THEN connections.client_ip
                              ELSE excluded.client_ip END,
             client_port = COALESCE(excluded.client_port, connections.client_port),
             disconnection_reason =
                 COALESCE(connections.disconnection_reason, excluded.disconnection_reason),
             client_identity_kind =
                 COALESCE(connections.client_identity_kind, excluded.client_identity_kind),
             client_identity = COALESCE(connections.client_identity, excluded.client_identity),
             virtual_ips = CASE WHEN excluded.virtual_ips = '[]' THEN connections.virtual_ips
                                ELSE excluded.virtual_ips END,
             rx_bytes = MAX(connections.rx_bytes, excluded.rx_bytes),
             tx_bytes = MAX(connections.tx_bytes, excluded.tx_bytes),
             end_confidence = COALESCE(connections.end_confidence, excluded.end_confidence),
             end_uncertainty_ms =
                 COALESCE(connections.end_uncertainty_ms, excluded.end_uncertainty_ms),
             last_event_at = excluded.last_event_at
         WHERE connections.server_id = excluded.server_id",
    )
    .bind(&id)
    .bind(server_id)
    .bind(to_text(row.started_ms))
    .bind(end.as_ref().map(|_| &at))
    .bind(if end.is_some() { "ended" } else { "active" })
    .bind(&record.backend)
    .bind(
        record
            .client_ip
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
    )
    .bind(end.as_ref().map(|(reason, ..)| *reason))
    .bind(&record.instance)
    .bind(record.client_port.map(i64::from))
    .bind(record.identity.as_ref().map(|identity| &identity.kind))
    .bind(record.identity.as_ref().map(|identity| &identity.value))
    .bind(serde_json::to_string(&record.virtual_ips).expect("texts have a JSON form"))
    .bind(counter(record.rx_bytes))
    .bind(counter(record.tx_bytes))
    .bind(end.as_ref().map(|(_, confidence, _)| confidence))
    .bind(
        end.as_ref()
            .map(|(.., uncertainty_ms)| counter(*uncertainty_ms)),
    )
    .bind(&at)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    Ok(match done.rows_affected() {
        1 => Applied::New,
        _ => Applied::Foreign,
    })
}

pub(super) async fn bad_heartbeat(
    conn: &mut SqliteConnection,
    server_id: String,
    at_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO heartbeats (server_id, received_time, signature_valid) VALUES (?, ?, FALSE)",
    )
    .bind(server_id)
    .bind(to_text(at_ms))
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

pub(super) async fn expire_availability(
    conn: &mut SqliteConnection,
    before_ms: i64,
) -> Result<u64, StoreError> {
    sqlx::query(
        "UPDATE servers SET available = FALSE
         WHERE available = TRUE AND (last_heartbeat IS NULL OR last_heartbeat < ?)",
    )
    .bind(to_text(before_ms))
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
    .map_err(database)
}
