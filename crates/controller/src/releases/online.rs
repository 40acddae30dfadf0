//! The online key: it signs snapshot and timestamp, which say only what of the signed is the
//! newest. It lies unencrypted (0600), because the controller signs with it by itself.
//!
//! With it alone nobody can publish a package or change who may; hosts refuse that.

use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp as Instant};
use vpn_node_release::author;
use vpn_node_release::metadata::{Key, MetaFile, Root, Snapshot, Timestamp, TopRole, hex};
use zeroize::Zeroizing;

use super::disk::{self, failed};
use super::error::ReleaseError;
use super::key_file::{self, short_id};
use super::publish::CLOCK_TOLERANCE;
use super::tree::{Published, Tree};
use crate::clock;
use crate::keys::{create_private, read_private};

/// For so long hosts believe that nothing newer exists.
pub const LIFETIME: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Signed again when less than this is left: a controller that is down for three days freezes
/// nobody.
const RENEW_BELOW: SignedDuration = SignedDuration::from_hours(7 * 12);

/// Snapshot and timestamp, made to follow what is published.
pub(super) struct Fresh {
    pub(super) snapshot_version: u64,
    pub(super) snapshot: Vec<u8>,
    pub(super) timestamp: Vec<u8>,
}

/// Makes a new online key in the repository, and the public half beside it. Returns that.
///
/// # Errors
/// [`ReleaseError::Disk`], [`ReleaseError::OnlineKey`].
pub fn create(tree: &Tree) -> Result<(Key, std::path::PathBuf), ReleaseError> {
    disk::create_dirs(tree.dir(), 0o755)?;
    disk::create_dirs(&tree.online_keys(), 0o700)?;
    let secret = Zeroizing::new(clock::random::<32>());
    let signing = SigningKey::from_bytes(&secret);
    let key = author::public_key(&signing);
    let path = tree.online_keys().join(format!("{}.key", short_id(&key)));
    let text = Zeroizing::new(format!("{}\n", *Zeroizing::new(hex(secret.as_slice()))));
    create_private(&path, text.as_bytes())?;
    let public = key_file::public_path(&path);
    key_file::write_public(&public, &signing.verifying_key())?;
    Ok((key, public))
}

/// The online key that this root names, if this machine has it.
///
/// # Errors
/// [`ReleaseError::OnlineKey`] when a key file is open to others or damaged.
pub(super) fn load(tree: &Tree, root: &Root) -> Result<Option<SigningKey>, ReleaseError> {
    let dir = tree.online_keys();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&dir, "read")(error).into()),
    };
    for entry in entries {
        let path = entry.map_err(failed(&dir, "read"))?.path();
        if path.extension().is_none_or(|ending| ending != "key") {
            continue;
        }
        let text = read_private(&path)?;
        let secret = std::str::from_utf8(text.trim_ascii())
            .ok()
            .and_then(vpn_node_release::metadata::unhex)
            .map(Zeroizing::new)
            .and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok())
            .map(Zeroizing::new);
        let Some(secret) = secret else {
            return super::error::refused(format!(
                "the online key {path:?} is damaged: restore it from the backup, or make another with 'release make-key --online' and put it in place with 'release rotate-key online'"
            ));
        };
        let signing = SigningKey::from_bytes(&secret);
        if signs(root, &author::public_key(&signing)) {
            return Ok(Some(signing));
        }
    }
    Ok(None)
}

/// Whether this key alone is enough for snapshot and timestamp.
fn signs(root: &Root, key: &Key) -> bool {
    [TopRole::Snapshot, TopRole::Timestamp]
        .into_iter()
        .all(|role| {
            let signers = root.signers(role);
            signers.threshold == 1 && signers.keys.values().any(|one| *one == key)
        })
}

/// Whether hosts must be given a newer snapshot or timestamp: one is missing, not signed by the
/// keys of today, behind the signed targets, has less than half of its time left, or was signed in
/// the future: then the clock is wrong, and trying to sign says so.
pub(super) fn is_due(published: &Published, now: Instant) -> bool {
    let (Some(timestamp), Some(snapshot)) = (&published.timestamp, &published.snapshot) else {
        return true;
    };
    let named = snapshot.role.role("targets").map(|meta| meta.version);
    let signed = published
        .targets
        .as_ref()
        .map(|file| file.role.header.version);
    let earliest = timestamp
        .role
        .header
        .expires
        .min(snapshot.role.header.expires);
    let issued = timestamp.role.header.issued;
    let is_ahead = issued.is_some_and(|issued| now + CLOCK_TOLERANCE < issued.instant());
    is_ahead || named != signed || earliest.instant().duration_since(now) < RENEW_BELOW
}

/// Snapshot and timestamp that name these targets.
pub(super) fn fresh(
    key: &SigningKey,
    after: (u64, u64),
    targets: MetaFile,
    now: Instant,
) -> Result<Fresh, ReleaseError> {
    let expires = now + LIFETIME;
    let snapshot_version = after.0 + 1;
    let snapshot = Snapshot::new(snapshot_version, now, expires, targets);
    let snapshot = author::sign(&snapshot, &[key])?.to_bytes();
    let entry = MetaFile::of(snapshot_version, &snapshot);
    let timestamp = Timestamp::new(after.1 + 1, now, expires, entry);
    Ok(Fresh {
        snapshot_version,
        snapshot,
        timestamp: author::sign(&timestamp, &[key])?.to_bytes(),
    })
}
