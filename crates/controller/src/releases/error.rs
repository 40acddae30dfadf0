//! Why a release could not be made, signed, published or taken over: sentences for the operator.

use std::path::PathBuf;

use vpn_node_release::bundle::BundleError;
use vpn_node_release::metadata::Rejection;
use vpn_node_release::offline::OfflineError;
use vpn_node_release::trust::StoreError;

use super::disk::DiskError;
use super::key_file::KeyFileError;
use super::passphrase::PassphraseError;
use crate::keys::KeyError;

/// Why a command on a release repository did not do what it was told. What is published is as it
/// was before.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The file system.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A key file of a person.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The online key.
    #[error(transparent)]
    OnlineKey(#[from] KeyError),
    /// A passphrase.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// A package that no host would install.
    #[error(transparent)]
    Package(#[from] BundleError),
    /// An offline file.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// Metadata that no host would believe.
    #[error("{} ({})", .0.sentence, .0.code)]
    Rejected(#[from] Rejection),
    /// What this repository verified before cannot be read.
    #[error(transparent)]
    Trust(#[from] StoreError),
    /// Nothing there yet.
    #[error(
        "there is no release repository in {0:?}: make one with 'release init', or take one over with 'release import'"
    )]
    Missing(PathBuf),
    /// One is there already.
    #[error(
        "there is a release repository in {0:?} already: its keys are the trust of every host, and are never made anew; see 'release rotate-key'"
    )]
    Exists(PathBuf),
    /// The wrong person.
    #[error("key {id} may sign nothing that waits: {waits}")]
    NotASigner {
        /// Its shortened id.
        id: String,
        /// Who may sign what.
        waits: String,
    },
    /// There is nothing to do.
    #[error(
        "nothing waits for a signature: 'release add', 'revoke', 'renew' or 'rotate-key' come first"
    )]
    NothingStaged,
    /// A clock that would do harm.
    #[error(
        "the clock of this machine says {now}, but metadata was signed here at {issued}: nothing is signed before the clock is right"
    )]
    ClockBehind {
        /// What the clock says.
        now: String,
        /// When the newest metadata was signed.
        issued: String,
    },
    /// Something else that the operator has to decide.
    #[error("{0}")]
    Refused(String),
}

/// For `return refused(...)`.
pub(super) fn refused<T>(sentence: impl Into<String>) -> Result<T, ReleaseError> {
    Err(ReleaseError::Refused(sentence.into()))
}
