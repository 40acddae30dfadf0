//! Connection records on their way to the disk and to the controller: sealed, appended, synced,
//! read in batches, forgotten once acknowledged.
//!
//! Owns the ledger. It is opened when it is first needed and again after an error of the disk; an
//! agent whose ledger cannot be opened goes on proving itself, and says so.

use std::path::PathBuf;

use getrandom::SysRng;
use getrandom::rand_core::{Rng as _, UnwrapErr};
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use vpn_node_protocol::message::{self, ConnectionBatch, SealedRecord};
use vpn_node_protocol::sealing::{Context, Sealed};
use zeroize::Zeroizing;

use super::gaps::{limit_gaps, wire_gap};
use crate::core::agent::{LedgerFacts, Recording};
use crate::ledger::{Batch, Gap, Ledger, LedgerError, Options};

/// See the module.
pub(super) struct Records {
    server_id: String,
    dir: PathBuf,
    max_bytes: u64,
    ledger: Option<Ledger>,
    /// Records that were given up because too many waited; the ledger does not know yet.
    given_up: u64,
    quarantined: u64,
    lost: u64,
    /// What failed last, until something works again.
    error: Option<String>,
    rng: UnwrapErr<SysRng>,
}

impl Records {
    /// Opens nothing yet.
    pub(super) fn new(server_id: &str, dir: PathBuf, max_bytes: u64) -> Self {
        Self {
            server_id: server_id.to_owned(),
            dir,
            max_bytes,
            ledger: None,
            given_up: 0,
            quarantined: 0,
            lost: 0,
            error: None,
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
            lost: self.lost,
            quarantined: self.quarantined,
            error: self.error.clone(),
        }
    }

    /// Opens the ledger if it is not open.
    pub(super) fn open_if_needed(&mut self) {
        if let Err(error) = self.opened() {
            self.failed("opened", &error.to_string());
        }
    }

    /// Seals each record for its place, appends all, and syncs once. An error of the disk closes
    /// the ledger; opening it again tells which places are taken, and all are appended again (the
    /// controller takes a record twice as once).
    pub(super) fn append(&mut self, recording: &Recording) -> Result<(), ()> {
        let mut appended = self.try_append(recording);
        if appended.is_err() && self.ledger.as_ref().is_none_or(Ledger::is_closed) {
            appended = self.try_append(recording);
        }
        match appended {
            Ok(()) => self.error = None,
            Err(ref error) => self.failed("written", error),
        }
        appended.map_err(drop)
    }

    /// So many records will never be appended: a gap says so as soon as the ledger takes it.
    pub(super) fn give_up(&mut self, count: u64) {
        self.given_up += count;
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
            Ok(batch) => batch,
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

    fn try_append(&mut self, recording: &Recording) -> Result<(), String> {
        let seal_to = recording
            .seal_to
            .as_ref()
            .ok_or("the controller's certificate has no sealing key")?;
        let server_id = self.server_id.clone();
        let given_up = self.given_up;
        if given_up > 0 {
            let gap = self.opened().and_then(|ledger| ledger.give_up(given_up));
            gap.map_err(|error| error.to_string())?;
            self.lost += given_up;
            self.given_up = 0;
        }
        let ledger = self.opened().map_err(|error| error.to_string())?;
        let ledger_epoch = Hex(ledger.epoch());
        for record in &recording.records {
            let sequence = ledger.next_seq();
            let context = Context::Connection {
                server_id: &server_id,
                ledger_epoch: &ledger_epoch,
                sequence,
            };
            let json = Zeroizing::new(serde_json::to_vec(record).expect("records serialise"));
            let sealed = Sealed::seal(seal_to, context, &json, &mut UnwrapErr(SysRng));
            let sealed = sealed.map_err(|error| error.to_string())?;
            let appended = ledger.append(sequence, sealed.as_bytes());
            appended.map_err(|error| error.to_string())?;
        }
        ledger.sync().map_err(|error| error.to_string())
    }

    fn try_ack(&mut self, through: u64, proof: &[u8; 32]) -> Result<(), LedgerError> {
        let ledger = self.opened()?;
        match ledger.ack(through, proof) {
            Err(LedgerError::AckBeyondHead { .. }) => {}
            done => return done,
        }
        // The controller has records that this disk does not show: it lost its newest ones without
        // a trace. Their sequences must not be given to other records.
        let next = ledger.next_seq();
        tracing::error!(
            through,
            next,
            "the disk lost the newest connection records; the controller has them"
        );
        ledger.give_up((through + 1).saturating_sub(next))?;
        ledger.ack(through, proof)
    }

    /// The open ledger.
    fn opened(&mut self) -> Result<&mut Ledger, LedgerError> {
        match self.ledger.take() {
            Some(ledger) if !ledger.is_closed() => Ok(self.ledger.insert(ledger)),
            // Dropped first: one process has a ledger at a time, this one too.
            _ => self.open(),
        }
    }

    fn open(&mut self) -> Result<&mut Ledger, LedgerError> {
        let options = Options {
            max_bytes: self.max_bytes,
            ..Options::default()
        };
        let mut epoch = [0; 16];
        self.rng.fill_bytes(&mut epoch);
        let (ledger, recovery) = Ledger::open(&self.dir, options, epoch)?;
        if recovery.torn_bytes > 0 {
            tracing::warn!(
                bytes = recovery.torn_bytes,
                "the ledger ended in an unfinished write, which was cut off"
            );
        }
        for path in &recovery.quarantined {
            tracing::error!(path = %path.display(), "a damaged part of the connection ledger was set aside; the loss is reported to the controller");
        }
        self.quarantined += recovery.quarantined.len() as u64;
        self.lost += recovery.new_gaps.iter().map(Gap::span).sum::<u64>();
        self.error = None;
        Ok(self.ledger.insert(ledger))
    }

    /// Remembers what failed, and logs it when it begins, not at every attempt.
    fn failed(&mut self, what: &str, error: &str) {
        if self.error.as_deref() != Some(error) {
            tracing::error!(
                error,
                "the connection ledger cannot be {what}; it will be tried again"
            );
        }
        self.error = Some(error.to_owned());
    }
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
