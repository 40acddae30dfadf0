//! How long an event takes to the disk, beside what the disk takes for one write of 4 KiB.
//!
//! Part of `cargo xtask bench events`: the last line that it prints is JSON. In an ordinary run it is
//! short, and looks only whether the figures make sense.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::tests::{enrolment, start, thread};
use super::*;
use crate::core::sessions::{BackendId, BackendKind};
use crate::host::clock;
use crate::ledger::tests::torture::scale;

/// Between two events, and between two writes of the disk's own measure: 100 a second.
const PACE: Duration = Duration::from_millis(10);
/// Live sessions, all of which are kept beside the ledger with each start and end.
const LIVE: u128 = 100;
/// Both are measured in turn, so that a machine whose disk changes its mind changes both.
const ROUNDS: u64 = 10;
/// Events at once: a daemon that has started again.
const BURST: u128 = 1000;

#[test]
fn bench_events_durable() {
    let each = scale(5, 500, 500);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    let mut disk = spawn(dir.path());
    let (mut writes, mut events) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        writes.extend(write_4k(dir.path(), each));
        events.extend(runtime.block_on(disk.take(u128::from(each), PACE)));
        println!("  round {round} of {ROUNDS}");
    }
    let burst = runtime.block_on(disk.take(BURST, Duration::ZERO));
    runtime.block_on(disk.disk.finish());
    assert_eq!(events.len() as u64, ROUNDS * each);
    assert!(events.iter().all(|time| *time > Duration::ZERO));
    println!(
        "{}",
        serde_json::json!({
            "events": events.len(),
            "fdatasync_us": quantiles(&mut writes),
            "durable_us": quantiles(&mut events),
            "burst": BURST as u64,
            "burst_us": burst.iter().max().map(Duration::as_micros),
        })
    );
}

/// A disk thread as the daemon starts it.
fn spawn(dir: &Path) -> Driven {
    let state = StateDir::new(dir);
    let enrolment = enrolment();
    let nonce = vpn_node_protocol::encoding::Hex([0; 32]);
    let identity = enrolment.identity_key;
    let lane = LaneState::enrolled(&enrolment.server_id, 1, identity, nonce, 0);
    state.create_lane(&lane).unwrap();
    let (_, lane_file) = state.lane(&enrolment).unwrap();
    Driven {
        disk: thread(dir).spawn(lane_file),
        told: 0,
        durable: 0,
    }
}

struct Driven {
    disk: Disk,
    told: u128,
    durable: u128,
}

impl Driven {
    /// Tells it so many events, and returns for each the time from the event to the moment at which
    /// the loop hears that it is on disk.
    async fn take(&mut self, events: u128, pace: Duration) -> Vec<Duration> {
        let end = self.told + events;
        let mut told_at = Vec::new();
        let mut times = Vec::new();
        let first = self.told;
        let mut next = clock::now().boot;
        while self.durable < end {
            let wait = next.saturating_sub(clock::now().boot);
            tokio::select! {
                biased;
                event = self.disk.event() => {
                    let Event::Ledger(facts) = event else { continue };
                    assert_eq!(facts.error, None);
                    let now = clock::now().boot;
                    while self.durable < u128::from(facts.records) {
                        times.push(now - told_at[(self.durable - first) as usize]);
                        self.durable += 1;
                    }
                }
                () = tokio::time::sleep(wait), if self.told < end => {
                    next += pace;
                    told_at.push(clock::now().boot);
                    let mut recording = start(self.told);
                    recording.sessions = (0..LIVE).map(|n| session(self.told + n)).collect();
                    self.told += 1;
                    self.disk.tell(DiskCommand::Record(Box::new(recording))).await;
                }
            }
        }
        times
    }
}

pub(super) fn session(id: u128) -> KnownSession {
    KnownSession {
        connection_id: Uuid::from_u128(id),
        backend: BackendId {
            kind: BackendKind::WireGuard,
            instance: "wg0".into(),
        },
        epoch: 1,
        boot_id: Uuid::nil(),
        key_hash: serde_json::from_str(&format!("\"{id:064x}\"")).unwrap(),
        started_boot_ns: 1_000_000_000,
        started_wall_ms: 1_767_225_600_000,
        seen_boot_ns: 2_000_000_000,
        seen_wall_ms: 1_767_225_601_000,
        rx: 1_000_000,
        tx: 1_000_000,
        rx_at_start: 0,
        tx_at_start: 0,
        earlier_rx: 0,
        earlier_tx: 0,
    }
}

/// Times of fdatasync(2) after a write of 4 KiB into space that is set aside and written already, as
/// the ledger's is.
fn write_4k(dir: &Path, count: u64) -> Vec<Duration> {
    let path = dir.join("measure");
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(true).write(true);
    let file = options.open(path).unwrap();
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let time = |number: u64| {
        std::thread::sleep(PACE);
        let begun = clock::now().boot;
        let block = [number as u8; 4096];
        file.write_all_at(&block, number % 256 * 4096).unwrap();
        file.sync_data().unwrap();
        clock::now().boot - begun
    };
    (0..count).map(time).collect()
}

fn quantiles(times: &mut [Duration]) -> serde_json::Value {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize].as_micros();
    serde_json::json!({ "p50": at(0.5), "p99": at(0.99), "p999": at(0.999) })
}
