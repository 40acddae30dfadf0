//! The gate: may what is bound to it run now? Pure; `vpn-node gate hold` does what it says.
//!
//! It looks at the agent's answers about the authorisation. It opens on the first fresh answer
//! that says verified or grace, and closes on the first that says anything else. An agent that
//! says nothing, or only repeats an old report, is given a few looks and no more; the lease that
//! it told last is never outlived (`docs/gate.md`).

use std::time::Duration;

use thiserror::Error;
use vpn_node_protocol::limits::MAX_LEASE_S;

use super::report::{AuthorisationAnswer, VerificationState};
use super::{shown, shown_seconds};

/// From one look to the next.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A running agent answers in a millisecond; a stopped one (SIGSTOP) costs a look no more than this.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Looks without an answer after which an open gate closes: with the two figures above about four
/// seconds, well within the unit's `WatchdogSec=10`. Looks and not seconds: a machine that was
/// suspended has not been asking.
pub const MAX_SILENT: u32 = 4;

/// The same for answers that come from an old report. The agent's loop may need its 5 seconds to
/// make the first one after a suspend, which ages every report at once.
pub const MAX_STALE: u32 = 7;

/// Oldest report that is believed: three times what the loop makes sure of (every 5 seconds), so
/// that one slow write to a disk cuts nobody off.
pub const MAX_REPORT_AGE: Duration = Duration::from_secs(15);

/// How long a closed gate waits before it ends and is started anew. While it waits, systemd keeps
/// jobs that need it (a boot, `systemctl restart` of a bound unit, apt) waiting too: this is the
/// time that systemd's own DefaultTimeoutStartSec= gives any unit. The new start queues them again.
pub const WAIT_AT_MOST: Duration = Duration::from_secs(90);

/// Why a gate is closed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Closed {
    /// Nobody answered; the sentence is the client's.
    #[error("{0}")]
    Silent(String),
    /// The report is old.
    #[error(
        "the agent answers, but has made no new report for more than {}: its event loop hangs",
        shown_seconds(MAX_REPORT_AGE.as_secs())
    )]
    Stale,
    /// The controller has not vouched for this host since the agent started.
    #[error("this host is unverified: {}", shown(.0))]
    Unverified(String),
    /// The controller refused it, or was silent for too long.
    #[error("the authorisation of this host has lapsed: {}", shown(.0))]
    Lapsed(String),
    /// The lease that the agent told last is over.
    #[error("the lease that the agent told last is over")]
    LeaseOver,
}

impl Closed {
    /// How many looks in a row may end like this before an open gate closes; a clear no ends it.
    fn looks(&self) -> u32 {
        match self {
            Self::Silent(_) => MAX_SILENT,
            Self::Stale => MAX_STALE,
            Self::Unverified(_) | Self::Lapsed(_) | Self::LeaseOver => 1,
        }
    }
}

/// What one answer says: open for so long, or not.
///
/// # Errors
/// [`Closed`]: why not.
pub fn judge(answer: &AuthorisationAnswer) -> Result<Duration, Closed> {
    let detail = answer.detail.clone().unwrap_or_default();
    match (answer.state, answer.valid_for_ms) {
        (VerificationState::Unverified, _) => Err(Closed::Unverified(detail)),
        (VerificationState::Lapsed, _) => Err(Closed::Lapsed(detail)),
        _ if Duration::from_millis(answer.age_ms) > MAX_REPORT_AGE => Err(Closed::Stale),
        // No honest agent says so: without an end it is no lease.
        (VerificationState::Verified | VerificationState::Grace, None | Some(0)) => {
            Err(Closed::LeaseOver)
        }
        (VerificationState::Verified | VerificationState::Grace, Some(left)) => {
            let longest = Duration::from_secs(u64::from(MAX_LEASE_S));
            Ok(Duration::from_millis(left).min(longest))
        }
    }
}

/// What to do after a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stay closed and look again.
    Wait(Closed),
    /// Open: tell systemd so.
    Open,
    /// Stay open: a fresh answer, so systemd's watchdog may hear of it.
    Hold,
    /// Stay open for now, without a word to the watchdog.
    Doubt(Closed),
    /// Close: end.
    Close(Closed),
    /// It waited long enough: end, and be started anew.
    StartAnew,
}

/// One life of the gate's process.
#[derive(Clone, Debug)]
pub struct Gate {
    started: Duration,
    open: bool,
    /// The end of the lease that was told last, by `CLOCK_BOOTTIME`.
    until: Duration,
    misses: u32,
}

impl Gate {
    /// A closed gate. Instants are `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            started: now,
            open: false,
            until: now,
            misses: 0,
        }
    }

    /// What follows from `heard`, which was asked for at `asked`. After [`Step::Close`] and
    /// [`Step::StartAnew`] the process ends; it does not look again.
    pub fn look(&mut self, heard: Result<&AuthorisationAnswer, String>, asked: Duration) -> Step {
        match heard.map_err(Closed::Silent).and_then(judge) {
            Ok(left) => {
                self.until = asked.saturating_add(left);
                self.misses = 0;
                if std::mem::replace(&mut self.open, true) {
                    Step::Hold
                } else {
                    Step::Open
                }
            }
            Err(_) if !self.open && asked.saturating_sub(self.started) >= WAIT_AT_MOST => {
                Step::StartAnew
            }
            Err(why) if !self.open => Step::Wait(why),
            Err(why) => {
                self.misses += 1;
                if self.misses >= why.looks() {
                    Step::Close(why)
                } else if asked >= self.until {
                    Step::Close(Closed::LeaseOver)
                } else {
                    Step::Doubt(why)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use VerificationState::{Grace, Lapsed, Unverified, Verified};

    fn answer(state: VerificationState, valid_for_ms: u64, age_ms: u64) -> AuthorisationAnswer {
        AuthorisationAnswer {
            schema: 1,
            state,
            valid_for_ms: Some(valid_for_ms),
            age_ms,
            detail: None,
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn opened() -> Gate {
        let mut gate = Gate::new(at(0));
        assert_eq!(gate.look(Ok(&answer(Grace, 60_000, 0)), at(1)), Step::Open);
        gate
    }

    fn silence() -> Result<&'static AuthorisationAnswer, String> {
        Err("nobody".to_owned())
    }

    #[test]
    fn it_opens_on_verified_and_grace_only_and_closes_at_once() {
        for (state, opens) in [
            (Verified, true),
            (Grace, true),
            (Unverified, false),
            (Lapsed, false),
        ] {
            let mut gate = Gate::new(at(0));
            let step = gate.look(Ok(&answer(state, 60_000, 0)), at(1));
            assert_eq!(step == Step::Open, opens, "{state:?}: {step:?}");
            let step = opened().look(Ok(&answer(state, 60_000, 0)), at(2));
            assert_eq!(step == Step::Hold, opens, "{state:?}: {step:?}");
            assert_eq!(
                matches!(step, Step::Close(_)),
                !opens,
                "{state:?}: {step:?}"
            );
        }
    }

    #[test]
    fn silence_and_old_reports_are_given_a_few_looks() {
        let old = answer(Verified, 60_000, 15_001);
        for (stale, looks) in [(false, 4), (true, 7)] {
            let heard = || if stale { Ok(&old) } else { silence() };
            let mut gate = opened();
            for second in 1..looks {
                let step = gate.look(heard(), at(second));
                assert!(matches!(step, Step::Doubt(_)), "{step:?}");
            }
            assert!(matches!(gate.look(heard(), at(looks)), Step::Close(_)));
        }
    }

    #[test]
    fn a_fresh_answer_between_starts_the_count_again() {
        let mut gate = opened();
        for second in 0..30 {
            let heard = answer(Verified, 60_000, 0);
            let step = match second % 4 {
                3 => gate.look(Ok(&heard), at(second)),
                _ => gate.look(silence(), at(second)),
            };
            assert!(matches!(step, Step::Doubt(_) | Step::Hold), "{step:?}");
        }
    }

    #[test]
    fn an_old_report_does_not_hide_a_no() {
        let step = opened().look(Ok(&answer(Lapsed, 0, 3_600_000)), at(2));
        assert!(matches!(step, Step::Close(Closed::Lapsed(_))), "{step:?}");
    }

    #[test]
    fn the_lease_that_was_told_is_not_outlived_in_silence() {
        let mut gate = Gate::new(at(0));
        gate.look(Ok(&answer(Verified, 1500, 0)), at(10));
        assert!(matches!(gate.look(silence(), at(11)), Step::Doubt(_)));
        assert_eq!(gate.look(silence(), at(12)), Step::Close(Closed::LeaseOver));
    }

    #[test]
    fn a_closed_gate_waits_a_while_and_is_started_anew() {
        let mut gate = Gate::new(at(1000));
        assert!(matches!(gate.look(silence(), at(1089)), Step::Wait(_)));
        assert_eq!(gate.look(silence(), at(1090)), Step::StartAnew);
    }

    proptest! {
        /// Whatever is heard: the watchdog hears only of fresh answers that say yes, and an open
        /// gate is never without one for more than `MAX_STALE` looks.
        #[test]
        fn the_watchdog_hears_only_of_fresh_good_answers(
            looks in proptest::collection::vec((0u8..5, 0u64..40_000, 0u64..40_000), 1..60)
        ) {
            let mut gate = Gate::new(at(0));
            let mut without = 0;
            for (second, (kind, valid, age)) in looks.into_iter().enumerate() {
                let heard = [Verified, Grace, Lapsed, Unverified]
                    .get(usize::from(kind))
                    .map(|state| answer(*state, valid, age));
                let good = heard.as_ref().is_some_and(|a| {
                    matches!(a.state, Verified | Grace) && valid > 0 && age <= 15_000
                });
                without = if good { 0 } else { without + 1 };
                let asked = Duration::from_secs(second as u64);
                match gate.look(heard.as_ref().ok_or_else(String::new), asked) {
                    Step::Open | Step::Hold => prop_assert!(good),
                    Step::Doubt(why) => prop_assert!(without < why.looks()),
                    Step::Wait(_) => prop_assert!(!good),
                    Step::Close(_) | Step::StartAnew => {
                        prop_assert!(!good);
                        break;
                    }
                }
            }
        }
    }
}
