//! What a host never goes back behind: the highest versions of all metadata that it verified, and
//! the highest release. It is the memory; the metadata files beside it are only a cache. So a torn
//! or deleted `timestamp.json` costs one download and is never "no history".
//!
//! The one thing that lowers it is a root, signed by the old and the new root keys, that rotates
//! the keys of timestamp or snapshot (5.3.11). The release marks are not even lowered by that.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::metadata::{
    DateTime, Extra, Header, Role, Root, Snapshot, Timestamp, TopRole, VerifiedRole, hex,
};

/// First line of the file, before the digest of the rest.
const MAGIC: &str = "vpn-node high water 1 ";

/// The highest that was ever verified on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HighWater {
    /// Grows with every change; of two copies the higher one is the later one.
    pub sequence: u64,
    /// The trusted root.
    pub root: Mark,
    /// The newest timestamp.
    pub timestamp: Option<TimestampMark>,
    /// The newest snapshot.
    pub snapshot: Option<SnapshotMark>,
    /// Targets metadata by role name, `targets` among them.
    pub targets: BTreeMap<String, Mark>,
    /// The highest release of each line (product, channel and platform: the caller's word).
    pub releases: BTreeMap<String, ReleaseMark>,
    /// What a later version of this program wrote: kept.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One verified metadata file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its canonical signed part: the same version may not come again with another.
    pub digest: String,
    /// When it says that it was signed.
    pub issued: Option<DateTime>,
}

/// The newest timestamp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimestampMark {
    /// Itself.
    #[serde(flatten)]
    pub mark: Mark,
    /// Version of the snapshot that it names.
    pub snapshot: u64,
    /// Fingerprint of the role's keys: another one means that they were rotated.
    pub keys: String,
}

/// The newest snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMark {
    /// Itself.
    #[serde(flatten)]
    pub mark: Mark,
    /// Version of every file that it lists.
    pub listed: BTreeMap<String, u64>,
    /// Fingerprint of the role's keys: another one means that they were rotated.
    pub keys: String,
}

/// The highest release of one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseMark {
    /// Its counter.
    pub counter: u64,
    /// SHA-256 of its package, in hexadecimal.
    pub sha256: String,
    /// No release below this version may ever be installed again.
    pub security_floor: Option<Version>,
}

impl HighWater {
    /// Of a host that was just told its first root.
    #[must_use]
    pub fn new(root: &VerifiedRole<Root>) -> Self {
        Self {
            sequence: 1,
            root: Mark::of(root),
            timestamp: None,
            snapshot: None,
            targets: BTreeMap::new(),
            releases: BTreeMap::new(),
            extra: Extra::new(),
        }
    }

    /// Whether nothing but the first root was ever verified.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.timestamp.is_none()
            && self.snapshot.is_none()
            && self.targets.is_empty()
            && self.releases.is_empty()
    }

    /// The latest time that verified metadata says it was signed at: the present is not before it.
    #[must_use]
    pub fn latest_issue(&self) -> Option<jiff::Timestamp> {
        let timestamp = self.timestamp.as_ref().map(|mark| &mark.mark);
        let snapshot = self.snapshot.as_ref().map(|mark| &mark.mark);
        std::iter::once(&self.root)
            .chain(timestamp)
            .chain(snapshot)
            .chain(self.targets.values())
            .filter_map(|mark| mark.issued)
            .map(DateTime::instant)
            .max()
    }

    /// 5.3.11: after a rotation of the timestamp's or the snapshot's keys, nothing that they signed
    /// counts any more, so that a repository recovers from a thief who made the versions jump.
    /// What it compares is on disk, so a power cut after the root was saved changes nothing.
    pub fn forget_rotated(&mut self, root: &Root) {
        let rotated = |role: TopRole, keys: Option<&String>| {
            keys.is_some_and(|keys| *keys != root.signers(role).fingerprint())
        };
        let timestamp = self.timestamp.as_ref().map(|mark| &mark.keys);
        let snapshot = self.snapshot.as_ref().map(|mark| &mark.keys);
        if rotated(TopRole::Timestamp, timestamp) || rotated(TopRole::Snapshot, snapshot) {
            self.timestamp = None;
            self.snapshot = None;
            // The versions of targets metadata come from the snapshot that is forgotten.
            self.targets.clear();
        }
    }

    /// Remembers a release of `line`. Nothing of it ever becomes lower.
    pub fn raise_release(&mut self, line: &str, release: &ReleaseMark) {
        match self.releases.get_mut(line) {
            None => {
                self.releases.insert(line.to_owned(), release.clone());
            }
            Some(mark) => {
                if release.counter > mark.counter {
                    mark.counter = release.counter;
                    mark.sha256.clone_from(&release.sha256);
                }
                if release.security_floor > mark.security_floor {
                    mark.security_floor.clone_from(&release.security_floor);
                }
            }
        }
    }

    /// The file's content: a line with a digest, then JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // String keys and whole numbers: this does not fail.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut bytes = format!("{MAGIC}{}\n", hex(&Sha256::digest(&json))).into_bytes();
        bytes.extend_from_slice(&json);
        bytes.push(b'\n');
        bytes
    }

    /// Reads [`Self::to_bytes`]; `None` for anything that is not whole to the byte.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC.as_bytes())?;
        let (digest, json) = rest.split_at_checked(64)?;
        let json = json.strip_prefix(b"\n")?.strip_suffix(b"\n")?;
        if digest != hex(&Sha256::digest(json)).as_bytes() {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

impl Mark {
    /// Of a verified role.
    #[must_use]
    pub fn of<T: Role>(verified: &VerifiedRole<T>) -> Self {
        let Header {
            version, issued, ..
        } = *verified.role.header();
        Self {
            version,
            digest: verified.digest.clone(),
            issued,
        }
    }
}

impl TimestampMark {
    /// Of a verified timestamp under this root.
    #[must_use]
    pub fn of(verified: &VerifiedRole<Timestamp>, root: &Root) -> Self {
        Self {
            mark: Mark::of(verified),
            snapshot: verified.role.snapshot().map_or(0, |meta| meta.version),
            keys: root.signers(TopRole::Timestamp).fingerprint(),
        }
    }
}

impl SnapshotMark {
    /// Of a verified snapshot under this root.
    #[must_use]
    pub fn of(verified: &VerifiedRole<Snapshot>, root: &Root) -> Self {
        let listed = verified.role.meta.iter();
        Self {
            mark: Mark::of(verified),
            listed: listed
                .map(|(name, meta)| (name.clone(), meta.version))
                .collect(),
            keys: root.signers(TopRole::Snapshot).fingerprint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn high_water() -> HighWater {
        let mark = Mark {
            version: 3,
            digest: "ab".repeat(32),
            issued: None,
        };
        HighWater {
            sequence: 9,
            root: mark.clone(),
            timestamp: Some(TimestampMark {
                mark: mark.clone(),
                snapshot: 5,
                keys: "k".to_owned(),
            }),
            snapshot: Some(SnapshotMark {
                mark: mark.clone(),
                listed: BTreeMap::from([("targets.json".to_owned(), 7)]),
                keys: "k".to_owned(),
            }),
            targets: BTreeMap::from([("targets".to_owned(), mark)]),
            releases: BTreeMap::new(),
            extra: Extra::from_iter([("future".to_owned(), 1.into())]),
        }
    }

    #[test]
    fn a_release_mark_only_rises() {
        let mark = |counter, floor: Option<&str>| ReleaseMark {
            counter,
            sha256: counter.to_string(),
            security_floor: floor.map(|version| version.parse().unwrap()),
        };
        let mut high = high_water();
        high.raise_release("line", &mark(5, Some("1.2.0")));
        high.raise_release("line", &mark(4, Some("1.3.0")));
        assert_eq!(high.releases["line"].sha256, "5");
        high.raise_release("line", &mark(6, None));
        assert_eq!(
            high.releases["line"],
            mark(6, Some("1.3.0")),
            "a release without a floor does not take the old one away"
        );
    }

    proptest! {
        #[test]
        fn a_high_water_file_is_whole_or_nothing(at in 0usize..2000, bit in 0u8..8) {
            let high = high_water();
            let bytes = high.to_bytes();
            prop_assert_eq!(HighWater::from_bytes(&bytes), Some(high));
            let at = at % bytes.len();
            prop_assert_eq!(HighWater::from_bytes(&bytes[..at]), None);
            let mut flipped = bytes;
            flipped[at] ^= 1 << bit;
            prop_assert_eq!(HighWater::from_bytes(&flipped), None);
        }
    }
}
