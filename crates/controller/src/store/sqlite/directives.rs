//! Directives and the verifications that challenges lead to.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use uuid::Uuid;
use vpn_node_protocol::limits::MAX_DIRECTIVES;

use super::map::{database, enum_of, instant, instant_optional, number, parse};
use crate::clock::to_text;
use crate::rules::devices::DISCONNECT_DEADLINE_S;
use crate::rules::effect::{NewChallenge, NewDisconnect, NewRotation, VerificationEnd};
use crate::rules::state::{OpenDirective, Want, word};
use crate::store::{StoreError, VerificationRow};

/// `server_verifications.verification_method` of the only method there is.
const METHOD: &str = "challenge-response+hardware";
/// Open directives that one request looks at; more cannot be handed out in one reply anyway.
const MAX_OPEN: i64 = 4 * MAX_DIRECTIVES as i64;

/// A new challenge, unless one is open.
pub(super) async fn queue(
    conn: &mut SqliteConnection,
    server_id: String,
    challenge: NewChallenge,
) -> Result<Uuid, StoreError> {
    let open_now = open_of(conn, &server_id).await?;
    if let Some(other) = open_now
        .iter()
        .find(|d| d.is_challenge() && !d.is_over(challenge.issued_ms))
    {
        return Ok(other.id);
    }
    open(conn, &server_id, &challenge).await?;
    Ok(challenge.id)
}

/// A new challenge: its directive and its verification. A server that is stopped gets none:
/// nothing would close it.
pub(super) async fn open(
    conn: &mut SqliteConnection,
    server_id: &str,
    challenge: &NewChallenge,
) -> Result<(), StoreError> {
    let (id, value) = (challenge.id.to_string(), challenge.value.to_string());
    let issued = to_text(challenge.issued_ms);
    let done = sqlx::query(
        "INSERT INTO directives
             (directive_id, server_id, key_epoch, kind, challenge_value, purpose, issued_at,
              deadline_s, expires_at, delivered_at)
         SELECT ?, server_id, c.key_epoch, 'challenge', ?, ?, ?, ?, ?, ? FROM server_chains c
         JOIN servers s USING (server_id)
         WHERE server_id = ? AND s.status IN ('active', 'pending')",
    )
    .bind(&id)
    .bind(&value)
    .bind(challenge.purpose.as_str())
    .bind(&issued)
    .bind(i64::from(challenge.deadline_s))
    .bind(expires(challenge.issued_ms, challenge.deadline_s))
    .bind(challenge.delivered.then_some(&issued))
    .bind(server_id)
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Conflict);
    }
    sqlx::query(
        "INSERT INTO server_verifications
             (server_id, verification_time, challenge_sent, verification_method, challenge_id,
              purpose)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(server_id)
    .bind(&issued)
    .bind(&value)
    .bind(METHOD)
    .bind(&id)
    .bind(challenge.purpose.as_str())
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// A new directive `rotate`, unless one is open; none for a server that may not speak.
pub(super) async fn queue_rotation(
    conn: &mut SqliteConnection,
    server_id: &str,
    rotation: NewRotation,
) -> Result<Option<Uuid>, StoreError> {
    let open_now = open_of(conn, server_id).await?;
    if let Some(other) = open_now
        .iter()
        .find(|d| d.want == Want::Rotate && !d.applied && !d.is_over(rotation.issued_ms))
    {
        return Ok(Some(other.id));
    }
    let made = insert_rotation(conn, server_id, rotation).await?;
    Ok(made.then_some(rotation.id))
}

/// A new directive `rotate` for a server whose status was judged in this transaction.
pub(super) async fn open_rotation(
    conn: &mut SqliteConnection,
    server_id: &str,
    rotation: NewRotation,
) -> Result<(), StoreError> {
    match insert_rotation(conn, server_id, rotation).await? {
        true => Ok(()),
        false => Err(StoreError::Conflict),
    }
}

/// False when the server is neither active nor pending.
async fn insert_rotation(
    conn: &mut SqliteConnection,
    server_id: &str,
    rotation: NewRotation,
) -> Result<bool, StoreError> {
    let issued = to_text(rotation.issued_ms);
    sqlx::query(
        "INSERT INTO directives
             (directive_id, server_id, key_epoch, kind, issued_at, deadline_s, expires_at,
              delivered_at)
         SELECT ?, server_id, c.key_epoch, 'rotate', ?, ?, ?, ? FROM server_chains c
         JOIN servers s USING (server_id)
         WHERE server_id = ? AND s.status IN ('active', 'pending')",
    )
    .bind(rotation.id.to_string())
    .bind(&issued)
    .bind(i64::from(rotation.deadline_s))
    .bind(expires(rotation.issued_ms, rotation.deadline_s))
    .bind(rotation.delivered.then_some(&issued))
    .bind(server_id)
    .execute(conn)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(database)
}

/// When the newest directive `rotate` of a server was made.
pub(super) async fn last_rotation(
    conn: &mut SqliteConnection,
    server_id: &str,
) -> Result<Option<i64>, StoreError> {
    let issued: Option<String> = sqlx::query_scalar(
        "SELECT MAX(issued_at) FROM directives WHERE server_id = ? AND kind = 'rotate'",
    )
    .bind(server_id)
    .fetch_one(conn)
    .await
    .map_err(database)?;
    instant_optional("directives.issued_at", issued.as_deref())
}

/// A directive `disconnect`; none for a server that may not speak.
pub(super) async fn insert_disconnect(
    conn: &mut SqliteConnection,
    server_id: &str,
    new: &NewDisconnect,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "INSERT INTO directives
             (directive_id, server_id, key_epoch, kind, connection_ids, disconnect_reason,
              issued_at, deadline_s, expires_at)
         SELECT ?, server_id, c.key_epoch, 'disconnect', ?, ?, ?, ?, ? FROM server_chains c
         JOIN servers s USING (server_id)
         WHERE server_id = ? AND s.status IN ('active', 'pending')",
    )
    .bind(new.id.to_string())
    .bind(serde_json::to_string(&new.connection_ids).expect("ids have a JSON form"))
    .bind(word(&new.reason))
    .bind(to_text(new.issued_ms))
    .bind(i64::from(DISCONNECT_DEADLINE_S))
    .bind(expires(new.issued_ms, DISCONNECT_DEADLINE_S))
    .bind(server_id)
    .execute(conn)
    .await
    .map_err(database)?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::Conflict),
    }
}

/// What may still be handed out or answered, oldest first; connections that are to be ended come
/// last, because there may be many, and a challenge must not be lost among them.
pub(super) async fn open_of(
    conn: &mut SqliteConnection,
    server_id: &str,
) -> Result<Vec<OpenDirective>, StoreError> {
    sqlx::query(
        "SELECT * FROM directives WHERE server_id = ?
           AND (status = 'pending' OR (status = 'applied' AND kind IN ('challenge', 'rotate')))
         ORDER BY kind = 'disconnect', issued_at LIMIT ?",
    )
    .bind(server_id)
    .bind(MAX_OPEN)
    .fetch_all(conn)
    .await
    .map_err(database)?
    .iter()
    .map(directive)
    .collect()
}

/// Servers for which something waits that was never handed out and may still be, and those that
/// were stopped since `since_ms`, by whatever process: only what an index holds for just these is
/// read, however many dead directives and revoked servers there are.
pub(super) async fn waiting(
    pool: &SqlitePool,
    now_ms: i64,
    since_ms: i64,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "SELECT server_id FROM directives
         WHERE status = 'pending' AND delivered_at IS NULL AND expires_at >= ?
         UNION
         SELECT server_id FROM servers
         WHERE status IN ('quarantined', 'revoked') AND status_changed_at >= ?",
    )
    .bind(to_text(now_ms))
    .bind(to_text(since_ms))
    .fetch_all(pool)
    .await
    .map_err(database)
}

pub(super) async fn take(
    conn: &mut SqliteConnection,
    server_id: String,
    now_ms: i64,
) -> Result<Vec<OpenDirective>, StoreError> {
    let taken = undelivered(conn, &server_id, now_ms).await?;
    delivered(conn, taken.iter().map(|d| d.id), now_ms).await?;
    Ok(taken)
}

/// The first that were never handed out and still may be: what [`waiting`] wakes for.
async fn undelivered(
    conn: &mut SqliteConnection,
    server_id: &str,
    now_ms: i64,
) -> Result<Vec<OpenDirective>, StoreError> {
    sqlx::query(
        "SELECT * FROM directives
         WHERE server_id = ? AND status = 'pending' AND delivered_at IS NULL AND expires_at >= ?
         ORDER BY kind = 'disconnect', issued_at LIMIT ?",
    )
    .bind(server_id)
    .bind(to_text(now_ms))
    .bind(MAX_DIRECTIVES as i64)
    .fetch_all(conn)
    .await
    .map_err(database)?
    .iter()
    .map(directive)
    .collect()
}

pub(super) async fn delivered(
    conn: &mut SqliteConnection,
    ids: impl Iterator<Item = Uuid>,
    now_ms: i64,
) -> Result<(), StoreError> {
    for id in ids {
        sqlx::query(
            "UPDATE directives SET delivered_at = ? WHERE directive_id = ? AND delivered_at IS NULL",
        )
        .bind(to_text(now_ms))
        .bind(id.to_string())
        .execute(&mut *conn)
        .await
        .map_err(database)?;
    }
    Ok(())
}

/// Moves a directive of this server on; one that is closed stays as it is.
pub(super) async fn set_status(
    conn: &mut SqliteConnection,
    server_id: &str,
    id: Uuid,
    status: &'static str,
    detail: Option<String>,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE directives SET status = ?, outcome_detail = ?, closed_at = ?
         WHERE directive_id = ? AND server_id = ? AND status IN ('pending', 'applied')",
    )
    .bind(status)
    .bind(detail)
    .bind(to_text(now_ms))
    .bind(id.to_string())
    .bind(server_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// Ends a challenge: the first end stands, a second one fails the whole transaction.
pub(super) async fn close(
    conn: &mut SqliteConnection,
    server_id: &str,
    end: &VerificationEnd,
) -> Result<(), StoreError> {
    let done = sqlx::query(
        "UPDATE server_verifications
         SET verification_time = ?, response_received = ?, verification_result = ?,
             failure_reason = ?, detail = ?
         WHERE challenge_id = ? AND server_id = ? AND verification_result IS NULL",
    )
    .bind(to_text(end.at_ms))
    .bind(end.response.map(|digest| digest.to_string()))
    .bind(end.result)
    .bind(end.failure)
    .bind(&end.detail)
    .bind(end.challenge_id.to_string())
    .bind(server_id)
    .execute(conn)
    .await
    .map_err(database)?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::Conflict),
    }
}

/// An answer to no open challenge.
pub(super) async fn stray(
    conn: &mut SqliteConnection,
    server_id: &str,
    challenge: &str,
    purpose: &str,
    end: &VerificationEnd,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO server_verifications
             (server_id, verification_time, challenge_sent, response_received,
              verification_result, verification_method, failure_reason, challenge_id, purpose)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(server_id)
    .bind(to_text(end.at_ms))
    .bind(challenge)
    .bind(end.response.map(|digest| digest.to_string()))
    .bind(end.result)
    .bind(METHOD)
    .bind(end.failure)
    .bind(end.challenge_id.to_string())
    .bind(purpose)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// The row of the challenge itself, not of stray answers to it, which come later.
pub(super) async fn verification(
    pool: &SqlitePool,
    challenge: Uuid,
) -> Result<Option<VerificationRow>, StoreError> {
    sqlx::query_as(
        "SELECT * FROM server_verifications WHERE challenge_id = ?
         ORDER BY verification_id LIMIT 1",
    )
    .bind(challenge.to_string())
    .fetch_optional(pool)
    .await
    .map_err(database)
}

/// `directives.expires_at`, as [`OpenDirective::is_over`] has it.
fn expires(issued_ms: i64, deadline_s: u32) -> String {
    to_text(issued_ms.saturating_add(i64::from(deadline_s) * 1000))
}

fn directive(row: &SqliteRow) -> Result<OpenDirective, StoreError> {
    Ok(OpenDirective {
        id: parse("directives.directive_id", row.get("directive_id"))?,
        want: want(row)?,
        issued_ms: instant("directives.issued_at", row.get("issued_at"))?,
        deadline_s: number("directives.deadline_s", row.get("deadline_s"))?,
        delivered: row.get::<Option<&str>, _>("delivered_at").is_some(),
        applied: row.get::<&str, _>("status") == "applied",
    })
}

fn want(row: &SqliteRow) -> Result<Want, StoreError> {
    match row.get("kind") {
        "challenge" => Ok(Want::Challenge {
            value: parse("directives.challenge_value", row.get("challenge_value"))?,
            purpose: enum_of("directives.purpose", row.get("purpose"))?,
        }),
        "rotate" => Ok(Want::Rotate),
        "disconnect" => Ok(Want::Disconnect {
            connection_ids: serde_json::from_str(row.get("connection_ids"))
                .map_err(|_| StoreError::Impossible("directives.connection_ids"))?,
            reason: enum_of("directives.disconnect_reason", row.get("disconnect_reason"))?,
        }),
        "update" => Ok(Want::Update {
            deployment_id: row.get("deployment_id"),
            version: row.get("update_version"),
            target: row.get("update_target"),
            repository: row.get("update_repository"),
        }),
        "cancel_update" => Ok(Want::CancelUpdate {
            deployment_id: row.get("deployment_id"),
        }),
        _ => Err(StoreError::Impossible("directives.kind")),
    }
}
