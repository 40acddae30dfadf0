//! The only place of the agent that asks the kernel for the time.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::core::Now;

/// Reads `CLOCK_BOOTTIME` and `CLOCK_REALTIME` together.
///
/// Both exist on every Linux since 2.6.39, so a failure means a sandbox that forbids the call;
/// the agent cannot run there, and says so by a panic at its very first reading.
#[must_use]
pub fn now() -> Now {
    Now {
        boot: read(ClockId::CLOCK_BOOTTIME),
        wall_ms: i64::try_from(read(ClockId::CLOCK_REALTIME).as_millis()).unwrap_or(i64::MAX),
    }
}

/// Reads `CLOCK_MONOTONIC`, which stands still while the host is suspended: for what is measured of
/// this process itself, and for systemd, which counts by it.
///
/// As [`now`], it panics where the call is forbidden.
#[must_use]
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock)
        .expect("clock_gettime must be allowed (see the unit's SystemCallFilter=)");
    Duration::from(time)
}
