//! How the work can end badly: not allowed, not possible, or sent away again.
//!
//! Every ending has a stable code (`docs/releases.md`) and a sentence for the operator.

use std::io;
use std::path::Path;

use crate::supervisor::SupervisorError;
use nix::errno::Errno;
use vpn_node_release::bundle::BundleError;
use vpn_node_release::code::{PackageCode, UpdaterCode};

/// What kind of an ending; it decides the exit code and the word in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The release or the request is not allowed in. Nothing changed.
    Refused,
    /// This host could not do it now. Nothing changed.
    Failed,
    /// It ran and was sent away again: the former version runs.
    RolledBack,
}

/// Why an attempt or a command ended without what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct UpdateError {
    /// What kind of an ending.
    pub kind: Kind,
    /// The stable word.
    pub code: &'static str,
    /// What failed, on what, why, and what to do.
    pub sentence: String,
}

impl UpdateError {
    /// Not allowed in.
    pub fn refused(code: UpdaterCode, sentence: impl Into<String>) -> Self {
        Self::of(Kind::Refused, code.as_str(), sentence)
    }

    /// Not possible on this host now.
    pub fn failed(code: UpdaterCode, sentence: impl Into<String>) -> Self {
        Self::of(Kind::Failed, code.as_str(), sentence)
    }

    /// With a code of another list (metadata, package, policy).
    pub fn of(kind: Kind, code: &'static str, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            code,
            sentence: sentence.into(),
        }
    }

    /// What the system refused; `doing` is a verb ("write", "rename").
    #[must_use]
    pub fn io(doing: &str, path: &Path, source: &io::Error) -> Self {
        let path = path.display();
        let is = |errno: Errno| source.raw_os_error() == Some(errno as i32);
        if is(Errno::ENOSPC) || is(Errno::EDQUOT) {
            return Self::failed(
                UpdaterCode::NoSpace,
                format!("cannot {doing} {path}: {source}; make room on that file system"),
            );
        }
        if is(Errno::EROFS) {
            return Self::failed(
                UpdaterCode::ReadOnly,
                format!("cannot {doing} {path}: {source}; mount that file system writable"),
            );
        }
        Self::failed(
            UpdaterCode::DiskError,
            format!("cannot {doing} {path}: {source}"),
        )
    }
}

impl From<SupervisorError> for UpdateError {
    fn from(error: SupervisorError) -> Self {
        Self::failed(UpdaterCode::StartFailed, error.to_string())
    }
}

impl From<BundleError> for UpdateError {
    fn from(error: BundleError) -> Self {
        match &error.source {
            // The system's doing, not the package's.
            Some(source) => {
                let by_system = Self::io("use", Path::new(""), source).code;
                let known = by_system != UpdaterCode::DiskError.as_str();
                let code = if known {
                    by_system
                } else {
                    error.code.as_str()
                };
                Self::of(Kind::Failed, code, error.to_string())
            }
            None if error.code == PackageCode::NoSpace => {
                Self::failed(UpdaterCode::NoSpace, error.to_string())
            }
            None => Self::of(Kind::Refused, error.code.as_str(), error.to_string()),
        }
    }
}

/// `.map_err(at("write", path))` for a system call's error.
pub fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> UpdateError {
    move |source| UpdateError::io(doing, path, &source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_read_only_one_have_their_own_words() {
        let code = |errno: Errno| UpdateError::io("write", Path::new("/x"), &errno.into()).code;
        assert_eq!(code(Errno::ENOSPC), "no_space");
        assert_eq!(code(Errno::EDQUOT), "no_space");
        assert_eq!(code(Errno::EROFS), "read_only");
        assert_eq!(code(Errno::EIO), "disk_error");
    }
}
