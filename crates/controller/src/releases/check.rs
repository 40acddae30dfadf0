//! Our own client looks at everything before it is published, with the trust that hosts have from
//! the time before; and once more afterwards, at what lies on the disk.

use std::collections::BTreeMap;
use std::io::Read;

use jiff::Timestamp as Instant;
use vpn_node_release::bundle::Signed;
use vpn_node_release::digest::Digest;
use vpn_node_release::limits::MAX_ROOT_BYTES;
use vpn_node_release::metadata::{TargetFile, Targets, name};
use vpn_node_release::trust::{
    DirFetch, Fetch, FetchError, FileStore, MemoryStore, Repository, Store, Summary, install_root,
};

use super::disk;
use super::error::{ReleaseError, refused};
use super::tree::{Tree, root_name};

/// What the client sees when some files are already there and others not yet.
struct Overlay<'a> {
    new: &'a BTreeMap<String, Vec<u8>>,
    disk: DirFetch,
}

impl Fetch for Overlay<'_> {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        match self.new.get(name) {
            Some(bytes) if bytes.len() as u64 > limit => Err(FetchError::TooLarge { limit }),
            Some(bytes) => Ok(Some(bytes.clone())),
            None => self.disk.metadata(name, limit),
        }
    }

    fn target(&mut self, url_path: &str) -> Result<Box<dyn Read + '_>, FetchError> {
        self.disk.target(url_path)
    }
}

/// What hosts would say if `new` were published beside what is.
///
/// # Errors
/// [`ReleaseError::Rejected`] as hosts would.
pub(super) fn rehearse(
    tree: &Tree,
    new: &BTreeMap<String, Vec<u8>>,
    now: Instant,
) -> Result<Summary, ReleaseError> {
    let mut overlay = Overlay {
        new,
        disk: DirFetch::below(tree.dir()),
    };
    let store = remembered(tree, &mut overlay)?;
    let mut client = Repository::open(store, now)?;
    Ok(client.refresh(&mut overlay)?)
}

/// Looks at what is published as a host does, and remembers it.
///
/// # Errors
/// [`ReleaseError::Rejected`].
pub fn published(tree: &Tree, now: Instant) -> Result<Summary, ReleaseError> {
    let mut fetch = DirFetch::below(tree.dir());
    disk::create_dirs(&tree.trust(), 0o755)?;
    let mut store = FileStore::open(&tree.trust())?;
    install_first(&mut store, &mut fetch)?;
    let mut client = Repository::open(store, now)?;
    Ok(client.refresh(&mut fetch)?)
}

/// A copy in memory of what was verified before.
fn remembered(tree: &Tree, fetch: &mut dyn Fetch) -> Result<MemoryStore, ReleaseError> {
    let mut copy = MemoryStore::default();
    if tree.trust().exists() {
        let kept = FileStore::open(&tree.trust())?;
        for name in [
            "root.json",
            "timestamp.json",
            "snapshot.json",
            "targets.json",
        ] {
            if let Some(bytes) = kept.load(name)? {
                copy.save(name, &bytes)?;
            }
        }
        if let Some(high) = kept.high_water()? {
            copy.save_high_water(&high.value)?;
        }
    }
    install_first(&mut copy, fetch)?;
    Ok(copy)
}

/// The first look begins with version 1 of the root, as on a host.
fn install_first(store: &mut impl Store, fetch: &mut dyn Fetch) -> Result<(), ReleaseError> {
    if store.high_water()?.is_some() {
        return Ok(());
    }
    let first = root_name(1);
    let bytes = fetch.metadata(&first, MAX_ROOT_BYTES);
    match bytes {
        Ok(Some(bytes)) => {
            install_root(store, &bytes, false)?;
            Ok(())
        }
        Ok(None) => refused(format!("{first} is missing: restore it from a backup")),
        Err(error) => refused(format!("{first} cannot be read: {error}")),
    }
}

/// What is signed about each package, if all of it is what hosts take.
///
/// # Errors
/// [`ReleaseError::Package`] for the first that is not.
pub fn releases(targets: &Targets) -> Result<Vec<Signed>, ReleaseError> {
    let each = targets.targets.iter();
    each.map(|(path, file)| signed(path, file)).collect()
}

/// What is signed about one package.
pub(super) fn signed(path: &str, file: &TargetFile) -> Result<Signed, ReleaseError> {
    let digest = file
        .hashes
        .sha256()
        .and_then(|text| Digest::parse(&text).ok());
    let Some(digest) = digest else {
        return refused(format!("\"{}\" has no SHA-256", path.escape_debug()));
    };
    Ok(Signed::new(
        path,
        file.length,
        digest,
        file.custom.as_ref(),
    )?)
}

/// Where a package lies below `targets/`.
#[must_use]
pub fn url_path(signed: &Signed) -> String {
    let path = signed.info().target_path();
    name::target_url_path(&path, Some(&signed.sha256().to_string()))
}
