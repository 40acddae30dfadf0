//! When to speak: the heartbeat's interval with jitter, and how retries back off.
//!
//! All waiting is by the boot clock. Jitter keeps a fleet from speaking in one instant, most of
//! all after an outage of its controller.

use std::time::Duration;

use rand_core::Rng;

/// The interval until the controller says another, as `docs/protocol.md` has it.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
/// What the controller may set: below, a host would do little else; above, a dead host would go
/// unnoticed for too long.
pub const INTERVAL_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(3600));
/// First upper bound of a retry's wait.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// Last upper bound: after an outage of days a host is back within two minutes.
const BACKOFF_LAST: Duration = Duration::from_secs(120);
/// The longest wait that a `Retry-After` can impose.
const RETRY_AFTER_MOST: Duration = Duration::from_secs(600);

/// The wait before attempt `failures + 1`: full jitter, uniform in `0..bound`, where the bound
/// doubles with each failure. `retry_after` (RFC 9110 section 10.2.3) is waited for first, so
/// that the jitter spreads what comes after it.
pub fn backoff(
    failures: u32,
    retry_after: Option<Duration>,
    rng: &mut (impl Rng + ?Sized),
) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << failures.min(16));
    let wait = uniform(doubled.min(BACKOFF_LAST), rng);
    wait + retry_after.unwrap_or_default().min(RETRY_AFTER_MOST)
}

/// The wait from one answered heartbeat to the next: the interval, give or take a tenth.
pub fn next_heartbeat(interval: Duration, rng: &mut (impl Rng + ?Sized)) -> Duration {
    interval.mul_f64(0.9) + uniform(interval.mul_f64(0.2), rng)
}

/// The interval that a controller asked for, within bounds.
#[must_use]
pub fn bounded_interval(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds)).clamp(INTERVAL_BOUNDS.0, INTERVAL_BOUNDS.1)
}

/// Uniform in `0..bound`.
pub fn uniform(bound: Duration, rng: &mut (impl Rng + ?Sized)) -> Duration {
    // 2^-32 of the bound is finer than any timer.
    bound.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))
}
