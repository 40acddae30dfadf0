//! Reading records back, in order, with the gaps between them.

use super::disk::Disk;
use super::gaps::Gap;
use super::record::{self, MAX_RECORD, RECORD_HEADER};
use super::scan::Extent;
use super::segment::Segment;
use super::{Ledger, LedgerError};

/// Bytes read at once; more than the largest record.
const WINDOW: u64 = 2 * MAX_RECORD as u64;

/// Part of the ledger: everything from the sequence asked for to `next`, exclusive, is here either
/// as a record or as (a part of) a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Sequence and payload, ascending.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Ranges without records, ascending.
    pub gaps: Vec<Gap>,
    /// Where the following batch begins; acknowledging `next - 1` settles this one.
    pub next: u64,
}

impl Batch {
    /// True when there was nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.gaps.is_empty()
    }
}

/// Where the record of a sequence begins: saves walking through a segment from its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    /// First sequence of the segment.
    segment: u64,
    sequence: u64,
    offset: u64,
}

impl<D: Disk> Ledger<D> {
    pub(super) fn read(
        &mut self,
        from: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Batch, LedgerError> {
        let mut batch = Batch {
            next: from.max(self.acked() + 1),
            ..Batch::default()
        };
        let mut bytes = 0;
        while batch.next < self.durable && batch.records.len() + batch.gaps.len() < max_records {
            if let Some(gap) = self.journal.notes.gaps.at(batch.next) {
                batch.gaps.push(Gap {
                    first: batch.next,
                    ..gap
                });
                batch.next = gap.last + 1;
                continue;
            }
            let place = self.locate(batch.next)?;
            let records = &mut batch.records;
            let room = max_records - batch.gaps.len();
            let mut full = false;
            let end = self.walk(place, self.durable, |sequence, payload| {
                // The first record is always given, so that the reader gets on.
                full = !records.is_empty() && bytes + payload.len() > max_bytes;
                if full || records.len() >= room {
                    return false;
                }
                bytes += payload.len();
                records.push((sequence, payload.to_vec()));
                true
            })?;
            self.last_read = end;
            batch.next = end.sequence;
            if full {
                break;
            }
        }
        Ok(batch)
    }

    /// Finds the first unacknowledged record, for the count of bytes and for the next reading.
    pub(super) fn move_cursor(&mut self) -> Result<(), LedgerError> {
        let sequence = self.acked() + 1;
        if self.extent_of(sequence).is_some() {
            self.cursor = self.locate(sequence)?;
        }
        Ok(())
    }

    /// Bytes of the records, headers included, that are not acknowledged.
    pub(super) fn unacknowledged_bytes(&self) -> u64 {
        let acked = self.acked();
        let extents = self
            .segments
            .iter()
            .flat_map(|segment| segment.extents.iter().map(move |run| (segment, run)));
        extents
            .filter(|(_, run)| run.last > acked)
            .map(|(segment, run)| {
                let start = match within(segment, run, acked + 1, self.cursor) {
                    Some(cursor) if cursor.sequence == acked + 1 => cursor.offset,
                    _ => run.bytes.start,
                };
                run.bytes.end - start
            })
            .sum()
    }

    fn extent_of(&self, sequence: u64) -> Option<(&Segment, &Extent)> {
        let index = self.segments.partition_point(|s| s.first <= sequence);
        let segment = self.segments.get(index.checked_sub(1)?)?;
        let index = segment.extents.partition_point(|run| run.last < sequence);
        let run = segment.extents.get(index)?;
        (run.first <= sequence).then_some((segment, run))
    }

    fn locate(&self, sequence: u64) -> Result<Place, LedgerError> {
        let (segment, run) = self.extent_of(sequence).ok_or_else(|| self.changed(0, 0))?;
        let start = Place {
            segment: segment.first,
            sequence: run.first,
            offset: run.bytes.start,
        };
        let nearest = [self.cursor, self.last_read]
            .into_iter()
            .filter_map(|place| within(segment, run, sequence, place))
            .fold(start, |best, place| {
                if place.sequence > best.sequence {
                    place
                } else {
                    best
                }
            });
        if nearest.sequence == sequence {
            return Ok(nearest);
        }
        self.walk(nearest, sequence, |_, _| true)
    }

    /// Visits the records from `place` on, until the extent ends, `until` (exclusive) is reached or
    /// the visitor declines a record; returns the place of the first record not visited.
    fn walk(
        &self,
        mut place: Place,
        until: u64,
        mut visit: impl FnMut(u64, &[u8]) -> bool,
    ) -> Result<Place, LedgerError> {
        let (segment, run) = self
            .extent_of(place.sequence)
            .ok_or_else(|| self.changed(place.segment, place.offset))?;
        let path = segment.path(&self.dir);
        let file = self
            .disk
            .open(&path)
            .map_err(LedgerError::io("open", &path))?;
        let until = until.min(run.last + 1);
        let (mut window, mut base) = (Vec::new(), place.offset);
        while place.sequence < until {
            let rest = |window: &[u8], base| window.len() as u64 - (place.offset - base);
            let whole = record::claims(&window[(place.offset - base) as usize..])
                .is_some_and(|(len, _)| (RECORD_HEADER + len) as u64 <= rest(&window, base));
            if !whole {
                base = place.offset;
                window.resize((run.bytes.end - base).min(WINDOW) as usize, 0);
                let read = self
                    .disk
                    .read_at(&file, base, &mut window)
                    .map_err(LedgerError::io("read", &path))?;
                window.truncate(read);
            }
            // Checked at each reading: a disk can change its mind after the opening.
            let record = record::decode(&self.epoch, &window[(place.offset - base) as usize..])
                .filter(|record| record.sequence == place.sequence)
                .ok_or_else(|| self.changed(place.segment, place.offset))?;
            if !visit(record.sequence, record.payload) {
                break;
            }
            place.offset += record.len() as u64;
            place.sequence += 1;
        }
        Ok(place)
    }

    fn changed(&self, segment: u64, offset: u64) -> LedgerError {
        LedgerError::Damaged {
            path: super::segment::path(&self.dir, segment),
            offset,
        }
    }
}

/// The place, if a walk to `sequence` may start there.
fn within(segment: &Segment, run: &Extent, sequence: u64, place: Place) -> Option<Place> {
    let usable = place.segment == segment.first
        && (run.first..=sequence).contains(&place.sequence)
        && run.bytes.contains(&place.offset);
    usable.then_some(place)
}
