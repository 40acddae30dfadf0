//! Registration keys, and the one transaction that spends a token and binds a server.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use vpn_node_protocol::chain;
use vpn_node_protocol::enrolment::{Capability, EnrolRefusal};

use super::hardware;
use super::keys;
use super::map::{counter, database, enum_of, instant_optional, number, parse};
use super::reenrol::rebind;
use crate::clock::to_text;
use crate::rules::challenge::to_json;
use crate::rules::effect::{HardwareWrite, NewKey};
use crate::rules::enrolment::{EnrolEnd, Enrolment, Refused, StoredKey};
use crate::rules::state::{KeyRole, KeyUse, ServerStatus, word};
use crate::store::{NewRegistrationKey, StoreError};

/// The epoch of a new server's identity key.
const FIRST_EPOCH: u32 = 1;

pub(super) async fn create_key(
    conn: &mut SqliteConnection,
    key: NewRegistrationKey,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO registration_keys
             (registration_key, creation_date, expiration_date, used, notes, status,
              for_server_id)
         VALUES (?, ?, ?, FALSE, ?, 'active', ?)",
    )
    .bind(key.registration_key)
    .bind(to_text(key.created_ms))
    .bind(to_text(key.expires_ms))
    .bind(key.notes)
    .bind(key.for_server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

pub(super) async fn find_key(
    pool: &SqlitePool,
    key: &str,
) -> Result<Option<StoredKey>, StoreError> {
    let row = sqlx::query(
        "SELECT status, used_date, expiration_date, for_server_id FROM registration_keys
         WHERE registration_key = ?",
    )
    .bind(key)
    .fetch_optional(pool)
    .await
    .map_err(database)?;
    row.map(|row| {
        let expires = row.get("expiration_date");
        Ok(StoredKey {
            status: row.get("status"),
            used_ms: instant_optional("registration_keys.used_date", row.get("used_date"))?,
            expires_ms: instant_optional("registration_keys.expiration_date", expires)?,
            for_server_id: row.get("for_server_id"),
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
         SET used = TRUE, used_by_server_id = COALESCE(for_server_id, ?), used_date = ?,
             status = 'used'
         WHERE registration_key = ? AND used = FALSE AND status = 'active'
           AND (expiration_date IS NULL OR expiration_date > ?)
           AND (for_server_id IS NULL
                OR EXISTS (SELECT 1 FROM servers s
                           WHERE s.server_id = for_server_id AND s.status <> 'revoked'))
         RETURNING for_server_id",
    )
    .bind(&enrolment.server_id)
    .bind(to_text(enrolment.now_ms))
    .bind(&enrolment.registration_key)
    .bind(to_text(enrolment.now_ms))
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?;
    match spent {
        Some(key) => match key.get::<Option<&str>, _>("for_server_id") {
            Some(server_id) => rebind(conn, &enrolment, server_id).await,
            None => bind_server(conn, &enrolment).await,
        },
        None => why_not(conn, &enrolment).await.map(EnrolEnd::Refused),
    }
}

/// The same identity once more: with the same token it gets the same answer, whatever has
/// become of the token meanwhile.
async fn known_identity(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
) -> Result<Option<EnrolEnd>, StoreError> {
    let row = sqlx::query(
        "SELECT s.server_id, s.status, s.registered_with_key, c.key_epoch, c.nonce,
                k.status AS role
         FROM server_keys k
         JOIN servers s ON s.server_id = k.server_id
         JOIN server_chains c ON c.server_id = k.server_id
         WHERE k.identity_key_id = ?",
    )
    .bind(enrolment.identity.id().to_string())
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?;
    let Some(row) = row else {
        return registration_key_as_identity(conn, enrolment).await;
    };
    let role: KeyRole = enum_of("server_keys.status", row.get("role"))?;
    let status: ServerStatus = enum_of("servers.status", row.get("status"))?;
    let same_token =
        row.get::<Option<&str>, _>("registered_with_key") == Some(&enrolment.registration_key);
    let end = if role == KeyRole::Next {
        EnrolEnd::Refused(Refused::new(
            EnrolRefusal::BadRequest,
            "this identity is the next key of a server that rotates: a host that enrols anew makes a new identity",
        ))
    } else if role == KeyRole::Retired {
        EnrolEnd::Refused(Refused::new(
            EnrolRefusal::BadRequest,
            "this identity was replaced by a newer one: a host that enrols anew makes a new identity",
        ))
    } else if !same_token {
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

/// An identity must not be some token's key: whoever holds that token could speak as the host.
async fn registration_key_as_identity(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
) -> Result<Option<EnrolEnd>, StoreError> {
    // Of no server, as the caller has seen.
    let used = keys::use_of(conn, "", &enrolment.identity).await?;
    Ok((used == KeyUse::Taken).then(|| {
        EnrolEnd::Refused(Refused::new(
            EnrolRefusal::BadRequest,
            "the identity key is a registration key",
        ))
    }))
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
    .bind(keys::public_text(&enrolment.identity))
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
    let key = NewKey {
        key: enrolment.identity,
        epoch: FIRST_EPOCH,
        at_ms: enrolment.now_ms,
    };
    keys::put(conn, &enrolment.server_id, &key, KeyRole::Current).await?;
    put_capabilities(conn, &enrolment.server_id, &request.capabilities).await?;
    first_hardware(conn, &enrolment.server_id, enrolment).await?;
    Ok(EnrolEnd::Enrolled {
        server_id: enrolment.server_id.clone(),
        epoch: FIRST_EPOCH,
        nonce: enrolment.nonce,
        status: enrolment.status,
    })
}

/// What the host can do, instead of what was stored.
pub(super) async fn put_capabilities(
    conn: &mut SqliteConnection,
    server_id: &str,
    capabilities: &[Capability],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM server_capabilities WHERE server_id = ?")
        .bind(server_id)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    for capability in capabilities {
        sqlx::query(
            "INSERT INTO server_capabilities (server_id, capability_type, capability_details)
             VALUES (?, ?, ?)
             ON CONFLICT (server_id, capability_type, instance) DO UPDATE SET
                 capability_details = excluded.capability_details",
        )
        .bind(server_id)
        .bind(&capability.kind)
        .bind(capability.details.to_string())
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    }
    Ok(())
}

/// The fingerprint of an enrolment in the hardware log.
pub(super) async fn first_hardware(
    conn: &mut SqliteConnection,
    server_id: &str,
    enrolment: &Enrolment,
) -> Result<(), StoreError> {
    let row = HardwareWrite {
        log_id: enrolment.log_id,
        hardware_id: enrolment.request.verification_hash,
        raw_components: Some(to_json(&enrolment.components)),
        result: "success",
        error_details: None,
        client_ip: Some(enrolment.peer_ip.clone()),
        os_version: Some(enrolment.request.os_version.clone()),
        at_ms: enrolment.now_ms,
        // Enrolled is not yet verified.
        status: None,
    };
    hardware::log_row(conn, server_id, &row).await
}

/// Nothing was spent: says why.
async fn why_not(
    conn: &mut SqliteConnection,
    enrolment: &Enrolment,
) -> Result<Refused, StoreError> {
    let row: Option<(bool, String, Option<String>, bool)> = sqlx::query_as(
        "SELECT k.used, k.status, k.used_by_server_id, COALESCE(s.status = 'revoked', FALSE)
         FROM registration_keys k LEFT JOIN servers s ON s.server_id = k.for_server_id
         WHERE k.registration_key = ?",
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
        Some((true, _, server, _)) => Refused::new(
            EnrolRefusal::TokenUsed,
            format!(
                "this token has enrolled server {}: every host needs its own",
                server.as_deref().unwrap_or("(unknown)")
            ),
        ),
        Some((.., true)) => Refused::new(
            EnrolRefusal::TokenRevoked,
            "the server that this token is for was revoked, for ever: enrol the host as a new server with a new token",
        ),
        Some((false, status, ..)) if status == "revoked" => Refused::new(
            EnrolRefusal::TokenRevoked,
            "an operator took this token back",
        ),
        Some(_) => Refused::new(
            EnrolRefusal::TokenExpired,
            "this token's time is over: create a new one",
        ),
    })
}
