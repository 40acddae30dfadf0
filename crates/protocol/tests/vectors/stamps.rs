//! `stamps.json`: how the controller dates what a host saw.

use serde_json::json;
use uuid::Uuid;
use vpn_node_protocol::connection::Stamp;

use crate::support::{cases, held};

fn stamp(boot: u128, boottime_ms: u64, wall_ms: i64, offset_ms: Option<i64>) -> Stamp {
    Stamp {
        boot_id: Uuid::from_u128(boot),
        boottime_ms,
        wall_ms,
        offset_ms,
    }
}

#[test]
fn stamps_json() {
    const NOW: i64 = 1_790_000_000_000;
    const YEARS: i64 = 315_360_000_000;
    let now = stamp(1, 100_000, NOW, Some(0));
    let built = [
        (
            "this boot, a minute ago",
            stamp(1, 40_000, NOW - 60_000, None),
            now,
        ),
        (
            "this boot, wall clock ten years ahead",
            stamp(1, 40_000, NOW + YEARS, Some(7)),
            now,
        ),
        (
            "this boot, wall clock ten years behind",
            stamp(1, 40_000, NOW - YEARS, None),
            now,
        ),
        ("this boot, this instant", stamp(1, 100_000, NOW, None), now),
        (
            "this boot, later than the request",
            stamp(1, 100_001, NOW, None),
            now,
        ),
        (
            "this boot, longer ago than a clock can say",
            stamp(1, 0, 0, None),
            stamp(1, u64::MAX, 0, None),
        ),
        (
            "earlier boot, offset known",
            stamp(2, 5, NOW - 90_000, Some(30_000)),
            now,
        ),
        (
            "earlier boot, clock ahead, offset known",
            stamp(2, 5, NOW + YEARS - 9, Some(-YEARS)),
            now,
        ),
        (
            "earlier boot, offset unknown",
            stamp(2, 5, NOW - 90_000, None),
            now,
        ),
        (
            "earlier boot, would lie in the future",
            stamp(2, 5, NOW + YEARS, None),
            now,
        ),
        (
            "earlier boot, sum beyond the range",
            stamp(2, 5, i64::MAX, Some(i64::MAX)),
            now,
        ),
        (
            "earlier boot, sum below the range",
            stamp(2, 5, i64::MIN, Some(-1)),
            now,
        ),
    ]
    .map(|(name, event, now)| {
        json!({
            "name": name,
            "event": event,
            "now": now,
            "controller_now_ms": NOW,
            "by_controller": event.by_controller(&now, NOW),
        })
    });
    let file = held("stamps.json", json!({"cases": built}));
    for case in cases(&file, "cases") {
        let read = |field: &str| serde_json::from_value::<Stamp>(case[field].clone()).unwrap();
        let found =
            read("event").by_controller(&read("now"), case["controller_now_ms"].as_i64().unwrap());
        assert_eq!(json!(found), case["by_controller"], "{}", case["name"]);
        assert!(
            found <= NOW,
            "{}: nothing happens in the future",
            case["name"]
        );
    }
}
