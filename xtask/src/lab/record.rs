//! What a lab started, written in its folder: so that a later run can end what a crash left,
//! and `demo --stop` what `demo --keep` kept.
//!
//! A record is believed only if its folder belongs to us and is closed to others (the folder for
//! temporary files is writable by everybody), and a process only if it is still the one that was
//! started: same id and same start time, since ids are used again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::shell;

/// How the folder of every lab begins.
pub(crate) const PREFIX: &str = "vpn-node-lab-";
/// A folder in memory that Linux systems have for everybody (shm_overview(7)).
pub(crate) const MEMORY: &str = "/dev/shm";
const FILE: &str = "lab.json";
const END_WITHIN: Duration = Duration::from_secs(5);

/// One process: the leader of its own group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pid: u32,
    /// Field 22 of /proc/PID/stat: clock ticks since boot (proc(5)).
    started: u64,
}

impl Process {
    /// The process as it is now; nothing if it has ended.
    pub(crate) fn now(name: &str, pid: u32) -> Option<Self> {
        let started = start_of(pid)?;
        Some(Self {
            name: name.to_owned(),
            pid,
            started,
        })
    }

    fn lives(&self) -> bool {
        start_of(self.pid) == Some(self.started)
    }
}

/// See the module's page.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    owner: Process,
    pub(crate) kept: bool,
    pub(crate) processes: Vec<Process>,
}

impl Record {
    pub(crate) fn of_this_process() -> Result<Self> {
        let owner =
            Process::now("xtask", std::process::id()).context("cannot read /proc/self/stat")?;
        Ok(Self {
            owner,
            kept: false,
            processes: Vec::new(),
        })
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let file = folder.join(FILE);
        serde_json::to_vec_pretty(self)
            .context("cannot write the lab's record")
            .and_then(|json| {
                fs::write(&file, json).with_context(|| format!("cannot write {}", file.display()))
            })
    }

    fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()
    }

    /// Ends every process of the record that still runs, last started first.
    fn end_processes(&self) {
        let running = || {
            self.processes
                .iter()
                .rev()
                .filter(|process| process.lives())
        };
        running().for_each(|process| shell::end_group(process.pid, Signal::SIGTERM));
        let deadline = Instant::now() + END_WITHIN;
        while running().next().is_some() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        running().for_each(|process| shell::end_group(process.pid, Signal::SIGKILL));
    }
}

/// Removes what crashed runs left: labs whose owner is dead and that nobody asked to keep.
pub(crate) fn sweep() {
    for (folder, record) in labs() {
        if !record.kept && !record.owner.lives() {
            anstream::eprintln!("removing what an earlier run left in {}", folder.display());
            remove(&folder, &record);
        }
    }
}

/// Ends what `--keep` left running. Returns the folders that are gone now.
pub(crate) fn stop_kept() -> Vec<PathBuf> {
    let kept = labs().into_iter().filter(|(_, record)| record.kept);
    kept.map(|(folder, record)| {
        remove(&folder, &record);
        folder
    })
    .collect()
}

fn remove(folder: &Path, record: &Record) {
    record.end_processes();
    if let Err(error) = fs::remove_dir_all(folder) {
        anstream::eprintln!("cannot remove {}: {error}", folder.display());
    }
}

fn labs() -> Vec<(PathBuf, Record)> {
    let places = [std::env::temp_dir(), PathBuf::from(MEMORY)];
    let folders = places.iter().flat_map(fs::read_dir).flatten().flatten();
    folders
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
        .map(|entry| entry.path())
        .filter(|folder| is_ours_alone(folder))
        .filter_map(|folder| Record::load(&folder).map(|record| (folder, record)))
        .collect()
}

fn is_ours_alone(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|about| {
        about.is_dir()
            && about.uid() == nix::unistd::geteuid().as_raw()
            && about.mode() & 0o077 == 0
    })
}

/// Whether a process of this id runs (a zombie does not).
#[cfg(test)]
pub(crate) fn is_alive(pid: u32) -> bool {
    start_of(pid).is_some()
}

/// When the process started; nothing if there is none, or only a zombie.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything, so count from its end.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn a_process_with_another_start_time_is_another_process() {
        let mut own = Process::now("me", std::process::id()).unwrap();
        assert!(own.lives());
        own.started += 1;
        assert!(!own.lives());
    }

    #[test]
    fn a_record_ends_exactly_what_it_names() {
        let mut child = Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        let mut record = Record::of_this_process().unwrap();
        let mut stranger = Process::now("stranger", child.id()).unwrap();
        stranger.started += 1;
        record.processes = vec![stranger];
        record.end_processes();
        assert!(is_alive(child.id()));
        record.processes = Vec::from_iter(Process::now("sleep", child.id()));
        record.end_processes();
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(is_ours_alone(folder.path()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_ours_alone(folder.path()));
    }

    #[test]
    fn a_record_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = Record::of_this_process().unwrap();
        record.processes = vec![record.owner.clone()];
        record.save(folder.path()).unwrap();
        let read = Record::load(folder.path()).unwrap();
        assert_eq!(read.processes, record.processes);
        assert!(!read.kept);
    }
}
