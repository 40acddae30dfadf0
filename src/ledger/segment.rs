//! Files of the ledger: their names, how a new one appears in one step, how one is read as a whole.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::LedgerError;
use super::disk::Disk;
use super::options::MAX_SEGMENT_BYTES;
use super::record::FILE_HEADER;
use super::scan::Extent;

/// Ending of a segment's name; before it the first sequence in 16 hexadecimal digits.
const SEGMENT_SUFFIX: &str = ".seg";

/// Ending of unfinished files; opening removes them.
const TEMP_SUFFIX: &str = ".tmp";

/// Bytes of zeros written at once.
const CHUNK: u64 = 64 * 1024;

/// What is known of a segment. No file stays open for it.
#[derive(Debug)]
pub(super) struct Segment {
    /// Lowest sequence that may be in it; its name.
    pub(super) first: u64,
    /// Bytes that the file takes.
    pub(super) capacity: u64,
    /// Where the next record would go.
    pub(super) end: u64,
    pub(super) extents: Vec<Extent>,
}

impl Segment {
    pub(super) fn new(first: u64, capacity: u64) -> Self {
        Self {
            first,
            capacity,
            end: FILE_HEADER as u64,
            extents: Vec::new(),
        }
    }

    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        path(dir, self.first)
    }

    /// Notes a record of `len` bytes that was written at the end.
    pub(super) fn grow(&mut self, sequence: u64, len: u64) {
        let bytes = self.end..self.end + len;
        self.end = bytes.end;
        match self.extents.last_mut() {
            Some(run) if run.bytes.end == bytes.start && run.last + 1 == sequence => {
                run.bytes.end = bytes.end;
                run.last = sequence;
            }
            _ => self.extents.push(Extent {
                bytes,
                first: sequence,
                last: sequence,
            }),
        }
    }
}

pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}{SEGMENT_SUFFIX}"))
}

/// The first sequence that a segment's name tells; `None` for any other file.
pub(super) fn parse_name(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(SEGMENT_SUFFIX)?;
    let canonical = digits.len() == 16
        && digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    canonical.then(|| u64::from_str_radix(digits, 16).ok())?
}

pub(super) fn is_temp(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.ends_with(TEMP_SUFFIX))
}

pub(super) fn temp_path(dir: &Path, stem: &str) -> PathBuf {
    dir.join(format!("{stem}{TEMP_SUFFIX}"))
}

/// Makes an unfinished file of `capacity` bytes that starts with `image`; durable but for its name.
/// After an error nothing is left of it.
///
/// The zeros are written, not only promised: else the file system notes for each record that its
/// block is in use now, and each sync waits for that note, too (ext4, XFS).
pub(super) fn prepare<D: Disk>(
    disk: &D,
    temp: &Path,
    image: &[u8],
    capacity: u64,
) -> Result<D::File, LedgerError> {
    let made = disk.create(temp).or_else(|error| match error.kind() {
        // Left by an attempt whose cleaning up failed as well.
        io::ErrorKind::AlreadyExists => disk.unlink(temp).and_then(|()| disk.create(temp)),
        _ => Err(error),
    });
    let file = made.map_err(LedgerError::io("create", temp))?;
    let filled = disk
        .reserve(&file, capacity)
        .map_err(LedgerError::io("reserve the space of", temp))
        .and_then(|()| overwrite(disk, &file, temp, image, capacity));
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            // Best effort: the next attempt, or opening, removes what is left.
            let _ = disk.unlink(temp);
            Err(error)
        }
    }
}

/// Makes an unfinished file out of one that is not needed, without giving its space back to the
/// file system: on a full disk somebody else would take it.
pub(super) fn recycle<D: Disk>(
    disk: &D,
    temp: &Path,
    image: &[u8],
    capacity: u64,
) -> Result<D::File, LedgerError> {
    let file = disk.open(temp).map_err(LedgerError::io("open", temp))?;
    let len = disk.len(&file).map_err(LedgerError::io("look at", temp))?;
    if len < capacity {
        disk.reserve(&file, capacity)
            .map_err(LedgerError::io("reserve the space of", temp))?;
    }
    overwrite(disk, &file, temp, image, len.max(capacity))?;
    Ok(file)
}

/// Gives a finished file its name, durably.
pub(super) fn publish<D: Disk>(
    disk: &D,
    dir: &Path,
    temp: &Path,
    path: &Path,
) -> Result<(), LedgerError> {
    disk.rename(temp, path)
        .map_err(LedgerError::io("rename into place", path))?;
    disk.sync_dir(dir)
        .map_err(LedgerError::io("sync the directory", dir))
}

/// Writes `image` at the start of the file, zeros up to `until`, and syncs.
///
/// Opening does this with the bytes that it has just read: after a failed sync the page cache shows
/// bytes that are not on disk and will never be written unless they are made dirty again.
pub(super) fn overwrite<D: Disk>(
    disk: &D,
    file: &D::File,
    path: &Path,
    image: &[u8],
    until: u64,
) -> Result<(), LedgerError> {
    let write = |at, bytes: &[u8]| {
        disk.write_at(file, at, bytes)
            .map_err(LedgerError::io("write", path))
    };
    write(0, image)?;
    let mut at = image.len() as u64;
    while at < until {
        let part = (until - at).min(CHUNK);
        write(at, &vec![0; part as usize])?;
        at += part;
    }
    disk.sync(file).map_err(LedgerError::io("sync", path))
}

/// Reads a whole file; what lies beyond the largest possible segment is not ours and is ignored.
pub(super) fn read_whole<D: Disk>(
    disk: &D,
    path: &Path,
) -> Result<(D::File, Vec<u8>), LedgerError> {
    let file = disk.open(path).map_err(LedgerError::io("open", path))?;
    let len = disk.len(&file).map_err(LedgerError::io("look at", path))?;
    let mut image = vec![0; len.min(MAX_SEGMENT_BYTES) as usize];
    let read = disk
        .read_at(&file, 0, &mut image)
        .map_err(LedgerError::io("read", path))?;
    image.truncate(read);
    Ok((file, image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_names_are_segments() {
        let path = path(Path::new("/l"), 0x1f);
        assert_eq!(path, Path::new("/l/000000000000001f.seg"));
        assert_eq!(parse_name(path.file_name().unwrap()), Some(0x1f));
        for other in [
            "1f.seg",
            "000000000000001F.seg",
            "+00000000000001f.seg",
            "000000000000001f.tmp",
            "000000000000001f",
            "g00000000000001f.seg",
            "0000000000000001f.seg",
        ] {
            assert_eq!(parse_name(OsStr::new(other)), None, "{other}");
        }
    }
}
