//! The part of the report that is about releases.

use serde::{Deserialize, Serialize};
use vpn_node_release::handover;

use super::StatusReport;
use crate::core::shown_seconds;

/// Metadata this old is worth a word: it is looked at every hour, and the repository's lasts for
/// days.
const METADATA_OLD_S: u64 = 2 * 24 * 3600;

/// How the host's software is kept current.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// `[update] enabled` of the agent's configuration.
    pub enabled: bool,
    /// Operating system and architecture, as `linux-amd64`.
    pub platform: String,
    /// Whether there is an updater that trusts release keys.
    pub managed: bool,
    /// Seconds since metadata of the repository was last fetched and verified.
    pub metadata_age_s: Option<u64>,
    /// Why the last attempt to do so failed; none if it did not.
    pub metadata_problem: Option<String>,
    /// What the agent fetches, or fetched last.
    pub download: Option<DownloadStatus>,
    /// What the updater says; none if there is no updater.
    pub updater: Option<handover::Status>,
}

/// One release on its way to the updater.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadStatus {
    /// Its version.
    pub version: String,
    /// The controller's deployment; none if root of this host wants it.
    pub deployment: Option<u64>,
    /// `downloading`, `handed_over` (to the updater) or `done`.
    pub step: String,
    /// Bytes of the package that are here.
    pub bytes: u64,
    /// Bytes of the package in all; 0 until the metadata has told.
    pub total: u64,
    /// Bytes a second, of the last few seconds.
    pub bytes_per_s: u64,
    /// Attempts that failed.
    pub failures: u32,
    /// When the next one is due.
    pub retry_in_s: Option<u64>,
    /// What went wrong last, as a stable word (`docs/releases.md`).
    pub code: Option<String>,
    /// The same as a sentence.
    pub detail: Option<String>,
}

impl UpdateStatus {
    /// What is going on, for the status line of the service manager; none when nothing is. Whole
    /// tens of a hundred: it is not sent with every byte.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        if let Some(download) = self.download.as_ref().filter(|d| d.step == "downloading") {
            let tens = (download.bytes.saturating_mul(10))
                .checked_div(download.total)
                .unwrap_or(0);
            return Some(match &download.code {
                Some(code) if download.retry_in_s.is_some() => {
                    format!("download of {} waits: {code}", download.version)
                }
                _ => format!("downloading {} ({} %)", download.version, tens * 10),
            });
        }
        let attempt = self.updater.as_ref()?.attempt.as_ref()?;
        let doing = match attempt.phase {
            handover::Phase::Verified | handover::Phase::Staged => "installing",
            handover::Phase::Probation => "on trial:",
            _ => return None,
        };
        Some(format!("{doing} {}", attempt.version))
    }
}

impl StatusReport {
    /// What about updates an operator should look at, one sentence each. None of it makes the agent
    /// ill: the VPN runs.
    #[must_use]
    pub fn update_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(update) = self
            .update
            .as_ref()
            .filter(|update| update.enabled && update.managed)
        else {
            return warnings;
        };
        let problem = match &update.metadata_problem {
            Some(problem) => format!(" Last problem: {problem}."),
            None => String::new(),
        };
        if let Some(age) = update.metadata_age_s.filter(|age| *age > METADATA_OLD_S) {
            warnings.push(format!(
                "No fresh release metadata for {}: this host would not hear of a release.{problem}",
                shown_seconds(age)
            ));
        }
        let attempt = update.updater.as_ref().and_then(|u| u.attempt.as_ref());
        if let Some(attempt) = attempt.filter(|a| a.phase == handover::Phase::RolledBack) {
            warnings.push(format!(
                "Version {} ran badly and was taken back ({}): {}",
                attempt.version,
                attempt.code.as_deref().unwrap_or("no code"),
                attempt.detail.as_deref().unwrap_or("no reason known"),
            ));
        }
        warnings
    }
}

/// The updater's status with everything in it.
#[cfg(test)]
pub(super) fn sample() -> handover::Status {
    handover::Status {
        blocked: vec![handover::Blocked {
            version: "1.5.0".to_owned(),
            code: "crashed".to_owned(),
            count: 1,
            until_ms: 0,
        }],
        attempt: Some(handover::Attempt {
            id: String::new(),
            deployment: None,
            version: "1.5.0".to_owned(),
            from: "1.4.0".to_owned(),
            phase: handover::Phase::RolledBack,
            code: None,
            detail: None,
            started_ms: 0,
            changed_ms: 0,
            deadline_ms: None,
        }),
        ..handover::Status::default()
    }
}
