//! Unpacks into a fresh directory: every name is opened below a descriptor, no link is followed,
//! nothing that exists is opened for writing.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode as Bits, mkdirat};

use super::manifest::Manifest;
use super::path::{EntryPath, Mode};
use super::tree::{TREE_MARK, TreeDigest};
use super::unpack::Sink;

/// A new directory that a package is unpacked into.
///
/// Until [`Self::mark`] nobody but its owner can enter it.
#[derive(Debug)]
pub struct DirSink {
    parent: OwnedFd,
    top: OwnedFd,
    /// Everything below the top, to be made durable.
    directories: Vec<EntryPath>,
    file: Option<File>,
}

impl DirSink {
    /// Makes the directory `name` in `parent`. No other user may be able to write in `parent` or
    /// to move it away.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when there is something of that name, or what else the
    /// system said.
    pub fn create(parent: &Path, name: &EntryPath) -> io::Result<Self> {
        let parent = open(parent, directory_flags(), Bits::empty())?;
        mkdirat(&parent, name.as_str(), Bits::S_IRWXU)?;
        let top = open_below(&parent, name.as_str())?;
        Ok(Self {
            parent,
            top,
            directories: Vec::new(),
            file: None,
        })
    }

    /// Writes the mark that makes the directory a valid version, and lets others enter. Durable on
    /// return.
    ///
    /// # Errors
    /// What the system said.
    pub fn mark(self, digest: &TreeDigest) -> io::Result<()> {
        let mut file = create(&self.top, TREE_MARK, Mode::Plain)?;
        file.write_all(digest.mark().as_bytes())?;
        file.sync_all()?;
        let top = File::from(self.top);
        top.set_permissions(Permissions::from_mode(0o755))?;
        top.sync_all()?;
        File::from(self.parent).sync_all()
    }

    /// The open directory that `path` lies in, and its name there.
    fn locate<'a>(&self, path: &'a EntryPath) -> io::Result<(OwnedFd, &'a str)> {
        let mut parts = path.as_str().split('/').collect::<Vec<_>>();
        let name = parts.pop().unwrap_or_default();
        let mut dir = self.top.try_clone()?;
        for part in parts {
            dir = open_below(&dir, part)?;
        }
        Ok((dir, name))
    }
}

impl Sink for DirSink {
    fn begin(&mut self, _: &Manifest) -> io::Result<()> {
        Ok(())
    }

    fn directory(&mut self, path: &EntryPath) -> io::Result<()> {
        let (dir, name) = self.locate(path)?;
        mkdirat(&dir, name, Bits::S_IRWXU)?;
        let made = File::from(open_below(&dir, name)?);
        // The umask may have taken bits away.
        made.set_permissions(Permissions::from_mode(0o755))?;
        self.directories.push(path.clone());
        Ok(())
    }

    fn file(&mut self, path: &EntryPath, mode: Mode) -> io::Result<()> {
        let (dir, name) = self.locate(path)?;
        self.file = Some(create(&dir, name, mode)?);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn file_end(&mut self) -> io::Result<()> {
        self.file.take().map_or(Ok(()), |file| file.sync_all())
    }

    fn finish(&mut self) -> io::Result<()> {
        for path in self.directories.iter().rev() {
            let (dir, name) = self.locate(path)?;
            File::from(open_below(&dir, name)?).sync_all()?;
        }
        File::from(self.top.try_clone()?).sync_all()
    }
}

fn directory_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn open_below(dir: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(openat(dir, name, directory_flags(), Bits::empty())?)
}

fn create(dir: &impl AsFd, name: &str, mode: Mode) -> io::Result<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(openat(dir, name, flags, Bits::S_IRUSR | Bits::S_IWUSR)?);
    file.set_permissions(Permissions::from_mode(mode.bits()))?;
    Ok(file)
}
