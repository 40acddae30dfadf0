//! What a careful user of the ledger remembers, and what it may demand of the ledger.

use std::collections::BTreeMap;

use super::super::{Batch, Disk, GapReason, Ledger, LedgerError};
use super::sim::{Noise, SimDisk};
use super::{open, payload};

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// The last payload that was appended with each sequence.
    appended: BTreeMap<u64, Vec<u8>>,
    /// Sequences below this are synced.
    synced: u64,
    /// The highest sequence that a reader has seen.
    read: u64,
    acked: u64,
    /// An acknowledgement that was begun.
    acking: u64,
    /// Ranges that were given up on purpose.
    given_up: Vec<(u64, u64)>,
    number: u64,
}

impl Model {
    /// A day of the daemon: bursts of records, group commits, batches sent and acknowledged.
    pub(super) fn run(
        &mut self,
        ledger: &mut Ledger<SimDisk>,
        steps: u64,
        seed: u64,
    ) -> Result<(), LedgerError> {
        let mut noise = Noise(seed);
        for _ in 0..steps {
            for _ in 0..noise.below(6) {
                self.append(ledger, 20 + noise.below(700) as usize)?;
            }
            match noise.below(8) {
                0..4 => self.sync(ledger)?,
                4 | 5 => self.send(ledger, noise.below(12) as usize)?,
                6 if noise.below(4) == 0 => {
                    let gap = ledger.give_up(1 + noise.below(3));
                    // Whether or not it worked: nobody may count on these sequences.
                    let first = ledger.next_seq();
                    self.given_up.push((first.saturating_sub(4), first + 4));
                    gap?;
                    self.synced = ledger.next_seq();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn append(&mut self, ledger: &mut Ledger<SimDisk>, len: usize) -> Result<(), LedgerError> {
        self.number += 1;
        let (sequence, bytes) = (ledger.next_seq(), payload(self.number, len));
        assert!(sequence > self.read, "sequence {sequence} was read before");
        assert!(
            sequence >= self.synced,
            "sequence {sequence} was synced before"
        );
        self.appended.insert(sequence, bytes.clone());
        ledger.append(sequence, &bytes)
    }

    fn sync(&mut self, ledger: &mut Ledger<SimDisk>) -> Result<(), LedgerError> {
        ledger.sync()?;
        self.synced = ledger.next_seq();
        Ok(())
    }

    fn send(&mut self, ledger: &mut Ledger<SimDisk>, count: usize) -> Result<(), LedgerError> {
        let batch = ledger.read_from(ledger.acked() + 1, count, 2000)?;
        self.check(&batch);
        if batch.next > self.acked + 1 {
            self.acking = batch.next - 1;
            ledger.ack(self.acking, b"signed")?;
            self.acked = self.acking;
        }
        Ok(())
    }

    fn check(&mut self, batch: &Batch) {
        for (sequence, bytes) in &batch.records {
            assert_eq!(
                self.appended.get(sequence),
                Some(bytes),
                "sequence {sequence} has another record"
            );
        }
        for gap in &batch.gaps {
            for sequence in gap.first..=gap.last {
                let inside = |(first, last): &(u64, u64)| (*first..=*last).contains(&sequence);
                assert!(
                    sequence >= self.synced
                        || gap.reason == GapReason::Dropped
                        || !self.appended.contains_key(&sequence)
                        || self.given_up.iter().any(inside),
                    "synced record {sequence} is lost: {gap:?}"
                );
                // It was reported as lost: no later opening has to have it.
                self.appended.remove(&sequence);
            }
        }
        self.read = self.read.max(batch.next - 1);
    }

    /// Opens after whatever happened, and demands everything that was promised.
    pub(super) fn recover(&mut self, disk: &SimDisk) -> Ledger<SimDisk> {
        let (mut ledger, _) = open(disk).expect("a ledger can be opened after a cut");
        let acked = ledger.acked();
        assert!(acked == self.acked || acked == self.acking, "{acked} acked");
        self.acked = acked;
        assert!(ledger.next_seq() >= self.synced, "a synced record is lost");
        assert!(ledger.next_seq() > self.read, "a sequence is used again");
        let records = self.read_all(&mut ledger);
        assert_eq!(ledger.backlog().records, records.len() as u64);
        let mut numbers: Vec<&[u8]> = records.values().map(|bytes| &bytes[..8]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), records.len(), "a record is there twice");
        self.synced = ledger.next_seq();
        // Forget what was not synced and is not there: its sequences may be used again.
        let next = ledger.next_seq();
        self.appended.retain(|sequence, _| *sequence < next);
        ledger
    }

    /// Reads everything in small batches: records and gaps must cover the sequences exactly.
    pub(super) fn read_all<D: Disk>(&mut self, ledger: &mut Ledger<D>) -> BTreeMap<u64, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut at = ledger.acked() + 1;
        loop {
            let batch = ledger.read_from(at, 7, 3000).unwrap();
            if batch.is_empty() {
                break;
            }
            let gaps: u64 = batch.gaps.iter().map(super::super::Gap::span).sum();
            assert_eq!(batch.next - at, gaps + batch.records.len() as u64);
            assert!(batch.records.is_sorted_by_key(|(sequence, _)| *sequence));
            self.check(&batch);
            at = batch.next;
            all.extend(batch.records);
        }
        assert_eq!(at, ledger.durable);
        all
    }
}
