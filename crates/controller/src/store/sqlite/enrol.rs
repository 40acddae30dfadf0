//! Registration keys, the one transaction that spends a token and binds a server, and the
//! operator's approval of it.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::EnrolRefusal;

use super::hardware;
use super::map::{counter, database, enum_of, instant_optional, number, parse};
use crate::clock::to_text;
use crate::rules::challenge::to_json;
use crate::rules::effect::HardwareWrite;
use crate::rules::enrolment::{EnrolEnd, Enrolment, Refused, StoredKey};
use crate::rules::state::{ServerStatus, word};
use crate::store::{NewRegistrationKey, StoreError};

/// The epoch of a new server's identity key.
const FIRST_EPOCH: u32 = 1;

pub(super) async fn create_key(
    conn: &mut SqliteConnection,
    key: NewRegistrationKey,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO registration_keys
             (registration_key, creation_date, expiration_date, used, notes, status)
         VALUES (?, ?, ?, FALSE, ?, 'active')",
    )
    .bind(key.registration_key)
    .bind(to_text(key.created_ms))
    .bind(to_text(key.expires_ms))
    .bind(key.notes)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

pub(super) async fn find_key(
    pool: &SqlitePool,
    key: &str,
) -> Result<Option<StoredKey>, StoreError> {
    let row: Option<(String, Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT status, used_date, expiration_date FROM registration_keys
         WHERE registration_key = ?",
    )
    .bind(key)
    .fetch_optional(pool)
    .await
    .map_err(database)?;
    row.map(|(status, used, expires)| {
        Ok(StoredKey {
            status,
            used_ms: instant_optional("registration_keys.used_date", used.as_deref())?,
            expires_ms: instant_optional("registration_keys.expiration_date", expires.as_deref())?,
        })
    })
    .transpose()
}

pub(super) async fn revoke_key(
    conn: &mut SqliteConnection,
    key: String,
) -> Result<bool, StoreError> {
    sqlx::query(
        "UPDATE registration_keys SET status = 'revoked'
         WHERE registration_key = ? AND used = FALSE AND status = 'active'",
    )
    .bind(key)
    .execute(conn)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(database)
}

pub(super) async fn enrol(
    conn: &mut SqliteConnection,
    enrolment: Enrolment,
) -> Result<EnrolEnd, StoreError> {
    if let Some(end) = known_identity(conn, &enrolment).await? {
        return Ok(end);
    }
    // The token is spent by this one conditional update; who comes second changes no row.
    let spent = sqlx::query(
        "UPDATE registration_keys
         SET used = TRUE, used_by_server_id = ?, used_date = ?, status = 'used'
         WHERE registration_key = ? AND used = FALSE AND status = 'active'
           AND (expiration_date IS NULL OR expiration_date > ?)",
    )
    .bind(&enrolment.server_id)
    .bind(to_text(enrolment.now_ms))
    .bind(&enrolment.registration_key)
    .bind(to_text(enrolment.now_ms))
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if spent.rows_affected() == 1 {
        return bind_server(conn, &enrolment).await;
    }
    why_not(conn, &enrolment).await.map(EnrolEnd::Refused)
}

/// The same identity once more: with the same token it gets the same answer, whatever has
/// become of the token meanwhile.
async fn known_identity(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
) -> Result<Option<EnrolEnd>, StoreError> {
    let row = sqlx::query(
        "SELECT s.server_id, s.status, s.registered_with_key, c.key_epoch, c.nonce
         FROM servers s JOIN server_chains c ON c.server_id = s.server_id
         WHERE s.identity_key_id = ?",
    )
    .bind(enrolment.identity.id().to_string())
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let status: ServerStatus = enum_of("servers.status", row.get("status"))?;
    let same_token =
        row.get::<Option<&str>, _>("registered_with_key") == Some(&enrolment.registration_key);
    let end = if !same_token {
        EnrolEnd::Refused(Refused::new(
            EnrolRefusal::BadRequest,
            "this identity was enrolled with another token: a host that enrols anew makes a new identity",
        ))
    } else if matches!(status, ServerStatus::Revoked | ServerStatus::Quarantined) {
        EnrolEnd::Refused(Refused::new(
            EnrolRefusal::TokenRevoked,
            format!(
                "the server that this token enrolled is {}; create a new token",
                word(&status)
            ),
        ))
    } else {
        EnrolEnd::Enrolled {
            server_id: row.get("server_id"),
            epoch: number("server_chains.key_epoch", row.get("key_epoch"))?,
            nonce: parse("server_chains.nonce", row.get("nonce"))?,
            status,
        }
    };
    Ok(Some(end))
}

async fn bind_server(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
) -> Result<EnrolEnd, StoreError> {
    let (request, now) = (&enrolment.request, to_text(enrolment.now_ms));
    sqlx::query(
        "INSERT INTO servers
             (server_id, hostname, public_ip, public_key, version, location, registration_date,
              status, available, registered_with_key, verification_hash, identity_key_id,
              idempotency_id, os_version, raw_hardware_components)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, FALSE, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&enrolment.server_id)
    .bind(&request.hostname)
    .bind(&enrolment.peer_ip)
    .bind(Hex(*enrolment.identity.as_bytes()).to_string())
    .bind(&request.version)
    .bind(&request.location)
    .bind(&now)
    .bind(word(&enrolment.status))
    .bind(&enrolment.registration_key)
    .bind(request.verification_hash.to_string())
    .bind(enrolment.identity.id().to_string())
    .bind(request.idempotency_id.to_string())
    .bind(&request.os_version)
    .bind(to_json(&enrolment.components))
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    let start = chain::start(&enrolment.server_id, FIRST_EPOCH, &enrolment.identity);
    sqlx::query(
        "INSERT INTO server_chains (server_id, key_epoch, seq, chain, nonce, peer_ip)
         VALUES (?, ?, 0, ?, ?, ?)",
    )
    .bind(&enrolment.server_id)
    .bind(counter(FIRST_EPOCH.into()))
    .bind(start.to_string())
    .bind(enrolment.nonce.to_string())
    .bind(&enrolment.peer_ip)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    for capability in &request.capabilities {
        sqlx::query(
            "INSERT INTO server_capabilities (server_id, capability_type, capability_details)
             VALUES (?, ?, ?)",
        )
        .bind(&enrolment.server_id)
        .bind(&capability.kind)
        .bind(capability.details.to_string())
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    }
    let row = HardwareWrite {
        log_id: enrolment.log_id,
        hardware_id: request.verification_hash,
        raw_components: Some(to_json(&enrolment.components)),
        result: "success",
        error_details: None,
        client_ip: Some(enrolment.peer_ip.clone()),
        os_version: Some(request.os_version.clone()),
        at_ms: enrolment.now_ms,
        // Enrolled is not yet verified.
        status: None,
    };
    hardware::log_row(conn, &enrolment.server_id, &row).await?;
    Ok(EnrolEnd::Enrolled {
        server_id: enrolment.server_id.clone(),
        epoch: FIRST_EPOCH,
        nonce: enrolment.nonce,
        status: enrolment.status,
    })
}

pub(super) async fn approve(
    conn: &mut SqliteConnection,
    server_id: String,
) -> Result<bool, StoreError> {
    sqlx::query("UPDATE servers SET status = ? WHERE server_id = ? AND status = ?")
        .bind(word(&ServerStatus::Active))
        .bind(server_id)
        .bind(word(&ServerStatus::Pending))
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(database)
}

/// Nothing was spent: says why.
async fn why_not(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
) -> Result<Refused, StoreError> {
    let row: Option<(bool, String, Option<String>)> = sqlx::query_as(
        "SELECT used, status, used_by_server_id FROM registration_keys WHERE registration_key = ?",
    )
    .bind(&enrolment.registration_key)
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?;
    Ok(match row {
        None => Refused::new(
            EnrolRefusal::TokenUnknown,
            "this controller never made this token",
        ),
        Some((true, _, server)) => Refused::new(
            EnrolRefusal::TokenUsed,
            format!(
                "this token has enrolled server {}: every host needs its own",
                server.as_deref().unwrap_or("(unknown)")
            ),
        ),
        Some((false, status, _)) if status == "revoked" => Refused::new(
            EnrolRefusal::TokenRevoked,
            "an operator took this token back",
        ),
        Some(_) => Refused::new(
            EnrolRefusal::TokenExpired,
            "this token's time is over: create a new one",
        ),
    })
}
