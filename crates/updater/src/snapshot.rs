//! The agent's state before a migration, kept by root, so that the older version can have it back.
//!
//! What must never go back stays out: the identity, the enrolment, the lane (going back in it
//! looks like a clone of this host) and the ledger; their formats are frozen. The agent owns the
//! directory, so only regular files of bounded size right in it are read, never through a link.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use vpn_node_release::code::UpdaterCode;
use vpn_node_release::version::Version;

use crate::disk::{self, Disk};
use crate::error::{UpdateError, at};
use crate::layout::Layout;

/// Most files of the agent's state; it has a dozen.
const MAX_FILES: usize = 100;
/// Largest of them, in bytes; ten thousand sessions are 2 MB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The name of a snapshot that is neither put back nor settled begins so; a version never does.
const OPEN: &str = "open-";
/// What begins like this never goes back.
const FROZEN: [&str; 4] = ["identity", "enrollment", "chain.", "migration-permitted"];

/// The format of the state on disk; 1 when nobody has written it down.
///
/// # Errors
/// A file that holds no number, or cannot be read.
pub fn state_format(layout: &Layout) -> Result<u32, UpdateError> {
    let path = layout.state_format();
    let Some(bytes) = read_agents(&path, 16)? else {
        return Ok(1);
    };
    let text = std::str::from_utf8(&bytes).ok();
    text.and_then(|text| text.trim_end().parse().ok())
        .ok_or_else(|| {
            UpdateError::failed(
                UpdaterCode::DiskError,
                format!(
                    "{} holds no number: restore it from a backup of the agent's state",
                    path.display()
                ),
            )
        })
}

/// Keeps the state for `version`, which may migrate it from now on.
///
/// # Errors
/// `snapshot_failed`, no room, what the system refused.
pub fn take(layout: &Layout, disk: &Disk, version: &Version) -> Result<(), UpdateError> {
    disk.ensure_dir(&layout.snapshots(), 0o700)?;
    let kept = kept(layout, version);
    let place = opened(layout, version);
    disk.remove_tree(&kept)?;
    disk.remove_tree(&place)?;
    let made = layout.snapshots().join("new");
    disk.remove_tree(&made)?;
    disk.create_dir(&made, 0o700)?;
    for path in files(layout)? {
        let name = path.file_name().unwrap_or_default();
        if let Some(bytes) = read_agents(&path, MAX_BYTES)? {
            disk.replace(&made.join(name), &bytes, 0o600)?;
        }
    }
    disk.rename(&made, &place)?;
    give(
        layout,
        disk,
        &layout.migration_permitted(),
        format!("{version}\n").as_bytes(),
    )
}

/// The version that an open snapshot was taken for.
#[must_use]
pub fn open(layout: &Layout) -> Option<Version> {
    let entries = fs::read_dir(layout.snapshots()).ok()?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find_map(|name| Version::parse(name.strip_prefix(OPEN)?).ok())
}

/// Puts the state back. Neither agent may run.
///
/// # Errors
/// What the system refused; it can be called again.
pub fn restore(layout: &Layout, disk: &Disk, version: &Version) -> Result<(), UpdateError> {
    let place = opened(layout, version);
    for entry in fs::read_dir(&place).map_err(at("read", &place))? {
        let path = entry.map_err(at("read", &place))?.path();
        let bytes = fs::read(&path).map_err(at("read", &path))?;
        let name = path.file_name().unwrap_or_default();
        give(layout, disk, &layout.agent_state().join(name), &bytes)?;
    }
    disk.remove_others(&layout.migration_permitted())
}

/// Removes an open snapshot and the permission.
///
/// # Errors
/// What the system refused.
pub fn drop_open(layout: &Layout, disk: &Disk, version: &Version) -> Result<(), UpdateError> {
    disk.remove_others(&layout.migration_permitted())?;
    disk.remove_tree(&opened(layout, version))
}

/// The migration stays: keeps the snapshot for a rollback by root.
///
/// # Errors
/// What the system refused.
pub fn settle(layout: &Layout, disk: &Disk, version: &Version) -> Result<(), UpdateError> {
    disk.remove_others(&layout.migration_permitted())?;
    move_it(disk, &opened(layout, version), &kept(layout, version))
}

/// Opens a kept snapshot again, for a rollback from `version`; false when there is none.
///
/// # Errors
/// What the system refused.
pub fn reopen(layout: &Layout, disk: &Disk, version: &Version) -> Result<bool, UpdateError> {
    let (kept, place) = (kept(layout, version), opened(layout, version));
    if !kept.is_dir() {
        return Ok(place.is_dir());
    }
    move_it(disk, &kept, &place)?;
    Ok(true)
}

/// Whether a rollback from `version` could give the older state back.
#[must_use]
pub fn is_kept(layout: &Layout, version: &Version) -> bool {
    kept(layout, version).is_dir()
}

/// Removes the snapshots of versions that are gone.
///
/// # Errors
/// What the system refused.
pub fn prune(layout: &Layout, disk: &Disk) -> Result<(), UpdateError> {
    let entries = fs::read_dir(layout.snapshots())
        .into_iter()
        .flatten()
        .flatten();
    for entry in entries {
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| Version::parse(name).ok());
        if version.is_some_and(|version| !layout.version(&version).exists()) {
            disk.remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn kept(layout: &Layout, version: &Version) -> PathBuf {
    layout.snapshots().join(version.to_string())
}

fn opened(layout: &Layout, version: &Version) -> PathBuf {
    layout.snapshots().join(format!("{OPEN}{version}"))
}

fn move_it(disk: &Disk, from: &Path, to: &Path) -> Result<(), UpdateError> {
    if !from.is_dir() {
        return Ok(());
    }
    disk.remove_tree(to)?;
    disk.rename(from, to)
}

/// The files right in the agent's state directory that may go back.
fn files(layout: &Layout) -> Result<Vec<PathBuf>, UpdateError> {
    let state = layout.agent_state();
    let mut files = Vec::new();
    for entry in fs::read_dir(&state).map_err(at("read", &state))? {
        let entry = entry.map_err(at("read", &state))?;
        let name = entry.file_name();
        // Not UTF-8, or a temporary name, a lock: nothing that an agent reads back.
        let Some(name) = name.to_str() else { continue };
        let frozen = FROZEN.iter().any(|frozen| name.starts_with(frozen));
        let passing = name.starts_with('.') || name.ends_with(".lock");
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && !frozen && !passing {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            return Err(UpdateError::failed(
                UpdaterCode::SnapshotFailed,
                format!(
                    "{} has more than {MAX_FILES} files; look what they are",
                    state.display()
                ),
            ));
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a file of the agent's; what became a link or vanished meanwhile is none.
fn read_agents(path: &Path, max: u64) -> Result<Option<Vec<u8>>, UpdateError> {
    let Some(file) = disk::open_if_there(path)? else {
        return Ok(None);
    };
    let meta = file.metadata().map_err(at("look at", path))?;
    let mut bytes = Vec::new();
    if meta.is_file() && meta.nlink() == 1 {
        file.take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(at("read", path))?;
    }
    if !meta.is_file() || meta.nlink() != 1 || bytes.len() as u64 > max {
        return Err(UpdateError::failed(
            UpdaterCode::SnapshotFailed,
            format!(
                "{} is no regular file of at most {max} bytes with one name",
                path.display()
            ),
        ));
    }
    Ok(Some(bytes))
}

/// Writes a file into the agent's state directory, as the agent's own.
fn give(layout: &Layout, disk: &Disk, path: &Path, bytes: &[u8]) -> Result<(), UpdateError> {
    let state = layout.agent_state();
    let owner = fs::metadata(&state).map_err(at("look at", &state))?;
    disk.replace_owned(path, bytes, 0o600, (owner.uid(), owner.gid()))
}
