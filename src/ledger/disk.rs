//! The seam between the ledger and the file system: every system call that it makes is here.
//!
//! The tests put a simulated disk in its place, which fails, tears and forgets writes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, posix_fallocate};

use crate::host::atomic;

/// What the ledger needs of a file system. Offsets and lengths are in bytes.
pub trait Disk {
    /// An open file.
    type File;
    /// Proof that no other process uses the directory; released when dropped.
    type Lock;

    /// Makes the directory, private, durably, if it is missing.
    ///
    /// # Errors
    /// What the system said.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock file; `None` when another process holds it.
    ///
    /// # Errors
    /// What the system said.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::Lock>>;

    /// Names of the entries of a directory, in any order.
    ///
    /// # Errors
    /// What the system said.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Makes a new file, private, which must not exist yet.
    ///
    /// # Errors
    /// What the system said.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file to read and write.
    ///
    /// # Errors
    /// What the system said.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Makes the file `len` bytes long and sets that space aside (posix_fallocate(3)).
    ///
    /// # Errors
    /// What the system said; `ENOSPC` when the space is not there.
    fn reserve(&self, file: &Self::File, len: u64) -> io::Result<()>;

    /// The length of the file.
    ///
    /// # Errors
    /// What the system said.
    fn len(&self, file: &Self::File) -> io::Result<u64>;

    /// Reads until the buffer is full or the file ends; tells how much was read.
    ///
    /// # Errors
    /// What the system said.
    fn read_at(&self, file: &Self::File, at: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`. Not durable before [`Disk::sync`].
    ///
    /// # Errors
    /// What the system said; then any part may have been written.
    fn write_at(&self, file: &Self::File, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes the file's content durable (fdatasync(2)).
    ///
    /// # Errors
    /// What the system said; then the content since the last sync may be lost, and a second sync
    /// that succeeds proves nothing.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Renames, replacing what has the new name.
    ///
    /// # Errors
    /// What the system said.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system said.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the names of a directory durable (fsync(2)).
    ///
    /// # Errors
    /// What the system said.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The disk of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDisk;

impl Disk for HostDisk {
    type File = File;
    type Lock = File;

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        atomic::create_dir_private(dir).map_err(io::Error::other)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file = private().create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        std::fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        private().create_new(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        private().open(path)
    }

    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        let wanted = i64::try_from(len).map_err(io::Error::other)?;
        match posix_fallocate(file, 0, wanted) {
            // musl does not emulate it where the file system cannot: zeros reserve as well.
            Err(Errno::EOPNOTSUPP) => fill_with_zeros(file, len),
            other => Ok(other?),
        }
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read_at(&self, file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(more) => done += more,
                Err(again) if again.kind() == io::ErrorKind::Interrupted => {}
                Err(other) => return Err(other),
            }
        }
        Ok(done)
    }

    fn write_at(&self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits());
    options
}

fn fill_with_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = [0; 64 * 1024];
    let mut at = file.metadata()?.len();
    while at < len {
        let part = usize::try_from(len - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
        file.write_all_at(&zeros[..part], at)?;
        at += part as u64;
    }
    Ok(())
}
