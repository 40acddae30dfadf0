//! A token for a server that exists gives it a new identity: everything that hung on the old one
//! ends or begins anew in the transaction that spends the token. Connections and the marks of the
//! ledger stay, because the server stays.

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use vpn_node_protocol::chain;
use vpn_node_protocol::hardware::Components;

use super::clones;
use super::enrol::{first_hardware, put_capabilities};
use super::events;
use super::keys;
use super::lifecycle::close_directives;
use super::map::{counter, database, enum_of, number};
use crate::clock::to_text;
use crate::rules::challenge::to_json;
use crate::rules::effect::NewKey;
use crate::rules::enrolment::{EnrolEnd, Enrolment};
use crate::rules::lifecycle::{reenrolled, status_reenrolled};
use crate::rules::state::{Kept, KeyRole, ServerStatus, word};
use crate::store::StoreError;

/// Gives `server_id` the identity of the enrolment.
pub(super) async fn rebind(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
    server_id: &str,
) -> Result<EnrolEnd, StoreError> {
    // One above every epoch the server ever had, that of an unused next key included.
    let row = sqlx::query(
        "SELECT status, raw_hardware_components,
                (SELECT MAX(key_epoch) FROM server_keys WHERE server_id = s.server_id) AS last
         FROM servers s WHERE server_id = ?",
    )
    .bind(server_id)
    .fetch_one(&mut *conn)
    .await
    .map_err(database)?;
    let before: ServerStatus = enum_of("servers.status", row.get("status"))?;
    let status = status_reenrolled(before).ok_or(StoreError::Conflict)?;
    let enrolled: Option<Components> = row
        .get::<Option<&str>, _>("raw_hardware_components")
        .and_then(|json| serde_json::from_str(json).ok());
    let last: u32 = number("server_keys.key_epoch", row.get("last"))?;
    let new = NewKey {
        key: enrolment.identity,
        epoch: last
            .checked_add(1)
            .ok_or(StoreError::Impossible("server_keys.key_epoch"))?,
        at_ms: enrolment.now_ms,
    };
    keys::retire(conn, server_id, KeyRole::Next, new.at_ms).await?;
    keys::set_current(conn, server_id, &new).await?;
    restart_chain(conn, enrolment, server_id, new.epoch).await?;
    close_directives(conn, server_id, "reenrolled", new.at_ms).await?;
    clones::resolved(conn, server_id, Some(Kept::Reenrolled), new.at_ms).await?;
    rewrite_server(conn, enrolment, server_id, before, status).await?;
    put_capabilities(conn, server_id, &enrolment.request.capabilities).await?;
    first_hardware(conn, server_id, enrolment).await?;
    let new_event = reenrolled(
        server_id,
        &new.key.id(),
        new.epoch,
        enrolled.as_ref(),
        &enrolment.components,
        &enrolment.peer_ip,
        new.at_ms,
    );
    events::record(conn, &new_event).await?;
    Ok(EnrolEnd::Enrolled {
        server_id: server_id.to_owned(),
        epoch: new.epoch,
        nonce: enrolment.nonce,
        status,
    })
}

async fn restart_chain(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
    server_id: &str,
    epoch: u32,
) -> Result<(), StoreError> {
    let start = chain::start(server_id, epoch, &enrolment.identity);
    sqlx::query(
        "UPDATE server_chains
         SET key_epoch = ?, seq = 0, chain = ?, nonce = ?, previous_nonce = NULL,
             last_digest = NULL, last_reply = NULL, boot_id = NULL,
             booted = NULL, made_at = NULL, peer_ip = ?
         WHERE server_id = ?",
    )
    .bind(counter(epoch.into()))
    .bind(start.to_string())
    .bind(enrolment.nonce.to_string())
    .bind(&enrolment.peer_ip)
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    for old in [
        "DELETE FROM request_digests WHERE server_id = ?",
        "DELETE FROM ahead_digests WHERE server_id = ?",
    ] {
        sqlx::query(old)
            .bind(server_id)
            .execute(&mut *conn)
            .await
            .map_err(database)?;
    }
    Ok(())
}

async fn rewrite_server(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
    server_id: &str,
    before: ServerStatus,
    status: ServerStatus,
) -> Result<(), StoreError> {
    let request = &enrolment.request;
    sqlx::query(
        "UPDATE servers
         SET hostname = ?, public_ip = ?, version = ?, location = ?, status = ?,
             available = FALSE, registered_with_key = ?, verification_hash = ?,
             idempotency_id = ?, os_version = ?, raw_hardware_components = ?,
             verdict = 'unverified', verdict_reason = NULL, challenges_missed = 0,
             authorisation = 'unverified', hardware_verification_status = 'pending',
             rehost_permitted_until = NULL, grace_period_enabled = FALSE,
             grace_period_expires_at = NULL
         WHERE server_id = ?",
    )
    .bind(&request.hostname)
    .bind(&enrolment.peer_ip)
    .bind(&request.version)
    .bind(&request.location)
    .bind(word(&status))
    .bind(&enrolment.registration_key)
    .bind(request.verification_hash.to_string())
    .bind(request.idempotency_id.to_string())
    .bind(&request.os_version)
    .bind(to_json(&enrolment.components))
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if status == before {
        return Ok(());
    }
    sqlx::query(
        "UPDATE servers SET status_reason = 'enrolled again', status_changed_at = ?
         WHERE server_id = ?",
    )
    .bind(to_text(enrolment.now_ms))
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}
