//! How much disk the ledger may take, and what happens when that is used up.

use super::LedgerError;

/// Smallest segment, in bytes: below this headers would be most of the file.
pub const MIN_SEGMENT_BYTES: u64 = 4096;

/// Largest segment, in bytes: opening reads one segment at a time into memory.
pub const MAX_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// The ledger's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Most bytes that all segments together may take; at least two segments.
    pub max_bytes: u64,
    /// Bytes set aside for each new segment.
    pub segment_bytes: u64,
    /// What gives way when no further segment may or can be made.
    pub when_full: WhenFull,
}

impl Default for Options {
    /// 256 MiB in segments of 4 MiB: about half a million records; the oldest give way.
    fn default() -> Self {
        Self {
            max_bytes: 256 * 1024 * 1024,
            segment_bytes: 4 * 1024 * 1024,
            when_full: WhenFull::DropOldest,
        }
    }
}

/// The policy of a full ledger. Neither is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segment is given up: its unacknowledged records become a durable gap.
    DropOldest,
    /// The new record is refused with [`LedgerError::Full`]; the caller keeps it, or gives it up with
    /// [`super::Ledger::give_up`].
    Refuse,
}

impl Options {
    pub(super) fn check(&self) -> Result<(), LedgerError> {
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes) {
            return Err(LedgerError::Options(format!(
                "segments of {} bytes; {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} are possible",
                self.segment_bytes
            )));
        }
        // One to write and one to give up.
        if self.max_bytes < 2 * self.segment_bytes {
            return Err(LedgerError::Options(format!(
                "ledger.max_bytes is {}; it must be at least {} (two segments)",
                self.max_bytes,
                2 * self.segment_bytes
            )));
        }
        Ok(())
    }
}
