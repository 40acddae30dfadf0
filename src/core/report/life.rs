//! What happened to the agent between two reports that its log tells: standing, controller, releases.
//!
//! Pure. Told once each; a controller that comes and goes is told of every five minutes at most.

use std::time::Duration;

use vpn_node_release::handover::{Attempt, Phase};

use super::{StatusReport, VerificationState};
use crate::core::Now;

/// A controller that came and went is not told of again before so long: whoever stands on the line
/// must not fill the journal.
const SILENCE_TOLD_EVERY: Duration = Duration::from_secs(300);
/// An end of an update that is older when the agent first hears of it was told by a former process.
const OLD_NEWS_MS: i64 = 600_000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// The controller vouches for this host.
    Verified,
    /// It is silent, and the grace period runs.
    Grace {
        /// How long it lasts.
        left_s: Option<u64>,
    },
    /// Nobody vouches for this host any more.
    Lapsed {
        /// Why.
        detail: String,
    },
    /// The controller stopped this host.
    Stopped {
        /// A stable word: `quarantined`, `revoked`, …
        code: &'static str,
        /// Why, and what to do.
        detail: String,
    },
    /// The controller does not answer, or not well.
    ControllerSilent {
        /// `unreachable`, `busy` or `refused`.
        code: String,
        /// Why.
        detail: String,
    },
    /// It does again.
    ControllerBack,
    /// The updater is at work: `phase` of an attempt.
    Update(Box<Attempt>),
}

/// What was told.
#[derive(Debug, Default)]
pub struct Lives {
    state: VerificationState,
    stopped: Option<&'static str>,
    silent: bool,
    silence_told: Option<Duration>,
    attempt: Option<(String, Phase)>,
}

impl Lives {
    /// What is news in this report.
    pub fn news(&mut self, report: &StatusReport, now: Now) -> Vec<Life> {
        let mut news = Vec::new();
        news.extend(self.standing(report));
        news.extend(self.controller(report, now));
        news.extend(self.update(report, now));
        news
    }

    fn standing(&mut self, report: &StatusReport) -> Option<Life> {
        let verification = &report.verification;
        let (state, stopped) = (verification.state, verification.stopped);
        if (state, stopped) == (self.state, self.stopped) {
            return None;
        }
        (self.state, self.stopped) = (state, stopped);
        let detail = verification.detail.clone();
        match (state, stopped) {
            (_, Some(code)) => Some(Life::Stopped { code, detail }),
            (VerificationState::Verified, None) => Some(Life::Verified),
            (VerificationState::Grace, None) => Some(Life::Grace {
                left_s: verification.valid_for_s,
            }),
            (VerificationState::Lapsed, None) => Some(Life::Lapsed { detail }),
            (VerificationState::Unverified, None) => None,
        }
    }

    fn controller(&mut self, report: &StatusReport, now: Now) -> Option<Life> {
        let code = &report.heartbeats.last_problem;
        let silent = code != "none";
        if silent == self.silent {
            return None;
        }
        if !silent {
            self.silent = false;
            return Some(Life::ControllerBack);
        }
        let told = self.silence_told;
        if told.is_some_and(|told| now.boot < told + SILENCE_TOLD_EVERY) {
            return None;
        }
        (self.silent, self.silence_told) = (true, Some(now.boot));
        let detail = report.last_heartbeat.last_error.clone();
        Some(Life::ControllerSilent {
            code: code.clone(),
            detail: detail.unwrap_or_default(),
        })
    }

    fn update(&mut self, report: &StatusReport, now: Now) -> Option<Life> {
        let updater = report.update.as_ref()?.updater.as_ref()?;
        let attempt = updater.attempt.as_ref()?;
        let at = (attempt.id.clone(), attempt.phase);
        if self.attempt.as_ref() == Some(&at) {
            return None;
        }
        let first = self.attempt.replace(at).is_none();
        let old = now.wall_ms.saturating_sub(attempt.changed_ms) > OLD_NEWS_MS;
        let ends_long_ago = first && old && attempt.phase.is_final();
        (!ends_long_ago).then(|| Life::Update(Box::new(attempt.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{UpdateStatus, update};
    use super::*;

    fn report() -> StatusReport {
        StatusReport::starting("1.2.3", "gw", 7, Duration::ZERO)
    }

    fn at(seconds: u64) -> Now {
        Now {
            boot: Duration::from_secs(seconds),
            wall_ms: 1_000_000 + i64::try_from(seconds).unwrap() * 1000,
        }
    }

    #[test]
    fn each_change_of_the_standing_is_told_once() {
        let mut lives = Lives::default();
        let mut told = |state, stopped| {
            let mut report = report();
            report.verification.state = state;
            report.verification.stopped = stopped;
            let first = lives.news(&report, at(0));
            assert_eq!(lives.news(&report, at(1)), [], "again");
            first
        };
        use VerificationState::{Grace, Lapsed, Unverified, Verified};
        assert_eq!(told(Unverified, None), []);
        assert_eq!(told(Verified, None), [Life::Verified]);
        assert_eq!(told(Grace, None), [Life::Grace { left_s: None }]);
        assert!(matches!(told(Lapsed, None)[..], [Life::Lapsed { .. }]));
        for code in ["quarantined", "revoked"] {
            let told = told(Lapsed, Some(code));
            assert!(matches!(told[..], [Life::Stopped { code: said, .. }] if said == code));
        }
        assert_eq!(told(Verified, None), [Life::Verified]);
    }

    #[test]
    fn a_controller_that_flaps_is_told_of_every_five_minutes() {
        let mut lives = Lives::default();
        let mut told = 0;
        for second in 0..3600 {
            let mut report = report();
            if second % 2 == 1 {
                report.heartbeats.last_problem = "unreachable".to_owned();
            }
            told += lives.news(&report, at(second)).len();
        }
        assert_eq!(told, 2 * 12);
    }

    #[test]
    fn each_phase_of_an_update_is_told_but_not_an_old_end() {
        let with = |phase, changed_ms| {
            let mut status = update::sample();
            let attempt = status.attempt.as_mut().unwrap();
            (attempt.phase, attempt.changed_ms) = (phase, changed_ms);
            let mut report = report();
            report.update = Some(UpdateStatus {
                updater: Some(status),
                ..UpdateStatus::default()
            });
            report
        };
        let mut lives = Lives::default();
        assert_eq!(lives.news(&with(Phase::RolledBack, 0), at(0)), [], "old");
        let mut lives = Lives::default();
        for phase in [Phase::Staged, Phase::Probation, Phase::Installed] {
            let report = with(phase, 1_000_000);
            let news = lives.news(&report, at(1));
            assert!(matches!(&news[..], [Life::Update(told)] if told.phase == phase));
            assert_eq!(lives.news(&report, at(2)), []);
        }
    }
}
