//! Days without a controller at 100 events a second, on the host's own disk, then all of it read and
//! acknowledged. How long is a matter of scale; the memory must not be.

use std::time::Duration;

use vpn_node_protocol::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};

use super::super::{Ledger, Options};
use super::torture::scale;
use super::{EPOCH, payload};
use crate::host::clock;

/// Events a second of the simulated outage. Each second is one group commit.
const RATE: u64 = 100;

/// Bytes of a sealed record: about what the agent writes for a WireGuard client.
const RECORD: usize = 620;

/// How much more memory may be resident at any time than after the first minutes: what a few thousand
/// segments cost to remember, the window of a reader, and what an allocator keeps.
const MOST_GROWTH: u64 = 16 * 1024 * 1024;

#[test]
fn torture_ledger_outage() {
    let seconds = scale(120, 2 * 3600, 72 * 3600);
    let all = seconds * RATE;
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_bytes: 64 << 30,
        ..Options::default()
    };
    let mut memory = Memory::default();
    let begun = clock::now().boot;
    let (mut ledger, _) = Ledger::open(dir.path(), options, EPOCH).unwrap();
    for second in 0..seconds {
        for _ in 0..RATE {
            let sequence = ledger.next_seq();
            ledger.append(sequence, &payload(sequence, RECORD)).unwrap();
        }
        ledger.sync().unwrap();
        memory.look(second, seconds, "appended");
    }
    let appended = clock::now().boot - begun;
    assert_eq!(
        (ledger.next_seq(), ledger.backlog().records),
        (all + 1, all)
    );
    let bytes = ledger.backlog().bytes;
    // The host starts again before the controller comes back.
    drop(ledger);
    let (mut ledger, recovery) = Ledger::open(dir.path(), options, EPOCH).unwrap();
    assert_eq!((recovery.records, recovery.new_gaps), (all, vec![]));
    let opened = clock::now().boot - begun - appended;
    let mut longest = Duration::ZERO;
    let mut at = 1;
    while at <= all {
        let before = clock::now().boot;
        let batch = ledger
            .read_from(at, MAX_BATCH_RECORDS, MAX_BATCH_BYTES)
            .unwrap();
        assert_eq!(batch.gaps, []);
        assert!(!batch.records.is_empty(), "nothing comes after {}", at - 1);
        for (sequence, bytes) in &batch.records {
            assert_eq!(*sequence, at, "out of order");
            assert_eq!(*bytes, payload(at, RECORD), "record {at} is wrong");
            at += 1;
        }
        ledger.ack(batch.next - 1, &[7; 32]).unwrap();
        longest = longest.max(clock::now().boot - before);
        memory.look(at - 1, all, "read and acknowledged");
    }
    let drained = clock::now().boot - begun - appended - opened;
    assert_eq!((ledger.backlog().records, ledger.acked()), (0, all));
    assert!(
        memory.growth() <= MOST_GROWTH,
        "{} KiB more memory than at first",
        memory.growth() / 1024
    );
    println!(
        "{all} records ({:.1} h at {RATE} a second, {} MiB, {seconds} group commits) in {} s, opened in {} ms, \
         read and acknowledged in order in {} s (longest batch {} ms); {} KiB resident at most, {} KiB of it grown",
        seconds as f64 / 3600.0,
        bytes >> 20,
        appended.as_secs(),
        opened.as_millis(),
        drained.as_secs(),
        longest.as_millis(),
        memory.most / 1024,
        memory.growth() / 1024,
    );
}

/// Resident memory over a run.
#[derive(Default)]
struct Memory {
    percent: u64,
    first: u64,
    most: u64,
}

impl Memory {
    /// Looks a hundred times a run, and says so ten times.
    fn look(&mut self, done: u64, of: u64, what: &str) {
        let percent = done * 100 / of;
        if percent == self.percent {
            return;
        }
        self.percent = percent;
        let now = resident();
        if self.first == 0 {
            self.first = now;
        }
        self.most = self.most.max(now);
        if percent.is_multiple_of(10) {
            println!("  {percent} % {what}, {} KiB resident", now / 1024);
        }
    }

    fn growth(&self) -> u64 {
        self.most - self.first
    }
}

/// Bytes: the second number of /proc/self/statm (proc_pid_statm(5)), in pages of 4 KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
