//! The log in which qemu's `blklogwrites` keeps every write to a guest's disk, in their order and
//! with the guest's flushes between them.
//!
//! The format is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/
//! log-writes.rst): a superblock, then entries, each with a header of one sector and its data. The
//! log of a qemu that was killed ends anywhere: the last entry that is there whole is the last.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// `WRITE_LOG_MAGIC` of drivers/md/dm-log-writes.c.
const MAGIC: u64 = 0x006a_7366_7773_6872;
/// `WRITE_LOG_VERSION` there.
const VERSION: u64 = 1;
/// Bytes of an entry's header that mean something; the rest of its sector is zeros.
const HEADER: usize = 32;
/// An hour of a busy guest has a tenth of this; each costs 40 bytes of memory.
const MAX_ENTRIES: usize = 4_000_000;
/// A guest's largest write is some megabytes (`max_sectors_kb` times what virtio merges).
const MAX_WRITE: u64 = 64 * 1024 * 1024;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
const METADATA: u64 = 16;

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its data goes, in sectors of the log.
    sector: u64,
    /// How much data it has; nothing for what only flushes, discards or marks.
    pub(super) sectors: u64,
    /// What was written before it is on the disk from here on.
    pub(super) flushes: bool,
    /// It is on the disk itself.
    pub(super) durable: bool,
    /// Where its data begins in the log.
    data: u64,
}

/// See the module's page.
pub(super) struct WriteLog {
    path: PathBuf,
    file: File,
    sector_size: u64,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the headers of a whole log.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let shown = || path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {}", shown()))?;
        let length = file.metadata().with_context(shown)?.len();
        let sector_size = superblock(&file).with_context(shown)?;
        let mut log = Self {
            path: path.to_owned(),
            file,
            sector_size,
            entries: Vec::new(),
        };
        let mut at = sector_size;
        while let Some((entry, next)) = log.entry(at, length).with_context(shown)? {
            ensure!(
                log.entries.len() < MAX_ENTRIES,
                "{} has more than {MAX_ENTRIES} entries",
                shown()
            );
            log.entries.push(entry);
            at = next;
        }
        Ok(log)
    }

    /// All entries, the first one first.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry whose header is at this byte, and where the next one is; nothing at the end.
    fn entry(&self, at: u64, length: u64) -> Result<Option<(Entry, u64)>> {
        let mut header = [0; HEADER];
        match self.file.read_exact_at(&mut header, at) {
            Err(end) if end.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other.context("cannot read an entry")?,
        }
        let word = |number: usize| {
            let bytes = header[number * 8..][..8].try_into();
            u64::from_le_bytes(bytes.expect("eight bytes"))
        };
        let (sector, sectors, flags) = (word(0), word(1), word(2));
        if header == [0; HEADER] {
            return Ok(None);
        }
        if flags & !(FLUSH | FUA | DISCARD | MARK | METADATA) != 0 {
            bail!("the entry at byte {at} has flags {flags:#x}, which dm-log-writes does not know");
        }
        // A discard says how much it discards, and a mark has its text in the header's sector.
        let sectors = match flags & (DISCARD | MARK) {
            0 => sectors,
            _ => 0,
        };
        let bytes = sectors.checked_mul(self.sector_size);
        let bytes = bytes.filter(|bytes| *bytes <= MAX_WRITE);
        let bytes = bytes.with_context(|| {
            format!("the entry at byte {at} has {sectors} sectors, more than any write")
        })?;
        ensure!(
            sector.checked_mul(self.sector_size).is_some(),
            "the entry at byte {at} is for sector {sector}, which no disk has"
        );
        let data = at + self.sector_size;
        let next = data + bytes;
        let entry = Entry {
            sector,
            sectors,
            flushes: flags & FLUSH != 0,
            durable: flags & FUA != 0,
            data,
        };
        Ok((next <= length).then_some((entry, next)))
    }

    /// Writes those sectors of an entry's data to `disk` that `keep` names by their number in it.
    pub(super) fn apply(
        &self,
        entry: &Entry,
        disk: &File,
        mut keep: impl FnMut(u64) -> bool,
    ) -> Result<()> {
        let size = usize::try_from(self.sector_size)?;
        let mut data = vec![0; size * usize::try_from(entry.sectors)?];
        self.file
            .read_exact_at(&mut data, entry.data)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let mut from = 0;
        while from < entry.sectors {
            if !keep(from) {
                from += 1;
                continue;
            }
            let mut to = from + 1;
            // The question for `to` that ends the run is its only one.
            while to < entry.sectors && keep(to) {
                to += 1;
            }
            let bytes = &data[usize::try_from(from)? * size..usize::try_from(to)? * size];
            disk.write_all_at(bytes, (entry.sector + from) * self.sector_size)
                .context("cannot write to the copy of the disk")?;
            from = to + 1;
        }
        Ok(())
    }
}

/// How many entries the log of a running guest has by now, as its superblock says.
pub(super) fn entries_so_far(path: &Path) -> Result<usize> {
    let log = WriteLog::open(path)?;
    Ok(log.entries.len())
}

/// The size of the log's sectors.
fn superblock(mut file: &File) -> Result<u64> {
    let mut bytes = [0; 28];
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_exact(&mut bytes))
        .context("it is too short for a log of writes")?;
    let word = |at: usize| u64::from_le_bytes(bytes[at..][..8].try_into().expect("eight bytes"));
    ensure!(word(0) == MAGIC, "it is no log of writes");
    ensure!(
        word(8) == VERSION,
        "it has version {}, not {VERSION}",
        word(8)
    );
    let size = u32::from_le_bytes(bytes[24..].try_into().expect("four bytes"));
    ensure!(
        matches!(size, 512 | 1024 | 2048 | 4096),
        "its sectors have {size} bytes"
    );
    Ok(u64::from(size))
}

/// Logs made by hand.
#[cfg(test)]
pub(super) mod made {
    use super::*;

    /// A log with sectors of 512 bytes: of each entry the sector, the flags and the data.
    pub(in crate::vm) fn log(path: &Path, entries: &[(u64, u64, Vec<u8>)]) {
        let mut bytes = Vec::new();
        for word in [MAGIC, VERSION, entries.len() as u64] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(512_u32.to_le_bytes());
        bytes.resize(512, 0);
        for (sector, flags, data) in entries {
            let header = bytes.len();
            for word in [*sector, data.len() as u64 / 512, *flags, 0] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.resize(header + 512, 0);
            bytes.extend(data);
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// `count` sectors full of `byte`.
    pub(in crate::vm) fn sectors(byte: u8, count: usize) -> Vec<u8> {
        vec![byte; 512 * count]
    }
}

#[cfg(test)]
mod tests {
    use super::made::{log, sectors};
    use super::*;
    use std::fs;

    #[test]
    fn entries_are_read_with_their_flags_and_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        log(
            &path,
            &[
                (3, 0, sectors(b'a', 2)),
                (0, FLUSH, Vec::new()),
                (9, FUA | METADATA, sectors(b'b', 1)),
            ],
        );
        let log = WriteLog::open(&path).unwrap();
        let told: Vec<_> = log
            .entries()
            .iter()
            .map(|e| (e.sector, e.sectors, e.flushes, e.durable))
            .collect();
        assert_eq!(
            told,
            [
                (3, 2, false, false),
                (0, 0, true, false),
                (9, 1, false, true)
            ]
        );
        let disk = tempfile::tempfile().unwrap();
        log.apply(&log.entries()[0], &disk, |_| true).unwrap();
        log.apply(&log.entries()[2], &disk, |_| true).unwrap();
        let mut found = [0; 10 * 512];
        disk.read_exact_at(&mut found, 0).unwrap();
        assert!(found[3 * 512..5 * 512].iter().all(|byte| *byte == b'a'));
        assert!(found[..3 * 512].iter().all(|byte| *byte == 0));
        assert!(found[9 * 512..].iter().all(|byte| *byte == b'b'));
    }

    #[test]
    fn a_write_can_be_torn_between_its_sectors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        log(&path, &[(0, 0, sectors(b'x', 5))]);
        let log = WriteLog::open(&path).unwrap();
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(5 * 512).unwrap();
        let kept = [true, false, true, true, false];
        log.apply(&log.entries()[0], &disk, |n| kept[n as usize])
            .unwrap();
        let mut found = vec![0; 5 * 512];
        disk.read_exact_at(&mut found, 0).unwrap();
        for (sector, kept) in found.chunks(512).zip(kept) {
            let wanted = if kept { b'x' } else { 0 };
            assert!(sector.iter().all(|byte| *byte == wanted));
        }
    }

    #[test]
    fn discards_and_marks_have_no_data_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        log(&path, &[(0, FLUSH, Vec::new()), (1, 0, sectors(b'a', 1))]);
        // The first entry becomes a discard, then a mark, of a thousand sectors.
        for flags in [DISCARD, MARK] {
            let mut bytes = fs::read(&path).unwrap();
            bytes[512 + 8..512 + 16].copy_from_slice(&1000_u64.to_le_bytes());
            bytes[512 + 16..512 + 24].copy_from_slice(&flags.to_le_bytes());
            fs::write(&path, bytes).unwrap();
            let log = WriteLog::open(&path).unwrap();
            let sizes: Vec<_> = log.entries().iter().map(|e| e.sectors).collect();
            assert_eq!(sizes, [0, 1]);
        }
    }

    #[test]
    fn a_log_that_was_cut_off_ends_with_its_last_whole_entry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        log(&path, &[(0, 0, sectors(b'a', 1)), (1, 0, sectors(b'b', 4))]);
        let bytes = fs::read(&path).unwrap();
        let second = 512 + 1024;
        for (length, wanted) in [
            (bytes.len(), 2),
            (bytes.len() - 1, 1),
            (second + 512, 1),
            (second + 31, 1),
            (second, 1),
            (second - 1, 0),
            (512, 0),
        ] {
            fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(entries_so_far(&path).unwrap(), wanted, "{length} bytes");
        }
        // A file with space that was set aside.
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + 5000, 0);
        fs::write(&path, longer).unwrap();
        assert_eq!(entries_so_far(&path).unwrap(), 2);
    }

    #[test]
    fn what_is_no_such_log_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        log(&path, &[(0, 0, sectors(b'a', 1))]);
        let good = fs::read(&path).unwrap();
        let cases: [(&str, usize, u64); 5] = [
            ("no log of writes", 0, 1),
            ("version 2", 8, 2),
            ("sectors have 7 bytes", 24, 7),
            ("flags 0x40", 512 + 16, 0x40),
            ("more than any write", 512 + 8, u64::MAX / 2),
        ];
        for (words, at, value) in cases {
            let mut bytes = good.clone();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            fs::write(&path, bytes).unwrap();
            let error = format!("{:#}", WriteLog::open(&path).err().unwrap());
            assert!(error.contains(words), "{words}: {error}");
        }
        fs::write(&path, &good[..20]).unwrap();
        let error = format!("{:#}", WriteLog::open(&path).err().unwrap());
        assert!(error.contains("too short"), "{error}");
    }
}
