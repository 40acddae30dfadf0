//! What a host says of its software: what runs, what it would go back to, and how the release that
//! it was told to install fares. Part of every heartbeat.

use serde::{Deserialize, Serialize};

/// Software of a host ([`crate::message::Heartbeat::update`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateReport {
    /// Operating system and architecture of its packages, for example `linux-amd64`.
    pub platform: String,
    /// Whether it can install releases: an updater is there and trusts a root of release keys.
    pub managed: bool,
    /// Which releases it takes, for example `stable`.
    pub channel: String,
    /// The version that a rollback would return to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The highest release counter that it ever verified.
    pub counter: u64,
    /// Seconds since it last verified fresh metadata of the repository: grows when someone
    /// withholds news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata_age_s: Option<u64>,
    /// Root of the host keeps it at this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<String>,
    /// Root of the host wants no updates.
    #[serde(default)]
    pub disabled: bool,
    /// Versions that ended badly there and are not tried again for a while; at most
    /// [`MAX_BLOCKED`].
    #[serde(default)]
    pub blocked: Vec<String>,
    /// The deployment that it works on, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentReport>,
}

/// Blocked versions that a report names.
pub const MAX_BLOCKED: usize = 16;

/// How one deployment fares on its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentReport {
    /// [`crate::directive::Action::Update::deployment_id`].
    pub id: u64,
    /// The version that it leads to.
    pub version: String,
    /// How far it is.
    pub status: DeploymentStatus,
    /// Bytes of the package that have arrived.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes of the package in all; 0 until the metadata has told.
    #[serde(default)]
    pub total: u64,
    /// Bytes a second, of the last few seconds.
    #[serde(default)]
    pub bytes_per_s: u64,
    /// Why not, as a stable word (`docs/releases.md`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why not, as a sentence without personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The version that ran before, read from the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<String>,
}

/// `server_update_deployments.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentStatus {
    /// Chosen; the host has not been told yet.
    Pending,
    /// It waits for its maintenance window.
    WaitingWindow,
    /// The host fetches metadata and package.
    Downloading,
    /// Signatures, length and hash hold.
    Verified,
    /// Unpacked beside the running version.
    Staged,
    /// It runs on trial.
    Probation,
    /// It is what the host runs now.
    Installed,
    /// The host did not let it in, and nothing changed.
    Refused,
    /// The host could not do it (no space, no connection).
    Failed,
    /// It ran badly; the host went back by itself.
    RolledBack,
    /// It ran badly there before and is not tried again for a while.
    Blocked,
    /// Another deployment took its place, or an operator took it back.
    Superseded,
}

impl DeploymentStatus {
    /// All of them, in the order in which a deployment goes through them.
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::WaitingWindow,
        Self::Downloading,
        Self::Verified,
        Self::Staged,
        Self::Probation,
        Self::Installed,
        Self::Refused,
        Self::Failed,
        Self::RolledBack,
        Self::Blocked,
        Self::Superseded,
    ];

    /// The word, as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::WaitingWindow => "waiting_window",
            Self::Downloading => "downloading",
            Self::Verified => "verified",
            Self::Staged => "staged",
            Self::Probation => "probation",
            Self::Installed => "installed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Blocked => "blocked",
            Self::Superseded => "superseded",
        }
    }

    /// Whether nothing more comes after it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Installed
                | Self::Refused
                | Self::Failed
                | Self::RolledBack
                | Self::Blocked
                | Self::Superseded
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_status_is_the_one_on_the_wire() {
        for status in DeploymentStatus::ALL {
            let wire = serde_json::to_string(&status).unwrap();
            assert_eq!(wire, format!("\"{}\"", status.as_str()));
        }
    }
}
