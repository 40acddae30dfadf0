//! Names and permissions of what a package has.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::BundleError;
use super::limits::{PART_BYTES, PATH_BYTES, PATH_DEPTH};
use crate::code::PackageCode;

/// A path below the directory that a package is unpacked into: parts of letters, digits and
/// `._+@=,~-`, none of them `.` or `..`. There is no other spelling of it, on no file system.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct EntryPath(String);

impl EntryPath {
    /// Reads a path.
    ///
    /// # Errors
    /// `path_forbidden` or `path_too_long`.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let shown = || {
            bytes
                .escape_ascii()
                .take(PATH_BYTES)
                .map(char::from)
                .collect::<String>()
        };
        let forbidden = |why: &str| {
            Err(BundleError::bad(
                PackageCode::PathForbidden,
                format_args!("the name \"{}\" {why}", shown()),
            ))
        };
        if bytes.len() > PATH_BYTES {
            return too_long(&shown());
        }
        if bytes.first() == Some(&b'/') {
            return forbidden("is absolute");
        }
        let mut depth = 0;
        for part in bytes.split(|byte| *byte == b'/') {
            match part {
                b"" => return forbidden("has an empty part"),
                b"." | b".." => return forbidden("leads elsewhere with . or .."),
                _ => depth += 1,
            }
            if part.len() > PART_BYTES || depth > PATH_DEPTH {
                return too_long(&shown());
            }
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._+@=,~-".contains(byte);
        match std::str::from_utf8(bytes) {
            Ok(text) if bytes.iter().all(plain) => Ok(Self(text.to_owned())),
            _ => forbidden("has characters other than letters, digits and ._+@=,~-"),
        }
    }

    /// The path, relative, with `/` between its parts.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories above it, the highest first: `a`, `a/b` of `a/b/c`.
    pub fn parents(&self) -> impl Iterator<Item = Self> + '_ {
        self.0
            .match_indices('/')
            .map(|(at, _)| Self(self.0[..at].to_owned()))
    }

    /// What a file system that knows no case takes it for.
    pub(super) fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

/// All directories above any of these.
pub(super) fn directories<'a>(paths: impl Iterator<Item = &'a EntryPath>) -> BTreeSet<EntryPath> {
    paths.flat_map(EntryPath::parents).collect()
}

fn too_long<T>(shown: &str) -> Result<T, BundleError> {
    Err(BundleError::bad(
        PackageCode::PathTooLong,
        format_args!(
            "the name \"{shown}\" has more than {PATH_BYTES} bytes, {PATH_DEPTH} parts, or {PART_BYTES} bytes in one part"
        ),
    ))
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EntryPath {
    type Error = BundleError;

    fn try_from(text: String) -> Result<Self, BundleError> {
        Self::parse(text.as_bytes())
    }
}

impl From<EntryPath> for String {
    fn from(path: EntryPath) -> Self {
        path.0
    }
}

/// Permissions of a file. Directories have 0755.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// A program.
    #[serde(rename = "0755")]
    Executable,
    /// Anything else.
    #[serde(rename = "0644")]
    Plain,
}

impl Mode {
    /// The permission bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Executable => 0o755,
            Self::Plain => 0o644,
        }
    }

    pub(super) const fn of(bits: u32) -> Option<Self> {
        match bits {
            0o755 => Some(Self::Executable),
            0o644 => Some(Self::Plain),
            _ => None,
        }
    }
}
