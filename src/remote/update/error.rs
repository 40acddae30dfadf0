//! Why a release was not fetched, each with its code and whether trying again may help.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vpn_node_release::code::{DownloadCode, PackageCode};

use vpn_node_release::metadata::Rejection;

use crate::core::update::Failure;
use crate::host::atomic::AtomicError;

/// A disk that is full, or a mirror with other bytes, heals when somebody acts: no hurry.
const NO_HURRY: Duration = Duration::from_secs(300);

/// Why a release was not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchFailure {
    /// No TLS, no HTTP client, no runtime.
    #[error("the download cannot be set up: {0}")]
    Setup(String),
    /// Nothing answered, or it broke off.
    #[error("cannot fetch {url}: {why}")]
    Unreachable { url: String, why: String },
    /// Another server than it should be.
    #[error("the server of {url} is not trusted: {why}")]
    Untrusted { url: String, why: String },
    /// 429, 503.
    #[error("{url} was answered with {status}: the repository asks for patience")]
    Busy {
        url: String,
        status: u16,
        retry_after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("{url} was answered with {status}")]
    Status { url: String, status: u16 },
    /// 404 and its like.
    #[error("{url} is not there ({status})")]
    NotFound { url: String, status: u16 },
    /// A redirect that is not followed.
    #[error("{url} leads elsewhere, and that is not followed: {why}")]
    Redirect { url: String, why: String },
    /// Slow retrieval.
    #[error(
        "{url} comes with {rate} bytes a second; at least {least} are wanted ([update] min_rate)"
    )]
    TooSlow { url: String, rate: u64, least: u64 },
    /// Endless data.
    #[error("{url} has more than the {limit} bytes that it may have")]
    TooLong { url: String, limit: u64 },
    /// Another part than was asked for.
    #[error("{url} was answered with another part than was asked for")]
    WrongRange { url: String },
    /// Other bytes than were signed.
    #[error("what {url} gives is not the package that was signed: another SHA-256")]
    WrongHash { url: String },
    /// More than the configuration allows.
    #[error("the package has {length} bytes, and [update] max_bytes of this host allows {most}")]
    TooLarge { length: u64, most: u64 },
    /// No space.
    #[error("{path:?} has {free} bytes free, and the download needs {needed}: make room")]
    NoSpace {
        path: PathBuf,
        free: u64,
        needed: u64,
    },
    /// The disk.
    #[error("cannot {doing} {path:?}: {source}")]
    Disk {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A small file.
    #[error(transparent)]
    File(#[from] AtomicError),
    /// Metadata that is refused.
    #[error(transparent)]
    Metadata(#[from] Rejection),
    /// A genuine release that is not for this host.
    #[error("{sentence}")]
    NotForUs {
        code: &'static str,
        sentence: String,
    },
    /// The core wants something else now.
    #[error("stopped")]
    Stopped,
}

impl FetchFailure {
    /// For the `map_err` of what must work before anything is fetched.
    pub(super) fn setup(error: impl std::fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }

    /// For the `map_err` of an I/O error.
    pub(super) fn disk(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    fn code(&self) -> &'static str {
        let code = match self {
            Self::Setup(_) | Self::Unreachable { .. } => DownloadCode::RepositoryUnreachable,
            Self::Untrusted { .. } => DownloadCode::RepositoryUntrusted,
            Self::Busy { .. } => DownloadCode::RepositoryBusy,
            Self::Status { .. } => DownloadCode::RepositoryError,
            Self::NotFound { .. } => DownloadCode::NotInRepository,
            Self::Redirect { .. } => DownloadCode::RedirectRefused,
            Self::TooSlow { .. } => DownloadCode::TooSlow,
            Self::TooLong { .. } => DownloadCode::TooLong,
            Self::WrongRange { .. } => DownloadCode::WrongRange,
            Self::TooLarge { .. } => DownloadCode::DownloadTooLarge,
            Self::Disk { source, .. } if is_full(source) => {
                return PackageCode::NoSpace.as_str();
            }
            Self::Disk { .. } | Self::File(_) | Self::Stopped => DownloadCode::DownloadDisk,
            Self::WrongHash { .. } => return PackageCode::PackageHashMismatch.as_str(),
            Self::NoSpace { .. } => return PackageCode::NoSpace.as_str(),
            Self::Metadata(rejection) => return rejection.code.as_str(),
            Self::NotForUs { code, .. } => return code,
        };
        code.as_str()
    }

    /// None: it would end the same again.
    fn retry(&self) -> Option<Duration> {
        match self {
            Self::TooLarge { .. } | Self::NotForUs { .. } => None,
            Self::Busy { retry_after, .. } => Some(retry_after.unwrap_or_default()),
            Self::Unreachable { .. } | Self::Status { .. } | Self::TooSlow { .. } => {
                Some(Duration::ZERO)
            }
            _ => Some(NO_HURRY),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl From<FetchFailure> for Failure {
    fn from(failure: FetchFailure) -> Self {
        Self {
            code: failure.code(),
            retry: failure.retry(),
            detail: failure.to_string(),
        }
    }
}
