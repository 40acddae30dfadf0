//! The one thing that a gate asks of a report: may this host serve, and for how long?
//!
//! It is answered for the instant of the question and not for the one of the report, so a lease
//! ends to the second, whatever the event loop is doing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{SCHEMA, StatusReport, VerificationState};
use crate::core::Now;

/// The answer to "authorisation". Times are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorisationAnswer {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The state now. From verified to grace it may follow with the next report only.
    pub state: VerificationState,
    /// How long it lasts without another word from the controller (verified, grace).
    pub valid_for_ms: Option<u64>,
    /// How old the report is that this comes from. The loop makes one every few seconds.
    pub age_ms: u64,
    /// One sentence for people: why it is in this state. Not for users who see the summary only.
    pub detail: Option<String>,
}

impl StatusReport {
    /// The authorisation at `now`. A lease ends by the clock that ran further, as in the core: a
    /// wall clock that was set back lengthens nothing.
    #[must_use]
    pub fn authorisation(&self, now: Now) -> AuthorisationAnswer {
        let left = self.authorised_until.map(|until| {
            let wall = u64::try_from(until.wall_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
            until
                .boot
                .saturating_sub(now.boot)
                .min(Duration::from_millis(wall))
        });
        let left = left.filter(|left| !left.is_zero());
        let state = match (self.verification.state, left) {
            (VerificationState::Verified | VerificationState::Grace, None) => {
                VerificationState::Lapsed
            }
            (state, _) => state,
        };
        let ended = state != self.verification.state;
        AuthorisationAnswer {
            schema: SCHEMA,
            state,
            valid_for_ms: left.map(milliseconds),
            age_ms: milliseconds(now.boot.saturating_sub(self.made_at)),
            detail: Some(match ended {
                true => "The lease of the controller is over.".to_owned(),
                false => self.verification.detail.clone(),
            }),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MADE: Now = Now {
        boot: Duration::from_secs(100),
        wall_ms: 1_000_000,
    };

    fn verified(seconds: u64) -> StatusReport {
        let mut report = StatusReport::starting("1", "gw", 1, MADE.boot);
        report.verification.state = VerificationState::Verified;
        report.authorised_until = Some(MADE.after(Duration::from_secs(seconds)));
        report
    }

    #[test]
    fn the_remaining_time_is_that_of_the_question() {
        let answer = verified(60).authorisation(MADE.after(Duration::from_millis(12_345)));
        assert_eq!(answer.state, VerificationState::Verified);
        assert_eq!(answer.valid_for_ms, Some(47_655));
        assert_eq!(answer.age_ms, 12_345);
    }

    #[test]
    fn a_lease_ends_without_a_new_report_and_to_the_millisecond() {
        let at = |ms| {
            verified(60)
                .authorisation(MADE.after(Duration::from_millis(ms)))
                .state
        };
        assert_eq!(at(59_999), VerificationState::Verified);
        assert_eq!(at(60_000), VerificationState::Lapsed);
    }

    #[test]
    fn verified_without_an_end_is_not_believed() {
        let mut report = verified(60);
        report.authorised_until = None;
        let answer = report.authorisation(MADE);
        assert_eq!(
            (answer.state, answer.valid_for_ms),
            (VerificationState::Lapsed, None)
        );
    }

    proptest! {
        /// Whatever the wall clock says, the boot clock alone ends the lease in time.
        #[test]
        fn no_wall_clock_lengthens_a_lease(wall_ms in any::<i64>(), passed_s in 60u64..1_000_000) {
            let later = Now { boot: MADE.boot + Duration::from_secs(passed_s), wall_ms };
            prop_assert_eq!(verified(60).authorisation(later).state, VerificationState::Lapsed);
        }
    }
}
