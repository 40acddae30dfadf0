//! What a power cut may leave of a folder, as far as that can be known without cutting power.
//!
//! While a program runs under the tracer, this notes what it made durable: a file's content by
//! fsync(2) or fdatasync(2) of the file, a name by fsync(2) of its folder, and nothing else, which
//! is what POSIX promises and no more. Afterwards each change that was not made durable is kept,
//! dropped or torn by chance, and the folder rewritten so. A symbolic link comes whole with its name
//! or not at all: file systems keep its text in its inode, or write it before the name. What a disk
//! does that lies about a completed sync is not seen, nor is a file mapped into memory.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::Pid;

use super::call::Call;
use super::random::Random;

/// What a disk writes in one piece.
const SECTOR: usize = 512;
/// What such files and folders have whose own mode is gone with them.
const PRIVATE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

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
    /// Where symbolic links lead to.
    links: HashMap<Inode, PathBuf>,
    /// Makes nothing durable: to see whether what a suite looks at would show it.
    pub(crate) deaf: bool,
    /// Threads that are inside of a sync, and what it will have made durable.
    syncing: HashMap<Pid, Sync>,
}

struct Folder {
    path: PathBuf,
    mode: u32,
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
            links: HashMap::new(),
            deaf: false,
            syncing: HashMap::new(),
        };
        recorder.visit(about.ino(), root);
        for folder in recorder.folders.values_mut() {
            folder.waiting.clear();
            folder.durable.clone_from(&folder.now);
            for (name, inode) in &folder.now {
                if recorder.links.contains_key(inode) {
                    continue;
                }
                if let Ok(bytes) = fs::read(folder.path.join(name)) {
                    recorder.durable.insert(*inode, bytes);
                }
            }
        }
        Ok(recorder)
    }

    /// Looks at what changed before this boundary, at which `thread` stands.
    pub(crate) fn observe(&mut self, thread: Pid) {
        let call = Call::of(thread);
        if call.as_ref().is_some_and(Call::is_harmless) {
            return;
        }
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
                if let Some(sync) = call.and_then(|call| self.entered_sync(thread, &call)) {
                    self.syncing.insert(thread, sync);
                }
            }
        }
    }

    /// What the sync makes durable that `thread` stands before, if it does. Only what is there
    /// already: later writes of other threads are not promised.
    fn entered_sync(&self, thread: Pid, call: &Call) -> Option<Sync> {
        if self.deaf || !call.is_sync() {
            return None;
        }
        let open = format!("/proc/{thread}/fd/{}", call.first());
        let inode = fs::metadata(&open).ok()?.ino();
        if let Some(folder) = self.folders.get(&inode) {
            return Some(Sync::Folder(inode, folder.waiting.len()));
        }
        let is_ours = fs::read_link(&open).is_ok_and(|path| path.starts_with(&self.root));
        is_ours.then(|| Some(Sync::File(inode, fs::read(&open).ok()?)))?
    }

    fn look(&mut self) {
        let root = self.root.clone();
        self.visit(self.top, &root);
    }

    /// Looks at a folder and what is below it, from the top down: one that was moved is found at
    /// its new place before anybody looks for it at the old one.
    fn visit(&mut self, inode: Inode, path: &Path) {
        let Listing {
            names,
            folders,
            links,
        } = list(path);
        let mode = fs::metadata(path).map_or(PRIVATE_FOLDER, |about| about.mode() & 0o7777);
        let folder = self.folders.entry(inode).or_insert_with(|| Folder {
            path: path.to_owned(),
            mode,
            durable: Names::new(),
            now: Names::new(),
            waiting: Vec::new(),
        });
        path.clone_into(&mut folder.path);
        folder.mode = mode;
        if names != folder.now {
            let gone = folder.now.keys().filter(|name| !names.contains_key(*name));
            let mut change: Change = gone.map(|name| (name.clone(), None)).collect();
            let fresh = names
                .iter()
                .filter(|(name, inode)| folder.now.get(*name) != Some(inode));
            change.extend(fresh.map(|(name, inode)| (name.clone(), Some(*inode))));
            folder.waiting.push(change);
            folder.now = names;
        }
        self.links.extend(links);
        for (inode, path) in folders {
            self.visit(inode, &path);
        }
    }

    /// The program is dead: rewrites the folder as a power cut at that moment might leave it.
    pub(crate) fn cut(mut self, random: &mut Random) -> Result<()> {
        self.look();
        let names = self.left_names(random);
        let live = self.live();
        for (name, inode) in &self.folders[&self.top].now {
            let path = self.root.join(name);
            let removed = if self.folders.contains_key(inode) {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        self.write_folder(self.top, &self.root, &names, &live, random)
    }

    /// Which names each folder is left with.
    fn left_names(&self, random: &mut Random) -> BTreeMap<Inode, Names> {
        let mut left = BTreeMap::new();
        for (inode, folder) in &self.folders {
            let mut names = folder.durable.clone();
            for change in &folder.waiting {
                if random.coin() {
                    for (name, inode) in change {
                        set(&mut names, name.clone(), *inode);
                    }
                }
            }
            left.insert(*inode, names);
        }
        // A folder that was moved from one to another is in one of them (rename(2) is one
        // transaction): where it was, as long as the new place does not have it.
        for moved in self.folders.keys() {
            let has = |names: &Names| names.values().any(|inode| inode == moved);
            let now = self.folders.iter().find(|(_, folder)| has(&folder.now));
            let before = self.folders.iter().find(|(_, folder)| has(&folder.durable));
            let (Some((now, _)), Some((before, old))) = (now, before) else {
                continue;
            };
            if now == before {
                continue;
            }
            let arrived = has(&left[now]);
            let names = left.get_mut(before).expect("every folder has its names");
            names.retain(|_, inode| inode != moved);
            if !arrived {
                let there = old.durable.iter().filter(|(_, inode)| *inode == moved);
                names.extend(there.map(|(name, inode)| (name.clone(), *inode)));
            }
        }
        left
    }

    /// What each file holds now, and its mode.
    fn live(&self) -> HashMap<Inode, (Vec<u8>, u32)> {
        let mut live = HashMap::new();
        for folder in self.folders.values() {
            for (name, inode) in &folder.now {
                let path = folder.path.join(name);
                // The place of a folder that is gone may be another's.
                let about = fs::symlink_metadata(&path).ok();
                let about = about.filter(|about| about.is_file() && about.ino() == *inode);
                if let (Some(about), Ok(bytes)) = (about, fs::read(&path)) {
                    live.insert(*inode, (bytes, about.mode() & 0o7777));
                }
            }
        }
        live
    }

    fn write_folder(
        &self,
        inode: Inode,
        path: &Path,
        names: &BTreeMap<Inode, Names>,
        live: &HashMap<Inode, (Vec<u8>, u32)>,
        random: &mut Random,
    ) -> Result<()> {
        for (name, inode) in &names[&inode] {
            let path = path.join(name);
            let failed = || format!("cannot make {}", path.display());
            if let Some(folder) = self.folders.get(inode) {
                fs::create_dir(&path).with_context(failed)?;
                self.write_folder(*inode, &path, names, live, random)?;
                fs::set_permissions(&path, Permissions::from_mode(folder.mode))
                    .with_context(failed)?;
                continue;
            }
            if let Some(target) = self.links.get(inode) {
                symlink(target, &path).with_context(failed)?;
                continue;
            }
            let (now, mode) = match live.get(inode) {
                Some((bytes, mode)) => (Some(bytes.as_slice()), *mode),
                None => (None, PRIVATE),
            };
            let old = self.durable.get(inode).map_or(&[][..], Vec::as_slice);
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

/// What is in a folder.
#[derive(Default)]
struct Listing {
    names: Names,
    folders: Vec<(Inode, PathBuf)>,
    links: Vec<(Inode, PathBuf)>,
}

fn list(path: &Path) -> Listing {
    let mut listing = Listing::default();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let (inode, path) = (entry.ino(), entry.path());
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(|kind| kind.is_dir()) {
            listing.folders.push((inode, path));
        } else if kind.is_ok_and(|kind| kind.is_symlink())
            && let Ok(target) = fs::read_link(&path)
        {
            listing.links.push((inode, target));
        }
        listing.names.insert(entry.file_name(), inode);
    }
    listing
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
        leavings_of(script, false)
    }

    fn leavings_of(script: &str, deaf: bool) -> Vec<Vec<(String, String)>> {
        let cut = |seed| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("old"), "before").unwrap();
            let mut recorder = Recorder::new(folder.path()).unwrap();
            recorder.deaf = deaf;
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
            let names = list(folder.path()).names;
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

    #[test]
    fn a_link_comes_whole_and_a_moved_folder_is_in_one_place() {
        if trace::obstacle().is_some() {
            return;
        }
        let mut places = std::collections::BTreeSet::new();
        for seed in 0..SEEDS {
            let folder = tempfile::tempdir().unwrap();
            let top = folder.path();
            for made in ["from/it", "to"] {
                fs::create_dir_all(top.join(made)).unwrap();
            }
            fs::write(top.join("from/it/file"), "content").unwrap();
            symlink("from/it", top.join("link")).unwrap();
            let recorder = Arc::new(Mutex::new(Recorder::new(top).unwrap()));
            let shared = Arc::clone(&recorder);
            let mut command = Command::new("sh");
            let script = "mv from/it to/it; ln -s to/it link.new; mv -T link.new link";
            command.args(["-c", &format!("cd {}; {script}", top.display())]);
            let followed = trace::start(&command, Vec::new(), Stdio::null(), move |_, thread| {
                shared.lock().unwrap().observe(thread);
                Next::GoOn
            });
            followed.unwrap().end().unwrap();
            let recorder = Arc::into_inner(recorder).unwrap().into_inner().unwrap();
            recorder.cut(&mut Random::new(seed)).unwrap();
            let link = fs::read_link(top.join("link")).unwrap();
            let at = |place: &str| fs::read(top.join(place).join("it/file")).is_ok();
            assert!(at("from") != at("to"), "seed {seed}");
            places.insert((link, at("to")));
        }
        // Both of each, in every combination that this many seeds give.
        assert!(places.len() > 2, "{places:?}");
    }

    #[test]
    fn a_disk_that_ignores_every_sync_may_lose_what_was_synced() {
        if trace::obstacle().is_some() {
            return;
        }
        let script = "echo -n new > new; sync new; sync .; rm old; sync .";
        let lost = leavings_of(script, true);
        assert!(seen(&lost, "new", "new") < 12);
        assert!(seen(&lost, "old", "before") > 0);
    }
}
