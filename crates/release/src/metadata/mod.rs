//! TUF metadata (specification 1.0.34, section 4): what each role says, as types.
//!
//! [`Envelope`] is what a file holds: signatures and one signed part. [`Envelope::verify`] is the
//! only way from a stranger's bytes to a typed role; it parses the role from exactly the bytes that
//! the signatures are over. Fields that we do not know are kept and written again.
//!
//! Reading order: this page, [`key`], [`signed`], [`root`], [`timestamp`], [`snapshot`],
//! [`targets`], [`name`] (how names from outside become file names), [`rejection`].

pub mod key;
#[cfg(feature = "interop")]
mod key_interop;
pub mod name;
pub mod rejection;
pub mod root;
pub mod signed;
pub mod snapshot;
pub mod targets;
pub mod timestamp;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256, Sha512};

pub use key::{Key, KeyId, RoleKeys, Signers};
pub use rejection::Rejection;
pub use root::{Root, TopRole};
pub use signed::{Envelope, Signature, Standing, VerifiedRole};
pub use snapshot::Snapshot;
pub use targets::{DelegatedRole, Delegations, TargetFile, Targets};
pub use timestamp::Timestamp;

use crate::code::MetadataCode;
use crate::limits::MAX_VERSION;

/// The version of the specification that our metadata declares.
pub const SPEC_VERSION: &str = "1.0.34";

/// Members of an object that this program does not know: kept, because signatures cover them.
pub type Extra = Map<String, Value>;

/// What one of the four kinds of metadata has in common with the others.
pub trait Role: Serialize + DeserializeOwned {
    /// The value of `_type`.
    const TYPE: &'static str;

    /// The fields that every role has.
    fn header(&self) -> &Header;

    /// What the type system does not check (uniqueness, counts).
    ///
    /// # Errors
    /// [`Flaw`]: a code and half a sentence.
    fn check(&self) -> Result<(), Flaw>;
}

/// What contradicts itself in a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Usually [`MetadataCode::Malformed`].
    pub code: MetadataCode,
    /// What is wrong, without the name of the file.
    pub text: String,
}

impl From<String> for Flaw {
    fn from(text: String) -> Self {
        Self {
            code: MetadataCode::Malformed,
            text,
        }
    }
}

/// The fields that every role has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `root`, `timestamp`, `snapshot` or `targets`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// Version of the TUF specification that the file was written for.
    pub spec_version: String,
    /// Version of this metadata, from 1.
    #[serde(deserialize_with = "version")]
    pub version: u64,
    /// From then on it must not be believed.
    pub expires: DateTime,
    /// When it was signed: ours, not TUF's. It is a lower bound of the present for a host whose
    /// clock is wrong. Foreign repositories do not have it.
    #[serde(
        rename = "x-vpn-node-issued",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub issued: Option<DateTime>,
}

impl Header {
    /// The header of new metadata of ours.
    #[must_use]
    pub fn new<T: Role>(version: u64, issued: jiff::Timestamp, expires: jiff::Timestamp) -> Self {
        Self {
            kind: T::TYPE.to_owned(),
            spec_version: SPEC_VERSION.to_owned(),
            version,
            expires: DateTime::new(expires),
            issued: Some(DateTime::new(issued)),
        }
    }
}

/// A number of a metadata file: 1 to [`MAX_VERSION`].
pub(crate) fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let version = u64::deserialize(deserializer)?;
    if (1..=MAX_VERSION).contains(&version) {
        Ok(version)
    } else {
        Err(D::Error::custom(format_args!(
            "version {version} is not between 1 and {MAX_VERSION}"
        )))
    }
}

/// An instant as TUF writes it: `YYYY-MM-DDTHH:MM:SSZ`, nothing else (section 4.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime(jiff::Timestamp);

impl DateTime {
    /// Whole seconds of it.
    #[must_use]
    pub fn new(at: jiff::Timestamp) -> Self {
        Self(jiff::Timestamp::from_second(at.as_second()).unwrap_or(at))
    }

    /// The instant.
    #[must_use]
    pub const fn instant(self) -> jiff::Timestamp {
        self.0
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for DateTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DateTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pattern = b"dddd-dd-ddTdd:dd:ddZ";
        let fits = text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern)
                .all(|(byte, wanted)| match wanted {
                    b'd' => byte.is_ascii_digit(),
                    _ => byte == *wanted,
                });
        text.parse()
            .ok()
            .filter(|_| fits)
            .map(Self)
            .ok_or_else(|| D::Error::custom("a time must be written as 2026-12-31T23:59:59Z"))
    }
}

/// What one metadata file says about another (METAFILES of sections 4.4 and 4.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaFile {
    /// Its version.
    #[serde(deserialize_with = "version")]
    pub version: u64,
    /// Its length in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Hashes of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashes: Option<Hashes>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

impl MetaFile {
    /// The entry for a file with these bytes: version, length and SHA-256.
    #[must_use]
    pub fn of(version: u64, bytes: &[u8]) -> Self {
        Self {
            version,
            length: Some(bytes.len() as u64),
            hashes: Some(Hashes::sha256_of(bytes)),
            extra: Extra::new(),
        }
    }
}

/// Hashes of one file by algorithm, in hexadecimal. SHA-256 and SHA-512 are known; every known one
/// must match, and at least one must be known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hashes(BTreeMap<String, String>);

impl Hashes {
    /// The SHA-256 of `bytes`.
    #[must_use]
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::from_sha256(&hex(&Sha256::digest(bytes)))
    }

    /// From a SHA-256 in hexadecimal.
    #[must_use]
    pub fn from_sha256(digest: &str) -> Self {
        Self(BTreeMap::from([("sha256".to_owned(), digest.to_owned())]))
    }

    /// The SHA-256 in lower-case hexadecimal, if it is given and is one.
    #[must_use]
    pub fn sha256(&self) -> Option<String> {
        self.get("sha256", 32)
    }

    /// The SHA-512 in lower-case hexadecimal, if it is given and is one.
    #[must_use]
    pub fn sha512(&self) -> Option<String> {
        self.get("sha512", 64)
    }

    /// Whether every known hash is that of `bytes`, and one is known.
    #[must_use]
    pub fn match_bytes(&self, bytes: &[u8]) -> bool {
        self.match_digests(&Sha256::digest(bytes), &Sha512::digest(bytes))
    }

    /// Whether every known hash equals these digests, and one is known.
    #[must_use]
    pub fn match_digests(&self, sha256: &[u8], sha512: &[u8]) -> bool {
        let known = |name: &str, digest: &[u8]| {
            self.0
                .get(name)
                .map(|hash| hash.eq_ignore_ascii_case(&hex(digest)))
        };
        match (known("sha256", sha256), known("sha512", sha512)) {
            (None, None) => false,
            (one, other) => one.unwrap_or(true) && other.unwrap_or(true),
        }
    }

    fn get(&self, algorithm: &str, bytes: usize) -> Option<String> {
        let digest = unhex(self.0.get(algorithm)?)?;
        (digest.len() == bytes).then(|| hex(&digest))
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digits = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| {
            [
                digits[usize::from(byte >> 4)],
                digits[usize::from(byte & 15)],
            ]
        })
        .map(char::from)
        .collect()
}

/// The bytes of hexadecimal text; `None` if it is not such.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs
        .map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_writing_of_a_time_is_read() {
        let read = |text: &str| serde_json::from_value::<DateTime>(Value::from(text));
        let time = read("1985-10-21T01:21:00Z").unwrap();
        assert_eq!(time.to_string(), "1985-10-21T01:21:00Z");
        for wrong in [
            "1985-10-21T01:21:00+00:00",
            "1985-10-21T01:21:00.5Z",
            "1985-10-21 01:21:00Z",
            "1985-10-21T01:21:00z",
            "1985-13-21T01:21:00Z",
            "+1985-10-21T01:21:00",
            "",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_hash_that_is_not_known_proves_nothing() {
        let hashes = |text: &str| serde_json::from_str::<Hashes>(text).unwrap();
        assert!(!hashes("{}").match_bytes(b"x"));
        assert!(!hashes(r#"{"md5":"9dd4e461268c8034f5c8564e155c67a6"}"#).match_bytes(b"x"));
        assert!(Hashes::sha256_of(b"x").match_bytes(b"x"));
        assert!(!Hashes::sha256_of(b"x").match_bytes(b"y"));
        let both = format!(
            r#"{{"sha256":"{}","sha512":"{}"}}"#,
            hex(&Sha256::digest(b"x")),
            hex(&Sha512::digest(b"y"))
        );
        assert!(!hashes(&both).match_bytes(b"x"), "one of two is wrong");
    }

    #[test]
    fn hexadecimal_both_ways() {
        assert_eq!(hex(&[0, 0xaf, 0xff]), "00afff");
        assert_eq!(unhex("00AFff"), Some(vec![0, 0xaf, 0xff]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
        assert_eq!(unhex("+1"), None);
        assert_eq!(unhex("é"), None);
    }
}
