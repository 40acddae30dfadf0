//! Steps 5.4 (timestamp), 5.5 (snapshot) and 5.6.1 to 5.6.6 (targets, delegated roles the same).
//!
//! What was trusted before is the high-water mark. A cached file counts only if it is signed and is
//! exactly the one that the mark remembers; otherwise it is fetched again.

use super::client::{Repository, get, unreadable, unwritable};
use super::fetch::Fetch;
use super::high_water::{Mark, SnapshotMark, TimestampMark};
use super::store::Store;
use crate::code::MetadataCode;
use crate::limits::{MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES, MAX_TIMESTAMP_BYTES};
use crate::metadata::{
    Envelope, MetaFile, Rejection, Role, Signers, Snapshot, Targets, Timestamp, TopRole,
    VerifiedRole, name,
};

const TIMESTAMP: &str = "timestamp.json";
const SNAPSHOT: &str = "snapshot.json";

impl<S: Store> Repository<S> {
    /// 5.4.
    pub(super) fn refresh_timestamp(&mut self, fetch: &mut dyn Fetch) -> Result<(), Rejection> {
        // 5.4.1: up to X bytes, always under its plain name.
        let bytes = get(fetch, TIMESTAMP, MAX_TIMESTAMP_BYTES)?
            .ok_or_else(|| missing(TIMESTAMP, "the repository does not have it"))?;
        // 5.4.2: arbitrary software attack.
        let signers = self.root.signers(TopRole::Timestamp);
        let new: VerifiedRole<Timestamp> =
            Envelope::parse(&bytes, TIMESTAMP)?.verify(&signers, TIMESTAMP)?;
        let mark = TimestampMark::of(&new, &self.root);
        if let Some(old) = &self.high.timestamp {
            // 5.4.3.1: a lower version is a rollback ...
            not_lower(TIMESTAMP, new.role.header.version, old.mark.version)?;
            // ... the same version is nothing new.
            if new.role.header.version == old.mark.version
                && let Some((cached, _)) = self.cached(TIMESTAMP, Some(&old.mark), &signers)?
            {
                if new.digest != old.mark.digest {
                    self.warnings.push(format!(
                        "{TIMESTAMP}: version {} came again with other content, which was ignored",
                        old.mark.version
                    ));
                }
                // 5.4.4 for the one that is trusted: an old one served for ever is a freeze.
                self.check_expiry(TIMESTAMP, &cached)?;
                self.timestamp = Some(cached);
                return Ok(());
            }
            not_changed(TIMESTAMP, &new, &old.mark)?;
            // 5.4.3.2: the snapshot that it names is not older than the one named before.
            not_lower(
                "snapshot.json (named by timestamp.json)",
                mark.snapshot,
                old.snapshot,
            )?;
        }
        // 5.4.4: freeze attack.
        self.check_expiry(TIMESTAMP, &new.role)?;
        // 5.4.5: saved.
        self.save(TIMESTAMP, &bytes)?;
        let mut high = self.high.clone();
        high.timestamp = Some(mark);
        self.remember(high)?;
        self.timestamp = Some(new.role);
        Ok(())
    }

    /// 5.5.
    pub(super) fn refresh_snapshot(&mut self, fetch: &mut dyn Fetch) -> Result<(), Rejection> {
        let listed = self.timestamp.as_ref().and_then(Timestamp::snapshot);
        let listed = listed
            .cloned()
            .ok_or_else(|| missing(TIMESTAMP, "it must be refreshed before the snapshot"))?;
        let signers = self.root.signers(TopRole::Snapshot);
        let mark = self.high.snapshot.as_ref().map(|mark| &mark.mark);
        if let Some((cached, bytes)) = self.cached::<Snapshot>(SNAPSHOT, mark, &signers)?
            && cached.header.version == listed.version
            && matches(&listed, &bytes)
        {
            self.check_expiry(SNAPSHOT, &cached)?;
            self.snapshot = Some(cached);
            return Ok(());
        }
        let bytes = self.get_listed(fetch, "snapshot", &listed, MAX_SNAPSHOT_BYTES)?;
        // 5.5.3: arbitrary software attack.
        let new: VerifiedRole<Snapshot> =
            Envelope::parse(&bytes, SNAPSHOT)?.verify(&signers, SNAPSHOT)?;
        // 5.5.4: the version that the timestamp names.
        same_version(SNAPSHOT, new.role.header.version, &listed)?;
        if let Some(old) = &self.high.snapshot {
            not_lower(SNAPSHOT, new.role.header.version, old.mark.version)?;
            not_changed(SNAPSHOT, &new, &old.mark)?;
            // 5.5.5: rollback of targets metadata, and none that was listed may be gone.
            for (file, version) in &old.listed {
                let what = format!("{} (listed in snapshot.json)", file.escape_debug());
                match new.role.meta.get(file) {
                    Some(meta) => not_lower(&what, meta.version, *version)?,
                    None => {
                        return Err(Rejection::new(
                            MetadataCode::RoleRemoved,
                            &what,
                            format_args!(
                                "it was there in version {version} and is gone from snapshot {}",
                                new.role.header.version
                            ),
                        ));
                    }
                }
            }
        }
        // 5.5.6: freeze attack.
        self.check_expiry(SNAPSHOT, &new.role)?;
        // 5.5.7: saved.
        self.save(SNAPSHOT, &bytes)?;
        let mut high = self.high.clone();
        high.snapshot = Some(SnapshotMark::of(&new, &self.root));
        self.remember(high)?;
        self.snapshot = Some(new.role);
        Ok(())
    }

    /// 5.6.1 to 5.6.6 for the top-level role.
    pub(super) fn refresh_targets(&mut self, fetch: &mut dyn Fetch) -> Result<(), Rejection> {
        let root = self.root.clone();
        let signers = root.signers(TopRole::Targets);
        self.targets = Some(self.targets_of(fetch, "targets", &signers)?);
        Ok(())
    }

    /// 5.6.1 to 5.6.6 for `role`, which `signers` sign for. Nothing is taken from an earlier look
    /// that other signers were responsible for.
    pub(super) fn targets_of(
        &mut self,
        fetch: &mut dyn Fetch,
        role: &str,
        signers: &Signers<'_>,
    ) -> Result<Targets, Rejection> {
        let file = name::file_name(role, None);
        let listed = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.role(role));
        let listed = listed
            .cloned()
            .ok_or_else(|| missing(&file, "the snapshot does not list it"))?;
        let mark = self.high.targets.get(role);
        if let Some((cached, bytes)) = self.cached::<Targets>(&file, mark, signers)?
            && cached.header.version == listed.version
            && matches(&listed, &bytes)
        {
            self.check_expiry(&file, &cached)?;
            return Ok(cached);
        }
        let bytes = self.get_listed(fetch, role, &listed, MAX_TARGETS_BYTES)?;
        // 5.6.3: arbitrary software attack.
        let new: VerifiedRole<Targets> = Envelope::parse(&bytes, &file)?.verify(signers, &file)?;
        // 5.6.4: the version that the snapshot names.
        same_version(&file, new.role.header.version, &listed)?;
        if let Some(old) = self.high.targets.get(role) {
            not_lower(&file, new.role.header.version, old.version)?;
            not_changed(&file, &new, old)?;
        }
        // 5.6.5: freeze attack.
        self.check_expiry(&file, &new.role)?;
        // 5.6.6: saved.
        self.save(&file, &bytes)?;
        let mut high = self.high.clone();
        high.targets.insert(role.to_owned(), Mark::of(&new));
        self.remember(high)?;
        Ok(new.role)
    }

    /// 5.5.1, 5.5.2 and 5.6.1, 5.6.2: the file that other metadata names, with the length and the
    /// hashes that it gives.
    fn get_listed(
        &self,
        fetch: &mut dyn Fetch,
        role: &str,
        listed: &MetaFile,
        most: u64,
    ) -> Result<Vec<u8>, Rejection> {
        let version = self.root.consistent_snapshot.then_some(listed.version);
        let file = name::file_name(role, version);
        let limit = listed.length.unwrap_or(most).min(most);
        let bytes = get(fetch, &file, limit)?
            .ok_or_else(|| missing(&file, "other metadata names it, and it is not there"))?;
        if matches(listed, &bytes) {
            return Ok(bytes);
        }
        Err(Rejection::new(
            MetadataCode::HashMismatch,
            &file,
            "its length or hash is not what other, signed metadata says about it",
        ))
    }

    /// A file of an earlier refresh with its bytes, if it is what `mark` remembers and `signers`
    /// signed it. A torn, changed or missing one is no error: it is fetched again, and the mark
    /// still says what may not come back.
    fn cached<T: Role>(
        &self,
        file: &str,
        mark: Option<&Mark>,
        signers: &Signers<'_>,
    ) -> Result<Option<(T, Vec<u8>)>, Rejection> {
        let Some(mark) = mark else {
            return Ok(None);
        };
        let loaded = self.store.load(file).map_err(|error| unreadable(&error))?;
        let Some(bytes) = loaded else {
            return Ok(None);
        };
        let verified = Envelope::parse(&bytes, file)
            .and_then(|envelope| envelope.verify::<T>(signers, file))
            .ok()
            .filter(|verified| verified.digest == mark.digest);
        Ok(verified.map(|verified| (verified.role, bytes)))
    }

    fn save(&mut self, file: &str, bytes: &[u8]) -> Result<(), Rejection> {
        self.store
            .save(file, bytes)
            .map_err(|error| unwritable(&error))
    }
}

/// Whether a file is what other metadata says about it, as far as it says something.
fn matches(listed: &MetaFile, bytes: &[u8]) -> bool {
    let length = listed
        .length
        .is_none_or(|length| length == bytes.len() as u64);
    let hashes = listed.hashes.as_ref();
    length && hashes.is_none_or(|hashes| hashes.match_bytes(bytes))
}

fn same_version(what: &str, version: u64, listed: &MetaFile) -> Result<(), Rejection> {
    if version == listed.version {
        return Ok(());
    }
    Err(Rejection::new(
        MetadataCode::VersionMismatch,
        what,
        format_args!(
            "it is version {version}, and other metadata names version {}",
            listed.version
        ),
    ))
}

fn not_lower(what: &str, version: u64, before: u64) -> Result<(), Rejection> {
    if version >= before {
        return Ok(());
    }
    Err(Rejection::new(
        MetadataCode::Rollback,
        what,
        format_args!(
            "it is version {version}, older than version {before} that was trusted before"
        ),
    ))
}

/// 1.0.34 leaves it to the hashes; we remember the content: one version is one content for ever.
fn not_changed<T: Role>(what: &str, new: &VerifiedRole<T>, old: &Mark) -> Result<(), Rejection> {
    if new.role.header().version != old.version || new.digest == old.digest {
        return Ok(());
    }
    Err(Rejection::new(
        MetadataCode::SameVersionChanged,
        what,
        format_args!(
            "version {} was trusted before with other content; a change needs a new version",
            old.version
        ),
    ))
}

fn missing(what: &str, sentence: &str) -> Rejection {
    Rejection::new(MetadataCode::Missing, what, sentence)
}
