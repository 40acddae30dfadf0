//! Security events: recording, listing, handling.

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::map::database;
use crate::clock::to_text;
use crate::rules::effect::NewEvent;
use crate::store::{EventFilter, EventRow, HandleEnd, Handling, StoreError};

pub(super) async fn record(
    conn: &mut SqliteConnection,
    event: &NewEvent,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO security_events
             (timestamp, event_type, severity, component, source_id, description)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(to_text(event.at_ms))
    .bind(event.event_type.word())
    .bind(event.event_type.severity().as_str())
    .bind(event.event_type.component())
    .bind(&event.source_id)
    .bind(&event.description)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// Records an event unless one of its type and source was recorded within `quiet_ms` milliseconds: for
/// what a host may say with every heartbeat.
pub(super) async fn record_quietly(
    conn: &mut SqliteConnection,
    event: &NewEvent,
    quiet_ms: i64,
) -> Result<(), StoreError> {
    let told: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM security_events
                        WHERE timestamp > ? AND event_type = ? AND source_id = ?)",
    )
    .bind(to_text(event.at_ms.saturating_sub(quiet_ms)))
    .bind(event.event_type.word())
    .bind(&event.source_id)
    .fetch_one(&mut *conn)
    .await
    .map_err(database)?;
    match told {
        true => Ok(()),
        false => record(conn, event).await,
    }
}

pub(super) async fn list(
    pool: &SqlitePool,
    filter: EventFilter,
) -> Result<Vec<EventRow>, StoreError> {
    sqlx::query_as(
        "SELECT * FROM security_events
         WHERE (?1 IS NULL OR event_type = ?1) AND (?2 IS NULL OR severity = ?2)
           AND (?3 = FALSE OR handled = FALSE) AND (?4 IS NULL OR source_id = ?4)
           AND (?5 IS NULL OR timestamp >= ?5)
         ORDER BY event_id DESC LIMIT ?6",
    )
    .bind(filter.event_type.map(|one| one.word()))
    .bind(filter.severity.map(|one| one.as_str()))
    .bind(filter.unhandled)
    .bind(filter.source_id)
    .bind(filter.since_ms.map(to_text))
    .bind(filter.limit)
    .fetch_all(pool)
    .await
    .map_err(database)
}

pub(super) async fn one(pool: &SqlitePool, event_id: i64) -> Result<Option<EventRow>, StoreError> {
    sqlx::query_as("SELECT * FROM security_events WHERE event_id = ?")
        .bind(event_id)
        .fetch_optional(pool)
        .await
        .map_err(database)
}

/// All or none: everything is looked at before anything is written, and an event that another
/// operator handles meanwhile undoes the whole.
pub(super) async fn handle(
    conn: &mut SqliteConnection,
    handling: Handling,
) -> Result<HandleEnd, StoreError> {
    let (mut unknown, mut already) = (vec![], vec![]);
    for id in &handling.event_ids {
        let handled: Option<bool> =
            sqlx::query_scalar("SELECT handled FROM security_events WHERE event_id = ?")
                .bind(id)
                .fetch_optional(&mut *conn)
                .await
                .map_err(database)?;
        match handled {
            None => unknown.push(*id),
            Some(true) => already.push(*id),
            Some(false) => {}
        }
    }
    if !unknown.is_empty() {
        return Ok(HandleEnd::Unknown(unknown));
    }
    if !already.is_empty() {
        return Ok(HandleEnd::Already(already));
    }
    for id in &handling.event_ids {
        let done = sqlx::query(
            "UPDATE security_events
             SET handled = TRUE, handling_notes = ?, handled_at = ?, handled_by_user = ?
             WHERE event_id = ? AND handled = FALSE",
        )
        .bind(&handling.note)
        .bind(to_text(handling.at_ms))
        .bind(&handling.by_user)
        .bind(id)
        .execute(&mut *conn)
        .await
        .map_err(database)?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Conflict);
        }
    }
    Ok(HandleEnd::Handled)
}
