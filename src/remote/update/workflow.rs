//! TUF over HTTP: what this host may believe of a repository, and of one release in it.
//!
//! Two passes over the same files. The first renews the agent's own store, which remembers: an old
//! or changed file is found out here, every hour and before any download. The second starts from
//! the root that the updater trusts and remembers nothing: what it asked for is exactly what the
//! updater will ask for, so that goes into the hand-over. The updater verifies it all again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use jiff::Timestamp;
use vpn_node_release::code::{DownloadCode, MetadataCode, PackageCode, PolicyCode};
use vpn_node_release::limits::MAX_ROOT_BYTES;
use vpn_node_release::release::{PRODUCT, ReleaseInfo};
use vpn_node_release::trust::{
    Fetch, FetchError, FileStore, MemoryStore, Repository, TargetInfo, install_root, not_before,
};
use vpn_node_release::version::Version;

use super::error::FetchFailure;
use super::incoming::Folders;
use super::source::Source;
use crate::core::journal;
use crate::core::update::{Known, Order};
use crate::core::{Now, shown};
use crate::host::atomic;

/// Metadata of one run, in bytes: kept in memory until it is handed over. A real repository has
/// some kilobytes.
const MAX_METADATA_BYTES: usize = 16 * 1024 * 1024;

/// What is trusted before anything is fetched.
pub(super) struct Anchor<'a> {
    /// The root that the updater trusts.
    pub(super) root: &'a Path,
    /// The agent's folders.
    pub(super) folders: &'a Folders,
    /// The clock, and an instant that is over for certain, in milliseconds since the Unix epoch.
    pub(super) now: Now,
    pub(super) past_ms: i64,
}

/// A release that may be fetched, with the metadata that says so.
pub(super) struct Found {
    pub(super) target: TargetInfo,
    pub(super) sha256: String,
    /// By file name.
    pub(super) metadata: Vec<(String, Vec<u8>)>,
}

/// Renews the agent's own store: what the repository says now holds.
pub(super) fn refresh(anchor: &Anchor<'_>, files: &mut Files<'_>) -> Result<(), FetchFailure> {
    let trust = anchor.folders.trust();
    follow_root(anchor, &trust)?;
    let store = FileStore::open(&trust).map_err(FetchFailure::setup)?;
    let refreshed = Repository::open(store, anchor.time())
        .and_then(|mut repository| repository.refresh(files))
        .map_err(|rejection| {
            if rejection.code != MetadataCode::TrustStoreUnreadable {
                return rejection;
            }
            let sentence = format!(
                "{}. This is the agent's own store: remove {} and it begins anew with the \
                 updater's root",
                rejection.sentence,
                trust.display()
            );
            vpn_node_release::metadata::Rejection {
                sentence,
                ..rejection
            }
        });
    let summary = files.settle(refreshed)?;
    for warning in summary.warnings {
        tracing::warn!(
            message_id = %journal::UPDATE_REMARK,
            %warning, "release metadata"
        );
    }
    Ok(())
}

/// Looks one release up, from the updater's root on.
pub(super) fn find(
    anchor: &Anchor<'_>,
    files: &mut Files<'_>,
    order: &Order,
    known: &Known,
) -> Result<Found, FetchFailure> {
    let mut store = MemoryStore::default();
    install_root(&mut store, &read_root(anchor.root)?, false)?;
    files.used.clear();
    let found = Repository::open(store, anchor.time()).and_then(|mut repository| {
        repository.refresh(files)?;
        repository.target(files, &order.target)
    });
    let target = files.settle(found)?;
    is_for_us(&target, order, known)?;
    let sha256 = target.sha256().ok_or_else(|| FetchFailure::NotForUs {
        code: PackageCode::ReleaseInfoMalformed.as_str(),
        sentence: "no SHA-256 was signed for the package".to_owned(),
    })?;
    Ok(Found {
        target,
        sha256,
        metadata: files.used(),
    })
}

/// What the updater will refuse anyway need not be fetched.
fn is_for_us(target: &TargetInfo, order: &Order, known: &Known) -> Result<(), FetchFailure> {
    let refuse =
        |code: &'static str, sentence: String| Err(FetchFailure::NotForUs { code, sentence });
    let info = match ReleaseInfo::from_custom(target.custom.as_ref()) {
        Ok(info) => info,
        Err(error) => {
            return refuse(
                PackageCode::ReleaseInfoMalformed.as_str(),
                error.to_string(),
            );
        }
    };
    let (version, counter) = (&info.version, info.counter);
    if info.product != PRODUCT {
        let sentence = format!("release {version} is of another product than {PRODUCT}");
        return refuse(PolicyCode::WrongProduct.as_str(), sentence);
    }
    if info.target_path() != order.target || version.to_string() != order.version {
        let sentence = format!(
            "what lies at {} is signed as {}",
            shown(&order.target),
            info.target_path()
        );
        return refuse(PackageCode::TargetPathMismatch.as_str(), sentence);
    }
    if info.channel.as_str() != known.channel {
        let sentence = format!(
            "release {version} is of the channel {}, and this host follows {}",
            info.channel,
            shown(&known.channel)
        );
        return refuse(PolicyCode::WrongChannel.as_str(), sentence);
    }
    if counter < known.counter {
        let sentence = format!(
            "release {version} has the counter {counter}, and this host has accepted {}: it is \
             older, and a deliberate step back needs a newly signed release",
            known.counter
        );
        return refuse(PolicyCode::CounterLower.as_str(), sentence);
    }
    let floor = known.security_floor.as_deref().map(Version::parse);
    if let Some(Ok(floor)) = floor
        && *version < floor
    {
        let sentence = format!("no version below {floor} may be installed here any more");
        return refuse(PolicyCode::BelowSecurityFloor.as_str(), sentence);
    }
    Ok(())
}

impl Anchor<'_> {
    fn time(&self) -> Timestamp {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
        not_before(at(self.now.wall_ms), &[at(self.past_ms)])
    }
}

/// The agent's store begins with the updater's root, and begins anew when root of the host has put
/// another in its place. (The updater's own high-water mark outlives that.)
fn follow_root(anchor: &Anchor<'_>, trust: &Path) -> Result<(), FetchFailure> {
    let root = read_root(anchor.root)?;
    let kept = anchor.folders.anchor();
    let limit = usize::try_from(MAX_ROOT_BYTES).unwrap_or(usize::MAX);
    if atomic::read_bounded(&kept, limit).is_ok_and(|bytes| bytes == root) && trust.exists() {
        return Ok(());
    }
    match fs::remove_dir_all(trust) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FetchFailure::disk("empty", trust)(error));
        }
        _ => {}
    }
    anchor.folders.create()?;
    let mut store = FileStore::open(trust).map_err(FetchFailure::setup)?;
    install_root(&mut store, &root, false)?;
    Ok(atomic::write(&kept, &root, 0o600)?)
}

fn read_root(path: &Path) -> Result<Vec<u8>, FetchFailure> {
    let limit = usize::try_from(MAX_ROOT_BYTES).unwrap_or(usize::MAX);
    atomic::read_bounded(path, limit).map_err(|error| FetchFailure::NotForUs {
        code: DownloadCode::NotManaged.as_str(),
        sentence: format!("the updater's trusted root cannot be read: {error}"),
    })
}

/// The metadata of one repository as it is during one run: each file is fetched once.
pub(super) struct Files<'a> {
    source: &'a Source,
    known: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
    used: Vec<String>,
    /// Why the last file could not be fetched: with its own code.
    failure: Option<FetchFailure>,
}

impl<'a> Files<'a> {
    pub(super) fn of(source: &'a Source) -> Self {
        Self {
            source,
            known: BTreeMap::new(),
            bytes: 0,
            used: Vec::new(),
            failure: None,
        }
    }

    /// A refusal because a file could not be fetched is told as what stood in the way.
    fn settle<T>(
        &mut self,
        result: Result<T, vpn_node_release::metadata::Rejection>,
    ) -> Result<T, FetchFailure> {
        result.map_err(|rejection| match self.failure.take() {
            Some(failure) => failure,
            None => rejection.into(),
        })
    }

    /// What was asked for and was there, in that order.
    fn used(&self) -> Vec<(String, Vec<u8>)> {
        let names = self.used.iter();
        let file = |name: &String| Some((name.clone(), self.known.get(name)?.clone()?));
        names.filter_map(file).collect()
    }

    fn get(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchFailure> {
        if !self.known.contains_key(name) {
            let path = format!("metadata/{name}");
            let file = self.source.small(&path, limit)?;
            self.bytes += file.as_ref().map_or(0, Vec::len);
            if self.bytes > MAX_METADATA_BYTES {
                let limit = MAX_METADATA_BYTES as u64;
                return Err(FetchFailure::TooLong { url: path, limit });
            }
            self.known.insert(name.to_owned(), file);
        }
        let file = self.known[name].clone();
        if file.is_some() && !self.used.iter().any(|used| used == name) {
            self.used.push(name.to_owned());
        }
        Ok(file)
    }
}

impl Fetch for Files<'_> {
    fn metadata(&mut self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        match self.get(name, limit) {
            // Fetched when more was allowed.
            Ok(Some(bytes)) if bytes.len() as u64 > limit => Err(FetchError::TooLarge { limit }),
            Ok(file) => Ok(file),
            Err(failure) => {
                let text = failure.to_string();
                self.failure = Some(failure);
                Err(FetchError::Failed(text))
            }
        }
    }

    /// Packages come by [`super::package`], which can go on with one.
    fn target(&mut self, _: &str) -> Result<Box<dyn Read + '_>, FetchError> {
        Err(FetchError::NotFound)
    }
}
