//! The workflow of the specification's section 5: trusted root, new roots, timestamp, snapshot,
//! targets. [`super::roles`] has the steps of the last three, [`super::delegations`] the search.
//!
//! Every step verifies first and saves then; a refusal leaves the files and the high-water mark as
//! they were, and the next refresh begins anew (section 5, first note).

use std::collections::BTreeMap;

use jiff::Timestamp as Instant;

use super::fetch::{Fetch, FetchError};
use super::high_water::{HighWater, Mark, ReleaseMark};
use super::store::{Store, StoreError};
use super::target::TargetInfo;
use crate::code::MetadataCode;
use crate::limits::{MAX_ROOT_BYTES, MAX_ROOTS_PER_REFRESH};
use crate::metadata::{
    DateTime, Envelope, Rejection, Role, Root, Snapshot, Targets, Timestamp, TopRole, VerifiedRole,
    name,
};

/// The trusted state of one repository, and the way to renew it.
#[derive(Debug)]
pub struct Repository<S> {
    pub(super) store: S,
    /// What the caller says that the time is.
    clock: Instant,
    /// 5.1: the fixed update start time.
    now: Instant,
    pub(super) high: HighWater,
    pub(super) root: Root,
    pub(super) timestamp: Option<Timestamp>,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) targets: Option<Targets>,
    pub(super) warnings: Vec<String>,
}

/// What is trusted after a refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Versions of the four roles.
    pub versions: BTreeMap<TopRole, u64>,
    /// When each of them expires.
    pub expires: BTreeMap<TopRole, DateTime>,
    /// When the timestamp was signed, if it says so: old means that someone withholds news, or
    /// that nobody refreshes the repository.
    pub issued: Option<DateTime>,
    /// What healed but should be looked at.
    pub warnings: Vec<String>,
}

/// Makes `bytes` the first trusted root of an empty store, or with `replace` the root of one that
/// has history: then old metadata is forgotten, but the highest releases are not. Returns the
/// root's version.
///
/// Who calls this decides what is trusted: only root may, with a file that came another way than
/// the repository itself (section 5.2).
///
/// # Errors
/// The root is not signed by its own keys; [`MetadataCode::TrustStoreUnreadable`] when there is
/// history and `replace` is false.
pub fn install_root(store: &mut impl Store, bytes: &[u8], replace: bool) -> Result<u64, Rejection> {
    let root = self_signed_root(bytes)?;
    let kept = match store.high_water() {
        Ok(kept) => kept.map(|loaded| loaded.value),
        // Lost for good: --replace is the way out, and takes what it still can.
        Err(StoreError::HighWaterLost { .. }) if replace => None,
        Err(error) => return Err(unreadable(&error)),
    };
    let known = store
        .load("root.json")
        .map_err(|error| unreadable(&error))?;
    let has_history = known.is_some() || kept.as_ref().is_some_and(|kept| !kept.is_fresh());
    if has_history && !replace {
        return Err(Rejection::new(
            MetadataCode::TrustStoreUnreadable,
            "root",
            "this store trusts a root already; --replace is needed to put another in its place",
        ));
    }
    let mut high = HighWater::new(&root);
    if let Some(kept) = kept {
        high.sequence = kept.sequence + 1;
        high.releases = kept.releases;
    }
    // The mark first: if the power goes between the two, the same call does it again.
    let saved = store
        .save_high_water(&high)
        .and_then(|()| store.save("root.json", bytes));
    saved.map_err(|error| unwritable(&error))?;
    Ok(root.role.header.version)
}

impl<S: Store> Repository<S> {
    /// Loads the trusted root. `now` is the clock, or what [`super::not_before`] made of it;
    /// verified metadata that was signed later than that moves it forward.
    ///
    /// # Errors
    /// [`MetadataCode::NoTrust`], or [`MetadataCode::TrustStoreUnreadable`] if what was trusted
    /// before is not known for certain.
    pub fn open(store: S, now: Instant) -> Result<Self, Rejection> {
        let loaded = store.high_water().map_err(|error| unreadable(&error))?;
        let Some(loaded) = loaded else {
            return Err(Rejection::new(
                MetadataCode::NoTrust,
                "root",
                "no root metadata was installed here; root does it once with \
                 `vpn-node-updater trust FILE`",
            ));
        };
        // 5.2: load the trusted root metadata file; its expiry does not matter yet.
        let root = trusted_root(&store, &loaded.value)?;
        // An earlier refresh may have ended between the saving of a root and that of the mark: what
        // follows from the root is drawn again (5.3.11).
        let mut high = loaded.value.clone();
        high.root = Mark::of(&root);
        high.forget_rotated(&root.role);
        let mut repository = Self {
            store,
            clock: now,
            now,
            high: loaded.value,
            root: root.role,
            timestamp: None,
            snapshot: None,
            targets: None,
            warnings: Vec::new(),
        };
        if let Some(damage) = loaded.damage {
            repository.heal(&damage);
        }
        repository.remember(high)?;
        repository.fix_time();
        Ok(repository)
    }

    /// Steps 5.3 to 5.6: asks for everything that is newer and verifies it.
    ///
    /// # Errors
    /// The first thing that is not as it must be; everything that was verified before it is kept.
    /// [`Rejection::is_outage`] tells "not reached" from "refused".
    pub fn refresh(&mut self, fetch: &mut dyn Fetch) -> Result<Summary, Rejection> {
        self.refresh_root(fetch)?;
        self.refresh_timestamp(fetch)?;
        self.refresh_snapshot(fetch)?;
        self.refresh_targets(fetch)?;
        Ok(self.summary())
    }

    /// What may be believed about the target at `path`. After [`Self::refresh`].
    ///
    /// # Errors
    /// [`MetadataCode::TargetUnknown`], [`MetadataCode::BadName`], and all of [`Self::refresh`]
    /// for delegated roles.
    pub fn target(&mut self, fetch: &mut dyn Fetch, path: &str) -> Result<TargetInfo, Rejection> {
        self.search(fetch, path)
    }

    /// The top-level targets metadata, once verified: the list of what exists.
    #[must_use]
    pub const fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref()
    }

    /// The trusted root.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// The time that expiry is judged by.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// What this host never goes back behind.
    #[must_use]
    pub const fn high_water(&self) -> &HighWater {
        &self.high
    }

    /// Remembers that this release of `line` was verified; nothing below it is accepted any more.
    ///
    /// # Errors
    /// [`MetadataCode::TrustStoreUnwritable`].
    pub fn raise_release(&mut self, line: &str, release: &ReleaseMark) -> Result<(), Rejection> {
        let mut high = self.high.clone();
        high.raise_release(line, release);
        self.remember(high)
    }

    /// 5.3.
    fn refresh_root(&mut self, fetch: &mut dyn Fetch) -> Result<(), Rejection> {
        // 5.3.3: "or we have downloaded more than Y number of root metadata files".
        for _ in 0..MAX_ROOTS_PER_REFRESH {
            // 5.3.2, 5.3.3: N is the trusted version; N+1 is tried.
            let next = self.root.header.version + 1;
            let file = name::file_name("root", Some(next));
            let Some(bytes) = get(fetch, &file, MAX_ROOT_BYTES)? else {
                break;
            };
            let root = self.next_root(&bytes, &file, next)?;
            // 5.3.7 and 5.3.8: it is the trusted root; saved before anything is done with it.
            self.store
                .save("root.json", &bytes)
                .map_err(|error| unwritable(&error))?;
            let mut high = self.high.clone();
            high.root = Mark::of(&root);
            // 5.3.11, at each step: a key that is rotated away and back again was rotated.
            high.forget_rotated(&root.role);
            self.remember(high)?;
            self.root = root.role;
        }
        // A thief of the online keys may have said that it is 2099: a rotation ends that too.
        self.fix_time();
        // 5.3.10: freeze attack. Intermediate roots may have expired (5.3.6), the last may not.
        // (5.3.12: `get_listed` and `TargetInfo` ask `root.consistent_snapshot`.)
        self.check_expiry(TopRole::Root.as_str(), &self.root)
    }

    fn next_root(
        &self,
        bytes: &[u8],
        file: &str,
        next: u64,
    ) -> Result<VerifiedRole<Root>, Rejection> {
        let envelope = Envelope::parse(bytes, file)?;
        // 5.3.4: signed by a threshold of the keys of root N ...
        let old = self.root.signers(TopRole::Root);
        let root: VerifiedRole<Root> = envelope.verify(&old, file)?;
        // ... and by a threshold of its own.
        let own = format!("{file} (by its own keys)");
        envelope.verify::<Root>(&root.role.signers(TopRole::Root), &own)?;
        // 5.3.5: its version must be exactly N+1.
        let version = root.role.header.version;
        if version != next {
            let code = if version < next {
                MetadataCode::Rollback
            } else {
                MetadataCode::RootGap
            };
            return Err(Rejection::new(
                code,
                file,
                format_args!("it is version {version} of the root, where version {next} belongs"),
            ));
        }
        Ok(root)
    }

    /// 5.3.10, 5.4.4, 5.5.6, 5.6.5: "The expiration timestamp MUST be higher than the fixed update
    /// start time".
    pub(super) fn check_expiry<T: Role>(&self, what: &str, role: &T) -> Result<(), Rejection> {
        let expires = role.header().expires;
        if expires.instant() > self.now {
            return Ok(());
        }
        Err(Rejection::new(
            MetadataCode::Expired,
            what,
            format_args!(
                "version {} expired at {expires}, and it is {} now. Either nobody refreshes the \
                 repository, or someone withholds its news, or this host's clock is wrong",
                role.header().version,
                DateTime::new(self.now),
            ),
        ))
    }

    /// 5.1: the update start time is what the caller said, but not before the latest time that
    /// verified metadata says it was signed at.
    fn fix_time(&mut self) {
        let issued = self.high.latest_issue();
        self.now = issued.map_or(self.clock, |issued| issued.max(self.clock));
    }

    /// One of the two copies of the mark is damaged or older: both are written again.
    fn heal(&mut self, damage: &str) {
        self.high.sequence += 1;
        let healed = match self.store.save_high_water(&self.high) {
            Ok(()) => "it was written again from the other copy".to_owned(),
            Err(error) => format!("it could not be written again: {error}"),
        };
        self.warnings.push(format!(
            "high-water mark: {damage}; {healed}. Look at the disk"
        ));
    }

    /// Makes `high` the high-water mark, if it is another than before.
    pub(super) fn remember(&mut self, mut high: HighWater) -> Result<(), Rejection> {
        if high != self.high {
            high.sequence += 1;
            self.store
                .save_high_water(&high)
                .map_err(|error| unwritable(&error))?;
            self.high = high;
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        let headers = [
            Some((TopRole::Root, self.root.header())),
            self.timestamp
                .as_ref()
                .map(|role| (TopRole::Timestamp, role.header())),
            self.snapshot
                .as_ref()
                .map(|role| (TopRole::Snapshot, role.header())),
            self.targets
                .as_ref()
                .map(|role| (TopRole::Targets, role.header())),
        ];
        let headers = headers.into_iter().flatten();
        Summary {
            versions: headers.clone().map(|(role, h)| (role, h.version)).collect(),
            expires: headers.map(|(role, h)| (role, h.expires)).collect(),
            issued: self.timestamp.as_ref().and_then(|role| role.header.issued),
            warnings: self.warnings.clone(),
        }
    }
}

/// A root must be signed by its own keys, the first one too.
fn self_signed_root(bytes: &[u8]) -> Result<VerifiedRole<Root>, Rejection> {
    let envelope = Envelope::parse(bytes, "root.json")?;
    let claimed: VerifiedRole<Root> = envelope.unverified("root.json")?;
    envelope.verify(&claimed.role.signers(TopRole::Root), "root.json")
}

fn trusted_root(store: &impl Store, high: &HighWater) -> Result<VerifiedRole<Root>, Rejection> {
    let torn = |text: &str| {
        Rejection::new(
            MetadataCode::TrustStoreUnreadable,
            "root.json",
            format_args!(
                "{text}. Nothing is trusted until root installs the root metadata again with \
                 --replace"
            ),
        )
    };
    let bytes = store
        .load("root.json")
        .map_err(|error| unreadable(&error))?
        .ok_or_else(|| torn("the trusted root is gone"))?;
    let root = self_signed_root(&bytes)
        .map_err(|error| torn(&format!("the trusted root is damaged ({error})")))?;
    let version = root.role.header.version;
    // One version ahead: the power went between saving it and the mark, after it was verified.
    let is_known = version > high.root.version
        || (version == high.root.version && root.digest == high.root.digest);
    if !is_known {
        return Err(torn(
            "the trusted root is not the one that was verified last",
        ));
    }
    Ok(root)
}

/// One file of metadata, with its limit kept even if the [`Fetch`] does not.
pub(super) fn get(
    fetch: &mut dyn Fetch,
    file: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, Rejection> {
    match fetch.metadata(file, limit) {
        Ok(Some(bytes)) if bytes.len() as u64 > limit => Err(Rejection::new(
            MetadataCode::TooLarge,
            file,
            FetchError::TooLarge { limit },
        )),
        Ok(bytes) => Ok(bytes),
        Err(error @ FetchError::TooLarge { .. }) => {
            Err(Rejection::new(MetadataCode::TooLarge, file, error))
        }
        Err(FetchError::NotFound) => Ok(None),
        Err(error @ FetchError::Failed(_)) => Err(Rejection::new(
            MetadataCode::FetchFailed,
            file,
            format_args!("it could not be fetched: {error}"),
        )),
    }
}

pub(super) fn unreadable(error: &StoreError) -> Rejection {
    Rejection::new(MetadataCode::TrustStoreUnreadable, "trust store", error)
}

pub(super) fn unwritable(error: &StoreError) -> Rejection {
    Rejection::new(MetadataCode::TrustStoreUnwritable, "trust store", error)
}
