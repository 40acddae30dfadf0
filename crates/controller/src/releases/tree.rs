//! A release repository on disk, and what of it is signed.
//!
//! | below the directory | what |
//! |---|---|
//! | `metadata/` | what is published: `N.root.json`, `N.targets.json`, `N.snapshot.json`, `timestamp.json` |
//! | `targets/` | packages under `vpn-node/VERSION/SHA256.PLATFORM.tar.zst` |
//! | `staged/` | what waits for signatures |
//! | `online-keys/` | the key for snapshot and timestamp, where this machine has it (0700) |
//! | `trust/` | what our own client has verified of it |
//!
//! The first two are public and may be served by anything; the others are nobody else's business.

use std::fs;
use std::path::{Path, PathBuf};

use vpn_node_release::limits::MAX_TIMESTAMP_BYTES;
use vpn_node_release::limits::{MAX_ROOT_BYTES, MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES};
use vpn_node_release::metadata::{
    Envelope, Role, Root, Snapshot, Targets, Timestamp, TopRole, VerifiedRole, name,
};

use super::disk::{self, DiskError, Lock, failed};
use super::error::ReleaseError;

/// A version that nobody reaches by publishing: one that is higher was made to lock hosts out, and
/// is not counted on from.
const SANE_VERSION: u64 = 1 << 40;

/// The directory of a repository.
#[derive(Clone, Debug)]
pub struct Tree {
    dir: PathBuf,
}

/// A role that is signed as it must be, and its file.
#[derive(Clone, Debug)]
pub struct SignedFile<T> {
    /// What it says.
    pub role: T,
    /// Digest of what is signed.
    pub digest: String,
    /// The file's bytes.
    pub bytes: Vec<u8>,
}

/// What is signed. The root chain is verified link by link, the rest with its last root.
#[derive(Clone, Debug)]
pub struct Published {
    /// All roots, from version 1 on; at least one.
    pub roots: Vec<SignedFile<Root>>,
    /// The highest that is signed; the snapshot may name an older one for a moment.
    pub targets: Option<SignedFile<Targets>>,
    /// What hosts see, if the current online key signed it.
    pub snapshot: Option<SignedFile<Snapshot>>,
    /// What hosts see first, if the current online key signed it.
    pub timestamp: Option<SignedFile<Timestamp>>,
    /// The next snapshot has a higher version than this.
    pub last_snapshot: u64,
    /// The next timestamp has a higher version than this.
    pub last_timestamp: u64,
}

impl Tree {
    /// The repository in `dir`, whether it is there or not.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn metadata(&self) -> PathBuf {
        self.dir.join("metadata")
    }

    pub(super) fn targets(&self) -> PathBuf {
        self.dir.join("targets")
    }

    pub(super) fn staged(&self) -> PathBuf {
        self.dir.join("staged")
    }

    pub(super) fn online_keys(&self) -> PathBuf {
        self.dir.join("online-keys")
    }

    pub(super) fn trust(&self) -> PathBuf {
        self.dir.join("trust")
    }

    /// Where an import is looked at before anything of it is taken.
    pub(super) fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    /// Makes the directories that are not there.
    pub(super) fn create_dirs(&self) -> Result<(), DiskError> {
        disk::create_dirs(&self.dir, 0o755)?;
        disk::create_dirs(&self.metadata(), 0o755)?;
        disk::create_dirs(&self.targets(), 0o755)?;
        disk::create_dirs(&self.staged().join("targets"), 0o755)
    }

    /// The right to change something, for one process at a time.
    pub(super) fn lock(&self) -> Result<Lock, ReleaseError> {
        if !self.metadata().is_dir() {
            return Err(ReleaseError::Missing(self.dir.clone()));
        }
        Ok(Lock::take(&self.dir.join("lock"))?)
    }

    /// Whether there is anything signed.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.metadata().join("1.root.json").exists()
    }

    /// What is signed.
    ///
    /// # Errors
    /// [`ReleaseError::Missing`]; a broken chain of roots; [`ReleaseError::Disk`].
    pub fn load(&self) -> Result<Published, ReleaseError> {
        self.load_optional()?
            .ok_or_else(|| ReleaseError::Missing(self.dir.clone()))
    }

    /// The same; `None` before the first root is published.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_optional(&self) -> Result<Option<Published>, ReleaseError> {
        let mut roots: Vec<SignedFile<Root>> = Vec::new();
        while let Some(bytes) = self.read(&root_name(roots.len() as u64 + 1), MAX_ROOT_BYTES)? {
            let next = verify_root(roots.last().map(|root| &root.role), bytes)?;
            roots.push(next);
        }
        let Some(root) = roots.last().map(|root| root.role.clone()) else {
            return Ok(None);
        };
        let mut targets = None;
        // Downwards: one that a crash left behind before its root was there does not count yet.
        for version in self.versions("targets")?.into_iter().rev() {
            targets = self.signed(&root, TopRole::Targets, Some(version), MAX_TARGETS_BYTES)?;
            if targets.is_some() {
                break;
            }
        }
        let snapshots = self.versions("snapshot")?;
        let timestamp: Option<SignedFile<Timestamp>> =
            self.signed(&root, TopRole::Timestamp, None, MAX_TIMESTAMP_BYTES)?;
        let named = timestamp.as_ref().and_then(|file| file.role.snapshot());
        let snapshot = match named.map(|meta| meta.version) {
            Some(version) => {
                self.signed(&root, TopRole::Snapshot, Some(version), MAX_SNAPSHOT_BYTES)?
            }
            None => None,
        };
        let sane = |version: &u64| *version < SANE_VERSION;
        Ok(Some(Published {
            last_snapshot: snapshots.into_iter().filter(sane).max().unwrap_or(0),
            last_timestamp: self.timestamp_version()?.filter(sane).unwrap_or(0),
            roots,
            targets,
            snapshot,
            timestamp,
        }))
    }

    /// A metadata file.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, DiskError> {
        disk::read_optional(&self.metadata().join(name), limit)
    }

    /// The versions of `N.ROLE.json`, ascending.
    pub(super) fn versions(&self, role: &str) -> Result<Vec<u64>, DiskError> {
        versions_in(&self.metadata(), role)
    }

    fn signed<T: Role>(
        &self,
        root: &Root,
        role: TopRole,
        version: Option<u64>,
        limit: u64,
    ) -> Result<Option<SignedFile<T>>, ReleaseError> {
        let name = name::file_name(role.as_str(), version);
        let Some(bytes) = self.read(&name, limit)? else {
            return Ok(None);
        };
        let verified = Envelope::parse(&bytes, &name)
            .and_then(|envelope| envelope.verify::<T>(&root.signers(role), &name));
        // Not signed by the keys of today: what a crash or a rotation left.
        Ok(verified
            .ok()
            .filter(|file| version.is_none_or(|version| file.role.header().version == version))
            .map(|file| SignedFile::new(file, bytes)))
    }

    /// The version in `timestamp.json`, whoever signed it.
    fn timestamp_version(&self) -> Result<Option<u64>, ReleaseError> {
        let Some(bytes) = self.read("timestamp.json", MAX_TIMESTAMP_BYTES)? else {
            return Ok(None);
        };
        let read: Result<VerifiedRole<Timestamp>, _> = Envelope::parse(&bytes, "timestamp.json")
            .and_then(|envelope| envelope.unverified("timestamp.json"));
        Ok(read.ok().map(|file| file.role.header.version))
    }
}

impl<T> SignedFile<T> {
    pub(super) fn new(verified: VerifiedRole<T>, bytes: Vec<u8>) -> Self {
        Self {
            role: verified.role,
            digest: verified.digest,
            bytes,
        }
    }
}

impl Published {
    /// The root of today.
    ///
    /// # Panics
    /// Never: there is at least one.
    #[must_use]
    pub fn root(&self) -> &SignedFile<Root> {
        self.roots.last().expect("there is at least one root")
    }
}

/// `N.root.json`.
pub(super) fn root_name(version: u64) -> String {
    name::file_name("root", Some(version))
}

/// The root after `old`, signed by the keys of both (sections 5.3.4 and 5.3.5), or the first one,
/// signed by its own.
pub(super) fn verify_root(
    old: Option<&Root>,
    bytes: Vec<u8>,
) -> Result<SignedFile<Root>, ReleaseError> {
    let version = old.map_or(1, |old| old.header.version + 1);
    let name = root_name(version);
    let envelope = Envelope::parse(&bytes, &name)?;
    let claimed: VerifiedRole<Root> = envelope.unverified(&name)?;
    let own = claimed.role.signers(TopRole::Root);
    let root: VerifiedRole<Root> = envelope.verify(&own, &name)?;
    if let Some(old) = old {
        envelope.verify::<Root>(&old.signers(TopRole::Root), &name)?;
    }
    if root.role.header.version != version {
        return super::error::refused(format!(
            "{name} holds version {} of the root: the chain of roots is broken",
            root.role.header.version
        ));
    }
    Ok(SignedFile::new(root, bytes))
}

/// The versions of `N.ROLE.json` in a directory, ascending.
pub(super) fn versions_in(dir: &Path, role: &str) -> Result<Vec<u64>, DiskError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(dir, "read")(error)),
    };
    let ending = format!(".{role}.json");
    let mut versions = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed(dir, "read"))?.file_name();
        let version = name.to_str().and_then(|name| name.strip_suffix(&ending));
        let version = version.and_then(|digits| digits.parse::<u64>().ok());
        versions.extend(version);
    }
    versions.sort_unstable();
    Ok(versions)
}
