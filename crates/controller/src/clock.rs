//! The controller's clock and its random numbers: the only place that asks the system for either.
//!
//! Instants travel as milliseconds since the Unix epoch; in the database they stand as RFC 3339
//! text in UTC with milliseconds, which sorts as it should.

use std::sync::Arc;

use jiff::Timestamp;
use uuid::{Builder, Uuid};
use vpn_node_protocol::encoding::Hex;

/// Reads the clock, in milliseconds since the Unix epoch. A value, so that tests can turn it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// 9999-12-30T00:00:00Z and 0001-01-01T00:00:00Z: what fits the text form with four-digit years.
const LATEST_MS: i64 = 253_402_128_000_000;
const EARLIEST_MS: i64 = -62_135_596_800_000;

/// The system's clock (`CLOCK_REALTIME`).
#[must_use]
pub fn system() -> Clock {
    Arc::new(now_ms)
}

/// Now, in milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The database's text for an instant, for example `2026-11-22T03:10:24.512Z`. Instants before
/// year 1 and after year 9999, which only a hostile host can name, are moved to the nearest bound.
#[must_use]
pub fn to_text(ms: i64) -> String {
    let at = Timestamp::from_millisecond(ms.clamp(EARLIEST_MS, LATEST_MS))
        .expect("the span is within jiff's");
    format!("{at:.3}")
}

/// The instant that a database text names; `None` when it is not RFC 3339.
#[must_use]
pub fn from_text(text: &str) -> Option<i64> {
    text.parse::<Timestamp>()
        .ok()
        .map(Timestamp::as_millisecond)
}

/// Random bytes of the operating system (getrandom(2)).
///
/// # Panics
/// When the kernel gives none: nothing here is safe without them.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// A random nonce.
#[must_use]
pub fn nonce() -> Hex<32> {
    Hex(random())
}

/// A time-ordered id (UUIDv7, RFC 9562 section 5.7).
#[must_use]
pub fn uuid_v7(now_ms: i64) -> Uuid {
    let millis = u64::try_from(now_ms).unwrap_or(0);
    Builder::from_unix_timestamp_millis(millis, &random()).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_have_one_width_and_read_back() {
        for ms in [0, 1, 1_795_000_000_123, i64::MAX, i64::MIN] {
            let text = to_text(ms);
            assert_eq!(text.len(), 24, "{text}");
            assert_eq!(from_text(&text), Some(ms.clamp(EARLIEST_MS, LATEST_MS)));
        }
        assert_eq!(to_text(1_000), "1970-01-01T00:00:01.000Z");
    }
}
