//! Rollouts: what operators see and make ([`lists`], [`create`]), what the scheduler reads and writes
//! ([`facts`], [`step`]), and what heartbeats say ([`told`]).

mod create;
mod facts;
mod lists;
mod step;
mod told;

use super::SqliteStore;
use crate::rules::rollout::Release;
use crate::store::{
    Answer, DeploymentFilter, DeploymentRow, FleetHost, GroupChange, GroupRow, NewRollout, Rolled,
    RolloutChange, RolloutRow, RolloutStore, SoftwareRow, StatusCount, Turn,
};

pub(super) use facts::known;
pub(super) use told::{move_on, software_told};

/// What has not ended: as the partial indexes have it, word for word.
const OPEN: &str =
    "('pending', 'waiting_window', 'downloading', 'verified', 'staged', 'probation')";
/// What the host has not handed to its updater (`rules::rollout::is_early`).
const EARLY: &str = "('pending', 'waiting_window', 'downloading')";
/// What ended and not as it should (`rules::rollout::ended_badly`).
const BAD: &str = "('refused', 'failed', 'rolled_back', 'blocked')";

impl RolloutStore for SqliteStore {
    fn published<'a>(&'a self, version: &'a str) -> Answer<'a, Vec<Release>> {
        Box::pin(lists::published(&self.readers, version))
    }

    fn fleet(&self) -> Answer<'_, Vec<FleetHost>> {
        Box::pin(lists::fleet(&self.readers))
    }

    fn create_rollout(&self, new: NewRollout) -> Answer<'_, ()> {
        Box::pin(self.write(move |conn| Box::pin(create::create(conn, new))))
    }

    fn rollouts(&self) -> Answer<'_, Vec<RolloutRow>> {
        Box::pin(lists::rollouts(&self.readers))
    }

    fn rollout_counts<'a>(&'a self, rollout_id: &'a str) -> Answer<'a, Vec<StatusCount>> {
        Box::pin(lists::counts(&self.readers, rollout_id))
    }

    fn rollout_servers<'a>(&'a self, rollout_id: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(lists::servers(&self.readers, rollout_id))
    }

    fn deployments(&self, filter: DeploymentFilter) -> Answer<'_, Vec<DeploymentRow>> {
        Box::pin(lists::deployments(&self.readers, filter))
    }

    fn change_rollout(&self, change: RolloutChange) -> Answer<'_, bool> {
        Box::pin(self.write(move |conn| Box::pin(create::change(conn, change))))
    }

    fn rollouts_to_roll(&self) -> Answer<'_, Vec<String>> {
        Box::pin(lists::to_roll(&self.readers))
    }

    fn roll(&self, turn: Turn) -> Answer<'_, Rolled> {
        Box::pin(async move {
            // Most of the time nothing is next: that is found out without the one writer.
            let mut reader = self.readers.acquire().await.map_err(super::map::database)?;
            let idle = step::idle(&mut reader, &turn).await?;
            drop(reader);
            match idle {
                Some(rolled) => Ok(rolled),
                None => {
                    self.write(move |conn| Box::pin(async move { step::step(conn, &turn).await }))
                        .await
                }
            }
        })
    }

    fn add_to_group(&self, change: GroupChange) -> Answer<'_, u64> {
        Box::pin(self.write(move |conn| Box::pin(create::add_to_group(conn, change))))
    }

    fn remove_from_group(&self, change: GroupChange) -> Answer<'_, u64> {
        Box::pin(self.write(move |conn| Box::pin(create::remove_from_group(conn, change))))
    }

    fn groups(&self) -> Answer<'_, Vec<GroupRow>> {
        Box::pin(lists::groups(&self.readers))
    }

    fn software<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<SoftwareRow>> {
        Box::pin(lists::software(&self.readers, server_id))
    }
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;
    use sqlx::sqlite::SqlitePool;

    use super::{facts, lists};
    use crate::store::sqlite::SqliteStore;

    async fn plan(pool: &SqlitePool, select: String) -> String {
        let rows: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {select}")))
                .fetch_all(pool)
                .await
                .unwrap();
        let steps: Vec<String> = rows.into_iter().map(|(.., step)| step).collect();
        steps.join("\n")
    }

    /// What the scheduler reads every second is found through partial indexes that hold just that.
    #[tokio::test]
    async fn the_scheduler_scans_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::create(&dir.path().join("plan.db"))
            .await
            .unwrap();
        let pool = &store.readers;
        for (select, index) in [
            (
                facts::in_flight_sql(),
                "idx_server_update_deployments_in_flight",
            ),
            (
                facts::waiting_sql(),
                "idx_server_update_deployments_waiting",
            ),
            (facts::canaries_sql(), "idx_server_update_deployments_order"),
            (
                facts::any_open_sql(),
                "idx_server_update_deployments_waiting",
            ),
            (
                lists::to_roll_sql(),
                "idx_server_update_deployments_in_flight",
            ),
        ] {
            let plan = plan(pool, select.clone()).await;
            assert!(plan.contains(index), "{select}\n{plan}");
            for step in plan.lines().filter(|step| step.starts_with("SCAN")) {
                // The index of what is in flight is read as a whole: it has nothing else.
                let whole = step.contains("USING") && step.contains("in_flight");
                assert!(whole || step.contains("CONSTANT ROW"), "{select}\n{plan}");
            }
            assert!(
                !plan.contains("TEMP B-TREE FOR ORDER BY"),
                "{select}\n{plan}"
            );
        }
    }
}
