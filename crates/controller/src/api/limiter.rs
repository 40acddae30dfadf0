//! Limits for what a remote can trigger: events and enrolments, in bounded memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use std::net::IpAddr;

use axum::http::StatusCode;

use super::App;
use super::problem::Problem;
use crate::places::source_of;

/// One event a minute for each kind and source.
const EVENT_WINDOW_MS: i64 = 60_000;
/// Enrolment requests, or introductions, of one source a minute: a whole rack behind one address may enrol at once.
const ENROLMENTS_A_MINUTE: u64 = 600;
/// How often a full table is searched for windows that are over.
const SWEEP_EVERY_MS: u64 = 1000;
/// Sources remembered at once; what comes beyond them shares one entry.
const MAX_SOURCES: usize = 10_000;

/// Counts in fixed windows.
#[derive(Default)]
struct Windows {
    by_source: HashMap<(&'static str, String), Window>,
    swept_ms: i64,
}

#[derive(Clone, Copy)]
struct Window {
    since_ms: i64,
    count: u64,
    /// Of the window before.
    before: u64,
}

impl Windows {
    /// Counts one, and returns the window: its count includes this one.
    fn count(&mut self, kind: &'static str, source: String, now_ms: i64, width_ms: i64) -> Window {
        // A clock that was set back begins a new window as well.
        let over = |w: &Window| !(w.since_ms..w.since_ms + width_ms).contains(&now_ms);
        let mut key = (kind, source);
        if self.by_source.len() >= MAX_SOURCES && !self.by_source.contains_key(&key) {
            // At most once a second: many sources must not buy a full sweep each.
            if now_ms.abs_diff(self.swept_ms) >= SWEEP_EVERY_MS {
                self.swept_ms = now_ms;
                self.by_source.retain(|_, window| !over(window));
            }
            if self.by_source.len() >= MAX_SOURCES {
                key.1 = "others".to_owned();
            }
        }
        let window = self.by_source.entry(key).or_insert(Window {
            since_ms: now_ms,
            count: 0,
            before: 0,
        });
        if over(window) {
            *window = Window {
                since_ms: now_ms,
                count: 0,
                before: window.count,
            };
        }
        window.count += 1;
        *window
    }
}

/// One event for each kind and source in a window.
#[derive(Default)]
pub(super) struct EventLimiter(Mutex<Windows>);

impl EventLimiter {
    /// `Some` when the event may be recorded, with the number of those suppressed since the last.
    pub(super) fn allow(&self, kind: &'static str, source: String, now_ms: i64) -> Option<u64> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.count(kind, source, now_ms, EVENT_WINDOW_MS);
        (window.count == 1).then(|| window.before.saturating_sub(1))
    }
}

/// So many requests of one source in a minute; one limiter for each thing that is asked.
#[derive(Default)]
pub(super) struct RateLimiter(Mutex<Windows>);

impl RateLimiter {
    /// Seconds to wait when there were too many.
    pub(super) fn check(&self, source: String, now_ms: i64) -> Result<(), u32> {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.count("request", source, now_ms, 60_000);
        if window.count <= ENROLMENTS_A_MINUTE {
            return Ok(());
        }
        let left_ms = window.since_ms + 60_000 - now_ms;
        Err(u32::try_from(left_ms / 1000 + 1).unwrap_or(60))
    }
}

impl App {
    /// Refuses a source that asked too often within a minute; `what` is in the plural.
    pub(super) fn limited(
        &self,
        limiter: &RateLimiter,
        peer: IpAddr,
        what: &str,
    ) -> Result<(), Problem> {
        limiter
            .check(source_of(peer), self.now_ms())
            .map_err(|seconds| {
                Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limited",
                    format!("too many {what} from this address within a minute"),
                )
                .retry_after(seconds)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_event_tells_how_many_were_suppressed() {
        let limiter = EventLimiter::default();
        let at = |now_ms| limiter.allow("k", "s".into(), now_ms);
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(59_999)), (None, None));
        assert_eq!(at(60_000), Some(2));
        assert_eq!(limiter.allow("other", "s".into(), 60_000), Some(0));
    }

    #[test]
    fn memory_stays_bounded_and_one_source_does_not_hide_another() {
        let limiter = EventLimiter::default();
        for n in 0..3 * MAX_SOURCES {
            limiter.allow("k", n.to_string(), 0);
        }
        let held = limiter.0.lock().unwrap().by_source.len();
        assert!(held <= MAX_SOURCES + 1, "{held}");
        // A minute later there is room again.
        assert_eq!(limiter.allow("k", "new".into(), 61_000), Some(0));
    }

    #[test]
    fn too_many_enrolments_are_told_when_to_come_back() {
        let limiter = RateLimiter::default();
        for _ in 0..ENROLMENTS_A_MINUTE {
            assert_eq!(limiter.check("a".into(), 0), Ok(()));
        }
        assert_eq!(limiter.check("a".into(), 30_000), Err(31));
        assert_eq!(limiter.check("b".into(), 30_000), Ok(()));
        assert_eq!(limiter.check("a".into(), 60_000), Ok(()));
    }
}
