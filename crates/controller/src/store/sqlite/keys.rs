//! The identity keys of servers: who a key belongs to, and how it comes into force and is retired.
//!
//! `server_keys` holds every key that a server ever had; `servers.identity_key_id` and
//! `servers.public_key` repeat the current one.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use vpn_node_protocol::encoding::{Digest, Hex};
use vpn_node_protocol::keys::PublicKey;

use super::events;
use super::map::{counter, database, enum_of, number, parse, parse_optional};
use crate::clock::to_text;
use crate::rules::effect::NewKey;
use crate::rules::introduction::Introduced;
use crate::rules::state::{KeyRole, KeyUse, ServerKey, ServerStatus, word};
use crate::store::{KnownServer, StoreError};

/// A key with its server, whatever its role.
pub(super) async fn find_server(
    pool: &SqlitePool,
    key_id: Digest,
) -> Result<Option<KnownServer>, StoreError> {
    find(pool, Some(key_id), None).await
}

/// A server with its current key.
pub(super) async fn find_current(
    pool: &SqlitePool,
    server_id: &str,
) -> Result<Option<KnownServer>, StoreError> {
    find(pool, None, Some(server_id)).await
}

/// By the id of a key, or, without one, the current key of a server.
async fn find(
    pool: &SqlitePool,
    key_id: Option<Digest>,
    server_id: Option<&str>,
) -> Result<Option<KnownServer>, StoreError> {
    sqlx::query(
        "SELECT k.server_id, k.public_key, k.key_epoch, k.status AS role, s.status, c.nonce,
                c.previous_nonce
         FROM server_keys k
         JOIN servers s ON s.server_id = k.server_id
         JOIN server_chains c ON c.server_id = k.server_id
         WHERE k.identity_key_id = COALESCE(?, (SELECT identity_key_id FROM server_keys
                                                WHERE server_id = ? AND status = 'current'))",
    )
    .bind(key_id.map(|id| id.to_string()))
    .bind(server_id)
    .fetch_optional(pool)
    .await
    .map_err(database)?
    .as_ref()
    .map(known)
    .transpose()
}

fn known(row: &SqliteRow) -> Result<KnownServer, StoreError> {
    let key = server_key(row)?;
    Ok(KnownServer {
        server_id: row.get("server_id"),
        identity: key.key,
        epoch: key.epoch,
        role: key.role,
        status: enum_of("servers.status", row.get("status"))?,
        nonce: parse("server_chains.nonce", row.get("nonce"))?,
        previous_nonce: parse_optional("server_chains.previous_nonce", row.get("previous_nonce"))?,
    })
}

fn server_key(row: &SqliteRow) -> Result<ServerKey, StoreError> {
    let public: Hex<32> = parse("server_keys.public_key", row.get("public_key"))?;
    Ok(ServerKey {
        key: PublicKey::from_bytes(&public.0)
            .ok_or(StoreError::Impossible("server_keys.public_key"))?,
        epoch: number("server_keys.key_epoch", row.get("key_epoch"))?,
        role: enum_of("server_keys.status", row.get("role"))?,
    })
}

/// One key of one server, inside the transaction that judges its request.
pub(super) async fn of_server(
    conn: &mut SqliteConnection,
    server_id: &str,
    key_id: &Digest,
) -> Result<Option<ServerKey>, StoreError> {
    sqlx::query(
        "SELECT public_key, key_epoch, status AS role FROM server_keys
         WHERE identity_key_id = ? AND server_id = ?",
    )
    .bind(key_id.to_string())
    .bind(server_id)
    .fetch_optional(conn)
    .await
    .map_err(database)?
    .as_ref()
    .map(server_key)
    .transpose()
}

/// The key that a rotation has prepared, if there is one.
pub(super) async fn next_of(
    conn: &mut SqliteConnection,
    server_id: &str,
) -> Result<Option<ServerKey>, StoreError> {
    sqlx::query(
        "SELECT public_key, key_epoch, status AS role FROM server_keys
         WHERE server_id = ? AND status = 'next'",
    )
    .bind(server_id)
    .fetch_optional(conn)
    .await
    .map_err(database)?
    .as_ref()
    .map(server_key)
    .transpose()
}

/// Whether a server may take this key as its next one.
pub(super) async fn use_of(
    conn: &mut SqliteConnection,
    server_id: &str,
    key: &PublicKey,
) -> Result<KeyUse, StoreError> {
    let owner: Option<(String, String)> =
        sqlx::query_as("SELECT server_id, status FROM server_keys WHERE identity_key_id = ?")
            .bind(key.id().to_string())
            .fetch_optional(&mut *conn)
            .await
            .map_err(database)?;
    if let Some((owner, role)) = owner {
        let own_next = owner == server_id && role == word(&KeyRole::Next);
        return Ok(if own_next {
            KeyUse::OwnNext
        } else {
            KeyUse::Taken
        });
    }
    let registration: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM registration_keys WHERE registration_key = ?")
            .bind(public_text(key))
            .fetch_optional(conn)
            .await
            .map_err(database)?;
    Ok(match registration {
        Some(_) => KeyUse::Taken,
        None => KeyUse::Free,
    })
}

/// The public key as the database has it.
pub(super) fn public_text(key: &PublicKey) -> String {
    Hex(*key.as_bytes()).to_string()
}

/// Adds a key, or moves a `next` key of the same server on; a key of anybody else fails the
/// transaction.
pub(super) async fn put(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: &NewKey,
    role: KeyRole,
) -> Result<(), StoreError> {
    let since = to_text(new.at_ms);
    let done = sqlx::query(
        "INSERT INTO server_keys
             (identity_key_id, server_id, key_epoch, public_key, status, since, retired_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT (identity_key_id) DO UPDATE SET
             key_epoch = excluded.key_epoch, status = excluded.status, since = excluded.since,
             retired_at = excluded.retired_at
         WHERE server_keys.server_id = excluded.server_id AND server_keys.status = 'next'",
    )
    .bind(new.key.id().to_string())
    .bind(server_id)
    .bind(counter(new.epoch.into()))
    .bind(public_text(&new.key))
    .bind(word(&role))
    .bind(&since)
    .bind((role == KeyRole::Retired).then_some(&since))
    .execute(conn)
    .await
    .map_err(database)?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::Conflict),
    }
}

/// Retires what the server has of a role.
pub(super) async fn retire(
    conn: &mut SqliteConnection,
    server_id: &str,
    role: KeyRole,
    at_ms: i64,
) -> Result<(), StoreError> {
    retire_but(conn, server_id, role, None, at_ms).await
}

/// As [`retire`], except for one key.
async fn retire_but(
    conn: &mut SqliteConnection,
    server_id: &str,
    role: KeyRole,
    except: Option<&PublicKey>,
    at_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE server_keys SET status = 'retired', retired_at = ?
         WHERE server_id = ? AND status = ? AND identity_key_id IS NOT ?",
    )
    .bind(to_text(at_ms))
    .bind(server_id)
    .bind(word(&role))
    .bind(except.map(|key| key.id().to_string()))
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// The server's only next key. The same one once more keeps its row.
pub(super) async fn set_next(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: &NewKey,
) -> Result<(), StoreError> {
    retire_but(conn, server_id, KeyRole::Next, Some(&new.key), new.at_ms).await?;
    put(conn, server_id, new, KeyRole::Next).await
}

/// The next key comes into force: the one before is retired, and wishes for a new key are fulfilled.
pub(super) async fn set_current(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: &NewKey,
) -> Result<(), StoreError> {
    retire(conn, server_id, KeyRole::Current, new.at_ms).await?;
    put(conn, server_id, new, KeyRole::Current).await?;
    sqlx::query("UPDATE servers SET public_key = ?, identity_key_id = ? WHERE server_id = ?")
        .bind(public_text(&new.key))
        .bind(new.key.id().to_string())
        .bind(server_id)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    sqlx::query(
        "UPDATE directives SET status = 'answered', closed_at = ?
         WHERE server_id = ? AND kind = 'rotate' AND status IN ('pending', 'applied')",
    )
    .bind(to_text(new.at_ms))
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// Stores what an introduction proves, if everything still is as it was when that was judged.
pub(super) async fn introduce(
    conn: &mut SqliteConnection,
    introduced: Introduced,
) -> Result<bool, StoreError> {
    let server_id = introduced.server_id.as_str();
    let status: Option<String> = sqlx::query_scalar(
        "SELECT s.status FROM servers s JOIN server_keys k ON k.server_id = s.server_id
         WHERE s.server_id = ? AND k.identity_key_id = ? AND k.status = 'current'",
    )
    .bind(server_id)
    .bind(introduced.current.id().to_string())
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?;
    let status = status.map(|status| enum_of("servers.status", &status));
    if !matches!(
        status.transpose()?,
        Some(ServerStatus::Pending | ServerStatus::Active)
    ) {
        return Ok(false);
    }
    for (key, _) in introduced.between.iter().chain([&introduced.newest]) {
        if use_of(conn, server_id, key).await? == KeyUse::Taken {
            return Ok(false);
        }
    }
    let at_ms = introduced.event.at_ms;
    let new = |&(key, epoch): &_| NewKey { key, epoch, at_ms };
    for link in &introduced.between {
        put(conn, server_id, &new(link), KeyRole::Retired).await?;
    }
    set_next(conn, server_id, &new(&introduced.newest)).await?;
    events::record(conn, &introduced.event).await?;
    Ok(true)
}
