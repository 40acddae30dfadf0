//! Public keys and who may sign for a role. A key counts once however many ids it has: what is
//! counted is its material.
//!
//! Ed25519 is verified strictly (no small-order point, no second encoding of a signature). ECDSA
//! and RSA exist only with the feature `interop`; without it such a key verifies nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::{Extra, hex, unhex};
use crate::json;

/// Identifies a key in metadata: ours are the SHA-256 of its canonical form, foreign ones are
/// opaque words. (4.3 has clients compute every id. An id has no power here, since keys are counted
/// by material, and repositories exist whose ids are of an older canonical form.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // From outside: shown escaped.
        write!(f, "{}", self.0.escape_debug())
    }
}

/// A public key (section 4.2.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `ed25519`; others need `interop`.
    pub keytype: String,
    /// `ed25519`.
    pub scheme: String,
    /// The key itself.
    pub keyval: KeyValue,
    /// Unknown members: part of the key id.
    #[serde(flatten)]
    pub extra: Extra,
}

/// `keyval` of a [`Key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyValue {
    /// Ed25519: 64 hexadecimal digits. Others: PEM.
    pub public: String,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Key {
    /// An Ed25519 key.
    #[must_use]
    pub fn ed25519(key: &VerifyingKey) -> Self {
        Self {
            keytype: "ed25519".to_owned(),
            scheme: "ed25519".to_owned(),
            keyval: KeyValue {
                public: hex(key.as_bytes()),
                extra: Extra::new(),
            },
            extra: Extra::new(),
        }
    }

    /// The id that the specification gives it: SHA-256 of the canonical form, in hexadecimal.
    #[must_use]
    pub fn id(&self) -> KeyId {
        // A key read by `json` or made here holds no fraction, so it has a canonical form.
        let canonical = serde_json::to_value(self)
            .ok()
            .and_then(|value| json::canonical(&value).ok())
            .unwrap_or_default();
        KeyId(hex(&Sha256::digest(canonical)))
    }

    /// What makes it the same key under another id or in another writing.
    #[must_use]
    pub fn material(&self) -> Material {
        Material(match self.parse() {
            Some(Public::Ed25519(key)) => key.to_bytes().to_vec(),
            #[cfg(feature = "interop")]
            Some(Public::Foreign(key)) => key.material().to_vec(),
            None => format!("{} {}", self.scheme, self.keyval.public).into_bytes(),
        })
    }

    /// Whether `signature` (hexadecimal) over `message` is this key's. A key of a kind that this
    /// build does not verify says no.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let Some(signature) = unhex(signature) else {
            return false;
        };
        match self.parse() {
            Some(Public::Ed25519(key)) => verify_ed25519(&key, message, &signature),
            #[cfg(feature = "interop")]
            Some(Public::Foreign(key)) => key.verifies(message, &signature),
            None => false,
        }
    }

    fn parse(&self) -> Option<Public> {
        match (self.keytype.as_str(), self.scheme.as_str()) {
            ("ed25519", "ed25519") => {
                let bytes: [u8; 32] = unhex(&self.keyval.public)?.try_into().ok()?;
                VerifyingKey::from_bytes(&bytes).ok().map(Public::Ed25519)
            }
            #[cfg(feature = "interop")]
            (keytype, scheme) => {
                super::key_interop::Foreign::parse(keytype, scheme, &self.keyval.public)
                    .map(Public::Foreign)
            }
            #[cfg(not(feature = "interop"))]
            _ => None,
        }
    }
}

/// The one verifier of this product's releases: Ed25519 as RFC 8032 has it, with `verify_strict`.
#[must_use]
pub fn verify_ed25519(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature)
        .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok())
}

enum Public {
    Ed25519(VerifyingKey),
    #[cfg(feature = "interop")]
    Foreign(super::key_interop::Foreign),
}

/// The public key itself, without names and formats around it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Material(Vec<u8>);

/// Who signs for a role, and how many of them it takes (ROLE of section 4.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleKeys {
    /// Ids of keys in the same file.
    pub keyids: Vec<KeyId>,
    /// How many different keys must sign; at least 1 ([`super::Role::check`] refuses 0, and a
    /// negative one is read as 0).
    #[serde(deserialize_with = "threshold")]
    pub threshold: u32,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

fn threshold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = i64::deserialize(deserializer)?.max(0);
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

impl RoleKeys {
    /// `threshold` of `keys`.
    #[must_use]
    pub fn new(keys: &[Key], threshold: u32) -> Self {
        Self {
            keyids: keys.iter().map(Key::id).collect(),
            threshold,
            extra: Extra::new(),
        }
    }
}

/// The signers of one role, looked up: different keys by material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers<'a> {
    /// Those of the role's key ids that exist.
    pub keys: BTreeMap<&'a KeyId, &'a Key>,
    /// How many different ones must sign.
    pub threshold: u32,
}

impl<'a> Signers<'a> {
    /// The keys of `ids` among `keys`. An id without a key is nobody.
    #[must_use]
    pub fn new(ids: &'a [KeyId], threshold: u32, keys: &'a BTreeMap<KeyId, Key>) -> Self {
        Self {
            keys: ids
                .iter()
                .filter_map(|id| Some((id, keys.get(id)?)))
                .collect(),
            threshold,
        }
    }

    /// A digest of who may sign and how many must: it changes when the role's keys are rotated.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let materials: BTreeSet<Material> = self.keys.values().map(|key| key.material()).collect();
        let mut hasher = Sha256::new();
        hasher.update(self.threshold.to_be_bytes());
        for Material(bytes) in materials {
            hasher.update((bytes.len() as u64).to_be_bytes());
            hasher.update(&bytes);
        }
        hex(&hasher.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_key_id_is_that_of_the_specification() {
        // python-tuf 7 gives this id to this key.
        let key: Key = serde_json::from_str(
            r#"{"keytype":"ed25519","scheme":"ed25519","keyval":{"public":
               "72378e5bc588793e58f81c8533da64a2e8f1565c1fcc7f253496394ffc52542c"}}"#,
        )
        .unwrap();
        assert_eq!(
            key.id().0,
            "1bf1c6e3cdd3d3a8420b19199e27511999850f4b376c4547b2f32fba7e80fca3"
        );
    }

    #[test]
    fn the_same_key_in_capitals_is_the_same_material() {
        let mut key: Key = serde_json::from_str(
            r#"{"keytype":"ed25519","scheme":"ed25519","x":1,"keyval":{"public":
               "72378e5bc588793e58f81c8533da64a2e8f1565c1fcc7f253496394ffc52542c"}}"#,
        )
        .unwrap();
        let (id, material) = (key.id(), key.material());
        key.keyval.public = key.keyval.public.to_uppercase();
        key.extra.clear();
        assert_ne!(key.id(), id);
        assert_eq!(key.material(), material);
    }
}
