//! `manifest.json`, the first entry of a package: what it is, and every file with size and hash.
//!
//! It stays in the directory that the package is unpacked into; from there the agent knows which
//! version it is.

use serde::{Deserialize, Serialize};

use super::error::BundleError;
use super::limits::Limits;
use super::path::{EntryPath, Mode};
use super::tree::TREE_MARK;
use crate::code::PackageCode;
use crate::digest::Digest;
use crate::json;
use crate::release::{ReleaseInfo, StateFormat};
use crate::version::{Platform, Version, Word};

/// Its name.
pub const MANIFEST: &str = "manifest.json";
/// The only format there is yet.
const FORMAT: u32 = 1;

/// What a package has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub format: u32,
    /// `vpn-node`.
    pub product: String,
    /// Its version.
    pub version: Version,
    /// Operating system.
    pub os: Word,
    /// Processor architecture.
    pub arch: Word,
    /// Which state on disk it reads and writes.
    pub state_format: StateFormat,
    /// Every file but the manifest itself, ordered by path.
    pub files: Vec<ManifestFile>,
}

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// Where it lies.
    pub path: EntryPath,
    /// Its permissions.
    pub mode: Mode,
    /// Its bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: Digest,
}

impl Manifest {
    pub(super) fn new(
        product: &str,
        version: &Version,
        platform: &Platform,
        state_format: StateFormat,
        mut files: Vec<ManifestFile>,
    ) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Self {
            format: FORMAT,
            product: product.to_owned(),
            version: version.clone(),
            os: platform.os.clone(),
            arch: platform.arch.clone(),
            state_format,
            files,
        }
    }

    /// Reads a manifest, that of a package or of an unpacked version.
    ///
    /// # Errors
    /// `manifest_malformed`, and what is wrong with the files that it names: a forbidden, doubled
    /// or colliding name, too many, too large.
    pub fn parse(bytes: &[u8], limits: &Limits) -> Result<Self, BundleError> {
        let malformed = |why: String| {
            Err(BundleError::bad(
                PackageCode::ManifestMalformed,
                format_args!("its manifest {why}"),
            ))
        };
        let value = match json::parse(bytes) {
            Ok(value) => value,
            Err(error) => return malformed(format!("cannot be read: {error}")),
        };
        let manifest: Self = match serde_json::from_value(value) {
            Ok(manifest) => manifest,
            Err(error) => return malformed(format!("cannot be read: {error}")),
        };
        if manifest.format != FORMAT {
            return malformed(format!("has the format {}, not {FORMAT}", manifest.format));
        }
        if !manifest.state_format.is_consistent() {
            return malformed("names state formats that contradict each other".into());
        }
        let mut total: u64 = 0;
        for pair in manifest.files.windows(2) {
            if pair[0].path >= pair[1].path {
                return malformed(format!(
                    "does not name {} and {} once and in order",
                    pair[0].path, pair[1].path
                ));
            }
        }
        for file in &manifest.files {
            if [MANIFEST, TREE_MARK].contains(&file.path.as_str()) {
                return malformed(format!(
                    "names {}, which is not for a package to bring",
                    file.path
                ));
            }
            total = total.saturating_add(file.size);
            check_size(&file.path, file.size, total, limits)?;
        }
        Ok(manifest)
    }

    /// The bytes that a package has of it.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec_pretty(self).expect("strings and numbers can be written");
        bytes.push(b'\n');
        bytes
    }

    /// The file at `path`, if the package has one there.
    #[must_use]
    pub fn file(&self, path: &EntryPath) -> Option<&ManifestFile> {
        let found = self.files.binary_search_by(|file| file.path.cmp(path));
        found.ok().map(|at| &self.files[at])
    }

    /// Bytes of all files.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// It must say of the release what is signed.
    ///
    /// # Errors
    /// `manifest_mismatch`.
    pub fn agrees_with(&self, info: &ReleaseInfo) -> Result<(), BundleError> {
        let pairs = [
            ("product", self.product.clone(), info.product.clone()),
            (
                "version",
                self.version.to_string(),
                info.version.to_string(),
            ),
            ("operating system", self.os.to_string(), info.os.to_string()),
            ("architecture", self.arch.to_string(), info.arch.to_string()),
            (
                "state formats",
                formats(self.state_format),
                formats(info.state_format),
            ),
        ];
        for (what, inside, signed) in pairs {
            if inside != signed {
                return Err(BundleError::bad(
                    PackageCode::ManifestMismatch,
                    format_args!(
                        "its manifest has the {what} {inside:?}, and signed is {signed:?}"
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Within the limits for one file, and for all together.
pub(super) fn check_size(
    path: &EntryPath,
    size: u64,
    total: u64,
    limits: &Limits,
) -> Result<(), BundleError> {
    if size > limits.file_bytes {
        return Err(BundleError::bad(
            PackageCode::FileTooLarge,
            format_args!(
                "{path} has {size} bytes, and a file may have {}",
                limits.file_bytes
            ),
        ));
    }
    if total > limits.total_bytes {
        return Err(BundleError::bad(
            PackageCode::UnpackedTooLarge,
            format_args!(
                "its files have more than {} bytes together",
                limits.total_bytes
            ),
        ));
    }
    Ok(())
}

fn formats(format: StateFormat) -> String {
    format!(
        "{}-{} -> {}",
        format.reads_min, format.reads_max, format.writes
    )
}
