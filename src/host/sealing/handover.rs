//! The KEK's way from root to the agent: one file in the runtime directory (in memory, gone with
//! the boot), readable by the agent alone, taken away at once.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use getrandom::SysRng;
use getrandom::rand_core::{Rng as _, UnwrapErr};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use super::SealingError;
use crate::host::atomic;
use crate::host::state::Kek;

/// Its name in the runtime directory.
pub const KEK_FILE: &str = "identity.kek";
const MODE: u32 = 0o400;
const KEK_BYTES: usize = 32;

/// Takes away what an earlier start left.
pub(super) fn clear(runtime_dir: &Path) -> Result<(), SealingError> {
    let path = runtime_dir.join(KEK_FILE);
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => move_aside(&path),
        Ok(_) => Ok(atomic::remove(&path)?),
        Err(_) => Ok(()),
    }
}

/// The agent's user made a directory there: no start would succeed any more. It may be so deep that
/// it cannot be removed, so that is only tried.
fn move_aside(path: &Path) -> Result<(), SealingError> {
    let number = UnwrapErr(SysRng).next_u64();
    let aside = path.with_file_name(format!(".{KEK_FILE}.{number:016x}.aside"));
    fs::rename(path, &aside).map_err(|error| SealingError::Handover {
        path: path.to_owned(),
        why: format!("it is a directory that cannot be moved away ({error})"),
    })?;
    // Nothing in it is followed; what stays is gone with the boot.
    let _ = fs::remove_dir_all(&aside);
    Ok(())
}

/// Writes the file for the owner of the state directory. A new file under another name, renamed:
/// nothing that the agent's user could have put there is followed or opened.
pub(super) fn give(runtime_dir: &Path, state_dir: &Path, kek: &Kek) -> Result<(), SealingError> {
    let path = runtime_dir.join(KEK_FILE);
    let fail = |why: String| SealingError::Handover {
        path: path.clone(),
        why,
    };
    let owner = |dir: &Path| fs::metadata(dir).map(|dir| (dir.uid(), dir.gid()));
    let owners = owner(runtime_dir).and_then(|run| Ok((run, owner(state_dir)?)));
    let (run, state) = owners.map_err(|error| fail(error.to_string()))?;
    // The file gets the owner of its directory.
    if run != state {
        return Err(fail(format!(
            "the runtime directory belongs to user {} and the state directory to user {}",
            run.0, state.0
        )));
    }
    Ok(atomic::write(&path, kek.as_bytes(), MODE)?)
}

/// The agent's side: reads the KEK and takes its file away; `None` when there is none.
///
/// # Errors
/// [`SealingError::Handover`] for a file that another user could have written or read.
pub fn take_kek(runtime_dir: &Path) -> Result<Option<Kek>, SealingError> {
    let path = runtime_dir.join(KEK_FILE);
    let fail = |why: String| SealingError::Handover {
        path: path.clone(),
        why,
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(&path);
    let file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| fail(error.to_string()))?,
    };
    let about = file.metadata().map_err(|error| fail(error.to_string()))?;
    if !about.is_file() {
        return Err(fail("it is not a regular file".into()));
    }
    if about.uid() != geteuid().as_raw() {
        return Err(fail(format!("it belongs to user {}", about.uid())));
    }
    if about.mode() & 0o077 != 0 {
        return Err(fail(format!(
            "others may read it (mode {:04o})",
            about.mode() & 0o7777
        )));
    }
    if about.nlink() != 1 {
        return Err(fail("it has another name besides this one".into()));
    }
    let read = read_kek(file);
    // In memory only: there is no disk to sync.
    fs::remove_file(&path).map_err(|error| fail(format!("it cannot be removed: {error}")))?;
    let kek = read.map_err(|error| fail(error.to_string()))?;
    kek.map(Some)
        .ok_or_else(|| fail(format!("it does not have {KEK_BYTES} bytes")))
}

fn read_kek(file: File) -> std::io::Result<Option<Kek>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEK_BYTES + 1));
    file.take(KEK_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Kek::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_in_the_files_place_keeps_no_start_from_succeeding() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let kept = dir.path().join("kept");
        for path in [run.join(KEK_FILE).join("a/b"), kept.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(kept.join("file"), "of somebody else").unwrap();
        symlink(&kept, run.join(KEK_FILE).join("link")).unwrap();
        clear(&run).unwrap();
        assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
        assert!(kept.join("file").exists(), "no link is followed");
        // A link to a directory is a link.
        symlink(&kept, run.join(KEK_FILE)).unwrap();
        clear(&run).unwrap();
        clear(&run).unwrap();
        assert_eq!(fs::read_dir(&run).unwrap().count(), 0);
        assert!(kept.join("file").exists(), "no link is followed");
    }
}
