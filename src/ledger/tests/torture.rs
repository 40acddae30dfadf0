//! The same suites in larger numbers: short in an ordinary run, what is promised with
//! `VPN_NODE_TORTURE=usual`, ten times that with `full`. `cargo xtask torture ledger` runs them; the
//! last line that each prints has its figures.

use nix::errno::Errno;

use super::super::{GapReason, Ledger};
use super::flips::files;
use super::sim::{Noise, SimDisk};
use super::{faults, power};
use super::{fill, open, payload};

/// The first number in an ordinary run, the second and third when they are asked for.
pub(crate) fn scale(short: u64, usual: u64, full: u64) -> u64 {
    match std::env::var("VPN_NODE_TORTURE").as_deref() {
        Ok("usual") => usual,
        Ok("full") => full,
        _ => short,
    }
}

/// Plays seeds until so many cases were tried.
fn until(at_least: u64, first_seed: u64, play: impl Fn(u64) -> u64) -> u64 {
    let mut cases = 0;
    for seed in first_seed.. {
        if cases >= at_least {
            break;
        }
        cases += play(seed);
        println!("  {cases} of {at_least}");
    }
    cases
}

#[test]
fn torture_ledger_power() {
    let cuts = until(scale(200, 5_000, 50_000), 1_000, power::cuts_of_a_day);
    let again = until(scale(100, 5_000, 50_000), 2_000, power::cuts_of_recoveries);
    println!(
        "{cuts} power cuts and {again} during a recovery: 0 durable records lost, 0 twice, 0 sequences used again"
    );
}

#[test]
fn torture_ledger_faults() {
    let mut errors = 0;
    let at_least = scale(100, 500, 5_000);
    for errno in [Errno::EIO, Errno::ENOSPC, Errno::EDQUOT] {
        // One operation, the few of one step, a disk that stays bad for a while.
        for long in [1, 3, 40] {
            errors += until(at_least, 10 * long, |seed| {
                faults::errors_of_a_day(errno, long, seed)
            });
        }
    }
    println!(
        "{errors} faults (EIO, ENOSPC, EDQUOT, half-done writes; 1, 3 or 40 operations long): 0 false confirmations, 0 ledgers stuck"
    );
}

#[test]
fn torture_ledger_flips() {
    let flips = scale(300, 10_000, 100_000);
    let (mut lost, mut again) = (0, 0);
    for seed in 0..flips {
        let mut noise = Noise(seed);
        let written = Written::new(&mut noise);
        let (journal, segments) = files(&written.disk);
        // The journal as often as a segment; its rest is zeros, where a flip is found as easily.
        let turn = noise.below(segments.len() as u64 + 1) as usize;
        let file = segments.get(turn).unwrap_or(&journal);
        let used = if *file == journal { 2048 } else { 4096 };
        let bit = noise.below(used * 8) as usize;
        written
            .disk
            .damage(file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let name = file.display();
        let found = written.judge(&format!("seed {seed}: bit {bit} of {name}"));
        lost += found.lost;
        again += found.again;
        if seed % 1_000 == 999 {
            println!("  {} of {flips}", seed + 1);
        }
    }
    println!(
        "{flips} flipped bits: 0 records wrong, 0 missing without a gap ({lost} reported lost, {again} acknowledged ones once more)"
    );
}

/// A ledger of some days, some of it acknowledged, some of it given up.
struct Written {
    disk: SimDisk,
    next: u64,
    acked: u64,
    given_up: u64,
}

/// What became of it.
#[derive(Default)]
struct Found {
    /// Records in gaps.
    lost: u64,
    /// Acknowledged records in gaps: their acknowledgement is what the flip took.
    again: u64,
}

impl Written {
    fn new(noise: &mut Noise) -> Self {
        let disk = SimDisk::default();
        let (mut ledger, _) = open(&disk).unwrap();
        fill(&mut ledger, 15 + noise.below(10), 180);
        let given_up = ledger.next_seq();
        ledger.give_up(1).unwrap();
        fill(&mut ledger, 40 + noise.below(20), 180);
        let acked = noise.below(ledger.next_seq() - 1);
        ledger.ack(acked, &[3; 32]).unwrap();
        let next = ledger.next_seq();
        drop(ledger);
        Self {
            disk,
            next,
            acked,
            given_up,
        }
    }

    /// Each record that is not acknowledged is as it was, or in a gap.
    fn judge(&self, case: &str) -> Found {
        let mut found = Found::default();
        let (mut ledger, _) = open(&self.disk).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(
            ledger.acked() <= self.acked,
            "{case}: too much is acknowledged"
        );
        assert!(
            ledger.next_seq() >= self.next,
            "{case}: sequences are used again"
        );
        let mut at = ledger.acked() + 1;
        loop {
            let batch = ledger.read_from(at, 50, 1 << 20).unwrap();
            if batch.is_empty() {
                break;
            }
            for (sequence, bytes) in &batch.records {
                assert_eq!(
                    *bytes,
                    payload(*sequence, 180),
                    "{case}: {sequence} is wrong"
                );
            }
            let gaps = batch.gaps.iter();
            for (sequence, reason) in gaps.flat_map(|g| (g.first..=g.last).map(|s| (s, g.reason))) {
                match sequence {
                    _ if sequence == self.given_up && reason == GapReason::Refused => {}
                    _ if sequence <= self.acked => found.again += 1,
                    _ if sequence < self.next => found.lost += 1,
                    _ => {}
                }
            }
            let spans: u64 = batch.gaps.iter().map(super::super::Gap::span).sum();
            assert_eq!(
                batch.next - at,
                spans + batch.records.len() as u64,
                "{case}: not everything is accounted for"
            );
            at = batch.next;
        }
        assert_eq!(at, ledger.next_seq(), "{case}");
        goes_on(&mut ledger, case);
        found
    }
}

fn goes_on(ledger: &mut Ledger<SimDisk>, case: &str) {
    let next = ledger.next_seq();
    ledger.append(next, b"goes on").unwrap();
    ledger.sync().unwrap();
    let batch = ledger.read_from(next, 1, 100).unwrap();
    assert_eq!(batch.records, [(next, b"goes on".to_vec())], "{case}");
}
