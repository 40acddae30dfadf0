//! What a reader remembers of a failure, so that it is logged when it begins and when it ends.

use std::mem::{self, Discriminant};

use crate::core::Now;
use crate::core::sessions::Stamp;

/// Whether one thing can be read: which kind of failure it has, and since when it has failed. The
/// words for the log are the backend's own.
pub(super) struct Health<E>(Option<(Discriminant<E>, Stamp)>);

/// A failure that was just noted.
pub(super) struct Failure {
    /// Since when it fails, whichever way.
    pub(super) since: Stamp,
    /// It has just begun, or became another failure.
    pub(super) is_news: bool,
}

impl<E> Health<E> {
    /// Notes a failure.
    pub(super) fn failed(&mut self, error: &E, now: Now) -> Failure {
        let is_news = self.would_be_news(error);
        let since = self.0.map_or(now, |(_, since)| since);
        self.0 = Some((mem::discriminant(error), since));
        Failure { since, is_news }
    }

    /// Whether this failure is not the one that it has already.
    pub(super) fn would_be_news(&self, error: &E) -> bool {
        self.0
            .is_none_or(|(known, _)| known != mem::discriminant(error))
    }

    /// It can be read. Returns whether that is news.
    pub(super) fn recovered(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Whether it fails.
    pub(super) fn fails(&self) -> bool {
        self.0.is_some()
    }
}

impl<E> Default for Health<E> {
    fn default() -> Self {
        Self(None)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[expect(dead_code, reason = "what a failure holds does not matter")]
    enum Error {
        Gone(u8),
        Denied,
    }

    #[test]
    fn a_failure_is_news_when_it_begins_or_becomes_another_and_dates_from_the_first() {
        let first = Now {
            boot: Duration::from_secs(5),
            wall_ms: 1_795_000_005_000,
        };
        let later = first.after(Duration::from_secs(1));
        let mut health = Health::default();
        assert!(!health.fails() && !health.recovered());
        for (error, is_news) in [
            (Error::Gone(1), true),
            (Error::Gone(2), false),
            (Error::Denied, true),
            (Error::Gone(1), true),
        ] {
            assert_eq!(health.would_be_news(&error), is_news);
            let now = if health.fails() { later } else { first };
            let failure = health.failed(&error, now);
            assert_eq!((failure.since, failure.is_news), (first, is_news));
        }
        assert!(health.recovered());
        assert!(!health.fails() && !health.recovered());
        let failure = health.failed(&Error::Denied, later);
        assert_eq!((failure.since, failure.is_news), (later, true));
    }
}
