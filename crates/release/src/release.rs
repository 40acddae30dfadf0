//! What is signed about a release, beside its package's length and hash: the `custom` of its TUF
//! target, under the key `vpn_node`.
//!
//! Every field is checked here once; what has this type is within its limits. Unknown fields are
//! refused: a host must not install by rules that it does not know.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::version::{Platform, Version, Word};

/// The key in a target's `custom`.
pub const CUSTOM_KEY: &str = "vpn_node";
/// The only product of these releases.
pub const PRODUCT: &str = "vpn-node";
/// What the agent of these sources reads and writes in `/var/lib/vpn-node`. Whoever changes the
/// format of anything there raises `writes`, and keeps `reads_min` as long as it migrates.
pub const OUR_STATE: StateFormat = StateFormat::only(1);
/// Longest description, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 2000;
/// Largest counter: what every JSON reader, also one that has only doubles, reads exactly.
pub const MAX_COUNTER: u64 = (1 << 53) - 1;

/// What its publisher says about a release, signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseInfo {
    /// [`PRODUCT`], or that of a release which is not for us.
    pub product: String,
    /// Its version.
    pub version: Version,
    /// For whom: `stable`, `beta`.
    pub channel: Word,
    /// Operating system ([`Platform::os`]).
    pub os: Word,
    /// Processor architecture ([`Platform::arch`]).
    pub arch: Word,
    /// Grows with each release of a product, channel and platform, also with one that has older
    /// content. From 1.
    pub counter: u64,
    /// Once this release is accepted, no version below this one is.
    pub security_floor: Version,
    /// The lowest version that may run before it, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version_required: Option<Version>,
    /// It does not wait for a maintenance window. It overrides nothing that root of a host said.
    pub mandatory: bool,
    /// What is new, in one line for people.
    pub description: String,
    /// When it was made (RFC 3339, UTC, whole seconds).
    #[serde(with = "whole_seconds")]
    pub released: Timestamp,
    /// Which state on disk it reads and writes.
    pub state_format: StateFormat,
}

/// Which formats of the state on disk a version knows (`/var/lib/vpn-node/state-format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFormat {
    /// The lowest that it reads.
    pub reads_min: u32,
    /// The highest that it reads.
    pub reads_max: u32,
    /// The one that it writes.
    pub writes: u32,
}

impl StateFormat {
    /// Of a version that knows one format.
    #[must_use]
    pub const fn only(format: u32) -> Self {
        Self {
            reads_min: format,
            reads_max: format,
            writes: format,
        }
    }

    /// Whether it reads `format`.
    #[must_use]
    pub const fn reads(self, format: u32) -> bool {
        self.reads_min <= format && format <= self.reads_max
    }

    /// A version reads what it writes.
    #[must_use]
    pub const fn is_consistent(self) -> bool {
        self.reads_min >= 1 && self.reads(self.writes)
    }
}

/// Why what is signed about a release cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "what is signed about the release {0}; it was made by other or faulty tools: tell its publisher"
)]
pub struct InfoError(String);

impl ReleaseInfo {
    /// Reads the `custom` of a target.
    ///
    /// # Errors
    /// It has no [`CUSTOM_KEY`], a field is missing, unknown or outside its limits, or fields
    /// contradict each other.
    pub fn from_custom(custom: Option<&Map<String, Value>>) -> Result<Self, InfoError> {
        let value = custom
            .and_then(|custom| custom.get(CUSTOM_KEY))
            .ok_or_else(|| InfoError(format!("has no {CUSTOM_KEY:?}: it is no release of ours")))?;
        let info = Self::deserialize(value)
            .map_err(|error| InfoError(format!("is malformed: {error}")))?;
        info.check()?;
        Ok(info)
    }

    /// The `custom` of a target that says this.
    ///
    /// # Errors
    /// As [`Self::from_custom`]: what it would refuse is not written either.
    pub fn to_custom(&self) -> Result<Map<String, Value>, InfoError> {
        self.check()?;
        let value = serde_json::to_value(self).map_err(|error| InfoError(error.to_string()))?;
        Ok([(CUSTOM_KEY.to_owned(), value)].into_iter().collect())
    }

    /// Where its target file lies: `vpn-node/1.5.0/linux-amd64.tar.zst`.
    #[must_use]
    pub fn target_path(&self) -> String {
        target_path(&self.version, &self.platform())
    }

    /// What it runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            arch: self.arch.clone(),
        }
    }

    fn check(&self) -> Result<(), InfoError> {
        let wrong = |what: String| Err(InfoError(what));
        if self.product.len() > 64 || !self.product.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("has no usable product name".into());
        }
        if !(1..=MAX_COUNTER).contains(&self.counter) {
            return wrong(format!(
                "has the counter {}, not one from 1 to 2^53-1",
                self.counter
            ));
        }
        if self.security_floor > self.version {
            return wrong(format!(
                "has version {} below its own security floor {}",
                self.version, self.security_floor
            ));
        }
        if self.description.len() > MAX_DESCRIPTION_BYTES
            || self.description.contains(char::is_control)
        {
            return wrong(format!(
                "has a description of more than {MAX_DESCRIPTION_BYTES} bytes or more than one line"
            ));
        }
        if !self.state_format.is_consistent() {
            return wrong("has state formats of which it could not read what it writes".into());
        }
        Ok(())
    }
}

/// Where the target file of a version for a platform lies in the repository.
#[must_use]
pub fn target_path(version: &Version, platform: &Platform) -> String {
    format!("{PRODUCT}/{version}/{platform}.tar.zst")
}

/// RFC 3339 in the one spelling `2026-01-31T00:00:00Z`, so that two readers cannot differ.
mod whole_seconds {
    use jiff::Timestamp;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(
        time: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write(*time))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<Timestamp>()
            .ok()
            .filter(|time| write(*time) == text)
            .ok_or_else(|| D::Error::custom("a time is not written like 2026-01-31T00:00:00Z"))
    }

    fn write(time: Timestamp) -> String {
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A good release.
    pub(crate) fn info() -> ReleaseInfo {
        let Platform { os, arch } = Platform::parse("linux-amd64").unwrap();
        ReleaseInfo {
            product: PRODUCT.into(),
            version: Version::new(1, 5, 0),
            channel: Word::parse("stable").unwrap(),
            os,
            arch,
            counter: 7,
            security_floor: Version::new(1, 2, 0),
            min_version_required: None,
            mandatory: false,
            description: "Faster".into(),
            released: "2026-01-31T00:00:00Z".parse().unwrap(),
            state_format: StateFormat::only(1),
        }
    }

    fn custom() -> Map<String, Value> {
        info().to_custom().unwrap()
    }

    #[test]
    fn it_is_written_and_read_back() {
        let mut full = info();
        full.min_version_required = Some(Version::new(1, 4, 0));
        for info in [info(), full] {
            let custom = info.to_custom().unwrap();
            assert_eq!(ReleaseInfo::from_custom(Some(&custom)).unwrap(), info);
        }
        assert_eq!(custom()["vpn_node"]["released"], "2026-01-31T00:00:00Z");
        assert_eq!(info().target_path(), "vpn-node/1.5.0/linux-amd64.tar.zst");
    }

    #[test]
    fn a_release_without_its_signed_fields_is_refused() {
        assert!(ReleaseInfo::from_custom(None).is_err());
        assert!(ReleaseInfo::from_custom(json!({"other": 1}).as_object()).is_err());
        let fields: Vec<String> = custom()["vpn_node"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(fields.len(), 11);
        for field in fields {
            let mut changed = custom();
            changed["vpn_node"].as_object_mut().unwrap().remove(&field);
            let error = ReleaseInfo::from_custom(Some(&changed))
                .unwrap_err()
                .to_string();
            assert!(error.contains(&field), "{error}");
        }
    }

    #[test]
    fn signed_fields_outside_their_limits_are_refused() {
        let bad = [
            ("unknown", json!(1)),
            ("product", json!("vpn node\u{1b}")),
            ("version", json!("1.5")),
            ("version", json!("1.1.9")), // below its own floor
            ("channel", json!("Stable")),
            ("os", json!("../linux")),
            ("arch", json!("")),
            ("counter", json!(0)),
            ("counter", json!(-1)),
            ("counter", json!(1.5)),
            ("counter", json!(MAX_COUNTER + 1)),
            ("counter", json!("7")),
            ("mandatory", json!("no")),
            ("description", json!("two\nlines")),
            ("description", json!("x".repeat(MAX_DESCRIPTION_BYTES + 1))),
            ("released", json!("2026-01-31T00:00:00+00:00")),
            ("released", json!("2026-01-31T00:00:00.5Z")),
            ("released", json!("yesterday")),
            (
                "state_format",
                json!({"reads_min": 1, "reads_max": 1, "writes": 2}),
            ),
            (
                "state_format",
                json!({"reads_min": 0, "reads_max": 1, "writes": 1}),
            ),
            (
                "state_format",
                json!({"reads_min": 2, "reads_max": 1, "writes": 1}),
            ),
            (
                "state_format",
                json!({"reads_min": 1, "reads_max": 1, "writes": 1, "x": 1}),
            ),
        ];
        for (field, value) in bad {
            let mut changed = custom();
            changed["vpn_node"][field] = value.clone();
            assert!(
                ReleaseInfo::from_custom(Some(&changed)).is_err(),
                "{field} {value}"
            );
        }
    }
}
