//! The thread for everything that may wait for a disk: lane, sessions, ledger, hardware.
//!
//! It takes commands in order and never waits for the loop. What a crash cannot lose is decided
//! here by that order (`docs/architecture.md`): the sessions with the new connections' ids are on
//! disk before their starts are in the ledger, and an ended session leaves that file only after
//! its end is in the ledger. Both may then be recorded twice, and the controller takes twice as
//! once; neither can be missing.

mod gaps;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use getrandom::SysRng;
use getrandom::rand_core::{Rng as _, UnwrapErr};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::limits::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS};
use vpn_node_protocol::message::{self, ConnectionBatch, SealedRecord};
use vpn_node_protocol::sealing::{Context, Sealed};

use self::gaps::{limit_gaps, wire_gap};
use super::error::Error;
use super::{DISK_COMMANDS_QUEUED, enrol};
use crate::config::Settings;
use crate::core::agent::{Event, LedgerFacts, Recording};
use crate::core::lane::LaneState;
use crate::core::sessions::KnownSession;
use crate::host::hardware::SnapshotState;
use crate::host::state::{Enrolment, KeptSessions, StateDir};
use crate::ledger::{Ledger, LedgerError, Options};

/// Records kept in memory while the disk takes none: some megabytes, hours of a busy host. Then
/// the oldest are given up, and a gap says how many.
const MAX_WAITING: usize = 10_000;

/// Something for the disk thread.
pub(super) enum DiskCommand {
    /// See [`Disk::store_lane`].
    StoreLane(Box<LaneState>, oneshot::Sender<Result<(), String>>),
    /// Keep a newer certificate.
    StoreCertificate(Box<Envelope>),
    /// Look at the hardware.
    ProbeHardware,
    /// Keep the sessions, seal and append the records, sync.
    Record(Box<Recording>),
    /// Read the next batch.
    ReadBatch,
    /// Forget what the controller has.
    Acked {
        /// Last acknowledged sequence.
        through: u64,
        /// Digest of the signed reply.
        proof: [u8; 32],
    },
}

/// The loop's side of the disk thread.
pub(super) struct Disk {
    commands: mpsc::Sender<DiskCommand>,
    /// Answers: one batch and one probe can be under way, so sending never waits.
    events: mpsc::Receiver<Event>,
    facts: watch::Receiver<LedgerFacts>,
    thread: thread::JoinHandle<()>,
}

impl Disk {
    /// Tells the thread; waits only while [`DISK_COMMANDS_QUEUED`] commands wait already.
    pub(super) async fn tell(&self, command: DiskCommand) {
        if self.commands.send(command).await.is_err() {
            tracing::error!("the disk thread has ended: nothing can be stored any more");
        }
    }

    /// Has the lane written; the receiver tells when, or why not.
    pub(super) async fn store_lane(
        &self,
        lane: Box<LaneState>,
    ) -> oneshot::Receiver<Result<(), String>> {
        let (written, receiver) = oneshot::channel();
        self.tell(DiskCommand::StoreLane(lane, written)).await;
        receiver
    }

    /// The next thing that the thread has to say.
    pub(super) async fn event(&mut self) -> Event {
        tokio::select! {
            Some(event) = self.events.recv() => event,
            Ok(()) = self.facts.changed() => Event::Ledger(self.facts.borrow_and_update().clone()),
            else => std::future::pending().await,
        }
    }

    /// Waits until everything told so far is done.
    pub(super) async fn finish(self) {
        drop(self.commands);
        let thread = self.thread;
        let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    }
}

/// The thread's side, before it runs.
pub(super) struct DiskThread {
    settings: Settings,
    state: StateDir,
    server_id: String,
    ledger: Option<Ledger>,
    /// What the disk did not take yet.
    waiting: Recording,
    /// Records that were given up because too many waited.
    given_up: u64,
    /// What is in `sessions.json`.
    kept: BTreeMap<Uuid, KnownSession>,
    unrecorded: BTreeSet<Uuid>,
    quarantined: u64,
    lost: u64,
    error: Option<String>,
    rng: UnwrapErr<SysRng>,
}

/// Opens the ledger and reads what is kept.
pub(super) fn open(
    settings: &Settings,
    state: &StateDir,
    enrolment: &Enrolment,
) -> Result<DiskThread, Error> {
    let kept = state.sessions()?;
    let mut this = DiskThread {
        settings: settings.clone(),
        state: state.clone(),
        server_id: enrolment.server_id.clone(),
        ledger: None,
        waiting: Recording::default(),
        given_up: 0,
        kept: kept
            .sessions
            .into_iter()
            .map(|known| (known.connection_id, known))
            .collect(),
        unrecorded: kept.unrecorded,
        quarantined: 0,
        lost: 0,
        error: None,
        rng: UnwrapErr(SysRng),
    };
    this.open_ledger()?;
    Ok(this)
}

impl DiskThread {
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

    /// Starts the thread.
    pub(super) fn spawn(mut self) -> Disk {
        let (commands, receiver) = mpsc::channel(DISK_COMMANDS_QUEUED);
        let (to_events, events) = mpsc::channel(4);
        let (to_facts, facts) = watch::channel(self.facts());
        let thread = thread::Builder::new()
            .name("disk".into())
            .spawn(move || self.work(receiver, &to_events, &to_facts))
            .expect("a thread can be started when the daemon starts");
        Disk {
            commands,
            events,
            facts,
            thread,
        }
    }

    fn work(
        &mut self,
        mut commands: mpsc::Receiver<DiskCommand>,
        events: &mpsc::Sender<Event>,
        facts: &watch::Sender<LedgerFacts>,
    ) {
        let mut next = commands.blocking_recv();
        while let Some(command) = next.take() {
            match command {
                DiskCommand::Record(mut recording) => {
                    // Group commit: what waits behind it shares its syncs.
                    while let Ok(command) = commands.try_recv() {
                        match command {
                            DiskCommand::Record(more) => join(&mut recording, *more),
                            other => {
                                next = Some(other);
                                break;
                            }
                        }
                    }
                    self.record(*recording);
                }
                DiskCommand::StoreLane(lane, written) => {
                    let result = self
                        .state
                        .store_lane(&lane)
                        .map_err(|error| error.to_string());
                    let _ = written.send(result);
                }
                DiskCommand::StoreCertificate(certificate) => {
                    if let Err(error) = self.state.store_certificate(*certificate) {
                        tracing::error!(%error, "the controller's new certificate cannot be stored");
                    }
                }
                DiskCommand::ProbeHardware => {
                    let _ = events.blocking_send(self.probe());
                }
                DiskCommand::ReadBatch => {
                    let _ = events.blocking_send(Event::Batch(self.read_batch()));
                }
                DiskCommand::Acked { through, proof } => self.acked(through, &proof),
            }
            facts.send_if_modified(|known| {
                let now = self.facts();
                let changed = *known != now;
                *known = now;
                changed
            });
            if next.is_none() {
                next = commands.blocking_recv();
            }
        }
    }

    fn record(&mut self, recording: Recording) {
        let mut all = std::mem::take(&mut self.waiting);
        join(&mut all, recording);
        let after: BTreeMap<Uuid, KnownSession> = all
            .sessions
            .iter()
            .map(|known| (known.connection_id, known.clone()))
            .collect();
        let ended = all
            .ends
            .iter()
            .filter_map(|id| Some((*id, self.kept.get(id)?.clone())));
        let before: BTreeMap<Uuid, KnownSession> = ended.chain(after.clone()).collect();
        self.unrecorded.extend(all.starts.iter().copied());
        self.unrecorded.retain(|id| before.contains_key(id));
        let kept = self.keep(before);
        if all.records.is_empty() {
            self.error = kept.err();
            return;
        }
        // Also when the sessions could not be kept: a record on disk is worth more.
        match self.append(&all) {
            Ok(()) => {
                self.error = kept.err();
                for id in &all.starts {
                    self.unrecorded.remove(id);
                }
                // On disk with the next change: until then an end is known twice, never lost.
                self.kept = after;
            }
            Err(error) => {
                tracing::error!(%error, records = all.records.len(), "connection records cannot be stored yet");
                self.error = Some(error);
                self.given_up += give_up_beyond(&mut all, MAX_WAITING);
                self.waiting = all;
            }
        }
    }

    fn keep(&mut self, sessions: BTreeMap<Uuid, KnownSession>) -> Result<(), String> {
        let kept = KeptSessions {
            version: 1,
            sessions: sessions.values().cloned().collect(),
            unrecorded: self.unrecorded.clone(),
        };
        self.state.store_sessions(&kept).map_err(|error| {
            tracing::error!(%error, "the live sessions cannot be kept for the next start");
            error.to_string()
        })?;
        self.kept = sessions;
        Ok(())
    }

    /// Seals each record for its place, appends all, and syncs once. An error of the disk closes
    /// the ledger; opening it again tells which places are taken, and all are appended again (the
    /// controller takes a record twice as once).
    fn append(&mut self, recording: &Recording) -> Result<(), String> {
        let Err(first) = self.try_append(recording) else {
            return Ok(());
        };
        if self
            .ledger
            .as_ref()
            .is_some_and(|ledger| !ledger.is_closed())
        {
            return Err(first);
        }
        self.open_ledger().map_err(|error| error.to_string())?;
        tracing::warn!(error = first, "the ledger was opened again after an error");
        self.try_append(recording)
    }

    fn try_append(&mut self, recording: &Recording) -> Result<(), String> {
        let seal_to = recording
            .seal_to
            .as_ref()
            .ok_or("the controller's certificate has no sealing key")?;
        let ledger = self.ledger.as_mut().ok_or("the ledger is not open")?;
        if self.given_up > 0 {
            ledger
                .give_up(self.given_up)
                .map_err(|error| error.to_string())?;
            self.lost += self.given_up;
            self.given_up = 0;
        }
        let ledger_epoch = Hex(ledger.epoch());
        for record in &recording.records {
            let sequence = ledger.next_seq();
            let context = Context::Connection {
                server_id: &self.server_id,
                ledger_epoch: &ledger_epoch,
                sequence,
            };
            let json =
                zeroize::Zeroizing::new(serde_json::to_vec(record).expect("records serialise"));
            let sealed = Sealed::seal(seal_to, context, &json, &mut self.rng)
                .map_err(|error| error.to_string())?;
            ledger
                .append(sequence, sealed.as_bytes())
                .map_err(|error| error.to_string())?;
        }
        ledger.sync().map_err(|error| error.to_string())
    }

    fn open_ledger(&mut self) -> Result<(), LedgerError> {
        self.ledger = None;
        let options = Options {
            max_bytes: self.settings.ledger.max_bytes,
            ..Options::default()
        };
        let mut epoch = [0; 16];
        self.rng.fill_bytes(&mut epoch);
        let (ledger, recovery) = Ledger::open(&self.state.ledger(), options, epoch)?;
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
        self.lost += recovery
            .new_gaps
            .iter()
            .map(|gap| gap.last - gap.first + 1)
            .sum::<u64>();
        self.ledger = Some(ledger);
        Ok(())
    }

    fn read_batch(&mut self) -> ConnectionBatch {
        let mut batch = ConnectionBatch {
            ledger_epoch: Hex([0; 16]),
            records: Vec::new(),
            gaps: Vec::new(),
        };
        let Some(ledger) = self.ledger.as_mut() else {
            return batch;
        };
        batch.ledger_epoch = Hex(ledger.epoch());
        let from = ledger.acked() + 1;
        match ledger.read_from(from, MAX_BATCH_RECORDS, MAX_BATCH_BYTES) {
            Ok(read) => {
                batch.gaps = read.gaps.iter().map(wire_gap).collect();
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
            }
            Err(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                self.error = Some(error.to_string());
            }
        }
        batch
    }

    fn acked(&mut self, through: u64, proof: &[u8; 32]) {
        let Some(ledger) = self.ledger.as_mut() else {
            return;
        };
        let mut result = ledger.ack(through, proof);
        if let Err(LedgerError::AckBeyondHead { .. }) = result {
            // The controller has records that this disk does not show: it lost its newest ones
            // without a trace. Their sequences must not be given to other records.
            tracing::error!(
                through,
                next = ledger.next_seq(),
                "the disk lost the newest connection records; the controller has them"
            );
            let behind = (through + 1).saturating_sub(ledger.next_seq());
            result = ledger
                .give_up(behind)
                .and_then(|_| ledger.ack(through, proof));
        }
        if let Err(error) = result {
            tracing::error!(%error, through, "the controller's acknowledgement cannot be stored");
            self.error = Some(error.to_string());
        }
        if self.ledger.as_ref().is_some_and(Ledger::is_closed)
            && let Err(error) = self.open_ledger()
        {
            tracing::error!(%error, "the connection ledger cannot be opened");
            self.error = Some(error.to_string());
        }
    }

    fn probe(&self) -> Event {
        let probe = enrol::probe(&self.settings);
        for note in &probe.notes {
            tracing::debug!(%note, "hardware probe");
        }
        if probe.snapshot != SnapshotState::Read {
            tracing::warn!(
                "root's hardware snapshot is missing in {}: restart the unit, or run 'vpn-node-agent --probe-hardware' as root",
                self.settings.runtime_dir.display()
            );
        }
        Event::Hardware(Box::new(probe.components))
    }
}

/// Two recordings as one: the later sessions hold, all records count.
fn join(first: &mut Recording, second: Recording) {
    first.sessions = second.sessions;
    first.starts.extend(second.starts);
    first.ends.extend(second.ends);
    first.records.extend(second.records);
    first.seal_to = second.seal_to.or_else(|| first.seal_to.take());
}

/// Gives the oldest records up, and forgets the connections of which none is left; says how many.
fn give_up_beyond(recording: &mut Recording, most: usize) -> u64 {
    let too_many = recording.records.len().saturating_sub(most);
    if too_many == 0 {
        return 0;
    }
    recording.records.drain(..too_many);
    let left: BTreeSet<Uuid> = recording.records.iter().map(|r| r.connection_id).collect();
    recording.starts.retain(|id| left.contains(id));
    recording.ends.retain(|id| left.contains(id));
    too_many as u64
}

#[cfg(test)]
mod tests;
