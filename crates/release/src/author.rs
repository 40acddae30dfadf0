//! Making metadata: what the controller's `release` commands and the tests build on.
//!
//! Roles are plain values ([`Root::set_role`], [`Targets`], [`Snapshot::new`], [`Timestamp::new`]);
//! here they get signatures, and a repository its next snapshot and timestamp. Nothing here keeps a
//! secret or touches a disk.
//!
//! [`Root::set_role`]: crate::metadata::Root::set_role
//! [`Targets`]: crate::metadata::Targets

use ed25519_dalek::SigningKey;
use jiff::Timestamp as Instant;

use crate::metadata::{Envelope, Key, MetaFile, Rejection, Role, Snapshot, Timestamp};

/// The public half of a key, as metadata has it. `.id()` is its key id.
#[must_use]
pub fn public_key(key: &SigningKey) -> Key {
    Key::ed25519(&key.verifying_key())
}

/// A role in an envelope with the signatures of `keys`.
///
/// # Errors
/// As [`Envelope::new`].
pub fn sign<T: Role>(role: &T, keys: &[&SigningKey]) -> Result<Envelope, Rejection> {
    let mut envelope = Envelope::new(role)?;
    for key in keys {
        envelope.sign(key)?;
    }
    Ok(envelope)
}

/// Adds a signature to a file that others have signed already; the signed part stays as it is.
/// `what` names the file in a refusal.
///
/// # Errors
/// As [`Envelope::parse`] and [`Envelope::sign`].
pub fn add_signature(bytes: &[u8], key: &SigningKey, what: &str) -> Result<Vec<u8>, Rejection> {
    let mut envelope = Envelope::parse(bytes, what)?;
    envelope.sign(key)?;
    Ok(envelope.to_bytes())
}

/// The snapshot after `old` in which the metadata of `role` is the file with these bytes.
#[must_use]
pub fn next_snapshot(
    old: &Snapshot,
    issued: Instant,
    expires: Instant,
    role: &str,
    entry: MetaFile,
) -> Snapshot {
    let mut next = renew_snapshot(old, issued, expires);
    next.meta.insert(format!("{role}.json"), entry);
    next
}

/// The snapshot after `old` with the same content and a later expiry.
#[must_use]
pub fn renew_snapshot(old: &Snapshot, issued: Instant, expires: Instant) -> Snapshot {
    let mut next = old.clone();
    next.header = crate::metadata::Header::new::<Snapshot>(old.header.version + 1, issued, expires);
    next
}

/// The timestamp after `old` that names this snapshot.
#[must_use]
pub fn next_timestamp(
    old: &Timestamp,
    issued: Instant,
    expires: Instant,
    snapshot: MetaFile,
) -> Timestamp {
    Timestamp::new(old.header.version + 1, issued, expires, snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::MetadataCode;
    use crate::metadata::{Root, TargetFile, Targets, TopRole};

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn root(version: u64, keys: &[&SigningKey], threshold: u32) -> Root {
        let mut root = Root::new(version, Instant::UNIX_EPOCH, Instant::MAX);
        let keys: Vec<Key> = keys.iter().map(|key| public_key(key)).collect();
        for role in TopRole::ALL {
            root.set_role(role, &keys, threshold);
        }
        root
    }

    #[test]
    fn what_is_signed_verifies_and_unknown_members_survive() {
        let (one, two) = (key(1), key(2));
        let root = root(1, &[&one, &two], 2);
        let mut targets = Targets::new(3, Instant::UNIX_EPOCH, Instant::MAX);
        targets.extra.insert("x-future".to_owned(), 7.into());
        targets.targets.insert(
            "a\"b/ü\n".to_owned(),
            serde_json::from_str::<TargetFile>(
                r#"{"length":1,"hashes":{"sha256":"00"},"custom":{"n":-1},"y":{}}"#,
            )
            .unwrap(),
        );
        let half = sign(&targets, &[&one]).unwrap().to_bytes();
        let envelope = Envelope::parse(&half, "targets").unwrap();
        let signers = root.signers(TopRole::Targets);
        assert_eq!(
            envelope
                .verify::<Targets>(&signers, "targets")
                .unwrap_err()
                .code,
            MetadataCode::BelowThreshold
        );
        let standing = envelope.standing(&signers).unwrap();
        assert_eq!((standing.counted, standing.needed), (1, 2));
        assert_eq!(standing.signed_by, [public_key(&one).id()]);

        let whole = add_signature(&half, &two, "targets").unwrap();
        let again = add_signature(&whole, &two, "targets").unwrap();
        let verified = Envelope::parse(&again, "targets")
            .unwrap()
            .verify::<Targets>(&signers, "targets")
            .unwrap();
        assert_eq!(verified.role, targets);
    }

    #[test]
    fn keys_that_no_role_uses_leave_the_root() {
        let (one, two) = (key(1), key(2));
        let mut root = root(1, &[&one, &two], 1);
        for role in TopRole::ALL {
            root.set_role(role, &[public_key(&two)], 1);
        }
        assert_eq!(
            root.keys.keys().collect::<Vec<_>>(),
            [&public_key(&two).id()]
        );
    }

    #[test]
    fn a_role_that_cannot_be_signed_is_not_made() {
        let mut root = root(1, &[&key(1)], 1);
        root.set_role(TopRole::Targets, &[public_key(&key(1))], 0);
        assert_eq!(
            sign(&root, &[]).unwrap_err().code,
            MetadataCode::BadThreshold
        );
        let mut targets = Targets::new(1, Instant::UNIX_EPOCH, Instant::MAX);
        targets.extra.insert("half".to_owned(), 0.5.into());
        assert_eq!(
            sign(&targets, &[]).unwrap_err().code,
            MetadataCode::Malformed
        );
    }
}
