//! Where metadata and packages come from. The client believes nothing of what it gets; a `Fetch`
//! only has to keep the limits and to tell "not there" from "not reached".

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

/// Why a file was not got.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It has more bytes than asked for.
    #[error("it is larger than the {limit} bytes that it may have")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The answer is that it does not exist (only for targets; metadata says `None`).
    #[error("it is not there")]
    NotFound,
    /// Nothing was learned: time-out, no route, a broken disk.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A repository, as far as one can read it.
pub trait Fetch {
    /// The metadata file of this name (`2.root.json`; already percent-encoded, never with a `/`),
    /// of at most `limit` bytes. `None` when it is not there (404, 403, no such file).
    ///
    /// # Errors
    /// More bytes than `limit`, or it could not be found out.
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError>;

    /// The target at this path below the targets' base (already percent-encoded, `/` between its
    /// parts), from its first byte. The reader may be endless: the caller counts.
    ///
    /// # Errors
    /// It is not there, or it could not be found out.
    fn target(&mut self, url_path: &str) -> Result<Box<dyn Read + '_>, FetchError>;
}

/// A repository in two directories: an unpacked offline bundle, or the controller's own tree.
/// Names on disk are the percent-encoded ones. Only regular files are opened; a symbolic link at
/// the end of a path is refused.
#[derive(Clone, Debug)]
pub struct DirFetch {
    metadata: PathBuf,
    targets: PathBuf,
}

impl DirFetch {
    /// The directories `metadata` and `targets` below `base`.
    #[must_use]
    pub fn below(base: &Path) -> Self {
        Self {
            metadata: base.join("metadata"),
            targets: base.join("targets"),
        }
    }
}

impl Fetch for DirFetch {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        let Some(file) = open(&self.metadata, name)? else {
            return Ok(None);
        };
        read_bounded(file, limit).map(Some)
    }

    fn target(&mut self, url_path: &str) -> Result<Box<dyn Read + '_>, FetchError> {
        let file = open(&self.targets, url_path)?.ok_or(FetchError::NotFound)?;
        Ok(Box::new(file))
    }
}

/// Reads at most `limit` bytes.
///
/// # Errors
/// [`FetchError::TooLarge`] as soon as there is one more; what the reader says.
pub fn read_bounded(reader: impl Read, limit: u64) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    reader
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(FetchError::TooLarge { limit });
    }
    Ok(bytes)
}

/// A regular file below `base`; `None` when it does not exist.
fn open(base: &Path, name: &str) -> Result<Option<File>, FetchError> {
    let mut path = base.to_owned();
    for part in name.split('/') {
        // The client's names never have such parts; a caller's might.
        if matches!(part, "" | "." | "..") {
            return Err(FetchError::Failed(format!(
                "{name:?} is not a name below a directory"
            )));
        }
        path.push(part);
    }
    // O_NONBLOCK: a pipe of that name must not make us wait for its writer.
    let file = File::options()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_NONBLOCK)
        .open(&path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FetchError::Failed(format!("cannot open {path:?}: {error}"))),
    };
    if !file.metadata()?.is_file() {
        return Err(FetchError::Failed(format!(
            "{path:?} is not a regular file"
        )));
    }
    Ok(Some(file))
}
