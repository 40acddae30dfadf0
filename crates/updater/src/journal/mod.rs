//! What is written down before it is done, so that a power cut finds its way.
//!
//! One small record: which attempt, from what to what, how far. Links and journal together decide
//! everything after a crash ([`crate::recovery`]); an unreadable journal counts as none.

mod store;

use serde::{Deserialize, Serialize};
use vpn_node_release::handover;
use vpn_node_release::version::Version;

use crate::probation::Baseline;

pub use store::{read, write};

/// Where a link of the layout leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// `system/`, the package's own.
    System,
    /// `versions/VERSION`.
    Version(Version),
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Version(version) => version.fmt(f),
        }
    }
}

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The agent, by `incoming/request.json`. Tried again after a power cut.
    Request,
    /// Root, by `apply FILE`.
    File,
    /// Root, by `rollback`.
    Rollback,
}

/// How far an attempt is; each is written before what it names is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The updater makes its own copy, and verifies it.
    Copied,
    /// Metadata, package and policy allow it; it is being unpacked.
    Verified,
    /// Its slot is complete and on disk.
    Staged,
    /// The experiment's link is being set.
    Switching,
    /// It runs on trial.
    Probation,
    /// It was judged well; `stable` is being moved. Only forward from here.
    Committing,
    /// It was judged badly; the host goes back. Only back from here.
    Reverting,
    /// Over: nothing is left to do.
    Done,
}

impl Phase {
    /// Whether nothing is left to do.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done)
    }
}

/// The journal's content. A version may read what another one wrote, in either direction: unknown
/// fields are passed over, and a new field has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// 1.
    pub format: u32,
    /// The request's id, or one made for a command of root.
    pub attempt: String,
    /// Who asked.
    pub origin: Origin,
    /// The controller's deployment, if one was the reason.
    pub deployment: Option<u64>,
    /// What `stable` was.
    pub from: Slot,
    /// The version in that slot, as its manifest says; absent when it has none.
    pub from_version: Option<Version>,
    /// What it leads to.
    pub to: Slot,
    /// The version in that slot.
    pub to_version: Version,
    /// The boot in which this was written ([`crate::clock::Clock::boot_id`]).
    pub boot_id: String,
    /// How far it is.
    pub phase: Phase,
    /// How often the experiment was started, or the work begun, for this attempt.
    pub tries: u32,
    /// Wall clock at the beginning, milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Wall clock at the last change of the phase.
    pub changed_ms: i64,
    /// Wall clock when probation is judged, for people.
    pub deadline_ms: Option<i64>,
    /// How the host was before.
    pub baseline: Option<Baseline>,
    /// How it ended, once it is [`Phase::Done`].
    pub outcome: Option<handover::Phase>,
    /// The version itself is why it is going back: it is blocked then.
    #[serde(default)]
    pub blame: bool,
    /// Why it is going back, or why it ended.
    pub code: Option<String>,
    /// The sentence to it.
    pub detail: Option<String>,
}

impl Journal {
    /// A journal that begins at this wall clock, in milliseconds since the Unix epoch: nothing is
    /// done yet, and it is the first try. `from` and `to` are slots with the versions in them.
    #[must_use]
    pub fn begin(
        attempt: String,
        origin: Origin,
        (from, from_version): (Slot, Option<Version>),
        (to, to_version): (Slot, Version),
        boot_id: String,
        now_ms: i64,
    ) -> Self {
        Self {
            format: 1,
            attempt,
            origin,
            deployment: None,
            from,
            from_version,
            to,
            to_version,
            boot_id,
            phase: Phase::Copied,
            tries: 1,
            started_ms: now_ms,
            changed_ms: now_ms,
            deadline_ms: None,
            baseline: None,
            outcome: None,
            blame: false,
            code: None,
            detail: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A journal of an attempt from the package's version to 1.5.0.
    pub(crate) fn journal(phase: Phase) -> Journal {
        let (old, new) = (Version::new(1, 4, 0), Version::new(1, 5, 0));
        Journal {
            deployment: Some(7),
            phase,
            changed_ms: 2,
            ..Journal::begin(
                "6f1f0c1e-0000-4000-8000-000000000001".into(),
                Origin::Request,
                (Slot::System, Some(old)),
                (Slot::Version(new.clone()), new),
                "boot-1".into(),
                1,
            )
        }
    }
}
