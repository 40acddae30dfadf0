//! The program that `cargo xtask torture ledger` kills: a process with a ledger in a real directory.
//!
//! It opens, demands everything that its predecessors claimed, says what it found, works, and says on
//! its standard error, line by line, what it has done. `VPN_NODE_LEDGER_WORKER` names its folder:
//! `ledger` in it is the ledger, `claims` all lines of its predecessors, and `begun` is made before the
//! first step that counts. Without the variable it does nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::super::{GapReason, Ledger, MAX_PROOF, Options, WhenFull};
use super::EPOCH;
use super::sim::Noise;

/// Steps between two openings.
const STEPS: u64 = 16;
/// Records of one run; their numbers are never given twice.
const NUMBERS: u64 = 1 << 20;

#[test]
fn torture_ledger_worker() {
    let Some(folder) = std::env::var_os("VPN_NODE_LEDGER_WORKER") else {
        return;
    };
    let folder = Path::new(&folder);
    let run: u64 = std::env::var("VPN_NODE_LEDGER_RUN")
        .unwrap()
        .parse()
        .unwrap();
    let mut worker = Worker {
        claims: Claims::read(&fs::read_to_string(folder.join("claims")).unwrap()),
        noise: Noise(run),
        number: run * NUMBERS,
        unsynced: BTreeMap::new(),
    };
    fs::write(folder.join("begun"), "").unwrap();
    let dir = folder.join("ledger");
    for _ in 0..2 {
        let mut ledger = worker.open(&dir);
        worker.work(&mut ledger);
    }
    worker.open(&dir);
    say("complete\n");
}

fn say(line: &str) {
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// What was said to be on disk.
#[derive(Default)]
struct Claims {
    /// Sequences of durable records that are not acknowledged, and the records' numbers.
    durable: BTreeMap<u64, u64>,
    /// The highest sequence that a reader has seen, be it a record's or a gap's.
    seen: u64,
    acked: u64,
    /// An acknowledgement that was begun.
    acking: u64,
}

impl Claims {
    fn read(text: &str) -> Self {
        let mut claims = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| words[index].parse::<u64>().unwrap();
            match words[0] {
                "durable" => drop(claims.durable.insert(number(1), number(2))),
                "seen" => claims.seen = claims.seen.max(number(1)),
                "acking" => claims.acking = number(1),
                "acked" => claims.acked(number(1)),
                _ => {}
            }
        }
        claims
    }

    fn acked(&mut self, through: u64) {
        self.acked = through;
        self.durable.retain(|sequence, _| *sequence > through);
    }
}

struct Worker {
    claims: Claims,
    noise: Noise,
    number: u64,
    unsynced: BTreeMap<u64, u64>,
}

impl Worker {
    fn open(&mut self, dir: &Path) -> Ledger {
        let options = Options {
            max_bytes: 64 * 4096,
            segment_bytes: 4096,
            when_full: WhenFull::Refuse,
        };
        let (mut ledger, _) = Ledger::open(dir, options, EPOCH).unwrap();
        let acked = ledger.acked();
        let claims = &mut self.claims;
        assert!(
            acked == claims.acked || acked == claims.acking,
            "{acked} acknowledged, not {} or {}",
            claims.acked,
            claims.acking
        );
        claims.acked(acked);
        say(&format!("acked {acked}\n"));
        let next = ledger.next_seq();
        assert!(next > claims.seen, "sequence {next} would be used again");
        self.unsynced.clear();
        self.demand_all(&mut ledger);
        ledger
    }

    /// Every record that was claimed is there, exactly, once, and nothing else is in its place.
    fn demand_all(&mut self, ledger: &mut Ledger) {
        let mut found = BTreeMap::new();
        let mut at = ledger.acked() + 1;
        loop {
            let batch = ledger.read_from(at, 50, 1 << 20).unwrap();
            if batch.is_empty() {
                break;
            }
            for (sequence, bytes) in &batch.records {
                found.insert(*sequence, number_in(*sequence, bytes));
            }
            for gap in &batch.gaps {
                let mut claimed = self.claims.durable.range(gap.first..=gap.last);
                assert_eq!(claimed.next(), None, "lost: {gap:?}");
                assert_ne!(gap.reason, GapReason::Dropped);
            }
            at = batch.next;
        }
        for (sequence, number) in &self.claims.durable {
            assert_eq!(
                found.get(sequence),
                Some(number),
                "record {sequence} is lost"
            );
        }
        let mut numbers: Vec<u64> = found.values().copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), found.len(), "a record is there twice");
        self.claim(found, at - 1);
    }

    fn claim(&mut self, records: BTreeMap<u64, u64>, seen: u64) {
        let mut lines = format!("seen {seen}\n");
        self.claims.seen = self.claims.seen.max(seen);
        for (sequence, number) in records {
            if self.claims.durable.insert(sequence, number) != Some(number) {
                lines += &format!("durable {sequence} {number}\n");
            }
        }
        say(&lines);
    }

    fn work(&mut self, ledger: &mut Ledger) {
        for _ in 0..STEPS {
            for _ in 0..self.noise.below(5) {
                self.append(ledger);
            }
            match self.noise.below(8) {
                0..4 => self.sync(ledger),
                4..7 => self.acknowledge(ledger),
                _ => {
                    let gap = ledger.give_up(1 + self.noise.below(3)).unwrap();
                    // It synced what was before it.
                    let records = std::mem::take(&mut self.unsynced);
                    self.claim(records, gap.last);
                }
            }
        }
    }

    fn append(&mut self, ledger: &mut Ledger) {
        self.number += 1;
        let sequence = ledger.next_seq();
        assert!(sequence > self.claims.seen && !self.claims.durable.contains_key(&sequence));
        let len = 16 + self.noise.below(900) as usize;
        ledger
            .append(sequence, &record(sequence, self.number, len))
            .unwrap();
        self.unsynced.insert(sequence, self.number);
    }

    fn sync(&mut self, ledger: &mut Ledger) {
        ledger.sync().unwrap();
        let records = std::mem::take(&mut self.unsynced);
        self.claim(records, 0);
    }

    fn acknowledge(&mut self, ledger: &mut Ledger) {
        let most = 1 + self.noise.below(30) as usize;
        let batch = ledger.read_from(ledger.acked() + 1, most, 1 << 20).unwrap();
        let Some(through) = batch.next.checked_sub(1).filter(|_| !batch.is_empty()) else {
            return;
        };
        for (sequence, bytes) in &batch.records {
            let number = number_in(*sequence, bytes);
            let claimed = self.claims.durable.get(sequence);
            // A record that a full segment made durable on the way is not claimed yet.
            assert!(claimed.or_else(|| self.unsynced.get(sequence)) == Some(&number));
        }
        say(&format!("seen {through}\nacking {through}\n"));
        self.claims.seen = self.claims.seen.max(through);
        self.claims.acking = through;
        let proof = vec![6; self.noise.below(MAX_PROOF as u64 / 2) as usize];
        ledger.ack(through, &proof).unwrap();
        self.unsynced.retain(|sequence, _| *sequence > through);
        self.claims.acked(through);
        say(&format!("acked {through}\n"));
    }
}

/// A payload that tells its sequence and number, and whose other bytes follow from them.
fn record(sequence: u64, number: u64, len: usize) -> Vec<u8> {
    let mut bytes = [sequence.to_le_bytes(), number.to_le_bytes()].concat();
    bytes.resize(len, (sequence ^ number) as u8);
    bytes
}

/// The number of a record that is as it was written.
fn number_in(sequence: u64, bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
    assert_eq!(
        bytes,
        record(sequence, number, bytes.len()),
        "record {sequence} is wrong"
    );
    number
}
