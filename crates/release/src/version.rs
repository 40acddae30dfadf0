//! Versions, and the short words that name a platform or a channel.
//!
//! Both come from outside and end up in paths, so only characters that mean nothing anywhere can
//! stand in them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest version, in bytes: a name of a directory, a column of a table, a word in a sentence.
pub const MAX_VERSION_BYTES: usize = 64;
/// Longest [`Word`], in bytes.
pub const MAX_WORD_BYTES: usize = 32;

/// A version by semver.org 2.0.0, without build metadata: two versions that differ in that alone
/// have the same precedence, and then nobody could say which is newer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version(semver::Version);

/// Why a text is no version of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a version: {why}; write it like 1.5.0 or 1.5.0-rc.1 (semver.org)")]
pub struct VersionError {
    text: String,
    why: String,
}

impl Version {
    /// The version `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u64, minor: u64, patch: u64) -> Self {
        Self(semver::Version::new(major, minor, patch))
    }

    /// Reads a version. What it accepts it writes again with the same bytes.
    ///
    /// # Errors
    /// Not semver, with build metadata, or longer than [`MAX_VERSION_BYTES`].
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let refuse = |why: String| VersionError {
            text: shorten(text),
            why,
        };
        if text.len() > MAX_VERSION_BYTES {
            return Err(refuse(format!("it has {} bytes", text.len())));
        }
        let version = semver::Version::parse(text).map_err(|error| refuse(error.to_string()))?;
        if !version.build.is_empty() {
            return Err(refuse("build metadata (after a +) orders nothing".into()));
        }
        Ok(Self(version))
    }

    /// The version as the crate `semver` knows it.
    #[must_use]
    pub const fn as_semver(&self) -> &semver::Version {
        &self.0
    }

    /// Whether it is a release candidate or the like (`1.5.0-rc.1`).
    #[must_use]
    pub fn is_prerelease(&self) -> bool {
        !self.0.pre.is_empty()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        Self::parse(&text)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

/// A short name: lower-case letters, digits and `_`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Word(String);

/// Why a text is no [`Word`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a name: it has 1 to 32 lower-case letters, digits and _, as in amd64 or stable"
)]
pub struct WordError(String);

impl Word {
    /// Reads a word.
    ///
    /// # Errors
    /// Empty, longer than [`MAX_WORD_BYTES`], or with other characters.
    pub fn parse(text: &str) -> Result<Self, WordError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let good = text.len() <= MAX_WORD_BYTES
            && text.bytes().next().is_some_and(plain)
            && text.bytes().all(|byte| plain(byte) || byte == b'_');
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(WordError(shorten(text)))
        }
    }

    /// The word itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Word {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Word {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        Self::parse(&text)
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.0
    }
}

/// What programs run on: operating system and processor architecture, as `linux-amd64`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: Word,
    /// `amd64` or `arm64`: Debian's and Go's names.
    pub arch: Word,
}

impl Platform {
    /// The platform that this program was built for.
    #[must_use]
    pub fn here() -> Self {
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            os: Word(std::env::consts::OS.to_owned()),
            arch: Word(arch.to_owned()),
        }
    }

    /// Reads `OS-ARCH`.
    ///
    /// # Errors
    /// No `-`, or a part is no [`Word`].
    pub fn parse(text: &str) -> Result<Self, WordError> {
        let (os, arch) = text
            .split_once('-')
            .ok_or_else(|| WordError(shorten(text)))?;
        Ok(Self {
            os: Word::parse(os)?,
            arch: Word::parse(arch)?,
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.os, self.arch)
    }
}

impl FromStr for Platform {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        Self::parse(text)
    }
}

/// So much of a text from outside as a sentence needs.
fn shorten(text: &str) -> String {
    text.chars().take(MAX_VERSION_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semver_says() {
        let ordered = [
            "0.9.9",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-rc.2",
            "1.0.0-rc.10",
            "1.0.0",
            "1.0.1",
            "1.10.0",
        ];
        for pair in ordered.windows(2) {
            let [low, high] = [pair[0], pair[1]].map(|text| Version::parse(text).unwrap());
            assert!(low < high, "{low} {high}");
            assert_eq!(low.to_string(), pair[0]);
        }
        assert!(Version::parse("1.0.0-rc.1").unwrap().is_prerelease());
    }

    #[test]
    fn what_is_no_version_is_refused_with_a_sentence() {
        let long = format!("1.0.0-{}", "a".repeat(64));
        for bad in [
            "",
            "1",
            "1.0",
            "v1.0.0",
            "01.0.0",
            "1.0.0+build",
            "1.0.0 ",
            "../1.0.0",
            "1.0.0/x",
            "system",
            "99999999999999999999.0.0",
            &long,
        ] {
            let error = Version::parse(bad).unwrap_err().to_string();
            assert!(error.contains("is not a version"), "{error}");
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn a_version_is_a_string_in_json() {
        let version: Version = serde_json::from_str("\"1.2.3\"").unwrap();
        assert_eq!(serde_json::to_string(&version).unwrap(), "\"1.2.3\"");
        assert!(serde_json::from_str::<Version>("\"1.2\"").is_err());
        assert!(serde_json::from_str::<Version>("1").is_err());
    }

    #[test]
    fn words_and_platforms_have_plain_characters_only() {
        for good in ["linux-amd64", "linux-arm64", "freebsd-x86_64"] {
            assert_eq!(Platform::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "linux",
            "-amd64",
            "linux-",
            "linux-a-b",
            "Linux-amd64",
            "linux-amd64/..",
            "linux-\u{e4}",
        ] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
        assert!(Word::parse(&"a".repeat(33)).is_err());
        assert!(Word::parse("_a").is_err());
        let here = Platform::here();
        assert_eq!(Platform::parse(&here.to_string()).unwrap(), here);
    }
}
