//! What happens when the ledger, or the disk, is full.

use super::super::{GapReason, Ledger, LedgerError, WhenFull};
use super::sim::SimDisk;
use super::{DIR, EPOCH, SMALL, fill, open, payload};

#[test]
fn a_full_quota_drops_the_oldest_segment_with_a_durable_gap() {
    let disk = SimDisk::default();
    let (mut ledger, _) = open(&disk).unwrap();
    fill(&mut ledger, 200, 180);
    let check = |ledger: &mut Ledger<SimDisk>| {
        let batch = ledger.read_from(1, 1000, 1 << 20).unwrap();
        let [gap] = batch.gaps[..] else {
            panic!("{:?}", batch.gaps);
        };
        assert_eq!((gap.first, gap.reason), (1, GapReason::Dropped));
        let sequences: Vec<u64> = batch.records.iter().map(|(s, _)| *s).collect();
        assert_eq!(sequences, (gap.last + 1..200).collect::<Vec<_>>());
        assert!(sequences.len() >= 60, "three full segments stay");
        assert_eq!(ledger.backlog().lost, gap.last);
        assert_eq!(ledger.backlog().oldest, Some(1));
    };
    check(&mut ledger);
    let segments: u64 = disk
        .file_names()
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .map(|path| disk.content(path).len() as u64)
        .sum();
    assert_eq!(segments, SMALL.max_bytes);
    drop(ledger);
    disk.power_cycle(1);
    check(&mut open(&disk).unwrap().0);
}

#[test]
fn a_full_disk_recycles_the_oldest_segment() {
    let disk = SimDisk::default();
    let (mut ledger, _) = open(&disk).unwrap();
    fill(&mut ledger, 30, 180);
    disk.limit_space(Some(0));
    fill(&mut ledger, 100, 180);
    let batch = ledger.read_from(1, 1000, 1 << 20).unwrap();
    assert_eq!(batch.gaps[0].reason, GapReason::Dropped);
    assert_eq!(batch.records.last().unwrap().0, 99);
    assert!(batch.records.len() >= 20);
}

#[test]
fn the_newest_records_are_never_dropped_for_a_disk_that_others_filled() {
    let disk = SimDisk::default();
    let (mut ledger, _) = open(&disk).unwrap();
    fill(&mut ledger, 5, 180);
    disk.limit_space(Some(0));
    let refused = loop {
        let sequence = ledger.next_seq();
        if let Err(error) = ledger.append(sequence, &payload(sequence, 180)) {
            break error;
        }
    };
    assert!(refused.is_full(), "{refused}");
    assert!(!ledger.is_closed());
    assert_eq!(ledger.backlog().lost, 0);
    disk.limit_space(None);
    fill(&mut ledger, 50, 180);
    assert_eq!(ledger.backlog().records, 49);
}

#[test]
fn the_other_policy_refuses_and_loses_nothing_unless_told() {
    let disk = SimDisk::default();
    let mut options = SMALL;
    options.when_full = WhenFull::Refuse;
    let dir = std::path::Path::new(DIR);
    let (mut ledger, _) = Ledger::open_on(disk.clone(), dir, options, EPOCH).unwrap();
    let refused = loop {
        let sequence = ledger.next_seq();
        if let Err(error) = ledger.append(sequence, &payload(sequence, 180)) {
            break error;
        }
    };
    assert!(matches!(refused, LedgerError::Full { .. }), "{refused}");
    let full = ledger.next_seq();
    assert_eq!(ledger.backlog().records, full - 1);
    // The caller cannot keep three of them.
    let gap = ledger.give_up(3).unwrap();
    assert_eq!(
        (gap.first, gap.last, gap.reason),
        (full, full + 2, GapReason::Refused)
    );
    drop(ledger);
    disk.power_cycle(3);
    let (mut ledger, _) = Ledger::open_on(disk, dir, options, EPOCH).unwrap();
    assert_eq!(ledger.next_seq(), full + 3);
    assert_eq!(ledger.read_from(full, 9, 1000).unwrap().gaps, [gap]);
    ledger.ack(25, b"").unwrap();
    fill(&mut ledger, full + 10, 180);
    let batch = ledger.read_from(full, 1000, 1 << 20).unwrap();
    assert_eq!((batch.gaps, batch.records.len()), (vec![gap], 7));
}

#[test]
fn a_smaller_quota_takes_effect_with_the_next_segment() {
    let disk = SimDisk::default();
    let (mut ledger, _) = open(&disk).unwrap();
    fill(&mut ledger, 80, 180);
    drop(ledger);
    let mut options = SMALL;
    options.max_bytes = 2 * 4096;
    let dir = std::path::Path::new(DIR);
    let (mut ledger, _) = Ledger::open_on(disk.clone(), dir, options, EPOCH).unwrap();
    fill(&mut ledger, 90, 180);
    let segments = disk.file_names();
    let segments = segments
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "seg"));
    assert_eq!(segments.count(), 2);
    let batch = ledger.read_from(1, 1000, 1 << 20).unwrap();
    assert_eq!(batch.records.last().unwrap().0, 89);
    assert_eq!(batch.gaps.len(), 1);
}

#[test]
fn options_that_cannot_work_are_refused_with_the_numbers() {
    for (max_bytes, segment_bytes) in [(8191, 4096), (1 << 30, 4095), (1 << 40, 1 << 27)] {
        let mut options = SMALL;
        (options.max_bytes, options.segment_bytes) = (max_bytes, segment_bytes);
        let dir = std::path::Path::new(DIR);
        let error = Ledger::open_on(SimDisk::default(), dir, options, EPOCH).unwrap_err();
        assert!(matches!(error, LedgerError::Options(_)), "{error}");
    }
}
