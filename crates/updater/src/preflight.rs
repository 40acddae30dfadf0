//! Whether this host can install at this moment: room on its file systems, no package manager at
//! work. Asked before anything is written; what fills up meanwhile still fails cleanly.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::statvfs::statvfs;
use vpn_node_release::code::UpdaterCode;

use crate::disk;
use crate::error::{UpdateError, at};
use crate::layout::Layout;

/// What must stay free on each file system, in bytes: the agent's ledger and the system's own logs
/// must not stand still because of an update.
pub const RESERVE_BYTES: u64 = 16 * 1024 * 1024;

/// Room on a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes that are to be written there, and what must stay free.
    pub needed: u64,
    /// Bytes that root can still write there.
    pub free: u64,
}

impl Room {
    /// Whether it is enough.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.free >= self.needed
    }
}

/// How much room there is for `wanted` (directory, bytes). Directories on one file system share it.
///
/// # Errors
/// A directory that is not there.
pub fn room(wanted: &[(PathBuf, u64)]) -> Result<Vec<Room>, UpdateError> {
    let mut rooms: Vec<(u64, Room)> = Vec::new();
    for (path, bytes) in wanted {
        let device = fs::metadata(path).map_err(at("look at", path))?.dev();
        if let Some((_, room)) = rooms.iter_mut().find(|(other, _)| *other == device) {
            room.needed = room.needed.saturating_add(*bytes);
            continue;
        }
        let room = Room {
            path: path.clone(),
            needed: bytes.saturating_add(RESERVE_BYTES),
            free: free(path)?,
        };
        rooms.push((device, room));
    }
    Ok(rooms.into_iter().map(|(_, room)| room).collect())
}

/// Refuses unless there is room for `wanted`.
///
/// # Errors
/// `no_space`, naming the file system, what is needed and what is there.
pub fn check_room(wanted: &[(PathBuf, u64)]) -> Result<(), UpdateError> {
    let rooms = room(wanted)?;
    let Some(full) = rooms.iter().find(|room| !room.is_enough()) else {
        return Ok(());
    };
    Err(UpdateError::failed(
        UpdaterCode::NoSpace,
        format!(
            "the file system of {} has {} free and the update needs {}; make room there",
            full.path.display(),
            mib(full.free),
            mib(full.needed),
        ),
    ))
}

/// Refuses while dpkg or rpm holds its lock: both own `system/`, and its scripts move links.
///
/// # Errors
/// `package_manager_busy`, naming the lock and its holder.
pub fn check_package_managers(layout: &Layout) -> Result<(), UpdateError> {
    for path in layout.package_manager_locks() {
        if let Some(holder) = holder(&path)? {
            return Err(UpdateError::failed(
                UpdaterCode::PackageManagerBusy,
                format!(
                    "{holder} holds {}: a package manager is at work; try again when it is done",
                    path.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Who holds a lock on the file (fcntl(2), `F_GETLK`); `None` when nobody does or it is not there.
fn holder(path: &Path) -> Result<Option<String>, UpdateError> {
    let Some(file) = disk::open_if_there(path)? else {
        return Ok(None);
    };
    // Who only reads the packages (`rpm -qa`) moves no links. And everybody may read rpm's lock
    // file, so anybody could hold a lock for reading for ever.
    let mut lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))
        .map_err(|errno: Errno| UpdateError::io("ask for locks on", path, &errno.into()))?;
    if lock.l_type == libc::F_UNLCK as libc::c_short {
        return Ok(None);
    }
    // -1: a lock of an open file description has no process.
    let name = fs::read_to_string(format!("/proc/{}/comm", lock.l_pid)).ok();
    Ok(Some(match name {
        Some(name) => format!("{} (process {})", name.trim().escape_debug(), lock.l_pid),
        None => "a process".into(),
    }))
}

fn free(path: &Path) -> Result<u64, UpdateError> {
    let found = statvfs(path)
        .map_err(|errno| UpdateError::io("ask for the free space of", path, &errno.into()))?;
    // Root may use the reserved blocks too, but they are there for emergencies.
    Ok(found
        .blocks_available()
        .saturating_mul(found.fragment_size()))
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1024 * 1024))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn directories_of_one_file_system_share_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        let rooms = room(&[(a.clone(), 1000), (b, 500)]).unwrap();
        assert_eq!(rooms.len(), 1);
        assert_eq!(rooms[0].needed, 1500 + RESERVE_BYTES);
        check_room(&[(a.clone(), 1)]).unwrap();
        let error = check_room(&[(a, u64::MAX)]).unwrap_err();
        assert_eq!(error.code, "no_space");
        assert!(
            error.sentence.contains("free and the update needs"),
            "{error}"
        );
    }

    /// A child of this very test holds the lock as dpkg does, until its input ends.
    #[test]
    fn a_lock_that_dpkg_holds_is_seen_and_named_and_that_of_a_reader_bars_nothing() {
        const HOLD: &str = "UPDATER_TEST_HOLDS_LOCK";
        const KIND: &str = "UPDATER_TEST_LOCK_IS_FOR_READING";
        if let Some(path) = std::env::var_os(HOLD) {
            let reads = std::env::var_os(KIND).is_some();
            let file = fs::OpenOptions::new().read(reads).write(!reads).open(path);
            let file = file.unwrap();
            let kind = if reads { libc::F_RDLCK } else { libc::F_WRLCK };
            let lock = libc::flock {
                l_type: kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            fcntl(&file, FcntlArg::F_SETLK(&lock)).unwrap();
            println!("\nheld");
            std::io::stdin().read_line(&mut String::new()).unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        check_package_managers(&layout).unwrap();
        let paths = layout.package_manager_locks().into_iter();
        for (path, reads) in paths.flat_map(|path| [(path.clone(), false), (path, true)]) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            check_package_managers(&layout).unwrap();
            let name = "preflight::tests::a_lock_that_dpkg_holds_is_seen_and_named_and_that_of_a_reader_bars_nothing";
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(HOLD, &path)
                .envs(reads.then_some((KIND, "1")))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(said.any(|line| line.unwrap() == "held"));
            let found = check_package_managers(&layout);
            assert_eq!(found.is_ok(), reads, "{}", path.display());
            if let Err(error) = found {
                assert_eq!(error.code, "package_manager_busy");
                assert!(error.sentence.contains(&child.id().to_string()), "{error}");
            }
            child.stdin.take().unwrap().write_all(b"\n").unwrap();
            assert!(child.wait().unwrap().success());
            check_package_managers(&layout).unwrap();
            fs::remove_file(&path).unwrap();
        }
    }
}
