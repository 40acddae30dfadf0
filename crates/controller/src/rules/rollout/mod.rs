//! Rollouts: which host is told to install which release, and when.
//!
//! An operator's wish becomes one deployment for each chosen host ([`choose`]). From then on the
//! scheduler ([`schedule`]) reads the tables and says what is next: it keeps no state of its own, so
//! the controller may be restarted at any moment. What hosts say of themselves moves deployments on
//! ([`report`]). Nothing here chooses what is *in* a release: that is signed.

pub mod choose;
pub mod report;
pub mod schedule;
pub mod windows;

use serde::{Deserialize, Serialize};
use vpn_node_protocol::update::DeploymentStatus;

use crate::rules::state::ServerStatus;

pub use windows::Windows;

/// For how long a host may take to take an update up, in seconds: a day, because it may be off the
/// net. After that it is told again, with the same deployment id. A host that says nothing for so
/// long gives its place to another one.
pub const UPDATE_DEADLINE_S: u32 = 24 * 3600;

/// `rollouts.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Hosts are told as their turn comes.
    Running,
    /// An operator stopped it for now: nobody new is told.
    Paused,
    /// It stopped by itself: too many failures, a bad canary, or a release that was taken back.
    Halted,
    /// An operator ended it.
    Aborted,
    /// Every chosen host has come to an end.
    Completed,
}

/// What an operator set for a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// So many hosts first, alone, until they have it and are still heard.
    pub canary: u32,
    /// Hosts that may be told and not be done at once.
    pub max_in_flight: u32,
    /// When hosts may be told; none: at any time.
    pub windows: Option<Windows>,
    /// Percent of ended deployments that may end badly.
    pub stop_on_failures: u8,
    /// Does not wait for a window.
    pub mandatory: bool,
}

/// A host as the tables have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its id.
    pub server_id: String,
    /// Whether it may speak.
    pub status: ServerStatus,
    /// What it runs.
    pub version: String,
    /// When it was last heard, in milliseconds since the Unix epoch.
    pub last_heartbeat_ms: Option<i64>,
    /// What it last said of its software; none from an agent that does not know of updates.
    pub software: Option<Software>,
}

/// What a host last said of its software.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Software {
    /// For example `linux-amd64`.
    pub platform: String,
    /// Whether it can install releases at all.
    pub managed: bool,
    /// Which releases it takes.
    pub channel: String,
    /// The highest release counter that it ever verified.
    pub counter: u64,
    /// Its root keeps it at this version.
    pub pinned: Option<String>,
    /// Its root wants no updates.
    pub disabled: bool,
    /// Versions that ended badly there.
    pub blocked: Vec<String>,
}

/// A published release for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The row of `server_updates`.
    pub update_id: String,
    /// For example `linux-amd64`.
    pub platform: String,
    /// Version (semver.org).
    pub version: String,
    /// Which hosts take it.
    pub channel: String,
    /// Grows with each release of a channel and platform.
    pub counter: u64,
    /// A host must run at least this version.
    pub min_version: Option<String>,
    /// Does not wait for a maintenance window.
    pub mandatory: bool,
}

/// How fast things are expected to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// A host that was not heard for so long is silent, in milliseconds.
    pub silent_ms: i64,
    /// A canary must still be heard so long after its installation, in milliseconds.
    pub soak_ms: i64,
}

impl Pace {
    /// Heartbeat intervals without a word after which a host is silent.
    const SILENT_INTERVALS: i64 = 3;
    /// Heartbeat intervals for which a canary is watched.
    const SOAK_INTERVALS: i64 = 4;

    /// For hosts that are heard every `interval_s` seconds.
    #[must_use]
    pub fn of(interval_s: u32) -> Self {
        let interval_ms = i64::from(interval_s) * 1000;
        Self {
            silent_ms: interval_ms * Self::SILENT_INTERVALS,
            soak_ms: interval_ms * Self::SOAK_INTERVALS,
        }
    }
}

impl Host {
    /// Whether it is heard.
    #[must_use]
    pub fn is_heard(&self, pace: Pace, now_ms: i64) -> bool {
        self.last_heartbeat_ms
            .is_some_and(|at| now_ms.saturating_sub(at) <= pace.silent_ms)
    }
}

/// Whether a deployment ended, and did not end as it should. A superseded one says nothing about
/// the release.
#[must_use]
pub fn ended_badly(status: DeploymentStatus) -> bool {
    use DeploymentStatus::{Blocked, Failed, Refused, RolledBack};
    matches!(status, Refused | Failed | RolledBack | Blocked)
}

/// Whether the host has not handed it to its updater: until then it can be taken back.
#[must_use]
pub fn is_early(status: DeploymentStatus) -> bool {
    use DeploymentStatus::{Downloading, Pending, WaitingWindow};
    matches!(status, Pending | WaitingWindow | Downloading)
}
