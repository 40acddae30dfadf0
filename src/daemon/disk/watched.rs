//! A disk that tells the watchdog of each call: reading or writing a large ledger may take long
//! while every single call is quick.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use crate::daemon::progress::{Part, Progress};
use crate::ledger::Disk;

/// See the module.
#[derive(Clone)]
pub(in crate::daemon) struct Watched<D> {
    disk: D,
    progress: Progress,
}

impl<D> Watched<D> {
    pub(in crate::daemon) fn new(disk: D, progress: Progress) -> Self {
        Self { disk, progress }
    }

    /// The disk, for one call.
    fn next(&self) -> &D {
        self.progress.step(Part::Disk);
        &self.disk
    }
}

impl<D: Disk> Disk for Watched<D> {
    type File = D::File;
    type Lock = D::Lock;

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.next().make_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<D::Lock>> {
        self.next().lock(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.next().list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<D::File> {
        self.next().create(path)
    }

    fn open(&self, path: &Path) -> io::Result<D::File> {
        self.next().open(path)
    }

    fn reserve(&self, file: &D::File, len: u64) -> io::Result<()> {
        self.next().reserve(file, len)
    }

    fn len(&self, file: &D::File) -> io::Result<u64> {
        self.next().len(file)
    }

    fn read_at(&self, file: &D::File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.next().read_at(file, at, buffer)
    }

    fn write_at(&self, file: &D::File, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.next().write_at(file, at, bytes)
    }

    fn sync(&self, file: &D::File) -> io::Result<()> {
        self.next().sync(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.next().rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.next().unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.next().sync_dir(dir)
    }
}
