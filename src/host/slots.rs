//! A value that is overwritten often and must never be half: two slots in one file of fixed size.
//!
//! The newer value goes over the older slot, so that a write that is cut off leaves the value
//! before it. One write and one sync a time, no new names, and the space is set aside when the
//! file is made: a disk that fills up later does not stop it.
//!
//! A slot is magic (8 bytes), generation (u64), length (u32), CRC-32C (u32) over generation,
//! length and value, then the value; integers are little-endian.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;
use zeroize::Zeroizing;

use super::atomic::{self, AtomicError};
use crate::core::journal;

/// Bytes of one slot. The largest value (a lane with a full request and a full reply) is below.
const SLOT_BYTES: usize = 1024 * 1024;
const HEADER_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"vnslot1\n";
const MODE: u32 = 0o600;

/// Why a file of slots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// The file system.
    #[error(transparent)]
    File(#[from] AtomicError),
    /// Neither slot holds a value.
    #[error("neither of the two copies in {0:?} is whole")]
    Damaged(PathBuf),
    /// More than a slot holds.
    #[error("{path:?} takes values of up to {} bytes, and this one has {bytes}", SLOT_BYTES - HEADER_BYTES)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes of the value.
        bytes: usize,
    },
}

/// An open file of slots.
#[derive(Debug)]
pub struct Slots {
    file: File,
    path: PathBuf,
    generation: u64,
}

impl Slots {
    /// Makes the file with a first value, or replaces one that is there; durable on return.
    ///
    /// # Errors
    /// [`SlotsError::File`], [`SlotsError::TooLarge`].
    pub fn create(path: &Path, value: &[u8]) -> Result<(), SlotsError> {
        let mut both = Zeroizing::new(vec![0; 2 * SLOT_BYTES]);
        let slot = encode(path, 1, value)?;
        both[SLOT_BYTES..][..slot.len()].copy_from_slice(&slot);
        Ok(atomic::write(path, &both, MODE)?)
    }

    /// Opens the file and reads the newest whole value.
    ///
    /// # Errors
    /// [`SlotsError::File`] (also for a file that others may read), [`SlotsError::Damaged`].
    pub fn open(path: &Path) -> Result<(Self, Zeroizing<Vec<u8>>), SlotsError> {
        let file = atomic::open_private(path)?;
        let [first, second] = [0, SLOT_BYTES as u64].map(|offset| read(&file, offset));
        let newest = [first, second]
            .into_iter()
            .flatten()
            .max_by_key(|(generation, _)| *generation);
        let (generation, value) = newest.ok_or_else(|| SlotsError::Damaged(path.to_owned()))?;
        // Space that a copied or restored file may lack; without it the disk may be full one day.
        let whole = i64::try_from(2 * SLOT_BYTES).expect("two megabytes");
        if let Err(error) = posix_fallocate(&file, 0, whole) {
            tracing::warn!(
                message_id = %journal::HOST_UNUSUAL,
                path = %path.display(), %error, "no space can be set aside"
            );
        }
        let path = path.to_owned();
        Ok((
            Self {
                file,
                path,
                generation,
            },
            value,
        ))
    }

    /// Puts a value in the place of the older one; durable on return.
    ///
    /// # Errors
    /// [`SlotsError::File`], [`SlotsError::TooLarge`]; the value before it stays.
    pub fn write(&mut self, value: &[u8]) -> Result<(), SlotsError> {
        let generation = self.generation + 1;
        let slot = encode(&self.path, generation, value)?;
        let offset = generation % 2 * SLOT_BYTES as u64;
        let failed = |doing| {
            let path = self.path.clone();
            move |source: io::Error| AtomicError::Io {
                doing,
                path,
                source,
            }
        };
        let written = self.file.write_all_at(&slot, offset);
        written.map_err(failed("write to"))?;
        self.file.sync_data().map_err(failed("sync"))?;
        self.generation = generation;
        Ok(())
    }
}

fn encode(path: &Path, generation: u64, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, SlotsError> {
    let bytes = value.len();
    if bytes > SLOT_BYTES - HEADER_BYTES {
        let path = path.to_owned();
        return Err(SlotsError::TooLarge { path, bytes });
    }
    let length = u32::try_from(bytes).expect("below a megabyte");
    let mut slot = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + bytes));
    slot.extend_from_slice(MAGIC);
    slot.extend_from_slice(&generation.to_le_bytes());
    slot.extend_from_slice(&length.to_le_bytes());
    let crc = checksum(&slot[8..20], value);
    slot.extend_from_slice(&crc.to_le_bytes());
    slot.extend_from_slice(value);
    Ok(slot)
}

/// The generation and the value of the slot at `offset`, if it is whole.
fn read(file: &File, offset: u64) -> Option<(u64, Zeroizing<Vec<u8>>)> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, offset).ok()?;
    let generation = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let length = u32::from_le_bytes(header[16..20].try_into().ok()?);
    let crc = u32::from_le_bytes(header[20..24].try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    if !header.starts_with(MAGIC) || length > SLOT_BYTES - HEADER_BYTES {
        return None;
    }
    let mut value = Zeroizing::new(vec![0; length]);
    let after_header = offset + HEADER_BYTES as u64;
    file.read_exact_at(&mut value, after_header).ok()?;
    (crc == checksum(&header[8..20], &value)).then_some((generation, value))
}

fn checksum(header: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(dir: &tempfile::TempDir) -> PathBuf {
        let path = dir.path().join("x.slots");
        Slots::create(&path, b"first").unwrap();
        path
    }

    fn value(path: &Path) -> Vec<u8> {
        Slots::open(path).unwrap().1.to_vec()
    }

    #[test]
    fn the_newest_value_is_read_back_and_the_file_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let path = made(&dir);
        assert_eq!(value(&path), b"first");
        for n in 0..5 {
            let (mut slots, _) = Slots::open(&path).unwrap();
            slots.write(format!("value {n}").as_bytes()).unwrap();
            slots.write(format!("value {n}!").as_bytes()).unwrap();
            assert_eq!(value(&path), format!("value {n}!").as_bytes());
        }
        let size = std::fs::metadata(&path).unwrap().len();
        assert_eq!(size, 2 * SLOT_BYTES as u64);
    }

    #[test]
    fn a_write_cut_off_anywhere_leaves_the_value_before_it_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = made(&dir);
        let (mut slots, _) = Slots::open(&path).unwrap();
        slots.write(b"second").unwrap();
        let before = std::fs::read(&path).unwrap();
        slots.write(b"the third value").unwrap();
        let after = std::fs::read(&path).unwrap();
        let changed: Vec<usize> = (0..before.len())
            .filter(|at| before[*at] != after[*at])
            .collect();
        let (first, last) = (changed[0], *changed.last().unwrap());
        for cut in first..=last + 1 {
            let mut torn = before.clone();
            torn[first..cut].copy_from_slice(&after[first..cut]);
            std::fs::write(&path, &torn).unwrap();
            let expected: &[u8] = if cut > last {
                b"the third value"
            } else {
                b"second"
            };
            assert_eq!(value(&path), expected, "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_of_the_newest_value_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = made(&dir);
        Slots::open(&path).unwrap().0.write(b"second").unwrap();
        let good = std::fs::read(&path).unwrap();
        for bit in 0..8 * (HEADER_BYTES + "second".len()) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(value(&path), b"first", "bit {bit}");
        }
    }

    #[test]
    fn a_file_without_a_whole_value_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = made(&dir);
        let bad_files = [vec![], vec![0; 2 * SLOT_BYTES], b"vnslot1\n".to_vec()];
        for bytes in bad_files {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Slots::open(&path), Err(SlotsError::Damaged(_))));
        }
    }

    #[test]
    fn a_value_that_is_too_large_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = made(&dir);
        let (mut slots, _) = Slots::open(&path).unwrap();
        let large = vec![7; SLOT_BYTES];
        assert!(matches!(
            slots.write(&large),
            Err(SlotsError::TooLarge { .. })
        ));
        assert_eq!(value(&path), b"first");
    }
}
