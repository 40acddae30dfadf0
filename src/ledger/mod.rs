//! The durable connection ledger: append-only segments that survive crashes, full disks and outages.
//!
//! It owns one directory: segments of records, a small journal, a quarantine for damaged segments.
//! Records are opaque sealed bytes with a sequence that is never used twice. What [`Ledger::sync`]
//! has confirmed is either read back exactly or reported as a [`Gap`], until it is acknowledged.
//! `docs/ledger-format.md` has the bytes. Everything here blocks: the daemon gives it a thread.

mod disk;
mod error;
mod gaps;
mod journal;
mod open;
mod options;
mod quarantine;
mod read;
mod record;
mod roll;
mod scan;
mod segment;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

pub use disk::{Disk, HostDisk};
pub use error::LedgerError;
pub use gaps::{Gap, GapReason};
pub use journal::MAX_PROOF;
pub use open::Recovery;
pub use options::{MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, Options, WhenFull};
pub use read::Batch;
pub use record::{Epoch, MAX_RECORD};

use journal::{Entry, Journal};
use read::Place;
use segment::Segment;

/// Most sequences that one [`Ledger::give_up`] may skip.
pub const MAX_GIVE_UP: u64 = 1 << 32;

/// What waits for the controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Unacknowledged records, those not yet synced included.
    pub records: u64,
    /// Their bytes on disk, headers included.
    pub bytes: u64,
    /// Unacknowledged sequences that are gaps.
    pub lost: u64,
    /// The oldest unacknowledged sequence, be it of a record or of a gap.
    pub oldest: Option<u64>,
}

/// An open ledger. One process at a time has it; no file but the newest segment stays open.
///
/// After an error of the disk it is closed ([`Ledger::is_closed`]): drop it and open it again. Then
/// a record that was appended but not synced is either in the ledger or its sequence is below
/// [`Ledger::next_seq`] and in a gap, or its sequence is free again; a caller that still has it
/// appends it again only in the last two cases.
#[derive(Debug)]
pub struct Ledger<D: Disk = HostDisk> {
    disk: D,
    dir: PathBuf,
    options: Options,
    epoch: Epoch,
    journal: Journal<D::File>,
    /// Oldest first; the last one is written to.
    segments: VecDeque<Segment>,
    active: Option<D::File>,
    next: u64,
    /// First sequence that may be lost in a power cut; nothing from here on is read or sent.
    durable: u64,
    cursor: Place,
    last_read: Place,
    /// Sequences that were given up for newer ones since the opening.
    dropped: u64,
    closed: bool,
    _lock: D::Lock,
}

impl Ledger {
    /// Opens the ledger in `dir`, or makes a new one there with `new_epoch` (16 random bytes, not
    /// used otherwise).
    ///
    /// Damage is no error: it is saved, named and reported in the [`Recovery`].
    ///
    /// # Errors
    /// The disk does not work, another process has the ledger, its format is newer than this
    /// program, or neither the journal nor any segment tells the epoch.
    pub fn open(
        dir: &Path,
        options: Options,
        new_epoch: Epoch,
    ) -> Result<(Self, Recovery), LedgerError> {
        Self::open_on(HostDisk, dir, options, new_epoch)
    }
}

impl<D: Disk> Ledger<D> {
    /// [`Ledger::open`] on another disk than the host's.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_on(
        disk: D,
        dir: &Path,
        options: Options,
        new_epoch: Epoch,
    ) -> Result<(Self, Recovery), LedgerError> {
        open::open(disk, dir, options, new_epoch)
    }

    /// Changes how much it may take and what gives way then; the next segment obeys that.
    pub fn set_limits(&mut self, max_bytes: u64, when_full: WhenFull) {
        self.options.max_bytes = max_bytes;
        self.options.when_full = when_full;
    }

    /// Which ledger this is: part of every event's id.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The sequence of the next record; the caller seals the payload for it. The first is 1.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// Everything up to this sequence is acknowledged; 0 = nothing.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.journal.notes.acked
    }

    /// The proof that was given with the newest acknowledgement.
    #[must_use]
    pub fn ack_proof(&self) -> &[u8] {
        &self.journal.notes.proof
    }

    /// How many unacknowledged sequences were given up for newer ones since the opening
    /// ([`WhenFull::DropOldest`]).
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// True after an error that left it unknown what is on disk; then every call fails.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes a record that was sealed for `sequence`. NOT durable before [`Ledger::sync`].
    ///
    /// May make a new segment, for which the older records are synced, and for which the oldest
    /// segment may be given up ([`WhenFull::DropOldest`]).
    ///
    /// # Errors
    /// [`LedgerError::Full`], [`LedgerError::Length`] and [`LedgerError::Sequence`] change nothing
    /// and leave the ledger usable; after [`LedgerError::Io`] it is closed.
    pub fn append(&mut self, sequence: u64, payload: &[u8]) -> Result<(), LedgerError> {
        self.guarded(|ledger| {
            let max = error::max_payload(ledger.options.segment_bytes);
            if !(1..=max).contains(&payload.len()) {
                let len = payload.len();
                return Err(LedgerError::Length { len, max });
            }
            if sequence != ledger.next {
                return Err(LedgerError::Sequence {
                    given: sequence,
                    expected: ledger.next,
                });
            }
            ledger.write(sequence, payload)
        })
    }

    /// Makes everything appended durable (fdatasync(2)). Only then a record counts as accepted.
    ///
    /// # Errors
    /// [`LedgerError::Io`]: what was appended since the last sync may be lost; the ledger is closed.
    pub fn sync(&mut self) -> Result<(), LedgerError> {
        self.guarded(Self::sync_active)
    }

    /// Reads durable, unacknowledged records and gaps from sequence `from` on: at most
    /// `max_records` of both together and about `max_bytes` of payload (always at least one record).
    ///
    /// # Errors
    /// [`LedgerError::Io`], or [`LedgerError::Damaged`] when the disk changed since the opening;
    /// the ledger is closed then, and opening it saves what is left.
    pub fn read_from(
        &mut self,
        from: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Batch, LedgerError> {
        self.guarded(|ledger| ledger.read(from, max_records, max_bytes))
    }

    /// Notes durably that the controller has everything through `through`, with its `proof` (the
    /// signed acknowledgement), and deletes the segments that are not needed any more. An
    /// acknowledgement of what is acknowledged already changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::AckBeyondHead`] for what is not durable here and [`LedgerError::Proof`] for a
    /// proof over [`MAX_PROOF`] bytes change nothing; after [`LedgerError::Io`] the ledger is closed.
    pub fn ack(&mut self, through: u64, proof: &[u8]) -> Result<(), LedgerError> {
        self.guarded(|ledger| {
            if through >= ledger.durable {
                let next = ledger.durable;
                return Err(LedgerError::AckBeyondHead { through, next });
            }
            if proof.len() > MAX_PROOF {
                let (len, max) = (proof.len(), MAX_PROOF);
                return Err(LedgerError::Proof { len, max });
            }
            if through <= ledger.acked() {
                return Ok(());
            }
            let proof = proof.to_vec();
            ledger.note(Entry::Acked { through, proof })?;
            ledger.delete_acknowledged();
            ledger.move_cursor()
        })
    }

    /// Skips the next `count` sequences for records that are lost before they could be appended:
    /// a durable gap with [`GapReason::Refused`].
    ///
    /// # Errors
    /// [`LedgerError::Loss`] when `count` is 0 or over [`MAX_GIVE_UP`]; after [`LedgerError::Io`] the
    /// ledger is closed.
    pub fn give_up(&mut self, count: u64) -> Result<Gap, LedgerError> {
        self.guarded(|ledger| {
            if !(1..=MAX_GIVE_UP).contains(&count) {
                return Err(LedgerError::Loss { count });
            }
            // A gap is read as soon as it is noted; the records before it must be durable by then.
            ledger.sync_active()?;
            let gap = Gap {
                first: ledger.next,
                last: ledger.next + (count - 1),
                reason: GapReason::Refused,
            };
            ledger.note(Entry::Gap(gap))?;
            ledger.next = gap.last + 1;
            ledger.durable = ledger.next;
            Ok(gap)
        })
    }

    /// What is not acknowledged yet.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let acked = self.acked();
        let gaps = self.journal.notes.gaps.as_slice();
        let lost = gaps.iter().map(Gap::span).sum();
        let waiting = self.next - 1 - acked;
        Backlog {
            records: waiting - lost,
            bytes: self.unacknowledged_bytes(),
            lost,
            oldest: (waiting > 0).then_some(acked + 1),
        }
    }

    /// Runs a step; an error of the disk closes the ledger, a refusal does not.
    fn guarded<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        if self.closed {
            return Err(LedgerError::Closed {
                dir: self.dir.clone(),
            });
        }
        let result = step(self);
        if let Err(LedgerError::Io { .. } | LedgerError::Damaged { .. }) = result {
            self.closed = true;
        }
        result
    }

    fn note(&mut self, entry: Entry) -> Result<(), LedgerError> {
        self.journal.add(&self.disk, &self.dir, &[entry])
    }
}
