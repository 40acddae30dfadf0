//! The ledger's memory beside the records: what was acknowledged, which ranges are lost, which
//! segment was begun last. One small append-only file, each entry durable before it is acted upon;
//! rewritten as a whole when it is half full.

use std::path::{Path, PathBuf};

use super::LedgerError;
use super::disk::Disk;
use super::gaps::{Gap, GapReason, GapSet};
use super::record::{self, Epoch, FILE_HEADER, Header, JOURNAL_MAGIC};
use super::{scan, segment};
use crate::core::journal;

/// Most bytes of the proof of an acknowledgement: a signed envelope of a few hundred bytes.
pub const MAX_PROOF: usize = 4096;

/// Bytes set aside for the journal, so that an acknowledgement works on a full disk.
const CAPACITY: u64 = 64 * 1024;

/// Its name in the ledger's directory.
const NAME: &str = "journal";

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// The controller has everything up to and including this sequence.
    Acked { through: u64, proof: Vec<u8> },
    /// These sequences hold no record.
    Gap(Gap),
    /// A segment was made which has room for so many bytes.
    Begun { first: u64, capacity: u64 },
}

impl Entry {
    fn encode(&self) -> Vec<u8> {
        let (kind, left, right, rest): (u8, u64, Option<u64>, &[u8]) = match self {
            Self::Acked { through, proof } => (1, *through, None, proof),
            Self::Gap(gap) => (2, gap.first, Some(gap.last), &[gap.reason.code()]),
            Self::Begun { first, capacity } => (3, *first, Some(*capacity), &[]),
        };
        let mut out = vec![kind];
        out.extend_from_slice(&left.to_le_bytes());
        out.extend(right.iter().flat_map(|right| right.to_le_bytes()));
        out.extend_from_slice(rest);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (left, rest) = rest
            .split_first_chunk()
            .map(|(n, r)| (u64::from_le_bytes(*n), r))?;
        if *kind == 1 {
            let proof = rest.to_vec();
            return (proof.len() <= MAX_PROOF).then_some(Self::Acked {
                through: left,
                proof,
            });
        }
        let (right, rest) = rest
            .split_first_chunk()
            .map(|(n, r)| (u64::from_le_bytes(*n), r))?;
        match (kind, rest) {
            (2, [code]) if left <= right => Some(Self::Gap(Gap {
                first: left,
                last: right,
                reason: GapReason::from_code(*code)?,
            })),
            (3, []) => Some(Self::Begun {
                first: left,
                capacity: right,
            }),
            _ => None,
        }
    }
}

/// The sum of all entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Everything up to here is acknowledged; 0 = nothing (the first sequence is 1).
    pub(super) acked: u64,
    /// The proof of that.
    pub(super) proof: Vec<u8>,
    pub(super) gaps: GapSet,
    /// First sequence and bytes of the youngest segment.
    pub(super) begun: Option<(u64, u64)>,
}

impl Notes {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Acked { through, proof } => {
                if through > self.acked {
                    (self.acked, self.proof) = (through, proof);
                    self.gaps.forget_below(through.saturating_add(1));
                }
            }
            Entry::Gap(gap) if gap.last > self.acked => {
                self.gaps.insert(Gap {
                    first: gap.first.max(self.acked + 1),
                    ..gap
                });
            }
            Entry::Gap(_) => {}
            Entry::Begun { first, capacity } => {
                if self.begun.is_none_or(|(known, _)| first > known) {
                    self.begun = Some((first, capacity));
                }
            }
        }
    }

    /// The fewest entries that give the same sum.
    fn entries(&self) -> impl Iterator<Item = Entry> {
        let acked = (self.acked > 0).then(|| Entry::Acked {
            through: self.acked,
            proof: self.proof.clone(),
        });
        let begun = self
            .begun
            .map(|(first, capacity)| Entry::Begun { first, capacity });
        let gaps = self.gaps.as_slice().iter().copied().map(Entry::Gap);
        acked.into_iter().chain(begun).chain(gaps)
    }
}

/// The open journal.
#[derive(Debug)]
pub(super) struct Journal<F> {
    file: F,
    path: PathBuf,
    epoch: Epoch,
    pub(super) notes: Notes,
    /// Number of the next entry; starts at 0 in each rewritten file.
    number: u64,
    end: u64,
    capacity: u64,
}

/// What opening found in the place of the journal.
pub(super) struct Found<F> {
    file: F,
    image: Vec<u8>,
    /// The epoch in its header, unless that is damaged.
    pub(super) epoch: Option<Epoch>,
}

impl<F> Journal<F> {
    /// Reads the file, if it is there.
    pub(super) fn find<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
    ) -> Result<Option<Found<F>>, LedgerError> {
        let path = dir.join(NAME);
        let (file, image) = match segment::read_whole(disk, &path) {
            Ok(found) => found,
            Err(LedgerError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(None);
            }
            Err(other) => return Err(other),
        };
        let epoch = match Header::decode(JOURNAL_MAGIC, &image) {
            Ok(header) => Some(header.epoch),
            Err(record::BadHeader::Damaged) => None,
            Err(record::BadHeader::Version(found)) => {
                return Err(LedgerError::Version { path, found });
            }
        };
        Ok(Some(Found { file, image, epoch }))
    }

    /// Reads the entries and makes sure that what was read is on disk. A damaged entry is lost:
    /// then records are sent again, or a gap is found again by its hole.
    pub(super) fn load<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        epoch: Epoch,
        found: Found<F>,
    ) -> Result<Self, LedgerError> {
        let mut notes = Notes::default();
        let scan = scan::scan(&epoch, &found.image, 0..u64::MAX, |record| {
            if let Some(entry) = Entry::decode(record.payload) {
                notes.apply(entry);
            }
        });
        let damaged = found.epoch.is_none() || scan.damaged || scan.end < FILE_HEADER as u64;
        let mut journal = Self {
            file: found.file,
            path: dir.join(NAME),
            epoch,
            notes,
            number: scan.extents.last().map_or(0, |run| run.last + 1),
            end: scan.end,
            capacity: found.image.len() as u64,
        };
        if damaged {
            tracing::warn!(
                message_id = %journal::LEDGER_MENDED,
                path = ?journal.path, "the ledger's journal was damaged; it is written anew"
            );
            match journal.rewrite(disk, dir) {
                // It can be used as it is: the scan finds its good entries each time.
                Err(full) if full.is_full() => {}
                other => return other.map(|()| journal),
            }
        }
        let good = &found.image[..scan.end as usize];
        let used = scan.end + scan.tail;
        segment::overwrite(disk, &journal.file, &journal.path, good, used)?;
        Ok(journal)
    }

    /// Makes the journal of a new ledger, or of one that lost it.
    pub(super) fn create<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        epoch: Epoch,
    ) -> Result<Self, LedgerError> {
        let notes = Notes::default();
        let (file, number, end, capacity) = Self::build(disk, dir, &epoch, &notes)?;
        Ok(Self {
            file,
            path: dir.join(NAME),
            epoch,
            notes,
            number,
            end,
            capacity,
        })
    }

    /// Adds entries, durably, with one sync. After an error it is unknown whether they will be found
    /// at opening.
    pub(super) fn add<D: Disk<File = F>>(
        &mut self,
        disk: &D,
        dir: &Path,
        entries: &[Entry],
    ) -> Result<(), LedgerError> {
        let mut bytes = Vec::new();
        for (number, entry) in (self.number..).zip(entries) {
            record::encode(&self.epoch, number, &entry.encode(), &mut bytes);
            self.notes.apply(entry.clone());
        }
        let end = self.end + bytes.len() as u64;
        if end > self.capacity {
            return self.rewrite(disk, dir);
        }
        disk.write_at(&self.file, self.end, &bytes)
            .map_err(LedgerError::io("write", &self.path))?;
        disk.sync(&self.file)
            .map_err(LedgerError::io("sync", &self.path))?;
        self.number += entries.len() as u64;
        self.end = end;
        if end > self.capacity / 2 {
            // The other half is for the time until there is space for the new file.
            match self.rewrite(disk, dir) {
                Err(full) if full.is_full() => {
                    tracing::debug!(%full, "the ledger's journal could not be shortened");
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Replaces the file by the shortest one with the same sum.
    fn rewrite<D: Disk<File = F>>(&mut self, disk: &D, dir: &Path) -> Result<(), LedgerError> {
        let (file, number, end, capacity) = Self::build(disk, dir, &self.epoch, &self.notes)?;
        (self.file, self.number, self.end, self.capacity) = (file, number, end, capacity);
        Ok(())
    }

    fn build<D: Disk<File = F>>(
        disk: &D,
        dir: &Path,
        epoch: &Epoch,
        notes: &Notes,
    ) -> Result<(F, u64, u64, u64), LedgerError> {
        let header = Header {
            magic: JOURNAL_MAGIC,
            epoch: *epoch,
            first: 0,
        };
        let mut image = header.encode().to_vec();
        let mut number = 0;
        for entry in notes.entries() {
            record::encode(epoch, number, &entry.encode(), &mut image);
            number += 1;
        }
        let end = image.len() as u64;
        // At most a quarter full, so that the next rewrite is far away.
        let capacity = CAPACITY.max(4 * end);
        let temp = segment::temp_path(dir, NAME);
        let file = segment::prepare(disk, &temp, &image, capacity)?;
        segment::publish(disk, dir, &temp, &dir.join(NAME))?;
        Ok((file, number, end, capacity))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Entry> {
        prop_oneof![
            (0u64..100, proptest::collection::vec(any::<u8>(), 0..20))
                .prop_map(|(through, proof)| Entry::Acked { through, proof }),
            (1u64..100, 0u64..9, 1u8..=5).prop_map(|(first, more, code)| Entry::Gap(Gap {
                first,
                last: first + more,
                reason: GapReason::from_code(code).unwrap(),
            })),
            (1u64..100, any::<u64>())
                .prop_map(|(first, capacity)| Entry::Begun { first, capacity }),
        ]
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_bytes(entry in entries()) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Entry::decode(&bytes);
        }

        #[test]
        fn the_shortest_journal_has_the_same_sum(all in proptest::collection::vec(entries(), 0..30)) {
            let mut notes = Notes::default();
            all.into_iter().for_each(|entry| notes.apply(entry));
            let mut again = Notes::default();
            notes.entries().for_each(|entry| again.apply(entry));
            prop_assert_eq!(notes, again);
        }
    }
}
