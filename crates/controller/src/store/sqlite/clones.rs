//! Two holders of one identity: the rows that say so, and what an operator's decision changes.

use sqlx::sqlite::{SqliteConnection, SqlitePool};
use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::Digest;

use super::lifecycle::close_directives;
use super::map::{counter, database};
use super::{directives, keys};
use crate::clock::to_text;
use crate::rules::effect::{NewRotation, NewSuspicion};
use crate::rules::state::{Kept, KeyRole, word};
use crate::store::{CloneResolution, StoreError, SuspicionRow};

/// Requests of a server that were refused as ahead and are remembered: a host makes one each time
/// the controller loses its memory, and no other. The furthest are kept: what somebody recorded
/// of the host is behind the host, and must not push out what the host has just made.
const REFUSED_AHEAD: i64 = 16;

/// Stops the server, and says who its holders are.
pub(super) async fn suspect(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: &NewSuspicion,
) -> Result<(), StoreError> {
    let seen = to_text(new.at_ms);
    sqlx::query(
        "UPDATE servers
         SET status = 'quarantined', available = FALSE, status_reason = ?, status_changed_at = ?,
             authorisation = 'lapsed', grace_period_enabled = FALSE, grace_period_expires_at = NULL
         WHERE server_id = ?",
    )
    .bind(new.reason)
    .bind(&seen)
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    let (first, second) = (&new.first, &new.second);
    sqlx::query(
        "INSERT INTO clone_suspicions
             (server_id, seen_at, key_epoch, status_before, likely, reason, first_seq,
              first_seen_at, first_peer_ip, first_boot_id, second_seq, second_digest,
              second_chain, second_nonce, second_peer_ip, second_boot_id)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(server_id)
    .bind(&seen)
    .bind(i64::from(new.epoch))
    .bind(word(&new.status_before))
    .bind(word(&new.likely))
    .bind(new.reason)
    .bind(counter(first.seq))
    .bind(first.seen_ms.map(to_text))
    .bind(&first.peer_ip)
    .bind(first.boot_id.map(|id| id.to_string()))
    .bind(counter(second.seq))
    .bind(second.digest.to_string())
    .bind(second.place.map(|(chain, _)| chain.to_string()))
    .bind(second.place.map(|(_, nonce)| nonce.to_string()))
    .bind(&second.peer_ip)
    .bind(second.boot_id.to_string())
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// The suspicion of a server that is not resolved: there is one at most.
pub(super) async fn unresolved(
    pool: &SqlitePool,
    server_id: &str,
) -> Result<Option<SuspicionRow>, StoreError> {
    sqlx::query_as(
        "SELECT * FROM clone_suspicions WHERE server_id = ? AND status IN ('open', 'resolving')
         ORDER BY suspicion_id DESC LIMIT 1",
    )
    .bind(server_id)
    .fetch_optional(pool)
    .await
    .map_err(database)
}

/// The operator's decision: false when there is nothing to decide any more.
pub(super) async fn resolve(
    conn: &mut SqliteConnection,
    decision: CloneResolution,
) -> Result<bool, StoreError> {
    let (id, server_id) = (decision.suspicion_id, &decision.server_id);
    // The conditional update is what makes two operators one.
    let chosen = sqlx::query(
        "UPDATE clone_suspicions SET status = 'resolving', kept = ?
         WHERE suspicion_id = ? AND server_id = ? AND status = 'open'
           AND EXISTS (SELECT 1 FROM servers s JOIN server_chains c ON c.server_id = s.server_id
                       WHERE s.server_id = clone_suspicions.server_id
                         AND s.status = 'quarantined'
                         AND c.key_epoch = clone_suspicions.key_epoch)",
    )
    .bind(word(&decision.kept))
    .bind(id)
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if chosen.rows_affected() != 1 {
        return Ok(false);
    }
    // Other hardware stays other hardware, whoever is kept.
    sqlx::query(
        "UPDATE servers
         SET status = (SELECT status_before FROM clone_suspicions WHERE suspicion_id = ?),
             status_reason = ?, status_changed_at = ?, available = FALSE, challenges_missed = 0,
             verdict_reason = CASE WHEN verdict = 'mismatch' THEN verdict_reason END,
             verdict = CASE WHEN verdict = 'mismatch' THEN verdict ELSE 'unverified' END
         WHERE server_id = ?",
    )
    .bind(id)
    .bind(format!(
        "the {} of two holders of the identity is kept, and must take a new key",
        word(&decision.kept)
    ))
    .bind(to_text(decision.now_ms))
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    // Whoever polls with a nonce from before may be the other one.
    sqlx::query("UPDATE server_chains SET previous_nonce = NULL WHERE server_id = ?")
        .bind(server_id)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    // Either may have seen what was asked before, and the wish for a new key is the kept one's alone.
    close_directives(conn, server_id, "quarantined", decision.now_ms).await?;
    if decision.kept == Kept::Second {
        take_second(conn, server_id, id, decision.now_ms).await?;
    }
    let rotation = NewRotation {
        id: decision.directive_id,
        issued_ms: decision.now_ms,
        deadline_s: decision.deadline_s,
        delivered: false,
    };
    directives::open_rotation(conn, server_id, rotation).await?;
    Ok(true)
}

/// The chain goes on where the second holder stands; what the first has sent since counts no more.
async fn take_second(
    conn: &mut SqliteConnection,
    server_id: &str,
    suspicion_id: i64,
    now_ms: i64,
) -> Result<(), StoreError> {
    // Where that is not known, the digest stands instead, on which nobody builds and with which
    // nobody polls; the request itself is known by it.
    sqlx::query(
        "UPDATE server_chains
         SET seq = k.second_seq - 1, chain = COALESCE(k.second_chain, k.second_digest),
             nonce = COALESCE(k.second_nonce, k.second_digest), last_digest = NULL, last_reply = NULL
         FROM clone_suspicions k
         WHERE k.suspicion_id = ? AND server_chains.server_id = ?",
    )
    .bind(suspicion_id)
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    sqlx::query("DELETE FROM request_digests WHERE server_id = ?")
        .bind(server_id)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    sqlx::query("UPDATE connection_ledgers SET set_back = TRUE WHERE server_id = ?")
        .bind(server_id)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    // A key that the first holder has prepared is not to come into use; that of the second is.
    if second_has_next_key(conn, server_id, suspicion_id).await? {
        return Ok(());
    }
    keys::retire(conn, server_id, KeyRole::Next, now_ms).await
}

/// Whether the second holder's request was the first of the next key's epoch: then the first holder
/// is who goes on with the old key.
async fn second_has_next_key(
    conn: &mut SqliteConnection,
    server_id: &str,
    suspicion_id: i64,
) -> Result<bool, StoreError> {
    let Some(next) = keys::next_of(conn, server_id).await? else {
        return Ok(false);
    };
    let chain: Option<String> =
        sqlx::query_scalar("SELECT second_chain FROM clone_suspicions WHERE suspicion_id = ?")
            .bind(suspicion_id)
            .fetch_one(conn)
            .await
            .map_err(database)?;
    Ok(chain == Some(chain::start(server_id, next.epoch, &next.key).to_string()))
}

/// The kept holder's new key is in use, or the server was enrolled again, or revoked, which keeps
/// nobody: nothing is left to be decided.
pub(super) async fn resolved(
    conn: &mut SqliteConnection,
    server_id: &str,
    kept: Option<Kept>,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE clone_suspicions SET status = 'resolved', kept = COALESCE(?, kept), resolved_at = ?
         WHERE server_id = ? AND status IN ('open', 'resolving')",
    )
    .bind(kept.map(|kept| word(&kept)))
    .bind(to_text(now_ms))
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if kept.is_none() {
        return Ok(());
    }
    // What the status said of the two holders is over.
    sqlx::query(
        "UPDATE servers SET status_reason = NULL
         WHERE server_id = ? AND status IN ('active', 'pending')",
    )
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// Remembers a request that was refused as ahead.
pub(super) async fn refused_ahead(
    conn: &mut SqliteConnection,
    server_id: &str,
    (epoch, seq): (u32, u64),
    digest: Digest,
) -> Result<(), StoreError> {
    let new = sqlx::query(
        "INSERT OR IGNORE INTO ahead_digests (server_id, digest, key_epoch, seq)
         VALUES (?, ?, ?, ?)",
    )
    .bind(server_id)
    .bind(digest.to_string())
    .bind(i64::from(epoch))
    .bind(counter(seq))
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if new.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM ahead_digests WHERE server_id = ?1 AND refusal_id NOT IN
             (SELECT refusal_id FROM ahead_digests WHERE server_id = ?1
              ORDER BY key_epoch DESC, seq DESC, refusal_id DESC LIMIT ?2)",
    )
    .bind(server_id)
    .bind(REFUSED_AHEAD)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// What was refused as ahead, in hex.
pub(super) async fn all_refused_ahead(
    conn: &mut SqliteConnection,
    server_id: &str,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar("SELECT digest FROM ahead_digests WHERE server_id = ?")
        .bind(server_id)
        .fetch_all(conn)
        .await
        .map_err(database)
}
