//! The status file: looked at every 10 s where the management interface is not at hand.
//!
//! OpenVPN writes the file over line by line, so a reader may see a mixture. It is read only when
//! it has not been written for a moment, and believed only if that is still so afterwards.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::Fault;
use super::lines::without_end;
use super::status::{MAX_CLIENTS, Table, TableParser};
use crate::core::Now;
use crate::host::bounded;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(10);

/// After a look at a file that is being written.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A file that was written so recently may be half done.
const SETTLED_MS: i64 = 200;

/// Looks at a file that never settles or is never whole, before it is said.
const MAX_TORN: u32 = 20;

/// `status` has a file written every 60 s unless told otherwise (openvpn(8)); after three times
/// that without a change, the daemon is down or hangs.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(180);

/// After this long without a change its clients are taken for gone: no client waits so long for a
/// daemon that does not turn (`--ping-restart` is 60 to 120 s in practice).
pub(super) const GONE_AFTER: Duration = Duration::from_secs(600);

/// Most bytes read: the rows of all clients in both tables.
const MAX_BYTES: usize = MAX_CLIENTS * 3 * 256;

/// One status file from look to look.
#[derive(Debug)]
pub(super) struct StatusFile {
    path: PathBuf,
    look_at: Duration,
    torn: u32,
    /// Written last, in nanoseconds of the file system, and when that was first seen.
    written: Option<((i64, i64), Duration)>,
    gone: bool,
    doubted: bool,
}

/// What a look brought.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing new yet.
    Nothing,
    /// A new list.
    Table(Box<Table>),
    /// The file has not changed for [`GONE_AFTER`]: told once.
    Gone,
}

impl StatusFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            look_at: Duration::ZERO,
            torn: 0,
            written: None,
            gone: false,
            doubted: false,
        }
    }

    /// When to look next.
    pub(super) fn deadline(&self) -> Duration {
        self.look_at
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at it anew. `doubted`: nobody listens on the management interface, so the file may be
    /// what a dead daemon left; it counts once it has changed.
    pub(super) fn begin(&mut self, doubted: bool) {
        *self = Self {
            doubted,
            ..Self::new(std::mem::take(&mut self.path))
        };
    }

    /// Looks, if it is time to.
    pub(super) fn look(&mut self, now: Now) -> Result<Look, Fault> {
        if now.boot < self.look_at {
            return Ok(Look::Nothing);
        }
        self.look_at = now.boot.saturating_add(LOOK);
        let read = read_settled(&self.path, self.written.map(|(at, _)| at), now);
        match read.map_err(|error| self.unreadable(&error))? {
            Settled::Same => self.unchanged(now),
            Settled::Moving => self.torn(now),
            Settled::Read { written, bytes } => match parse(&bytes) {
                Some(table) => {
                    self.torn = 0;
                    self.gone = false;
                    let before = self.written.replace((written, now.boot));
                    let table = table.map_err(|fault| self.misread(fault))?;
                    // An old file is no news: the daemon may be down for days.
                    match before {
                        None if is_old(written, now) => self.unchanged_for(GONE_AFTER),
                        None if self.doubted => Ok(Look::Nothing),
                        _ => Ok(Look::Table(Box::new(table))),
                    }
                }
                None => self.torn(now),
            },
        }
    }

    fn unchanged(&mut self, now: Now) -> Result<Look, Fault> {
        let since = self.written.map_or(now.boot, |(_, seen)| seen);
        self.unchanged_for(now.boot.saturating_sub(since))
    }

    fn unchanged_for(&mut self, silent: Duration) -> Result<Look, Fault> {
        if silent >= GONE_AFTER && !self.gone {
            self.gone = true;
            return Ok(Look::Gone);
        }
        match silent >= STALE_AFTER {
            true => Err(Fault::Stale(self.path.clone())),
            false => Ok(Look::Nothing),
        }
    }

    fn torn(&mut self, now: Now) -> Result<Look, Fault> {
        self.torn += 1;
        if self.torn >= MAX_TORN {
            self.torn = 0;
            return Err(Fault::NoStatus(self.path.clone()));
        }
        self.look_at = now.boot.saturating_add(LOOK_AGAIN);
        Ok(Look::Nothing)
    }

    fn unreadable(&self, error: &io::Error) -> Fault {
        if error.kind() == io::ErrorKind::NotFound {
            return Fault::NoFile(self.path.clone());
        }
        Fault::File {
            path: self.path.clone(),
            why: error.to_string(),
        }
    }

    fn misread(&self, fault: Fault) -> Fault {
        match fault {
            Fault::NoServer => Fault::NoStatus(self.path.clone()),
            fault => fault,
        }
    }
}

enum Settled {
    Same,
    Moving,
    Read { written: (i64, i64), bytes: Vec<u8> },
}

fn read_settled(path: &Path, known: Option<(i64, i64)>, now: Now) -> io::Result<Settled> {
    let file = bounded::open_regular(path)?;
    let before = file.metadata()?;
    let written = written(&before);
    if known == Some(written) {
        return Ok(Settled::Same);
    }
    let age_ms = now.wall_ms.saturating_sub(millis(written));
    if (0..SETTLED_MS).contains(&age_ms) {
        return Ok(Settled::Moving);
    }
    let bytes = bounded::prefix_of(&file, MAX_BYTES)?;
    let after = File::metadata(&file)?;
    if (self::written(&after), after.len()) != (written, before.len()) {
        return Ok(Settled::Moving);
    }
    Ok(Settled::Read { written, bytes })
}

fn written(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

fn millis((secs, nanos): (i64, i64)) -> i64 {
    secs.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

fn is_old(written: (i64, i64), now: Now) -> bool {
    let limit = i64::try_from(STALE_AFTER.as_millis()).unwrap_or(i64::MAX);
    now.wall_ms.saturating_sub(millis(written)) > limit
}

/// `None`: it is not whole.
pub(super) fn parse(bytes: &[u8]) -> Option<Result<Table, Fault>> {
    let mut parser = TableParser::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        match parser.line(without_end(line)) {
            Ok(true) => return Some(parser.finish()),
            Ok(false) => {}
            Err(fault) => return Some(Err(fault)),
        }
    }
    None
}
