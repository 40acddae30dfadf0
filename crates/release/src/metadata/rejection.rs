//! Why something was not believed: a stable word, the file, and a sentence for the operator.

use crate::code::MetadataCode;

/// Metadata or a target that was refused. Nothing that was trusted before has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Rejection {
    /// The stable word (`docs/releases.md`).
    pub code: MetadataCode,
    /// Role, file or target that it is about; shown escaped where it came from outside.
    pub what: String,
    /// What failed, on what, why, and what to do.
    pub sentence: String,
}

impl Rejection {
    /// `what` and the sentence after it make the whole message.
    #[must_use]
    pub fn new(code: MetadataCode, what: &str, sentence: impl std::fmt::Display) -> Self {
        Self {
            code,
            what: what.to_owned(),
            sentence: format!("{what}: {sentence}"),
        }
    }

    /// True when nobody lied: the repository could not be reached, or a local file not be written.
    /// Trying again later is all there is to do.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(
            self.code,
            MetadataCode::FetchFailed | MetadataCode::TrustStoreUnwritable
        )
    }
}
