//! Power cuts at every operation.

use super::model::Model;
use super::open;
use super::sim::{Fault, SimDisk};

const STEPS: u64 = 40;

/// Runs until the cut and brings the power back; false when the run ended before the cut.
fn cut(disk: &SimDisk, model: &mut Model, after: u64, seed: u64) -> bool {
    disk.strike(after, Fault::Cut);
    if let Ok((mut ledger, _)) = open(disk) {
        let _ = model.run(&mut ledger, STEPS, seed);
    }
    let struck = disk.struck();
    disk.power_cycle(seed ^ (after << 8));
    struck
}

/// A power cut at every operation of one day; tells how many.
pub(super) fn cuts_of_a_day(seed: u64) -> u64 {
    let mut cuts = 0;
    for after in 1.. {
        let (disk, mut model) = (SimDisk::default(), Model::default());
        let struck = cut(&disk, &mut model, after, seed);
        let mut ledger = model.recover(&disk);
        model.run(&mut ledger, 6, seed + 100).unwrap();
        if !struck {
            break;
        }
        cuts += 1;
    }
    cuts
}

/// Cuts of one day, each followed by one at every operation of the recovery; tells how many these are.
pub(super) fn cuts_of_recoveries(seed: u64) -> u64 {
    let mut cuts = 0;
    for first in (10..).step_by(13) {
        let (disk, mut model) = (SimDisk::default(), Model::default());
        if !cut(&disk, &mut model, first, seed) {
            break;
        }
        for second in 1.. {
            let (disk, mut model) = (disk.copy(), model.clone());
            disk.strike(second, Fault::Cut);
            let _ = open(&disk);
            let struck = disk.struck();
            disk.power_cycle(seed + second);
            model.recover(&disk);
            if !struck {
                break;
            }
            cuts += 1;
        }
    }
    cuts
}

#[test]
fn no_synced_record_is_lost_or_doubled_by_a_cut_at_any_operation() {
    let cuts: u64 = (1..=6).map(cuts_of_a_day).sum();
    assert!(cuts > 1000, "only {cuts} cuts");
}

#[test]
fn a_cut_at_any_operation_of_the_recovery_from_a_cut_changes_nothing() {
    let cuts: u64 = (1..=3).map(cuts_of_recoveries).sum();
    assert!(cuts > 500, "only {cuts} cuts");
}

#[test]
fn a_second_opening_finds_nothing_new() {
    for after in (20..200).step_by(7) {
        let (disk, mut model) = (SimDisk::default(), Model::default());
        cut(&disk, &mut model, after, after);
        let first = open(&disk).unwrap().0;
        let (next, backlog) = (first.next_seq(), first.backlog());
        drop(first);
        let (again, recovery) = open(&disk).unwrap();
        assert_eq!((again.next_seq(), again.backlog()), (next, backlog));
        assert_eq!((recovery.new_gaps, recovery.torn_bytes), (vec![], 0));
    }
}
