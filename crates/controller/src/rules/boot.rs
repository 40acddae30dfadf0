//! When a host booted, by the controller's clock: what dates its records.
//!
//! Each request says how long the host has been up. A request that was under way for long (a
//! retry is the same bytes, also after hours of outage) makes the boot look later than it was,
//! never earlier; so the earliest answer of a boot is the best one.

use uuid::Uuid;
use vpn_node_protocol::message::Header;

/// Host clocks that run slow make a boot seem to move on: 50 millionths are granted, which is
/// more than crystals have.
const DRIFT_PARTS: i64 = 20_000;

/// What is known of the boot that a host is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Which (random(4)).
    pub id: Uuid,
    /// When, in milliseconds since the Unix epoch, by the controller's clock.
    pub at_ms: i64,
}

impl Boot {
    /// What is known after a request came at `now_ms`. `last_ms` is when the one before came.
    #[must_use]
    pub fn after(known: Option<Self>, header: &Header, last_ms: Option<i64>, now_ms: i64) -> Self {
        let id = header.boot_id;
        let up_ms = i64::try_from(header.boottime_ms).unwrap_or(i64::MAX);
        let seen_ms = now_ms.saturating_sub(up_ms);
        let at_ms = match known {
            Some(boot) if boot.id == id => {
                let silence_ms = last_ms.map_or(0, |last| now_ms.saturating_sub(last).max(0));
                // Whole milliseconds: one more, or a quick heartbeat would grant nothing.
                let drift_ms = silence_ms / DRIFT_PARTS + 1;
                seen_ms.min(boot.at_ms.saturating_add(drift_ms))
            }
            _ => seen_ms,
        };
        Self { id, at_ms }
    }

    /// How long the host has been up at `now_ms`, in milliseconds.
    #[must_use]
    pub fn up_ms(&self, now_ms: i64) -> u64 {
        u64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vpn_node_protocol::encoding::Hex;

    const HOUR_MS: i64 = 3_600_000;

    fn header(boot: u128, boottime_ms: u64) -> Header {
        Header {
            server_id: "s".into(),
            epoch: 1,
            seq: 1,
            chain: Hex([0; 32]),
            nonce: Hex([0; 32]),
            boot_id: Uuid::from_u128(boot),
            agent_time_ms: 0,
            boottime_ms,
            directive_acks: vec![],
            proof: None,
        }
    }

    #[test]
    fn a_request_that_was_under_way_for_hours_does_not_move_the_boot() {
        let fresh = Boot::after(None, &header(1, 10_000), None, 1_000_000);
        assert_eq!(fresh.at_ms, 990_000);
        // The same uptime, delivered three hours later.
        let now = 1_030_000 + 3 * HOUR_MS;
        let late = Boot::after(Some(fresh), &header(1, 40_000), Some(1_000_000), now);
        assert!((990_000..991_000).contains(&late.at_ms), "{late:?}");
        assert_eq!(
            late.up_ms(1_990_000),
            1_000_000 - (late.at_ms - 990_000) as u64
        );
    }

    #[test]
    fn a_quicker_request_mends_a_slow_one_and_another_boot_begins_anew() {
        let slow = Boot::after(None, &header(1, 10_000), None, 1_009_000);
        let quick = Boot::after(Some(slow), &header(1, 40_000), Some(1_009_000), 1_030_100);
        assert_eq!(quick.at_ms, 990_100);
        let rebooted = Boot::after(Some(quick), &header(2, 500), Some(1_030_100), 2_000_000);
        assert_eq!(rebooted.at_ms, 1_999_500);
    }

    #[test]
    fn a_clock_that_runs_slow_is_followed() {
        let mut boot = Boot::after(None, &header(1, 0), None, 0);
        // 30 millionths slow, a heartbeat every 30 seconds, for ten days.
        for beat in 1..28_800_i64 {
            let now = beat * 30_000;
            let uptime = now - now * 30 / 1_000_000;
            let header = header(1, uptime.cast_unsigned());
            boot = Boot::after(Some(boot), &header, Some(now - 30_000), now);
            assert_eq!(boot.at_ms, now - uptime, "beat {beat}");
        }
    }
}
