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
use crate::preflight;

/// Most files of the agent's state; it has a dozen.
const MAX_FILES: usize = 100;
/// Largest of them, in bytes; ten thousand sessions are 2 MB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Most bytes of all of them: a snapshot is kept for each version that stays on the host, beside
/// the agent's ledger, and two files of the largest kind are more than an agent that is well has.
const MAX_ALL_BYTES: u64 = 2 * MAX_BYTES;
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

/// Bytes that a snapshot takes now. Asked before an agent is stopped for it.
///
/// # Errors
/// `snapshot_failed`: it is more than is kept, or one of the files is none that is.
pub fn needed(layout: &Layout) -> Result<u64, UpdateError> {
    let mut all = 0_u64;
    for path in files(layout)? {
        // What is gone by now takes nothing.
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if !is_fit(&meta, MAX_BYTES) {
            return Err(unfit(&path, MAX_BYTES));
        }
        all = all.saturating_add(meta.len());
    }
    match all > MAX_ALL_BYTES {
        true => Err(too_much(layout, MAX_ALL_BYTES)),
        false => Ok(all),
    }
}

/// Refuses unless the state can be kept: it is not too much, and there is room for it.
///
/// # Errors
/// As [`needed`], and `no_space`.
pub fn check(layout: &Layout) -> Result<(), UpdateError> {
    preflight::check_room(&[(layout.state(), needed(layout)?)])
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
    if let Err(error) = copy(layout, disk, &made, MAX_ALL_BYTES) {
        // Of no use, and the next one may be long in coming.
        let _ = disk.remove_tree(&made);
        return Err(error);
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

/// Whatever their sizes were a moment ago: not more than `most` bytes in all.
fn copy(layout: &Layout, disk: &Disk, made: &Path, most: u64) -> Result<(), UpdateError> {
    let mut left = most;
    for path in files(layout)? {
        let name = path.file_name().unwrap_or_default();
        let Some(bytes) = read_agents(&path, MAX_BYTES)? else {
            continue;
        };
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| too_much(layout, most))?;
        disk.replace(&made.join(name), &bytes, 0o600)?;
    }
    Ok(())
}

fn too_much(layout: &Layout, most: u64) -> UpdateError {
    UpdateError::failed(
        UpdaterCode::SnapshotFailed,
        format!(
            "the files in {} have more than {most} bytes, so they cannot be kept for a way back; \
             look what they are",
            layout.agent_state().display()
        ),
    )
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
    if is_fit(&meta, max) {
        file.take(max + 1)
            .read_to_end(&mut bytes)
            .map_err(at("read", path))?;
    }
    // It may have grown since.
    if !is_fit(&meta, max) || bytes.len() as u64 > max {
        return Err(unfit(path, max));
    }
    Ok(Some(bytes))
}

/// Whether a file of the agent's is one that root reads for it.
fn is_fit(meta: &fs::Metadata, max: u64) -> bool {
    meta.is_file() && meta.nlink() == 1 && meta.len() <= max
}

fn unfit(path: &Path, max: u64) -> UpdateError {
    UpdateError::failed(
        UpdaterCode::SnapshotFailed,
        format!(
            "{} is no regular file of at most {max} bytes with one name",
            path.display()
        ),
    )
}

/// Writes a file into the agent's state directory, as the agent's own.
fn give(layout: &Layout, disk: &Disk, path: &Path, bytes: &[u8]) -> Result<(), UpdateError> {
    let state = layout.agent_state();
    let owner = fs::metadata(&state).map_err(at("look at", &state))?;
    disk.replace_owned(path, bytes, 0o600, (owner.uid(), owner.gid()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A host whose agent has these files, all of them holes.
    fn host(root: &Path, files: &[(&str, u64)]) -> Layout {
        let layout = Layout::new(root);
        fs::create_dir_all(layout.state()).unwrap();
        fs::create_dir_all(layout.agent_state()).unwrap();
        for (name, bytes) in files {
            let file = fs::File::create(layout.agent_state().join(name)).unwrap();
            file.set_len(*bytes).unwrap();
        }
        layout
    }

    #[test]
    fn what_would_never_go_back_is_not_counted_and_too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("a", MAX_BYTES), ("b", MAX_BYTES), ("identity.json", 7)];
        let layout = host(dir.path(), &files);
        assert_eq!(needed(&layout).unwrap(), MAX_ALL_BYTES);
        host(dir.path(), &[("c", 1)]);
        let error = check(&layout).unwrap_err();
        assert_eq!(error.code, "snapshot_failed");
        assert!(error.sentence.contains("134217728 bytes"), "{error}");
    }

    /// What [`take`] would refuse once the agent is stopped is refused here.
    #[test]
    fn one_file_that_would_not_be_kept_is_refused_too() {
        let dir = tempfile::tempdir().unwrap();
        let layout = host(dir.path(), &[("a", MAX_BYTES + 1)]);
        let error = check(&layout).unwrap_err();
        assert_eq!(error.code, "snapshot_failed");
        assert!(error.sentence.contains("67108864 bytes"), "{error}");
        host(dir.path(), &[("a", 1)]);
        check(&layout).unwrap();
        fs::hard_link(layout.agent_state().join("a"), dir.path().join("b")).unwrap();
        let error = check(&layout).unwrap_err();
        assert!(error.sentence.contains("with one name"), "{error}");
    }

    #[test]
    fn files_that_grow_meanwhile_are_not_kept_either() {
        let dir = tempfile::tempdir().unwrap();
        let layout = host(dir.path(), &[("a", 600), ("b", 401)]);
        let made = dir.path().join("made");
        fs::create_dir(&made).unwrap();
        copy(&layout, &Disk::default(), &made, 1001).unwrap();
        let error = copy(&layout, &Disk::default(), &made, 1000).unwrap_err();
        assert_eq!(error.code, "snapshot_failed");
    }

    #[test]
    fn a_snapshot_that_failed_leaves_nothing_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let layout = host(dir.path(), &[("a", 1), ("b", MAX_BYTES + 1)]);
        let error = take(&layout, &Disk::default(), &Version::new(2, 0, 0)).unwrap_err();
        assert_eq!(error.code, "snapshot_failed");
        assert_eq!(fs::read_dir(layout.snapshots()).unwrap().count(), 0);
    }

    /// This very test, once more, with a file system of 24 MiB.
    #[test]
    fn a_disk_without_room_for_it_is_told() {
        const SMALL: &str = "UPDATER_TEST_SMALL_DISK";
        if let Some(root) = std::env::var_os(SMALL) {
            let layout = host(Path::new(&root), &[("a", 4 << 20)]);
            check(&layout).unwrap();
            let error = check(&host(Path::new(&root), &[("b", 20 << 20)])).unwrap_err();
            assert_eq!(error.code, "no_space");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let script =
            "mount -t tmpfs -o size=24m none \"$0\" || exit 99; exec \"$1\" --exact \"$2\"";
        let name = "snapshot::tests::a_disk_without_room_for_it_is_told";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(dir.path())
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(SMALL, dir.path())
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.code() == Some(99) || said.contains("unshare:") {
            eprintln!("no mount namespaces here: {said}");
            return;
        }
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
