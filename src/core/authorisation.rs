//! May this host serve? Unverified, verified, grace or lapsed (`docs/protocol.md`,
//! "Authorisation").
//!
//! Only in memory: a started agent is unverified until the controller has judged a challenge.
//! Silence of the controller is tolerated for the lease (30 minutes at most), counted from the
//! *sending* of the last request that was answered well, by whichever clock ran further: a clock
//! that is set back, a suspended host or a paused machine lengthens nothing.

use std::time::Duration;

use vpn_node_protocol::limits::MAX_LEASE_S;
use vpn_node_protocol::message::{Authorisation as State, Standing, Verdict};

use crate::core::Now;

/// The agent's standing, as far as it knows itself.
#[derive(Clone, Debug, Default)]
pub struct Authorisation {
    /// Set once a challenge was answered in this run: before that, a `verified` can only be an
    /// old reply.
    challenged: bool,
    verified: Option<Lease>,
    /// It was verified in this run, or stopped, and is not any more: only `verified` ends that.
    lapsed: bool,
    /// The controller said stop: revoked or quarantined, with its sentence.
    stopped: Option<(&'static str, String)>,
    standing: Option<Standing>,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    /// When the request was sent whose reply said `verified`.
    from: Now,
    lasts: Duration,
}

impl Authorisation {
    /// An answer to a challenge is on its way: the next verdict counts.
    pub fn challenge_answered(&mut self) {
        self.challenged = true;
    }

    /// A reply came to a request that was sent at `sent`.
    pub fn judged(&mut self, standing: Standing, sent: Now) {
        self.stopped = None;
        match standing.verdict {
            Verdict::Verified if self.challenged && standing.lease_s > 0 => {
                let lasts = Duration::from_secs(u64::from(standing.lease_s.min(MAX_LEASE_S)));
                self.verified = Some(Lease { from: sent, lasts });
                self.lapsed = false;
            }
            // Before the first answered challenge this is the verdict of an earlier run.
            Verdict::Verified if !self.challenged => {}
            Verdict::Verified
            | Verdict::Unverified
            | Verdict::Failed
            | Verdict::Mismatch
            | Verdict::Pending => {
                self.lapsed |= self.verified.take().is_some();
            }
        }
        self.standing = Some(standing);
    }

    /// The controller refused this host altogether: no grace.
    /// `code` is the controller's word for it.
    pub fn stop(&mut self, code: &'static str, reason: String) {
        self.verified = None;
        self.lapsed = true;
        self.stopped = Some((code, reason));
    }

    /// Why the controller stopped this host, if it did.
    #[must_use]
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_ref().map(|(_, reason)| reason.as_str())
    }

    /// The same as a stable word.
    #[must_use]
    pub fn stopped_code(&self) -> Option<&'static str> {
        self.stopped.as_ref().map(|(code, _)| *code)
    }

    /// What the controller said last.
    #[must_use]
    pub fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    /// The state at `now`. The controller counts as silent after `silent_after`.
    #[must_use]
    pub fn state(&self, now: Now, silent_after: Duration) -> State {
        match (&self.stopped, self.verified) {
            (Some(_), _) => State::Lapsed,
            (None, None) if self.lapsed => State::Lapsed,
            (None, None) => State::Unverified,
            (None, Some(lease)) => match elapsed(lease.from, now) {
                silence if silence >= lease.lasts => State::Lapsed,
                silence if silence > silent_after => State::Grace,
                _ => State::Verified,
            },
        }
    }

    /// How long the host stays authorised without another word; none when it is not.
    #[must_use]
    pub fn remaining(&self, now: Now) -> Option<Duration> {
        let lease = self.verified.filter(|_| self.stopped.is_none())?;
        let left = lease.lasts.saturating_sub(elapsed(lease.from, now));
        Some(left).filter(|left| !left.is_zero())
    }
}

/// Grace elapsed = max(CLOCK_BOOTTIME delta, CLOCK_REALTIME delta). A wall clock that went back
/// counts nothing.
fn elapsed(from: Now, now: Now) -> Duration {
    let wall = u64::try_from(now.wall_ms.saturating_sub(from.wall_ms)).unwrap_or(0);
    now.boot
        .saturating_sub(from.boot)
        .max(Duration::from_millis(wall))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vpn_node_protocol::hardware::HardwareStatus;

    const SILENT: Duration = Duration::from_secs(75);

    fn standing(verdict: Verdict, lease_s: u32) -> Standing {
        Standing {
            verdict,
            lease_s,
            hardware_status: HardwareStatus::Verified,
            reason: None,
        }
    }

    fn verified_at(now: Now) -> Authorisation {
        let mut authorisation = Authorisation::default();
        authorisation.challenge_answered();
        authorisation.judged(standing(Verdict::Verified, 1800), now);
        authorisation
    }

    #[test]
    fn verified_then_grace_then_lapsed() {
        let start = Now {
            boot: Duration::from_secs(100),
            wall_ms: 0,
        };
        let authorisation = verified_at(start);
        let at = |s| authorisation.state(start.after(Duration::from_secs(s)), SILENT);
        assert_eq!(at(0), State::Verified);
        assert_eq!(at(75), State::Verified);
        assert_eq!(at(76), State::Grace);
        assert_eq!(at(1799), State::Grace);
        assert_eq!(at(1800), State::Lapsed);
    }

    #[test]
    fn an_old_verdict_is_worth_nothing_to_a_started_agent() {
        let mut authorisation = Authorisation::default();
        authorisation.judged(standing(Verdict::Verified, 1800), Now::default());
        assert_eq!(
            authorisation.state(Now::default(), SILENT),
            State::Unverified
        );
    }

    #[test]
    fn stopped_is_lapsed_at_once_until_the_controller_judges_again() {
        let mut authorisation = verified_at(Now::default());
        authorisation.stop("quarantined", "two holders".into());
        assert_eq!(authorisation.state(Now::default(), SILENT), State::Lapsed);
        assert_eq!(authorisation.remaining(Now::default()), None);
        authorisation.judged(standing(Verdict::Verified, 1800), Now::default());
        assert_eq!(authorisation.state(Now::default(), SILENT), State::Verified);
    }

    #[test]
    fn a_lease_of_nothing_is_no_lease() {
        let mut fresh = Authorisation::default();
        fresh.challenge_answered();
        fresh.judged(standing(Verdict::Verified, 0), Now::default());
        assert_eq!(fresh.state(Now::default(), SILENT), State::Unverified);
        let mut verified = verified_at(Now::default());
        verified.judged(standing(Verdict::Verified, 0), Now::default());
        assert_eq!(verified.state(Now::default(), SILENT), State::Lapsed);
    }

    #[test]
    fn the_controller_may_shorten_the_lease_and_not_lengthen_it() {
        let mut authorisation = verified_at(Now::default());
        authorisation.judged(standing(Verdict::Verified, u32::MAX), Now::default());
        assert_eq!(
            authorisation.remaining(Now::default()),
            Some(Duration::from_secs(1800))
        );
        authorisation.judged(standing(Verdict::Verified, 60), Now::default());
        assert_eq!(
            authorisation.remaining(Now::default()),
            Some(Duration::from_secs(60))
        );
    }

    proptest! {
        /// Whatever the wall clock does, the grace ends 30 minutes of boot clock after the sending.
        #[test]
        fn no_clock_lengthens_grace(boot_s in 0u64..1_000_000, wall_ms in any::<i64>(), later_wall_ms in any::<i64>(), passed_s in 1800u64..1_000_000) {
            let start = Now { boot: Duration::from_secs(boot_s), wall_ms };
            let later = Now { boot: Duration::from_secs(boot_s + passed_s), wall_ms: later_wall_ms };
            prop_assert_eq!(verified_at(start).state(later, SILENT), State::Lapsed);
        }
    }
}
