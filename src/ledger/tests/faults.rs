//! Errors of the disk at every operation.

use nix::errno::Errno;

use super::super::LedgerError;
use super::model::Model;
use super::sim::{Fault, SimDisk};
use super::{fill, open, payload};

/// `long` operations in a row fail, from every operation of one day on. Then, in the same boot (the
/// page cache shows what a failed sync lost), the ledger must go on: opened again if it is closed, by
/// itself if it only refused. Then the power goes as well. Tells how many operations were struck first.
pub(super) fn errors_of_a_day(errno: Errno, long: u64, seed: u64) -> u64 {
    for after in 1.. {
        let (disk, mut model) = (SimDisk::default(), Model::default());
        disk.strike_long(after, long, Fault::Error(errno));
        if let Ok((mut ledger, _)) = open(&disk)
            && let Err(error) = model.run(&mut ledger, 30, seed)
        {
            assert!(
                ledger.is_closed() || matches!(error, LedgerError::Full { .. }),
                "{error}"
            );
            if ledger.is_closed() {
                let closed = ledger.sync().unwrap_err();
                assert!(matches!(closed, LedgerError::Closed { .. }), "{closed}");
            } else {
                disk.mend();
                model.run(&mut ledger, 5, seed + 1).unwrap();
            }
        }
        let struck = disk.struck();
        disk.new_process();
        let mut ledger = model.recover(&disk);
        model.run(&mut ledger, 5, seed + 2).unwrap();
        drop(ledger);
        disk.power_cycle(after + seed);
        let mut ledger = model.recover(&disk);
        model.run(&mut ledger, 6, seed + 100).unwrap();
        if !struck {
            return after - 1;
        }
    }
    unreachable!("a day ends")
}

fn one_error_at_every_operation(errno: Errno) {
    let errors: u64 = (1..=4).map(|seed| errors_of_a_day(errno, 1, seed)).sum();
    assert!(errors > 500, "only {errors} errors");
}

#[test]
fn an_input_output_error_at_any_operation_confirms_nothing_falsely() {
    one_error_at_every_operation(Errno::EIO);
}

#[test]
fn a_full_disk_at_any_operation_confirms_nothing_falsely() {
    one_error_at_every_operation(Errno::ENOSPC);
}

#[test]
fn a_failed_sync_says_so_and_closes_the_ledger() {
    let disk = SimDisk::default();
    let (mut ledger, _) = open(&disk).unwrap();
    fill(&mut ledger, 4, 100);
    ledger.append(4, &payload(4, 100)).unwrap();
    disk.strike(1, Fault::Error(Errno::EIO));
    let error = ledger.sync().unwrap_err();
    assert!(error.to_string().starts_with("cannot sync"), "{error}");
    assert!(ledger.is_closed());
    let error = ledger.append(5, b"x").unwrap_err();
    assert!(error.to_string().contains("opened again"), "{error}");
    drop(ledger);
    // The page cache still has record 4. Opening must write it again before it counts.
    drop(open(&disk).unwrap());
    disk.power_cycle(1);
    let (mut ledger, _) = open(&disk).unwrap();
    assert_eq!(ledger.next_seq(), 5);
    assert_eq!(
        ledger.read_from(4, 1, 1000).unwrap().records[0].1,
        payload(4, 100)
    );
}

#[test]
fn acknowledgements_work_on_a_full_disk() {
    let disk = SimDisk::default();
    let (mut ledger, _) = open(&disk).unwrap();
    fill(&mut ledger, 60, 200);
    disk.limit_space(Some(0));
    for through in 1..59 {
        // Every one with a proof of 400 bytes: more than half of the journal in the end.
        ledger.ack(through, &[7; 400]).unwrap();
    }
    assert_eq!(ledger.acked(), 58);
    assert_eq!(ledger.ack_proof(), [7; 400]);
    drop(ledger);
    assert_eq!(open(&disk).unwrap().0.acked(), 58);
}
