//! What a power cut may leave of a guest's disk: crash states, built from the log of its writes.
//!
//! A disk may keep back whatever it was not told to flush. So a state is every write up to the last
//! flush before an instant, and of the writes between that flush and the instant each one whole, in
//! parts or not at all, by chance. A state is a file that is mounted here, which lets the kernel
//! recover its journal as a boot would; afterwards `e2fsck` looks at it without touching it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::writelog::{Entry, WriteLog};
use crate::shell;
use crate::torture::random::Random;

/// A copy, a mount or a check of some gigabytes, most of them holes, on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// What becomes of a write that was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    /// Each of its sectors is kept or lost by chance.
    Torn,
}

/// A disk that is played forward, and from which crash states are made.
pub(super) struct Replay<'a> {
    log: &'a WriteLog,
    /// The disk with the first `played` entries.
    disk: PathBuf,
    played: usize,
}

/// How a crash state came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    /// Writes since the last flush.
    pub(super) at_risk: usize,
    /// How many of them are lost as a whole.
    pub(super) lost: usize,
    /// How many of them came in part.
    pub(super) torn: usize,
}

impl<'a> Replay<'a> {
    /// Begins with a copy of `start`, the disk from before the log, at `disk`.
    pub(super) fn begin(log: &'a WriteLog, start: &Path, disk: &Path) -> Result<Self> {
        copy(start, disk)?;
        Ok(Self {
            log,
            disk: disk.to_owned(),
            played: 0,
        })
    }

    /// Makes the file `to` a disk whose power went when `at` entries of the log had been written.
    /// Instants must come in their order.
    pub(super) fn state(&mut self, at: usize, random: &mut Random, to: &Path) -> Result<Loss> {
        let entries = self.log.entries();
        ensure!(
            at <= entries.len() && self.played <= at,
            "a crash state after {at} writes cannot be made from one of {} in a log of {}",
            self.played,
            entries.len()
        );
        let flushed = flushed(&entries[..at]).max(self.played);
        self.play(flushed)?;
        copy(&self.disk, to)?;
        let disk = open(to)?;
        let at_risk = &entries[flushed..at];
        let mut loss = Loss {
            at_risk: at_risk.iter().filter(|entry| entry.sectors > 0).count(),
            lost: 0,
            torn: 0,
        };
        for entry in at_risk.iter().filter(|entry| entry.sectors > 0) {
            match fate(entry, random) {
                Fate::Kept => self.log.apply(entry, &disk, |_| true)?,
                Fate::Lost => loss.lost += 1,
                Fate::Torn => {
                    loss.torn += 1;
                    self.log.apply(entry, &disk, |_| random.coin())?;
                }
            }
        }
        Ok(loss)
    }

    fn play(&mut self, to: usize) -> Result<()> {
        let disk = open(&self.disk)?;
        for entry in &self.log.entries()[self.played..to] {
            self.log.apply(entry, &disk, |_| true)?;
        }
        self.played = to;
        Ok(())
    }
}

/// How many of these entries are on the disk for certain because of a flush.
fn flushed(entries: &[Entry]) -> usize {
    let last = entries.iter().rposition(|entry| entry.flushes);
    last.map_or(0, |last| {
        // A write that flushes first is not itself flushed by that (REQ_PREFLUSH).
        last + usize::from(entries[last].sectors == 0)
    })
}

/// Half of the writes are lost or in parts.
fn fate(entry: &Entry, random: &mut Random) -> Fate {
    match random.below(4) {
        _ if entry.durable => Fate::Kept,
        0 | 1 => Fate::Kept,
        2 => Fate::Lost,
        // One sector comes or does not.
        _ if entry.sectors == 1 => Fate::Lost,
        _ => Fate::Torn,
    }
}

/// Copies a disk with its holes, sharing blocks where the file system can.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.args(["--sparse=always", "--reflink=auto", "--"]);
    command.args([from, to]);
    shell::succeed(command, None, WITHIN).map(drop)
}

fn open(disk: &Path) -> Result<File> {
    let opened = OpenOptions::new().write(true).open(disk);
    opened.with_context(|| format!("cannot write to {}", disk.display()))
}

/// A disk that is mounted here until this is dropped.
pub(super) struct Mount {
    place: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts the file system in the file `disk` at the folder `place`, which is made. The kernel
    /// recovers its journal.
    pub(super) fn new(disk: &Path, place: &Path) -> Result<Self> {
        fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        let mut command = Command::new("mount");
        // An error that the kernel finds is an error for us, too, and not a remount read-only.
        command.args(["-t", "ext4", "-o", "loop,noatime,errors=continue"]);
        command.args([disk, place]);
        shell::succeed(command, None, WITHIN)
            .context("the file system of a crash state cannot be mounted")?;
        Ok(Self {
            place: place.to_owned(),
            mounted: true,
        })
    }

    /// The tree.
    pub(super) fn root(&self) -> &Path {
        &self.place
    }

    /// Unmounts it; what was written is in the file.
    pub(super) fn end(mut self) -> Result<()> {
        self.mounted = false;
        let mut command = Command::new("umount");
        command.arg(&self.place);
        let ended = shell::succeed(command, None, WITHIN);
        if ended.is_err() {
            self.mounted = true;
        }
        ended.map(drop)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: whoever still works in there must not keep us from going on.
            let _ = Command::new("umount").arg("-l").arg(&self.place).status();
        }
    }
}

/// What `e2fsck` says against a disk that is not mounted; nothing if the file system is whole.
pub(super) fn fsck(disk: &Path) -> Result<Option<String>> {
    let mut command = Command::new("e2fsck");
    command.args(["-f", "-n"]).arg(disk);
    let said = shell::output(command, None, WITHIN)?;
    Ok((!said.status.success()).then(|| shell::last_lines(said.stdout.trim_end(), 8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::writelog::made::{log, sectors};
    use std::collections::BTreeSet;

    const FLUSH: u64 = 1;
    const FUA: u64 = 2;

    /// What is in each sector of the crash states after `at` entries, for many seeds.
    fn states(entries: &[(u64, u64, Vec<u8>)], at: usize) -> BTreeSet<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        log(&path("log"), entries);
        fs::write(path("start"), sectors(b'.', 6)).unwrap();
        let log = WriteLog::open(&path("log")).unwrap();
        let state = |seed| {
            let mut replay = Replay::begin(&log, &path("start"), &path("disk")).unwrap();
            let mut random = Random::new(seed);
            replay.state(at, &mut random, &path("state")).unwrap();
            let bytes = fs::read(path("state")).unwrap();
            bytes.chunks(512).map(|sector| sector[0]).collect()
        };
        (0..60).map(state).collect()
    }

    fn history() -> Vec<(u64, u64, Vec<u8>)> {
        vec![
            (0, 0, sectors(b'a', 1)),
            (0, FLUSH, Vec::new()),
            (1, 0, sectors(b'b', 1)),
            (2, 0, sectors(b'c', 3)),
            (5, FUA, sectors(b'd', 1)),
        ]
    }

    fn only(text: &str) -> BTreeSet<Vec<u8>> {
        BTreeSet::from([text.as_bytes().to_vec()])
    }

    #[test]
    fn what_was_flushed_is_in_every_state_and_the_rest_in_some() {
        assert_eq!(states(&history(), 0), only("......"));
        assert_eq!(states(&history(), 2), only("a....."));
        let found = states(&history(), 5);
        let all = |is: fn(&[u8]) -> bool| found.iter().all(|state| is(state));
        assert!(all(|s| s[0] == b'a' && s[5] == b'd'));
        for (sector, fresh) in [(1, b'b'), (2, b'c'), (3, b'c'), (4, b'c')] {
            let there = found.iter().filter(|s| s[sector] == fresh).count();
            assert!((1..found.len()).contains(&there), "sector {sector}");
        }
        // Torn inside one write, too.
        assert!(found.iter().any(|s| s[2] != s[3] || s[3] != s[4]));
    }

    #[test]
    fn a_write_before_a_flush_may_go_as_long_as_that_has_not_come() {
        assert!(states(&history(), 1).len() == 2);
    }

    #[test]
    fn a_write_that_flushes_first_is_at_risk_itself() {
        let entries = [(0, 0, sectors(b'a', 1)), (1, FLUSH, sectors(b'b', 1))];
        let found = states(&entries, 2);
        assert!(found.iter().all(|state| state[0] == b'a'));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn states_come_in_order_from_one_disk_that_is_played_forward() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        log(&path("log"), &history());
        fs::write(path("start"), sectors(b'.', 6)).unwrap();
        let log = WriteLog::open(&path("log")).unwrap();
        let mut replay = Replay::begin(&log, &path("start"), &path("disk")).unwrap();
        let mut random = Random::new(1);
        for at in 0..=5 {
            let loss = replay.state(at, &mut random, &path("state")).unwrap();
            assert!(loss.lost + loss.torn <= loss.at_risk);
        }
        let back = replay.state(0, &mut random, &path("state")).unwrap_err();
        assert!(back.to_string().contains("cannot be made"), "{back}");
    }
}
