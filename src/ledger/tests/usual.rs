//! The usual life of a ledger, on a real directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::{HostDisk, Ledger, LedgerError, MAX_PROOF, MAX_RECORD, Options};
use super::{EPOCH, payload};

fn host(dir: &Path) -> Ledger {
    let options = Options {
        max_bytes: 1 << 20,
        segment_bytes: 128 * 1024,
        ..Options::default()
    };
    Ledger::open(dir, options, EPOCH).unwrap().0
}

fn add(ledger: &mut Ledger, count: u64, len: usize) {
    for _ in 0..count {
        let sequence = ledger.next_seq();
        ledger.append(sequence, &payload(sequence, len)).unwrap();
    }
    ledger.sync().unwrap();
}

#[test]
fn records_survive_a_reopening_with_epoch_and_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("ledger");
    let (mut ledger, recovery) = Ledger::open(&dir, Options::default(), EPOCH).unwrap();
    assert!(recovery.created);
    assert_eq!((ledger.next_seq(), ledger.backlog().oldest), (1, None));
    add(&mut ledger, 1000, 300);
    drop(ledger);
    let (mut ledger, recovery) = Ledger::open(&dir, Options::default(), [1; 16]).unwrap();
    assert!(!recovery.created);
    assert_eq!(recovery.records, 1000);
    assert_eq!((ledger.epoch(), ledger.next_seq()), (EPOCH, 1001));
    let batch = ledger.read_from(0, 2000, usize::MAX).unwrap();
    assert_eq!(batch.records.len(), 1000);
    for (sequence, bytes) in batch.records {
        assert_eq!(bytes, payload(sequence, 300));
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    let newest = dir.join("0000000000000001.seg");
    assert_eq!(mode(&newest), 0o600);
    assert_eq!(std::fs::metadata(&newest).unwrap().len(), 4 * 1024 * 1024);
}

#[test]
fn the_sequence_goes_on_after_everything_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = host(dir.path());
    for round in 0..20 {
        add(&mut ledger, 100, 500);
        let through = ledger.next_seq() - 1;
        assert_eq!(through, 100 * (round + 1));
        ledger.ack(through, b"signed").unwrap();
        assert_eq!(ledger.backlog().records, 0);
        drop(ledger);
        ledger = host(dir.path());
        assert_eq!((ledger.acked(), ledger.next_seq()), (through, through + 1));
        assert_eq!(ledger.ack_proof(), b"signed");
        assert!(ledger.read_from(1, 10, 1000).unwrap().is_empty());
    }
    let segments = std::fs::read_dir(dir.path()).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|end| end == "seg")
    });
    assert_eq!(segments.count(), 1, "acknowledged segments are deleted");
}

#[test]
fn batches_keep_to_their_limits_and_the_backlog_to_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = host(dir.path());
    add(&mut ledger, 900, 400);
    let (mut at, mut waiting) = (1, 900);
    while waiting > 0 {
        let batch = ledger.read_from(at, 64, 10_000).unwrap();
        assert_eq!(batch.records.len(), 25.min(waiting));
        assert_eq!(batch.records[0].0, at);
        // Asking again gives the same, from wherever one asks.
        let later = ledger.read_from(at + 1, 1, 0).unwrap();
        assert_eq!(
            later.records.first(),
            batch.records.get(1).or(later.records.first())
        );
        assert_eq!(ledger.read_from(at, 64, 10_000).unwrap(), batch);
        ledger.ack(batch.next - 1, b"").unwrap();
        waiting -= batch.records.len();
        at = batch.next;
        let backlog = ledger.backlog();
        assert_eq!(backlog.records, waiting as u64);
        assert_eq!(backlog.bytes, waiting as u64 * 416);
        assert_eq!(backlog.oldest, (waiting > 0).then_some(at));
    }
}

#[test]
fn a_record_is_not_read_before_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = host(dir.path());
    ledger.append(1, b"first").unwrap();
    assert!(ledger.read_from(1, 10, 1000).unwrap().is_empty());
    assert_eq!(ledger.backlog().records, 1);
    let early = ledger.ack(1, b"").unwrap_err();
    assert!(
        matches!(
            early,
            LedgerError::AckBeyondHead {
                through: 1,
                next: 1
            }
        ),
        "{early}"
    );
    ledger.sync().unwrap();
    assert_eq!(ledger.read_from(1, 10, 1000).unwrap().records.len(), 1);
    ledger.ack(1, b"").unwrap();
}

#[test]
fn wrong_arguments_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = host(dir.path());
    add(&mut ledger, 5, 100);
    ledger.ack(3, b"three").unwrap();
    for (bad, len) in [(7, 10), (5, 10), (6, 0), (6, MAX_RECORD + 1)] {
        ledger.append(bad, &vec![1; len]).unwrap_err();
    }
    ledger.ack(6, b"").unwrap_err();
    ledger.ack(5, &[0; MAX_PROOF + 1]).unwrap_err();
    ledger.give_up(0).unwrap_err();
    ledger.give_up(u64::MAX).unwrap_err();
    // Backwards: an old acknowledgement that comes late.
    ledger.ack(2, b"two").unwrap();
    assert_eq!((ledger.acked(), ledger.ack_proof()), (3, &b"three"[..]));
    assert_eq!(ledger.next_seq(), 6);
    assert!(!ledger.is_closed());
    ledger.append(6, &vec![1; MAX_RECORD]).unwrap();
    ledger.sync().unwrap();
    assert_eq!(
        ledger.read_from(6, 1, 1).unwrap().records[0].1.len(),
        MAX_RECORD
    );
}

#[test]
fn the_journal_stays_small_over_many_acknowledgements() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = host(dir.path());
    add(&mut ledger, 400, 100);
    for through in 1..=400 {
        ledger.ack(through, &[9; 1000]).unwrap();
    }
    let journal = std::fs::metadata(dir.path().join("journal")).unwrap();
    assert_eq!(journal.len(), 64 * 1024);
    drop(ledger);
    assert_eq!(host(dir.path()).acked(), 400);
}

#[test]
fn a_ledger_has_one_user_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = host(dir.path());
    let second = Ledger::open_on(HostDisk, dir.path(), Options::default(), EPOCH).unwrap_err();
    assert!(matches!(second, LedgerError::Locked { .. }), "{second}");
    drop(ledger);
    host(dir.path());
}

#[test]
fn unfinished_files_are_removed_and_strangers_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    add(&mut host(dir.path()), 3, 100);
    for name in ["fresh.tmp", "spare.tmp", "README", "0001.seg"] {
        std::fs::write(dir.path().join(name), b"x").unwrap();
    }
    assert_eq!(host(dir.path()).next_seq(), 4);
    assert!(!dir.path().join("fresh.tmp").exists());
    assert!(!dir.path().join("spare.tmp").exists());
    assert!(dir.path().join("README").exists());
    assert!(dir.path().join("0001.seg").exists());
}
