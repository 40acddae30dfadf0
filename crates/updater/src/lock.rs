//! One updater at a time, and one writer of the small files that root's commands change too.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use vpn_node_release::code::UpdaterCode;

use crate::error::{UpdateError, at};
use crate::layout::Layout;

/// Held as long as it lives; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

/// Whether to wait for another updater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A service: its turn comes.
    Yes,
    /// A person: says who is busy.
    No,
}

/// The lock of everything that installs, reverts or recovers.
///
/// # Errors
/// `busy` when another updater has it and `wait` is no.
pub fn whole(layout: &Layout, wait: Wait) -> Result<Lock, UpdateError> {
    take(&layout.lock(), wait)
}

/// The lock of policy.json, status.json and history.jsonl, held for one change: root may pin or
/// disable while a trial runs for hours.
///
/// # Errors
/// What the system refused.
pub fn brief(layout: &Layout) -> Result<Lock, UpdateError> {
    take(&layout.brief_lock(), Wait::Yes)
}

fn take(path: &Path, wait: Wait) -> Result<Lock, UpdateError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(at("open", path))?;
    let how = match wait {
        Wait::Yes => FlockArg::LockExclusive,
        Wait::No => FlockArg::LockExclusiveNonblock,
    };
    Flock::lock(file, how)
        .map(Lock)
        .map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => UpdateError::failed(
                UpdaterCode::Busy,
                format!(
                    "another updater holds {}: `vpn-node update status` tells what it does",
                    path.display()
                ),
            ),
            errno => UpdateError::io("lock", path, &errno.into()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_at_once_the_second_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.state()).unwrap();
        let first = whole(&layout, Wait::No).unwrap();
        assert_eq!(whole(&layout, Wait::No).unwrap_err().code, "busy");
        brief(&layout).unwrap();
        drop(first);
        whole(&layout, Wait::No).unwrap();
    }
}
