//! The file that a lock is taken on.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

use super::{AtomicError, adopt_owner, parent};

/// Opens the file that a lock is taken on (flock(2)); made with mode 0600 if it is not there, and
/// the directory's owner's even when root makes it.
///
/// # Errors
/// [`AtomicError::Io`]: also for a symbolic link.
pub fn open_lock(path: &Path) -> Result<File, AtomicError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(AtomicError::io("open", path))?;
    let found = file.metadata().map_err(AtomicError::io("look at", path))?;
    // Who owns the directory may have put a hard link there, to a file that root must not give
    // away. A lock that root has made just now, or before a crash, is empty and has one name.
    if found.is_file() && found.nlink() == 1 && found.len() == 0 {
        adopt_owner(&file, path, parent(path))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use nix::unistd::geteuid;

    use super::*;

    #[test]
    fn root_gives_away_its_new_lock_and_no_file_that_somebody_linked_there() {
        if !geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        chown(&state, Some(4242), Some(4343)).unwrap();
        let owner = |path: &Path| std::fs::metadata(path).unwrap().uid();
        let lock = state.join("lock");
        open_lock(&lock).unwrap();
        assert_eq!(owner(&lock), 4242);
        for content in ["", "root:*:1::::::"] {
            let precious = dir.path().join("precious");
            std::fs::write(&precious, content).unwrap();
            std::fs::remove_file(&lock).unwrap();
            std::fs::hard_link(&precious, &lock).unwrap();
            open_lock(&lock).unwrap();
            assert_eq!(owner(&precious), 0);
            // Its other name may go away meanwhile.
            std::fs::remove_file(&precious).unwrap();
            open_lock(&lock).unwrap();
            assert_eq!(owner(&lock) == 0, !content.is_empty());
        }
    }
}
