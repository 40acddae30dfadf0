//! How fast bytes come: too slow to go on, and what people are told. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Seconds over which the rate is told.
const TOLD_OVER: usize = 5;

/// A minimum over windows: a peer that sends a byte now and then is given up after one window,
/// however long the file is. There is no limit on the whole: a slow line is no attack.
#[derive(Clone, Copy, Debug)]
pub(super) struct MinimumRate {
    /// Bytes a second.
    pub(super) least: u64,
    pub(super) window: Duration,
}

/// One file's windows.
#[derive(Debug)]
pub(super) struct Watch {
    rule: MinimumRate,
    began: Duration,
    bytes: u64,
}

impl MinimumRate {
    pub(super) fn watch(self, now: Duration) -> Watch {
        Watch {
            rule: self,
            began: now,
            bytes: 0,
        }
    }
}

impl Watch {
    /// How long may be waited for more, before [`Self::took`] is asked again.
    pub(super) fn patience(&self, now: Duration) -> Duration {
        let end = self.began.saturating_add(self.rule.window);
        // A timer may end early by another clock; then it is asked once more.
        end.saturating_sub(now).max(Duration::from_millis(1))
    }

    /// So many bytes came, maybe none.
    ///
    /// # Errors
    /// The rate of the window that is over, in bytes a second, if that is too low.
    pub(super) fn took(&mut self, bytes: u64, now: Duration) -> Result<(), u64> {
        self.bytes = self.bytes.saturating_add(bytes);
        let passed = now.saturating_sub(self.began);
        if passed < self.rule.window {
            return Ok(());
        }
        let rate = per_second(self.bytes, passed);
        if rate < self.rule.least {
            return Err(rate);
        }
        *self = self.rule.watch(now);
        Ok(())
    }
}

/// The rate of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Meter {
    samples: VecDeque<(Duration, u64)>,
}

impl Meter {
    /// So many bytes are here at this instant; called about once a second. Gives bytes a second.
    pub(super) fn sample(&mut self, bytes: u64, now: Duration) -> u64 {
        while self.samples.len() > TOLD_OVER {
            self.samples.pop_front();
        }
        self.samples.push_back((now, bytes));
        let (since, before) = self.samples[0];
        per_second(bytes.saturating_sub(before), now.saturating_sub(since))
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    let millis = time.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: MinimumRate = MinimumRate {
        least: 1000,
        window: Duration::from_secs(30),
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_drop_a_second_ends_after_one_window_and_a_burst_does_not_pay_for_silence() {
        let mut watch = RULE.watch(s(100));
        for second in 101..130 {
            assert_eq!(watch.took(1, s(second)), Ok(()));
        }
        assert_eq!(watch.took(1, s(130)), Err(1));

        let mut watch = RULE.watch(s(0));
        assert_eq!(watch.took(1_000_000, s(1)), Ok(()));
        assert_eq!(watch.took(0, s(30)), Ok(()));
        assert_eq!(watch.patience(s(31)), s(29));
        assert_eq!(watch.took(0, s(60)), Err(0), "the next window counts alone");
    }

    #[test]
    fn the_told_rate_is_that_of_the_last_seconds() {
        let mut meter = Meter::default();
        assert_eq!(
            meter.sample(5_000_000, s(10)),
            0,
            "what was here before is no rate"
        );
        for second in 11..=30 {
            assert_eq!(
                meter.sample(5_000_000 + (second - 10) * 1000, s(second)),
                1000
            );
        }
        for second in 31..=40 {
            meter.sample(5_020_000, s(second));
        }
        assert_eq!(meter.sample(5_020_000, s(41)), 0);
    }

    proptest! {
        #[test]
        fn who_keeps_the_rate_is_never_given_up(steps in proptest::collection::vec(1_u64..20_000, 1..200)) {
            let mut watch = RULE.watch(Duration::ZERO);
            let mut now = Duration::ZERO;
            for millis in steps {
                now += Duration::from_millis(millis);
                prop_assert_eq!(watch.took(millis.max(1) + 1, now), Ok(()));
            }
        }
    }
}
