//! The judgement over a report: is this agent well, and if not, why and what to do.

use serde::{Deserialize, Serialize};

use super::{BackendState, StatusReport, VerificationState};
use crate::core::shown_seconds;

/// A just started agent may be unverified and silent this long: name resolution and the network
/// come up after it, and the first retries back off.
const STARTING_S: u64 = 5 * 60;

/// Heartbeats may be late this long: several lost ones, never a single one.
const HEARTBEAT_LATE_S: u64 = 5 * 60;

/// The loop publishes at least with every heartbeat and every poll; this long without is a hang.
const REPORT_STALE_S: u64 = 5 * 60;

/// Whether the agent is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// No reason against it.
    pub ok: bool,
    /// One sentence each: what is wrong and what to do.
    pub reasons: Vec<String>,
}

impl StatusReport {
    /// Judges the report. The sentences may hold text from outside: escape them where they are
    /// displayed. A grace period is not ill (it is there to be used); the late heartbeat
    /// that led to it is.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut reasons = Vec::new();
        if self.age_s > REPORT_STALE_S {
            reasons.push(format!(
                "The agent has not updated its report for {}: it hangs. Look at \
                 `journalctl -u vpn-node-agent`, then restart it.",
                shown_seconds(self.age_s)
            ));
        }
        if self.enrolled {
            self.judge_verification(&mut reasons);
            self.judge_heartbeat(&mut reasons);
        } else {
            reasons.push("This host is not enrolled. Run `vpn-node enroll` as root.".to_owned());
        }
        self.judge_backends(&mut reasons);
        self.judge_ledger(&mut reasons);
        Health {
            ok: reasons.is_empty(),
            reasons,
        }
    }

    /// What is worth a word on a host that may be well: one short clause each, without a full stop.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let low = self.ledger.low_space_bytes;
        let low = low.map(|_| "the disk of the agent's state is nearly full".to_owned());
        low.into_iter().collect()
    }

    fn judge_verification(&self, reasons: &mut Vec<String>) {
        let verification = &self.verification;
        match verification.state {
            VerificationState::Verified | VerificationState::Grace => {}
            VerificationState::Unverified if verification.for_s <= STARTING_S => {}
            VerificationState::Unverified => reasons.push(format!(
                "The controller has not verified this host for {}: {} Check that the controller \
                 can be reached from here.",
                shown_seconds(verification.for_s),
                sentence(&verification.detail)
            )),
            VerificationState::Lapsed => reasons.push(format!(
                "The authorisation has lapsed: {} Look at this server on the controller.",
                sentence(&verification.detail)
            )),
        }
    }

    fn judge_heartbeat(&self, reasons: &mut Vec<String>) {
        let late_after = HEARTBEAT_LATE_S.max(self.heartbeat_interval_s.saturating_mul(3));
        let error = match &self.last_heartbeat.last_error {
            Some(error) => format!(" Last error: {}", sentence(error)),
            None => String::new(),
        };
        match self.last_heartbeat.seconds_ago {
            Some(ago) if ago > late_after => reasons.push(format!(
                "The controller last answered a heartbeat {} ago.{error}",
                shown_seconds(ago)
            )),
            None if self.uptime_s > STARTING_S => reasons.push(format!(
                "The controller has answered no heartbeat since the agent started.{error}"
            )),
            _ => {}
        }
        if self.last_heartbeat.accepted == Some(false) && !self.has_told_the_refusal() {
            reasons.push(format!(
                "The controller refuses this host's heartbeats.{error} Look at this server on the \
                 controller."
            ));
        }
    }

    /// Whether the lapse was told with the same words of the controller: a stopped host's detail
    /// begins with them.
    fn has_told_the_refusal(&self) -> bool {
        let error = self.last_heartbeat.last_error.as_deref();
        self.verification.state == VerificationState::Lapsed
            && error.is_some_and(|error| self.verification.detail.starts_with(error))
    }

    fn judge_backends(&self, reasons: &mut Vec<String>) {
        for backend in &self.backends {
            if backend.was_up && backend.state == BackendState::Unavailable {
                reasons.push(format!(
                    "The VPN backend {} {} no longer answers: {} Check that VPN service.",
                    backend.kind,
                    backend.instance,
                    sentence(backend.error.as_deref().unwrap_or("no reason known"))
                ));
            }
        }
    }

    fn judge_ledger(&self, reasons: &mut Vec<String>) {
        if let Some(error) = &self.ledger.error {
            reasons.push(format!(
                "Connection records cannot be stored: {}",
                sentence(error)
            ));
        }
    }
}

/// Other layers' texts with a full stop, so that the next sentence does not run into them.
fn sentence(text: &str) -> String {
    let stop = if text.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    format!("{text}{stop}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::report::BackendStatus;

    fn well() -> StatusReport {
        let mut report = StatusReport::starting("1", "gw", 1, Duration::ZERO);
        report.enrolled = true;
        report.uptime_s = 10_000;
        report.verification.state = VerificationState::Verified;
        report.last_heartbeat.seconds_ago = Some(12);
        report.last_heartbeat.accepted = Some(true);
        report
    }

    fn reason_with(change: impl FnOnce(&mut StatusReport)) -> String {
        let mut report = well();
        change(&mut report);
        let health = report.health();
        assert_eq!(health.ok, health.reasons.is_empty());
        assert!(health.reasons.len() <= 1, "{:?}", health.reasons);
        health.reasons.into_iter().next().unwrap_or_default()
    }

    #[test]
    fn a_verified_agent_is_well_and_so_is_grace() {
        assert_eq!(reason_with(|_| {}), "");
        assert_eq!(
            reason_with(|r| r.verification.state = VerificationState::Grace),
            ""
        );
    }

    #[test]
    fn each_illness_has_its_own_reason() {
        let lapsed = reason_with(|r| r.verification.state = VerificationState::Lapsed);
        assert!(lapsed.contains("lapsed"), "{lapsed}");
        let stuck = reason_with(|r| r.age_s = REPORT_STALE_S + 1);
        assert!(stuck.contains("hangs"), "{stuck}");
        let late = reason_with(|r| r.last_heartbeat.seconds_ago = Some(301));
        assert!(late.contains("5 min 1 s ago"), "{late}");
        let silent = reason_with(|r| r.last_heartbeat.seconds_ago = None);
        assert!(silent.contains("no heartbeat"), "{silent}");
        let refused = reason_with(|r| r.last_heartbeat.accepted = Some(false));
        assert!(refused.contains("refuses"), "{refused}");
        let ledger = reason_with(|r| r.ledger.error = Some("disk full".into()));
        assert!(ledger.contains("disk full"), "{ledger}");
        let gone = reason_with(|r| r.enrolled = false);
        assert!(gone.contains("not enrolled"), "{gone}");
    }

    #[test]
    fn a_slow_interval_and_a_young_agent_are_given_time() {
        assert_eq!(
            reason_with(|r| {
                r.heartbeat_interval_s = 600;
                r.last_heartbeat.seconds_ago = Some(1500);
            }),
            ""
        );
        assert_eq!(
            reason_with(|r| {
                r.uptime_s = 20;
                r.last_heartbeat = Default::default();
                r.verification.state = VerificationState::Unverified;
            }),
            ""
        );
    }

    #[test]
    fn sentences_do_not_run_into_each_other() {
        let lapsed = reason_with(|r| {
            r.verification.state = VerificationState::Lapsed;
            r.verification.detail = "revoked".into();
        });
        assert!(lapsed.contains("revoked. Look"), "{lapsed}");
    }

    #[test]
    fn a_refusal_that_stopped_the_host_is_told_once() {
        let stopped = |detail: &str| {
            let mut report = well();
            report.verification.state = VerificationState::Lapsed;
            report.verification.detail = detail.into();
            report.last_heartbeat.accepted = Some(false);
            report.last_heartbeat.last_error = Some("this server is revoked".into());
            report.health().reasons.len()
        };
        assert_eq!(stopped("this server is revoked. The one way back: …"), 1);
        assert_eq!(stopped("the lease is over"), 2);
    }

    #[test]
    fn what_needs_no_alarm_yet_is_remarked() {
        let mut report = well();
        assert!(report.remarks().is_empty());
        report.ledger.low_space_bytes = Some(3 << 20);
        assert!(report.health().ok);
        assert_eq!(report.remarks().len(), 1);
    }

    #[test]
    fn only_a_backend_that_was_up_counts() {
        let backend = |was_up| BackendStatus {
            kind: "wireguard".into(),
            instance: "wg0".into(),
            state: BackendState::Unavailable,
            was_up,
            error: None,
            sessions: 0,
            activity: super::super::Activity::default(),
        };
        assert_eq!(reason_with(|r| r.backends = vec![backend(false)]), "");
        let lost = reason_with(|r| r.backends = vec![backend(true)]);
        assert!(lost.contains("wireguard wg0 no longer"), "{lost}");
    }
}
