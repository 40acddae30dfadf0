//! Live connections, kept so that a crash of the agent forgets none: a snapshot (`sessions.json`) and
//! a log of what changed since (`sessions.log`).
//!
//! A start must be on disk before its record is in the ledger, so this is on the way of every event.
//! The log costs it one write and one sync in space that is set aside, however many connections
//! there are. Counters and signs of life change all the time: they are in the snapshot alone.
//!
//! The log is entries one after the other: length of the JSON (u32), CRC-32C of all else (u32),
//! generation (u64), a [`Change`] as JSON; integers are little-endian. What counts is the entries from
//! the start of the file up to the first that is not whole or not of the snapshot's generation. The
//! next snapshot has the next generation, and so begins the log anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{KeptSessions, MODE, StateDir, StateError};
use crate::core::journal;
use crate::core::sessions::KnownSession;
use crate::host::atomic;

pub(super) const SNAPSHOT: &str = "sessions.json";
const LOG: &str = "sessions.log";

/// Half a million sessions of about 500 bytes: more than is written, since an agent whose own snapshot
/// is too large for it does not start any more.
const MAX_SNAPSHOT_BYTES: usize = 256 * 1024 * 1024;
/// Some two thousand starts between two snapshots.
const LOG_BYTES: usize = 1024 * 1024;
const HEADER_BYTES: usize = 16;

type Sessions = BTreeMap<Uuid, KnownSession>;

/// What changed with one event.
#[derive(Debug, Serialize, Deserialize)]
struct Change {
    /// New, or other than before in more than counters and signs of life.
    kept: Vec<KnownSession>,
    gone: Vec<Uuid>,
    /// All of them: the starts that may not be in the ledger.
    unrecorded: BTreeSet<Uuid>,
}

impl StateDir {
    /// The live connections of a former process; none when there was none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn sessions(&self) -> Result<KeptSessions, StateError> {
        let snapshot: Option<KeptSessions> = self.read(SNAPSHOT, MAX_SNAPSHOT_BYTES)?;
        let mut known = snapshot.unwrap_or_default();
        let path = self.path().join(LOG);
        let log = match atomic::read_private(&path, LOG_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(known),
            Err(error) => return Err(error.into()),
        };
        let mut sessions = by_id(known.sessions);
        for change in changes(&log, known.generation) {
            sessions.retain(|id, _| !change.gone.contains(id));
            sessions.extend(by_id(change.kept));
            known.unrecorded = change.unrecorded;
        }
        known.sessions = sessions.into_values().collect();
        Ok(known)
    }

    /// Keeps the connections of this process; `known` is what [`StateDir::sessions`] gave.
    #[must_use]
    pub fn sessions_file(&self, known: KeptSessions) -> SessionsFile {
        SessionsFile {
            state: self.clone(),
            sessions: by_id(known.sessions),
            unrecorded: known.unrecorded,
            generation: known.generation,
            log: None,
        }
    }
}

/// The connections on disk, and how they get there.
#[derive(Debug)]
pub struct SessionsFile {
    state: StateDir,
    sessions: Sessions,
    unrecorded: BTreeSet<Uuid>,
    generation: u64,
    /// None before the first snapshot of this process, and after an error of the disk.
    log: Option<Log>,
}

#[derive(Debug)]
struct Log {
    file: File,
    end: usize,
}

impl SessionsFile {
    /// A connection that is on disk.
    #[must_use]
    pub fn get(&self, id: &Uuid) -> Option<&KnownSession> {
        self.sessions.get(id)
    }

    /// Makes the connections durable; with `whole` their counters and signs of life, too. That one is
    /// gone may be forgotten by a power cut until the next one is new.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn keep(
        &mut self,
        sessions: Sessions,
        unrecorded: &BTreeSet<Uuid>,
        whole: bool,
    ) -> Result<(), StateError> {
        if whole || !self.log_change(&sessions, unrecorded) {
            self.write_snapshot(&sessions, unrecorded)?;
        }
        self.sessions = sessions;
        self.unrecorded.clone_from(unrecorded);
        Ok(())
    }

    /// False when it takes a snapshot instead.
    fn log_change(&mut self, sessions: &Sessions, unrecorded: &BTreeSet<Uuid>) -> bool {
        let Some(log) = &mut self.log else {
            return false;
        };
        let before = &self.sessions;
        let is_new = |known: &&KnownSession| {
            let old = before.get(&known.connection_id);
            old.is_none_or(|old| *old != with_counters_of(known, old))
        };
        let change = Change {
            kept: sessions.values().filter(is_new).cloned().collect(),
            gone: before
                .keys()
                .filter(|id| !sessions.contains_key(*id))
                .copied()
                .collect(),
            unrecorded: unrecorded.clone(),
        };
        let must_last = !change.kept.is_empty() || !unrecorded.is_subset(&self.unrecorded);
        if !must_last && change.gone.is_empty() && *unrecorded == self.unrecorded {
            return true;
        }
        let entry = encode(self.generation, &change);
        if log.end + entry.len() > LOG_BYTES {
            return false;
        }
        let written = log.add(&entry, must_last);
        if let Err(error) = &written {
            tracing::warn!(
                message_id = %journal::HOST_UNUSUAL,
                %error, "the log of live sessions cannot be written; all are written anew"
            );
            // What it has on disk is not known any more.
            self.log = None;
        }
        written.is_ok()
    }

    fn write_snapshot(
        &mut self,
        sessions: &Sessions,
        unrecorded: &BTreeSet<Uuid>,
    ) -> Result<(), StateError> {
        // After a failure either snapshot may be the one on disk: nothing is logged to either.
        let log = self.log.take();
        self.generation += 1;
        let snapshot = KeptSessions {
            version: 1,
            generation: self.generation,
            sessions: sessions.values().cloned().collect(),
            unrecorded: unrecorded.clone(),
        };
        self.state.write(SNAPSHOT, &snapshot)?;
        self.log = match log {
            Some(log) => Some(Log { end: 0, ..log }),
            None => self.open_log(),
        };
        Ok(())
    }

    fn open_log(&self) -> Option<Log> {
        let path = self.state.path().join(LOG);
        let is_whole = |file: &File| {
            let length = file.metadata().map(|about| about.len());
            length.is_ok_and(|length| length == LOG_BYTES as u64)
        };
        let opened = match atomic::open_private(&path) {
            Ok(file) if is_whole(&file) => Ok(file),
            // Zeros take their space at once: a disk that fills up later does not stop it.
            _ => atomic::write(&path, &vec![0; LOG_BYTES], MODE)
                .and_then(|()| atomic::open_private(&path)),
        };
        match opened {
            Ok(file) => Some(Log { file, end: 0 }),
            Err(error) => {
                tracing::warn!(
                    message_id = %journal::HOST_UNUSUAL,
                    %error, "there is no log of live sessions: each change writes all of them"
                );
                None
            }
        }
    }
}

impl Log {
    fn add(&mut self, entry: &[u8], must_last: bool) -> io::Result<()> {
        self.file.write_all_at(entry, self.end as u64)?;
        if must_last {
            self.file.sync_data()?;
        }
        self.end += entry.len();
        Ok(())
    }
}

fn by_id(sessions: Vec<KnownSession>) -> Sessions {
    let sessions = sessions.into_iter();
    sessions.map(|known| (known.connection_id, known)).collect()
}

/// `known` with what changes all the time as in `old`.
fn with_counters_of(known: &KnownSession, old: &KnownSession) -> KnownSession {
    KnownSession {
        seen_boot_ns: old.seen_boot_ns,
        seen_wall_ms: old.seen_wall_ms,
        rx: old.rx,
        tx: old.tx,
        ..known.clone()
    }
}

fn encode(generation: u64, change: &Change) -> Vec<u8> {
    let json = serde_json::to_vec(change).expect("a change serialises");
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    let mut entry = Vec::with_capacity(HEADER_BYTES + json.len());
    entry.extend_from_slice(&length.to_le_bytes());
    entry.extend_from_slice(&checksum(generation, &json).to_le_bytes());
    entry.extend_from_slice(&generation.to_le_bytes());
    entry.extend_from_slice(&json);
    entry
}

/// The changes in a log that are whole and of this generation.
fn changes(log: &[u8], generation: u64) -> impl Iterator<Item = Change> {
    let mut rest = log;
    std::iter::from_fn(move || {
        let (header, after) = rest.split_first_chunk::<HEADER_BYTES>()?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| header[at + n]));
        let length = usize::try_from(word(0)).ok().filter(|length| *length > 0)?;
        let (json, after) = after.split_at_checked(length)?;
        let is_ours = header[8..] == generation.to_le_bytes();
        if !is_ours || word(4) != checksum(generation, json) {
            return None;
        }
        rest = after;
        serde_json::from_slice(json).ok()
    })
}

fn checksum(generation: u64, json: &[u8]) -> u32 {
    let length = (json.len() as u64).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&length), &generation.to_le_bytes());
    crc32c::crc32c_append(crc, json)
}

#[cfg(test)]
mod tests;
