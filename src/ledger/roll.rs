//! Writing: into the newest segment, into a new one when that is full, over the oldest when there
//! is no space for a new one. Here is the quota.

use super::disk::Disk;
use super::gaps::{Gap, GapReason};
use super::journal::Entry;
use super::options::WhenFull;
use super::record::{self, Header, RECORD_HEADER, SEGMENT_MAGIC};
use super::segment::{self, Segment};
use super::{Ledger, LedgerError};
use crate::core::journal;

/// Unfinished new segment.
const FRESH: &str = "fresh";

/// Given-up segment whose space a new one takes over.
const SPARE: &str = "spare";

impl<D: Disk> Ledger<D> {
    pub(super) fn write(&mut self, sequence: u64, payload: &[u8]) -> Result<(), LedgerError> {
        let len = (RECORD_HEADER + payload.len()) as u64;
        let room = |segment: &Segment| segment.end + len <= segment.capacity;
        if !self.segments.back().is_some_and(room) {
            self.begin_segment()?;
        }
        let (Some(active), Some(segment)) = (&self.active, self.segments.back_mut()) else {
            unreachable!("a segment was begun");
        };
        let mut bytes = Vec::with_capacity(RECORD_HEADER + payload.len());
        record::encode(&self.epoch, sequence, payload, &mut bytes);
        self.disk
            .write_at(active, segment.end, &bytes)
            .map_err(LedgerError::io("write", &segment.path(&self.dir)))?;
        segment.grow(sequence, len);
        self.next += 1;
        Ok(())
    }

    pub(super) fn sync_active(&mut self) -> Result<(), LedgerError> {
        if self.durable == self.next {
            return Ok(());
        }
        if let (Some(active), Some(segment)) = (&self.active, self.segments.back()) {
            self.disk
                .sync(active)
                .map_err(LedgerError::io("sync", &segment.path(&self.dir)))?;
        }
        self.durable = self.next;
        Ok(())
    }

    /// Removes segments of which every record is acknowledged, but never the newest: its name keeps
    /// the sequence. A failure costs space only; the next acknowledgement tries again.
    pub(super) fn delete_acknowledged(&mut self) {
        let mut deleted = false;
        while let [oldest, second, ..] = self.segments.make_contiguous()
            && second.first <= self.journal.notes.acked + 1
        {
            let path = oldest.path(&self.dir);
            if let Err(error) = self.disk.unlink(&path) {
                tracing::warn!(
                    message_id = %journal::LEDGER_MENDED,
                    ?path, %error, "an acknowledged segment could not be deleted"
                );
                break;
            }
            self.segments.pop_front();
            deleted = true;
        }
        if deleted && let Err(error) = self.disk.sync_dir(&self.dir) {
            // The file may come back after a power cut; opening deletes it again.
            tracing::warn!(
                message_id = %journal::LEDGER_MENDED,
                dir = ?self.dir, %error, "the ledger's directory could not be synced"
            );
        }
    }

    /// Makes the segment for the next sequence the newest one.
    fn begin_segment(&mut self) -> Result<(), LedgerError> {
        // Only the newest segment may have an end that is not durable: so says the recovery.
        self.sync_active()?;
        let capacity = self.options.segment_bytes;
        let header = Header {
            magic: SEGMENT_MAGIC,
            epoch: self.epoch,
            first: self.next,
        }
        .encode();
        let mut spare = false;
        while self.reserved() + capacity > self.options.max_bytes {
            self.drop_oldest()?;
            spare = true;
        }
        let fresh = segment::temp_path(&self.dir, FRESH);
        let prepared = if spare {
            None
        } else {
            match segment::prepare(&self.disk, &fresh, &header, capacity) {
                Err(full) if full.is_full() => {
                    self.drop_oldest()?;
                    None
                }
                other => Some(other?),
            }
        };
        let (temp, file) = match prepared {
            Some(file) => (fresh, file),
            None => {
                let spare = segment::temp_path(&self.dir, SPARE);
                let file = segment::recycle(&self.disk, &spare, &header, capacity)?;
                (spare, file)
            }
        };
        let path = segment::path(&self.dir, self.next);
        segment::publish(&self.disk, &self.dir, &temp, &path)?;
        let capacity = self
            .disk
            .len(&file)
            .map_err(LedgerError::io("look at", &path))?;
        self.note(Entry::Begun {
            first: self.next,
            capacity,
        })?;
        self.segments.push_back(Segment::new(self.next, capacity));
        self.active = Some(file);
        Ok(())
    }

    /// Gives up the oldest segment, and leaves its file as the spare. The newest is never given up:
    /// it has the records of this minute.
    fn drop_oldest(&mut self) -> Result<(), LedgerError> {
        let refused = LedgerError::Full {
            dir: self.dir.clone(),
            reserved: self.reserved(),
            max_bytes: self.options.max_bytes,
        };
        let [oldest, second, ..] = self.segments.make_contiguous() else {
            return Err(refused);
        };
        if self.options.when_full == WhenFull::Refuse {
            return Err(refused);
        }
        let gap = Gap {
            first: oldest.first.max(self.journal.notes.acked + 1),
            last: second.first - 1,
            reason: GapReason::Dropped,
        };
        let path = oldest.path(&self.dir);
        if gap.first <= gap.last {
            tracing::error!(
                message_id = %journal::LEDGER_FULL,
                first = gap.first,
                last = gap.last,
                "the connection ledger is full: its oldest records are given up and reported as lost"
            );
            // The gap is durable before the records go.
            self.note(Entry::Gap(gap))?;
            self.dropped += gap.span();
        }
        self.segments.pop_front();
        let spare = segment::temp_path(&self.dir, SPARE);
        self.disk
            .rename(&path, &spare)
            .map_err(LedgerError::io("give up", &path))
    }

    fn reserved(&self) -> u64 {
        self.segments.iter().map(|segment| segment.capacity).sum()
    }
}
