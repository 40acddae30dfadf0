//! Where damaged and foreign segments are kept for an inspection by people.

use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::{LedgerError, segment};
use crate::core::journal;

/// Most damaged segments that are kept; later damage is only reported.
const MAX_QUARANTINED: usize = 8;

/// Its name in the ledger's directory.
const NAME: &str = "quarantine";

/// Moves a segment of another ledger away, durably, and returns its new place.
pub(super) fn move_foreign<D: Disk>(
    disk: &D,
    dir: &Path,
    first: u64,
) -> Result<PathBuf, LedgerError> {
    let from = segment::path(dir, first);
    let quarantine = make(disk, dir)?;
    let to = quarantine.join(format!("foreign-{first:016x}.seg"));
    disk.rename(&from, &to)
        .map_err(LedgerError::io("move to the quarantine", &from))?;
    for changed in [&quarantine, dir] {
        disk.sync_dir(changed)
            .map_err(LedgerError::io("sync the directory", changed))?;
    }
    Ok(to)
}

/// Copies a damaged segment, unless there is a copy already or there are too many; returns the new
/// copy. Evidence, not needed for anything else: failing to keep it must not stop the agent.
pub(super) fn keep_copy<D: Disk>(
    disk: &D,
    dir: &Path,
    first: u64,
    image: &[u8],
) -> Option<PathBuf> {
    try_keep_copy(disk, dir, first, image).unwrap_or_else(|error| {
        tracing::warn!(
            message_id = %journal::LEDGER_MENDED,
            %error, "a damaged segment could not be copied to the quarantine"
        );
        None
    })
}

fn try_keep_copy<D: Disk>(
    disk: &D,
    dir: &Path,
    first: u64,
    image: &[u8],
) -> Result<Option<PathBuf>, LedgerError> {
    let dir = make(disk, dir)?;
    let path = segment::path(&dir, first);
    let mut names = disk.list(&dir).map_err(LedgerError::io("list", &dir))?;
    for stale in names.iter().filter(|name| segment::is_temp(name)) {
        let stale = dir.join(stale);
        disk.unlink(&stale)
            .map_err(LedgerError::io("remove", &stale))?;
    }
    names.retain(|name| !segment::is_temp(name));
    let known = names
        .iter()
        .any(|name| Some(name.as_os_str()) == path.file_name());
    if known || names.len() >= MAX_QUARANTINED || image.is_empty() {
        return Ok(None);
    }
    let temp = segment::temp_path(&dir, "copy");
    segment::prepare(disk, &temp, image, image.len() as u64)?;
    segment::publish(disk, &dir, &temp, &path)?;
    Ok(Some(path))
}

fn make<D: Disk>(disk: &D, dir: &Path) -> Result<PathBuf, LedgerError> {
    let quarantine = dir.join(NAME);
    disk.make_dir(&quarantine)
        .map_err(LedgerError::io("make directory", &quarantine))?;
    Ok(quarantine)
}
