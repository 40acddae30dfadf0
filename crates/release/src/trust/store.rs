//! Where verified metadata and the high-water mark are kept. Whatever a store says, the client
//! verifies it again; what it must do itself is not to lose the high-water mark unnoticed.
//!
//! [`FileStore`] replaces every file whole (temporary file, fsync, rename, fsync of the directory)
//! and keeps the high-water mark in two checksummed copies.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::fetch::read_bounded;
use super::high_water::HighWater;
use crate::limits::{MAX_HIGH_WATER_BYTES, MAX_TARGETS_BYTES};

/// Why the store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error("cannot {doing} {path:?}: {source}")]
    Io {
        /// As a verb: "read", "write".
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Both copies of the high-water mark are damaged or gone.
    #[error(
        "neither copy of the high-water mark in {path:?} can be read: what was trusted before is \
         not known, so nothing is trusted now. Restore it, or install the root metadata again \
         with --replace after finding out what happened"
    )]
    HighWaterLost {
        /// The store's directory.
        path: PathBuf,
    },
}

/// The high-water mark as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The later of its copies.
    pub value: HighWater,
    /// What was wrong with the other copy: it heals, but somebody should look.
    pub damage: Option<String>,
}

/// What is kept between two runs.
pub trait Store {
    /// A metadata file by its percent-encoded name (`targets.json`); `None` when it is not there.
    ///
    /// # Errors
    /// It may be there but cannot be read.
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Replaces a metadata file whole; durable on return.
    ///
    /// # Errors
    /// It is not durable; the old content stands.
    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// The high-water mark; `None` when this host was never told a root.
    ///
    /// # Errors
    /// There should be one, and it cannot be read.
    fn high_water(&self) -> Result<Option<Loaded>, StoreError>;

    /// Replaces the high-water mark; durable on return.
    ///
    /// # Errors
    /// It is not durable; an old or the new one stands.
    fn save_high_water(&mut self, value: &HighWater) -> Result<(), StoreError>;
}

impl<S: Store + ?Sized> Store for &mut S {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).load(name)
    }

    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        (**self).save(name, bytes)
    }

    fn high_water(&self) -> Result<Option<Loaded>, StoreError> {
        (**self).high_water()
    }

    fn save_high_water(&mut self, value: &HighWater) -> Result<(), StoreError> {
        (**self).save_high_water(value)
    }
}

/// A store in one directory: `root.json`, `timestamp.json`, `snapshot.json`, `targets.json`,
/// delegated roles by their percent-encoded names, `highwater.a` and `highwater.b`.
#[derive(Clone, Debug)]
pub struct FileStore {
    dir: PathBuf,
}

const COPIES: [&str; 2] = ["highwater.a", "highwater.b"];

impl FileStore {
    /// The store in `dir`, which is made if it is not there (mode 0755: all of it is public).
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(io_error("create", dir))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name)?;
        let file = File::options()
            .read(true)
            .custom_flags(O_NOFOLLOW | O_NONBLOCK)
            .open(&path);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        match read_bounded(file, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(io_error("read", &path)(io::Error::other(error.to_string()))),
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(name)?;
        let temp = self.path(&format!(".{name}.tmp"))?;
        let written = write_new(&temp, bytes)
            .and_then(|()| std::fs::rename(&temp, &path))
            .and_then(|()| File::open(&self.dir)?.sync_all());
        if written.is_err() {
            // Best effort: the error that matters is the one that brought us here.
            let _ = std::fs::remove_file(&temp);
        }
        written.map_err(io_error("write", &path))
    }

    fn path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.dir.join(name);
        // Role names are percent-encoded before they come here; this is the second look.
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(io_error("use", &path)(io::ErrorKind::InvalidInput.into()));
        }
        Ok(path)
    }
}

impl Store for FileStore {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(name, MAX_TARGETS_BYTES)
    }

    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.replace(name, bytes)
    }

    fn high_water(&self) -> Result<Option<Loaded>, StoreError> {
        let mut found: Vec<HighWater> = Vec::new();
        let mut damage = Vec::new();
        let mut gone = 0;
        for copy in COPIES {
            match self.read(copy, MAX_HIGH_WATER_BYTES) {
                Ok(Some(bytes)) => match HighWater::from_bytes(&bytes) {
                    Some(value) => found.push(value),
                    None => damage.push(format!("{copy} was damaged")),
                },
                Ok(None) => {
                    gone += 1;
                    damage.push(format!("{copy} was gone"));
                }
                Err(error) => damage.push(error.to_string()),
            }
        }
        if gone == COPIES.len() && self.read("root.json", MAX_TARGETS_BYTES)?.is_none() {
            return Ok(None);
        }
        found.sort_unstable_by_key(|value| value.sequence);
        if found.len() == COPIES.len() && found[0] != found[1] {
            damage.push("one copy was older: the power went between the two".to_owned());
        }
        let Some(value) = found.pop() else {
            return Err(StoreError::HighWaterLost {
                path: self.dir.clone(),
            });
        };
        let damage = (!damage.is_empty()).then(|| damage.join(", "));
        Ok(Some(Loaded { value, damage }))
    }

    fn save_high_water(&mut self, value: &HighWater) -> Result<(), StoreError> {
        let bytes = value.to_bytes();
        // One after the other, each durable: a power cut finds at least one whole copy.
        for copy in COPIES {
            self.replace(copy, &bytes)?;
        }
        Ok(())
    }
}

/// A store that forgets: for a look at a repository that leaves no trace, and for tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore {
    files: BTreeMap<String, Vec<u8>>,
    high_water: Option<HighWater>,
}

impl Store for MemoryStore {
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.files.get(name).cloned())
    }

    fn save(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.files.insert(name.to_owned(), bytes.to_owned());
        Ok(())
    }

    fn high_water(&self) -> Result<Option<Loaded>, StoreError> {
        Ok(self.high_water.clone().map(|value| Loaded {
            value,
            damage: None,
        }))
    }

    fn save_high_water(&mut self, value: &HighWater) -> Result<(), StoreError> {
        self.high_water = Some(value.clone());
        Ok(())
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
