//! What is kept on disk: the release that is worked on, and what was told of the last one.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vpn_node_protocol::update::DeploymentReport;

/// Which release is wanted, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The controller's deployment; none: root of this host wants it.
    pub deployment: Option<u64>,
    /// Version (semver.org).
    pub version: String,
    /// TUF target path.
    pub target: String,
    /// Address of a repository, if not the usual one.
    pub repository: Option<String>,
}

/// A release that is worked on, or the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What is wanted.
    pub order: Order,
    /// The directive that brought it: coming again, it changes nothing.
    pub directive: Option<Uuid>,
    /// When that was made, by the controller's clock: an older one does not take its place.
    pub issued_ms: i64,
    /// [`vpn_node_release::handover::Request::id`].
    pub request: String,
    /// How long it may be tried, in seconds from its receipt.
    pub lasts_s: u64,
    /// Until when that is, by this host's wall clock in milliseconds since the Unix epoch. After a
    /// restart only: the boot clock begins anew, and this one may be wrong, so it can shorten
    /// `lasts_s` and never lengthen it.
    pub until_ms: i64,
    /// How far it is.
    pub step: Step,
}

/// How far a [`Job`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The agent fetches it.
    Downloading,
    /// The updater has it, and says how it goes.
    HandedOver,
    /// Nothing more comes.
    Done,
}

/// What outlives the agent: `updates/deployment.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// 1.
    pub format: u32,
    /// The release that is worked on, or the last one.
    pub job: Option<Job>,
    /// What the heartbeats say: the last deployment of the controller.
    pub told: Option<DeploymentReport>,
    /// When metadata was last verified, by this host's wall clock.
    pub fresh_ms: Option<i64>,
}
