//! What a power cut may leave of a folder, as far as that can be known without cutting power.
//!
//! While a program runs under the tracer, this notes what it made durable: a file's content by
//! fsync(2) or fdatasync(2) of the file, a name by fsync(2) of its folder, and nothing else, which
//! is what POSIX promises and no more. Afterwards each change that was not made durable is kept,
//! dropped or torn by chance, and the folder rewritten so. What a disk does that lies about a
//! completed sync is not seen, nor is a file mapped into memory.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::libc::{SYS_fdatasync, SYS_fsync};
use nix::unistd::Pid;

use super::random::Random;

/// What a disk writes in one piece.
const SECTOR: usize = 512;
/// What such files have whose own mode is gone with them.
const PRIVATE: u32 = 0o600;

type Inode = u64;
type Names = BTreeMap<OsString, Inode>;
/// Names that one call changed, which come or stay away together (rename).
type Change = Vec<(OsString, Option<Inode>)>;

/// See the module's page.
pub(crate) struct Recorder {
    root: PathBuf,
    top: Inode,
    folders: BTreeMap<Inode, Folder>,
    /// What of each file is durable; nothing of one that was never synced.
    durable: HashMap<Inode, Vec<u8>>,
    /// Threads that are inside of a sync, and what it will have made durable.
    syncing: HashMap<Pid, Sync>,
}

struct Folder {
    path: PathBuf,
    durable: Names,
    now: Names,
    /// Changes from `durable` to `now`, oldest first.
    waiting: Vec<Change>,
}

enum Sync {
    File(Inode, Vec<u8>),
    Folder(Inode, usize),
}

impl Recorder {
    /// Begins with everything in `root` durable.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let about = fs::metadata(root).with_context(|| format!("cannot see {}", root.display()))?;
        let mut recorder = Self {
            root: root.to_owned(),
            top: about.ino(),
            folders: BTreeMap::new(),
            durable: HashMap::new(),
            syncing: HashMap::new(),
        };
        recorder.add_folder(about.ino(), root.to_owned());
        for folder in recorder.folders.values_mut() {
            folder.waiting.clear();
            folder.durable.clone_from(&folder.now);
            for (name, inode) in &folder.now {
                if let Ok(bytes) = fs::read(folder.path.join(name)) {
                    recorder.durable.insert(*inode, bytes);
                }
            }
        }
        Ok(recorder)
    }

    /// Looks at what changed before this boundary, at which `thread` stands.
    pub(crate) fn observe(&mut self, thread: Pid) {
        self.look();
        match self.syncing.remove(&thread) {
            // A thread that entered comes to its return next.
            Some(Sync::File(inode, bytes)) => {
                self.durable.insert(inode, bytes);
            }
            Some(Sync::Folder(inode, changes)) => {
                if let Some(folder) = self.folders.get_mut(&inode) {
                    for (name, inode) in folder.waiting.drain(..changes).flatten() {
                        set(&mut folder.durable, name, inode);
                    }
                }
            }
            None => {
                if let Some(sync) = self.entered_sync(thread) {
                    self.syncing.insert(thread, sync);
                }
            }
        }
    }

    /// What the sync makes durable that `thread` stands before, if it does. Only what is there
    /// already: later writes of other threads are not promised.
    fn entered_sync(&self, thread: Pid) -> Option<Sync> {
        // "Number of the call, its arguments in hex" (proc_pid_syscall(5)).
        let call = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
        let mut words = call.split(' ');
        let number: i64 = words.next()?.parse().ok()?;
        if number != SYS_fsync && number != SYS_fdatasync {
            return None;
        }
        let file = i32::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
        let open = format!("/proc/{thread}/fd/{file}");
        let inode = fs::metadata(&open).ok()?.ino();
        if let Some(folder) = self.folders.get(&inode) {
            return Some(Sync::Folder(inode, folder.waiting.len()));
        }
        let is_ours = fs::read_link(&open).is_ok_and(|path| path.starts_with(&self.root));
        is_ours.then(|| Some(Sync::File(inode, fs::read(&open).ok()?)))?
    }

    fn look(&mut self) {
        let mut found = Vec::new();
        for folder in self.folders.values_mut() {
            let (now, folders) = list(&folder.path);
            let gone = folder.now.keys().filter(|name| !now.contains_key(*name));
            let mut change: Change = gone.map(|name| (name.clone(), None)).collect();
            let fresh = now
                .iter()
                .filter(|(name, inode)| folder.now.get(*name) != Some(inode));
            change.extend(fresh.map(|(name, inode)| (name.clone(), Some(*inode))));
            if !change.is_empty() {
                folder.waiting.push(change);
                folder.now = now;
                found.extend(folders);
            }
        }
        for (inode, path) in found {
            if !self.folders.contains_key(&inode) {
                self.add_folder(inode, path);
            }
        }
    }

    fn add_folder(&mut self, inode: Inode, path: PathBuf) {
        let (now, folders) = list(&path);
        let change: Change = now
            .iter()
            .map(|(name, inode)| (name.clone(), Some(*inode)))
            .collect();
        let folder = Folder {
            path,
            durable: Names::new(),
            now,
            waiting: Vec::from_iter((!change.is_empty()).then_some(change)),
        };
        self.folders.insert(inode, folder);
        for (inode, path) in folders {
            self.add_folder(inode, path);
        }
    }

    /// The program is dead: rewrites the folder as a power cut at that moment might leave it.
    pub(crate) fn cut(mut self, random: &mut Random) -> Result<()> {
        self.look();
        let mut live = HashMap::new();
        for folder in self.folders.values() {
            for (name, inode) in &folder.now {
                let path = folder.path.join(name);
                if let (Ok(bytes), Ok(about)) = (fs::read(&path), fs::metadata(&path)) {
                    live.insert(*inode, (bytes, about.mode() & 0o7777));
                }
            }
        }
        for (name, inode) in &self.folders[&self.top].now {
            let path = self.root.join(name);
            let removed = if self.folders.contains_key(inode) {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        self.write_folder(self.top, &self.root, &live, random)
    }

    fn write_folder(
        &self,
        inode: Inode,
        path: &Path,
        live: &HashMap<Inode, (Vec<u8>, u32)>,
        random: &mut Random,
    ) -> Result<()> {
        let folder = &self.folders[&inode];
        let mut names = folder.durable.clone();
        for change in &folder.waiting {
            if random.coin() {
                for (name, inode) in change {
                    set(&mut names, name.clone(), *inode);
                }
            }
        }
        for (name, inode) in names {
            let path = path.join(name);
            let failed = || format!("cannot make {}", path.display());
            if self.folders.contains_key(&inode) {
                DirBuilder::new()
                    .mode(0o700)
                    .create(&path)
                    .with_context(failed)?;
                self.write_folder(inode, &path, live, random)?;
                continue;
            }
            let (now, mode) = match live.get(&inode) {
                Some((bytes, mode)) => (Some(bytes.as_slice()), *mode),
                None => (None, PRIVATE),
            };
            let old = self.durable.get(&inode).map_or(&[][..], Vec::as_slice);
            let left = left_over(old, now.unwrap_or(old), random);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
                .and_then(|mut file| file.write_all(&left))
                .with_context(failed)?;
        }
        Ok(())
    }
}

fn set(names: &mut Names, name: OsString, inode: Option<Inode>) {
    match inode {
        Some(inode) => names.insert(name, inode),
        None => names.remove(&name),
    };
}

/// The names in a folder, and which of them are folders.
fn list(path: &Path) -> (Names, Vec<(Inode, PathBuf)>) {
    let mut names = Names::new();
    let mut folders = Vec::new();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push((entry.ino(), entry.path()));
        }
        names.insert(entry.file_name(), entry.ino());
    }
    (names, folders)
}

/// A file of which `old` is durable and `new` was written since: the one, the other, or torn.
fn left_over(old: &[u8], new: &[u8], random: &mut Random) -> Vec<u8> {
    match random.below(3) {
        0 => old.to_vec(),
        1 => new.to_vec(),
        _ => {
            let length = if random.coin() { old.len() } else { new.len() };
            let mut torn = vec![0; length];
            for (number, sector) in torn.chunks_mut(SECTOR).enumerate() {
                let from = if random.coin() { old } else { new };
                // What a file has beyond its written end reads as zeros.
                let written = from.get(number * SECTOR..).unwrap_or_default();
                let count = written.len().min(sector.len());
                sector[..count].copy_from_slice(&written[..count]);
            }
            torn
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::torture::trace::{self, Next};
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Mutex};

    const SEEDS: u64 = 12;

    /// What `script` leaves of its folder, a power cut after its end, for each of many seeds.
    fn leavings(script: &str) -> Vec<Vec<(String, String)>> {
        let cut = |seed| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("old"), "before").unwrap();
            let recorder = Recorder::new(folder.path()).unwrap();
            let recorder = Arc::new(Mutex::new(recorder));
            let shared = Arc::clone(&recorder);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("cd {}; {script}", folder.path().display())]);
            let followed = trace::start(&command, Vec::new(), Stdio::null(), move |_, thread| {
                shared.lock().unwrap().observe(thread);
                Next::GoOn
            });
            followed.unwrap().end().unwrap();
            let recorder = Arc::into_inner(recorder).unwrap().into_inner().unwrap();
            recorder.cut(&mut Random::new(seed)).unwrap();
            let names = list(folder.path()).0;
            let read = |name: &OsString| fs::read(folder.path().join(name)).unwrap();
            let text = |name: &OsString| String::from_utf8(read(name)).unwrap();
            names
                .keys()
                .map(|name| (name.to_string_lossy().into_owned(), text(name)))
                .collect()
        };
        (0..SEEDS).map(cut).collect()
    }

    fn seen(all: &[Vec<(String, String)>], name: &str, content: &str) -> usize {
        let file = (name.to_owned(), content.to_owned());
        all.iter().filter(|files| files.contains(&file)).count()
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_may_go() {
        if trace::obstacle().is_some() {
            return;
        }
        let synced = leavings("echo -n new > new; sync new; sync .; rm old; sync .");
        assert_eq!(seen(&synced, "new", "new"), 12);
        assert_eq!(seen(&synced, "old", "before"), 0);

        let unsynced = leavings("echo -n new > new; rm old");
        let whole = seen(&unsynced, "new", "new");
        assert!((1..12).contains(&whole), "{whole}");
        assert!(seen(&unsynced, "new", "") > 0);
        let kept = seen(&unsynced, "old", "before");
        assert!((1..12).contains(&kept), "{kept}");
    }

    #[test]
    fn a_rename_is_whole_or_not_at_all_and_its_content_follows_only_if_synced() {
        if trace::obstacle().is_some() {
            return;
        }
        let careful = leavings("echo -n new > temp; sync temp; mv temp old");
        for files in &careful {
            let renamed = files.contains(&("old".into(), "new".into()));
            let kept = files.contains(&("old".into(), "before".into()));
            assert!(renamed != kept, "{files:?}");
        }
        let careless = leavings("echo -n new > temp; mv temp old");
        assert!(seen(&careless, "old", "") > 0);
    }
}
