//! The KEK's way from root to the agent: one file in the runtime directory (in memory, gone with
//! the boot), readable by the agent alone, taken away at once.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

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
    if path.symlink_metadata().is_ok() {
        atomic::remove(&path)?;
    }
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
