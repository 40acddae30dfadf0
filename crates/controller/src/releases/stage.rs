//! What waits for signatures: at most one root and one targets metadata, as envelopes to which each
//! signer adds his signature, and the packages that the targets name.
//!
//! Whoever can write into the directory can change what waits; so a signer is shown what it says,
//! compared with what is published, before his key is opened.

use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use vpn_node_release::author;
use vpn_node_release::limits::{MAX_ROOT_BYTES, MAX_TARGETS_BYTES};
use vpn_node_release::metadata::key::Signers;
use vpn_node_release::metadata::signed::Standing;
use vpn_node_release::metadata::{Envelope, Key, Role, Root, Targets, TopRole, VerifiedRole};

use super::disk::{self, DiskError};
use super::error::ReleaseError;
use super::key_file::short_id;
use super::tree::{Published, Tree};

/// One of the two.
#[derive(Clone, Debug)]
pub struct Waiting<T> {
    /// With the signatures that there are.
    pub envelope: Envelope,
    /// What it says; nobody has vouched for it yet.
    pub role: T,
}

/// What waits.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// A root.
    pub root: Option<Waiting<Root>>,
    /// Targets metadata.
    pub targets: Option<Waiting<Targets>>,
}

/// How far one of them is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// `root` or `targets`.
    pub role: TopRole,
    /// Its version.
    pub version: u64,
    /// Signatures of different keys that count.
    pub signed: usize,
    /// How many it takes.
    pub needed: usize,
    /// Shortened ids of those whose signature is missing.
    pub missing: Vec<String>,
}

impl Progress {
    /// Whether it has all that it needs.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.signed >= self.needed
    }
}

impl Stage {
    /// Reads what waits.
    ///
    /// # Errors
    /// [`ReleaseError::Disk`], [`ReleaseError::Rejected`] if it is no metadata.
    pub fn load(tree: &Tree) -> Result<Self, ReleaseError> {
        Ok(Self {
            root: read(tree, TopRole::Root, MAX_ROOT_BYTES)?,
            targets: read(tree, TopRole::Targets, MAX_TARGETS_BYTES)?,
        })
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.is_none() && self.targets.is_none()
    }

    /// Whether both hold the same to be signed; signatures may have come.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let root = |stage: &Self| stage.root.as_ref().map(|one| one.envelope.signed.clone());
        let targets = |stage: &Self| {
            stage
                .targets
                .as_ref()
                .map(|one| one.envelope.signed.clone())
        };
        root(self) == root(other) && targets(self) == targets(other)
    }

    /// Puts unsigned metadata there, or replaces what waits: signatures of that are gone.
    pub(super) fn put<T: Role>(tree: &Tree, role: &T) -> Result<(), ReleaseError> {
        let envelope = author::sign(role, &[])?;
        let kind = if T::TYPE == "root" {
            TopRole::Root
        } else {
            TopRole::Targets
        };
        Ok(disk::write(&path(tree, kind), &envelope.to_bytes(), 0o644)?)
    }

    /// Adds the signatures of `key` where it may sign.
    ///
    /// # Errors
    /// [`ReleaseError::NothingStaged`], [`ReleaseError::NotASigner`], [`ReleaseError::Disk`].
    pub(super) fn sign(
        &mut self,
        tree: &Tree,
        published: Option<&Published>,
        key: &SigningKey,
    ) -> Result<(), ReleaseError> {
        self.check_signer(published, &author::public_key(key))?;
        let public = author::public_key(key);
        if let Some(root) = &mut self.root
            && root_signers(published, &root.role).contains(&public)
        {
            root.envelope.sign(key)?;
            disk::write(&path(tree, TopRole::Root), &root.envelope.to_bytes(), 0o644)?;
        }
        let current = self.root_for_targets(published).cloned();
        if let (Some(targets), Some(root)) = (&mut self.targets, current)
            && has(&root.signers(TopRole::Targets), &public)
        {
            targets.envelope.sign(key)?;
            disk::write(
                &path(tree, TopRole::Targets),
                &targets.envelope.to_bytes(),
                0o644,
            )?;
        }
        Ok(())
    }

    /// Whether this key may sign anything that waits: asked before its passphrase is.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn check_signer(
        &self,
        published: Option<&Published>,
        key: &Key,
    ) -> Result<(), ReleaseError> {
        if self.is_empty() {
            return Err(ReleaseError::NothingStaged);
        }
        let root = self.root.as_ref();
        let of_root = root.is_some_and(|root| root_signers(published, &root.role).contains(key));
        let of_targets = self.targets.is_some()
            && self
                .root_for_targets(published)
                .is_some_and(|root| has(&root.signers(TopRole::Targets), key));
        if of_root || of_targets {
            return Ok(());
        }
        let waits = self.progress(published)?.into_iter().map(|one| {
            format!(
                "{} version {} waits for {}",
                one.role.as_str(),
                one.version,
                one.missing.join(" or ")
            )
        });
        Err(ReleaseError::NotASigner {
            id: short_id(key),
            waits: waits.collect::<Vec<_>>().join("; "),
        })
    }

    /// How far each of them is.
    ///
    /// # Errors
    /// [`ReleaseError::Rejected`] if it has no canonical form.
    pub fn progress(&self, published: Option<&Published>) -> Result<Vec<Progress>, ReleaseError> {
        let mut all = Vec::new();
        if let Some(root) = &self.root {
            // A new root needs the keys of the old one and its own: the one that has less counts.
            let own = root.role.signers(TopRole::Root);
            let old = published.map(|published| published.root().role.signers(TopRole::Root));
            let version = root.role.header.version;
            let mut least = progress(&root.envelope, &own, TopRole::Root, version)?;
            if let Some(old) = old {
                let old = progress(&root.envelope, &old, TopRole::Root, version)?;
                if old.missing_count() > least.missing_count() {
                    least = old;
                }
            }
            all.push(least);
        }
        if let (Some(targets), Some(root)) = (&self.targets, self.root_for_targets(published)) {
            let signers = root.signers(TopRole::Targets);
            let version = targets.role.header.version;
            all.push(progress(
                &targets.envelope,
                &signers,
                TopRole::Targets,
                version,
            )?);
        }
        Ok(all)
    }

    /// The root that says who signs the targets: the one that waits, if one does.
    pub(super) fn root_for_targets<'a>(
        &'a self,
        published: Option<&'a Published>,
    ) -> Option<&'a Root> {
        let waiting = self.root.as_ref().map(|root| &root.role);
        waiting.or_else(|| published.map(|published| &published.root().role))
    }
}

impl Progress {
    fn missing_count(&self) -> usize {
        self.needed.saturating_sub(self.signed)
    }
}

/// Where one of them waits.
pub(super) fn path(tree: &Tree, role: TopRole) -> PathBuf {
    tree.staged().join(format!("{}.json", role.as_str()))
}

/// Where the package of a target waits.
pub(super) fn package_path(tree: &Tree, url_path: &str) -> PathBuf {
    tree.staged().join("targets").join(url_path)
}

fn read<T: Role>(
    tree: &Tree,
    role: TopRole,
    limit: u64,
) -> Result<Option<Waiting<T>>, ReleaseError> {
    let bytes: Result<_, DiskError> = disk::read_optional(&path(tree, role), limit);
    let Some(bytes) = bytes? else {
        return Ok(None);
    };
    let what = format!("staged/{}.json", role.as_str());
    let envelope = Envelope::parse(&bytes, &what)?;
    let read: VerifiedRole<T> = envelope.unverified(&what)?;
    Ok(Some(Waiting {
        envelope,
        role: read.role,
    }))
}

fn progress(
    envelope: &Envelope,
    signers: &Signers<'_>,
    role: TopRole,
    version: u64,
) -> Result<Progress, ReleaseError> {
    let Standing {
        signed_by,
        counted,
        needed,
    } = envelope.standing(signers)?;
    let open = signers
        .keys
        .iter()
        .filter(|(id, _)| !signed_by.contains(*id));
    Ok(Progress {
        role,
        version,
        signed: counted,
        needed,
        missing: open.map(|(_, key)| short_id(key)).collect(),
    })
}

/// Who may sign a new root: the root keys of the published one, and its own.
fn root_signers(published: Option<&Published>, new: &Root) -> Vec<Key> {
    let old = published.map(|published| published.root().role.signers(TopRole::Root));
    let keys = new.signers(TopRole::Root);
    let old = old.iter().flat_map(|signers| signers.keys.values());
    old.chain(keys.keys.values())
        .map(|key| (*key).clone())
        .collect()
}

fn has(signers: &Signers<'_>, key: &Key) -> bool {
    signers
        .keys
        .values()
        .any(|one| one.material() == key.material())
}
