//! From signed words to trusted bytes: [`Signed`] says what a package must be, [`Verified`] is one.
//!
//! `unpack` takes a [`Verified`], and there is no way to have one without hashing every byte that it
//! gives.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};

use serde_json::{Map, Value};

use super::error::BundleError;
use super::limits::Limits;
use crate::code::PackageCode;
use crate::copy::{self, Hashed};
use crate::digest::Digest;
use crate::release::ReleaseInfo;
use crate::trust::TargetInfo;

/// What signed metadata says about one package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    length: u64,
    sha256: Digest,
    info: ReleaseInfo,
}

/// A package whose every byte is what was signed.
#[derive(Debug)]
pub struct Verified<R> {
    reader: R,
    signed: Signed,
}

impl Signed {
    /// What trusted metadata says about a file: the way of a host.
    ///
    /// # Errors
    /// `release_info_malformed`, `target_path_mismatch`, `package_too_large`.
    pub fn from_target(target: &TargetInfo) -> Result<Self, BundleError> {
        let sha256 = target.sha256();
        let sha256 = sha256.and_then(|text| Digest::parse(&text).ok());
        let sha256 = sha256.ok_or_else(|| {
            BundleError::new(
                PackageCode::ReleaseInfoMalformed,
                format!(
                    "no SHA-256 is signed for {:?}: its publisher must sign it again",
                    target.path
                ),
            )
        })?;
        Self::new(&target.path, target.length, sha256, target.custom.as_ref())
    }

    /// From the path, length, SHA-256 and `custom` of a target. Who calls this vouches for them:
    /// a publisher made them himself, a host takes [`Self::from_target`].
    ///
    /// # Errors
    /// `release_info_malformed`, `target_path_mismatch`, `package_too_large`.
    pub fn new(
        path: &str,
        length: u64,
        sha256: Digest,
        custom: Option<&Map<String, Value>>,
    ) -> Result<Self, BundleError> {
        let info = ReleaseInfo::from_custom(custom).map_err(|error| {
            BundleError::new(PackageCode::ReleaseInfoMalformed, error.to_string())
        })?;
        if info.target_path() != path {
            return Err(BundleError::new(
                PackageCode::TargetPathMismatch,
                format!(
                    "release {} for {} lies at {path:?} instead of {:?}: its publisher must sign it again",
                    info.version,
                    info.platform(),
                    info.target_path()
                ),
            ));
        }
        let most = Limits::default().package_bytes;
        if length > most {
            return Err(BundleError::bad(
                PackageCode::PackageTooLarge,
                format_args!("it has {length} bytes, and one may have {most}"),
            ));
        }
        Ok(Self {
            length,
            sha256,
            info,
        })
    }

    /// What is signed about the release.
    #[must_use]
    pub fn info(&self) -> &ReleaseInfo {
        &self.info
    }

    /// Bytes of the package.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// SHA-256 of the package.
    #[must_use]
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Reads `package` whole, and gives it back rewound if it is what was signed.
    ///
    /// Nobody may be able to change what is behind `package` afterwards: give it a file of one's
    /// own, or use [`Self::copy`].
    ///
    /// # Errors
    /// `package_length_mismatch`, `package_hash_mismatch`, `package_unreadable`.
    pub fn verify<R: Read + Seek>(&self, mut package: R) -> Result<Verified<R>, BundleError> {
        let hashed = copy::hash(&mut package, self.length);
        self.judge(hashed)?;
        package.rewind().map_err(BundleError::read)?;
        Ok(Verified {
            reader: package,
            signed: self.clone(),
        })
    }

    /// Copies `package`, which others may change meanwhile, into `own`, a new and empty file that
    /// only we can write, and makes it durable. What is judged is what was written.
    ///
    /// # Errors
    /// As [`Self::verify`], `no_space`, `unpack_failed`. `own` is to be removed then.
    pub fn copy(
        &self,
        package: &mut impl Read,
        mut own: File,
    ) -> Result<Verified<File>, BundleError> {
        let mut failed = None;
        let mut watched = WriteErrors {
            file: &mut own,
            failed: &mut failed,
        };
        let hashed = copy::copy(package, &mut watched, self.length);
        let written = |error| BundleError::write("a copy of the package", error);
        if let Some(error) = failed {
            return Err(written(error));
        }
        self.judge(hashed)?;
        own.sync_all().map_err(written)?;
        own.rewind().map_err(BundleError::read)?;
        Ok(Verified {
            reader: own,
            signed: self.clone(),
        })
    }

    fn judge(&self, hashed: io::Result<Hashed>) -> Result<(), BundleError> {
        let wrong_length = |what: String| {
            Err(BundleError::new(
                PackageCode::PackageLengthMismatch,
                format!(
                    "the package has {what} bytes, and {} are signed: download it again",
                    self.length
                ),
            ))
        };
        match hashed {
            Ok(Hashed { length, digest }) if length == self.length => {
                if digest == self.sha256 {
                    return Ok(());
                }
                Err(BundleError::new(
                    PackageCode::PackageHashMismatch,
                    format!(
                        "the package has the SHA-256 {digest}, and {} is signed: download it again; if that does not help, its source is damaged or lies",
                        self.sha256
                    ),
                ))
            }
            Ok(Hashed { length, .. }) => wrong_length(length.to_string()),
            Err(error) if error.kind() == ErrorKind::FileTooLarge => wrong_length("more".into()),
            Err(error) => Err(BundleError::read(error)),
        }
    }
}

impl<R> Verified<R> {
    /// What is signed about the release.
    #[must_use]
    pub fn info(&self) -> &ReleaseInfo {
        self.signed.info()
    }

    /// SHA-256 of the package.
    #[must_use]
    pub fn sha256(&self) -> Digest {
        self.signed.sha256
    }

    pub(super) fn into_parts(self) -> (R, ReleaseInfo) {
        (self.reader, self.signed.info)
    }
}

/// Tells an error of our own disk from one of the package's.
struct WriteErrors<'a> {
    file: &'a mut File,
    failed: &'a mut Option<io::Error>,
}

impl Write for WriteErrors<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| {
            let kind = error.kind();
            if kind != ErrorKind::Interrupted {
                *self.failed = Some(error);
            }
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
