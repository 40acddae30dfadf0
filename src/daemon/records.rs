//! Connection records on their way to the disk and to the controller: sealed, appended, synced,
//! read in batches, forgotten once acknowledged.
//!
//! Owns the ledger. It is opened when it is first needed and again after an error of the disk; an
//! agent whose ledger cannot be opened goes on proving itself, and says so.

use std::path::PathBuf;

use getrandom::SysRng;
use getrandom::rand_core::{Rng as _, UnwrapErr};
use vpn_node_protocol::certificate::SealingKeyEntry;
use vpn_node_protocol::connection::ConnectionRecord;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use vpn_node_protocol::message::{self, ConnectionBatch, SealedRecord};
use vpn_node_protocol::sealing::{Context, Sealed};
use zeroize::Zeroizing;

use super::gaps::{limit_gaps, wire_gap};
use crate::core::agent::{LedgerFacts, Recording};
use crate::core::journal;
use crate::ledger::{Batch, Disk, Gap, Ledger, LedgerError, Options};

/// Most records that share one sync. Sealing so many takes some milliseconds (group commit promises
/// 50); and what a failed sync leaves open, so that it must be sealed again, is no more than this.
const MAX_GROUP: usize = 128;

/// See the module.
pub(super) struct Records<D: Disk> {
    server_id: String,
    disk: D,
    dir: PathBuf,
    options: Options,
    ledger: Option<Ledger<D>>,
    /// Records that were given up because too many waited; the ledger does not know yet.
    given_up: u64,
    quarantined: u64,
    /// Sequences that were lost since the start, but for what the open ledger has dropped.
    lost: u64,
    /// What failed last, until something works again.
    error: Option<String>,
    /// What the log says of it, until it works again: opening alone may not be enough.
    told: Option<String>,
    rng: UnwrapErr<SysRng>,
}

impl<D: Disk + Clone> Records<D> {
    /// Opens nothing yet.
    pub(super) fn on(disk: D, server_id: &str, dir: PathBuf, options: Options) -> Self {
        Self {
            server_id: server_id.to_owned(),
            disk,
            dir,
            options,
            ledger: None,
            given_up: 0,
            quarantined: 0,
            lost: 0,
            error: None,
            told: None,
            rng: UnwrapErr(SysRng),
        }
    }

    /// How the ledger is.
    pub(super) fn facts(&self) -> LedgerFacts {
        let backlog = self
            .ledger
            .as_ref()
            .map(Ledger::backlog)
            .unwrap_or_default();
        LedgerFacts {
            records: backlog.records,
            bytes: backlog.bytes,
            gaps: u64::from(backlog.lost > 0),
            lost: self.lost + self.ledger.as_ref().map_or(0, Ledger::dropped),
            quarantined: self.quarantined,
            unstored: 0,
            error: self.error.clone(),
            low_space_bytes: None,
        }
    }

    /// Changes how much the ledger may take and what gives way then.
    pub(super) fn set_limits(&mut self, options: Options) {
        self.options = options;
        if let Some(ledger) = &mut self.ledger {
            ledger.set_limits(options.max_bytes, options.when_full);
        }
    }

    /// Opens the ledger if it is not open.
    pub(super) fn open_if_needed(&mut self) {
        if let Err(error) = self.opened() {
            self.failed("opened", &error.to_string());
        }
    }

    /// Seals each record for its place, appends and syncs them in groups, and takes those that are
    /// durable off the recording: what is left after an error is to be given again.
    ///
    /// An error of the disk closes the ledger. It is opened again at once, which tells which places
    /// are taken, and the group is appended again (the controller takes a record twice as once).
    pub(super) fn append(&mut self, recording: &mut Recording) -> Result<(), ()> {
        let mut appended = self.try_append(recording);
        if appended.is_err() && self.ledger.as_ref().is_none_or(Ledger::is_closed) {
            appended = self.try_append(recording);
        }
        match appended {
            Ok(()) => {
                self.error = None;
                self.recovered();
            }
            Err(ref error) => self.failed("written", error),
        }
        appended.map_err(drop)
    }

    /// So many records will never be appended: a gap says so, now or as soon as the ledger takes it.
    pub(super) fn give_up(&mut self, count: u64) {
        self.given_up += count;
        if let Err(error) = self.note_given_up() {
            self.failed("told what was given up", &error.to_string());
        }
    }

    /// The oldest records that the controller does not have; empty when there are none.
    pub(super) fn read_batch(&mut self) -> ConnectionBatch {
        let read = self
            .opened()
            .map_err(|error| error.to_string())
            .and_then(|ledger| {
                let from = ledger.acked() + 1;
                let batch = ledger.read_from(from, MAX_BATCH_RECORDS, MAX_BATCH_BYTES);
                batch
                    .map(|batch| wire_batch(ledger.epoch(), batch))
                    .map_err(|error| error.to_string())
            });
        match read {
            Ok(batch) => {
                self.recovered();
                if let Some(last) = batch.records.last() {
                    let through = last.seq;
                    tracing::debug!(through, "connection records are read for the controller");
                }
                batch
            }
            Err(error) => {
                self.failed("read", &error);
                wire_batch(
                    [0; 16],
                    Batch {
                        records: Vec::new(),
                        gaps: Vec::new(),
                        next: 1,
                    },
                )
            }
        }
    }

    /// The controller has everything up to `through`.
    pub(super) fn acked(&mut self, through: u64, proof: &[u8; 32]) {
        if let Err(error) = self.try_ack(through, proof) {
            self.failed("told what the controller has", &error.to_string());
        }
    }

    fn try_append(&mut self, recording: &mut Recording) -> Result<(), String> {
        self.note_given_up().map_err(|error| error.to_string())?;
        let Recording {
            records, seal_to, ..
        } = recording;
        let seal_to = seal_to
            .as_ref()
            .ok_or("the controller's certificate has no sealing key")?;
        while !records.is_empty() {
            let group = &records[..records.len().min(MAX_GROUP)];
            let (taken, result) = self.append_group(group, seal_to);
            records.drain(..taken);
            result?;
        }
        Ok(())
    }

    /// How many of the group are durable, and what kept the others away.
    fn append_group(
        &mut self,
        group: &[ConnectionRecord],
        seal_to: &SealingKeyEntry,
    ) -> (usize, Result<(), String>) {
        let server_id = self.server_id.clone();
        let ledger = match self.opened() {
            Ok(ledger) => ledger,
            Err(error) => return (0, Err(error.to_string())),
        };
        let mut appended = 0;
        let mut result = Ok(());
        for record in group {
            result = append_sealed(ledger, &server_id, record, seal_to);
            if result.is_err() {
                break;
            }
            appended += 1;
        }
        // A full ledger refuses a record and keeps those before it; a closed one says so here.
        match ledger.sync() {
            Ok(()) => {
                let through = ledger.next_seq() - 1;
                tracing::debug!(through, "connection records are on disk");
                (appended, result)
            }
            Err(error) => (0, result.and(Err(error.to_string()))),
        }
    }

    /// Has the ledger say what was given up.
    fn note_given_up(&mut self) -> Result<(), LedgerError> {
        let count = self.given_up;
        if count > 0 {
            self.opened()?.give_up(count)?;
            self.lost += count;
            self.given_up = 0;
        }
        Ok(())
    }

    fn try_ack(&mut self, through: u64, proof: &[u8; 32]) -> Result<(), LedgerError> {
        tracing::debug!(through, "the controller has the connection records");
        let ledger = self.opened()?;
        match ledger.ack(through, proof) {
            Err(LedgerError::AckBeyondHead { .. }) => {}
            done => return done,
        }
        // The controller has records that this disk does not show: it lost its newest ones without
        // a trace. Their sequences must not be given to other records.
        let next = ledger.next_seq();
        tracing::error!(
            message_id = %journal::RECORDS_LOST,
            through,
            next,
            "the disk lost the newest connection records; the controller has them"
        );
        ledger.give_up((through + 1).saturating_sub(next))?;
        ledger.ack(through, proof)
    }

    /// The open ledger.
    fn opened(&mut self) -> Result<&mut Ledger<D>, LedgerError> {
        match self.ledger.take() {
            Some(ledger) if !ledger.is_closed() => return Ok(self.ledger.insert(ledger)),
            Some(closed) => self.lost += closed.dropped(),
            None => {}
        }
        // The closed one is gone by now: one process has a ledger at a time, this one too.
        self.open()
    }

    fn open(&mut self) -> Result<&mut Ledger<D>, LedgerError> {
        let mut epoch = [0; 16];
        self.rng.fill_bytes(&mut epoch);
        let disk = self.disk.clone();
        let (ledger, recovery) = Ledger::open_on(disk, &self.dir, self.options, epoch)?;
        if recovery.torn_bytes > 0 {
            tracing::warn!(
                message_id = %journal::LEDGER_MENDED,
                bytes = recovery.torn_bytes,
                "the ledger ended in an unfinished write, which was cut off"
            );
        }
        for path in &recovery.quarantined {
            tracing::error!(
                message_id = %journal::LEDGER_DAMAGED,
                path = %path.display(), "a damaged part of the connection ledger was set aside; the loss is reported to the controller"
            );
        }
        self.quarantined += recovery.quarantined.len() as u64;
        self.lost += recovery.new_gaps.iter().map(Gap::span).sum::<u64>();
        self.error = None;
        Ok(self.ledger.insert(ledger))
    }

    /// It took records, or gave some: what the log said of it is over.
    fn recovered(&mut self) {
        if self.told.take().is_some() {
            tracing::info!(
                message_id = %journal::LEDGER_RECOVERED,
                "the connection ledger can be used again"
            );
        }
    }

    /// Remembers what failed, and logs it when it begins, not at every attempt.
    fn failed(&mut self, what: &str, error: &str) {
        if self.told.as_deref() != Some(error) {
            tracing::error!(
                message_id = %journal::LEDGER_FAILED,
                error,
                "the connection ledger cannot be {what}; it will be tried again"
            );
        }
        self.error = Some(error.to_owned());
        self.told.clone_from(&self.error);
    }
}

/// Seals a record for the next place, and appends it there.
fn append_sealed<D: Disk>(
    ledger: &mut Ledger<D>,
    server_id: &str,
    record: &ConnectionRecord,
    seal_to: &SealingKeyEntry,
) -> Result<(), String> {
    let sequence = ledger.next_seq();
    let context = Context::Connection {
        server_id,
        ledger_epoch: &Hex(ledger.epoch()),
        sequence,
    };
    let json = Zeroizing::new(serde_json::to_vec(record).expect("records serialise"));
    let sealed = Sealed::seal(seal_to, context, &json, &mut UnwrapErr(SysRng));
    let sealed = sealed.map_err(|error| error.to_string())?;
    let appended = ledger.append(sequence, sealed.as_bytes());
    appended.map_err(|error| error.to_string())
}

fn wire_batch(epoch: [u8; 16], read: Batch) -> ConnectionBatch {
    let mut batch = ConnectionBatch {
        ledger_epoch: Hex(epoch),
        records: Vec::with_capacity(read.records.len()),
        gaps: read.gaps.iter().map(wire_gap).collect(),
    };
    for (seq, bytes) in read.records {
        match Sealed::from_bytes(bytes) {
            Ok(sealed) => batch.records.push(SealedRecord { seq, sealed }),
            // Of no sealing that this version knows: lost, and said so.
            Err(_) => batch.gaps.push(message::Gap {
                first: seq,
                last: seq,
                reason: message::GapReason::Damaged,
            }),
        }
    }
    limit_gaps(&mut batch);
    batch
}

#[cfg(test)]
mod tests;
