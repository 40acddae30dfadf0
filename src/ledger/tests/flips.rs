//! Damage at rest: flipped bits, lost pages, lost files, foreign files.

use std::path::{Path, PathBuf};

use super::super::{GapReason, LedgerError, segment};
use super::sim::{Noise, SimDisk};
use super::{DIR, fill, open, payload};

/// A prime: the bits that are flipped lie everywhere in every field. `torture_ledger_flips` has more.
const FLIPS_APART: usize = 11;

pub(super) fn files(disk: &SimDisk) -> (PathBuf, Vec<PathBuf>) {
    let journal = Path::new(DIR).join("journal");
    let names = disk.file_names();
    let segments = names
        .into_iter()
        .filter(|path| path.file_name().and_then(segment::parse_name).is_some());
    (journal, segments.collect())
}

/// Opens a damaged ledger of records 1 to 59 and returns how many records are missing; each of
/// them must be in a gap, and every other be as it was written.
fn count_lost(disk: &SimDisk) -> u64 {
    let (mut ledger, recovery) = open(disk).unwrap();
    let batch = ledger.read_from(1, 1000, 1 << 20).unwrap();
    for (sequence, bytes) in &batch.records {
        assert_eq!(
            *bytes,
            payload(*sequence, 180),
            "sequence {sequence} is wrong"
        );
    }
    let known = |sequence: u64| {
        let here = batch.records.binary_search_by_key(&sequence, |(s, _)| *s);
        let gap = batch
            .gaps
            .iter()
            .any(|g| (g.first..=g.last).contains(&sequence));
        assert!(
            here.is_ok() != gap,
            "sequence {sequence} is not accounted for"
        );
        here.is_ok()
    };
    let lost = (1..60).filter(|sequence| !known(*sequence)).count() as u64;
    assert!(ledger.next_seq() >= 60, "sequences would be used again");
    assert!(lost == 0 || !recovery.new_gaps.is_empty());
    let next = ledger.next_seq();
    ledger.append(next, b"goes on").unwrap();
    ledger.sync().unwrap();
    assert_eq!(
        ledger.read_from(next, 1, 100).unwrap().records[0].1,
        b"goes on"
    );
    lost
}

fn three_segments() -> SimDisk {
    let disk = SimDisk::default();
    let (mut ledger, _) = open(&disk).unwrap();
    fill(&mut ledger, 60, 180);
    drop(ledger);
    assert_eq!(files(&disk).1.len(), 3);
    disk
}

fn flip_bits(file: &Path, disk: &SimDisk, most_lost: u64) {
    let bits = disk.content(file).len() * 8;
    let mut lost = 0;
    for bit in (0..bits).step_by(FLIPS_APART) {
        let damaged = disk.copy();
        damaged.damage(file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let here = count_lost(&damaged);
        assert!(here <= most_lost, "bit {bit} lost {here} records");
        lost += here;
    }
    assert!(lost > 0 || most_lost == 0);
}

#[test]
fn one_flipped_bit_of_a_sealed_segment_loses_one_record_at_most_and_says_so() {
    let disk = three_segments();
    flip_bits(&files(&disk).1[1], &disk, 1);
}

#[test]
fn one_flipped_bit_of_the_newest_segment_loses_one_record_at_most_and_says_so() {
    let disk = three_segments();
    flip_bits(&files(&disk).1[2], &disk, 1);
}

#[test]
fn a_flipped_bit_of_the_journal_loses_no_record() {
    let disk = three_segments();
    let journal = files(&disk).0;
    // The unused rest of the file is zeros to its end: a sample of it is enough.
    let used = 300 * 8;
    for bit in (0..used)
        .step_by(3)
        .chain((used..disk.content(&journal).len() * 8).step_by(4099))
    {
        let damaged = disk.copy();
        damaged.damage(&journal, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        assert_eq!(count_lost(&damaged), 0, "bit {bit}");
    }
}

#[test]
fn pages_of_garbage_lose_what_they_cover_and_say_so() {
    let disk = three_segments();
    let segments = files(&disk).1;
    for seed in 0..600 {
        let mut noise = Noise(seed);
        let file = &segments[noise.below(3) as usize];
        let (at, len) = (noise.below(4000) as usize, 1 + noise.below(1500) as usize);
        let fill = noise.below(3);
        let garbage: Vec<u8> = (0..len)
            .map(|_| [0, 0xff, noise.below(256) as u8][fill as usize])
            .collect();
        let damaged = disk.copy();
        // The end of the newest segment as zeros is what a disk shows that never got the writes.
        if fill == 0 && file == &segments[2] {
            continue;
        }
        damaged.damage(file, |bytes| {
            for (byte, garbage) in bytes[at..].iter_mut().zip(&garbage) {
                *byte = *garbage;
            }
        });
        let lost = count_lost(&damaged);
        assert!(
            lost <= 2 + len as u64 / 196,
            "seed {seed}: {lost} lost of {len} bytes"
        );
    }
}

#[test]
fn damage_in_the_middle_is_quarantined_once_and_reported_once() {
    let disk = three_segments();
    let file = &files(&disk).1[0];
    let image = disk.content(file);
    disk.damage(file, |bytes| bytes[40 + 3 * 196 + 50] ^= 1);
    let (mut ledger, recovery) = open(&disk).unwrap();
    let gap = recovery.new_gaps[0];
    assert_eq!(
        (gap.first, gap.last, gap.reason, recovery.new_gaps.len()),
        (4, 4, GapReason::Damaged, 1)
    );
    let copy = &recovery.quarantined[0];
    assert!(copy.starts_with("/ledger/quarantine"));
    assert_ne!(disk.content(copy), image);
    assert_eq!(disk.content(copy), disk.content(file));
    assert_eq!(ledger.read_from(1, 1000, 1 << 20).unwrap().gaps, [gap]);
    assert_eq!((ledger.backlog().records, ledger.backlog().lost), (58, 1));
    drop(ledger);
    let (mut ledger, again) = open(&disk).unwrap();
    assert_eq!((again.new_gaps.len(), again.quarantined.len()), (0, 0));
    assert_eq!(ledger.read_from(1, 1000, 1 << 20).unwrap().gaps, [gap]);
    ledger.ack(4, b"").unwrap();
    assert!(ledger.read_from(1, 1000, 1 << 20).unwrap().gaps.is_empty());
}

#[test]
fn damage_after_the_opening_is_an_error_and_never_a_wrong_record() {
    let disk = three_segments();
    let (mut ledger, _) = open(&disk).unwrap();
    disk.damage(&files(&disk).1[0], |bytes| bytes[40 + 196 + 50] ^= 1);
    let error = ledger.read_from(1, 100, 1 << 20).unwrap_err();
    assert!(
        matches!(error, LedgerError::Damaged { offset: 236, .. }),
        "{error}"
    );
    assert!(ledger.is_closed());
    drop(ledger);
    assert_eq!(count_lost(&disk), 1);
}

#[test]
fn a_lost_file_is_a_gap_and_its_sequences_are_not_used_again() {
    let disk = three_segments();
    let (journal, segments) = files(&disk);
    let without = |gone: &[&PathBuf]| {
        let disk = disk.copy();
        gone.iter().for_each(|path| disk.delete(path));
        count_lost(&disk)
    };
    assert_eq!(without(&[&journal]), 0);
    for file in &segments {
        assert!((18..21).contains(&without(&[file])));
    }
    assert_eq!(without(&[&segments[0], &segments[1], &segments[2]]), 59);
}

#[test]
fn a_file_cut_short_loses_only_what_was_cut() {
    let disk = three_segments();
    let newest = &files(&disk).1[2];
    for len in [0, 10, 40, 50, 236, 300] {
        let damaged = disk.copy();
        damaged.damage(newest, |bytes| bytes.truncate(len));
        let (mut ledger, _) = open(&damaged).unwrap();
        let kept = len.saturating_sub(40) as u64 / 196;
        let batch = ledger.read_from(41, 1000, 1 << 20).unwrap();
        assert_eq!(batch.records.len() as u64, kept, "{len}");
        let next = ledger.next_seq();
        ledger.append(next, b"goes on").unwrap();
        ledger.sync().unwrap();
        drop(ledger);
        let (mut ledger, _) = open(&damaged).unwrap();
        assert_eq!(
            ledger.read_from(next, 1, 100).unwrap().records[0].1,
            b"goes on"
        );
    }
}

#[test]
fn segments_of_another_ledger_are_moved_away_unread() {
    let disk = three_segments();
    let other = SimDisk::default();
    let dir = Path::new(DIR);
    let (mut ledger, _) =
        super::Ledger::open_on(other.clone(), dir, super::SMALL, [9; 16]).unwrap();
    fill(&mut ledger, 10, 180);
    let foreign = other.content(&files(&other).1[0]);
    let oldest = &files(&disk).1[0];
    disk.damage(oldest, |bytes| bytes.clone_from(&foreign));
    let (mut ledger, recovery) = open(&disk).unwrap();
    assert_eq!(ledger.epoch(), super::EPOCH);
    assert!(recovery.quarantined[0].ends_with("foreign-0000000000000001.seg"));
    let batch = ledger.read_from(1, 1000, 1 << 20).unwrap();
    assert_eq!(batch.gaps[0].reason, GapReason::Missing);
    assert_eq!(batch.gaps[0].first, 1);
    assert_eq!(batch.records[0].0, batch.gaps[0].last + 1);
}

#[test]
fn a_newer_format_is_left_alone_and_an_unknown_epoch_is_not_guessed() {
    let disk = three_segments();
    let (journal, segments) = files(&disk);
    let newer = disk.copy();
    newer.damage(&segments[1], |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..36]);
        bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    });
    let error = open(&newer).unwrap_err();
    assert!(
        matches!(error, LedgerError::Version { found: 2, .. }),
        "{error}"
    );

    for file in segments.iter().chain([&journal]) {
        disk.damage(file, |bytes| bytes[20] ^= 1);
    }
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, LedgerError::NoEpoch { .. }), "{error}");
}
