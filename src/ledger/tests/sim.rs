//! A disk in memory that forgets, tears and refuses.
//!
//! Content and names live twice: as programs see them, and as they are after a power cut. A cut
//! keeps what was synced and any part, in sectors of 512 bytes, of what was not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;

use super::super::Disk;

const SECTOR: usize = 512;

/// What happens at numbered operations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The power goes: this operation is done in part, and none after it.
    Cut,
    /// The operation fails. A write is done in part; a sync throws away what it should have kept,
    /// and the page cache goes on showing it (as Linux does).
    Error(Errno),
}

/// A fault, and at which operations it strikes.
#[derive(Clone, Copy, Debug)]
struct Strike {
    from: u64,
    /// First operation that works again.
    until: u64,
    fault: Fault,
}

/// See the module's page. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the sync of their directory; each is done wholly or not at all.
    pending_names: Vec<Vec<(PathBuf, Option<usize>)>>,
    operations: u64,
    fault: Option<Strike>,
    dead: bool,
    locked: bool,
    /// Bytes that may still be reserved.
    space: Option<u64>,
}

#[derive(Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

/// Deterministic noise (splitmix64).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The fault strikes at the operation of this number, counted from now on.
    pub(crate) fn strike(&self, after: u64, fault: Fault) {
        self.strike_long(after, 1, fault);
    }

    /// The fault strikes at so many operations in a row.
    pub(crate) fn strike_long(&self, after: u64, operations: u64, fault: Fault) {
        let mut state = self.state();
        let from = state.operations + after;
        let until = from + operations;
        state.fault = Some(Strike { from, until, fault });
    }

    pub(crate) fn limit_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// True when the fault has struck.
    pub(crate) fn struck(&self) -> bool {
        let state = self.state();
        state
            .fault
            .is_none_or(|fault| state.operations >= fault.from)
    }

    /// Whatever was wrong is mended; what it did stays.
    pub(crate) fn mend(&self) {
        self.state().fault = None;
    }

    /// The power comes back: what was not synced is there in part.
    pub(crate) fn power_cycle(&self, seed: u64) {
        let mut noise = Noise(seed);
        let mut state = self.state();
        let state = &mut *state;
        for file in &mut state.files {
            let mut kept = std::mem::take(&mut file.durable);
            let mode = noise.below(4);
            for (at, bytes) in file.pending.drain(..) {
                let mut from = 0;
                while from < bytes.len() {
                    let to = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                    let keep = match mode {
                        0 => true,
                        1 => false,
                        _ => noise.below(mode) == 0,
                    };
                    if keep {
                        put(&mut kept, at + from, &bytes[from..to]);
                    }
                    from = to;
                }
            }
            file.durable.clone_from(&kept);
            file.seen = kept;
        }
        let mode = noise.below(3);
        for change in state.pending_names.drain(..) {
            if mode == 0 || (mode == 2 && noise.below(2) == 0) {
                rename_all(&mut state.durable_names, &change);
            }
        }
        state.names = state.durable_names.clone();
        state.fault = None;
        state.dead = false;
        state.locked = false;
    }

    /// The process ends without a power cut: the page cache stays.
    pub(crate) fn new_process(&self) {
        let mut state = self.state();
        state.fault = None;
        state.locked = false;
    }

    pub(super) fn file_names(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }

    pub(super) fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[path]].seen.clone()
    }

    /// Damage at rest: changes the bytes as seen and as durable.
    pub(super) fn damage(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.state();
        let id = state.names[path];
        change(&mut state.files[id].seen);
        change(&mut state.files[id].durable);
    }

    pub(super) fn delete(&self, path: &Path) {
        let mut state = self.state();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// A disk with the same content that shares nothing with this one.
    pub(super) fn copy(&self) -> Self {
        let old = self.state();
        let files = old.files.iter().map(|file| Content {
            seen: file.seen.clone(),
            durable: file.durable.clone(),
            pending: file.pending.clone(),
        });
        Self(Arc::new(Mutex::new(State {
            files: files.collect(),
            names: old.names.clone(),
            durable_names: old.durable_names.clone(),
            pending_names: old.pending_names.clone(),
            ..State::default()
        })))
    }
}

impl State {
    /// Counts an operation; `Err` when it must not be done at all, `Ok(Some)` when in part.
    fn step(&mut self) -> io::Result<Option<io::Error>> {
        if self.dead {
            return Err(Errno::EIO.into());
        }
        self.operations += 1;
        match self.fault {
            Some(strike) if (strike.from..strike.until).contains(&self.operations) => {
                Ok(Some(match strike.fault {
                    Fault::Cut => {
                        self.dead = true;
                        Errno::EIO.into()
                    }
                    Fault::Error(errno) => errno.into(),
                }))
            }
            _ => Ok(None),
        }
    }

    /// As `step`, for operations that are done or not done.
    fn whole_step(&mut self) -> io::Result<()> {
        self.step()?.map_or(Ok(()), Err)
    }

    fn change_names(&mut self, change: Vec<(PathBuf, Option<usize>)>) {
        rename_all(&mut self.names, &change);
        self.pending_names.push(change);
    }
}

fn rename_all(names: &mut BTreeMap<PathBuf, usize>, change: &[(PathBuf, Option<usize>)]) {
    for (path, target) in change {
        match target {
            Some(id) => names.insert(path.clone(), *id),
            None => names.remove(path),
        };
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

#[derive(Debug)]
pub(crate) struct SimLock(SimDisk);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl Disk for SimDisk {
    type File = usize;
    type Lock = SimLock;

    fn make_dir(&self, _dir: &Path) -> io::Result<()> {
        self.state().whole_step()
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<SimLock>> {
        let mut state = self.state();
        state.whole_step()?;
        let free = !std::mem::replace(&mut state.locked, true);
        Ok(free.then(|| SimLock(self.clone())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let mut state = self.state();
        state.whole_step()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<usize> {
        let mut state = self.state();
        state.whole_step()?;
        if state.names.contains_key(path) {
            return Err(Errno::EEXIST.into());
        }
        let id = state.files.len();
        state.files.push(Content::default());
        state.change_names(vec![(path.to_owned(), Some(id))]);
        Ok(id)
    }

    fn open(&self, path: &Path) -> io::Result<usize> {
        let mut state = self.state();
        state.whole_step()?;
        state
            .names
            .get(path)
            .copied()
            .ok_or_else(|| Errno::ENOENT.into())
    }

    fn reserve(&self, file: &usize, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.whole_step()?;
        let have = state.files[*file].seen.len();
        let more = (len as usize).saturating_sub(have);
        if let Some(space) = state.space {
            let left = space.checked_sub(more as u64).ok_or(Errno::ENOSPC)?;
            state.space = Some(left);
        }
        put(&mut state.files[*file].seen, have, &vec![0; more]);
        state.files[*file].pending.push((have, vec![0; more]));
        Ok(())
    }

    fn len(&self, file: &usize) -> io::Result<u64> {
        let mut state = self.state();
        state.whole_step()?;
        Ok(state.files[*file].seen.len() as u64)
    }

    fn read_at(&self, file: &usize, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        state.whole_step()?;
        let rest = state.files[*file].seen.get(at as usize..).unwrap_or(&[]);
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, file: &usize, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let failed = state.step()?;
        let done = if failed.is_some() {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        };
        put(&mut state.files[*file].seen, at as usize, done);
        state.files[*file]
            .pending
            .push((at as usize, done.to_vec()));
        failed.map_or(Ok(()), Err)
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        let mut state = self.state();
        let failed = state.step()?;
        let dead = state.dead;
        let file = &mut state.files[*file];
        match failed {
            None => {
                for (at, bytes) in std::mem::take(&mut file.pending) {
                    put(&mut file.durable, at, &bytes);
                }
                Ok(())
            }
            Some(error) => {
                if !dead {
                    file.pending.clear();
                }
                Err(error)
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole_step()?;
        let id = *state.names.get(from).ok_or(Errno::ENOENT)?;
        state.change_names(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole_step()?;
        let id = *state.names.get(path).ok_or(Errno::ENOENT)?;
        let freed = state.files[id].seen.len() as u64;
        if let Some(space) = &mut state.space {
            *space += freed;
        }
        state.change_names(vec![(path.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole_step()?;
        let (here, elsewhere) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition(|change: &Vec<(PathBuf, Option<usize>)>| {
                change.iter().any(|(path, _)| path.parent() == Some(dir))
            });
        state.pending_names = elsewhere;
        for change in here {
            rename_all(&mut state.durable_names, &change);
        }
        Ok(())
    }
}
