//! Why a package is refused: a stable word and a sentence.

use std::io;

use crate::code::PackageCode;

/// Why a package is refused, or could not be unpacked. Nothing of it is in use then.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BundleError {
    /// The stable word.
    pub code: PackageCode,
    /// What is wrong, with what, and what to do.
    pub what: String,
    /// What the system said, if it is the cause.
    #[source]
    pub source: Option<io::Error>,
}

impl BundleError {
    pub(super) fn new(code: PackageCode, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            source: None,
        }
    }

    /// The content is not as a package must be; whoever signed it must make another.
    pub(super) fn bad(code: PackageCode, what: impl std::fmt::Display) -> Self {
        let text = format!("the package is refused: {what}; its publisher must make it again");
        Self::new(code, text)
    }

    /// The package cannot be read.
    pub(super) fn read(source: io::Error) -> Self {
        Self {
            code: PackageCode::PackageUnreadable,
            what: format!("cannot read the package: {source}; look at the disk"),
            source: Some(source),
        }
    }

    /// What it contains cannot be written.
    pub(super) fn write(what: &str, source: io::Error) -> Self {
        let full = matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        if full {
            return Self {
                code: PackageCode::NoSpace,
                what: format!(
                    "no space to unpack {what:?}: make room in the file system of /opt/vpn-node, then try again"
                ),
                source: Some(source),
            };
        }
        Self {
            code: PackageCode::UnpackFailed,
            what: format!("cannot unpack {what:?}: {source}; look at the disk"),
            source: Some(source),
        }
    }
}
