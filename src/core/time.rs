//! Time as an argument: the core never asks for it.

use std::time::Duration;

/// One reading of both clocks of the host, taken together.
///
/// `boot` orders events and measures durations (it goes on during suspend and cannot be set);
/// `wall_ms` is what people read, and may be wrong by years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME`: time since boot, suspend included (clock_gettime(2)).
    pub boot: Duration,
    /// `CLOCK_REALTIME` in milliseconds since the Unix epoch (clock_gettime(2)). Advisory.
    pub wall_ms: i64,
}

impl Now {
    /// The same instant moved forward by `by` on both clocks.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        Self {
            boot: self.boot.saturating_add(by),
            wall_ms: self.wall_ms.saturating_add(by_ms),
        }
    }
}
