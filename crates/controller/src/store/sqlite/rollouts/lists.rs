//! What operators look at, and which rollouts the scheduler looks at.

use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, QueryBuilder, Row as _, Sqlite};

use super::facts::{host, releases};
use super::{BAD, OPEN};
use crate::rules::rollout::Release;
use crate::store::sqlite::map::database;
use crate::store::{
    DeploymentFilter, DeploymentRow, FleetHost, GroupRow, RolloutRow, SoftwareRow, StatusCount,
    StoreError, Which,
};

pub(super) async fn published(
    pool: &SqlitePool,
    version: &str,
) -> Result<Vec<Release>, StoreError> {
    let mut conn = pool.acquire().await.map_err(database)?;
    releases(&mut conn, version, None).await
}

pub(super) async fn fleet(pool: &SqlitePool) -> Result<Vec<FleetHost>, StoreError> {
    let select = format!(
        "SELECT s.server_id, s.hostname, s.status AS server_status, s.version AS running,
                s.last_heartbeat, w.platform, w.managed, w.channel, w.counter, w.pinned, w.disabled,
                w.blocked,
                (SELECT d.version FROM server_update_deployments d
                 WHERE d.server_id = s.server_id AND d.status IN {OPEN}
                 ORDER BY d.deployment_id DESC LIMIT 1) AS open_version
         FROM servers s LEFT JOIN server_software w ON w.server_id = s.server_id
         ORDER BY s.hostname, s.server_id"
    );
    let rows = sqlx::query(AssertSqlSafe(select)).fetch_all(pool).await;
    rows.map_err(database)?
        .iter()
        .map(|row| {
            Ok(FleetHost {
                host: host(row)?,
                hostname: row.get("hostname"),
                open_version: row.get("open_version"),
            })
        })
        .collect()
}

pub(super) async fn rollouts(pool: &SqlitePool) -> Result<Vec<RolloutRow>, StoreError> {
    let select = format!(
        "SELECT r.rollout_id, r.version, r.channel, r.created_at, r.state, r.state_reason,
                r.state_changed_at, r.group_names, r.server_ids, r.canary, r.percent,
                r.max_in_flight, r.maintenance_window, r.stop_on_failures, r.mandatory, r.notes,
                COALESCE(d.deployments, 0) AS deployments, COALESCE(d.installed, 0) AS installed,
                COALESCE(d.badly, 0) AS ended_badly
         FROM rollouts r LEFT JOIN
              (SELECT rollout_id, COUNT(*) AS deployments, SUM(status = 'installed') AS installed,
                      SUM(status IN {BAD}) AS badly
               FROM server_update_deployments GROUP BY rollout_id) d
              ON d.rollout_id = r.rollout_id
         ORDER BY r.created_at DESC, r.rollout_id DESC"
    );
    sqlx::query_as(AssertSqlSafe(select))
        .fetch_all(pool)
        .await
        .map_err(database)
}

pub(super) async fn counts(
    pool: &SqlitePool,
    rollout_id: &str,
) -> Result<Vec<StatusCount>, StoreError> {
    sqlx::query_as(
        "SELECT status, COUNT(*) AS deployments FROM server_update_deployments
         WHERE rollout_id = ? GROUP BY status",
    )
    .bind(rollout_id)
    .fetch_all(pool)
    .await
    .map_err(database)
}

pub(super) async fn servers(
    pool: &SqlitePool,
    rollout_id: &str,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "SELECT server_id FROM server_update_deployments
         WHERE rollout_id = ? AND server_id IS NOT NULL",
    )
    .bind(rollout_id)
    .fetch_all(pool)
    .await
    .map_err(database)
}

pub(super) async fn deployments(
    pool: &SqlitePool,
    filter: DeploymentFilter,
) -> Result<Vec<DeploymentRow>, StoreError> {
    let mut select = QueryBuilder::<Sqlite>::new(format!(
        "SELECT d.deployment_id, d.rollout_id, d.server_id, s.hostname, s.status AS server_status,
                s.last_heartbeat, d.version, d.status,
                d.directive_id IS NOT NULL AND d.status IN {OPEN} AS in_flight, d.attempts,
                d.deployment_time, d.changed_at, d.reported_at, d.installation_time, d.code,
                d.failure_reason, d.previous_version, d.bytes, d.total, d.bytes_per_s
         FROM server_update_deployments d JOIN servers s ON s.server_id = d.server_id WHERE TRUE"
    ));
    let newest = filter.rollout_id.is_none();
    if let Some(rollout_id) = filter.rollout_id {
        select.push(" AND d.rollout_id = ").push_bind(rollout_id);
    }
    if let Some(server_id) = filter.server_id {
        select.push(" AND d.server_id = ").push_bind(server_id);
    }
    match filter.which {
        Which::All => {}
        Which::InFlight => {
            let open = format!(" AND d.directive_id IS NOT NULL AND d.status IN {OPEN}");
            select.push(open);
        }
        Which::Bad => {
            select.push(format!(" AND d.status IN {BAD}"));
        }
        Which::Canaries => {
            let good = format!(" AND d.status <> 'superseded' AND d.status NOT IN {BAD}");
            select.push(good);
        }
    }
    select
        .push(" ORDER BY d.deployment_id")
        .push(if newest { " DESC" } else { "" })
        .push(" LIMIT ")
        .push_bind(filter.limit)
        .build_query_as()
        .fetch_all(pool)
        .await
        .map_err(database)
}

pub(super) async fn to_roll(pool: &SqlitePool) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(AssertSqlSafe(to_roll_sql()))
        .fetch_all(pool)
        .await
        .map_err(database)
}

/// A text of its own, so that a test sees which indexes it uses.
pub(super) fn to_roll_sql() -> String {
    format!(
        "SELECT rollout_id FROM rollouts WHERE state = 'running'
         UNION
         SELECT rollout_id FROM server_update_deployments
             INDEXED BY idx_server_update_deployments_in_flight
         WHERE directive_id IS NOT NULL AND status IN {OPEN} AND rollout_id IS NOT NULL"
    )
}

pub(super) async fn groups(pool: &SqlitePool) -> Result<Vec<GroupRow>, StoreError> {
    sqlx::query_as(
        "SELECT g.group_name, g.server_id, s.hostname, g.created_at FROM server_groups g
         JOIN servers s ON s.server_id = g.server_id
         ORDER BY g.group_name, s.hostname, g.server_id",
    )
    .fetch_all(pool)
    .await
    .map_err(database)
}

pub(super) async fn software(
    pool: &SqlitePool,
    server_id: &str,
) -> Result<Option<SoftwareRow>, StoreError> {
    sqlx::query_as("SELECT * FROM server_software WHERE server_id = ?")
        .bind(server_id)
        .fetch_optional(pool)
        .await
        .map_err(database)
}
