//! Small files that must survive a power cut, and secrets that must not be open to others.
//!
//! A file is replaced as a whole: temporary file in the same directory, fsync, rename, fsync of the
//! directory. A reader sees the old content or the new one, never a mixture. Reading a secret
//! refuses what another user could have read, changed or pointed elsewhere.

mod leftovers;
mod lock;

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, geteuid};
use zeroize::Zeroizing;

pub use leftovers::remove_temporary;
pub use lock::open_lock;

/// Why a file could not be kept or read; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AtomicError {
    /// The system refused one step.
    #[error("cannot {doing} {path:?}: {source}")]
    Io {
        /// What was attempted, as a verb: "create", "rename", "read".
        doing: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A symbolic link, device, socket, pipe or directory where a plain file must be.
    #[error("{path:?} is not a regular file; remove it and put the file itself there")]
    NotRegular {
        /// The path that was refused.
        path: PathBuf,
    },
    /// The state directory's path is taken by something else.
    #[error("{path:?} is not a directory (or is a symbolic link to one); move it away")]
    NotDirectory {
        /// The path that was refused.
        path: PathBuf,
    },
    /// Others may read or change it.
    #[error(
        "{path:?} has mode {mode:04o}: users other than its owner can get at it. \
         Run: chmod {wanted:04o} {path:?}"
    )]
    TooOpen {
        /// The path that was refused.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits that would be accepted.
        wanted: u32,
    },
    /// More bytes than such a file may have.
    #[error(
        "{path:?} is larger than the {max} bytes that it may have; it is not what it should be"
    )]
    TooLarge {
        /// The path that was refused.
        path: PathBuf,
        /// The limit, in bytes.
        max: usize,
    },
}

impl AtomicError {
    /// True when the file simply does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// Replaces the content of `path` in one step that a power cut cannot halve; durable on return.
///
/// `mode` are the permission bits (0o600 for secrets); they hold from the first instant. When root
/// writes, the file gets the owner of its directory, so that the daemon's user can read it.
///
/// # Errors
/// [`AtomicError::Io`], with the old content untouched unless only the last step (fsync of the
/// directory) failed: then either content may be found after a power cut.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AtomicError> {
    let dir = parent(path);
    let temp = temp_path(path);
    let written = write_temp(&temp, dir, bytes, mode).and_then(|()| {
        std::fs::rename(&temp, path).map_err(AtomicError::io("replace by rename", path))
    });
    if written.is_err() {
        // Best effort: the error that matters is the one that brought us here.
        let _ = std::fs::remove_file(&temp);
    }
    written?;
    sync_dir(dir)
}

/// Reads a secret of at most `max` bytes; the buffer is wiped when it is dropped.
///
/// # Errors
/// A symbolic link or special file, a file that group or others may read or write (the text has the
/// command that mends it), more than `max` bytes, or what the system said.
pub fn read_private(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>, AtomicError> {
    let (mut file, meta_mode, size) = open_regular(path, false)?;
    refuse_open_mode(path, meta_mode)?;
    // Filled in place, so that no reallocation leaves a copy of the secret behind.
    // One byte more than its size shows a file that grows meanwhile.
    let room = usize::try_from(size)
        .unwrap_or(max)
        .min(max)
        .saturating_add(1);
    let mut buffer = Zeroizing::new(vec![0; room]);
    let len = fill(&mut file, &mut buffer).map_err(AtomicError::io("read", path))?;
    if len >= room {
        return Err(too_large(path, max));
    }
    buffer.truncate(len);
    Ok(buffer)
}

/// Opens a secret for reading and writing in place.
///
/// # Errors
/// As [`read_private`].
pub fn open_private(path: &Path) -> Result<File, AtomicError> {
    let (file, meta_mode, _) = open_regular(path, true)?;
    refuse_open_mode(path, meta_mode)?;
    Ok(file)
}

/// Reads a file that is no secret, at most `max` bytes. Refuses symbolic links and special files.
///
/// # Errors
/// As [`read_private`], without the check of the permissions.
pub fn read_bounded(path: &Path, max: usize) -> Result<Vec<u8>, AtomicError> {
    let (file, ..) = open_regular(path, false)?;
    let mut bytes = Vec::new();
    file.take(u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(AtomicError::io("read", path))?;
    if bytes.len() > max {
        return Err(too_large(path, max));
    }
    Ok(bytes)
}

/// Makes the directory (and missing parents) with mode 0700, durably; one that exists is accepted
/// unless group or others may write in it.
///
/// # Errors
/// [`AtomicError::NotDirectory`], [`AtomicError::TooOpen`], or what the system said.
pub fn create_dir_private(path: &Path) -> Result<(), AtomicError> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => {
            return Err(AtomicError::NotDirectory {
                path: path.to_owned(),
            });
        }
        // Who may write in a directory may replace every file in it.
        Ok(found) if found.mode() & 0o022 != 0 => {
            return Err(AtomicError::TooOpen {
                path: path.to_owned(),
                mode: found.mode() & 0o7777,
                wanted: 0o700,
            });
        }
        Ok(_) => return Ok(()),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
        Err(other) => return Err(AtomicError::io("look at", path)(other)),
    }
    let above = parent(path);
    if !above.exists() {
        create_dir_private(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        // Another process of ours was quicker: judge what it made.
        Err(raced) if raced.kind() == io::ErrorKind::AlreadyExists => {
            return create_dir_private(path);
        }
        Err(other) => return Err(AtomicError::io("create directory", path)(other)),
    }
    let made = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits())
        .open(path)
        .map_err(AtomicError::io("open directory", path))?;
    adopt_owner(&made, path, above)?;
    sync_dir(above)
}

/// Removes the file durably; one that is not there is no error.
///
/// # Errors
/// [`AtomicError::Io`].
pub fn remove(path: &Path) -> Result<(), AtomicError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(AtomicError::io("remove", path)(source))
        }
        _ => sync_dir(parent(path)),
    }
}

/// Makes the names in `dir` durable (fsync(2) of the directory).
///
/// # Errors
/// [`AtomicError::Io`].
pub fn sync_dir(dir: &Path) -> Result<(), AtomicError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(AtomicError::io("sync directory", dir))
}

fn write_temp(temp: &Path, dir: &Path, bytes: &[u8], mode: u32) -> Result<(), AtomicError> {
    let mut file = match create_new(temp, mode) {
        // Its name has our process id, so whoever left it there is dead.
        Err(stale) if stale.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(temp).and_then(|()| create_new(temp, mode))
        }
        other => other,
    }
    .map_err(AtomicError::io("create", temp))?;
    adopt_owner(&file, temp, dir)?;
    // The umask may have taken bits away at creation; it can never have added any.
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(AtomicError::io("set the mode of", temp))?;
    file.write_all(bytes)
        .map_err(AtomicError::io("write", temp))?;
    file.sync_all().map_err(AtomicError::io("sync", temp))
}

fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
}

/// Gives what root has made to the owner of the directory that it lies in.
fn adopt_owner(file: &File, path: &Path, dir: &Path) -> Result<(), AtomicError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (mine, theirs) = file
        .metadata()
        .and_then(|mine| Ok((mine, std::fs::metadata(dir)?)))
        .map_err(AtomicError::io("look at", dir))?;
    if (mine.uid(), mine.gid()) == (theirs.uid(), theirs.gid()) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(theirs.uid()), Gid::from_raw(theirs.gid()));
    fchown(file, Some(uid), Some(gid))
        .map_err(io::Error::from)
        .map_err(AtomicError::io("change the owner of", path))
}

/// The open file, its permission bits, its size.
fn open_regular(path: &Path, write: bool) -> Result<(File, u32, u64), AtomicError> {
    // O_NONBLOCK: a pipe in the file's place must not make us wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(code) if code == Errno::ELOOP as i32 => AtomicError::NotRegular {
                path: path.to_owned(),
            },
            _ => AtomicError::io("open", path)(source),
        })?;
    let meta = file.metadata().map_err(AtomicError::io("look at", path))?;
    if !meta.is_file() {
        return Err(AtomicError::NotRegular {
            path: path.to_owned(),
        });
    }
    Ok((file, meta.mode() & 0o7777, meta.len()))
}

fn refuse_open_mode(path: &Path, mode: u32) -> Result<(), AtomicError> {
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(AtomicError::TooOpen {
        path: path.to_owned(),
        mode,
        wanted: 0o600,
    })
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(again) if again.kind() == io::ErrorKind::Interrupted => {}
            Err(other) => return Err(other),
        }
    }
    Ok(len)
}

fn too_large(path: &Path, max: usize) -> AtomicError {
    AtomicError::TooLarge {
        path: path.to_owned(),
        max,
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// A name beside `path` that no other writer, thread or process, uses at the same time.
fn temp_path(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(
        ".{}-{}.tmp",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ));
    parent(path).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<OsString> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_write_replaces_the_whole_content_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, b"the first and longer content", 0o600).unwrap();
        write(&path, b"second", 0o640).unwrap();
        assert_eq!(read_bounded(&path, 100).unwrap(), b"second");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let error = write(&path, b"x", 0o600).unwrap_err();
        assert!(error.to_string().contains("taken"), "{error}");
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_directory() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::os::unix::fs::chown(&state, Some(4242), Some(4343)).unwrap();
        let path = state.join("key");
        write(&path, b"secret", 0o600).unwrap();
        create_dir_private(&state.join("ledger")).unwrap();
        for made in [path, state.join("ledger")] {
            let meta = std::fs::metadata(made).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (4242, 4343));
        }
    }

    #[test]
    fn a_secret_that_others_can_reach_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for mode in [0o640, 0o604, 0o620, 0o602, 0o601, 0o610] {
            write(&path, b"secret", mode).unwrap();
            let text = read_private(&path, 64).unwrap_err().to_string();
            assert!(text.contains(&format!("{mode:04o}")), "{text}");
            assert!(text.contains(&format!("chmod 0600 {path:?}")), "{text}");
        }
        write(&path, b"secret", 0o600).unwrap();
        assert_eq!(*read_private(&path, 6).unwrap(), b"secret");
        write(&path, b"secret", 0o400).unwrap();
        assert_eq!(*read_private(&path, 64).unwrap(), b"secret");
    }

    #[test]
    fn links_pipes_directories_and_giants_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        write(&real, &[7; 65], 0o600).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [&link, &pipe, &dir.path().to_owned()] {
            let refused = read_private(path, 100).unwrap_err();
            assert!(
                matches!(refused, AtomicError::NotRegular { .. }),
                "{refused}"
            );
            let refused = read_bounded(path, 100).unwrap_err();
            assert!(
                matches!(refused, AtomicError::NotRegular { .. }),
                "{refused}"
            );
        }
        let big = read_private(&real, 64).unwrap_err();
        assert!(
            matches!(big, AtomicError::TooLarge { max: 64, .. }),
            "{big}"
        );
        let big = read_bounded(&real, 64).unwrap_err();
        assert!(
            matches!(big, AtomicError::TooLarge { max: 64, .. }),
            "{big}"
        );
        assert!(
            read_private(&dir.path().join("none"), 1)
                .unwrap_err()
                .is_not_found()
        );
    }

    #[test]
    fn a_private_directory_is_made_once_and_an_open_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_dir_private(&path).unwrap();
        create_dir_private(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        std::fs::set_permissions(&path, Permissions::from_mode(0o770)).unwrap();
        let text = create_dir_private(&path).unwrap_err().to_string();
        assert!(text.contains("chmod 0700"), "{text}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let refused = create_dir_private(&link).unwrap_err();
        assert!(
            matches!(refused, AtomicError::NotDirectory { .. }),
            "{refused}"
        );
    }

    #[test]
    fn removing_twice_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write(&path, b"x", 0o600).unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(names(dir.path()).is_empty());
    }
}
