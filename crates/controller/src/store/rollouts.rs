//! Rollouts as operators make and look at them, and as the scheduler goes on with them.

use serde::Serialize;

use super::Answer;
use crate::rules::rollout::{Host, Pace, Release, RolloutState};

/// Releases, rollouts, deployments, and the groups that hosts are in.
pub trait RolloutStore: Send + Sync {
    /// The published packages of a version: for each channel and platform the newest.
    fn published<'a>(&'a self, version: &'a str) -> Answer<'a, Vec<Release>>;
    /// Every host with what it last said of its software, by name.
    fn fleet(&self) -> Answer<'_, Vec<FleetHost>>;
    /// Makes a rollout with a deployment for each chosen host. Older deployments of these hosts that
    /// were not handed to an updater are superseded.
    fn create_rollout(&self, new: NewRollout) -> Answer<'_, ()>;
    /// All rollouts, the newest first.
    fn rollouts(&self) -> Answer<'_, Vec<RolloutRow>>;
    /// How many deployments of a rollout are how far.
    fn rollout_counts<'a>(&'a self, rollout_id: &'a str) -> Answer<'a, Vec<StatusCount>>;
    /// Servers that have a deployment of a rollout, by id.
    fn rollout_servers<'a>(&'a self, rollout_id: &'a str) -> Answer<'a, Vec<String>>;
    /// Deployments, in the order in which hosts get their turn; those of one server: the newest first.
    fn deployments(&self, filter: DeploymentFilter) -> Answer<'_, Vec<DeploymentRow>>;
    /// Pauses, resumes or aborts; `false` when the rollout is in no state for that.
    fn change_rollout(&self, change: RolloutChange) -> Answer<'_, bool>;
    /// Rollouts of which something may be next. Cheap: it reads only what an index has of them.
    fn rollouts_to_roll(&self) -> Answer<'_, Vec<String>>;
    /// One step of one rollout: reads, decides, writes. It looks at what is in flight and at a bounded
    /// number of those that wait, and writes nothing when there is nothing to do.
    fn roll(&self, turn: Turn) -> Answer<'_, Rolled>;
    /// Puts servers into a group; returns how many were not in it.
    fn add_to_group(&self, change: GroupChange) -> Answer<'_, u64>;
    /// Takes servers out of a group; returns how many were in it.
    fn remove_from_group(&self, change: GroupChange) -> Answer<'_, u64>;
    /// Every group with its servers, by name.
    fn groups(&self) -> Answer<'_, Vec<GroupRow>>;
    /// What a server last said of its software.
    fn software<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<SoftwareRow>>;
}

/// A host that may be chosen.
#[derive(Clone, Debug)]
pub struct FleetHost {
    /// What is judged.
    pub host: Host,
    /// Its name.
    pub hostname: String,
    /// The version of a deployment that has not ended, if it has one.
    pub open_version: Option<String>,
}

/// A new rollout.
#[derive(Clone, Debug)]
pub struct NewRollout {
    /// Its id.
    pub rollout_id: String,
    /// The version.
    pub version: String,
    /// The channel.
    pub channel: String,
    /// When.
    pub created_ms: i64,
    /// The groups that were named.
    pub groups: Vec<String>,
    /// The servers that were named, by id.
    pub servers: Vec<String>,
    /// Hosts that are first, alone.
    pub canary: u32,
    /// Of the hosts that can take it.
    pub percent: u8,
    /// Hosts at once.
    pub max_in_flight: u32,
    /// Maintenance windows, as they were given.
    pub window: Option<String>,
    /// Percent of ended deployments that may end badly.
    pub stop_on_failures: u8,
    /// Does not wait for a window.
    pub mandatory: bool,
    /// The operator's note.
    pub notes: Option<String>,
    /// Server ids, each with its row of `server_updates`, in order.
    pub chosen: Vec<(String, String)>,
}

/// What an operator does to a rollout.
#[derive(Clone, Debug)]
pub struct RolloutChange {
    /// Which.
    pub rollout_id: String,
    /// Paused, running or aborted.
    pub to: RolloutState,
    /// Why.
    pub reason: Option<String>,
    /// When.
    pub at_ms: i64,
}

/// One step of a rollout.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Which.
    pub rollout_id: String,
    /// Deployments that wait are looked at from after this one on.
    pub after: i64,
    /// When.
    pub now_ms: i64,
    /// How fast things are expected to happen.
    pub pace: Pace,
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rolled {
    /// [`Turn::after`] of the next step.
    pub after: i64,
    /// Hosts that were told.
    pub told: usize,
    /// Everything that was decided.
    pub decided: usize,
}

/// Servers and their group.
#[derive(Clone, Debug)]
pub struct GroupChange {
    /// Its name.
    pub group_name: String,
    /// By id.
    pub server_ids: Vec<String>,
    /// When.
    pub at_ms: i64,
}

/// Which deployments are meant: those that match everything that is set.
#[derive(Clone, Debug, Default)]
pub struct DeploymentFilter {
    /// Of this rollout.
    pub rollout_id: Option<String>,
    /// Of this server.
    pub server_id: Option<String>,
    /// How far they are.
    pub which: Which,
    /// The first so many.
    pub limit: u32,
}

/// Deployments by how far they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    #[default]
    All,
    /// Those that hosts were told of, and that have not ended.
    InFlight,
    /// Those that were refused, failed, rolled back or are blocked.
    Bad,
    /// Those that were not superseded and did not end badly: the first of them are the canaries.
    Canaries,
}

/// A server in a group.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct GroupRow {
    pub group_name: String,
    pub server_id: String,
    pub hostname: String,
    pub created_at: String,
}

/// How many deployments have a status.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct StatusCount {
    pub status: String,
    pub deployments: i64,
}

/// A row of `rollouts`, with the number of its deployments.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct RolloutRow {
    pub rollout_id: String,
    pub version: String,
    pub channel: String,
    pub created_at: String,
    pub state: String,
    pub state_reason: Option<String>,
    pub state_changed_at: String,
    /// A JSON array.
    pub group_names: String,
    /// A JSON array.
    pub server_ids: String,
    pub canary: i64,
    pub percent: i64,
    pub max_in_flight: i64,
    pub maintenance_window: Option<String>,
    pub stop_on_failures: i64,
    pub mandatory: bool,
    pub notes: Option<String>,
    pub deployments: i64,
    pub installed: i64,
    /// Refused, failed, rolled back or blocked.
    pub ended_badly: i64,
}

/// A row of `server_update_deployments`, with its host.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct DeploymentRow {
    pub deployment_id: i64,
    pub rollout_id: Option<String>,
    pub server_id: String,
    pub hostname: String,
    pub server_status: String,
    pub last_heartbeat: Option<String>,
    pub version: Option<String>,
    pub status: String,
    /// Whether a directive was made for it, and it has not ended.
    pub in_flight: bool,
    pub attempts: i64,
    pub deployment_time: Option<String>,
    pub changed_at: Option<String>,
    pub reported_at: Option<String>,
    pub installation_time: Option<String>,
    pub code: Option<String>,
    pub failure_reason: Option<String>,
    pub previous_version: Option<String>,
    pub bytes: i64,
    pub total: i64,
    pub bytes_per_s: i64,
}

/// A row of `server_software`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct SoftwareRow {
    pub server_id: String,
    pub platform: String,
    pub managed: bool,
    pub channel: String,
    pub previous_version: Option<String>,
    pub counter: i64,
    pub metadata_age_s: Option<i64>,
    pub pinned: Option<String>,
    pub disabled: bool,
    /// A JSON array.
    pub blocked: String,
    pub reported_at: String,
}
