//! What the agent and the updater say to each other: two small files, each written whole.
//!
//! The agent asks with `incoming/request.json`; the updater believes nothing of it but as a wish.
//! The updater answers with `status.json`, which anyone may read: no secrets, no personal data.

use serde::{Deserialize, Serialize};

/// Longest of either file, in bytes: a status with a hundred blocked versions is 20 KB.
pub const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Longest sentence in a status, in bytes.
pub const MAX_DETAIL_BYTES: usize = 1024;

/// "Please install this": the agent's wish, in `incoming/request.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// 1.
    pub format: u32,
    /// A UUID that the answer repeats.
    pub id: String,
    /// The controller's deployment, if one was the reason.
    pub deployment: Option<u64>,
    /// Version asked for (semver.org).
    pub version: String,
    /// TUF target path, for example `vpn-node/1.5.0/linux-amd64.tar.zst`.
    pub target: String,
}

/// How far an attempt is. The words are those of `server_update_deployments.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Copied and verified again by the updater.
    Verified,
    /// Unpacked, complete and on disk.
    Staged,
    /// It runs on trial.
    Probation,
    /// It is what a boot starts now.
    Installed,
    /// It was not allowed in: [`Attempt::code`] says why. Nothing changed.
    Refused,
    /// The host could not do it (no space, a busy package manager): [`Attempt::code`] says why.
    Failed,
    /// It ran and was sent away again: the former version runs.
    RolledBack,
}

impl Phase {
    /// Whether nothing more comes after it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Installed | Self::Refused | Self::Failed | Self::RolledBack
        )
    }
}

/// One try to install one release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// [`Request::id`], or one that the updater made for a command of root.
    pub id: String,
    /// [`Request::deployment`].
    pub deployment: Option<u64>,
    /// The version it leads to.
    pub version: String,
    /// The version that ran before, read from the slot.
    pub from: String,
    /// How far it is.
    pub phase: Phase,
    /// Why not, as a stable word (`docs/releases.md`).
    pub code: Option<String>,
    /// Why not, as a sentence.
    pub detail: Option<String>,
    /// Wall clock at its beginning, in milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Wall clock at the last change of `phase`.
    pub changed_ms: i64,
    /// When probation is judged, if it runs.
    pub deadline_ms: Option<i64>,
}

/// A version that ended badly here and is not tried again for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Which.
    pub version: String,
    /// How it ended, as a stable word.
    pub code: String,
    /// How often.
    pub count: u32,
    /// Until when, in milliseconds since the Unix epoch.
    pub until_ms: i64,
}

/// No version is blocked for longer than this, in milliseconds: thirty days.
pub const BLOCK_MAX_MS: i64 = 30 * 24 * 3600 * 1000;

/// Whether a block until then holds now. One that would last longer than any can has ended: the
/// clock was wrong when it was made.
#[must_use]
pub const fn block_holds(until_ms: i64, now_ms: i64) -> bool {
    now_ms < until_ms && until_ms.saturating_sub(now_ms) <= BLOCK_MAX_MS
}

/// The updater's answer: what is installed, what is allowed, and how the last attempt went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// 1.
    pub format: u32,
    /// Wall clock when it was written, in milliseconds since the Unix epoch.
    pub written_ms: i64,
    /// Version of the trusted root metadata; absent when no root is trusted yet.
    pub root_version: Option<u64>,
    /// Which releases this host takes, for example `stable`.
    pub channel: String,
    /// What a boot starts: a version, or `system` for that of the package.
    pub stable: String,
    /// The version in the slot that `stable` leads to.
    pub stable_version: String,
    /// What `rollback` would return to.
    pub previous: Option<String>,
    /// What runs on trial.
    pub experiment: Option<String>,
    /// The highest release counter that was ever verified here.
    pub counter: u64,
    /// No release below this may be installed any more.
    pub security_floor: Option<String>,
    /// Root keeps the host at this version.
    pub pinned: Option<String>,
    /// Root wants no updates.
    pub disabled: bool,
    /// What is not tried again for a while.
    pub blocked: Vec<Blocked>,
    /// The running attempt, or the last one.
    pub attempt: Option<Attempt>,
}
