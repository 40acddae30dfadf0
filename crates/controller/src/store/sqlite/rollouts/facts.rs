//! What the scheduler decides on, read in bounded pieces: everything in flight (at most
//! `max_in_flight`), the canaries, and some of those that wait.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::{BAD, OPEN};
use crate::clock::to_text;
use crate::rules::rollout::report::KnownDeployment;
use crate::rules::rollout::schedule::{Canaries, Deployment, Facts, Rollout, Told, canaries};
use crate::rules::rollout::{Host, Release, RolloutState, Software, Terms, Windows};
use crate::store::sqlite::map::{database, enum_of, instant, instant_optional, number};
use crate::store::{StoreError, Turn};

/// Waiting deployments that one step looks at: a few milliseconds, so that a hundred thousand hosts are
/// looked at within minutes, and no step scans them all.
const LOOK: i64 = 512;

/// A deployment with its directive, its host and the host's software.
const SELECT: &str = "SELECT d.deployment_id, d.status, d.attempts, d.changed_at, d.reported_at,
        d.installation_time, d.directive_id, x.issued_at, x.delivered_at, x.closed_at, x.expires_at,
        s.server_id, s.status AS server_status, s.version AS running, s.last_heartbeat,
        w.platform, w.managed, w.channel, w.counter, w.pinned, w.disabled, w.blocked,
        EXISTS (SELECT 1 FROM server_update_deployments o
                WHERE o.server_id = d.server_id AND o.deployment_id <> d.deployment_id
                  AND o.directive_id IS NOT NULL AND o.status IN
                  ('pending', 'waiting_window', 'downloading', 'verified', 'staged', 'probation'))
            AS busy,
        EXISTS (SELECT 1 FROM directives c
                WHERE c.server_id = d.server_id AND c.kind = 'cancel_update'
                  AND c.deployment_id = d.deployment_id AND c.status NOT IN ('expired', 'late'))
            AS cancelled
    FROM server_update_deployments d JOIN servers s ON s.server_id = d.server_id
    LEFT JOIN directives x ON x.directive_id = d.directive_id
    LEFT JOIN server_software w ON w.server_id = d.server_id";

/// The deployment of this id, whosever it is.
pub(in crate::store::sqlite) async fn known(
    conn: &mut SqliteConnection,
    deployment_id: i64,
) -> Result<Option<KnownDeployment>, StoreError> {
    let row: Option<(String, String, String, i64)> = sqlx::query_as(
        "SELECT server_id, version, status, attempts FROM server_update_deployments
         WHERE deployment_id = ? AND server_id IS NOT NULL AND version IS NOT NULL",
    )
    .bind(deployment_id)
    .fetch_optional(conn)
    .await
    .map_err(database)?;
    row.map(|(server_id, version, status, attempts)| {
        Ok(KnownDeployment {
            server_id,
            version,
            status: enum_of("server_update_deployments.status", &status)?,
            told: attempts > 0,
        })
    })
    .transpose()
}

/// A rollout and what is looked at in this step; with it, the last of those that wait, if there may
/// be more of them.
pub(super) async fn load(
    conn: &mut SqliteConnection,
    turn: &Turn,
) -> Result<Option<(Rollout, Facts, Option<i64>)>, StoreError> {
    let Some(rollout) = rollout(conn, &turn.rollout_id).await? else {
        return Ok(None);
    };
    let mut facts = Facts {
        in_flight: in_flight(conn, turn).await?,
        any_open: any_open(conn, &turn.rollout_id).await?,
        ..Facts::default()
    };
    let mut last = None;
    if rollout.state == RolloutState::Running {
        facts.canaries = first(conn, turn, rollout.terms.canary).await?;
        let places = facts.in_flight.len() < rollout.terms.max_in_flight as usize;
        if places && canaries(&facts, turn.pace) == Canaries::Done {
            facts.waiting = waiting(conn, turn).await?;
            let full = facts.waiting.len() >= LOOK as usize;
            last = facts.waiting.last().map(|one| one.id).filter(|_| full);
        }
    }
    Ok(Some((rollout, facts, last)))
}

async fn rollout(
    conn: &mut SqliteConnection,
    rollout_id: &str,
) -> Result<Option<Rollout>, StoreError> {
    let row = sqlx::query("SELECT * FROM rollouts WHERE rollout_id = ?")
        .bind(rollout_id)
        .fetch_optional(&mut *conn)
        .await
        .map_err(database)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let version: String = row.get("version");
    let rollout = Rollout {
        state: enum_of("rollouts.state", row.get("state"))?,
        terms: terms(&row)?,
        releases: releases(conn, &version, Some(row.get("channel"))).await?,
        ended_well: number("rollouts.ended_well", row.get("ended_well"))?,
        ended_badly: number("rollouts.ended_badly", row.get("ended_badly"))?,
        version,
    };
    Ok(Some(rollout))
}

fn terms(row: &SqliteRow) -> Result<Terms, StoreError> {
    let text: Option<&str> = row.get("maintenance_window");
    let windows = text.map(|text| Windows::parse(text, jiff::tz::db()));
    Ok(Terms {
        canary: number("rollouts.canary", row.get("canary"))?,
        max_in_flight: number("rollouts.max_in_flight", row.get("max_in_flight"))?,
        windows: windows
            .transpose()
            .map_err(|_| StoreError::Impossible("rollouts.maintenance_window"))?,
        stop_on_failures: number("rollouts.stop_on_failures", row.get("stop_on_failures"))?,
        mandatory: row.get("mandatory"),
    })
}

/// The published packages of a version, for each channel and platform the newest.
pub(super) async fn releases(
    conn: &mut SqliteConnection,
    version: &str,
    channel: Option<&str>,
) -> Result<Vec<Release>, StoreError> {
    let rows = sqlx::query(
        "SELECT update_id, version, channel, os || '-' || arch AS platform, MAX(counter) AS counter,
                min_version_required, COALESCE(mandatory, FALSE) AS mandatory
         FROM server_updates
         WHERE version = ?1 AND state = 'published' AND (?2 IS NULL OR channel = ?2)
           AND channel IS NOT NULL AND os IS NOT NULL AND arch IS NOT NULL
           AND target_path IS NOT NULL
         GROUP BY channel, platform ORDER BY channel, platform",
    )
    .bind(version)
    .bind(channel)
    .fetch_all(conn)
    .await
    .map_err(database)?;
    rows.iter()
        .map(|row| {
            let counter: Option<i64> = row.get("counter");
            Ok(Release {
                update_id: row.get("update_id"),
                platform: row.get("platform"),
                version: row.get("version"),
                channel: row.get("channel"),
                counter: number("server_updates.counter", counter.unwrap_or(0))?,
                min_version: row.get("min_version_required"),
                mandatory: row.get("mandatory"),
            })
        })
        .collect()
}

async fn in_flight(
    conn: &mut SqliteConnection,
    turn: &Turn,
) -> Result<Vec<Deployment>, StoreError> {
    let rows = sqlx::query(AssertSqlSafe(in_flight_sql())).bind(&turn.rollout_id);
    let rows = rows.fetch_all(conn).await.map_err(database)?;
    rows.iter()
        .map(|row| deployment(row, turn.now_ms))
        .collect()
}

/// The canaries ([`Facts::canaries`]).
async fn first(
    conn: &mut SqliteConnection,
    turn: &Turn,
    canary: u32,
) -> Result<Vec<Deployment>, StoreError> {
    if canary == 0 {
        return Ok(vec![]);
    }
    let rows = sqlx::query(AssertSqlSafe(canaries_sql()))
        .bind(&turn.rollout_id)
        .bind(canary);
    let rows = rows.fetch_all(conn).await.map_err(database)?;
    rows.iter()
        .map(|row| deployment(row, turn.now_ms))
        .collect()
}

async fn waiting(conn: &mut SqliteConnection, turn: &Turn) -> Result<Vec<Deployment>, StoreError> {
    let rows = sqlx::query(AssertSqlSafe(waiting_sql()))
        .bind(&turn.rollout_id)
        .bind(turn.after);
    let rows = rows.fetch_all(conn).await.map_err(database)?;
    rows.iter()
        .map(|row| deployment(row, turn.now_ms))
        .collect()
}

async fn any_open(conn: &mut SqliteConnection, rollout_id: &str) -> Result<bool, StoreError> {
    sqlx::query_scalar(AssertSqlSafe(any_open_sql()))
        .bind(rollout_id)
        .fetch_one(conn)
        .await
        .map_err(database)
}

// Texts of their own, so that a test sees which indexes they use.

pub(super) fn in_flight_sql() -> String {
    format!("{SELECT} WHERE d.rollout_id = ? AND d.directive_id IS NOT NULL AND d.status IN {OPEN}")
}

pub(super) fn canaries_sql() -> String {
    format!(
        "{SELECT} WHERE d.rollout_id = ? AND d.status <> 'superseded' AND d.status NOT IN {BAD}
         ORDER BY d.deployment_id LIMIT ?"
    )
}

pub(super) fn waiting_sql() -> String {
    format!(
        "{SELECT} WHERE d.rollout_id = ? AND d.deployment_id > ? AND d.directive_id IS NULL
           AND d.status IN {OPEN}
         ORDER BY d.deployment_id LIMIT {LOOK}"
    )
}

pub(super) fn any_open_sql() -> String {
    // Each half has its own partial index.
    format!(
        "SELECT EXISTS (SELECT 1 FROM server_update_deployments
                        WHERE rollout_id = ?1 AND directive_id IS NOT NULL AND status IN {OPEN})
             OR EXISTS (SELECT 1 FROM server_update_deployments
                        WHERE rollout_id = ?1 AND directive_id IS NULL AND status IN {OPEN})"
    )
}

fn deployment(row: &SqliteRow, now_ms: i64) -> Result<Deployment, StoreError> {
    let at = |column: &'static str| instant_optional(column, row.get(column));
    Ok(Deployment {
        id: row.get("deployment_id"),
        status: enum_of("server_update_deployments.status", row.get("status"))?,
        told: told(row, now_ms)?,
        attempts: number("server_update_deployments.attempts", row.get("attempts"))?,
        changed_ms: at("changed_at")?.unwrap_or(0),
        reported_ms: at("reported_at")?,
        installed_ms: at("installation_time")?,
        busy: row.get("busy"),
        cancelled: row.get("cancelled"),
        host: host(row)?,
    })
}

fn told(row: &SqliteRow, now_ms: i64) -> Result<Option<Told>, StoreError> {
    if row.get::<Option<&str>, _>("directive_id").is_none() {
        return Ok(None);
    }
    let at = |column: &'static str| instant_optional(column, row.get(column));
    // A directive that is gone is one whose time is over.
    let issued_ms = at("issued_at")?.unwrap_or(0);
    let over = to_text(now_ms);
    let expired = row.get::<Option<&str>, _>("expires_at").unwrap_or("");
    let expired_ms = match expired < over.as_str() {
        true if expired.is_empty() => Some(0),
        true => Some(instant("directives.expires_at", expired)?),
        false => None,
    };
    Ok(Some(Told {
        at_ms: issued_ms,
        delivered: row.get::<Option<&str>, _>("delivered_at").is_some(),
        closed_ms: at("closed_at")?.or(expired_ms),
    }))
}

/// A host with its software: from columns of these names.
pub(super) fn host(row: &SqliteRow) -> Result<Host, StoreError> {
    let platform: Option<String> = row.get("platform");
    Ok(Host {
        server_id: row.get("server_id"),
        status: enum_of("servers.status", row.get("server_status"))?,
        version: row.get("running"),
        last_heartbeat_ms: instant_optional("servers.last_heartbeat", row.get("last_heartbeat"))?,
        software: platform
            .map(|platform| {
                Ok::<_, StoreError>(Software {
                    platform,
                    managed: row.get("managed"),
                    channel: row.get("channel"),
                    counter: number("server_software.counter", row.get("counter"))?,
                    pinned: row.get("pinned"),
                    disabled: row.get("disabled"),
                    blocked: serde_json::from_str(row.get("blocked"))
                        .map_err(|_| StoreError::Impossible("server_software.blocked"))?,
                })
            })
            .transpose()?,
    })
}
