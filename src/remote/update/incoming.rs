//! What the updater is given: `incoming/` with metadata, package and, last of all, the request.
//!
//! The updater believes nothing of it and copies it while it verifies. What matters here is that
//! the request is only there when everything else is, also after a power cut.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vpn_node_release::handover::Request;

use super::error::FetchFailure;
use crate::host::atomic;

/// The folders of one agent's downloads, below its state directory.
#[derive(Clone, Debug)]
pub struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Those of the agent with this state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            root: state_dir.join("updates"),
        }
    }

    /// The agent's own TUF store.
    pub(super) fn trust(&self) -> PathBuf {
        self.root.join("trust")
    }

    /// The updater's root that `trust` was made from.
    pub(super) fn anchor(&self) -> PathBuf {
        self.root.join("anchor.json")
    }

    pub(super) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    fn request(&self) -> PathBuf {
        self.incoming().join("request.json")
    }

    /// What outlives the agent ([`crate::core::update::Kept`]).
    #[must_use]
    pub fn kept(&self) -> PathBuf {
        self.root.join("deployment.json")
    }

    /// Makes the folder that all others lie in.
    ///
    /// # Errors
    /// The disk.
    pub fn create(&self) -> Result<(), atomic::AtomicError> {
        atomic::create_dir_private(&self.root)
    }

    /// Takes the request back, if the updater has not copied it yet.
    pub(super) fn withdraw(&self) -> Result<(), atomic::AtomicError> {
        match self.request().exists() {
            true => atomic::remove(&self.request()),
            false => Ok(()),
        }
    }

    /// Removes what was downloaded, the request first: from then on nobody looks at the rest.
    pub(super) fn clean(&self) -> io::Result<()> {
        self.withdraw().map_err(io::Error::other)?;
        for folder in [self.incoming(), self.partial()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands a release over: `metadata` by file name, the verified `package` to the place of
    /// `url_path` below `targets/`, then the request.
    pub(super) fn hand_over(
        &self,
        metadata: &[(String, Vec<u8>)],
        package: &Path,
        url_path: &str,
        request: &Request,
    ) -> Result<(), FetchFailure> {
        let incoming = self.incoming();
        self.withdraw()?;
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FetchFailure::disk("empty", &incoming)(error));
            }
            _ => {}
        }
        let folder = incoming.join("metadata");
        atomic::create_dir_private(&folder)?;
        for (name, bytes) in metadata {
            atomic::write(&folder.join(name), bytes, 0o600)?;
        }
        let target = incoming.join("targets").join(url_path);
        let folder = target.parent().expect("a file lies in a folder");
        atomic::create_dir_private(folder)?;
        fs::rename(package, &target).map_err(FetchFailure::disk("move", &target))?;
        atomic::sync_dir(folder)?;
        let json = serde_json::to_vec(request).expect("texts and numbers serialise");
        Ok(atomic::write(&self.request(), &json, 0o600)?)
    }
}
