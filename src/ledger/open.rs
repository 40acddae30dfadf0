//! Opening: finds out what is on disk, saves what is damaged, names what is lost.
//!
//! Nothing that was read is believed to be durable before it was written back and synced: after a
//! failed sync the page cache may show what the disk never got.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::gaps::{Gap, GapReason, GapSet};
use super::journal::{Entry, Found, Journal};
use super::read::Place;
use super::record::{BadHeader, Epoch, FILE_HEADER, Header, RECORD_HEADER, SEGMENT_MAGIC};
use super::segment::{self, Segment};
use super::{Ledger, LedgerError, Options, quarantine, scan};

/// What opening found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The ledger was made just now.
    pub created: bool,
    /// Good records on disk, acknowledged ones included.
    pub records: u64,
    /// Bytes of an unfinished or unreadable end that were cut off.
    pub torn_bytes: u64,
    /// Damaged or foreign segments of which the quarantine now has a copy.
    pub quarantined: Vec<PathBuf>,
    /// Losses that were not known before. They are in the ledger now and will be read from it.
    pub new_gaps: Vec<Gap>,
}

pub(super) fn open<D: Disk>(
    disk: D,
    dir: &Path,
    options: Options,
    new_epoch: Epoch,
) -> Result<(Ledger<D>, Recovery), LedgerError> {
    options.check()?;
    let mut recovery = Recovery::default();
    disk.make_dir(dir)
        .map_err(LedgerError::io("make directory", dir))?;
    let lock_path = dir.join("lock");
    let lock = disk
        .lock(&lock_path)
        .map_err(LedgerError::io("lock", &lock_path))?
        .ok_or_else(|| LedgerError::Locked {
            dir: dir.to_owned(),
        })?;
    let names = list(&disk, dir)?;
    let headers = headers(&disk, dir, &names)?;
    let found = Journal::find(&disk, dir)?;
    let epoch = match epoch_of(found.as_ref(), &headers) {
        Some(epoch) => epoch,
        None if found.is_none() && headers.is_empty() => {
            recovery.created = true;
            new_epoch
        }
        // Guessing would give old sequences to new records.
        None => {
            return Err(LedgerError::NoEpoch {
                dir: dir.to_owned(),
            });
        }
    };
    let journal = match found {
        Some(found) => Journal::load(&disk, dir, epoch, found)?,
        None => Journal::create(&disk, dir, epoch)?,
    };
    let mut opening = Opening {
        disk: &disk,
        dir,
        epoch,
        journal,
        recovery,
        segments: VecDeque::new(),
        damaged: Vec::new(),
        active: None,
        next: 1,
    };
    let ours = opening.move_foreign_away(headers)?;
    opening.read_segments(&ours)?;
    opening.account_for_lost_segment();
    opening.find_holes()?;
    opening.remember_youngest()?;
    let Opening {
        journal,
        recovery,
        segments,
        active,
        next,
        ..
    } = opening;
    let mut ledger = Ledger {
        disk,
        dir: dir.to_owned(),
        options,
        epoch,
        journal,
        segments,
        active,
        next,
        durable: next,
        cursor: Place::default(),
        last_read: Place::default(),
        dropped: 0,
        closed: false,
        _lock: lock,
    };
    ledger.delete_acknowledged();
    ledger.move_cursor()?;
    Ok((ledger, recovery))
}

/// The first sequence in a segment's name, and what its header says.
type Headers = Vec<(u64, Result<Header, BadHeader>)>;

/// Removes unfinished files, makes the names durable and returns the first sequences of the segments.
fn list<D: Disk>(disk: &D, dir: &Path) -> Result<Vec<u64>, LedgerError> {
    let names = disk.list(dir).map_err(LedgerError::io("list", dir))?;
    for name in names.iter().filter(|name| segment::is_temp(name)) {
        let path = dir.join(name);
        disk.unlink(&path)
            .map_err(LedgerError::io("remove", &path))?;
    }
    disk.sync_dir(dir)
        .map_err(LedgerError::io("sync the directory", dir))?;
    let mut firsts: Vec<u64> = names
        .iter()
        .filter_map(|n| segment::parse_name(n))
        .collect();
    firsts.sort_unstable();
    Ok(firsts)
}

fn headers<D: Disk>(disk: &D, dir: &Path, firsts: &[u64]) -> Result<Headers, LedgerError> {
    let mut headers = Vec::new();
    for &first in firsts {
        let path = segment::path(dir, first);
        let mut start = [0; FILE_HEADER];
        let read = disk
            .open(&path)
            .and_then(|file| disk.read_at(&file, 0, &mut start))
            .map_err(LedgerError::io("read", &path))?;
        let header = Header::decode(SEGMENT_MAGIC, &start[..read]);
        if let Err(BadHeader::Version(found)) = header {
            return Err(LedgerError::Version { path, found });
        }
        headers.push((first, header));
    }
    Ok(headers)
}

/// The journal decides; if it is lost, the youngest segment that can be read.
fn epoch_of<F>(journal: Option<&Found<F>>, headers: &Headers) -> Option<Epoch> {
    journal.and_then(|found| found.epoch).or_else(|| {
        let mut readable = headers.iter().rev().filter_map(|(_, h)| h.as_ref().ok());
        readable.next().map(|header| header.epoch)
    })
}

/// The state of an opening between its steps.
struct Opening<'a, D: Disk> {
    disk: &'a D,
    dir: &'a Path,
    epoch: Epoch,
    journal: Journal<D::File>,
    recovery: Recovery,
    segments: VecDeque<Segment>,
    /// Sequences (first, last) that damaged segments were for.
    damaged: Vec<(u64, u64)>,
    active: Option<D::File>,
    next: u64,
}

impl<D: Disk> Opening<'_, D> {
    /// Segments of another ledger (a directory that was copied together by hand) are not read.
    fn move_foreign_away(&mut self, headers: Headers) -> Result<Headers, LedgerError> {
        let (ours, foreign): (Headers, Headers) = headers
            .into_iter()
            .partition(|(_, header)| header.as_ref().map_or(true, |h| h.epoch == self.epoch));
        for (first, _) in foreign {
            let moved = quarantine::move_foreign(self.disk, self.dir, first)?;
            self.recovery.quarantined.push(moved);
        }
        Ok(ours)
    }

    fn read_segments(&mut self, headers: &Headers) -> Result<(), LedgerError> {
        for (index, (first, header)) in headers.iter().enumerate() {
            let path = segment::path(self.dir, *first);
            let (file, image) = segment::read_whole(self.disk, &path)?;
            let below = headers.get(index + 1).map(|(next, _)| *next);
            let found = scan::scan(
                &self.epoch,
                &image,
                *first..below.unwrap_or(u64::MAX),
                |_| {},
            );
            let header_good = header.as_ref().is_ok_and(|header| header.first == *first);
            // An unreadable end is damage unless it is where writing was interrupted.
            let damaged = !header_good || found.damaged || (below.is_some() && found.tail > 0);
            if damaged {
                let copy = quarantine::keep_copy(self.disk, self.dir, *first, &image);
                self.recovery.quarantined.extend(copy);
                let last = below.map_or(u64::MAX, |below| below - 1);
                self.damaged.push((*first, last));
            }
            let after = found.extents.last().map_or(*first, |run| run.last + 1);
            self.next = self.next.max(after);
            if below.is_none() {
                let mut lost = found.tail_records;
                if !header_good && found.extents.is_empty() {
                    // Its name must not be used again for another segment.
                    lost = lost.max(1);
                }
                self.give_up_tail(after, lost)?;
                let good = &image[..found.end as usize];
                segment::overwrite(self.disk, &file, &path, good, found.end + found.tail)?;
                self.recovery.torn_bytes = found.tail;
                self.active = Some(file);
            }
            self.recovery.records += found
                .extents
                .iter()
                .map(|run| run.last - run.first + 1)
                .sum::<u64>();
            self.segments.push_back(Segment {
                first: *first,
                capacity: image.len() as u64,
                end: found.end,
                extents: found.extents,
            });
        }
        Ok(())
    }

    /// Sequences that unreadable bytes at the end may have had are never given out again: the
    /// controller may have their records, and would take new ones for repetitions.
    fn give_up_tail(&mut self, first: u64, count: u64) -> Result<(), LedgerError> {
        if count == 0 {
            return Ok(());
        }
        let gap = Gap {
            first,
            last: first + (count - 1),
            reason: GapReason::Torn,
        };
        self.next = self.next.max(gap.last + 1);
        let known = self.journal.notes.gaps.at(first);
        if known.is_none_or(|known| known.last < gap.last) {
            self.journal.add(self.disk, self.dir, &[Entry::Gap(gap)])?;
            self.recovery.new_gaps.push(gap);
        }
        Ok(())
    }

    /// The file of the youngest segment is gone: how far its sequences went is not known any more.
    fn account_for_lost_segment(&mut self) {
        let notes = &self.journal.notes;
        self.next = self.next.max(notes.acked + 1);
        if let Some(gap) = notes.gaps.as_slice().last() {
            self.next = self.next.max(gap.last + 1);
        }
        let youngest = self.segments.back().map_or(0, |segment| segment.first);
        if let Some((first, capacity)) = notes.begun
            && first > youngest
        {
            self.next = self.next.max(first + most_records(capacity));
        }
    }

    /// Every sequence without a record, from the acknowledged ones to the next, is a gap. What is
    /// there is there, whatever the journal says; the journal knows the reasons.
    fn find_holes(&mut self) -> Result<(), LedgerError> {
        let known = &self.journal.notes.gaps;
        let mut gaps = GapSet::default();
        let mut fresh = Vec::new();
        for (first, last) in self.holes() {
            let inside = |gap: &&Gap| gap.last >= first && gap.first <= last;
            for gap in known.as_slice().iter().filter(inside) {
                gaps.insert(Gap {
                    first: gap.first.max(first),
                    last: gap.last.min(last),
                    reason: gap.reason,
                });
            }
            let mut damaged = self.damaged.iter();
            let reason = if damaged.any(|(from, to)| *from <= last && *to >= first) {
                GapReason::Damaged
            } else {
                GapReason::Missing
            };
            fresh.extend(gaps.insert(Gap {
                first,
                last,
                reason,
            }));
        }
        let entries: Vec<Entry> = fresh.iter().copied().map(Entry::Gap).collect();
        if !entries.is_empty() {
            self.journal.add(self.disk, self.dir, &entries)?;
        }
        self.journal.notes.gaps = gaps;
        self.recovery.new_gaps.extend(fresh);
        Ok(())
    }

    fn holes(&self) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut expected = self.journal.notes.acked + 1;
        for run in self.segments.iter().flat_map(|segment| &segment.extents) {
            if run.first > expected {
                holes.push((expected, run.first - 1));
            }
            expected = expected.max(run.last + 1);
        }
        if self.next > expected {
            holes.push((expected, self.next - 1));
        }
        holes
    }

    /// A journal that was lost, or a power cut between a new segment and its note.
    fn remember_youngest(&mut self) -> Result<(), LedgerError> {
        let Some(youngest) = self.segments.back() else {
            return Ok(());
        };
        let (first, capacity) = (youngest.first, youngest.capacity);
        match self.journal.notes.begun {
            Some((known, _)) if known >= first => Ok(()),
            _ => self
                .journal
                .add(self.disk, self.dir, &[Entry::Begun { first, capacity }]),
        }
    }
}

fn most_records(capacity: u64) -> u64 {
    capacity / (RECORD_HEADER as u64 + 1)
}
