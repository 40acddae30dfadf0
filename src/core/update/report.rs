//! What is said of the host's software: to the controller, and to people on the host.

use vpn_node_protocol::limits::MAX_TEXT_BYTES;
use vpn_node_protocol::update::{MAX_BLOCKED, UpdateReport};

use super::machine::Software;
use super::{Step, Updates};
use crate::core::report::{DownloadStatus, UpdateStatus};
use crate::core::{Now, shown};

impl Updates {
    /// For the heartbeat. None until the updater's status was read: "not looked yet" is not "none
    /// there", by which a rollout would leave the host out.
    #[must_use]
    pub fn report(&self, now: Now) -> Option<UpdateReport> {
        if matches!(self.software, Software::Unknown) {
            return None;
        }
        let status = self.status();
        let mut deployment = self.told.clone();
        if let Some(told) = &mut deployment
            && self.is_fetching(told.id)
        {
            told.bytes = self.progress.bytes;
            told.total = self.progress.total;
            told.bytes_per_s = self.progress.bytes_per_s;
        }
        let blocked = status.into_iter().flat_map(|status| &status.blocked);
        Some(UpdateReport {
            platform: self.platform.to_string(),
            managed: self.is_managed(),
            channel: status
                .map(|status| short(&status.channel))
                .unwrap_or_default(),
            previous: status.and_then(|s| s.previous.as_deref()).map(short),
            counter: status.map_or(0, |status| status.counter),
            metadata_age_s: self.metadata_age_s(now),
            pinned: status.and_then(|s| s.pinned.as_deref()).map(short),
            disabled: !self.enabled || status.is_some_and(|status| status.disabled),
            blocked: blocked
                .filter(|block| block.holds(now.wall_ms))
                .take(MAX_BLOCKED)
                .map(|block| short(&block.version))
                .collect(),
            deployment,
        })
    }

    /// For `vpn-node status` and `vpn-node update status`.
    #[must_use]
    pub fn status_report(&self, now: Now) -> UpdateStatus {
        UpdateStatus {
            enabled: self.enabled,
            platform: self.platform.to_string(),
            managed: self.is_managed(),
            metadata_age_s: self.metadata_age_s(now),
            metadata_problem: self
                .check_failure
                .as_ref()
                .map(|failure| format!("{} ({})", failure.detail, failure.code)),
            download: self.job.as_ref().map(|job| DownloadStatus {
                version: job.order.version.clone(),
                deployment: job.order.deployment,
                step: match job.step {
                    Step::Downloading => "downloading",
                    Step::HandedOver => "handed_over",
                    Step::Done => "done",
                }
                .to_owned(),
                bytes: self.progress.bytes,
                total: self.progress.total,
                bytes_per_s: self.progress.bytes_per_s,
                failures: self.failures,
                retry_in_s: self
                    .retry_at
                    .map(|at| at.saturating_sub(now.boot).as_secs()),
                code: self.problem.as_ref().map(|(code, _)| code.clone()),
                detail: self.problem.as_ref().map(|(_, detail)| detail.clone()),
            }),
            updater: self.status().cloned(),
        }
    }

    fn is_fetching(&self, deployment: u64) -> bool {
        let job = self.job.as_ref();
        job.is_some_and(|job| {
            job.order.deployment == Some(deployment) && job.step == Step::Downloading
        })
    }
}

/// A text from outside as the controller takes it: on one line, bounded.
pub(super) fn short(text: &str) -> String {
    let mut text = shown(text).to_string();
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    text
}
