//! What can go wrong with the ledger, as sentences.

use std::io;
use std::path::{Path, PathBuf};

use super::record::{MAX_RECORD, VERSION};

/// Why the ledger could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The system refused a step. If this came from an append, sync, acknowledgement or given-up
    /// range, what was asked is not durable; see [`super::Ledger::is_closed`].
    #[error("cannot {doing} {path:?} of the connection ledger: {source}")]
    Io {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier error left it unknown what is on disk.
    #[error(
        "the connection ledger {dir:?} was closed by an earlier write error; it must be opened \
         again, which finds out what is on disk"
    )]
    Closed {
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// The quota, or the disk, is full and nothing may be dropped for the new record.
    #[error(
        "the connection ledger {dir:?} is full: {reserved} of at most {max_bytes} bytes are in use \
         and the controller has not acknowledged them; reach the controller, free disk space or \
         raise ledger.max_bytes"
    )]
    Full {
        /// The ledger's directory.
        dir: PathBuf,
        /// Bytes that its segments take.
        reserved: u64,
        /// The quota in bytes.
        max_bytes: u64,
    },
    /// The payload is empty or too large.
    #[error("a ledger record may have 1 to {max} bytes, not {len}")]
    Length {
        /// Bytes that were given.
        len: usize,
        /// The limit: [`MAX_RECORD`], or less with small segments.
        max: usize,
    },
    /// The record was sealed for another sequence than the next.
    #[error("record {given} was to be appended, but the next sequence is {expected}")]
    Sequence {
        /// What the caller sealed for.
        given: u64,
        /// What [`super::Ledger::next_seq`] says.
        expected: u64,
    },
    /// The acknowledgement is for records that do not exist.
    #[error(
        "sequence {through} was acknowledged, but only those below {next} are durable here: the \
         controller knows more than this disk, which was restored from an old copy or lost data"
    )]
    AckBeyondHead {
        /// What was acknowledged.
        through: u64,
        /// The first sequence that is not durable.
        next: u64,
    },
    /// The proof of an acknowledgement is larger than such a proof can be.
    #[error("the proof of an acknowledgement has {len} bytes, at most {max} are kept")]
    Proof {
        /// Bytes that were given.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// More sequences than one call may give up.
    #[error("{count} sequences cannot be given up at once")]
    Loss {
        /// How many were given.
        count: u64,
    },
    /// Bytes that were good at opening are not any more.
    #[error(
        "{path:?} of the connection ledger changed after it was opened, at byte {offset}; opening \
         the ledger again saves what is left"
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where the bad record starts.
        offset: u64,
    },
    /// Written by a newer version of this program.
    #[error(
        "{path:?} has ledger format {found}, this program knows only {known}: install the version \
         that wrote it",
        known = VERSION
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// No file says which ledger this is.
    #[error(
        "the connection ledger {dir:?} has files, but no readable header tells its epoch; move the \
         directory away to start a new ledger, and keep it for recovery"
    )]
    NoEpoch {
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// Another process has it open.
    #[error("the connection ledger {dir:?} is in use by another process")]
    Locked {
        /// The ledger's directory.
        dir: PathBuf,
    },
    /// The options contradict themselves.
    #[error("ledger options: {0}")]
    Options(String),
}

impl LedgerError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// True when there is no space for more: on the disk, in the user's disk quota or in ours.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

/// The largest payload in a segment of so many bytes.
pub(super) fn max_payload(segment_bytes: u64) -> usize {
    let room = segment_bytes - (super::record::FILE_HEADER + super::record::RECORD_HEADER) as u64;
    usize::try_from(room).map_or(MAX_RECORD, |room| room.min(MAX_RECORD))
}
