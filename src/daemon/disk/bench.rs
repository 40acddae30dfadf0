//! How long an event takes to the disk, beside what the disk takes for one write of 4 KiB, which is
//! what the kernel writes for a record: a page.
//!
//! Part of `cargo xtask bench events`: the last line that it prints is JSON. In an ordinary run it is
//! short, and looks only whether the figures make sense.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::tests::{enrolment, start, thread};
use super::*;
use crate::core::sessions::{BackendId, BackendKind};
use crate::host::clock;
use crate::ledger::tests::torture::scale;

/// Between two answers of a daemon, and between two writes of the disk's own measure.
const PACE: Duration = Duration::from_millis(40);
/// Events that one answer tells, in turn: 50 a second. All are starts, the slower kind.
const GROUPS: [u128; 4] = [1, 2, 3, 2];
/// Live sessions, all of which are told of with each answer.
const LIVE: u128 = 100;
/// Answers, and then writes, of a round: both are measured in turn, so that a machine whose disk
/// changes its mind changes both.
const EACH: usize = 20;
/// Events at once: a daemon that has started again.
const BURST: u128 = 1000;

#[test]
fn bench_events_durable() {
    let rounds = scale(1, 60, 60);
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    let mut disk = spawn(dir.path());
    // What is made once, the ledger's first files, is no event's time.
    runtime.block_on(disk.take(&[1]));
    let measure = measured_file(dir.path());
    let (mut writes, mut events) = (Vec::new(), Vec::new());
    let groups: Vec<u128> = GROUPS.into_iter().cycle().take(EACH).collect();
    for round in 1..=rounds {
        writes.extend(write_4k(&measure));
        events.extend(runtime.block_on(disk.take(&groups)));
        if round % 10 == 0 {
            println!("  round {round} of {rounds}");
        }
    }
    let burst = runtime.block_on(disk.take(&[BURST]));
    runtime.block_on(disk.disk.finish());
    assert_eq!(
        events.len() as u128,
        u128::from(rounds) * groups.iter().sum::<u128>()
    );
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
    /// Tells it these groups of events, and returns for each event the time from when it is told to
    /// the moment at which the loop hears that it is on disk.
    async fn take(&mut self, groups: &[u128]) -> Vec<Duration> {
        let mut groups = groups.iter();
        let first = self.durable;
        let mut told_at = Vec::new();
        let mut times = Vec::new();
        let mut next = clock::now().boot;
        while groups.len() > 0 || self.durable < self.told {
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
                () = tokio::time::sleep(wait), if groups.len() > 0 => {
                    next += PACE;
                    let count = groups.next().copied().unwrap_or_default();
                    told_at.resize(told_at.len() + count as usize, clock::now().boot);
                    let recording = self.recording(count);
                    self.disk.tell(DiskCommand::Record(Box::new(recording))).await;
                }
            }
        }
        times
    }

    /// So many starts, as one answer of a daemon tells them, and all that are live then.
    fn recording(&mut self, count: u128) -> Recording {
        let mut recording = start(self.told);
        for id in self.told + 1..self.told + count {
            join(&mut recording, start(id));
        }
        self.told += count;
        let first_live = self.told.saturating_sub(LIVE.max(count));
        recording.sessions = (first_live..self.told).map(session).collect();
        recording
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

/// Space that is set aside and written already, as the ledger's is.
fn measured_file(dir: &Path) -> File {
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(true).write(true);
    let file = options.open(dir.join("measure")).unwrap();
    file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
    file.sync_all().unwrap();
    file
}

/// Times of fdatasync(2) after a write.
fn write_4k(file: &File) -> Vec<Duration> {
    let time = |number: usize| {
        std::thread::sleep(PACE);
        let begun = clock::now().boot;
        let block = [number as u8; 4096];
        file.write_all_at(&block, number as u64 % 256 * 4096)
            .unwrap();
        file.sync_data().unwrap();
        clock::now().boot - begun
    };
    (0..EACH).map(time).collect()
}

fn quantiles(times: &mut [Duration]) -> serde_json::Value {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part).round() as usize].as_micros();
    serde_json::json!({ "p50": at(0.5), "p99": at(0.99), "p999": at(0.999) })
}
