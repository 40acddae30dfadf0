//! Files of a release repository: replaced as a whole, durable on return, read with a bound.
//!
//! What is public has mode 0644 in directories of mode 0755, so that another program may serve it.
//! Names of temporary files begin with a dot; nothing serves such a name.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::config::advice;

/// How often and how long apart the lock is tried.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Beginning of the name of a temporary file.
const TEMPORARY: &str = ".new-";

/// Why a file of a repository cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system refused.
    #[error("{path:?} cannot be {action}: {source}{}", hint(source))]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// It would be overwritten.
    #[error("{0:?} exists already, and is never overwritten: choose another name, or move it away")]
    Exists(PathBuf),
    /// More bytes than such a file has.
    #[error(
        "{path:?} is larger than the {limit} bytes that it may have: it is not what it should be"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Another process is at work.
    #[error("another command works on {0:?} just now: wait for its end, and try again")]
    Locked(PathBuf),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "; nothing that is published has changed: make room, and run the command again"
        }
        _ => advice(error),
    }
}

pub(super) fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> DiskError {
    move |source| DiskError::File {
        path: path.to_owned(),
        action,
        source,
    }
}

/// Held for as long as something is changed; freed by the system when the process ends.
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// The only one on `path`. The running controller holds it for some milliseconds at a time, so
    /// it is tried for a second.
    pub(super) fn take(path: &Path) -> Result<Self, DiskError> {
        for _ in 1..LOCK_TRIES {
            match Self::try_take(path) {
                Err(DiskError::Locked(_)) => std::thread::sleep(LOCK_PAUSE),
                done => return done,
            }
        }
        Self::try_take(path)
    }

    fn try_take(path: &Path) -> Result<Self, DiskError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed(path, "opened"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err((_, Errno::EWOULDBLOCK)) => Err(DiskError::Locked(parent(path).to_owned())),
            Err((_, errno)) => Err(failed(path, "locked")(errno.into())),
        }
    }
}

/// Makes a directory and those above it; one that exists is left as it is.
pub(super) fn create_dirs(path: &Path, mode: u32) -> Result<(), DiskError> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    create_dirs(above, mode)?;
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(failed(path, "created")(error));
        }
        _ => {}
    }
    // Whatever the umask is: others are to serve these files. A USB stick without permissions says
    // no, and does not need it.
    let _ = fs::set_permissions(path, Permissions::from_mode(mode));
    sync_dir(above)
}

/// Fails when something is there.
pub(super) fn refuse_existing(path: &Path) -> Result<(), DiskError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(DiskError::Exists(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, "looked at")(error)),
    }
}

/// Writes a new file; a half one is taken away again.
pub(super) fn create_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => DiskError::Exists(path.to_owned()),
            _ => failed(path, "written")(error),
        })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // The error that matters is the one that brought us here.
        let _ = fs::remove_file(path);
        return Err(failed(path, "written")(error));
    }
    sync_dir(parent(path))
}

/// Replaces a file as a whole.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DiskError> {
    let mut new = Temporary::beside(path, mode)?;
    new.file.write_all(bytes).map_err(failed(path, "written"))?;
    new.keep(path)
}

/// A file that has no name yet that anyone would look for; gone unless it is kept.
pub(super) struct Temporary {
    path: PathBuf,
    pub(super) file: File,
    kept: bool,
}

impl Temporary {
    pub(super) fn beside(path: &Path, mode: u32) -> Result<Self, DiskError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = parent(path).join(format!("{TEMPORARY}{name}"));
        // Only the holder of the lock writes here, so what is there was left by a crash.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed(&temporary, "removed")(error));
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .write(true)
            .read(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(failed(path, "written"))?;
        // As for directories.
        let _ = file.set_permissions(Permissions::from_mode(mode));
        Ok(Self {
            path: temporary,
            file,
            kept: false,
        })
    }

    /// Gives it its name, durably.
    pub(super) fn keep(mut self, path: &Path) -> Result<(), DiskError> {
        self.file.sync_all().map_err(failed(path, "written"))?;
        fs::rename(&self.path, path).map_err(failed(path, "written"))?;
        self.kept = true;
        sync_dir(parent(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // What remains is removed by the next one of this name.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Moves a file to another name of the same file system, durably.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(failed(to, "written"))?;
    sync_dir(parent(to))?;
    sync_dir(parent(from))
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(path, "removed")(error)),
    }
}

/// Opens a regular file for reading; a pipe or a device is none.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64), DiskError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(failed(path, "read"))?;
    let found = file.metadata().map_err(failed(path, "read"))?;
    if !found.is_file() {
        let other = io::Error::new(ErrorKind::InvalidInput, "it is no regular file");
        return Err(failed(path, "read")(other));
    }
    Ok((file, found.len()))
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, DiskError> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed(path, "read"))?;
    if bytes.len() as u64 > limit {
        return Err(DiskError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}

/// The same for a file that may not be there.
pub(super) fn read_optional(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
    match read_bounded(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(DiskError::File { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}

pub(super) fn sync_dir(path: &Path) -> Result<(), DiskError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(failed(path, "synced"))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        // Left by a crash.
        fs::write(dir.path().join(".new-a"), "torn").unwrap();
        write(&path, b"one", 0o644).unwrap();
        write(&path, b"two", 0o644).unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"two");
        assert!(matches!(
            read_bounded(&path, 2),
            Err(DiskError::TooLarge { .. })
        ));
        assert!(matches!(
            create_new(&path, b"", 0o600),
            Err(DiskError::Exists(_))
        ));
        drop(Temporary::beside(&path, 0o644).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read_optional(&dir.path().join("b"), 9).unwrap().is_none());
        assert!(read_bounded(Path::new("/dev/zero"), 9).is_err());
    }

    #[test]
    fn there_is_one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path).unwrap();
        let Err(refused) = Lock::take(&path) else {
            panic!("two hold the lock");
        };
        assert!(refused.to_string().contains("another command"));
        drop(held);
        assert!(Lock::take(&path).is_ok());
    }
}
