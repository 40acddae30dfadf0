//! The thread for everything that may wait for a disk: lane, sessions, ledger, hardware.
//!
//! It takes commands in order and never waits for the loop. What a crash cannot lose is decided
//! here by that order (`docs/architecture.md`): the sessions with the new connections' ids are on
//! disk before their starts are in the ledger, and an ended session leaves that file only after
//! its end is in the ledger. Both may then be recorded twice, and the controller takes twice as
//! once; neither can be missing.

mod load;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use ed25519_dalek::SigningKey;
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use nix::sys::statvfs::statvfs;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;

pub(super) use self::load::Load;
use self::watched::Watched;
use super::progress::{Part, Progress};
use super::records::Records;
use super::updates::UpdateFiles;
use super::{DISK_COMMANDS_QUEUED, enrol};
use crate::config::{self, Settings};
use crate::core::agent::{Event, LedgerFacts, Recording};
use crate::core::journal;
use crate::core::lane::LaneState;
use crate::core::sessions::KnownSession;
use crate::core::update;
use crate::host::hardware::SnapshotState;
use crate::host::state::{Enrolment, KeptSessions, LaneFile, SessionsFile, StateDir};
use crate::ledger::{HostDisk, Options, WhenFull};

/// Records kept in memory while the disk takes none: some megabytes, hours of a busy host. Then
/// the oldest are given up, and a gap says how many.
const MAX_WAITING: usize = 10_000;

/// Fewer free bytes than these are worth a word: the ledger's next files and a release that is
/// downloaded have little room left.
const LOW_SPACE: u64 = 64 << 20;

/// What the thread may have to say at once: see [`Disk::events`].
const EVENTS_QUEUED: usize = 4;

/// Something for the disk thread.
pub(super) enum DiskCommand {
    /// See [`Disk::store_lane`].
    StoreLane(Box<LaneState>, oneshot::Sender<Result<(), String>>),
    /// Keep the key of a rotation beside the one in force.
    StoreNextKey(SigningKey),
    /// Forget it.
    DropNextKey,
    /// Keep a newer certificate.
    StoreCertificate(Box<Envelope>),
    /// Look at the hardware.
    ProbeHardware,
    /// Keep the sessions, seal and append the records, sync.
    Record(Box<Recording>),
    /// The updater's status, and what is kept and cleaned of a release.
    Update(update::Command),
    /// Other limits of the ledger.
    LimitLedger(Options),
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
    /// Answers: one batch, one probe, one key and one look can be under way, so sending never waits.
    events: mpsc::Receiver<Event>,
    facts: watch::Receiver<LedgerFacts>,
    load: Arc<Load>,
    /// Ends when the thread does.
    ended: oneshot::Receiver<()>,
}

impl Disk {
    /// Tells the thread; waits only while [`DISK_COMMANDS_QUEUED`] commands wait already.
    pub(super) async fn tell(&self, command: DiskCommand) {
        if let DiskCommand::Record(recording) = &command {
            self.load.add(recording);
        }
        if self.commands.send(command).await.is_err() {
            tracing::error!(
                message_id = %journal::STATE_NOT_KEPT,
                "the disk thread has ended: nothing can be stored any more"
            );
        }
    }

    /// What waits for the thread.
    pub(super) fn load(&self) -> Arc<Load> {
        self.load.clone()
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
        // Not a join in a thread of the runtime: the runtime would wait for that for ever.
        let _ = self.ended.await;
    }
}

/// The thread's side, before it runs.
pub(super) struct DiskThread {
    settings: Settings,
    state: StateDir,
    records: Records<Watched<HostDisk>>,
    progress: Progress,
    /// The key that is in its place; the lane says when another one is in force.
    identity_key: PublicKey,
    /// What the disk did not take yet.
    waiting: Recording,
    /// The sessions on disk.
    kept: SessionsFile,
    unrecorded: BTreeSet<Uuid>,
    /// Why the sessions could not be kept, the last time.
    error: Option<String>,
    /// Whether the last probe had what only root can read: said when it changes.
    snapshot: SnapshotState,
    updates: UpdateFiles,
}

impl DiskThread {
    /// `kept` is what [`StateDir::sessions`] gave.
    pub(super) fn new(
        settings: &Settings,
        state: &StateDir,
        enrolment: &Enrolment,
        kept: KeptSessions,
        progress: Progress,
    ) -> Self {
        let unrecorded = kept.unrecorded.clone();
        Self {
            settings: settings.clone(),
            state: state.clone(),
            records: Records::on(
                Watched::new(HostDisk, progress.clone()),
                &enrolment.server_id,
                state.ledger(),
                ledger_options(settings),
            ),
            progress,
            identity_key: enrolment.identity_key,
            waiting: Recording::default(),
            kept: state.sessions_file(kept),
            unrecorded,
            error: None,
            snapshot: SnapshotState::Read,
            updates: UpdateFiles::new(settings),
        }
    }

    fn facts(&self) -> LedgerFacts {
        let facts = self.records.facts();
        LedgerFacts {
            unstored: self.waiting.records.len() as u64,
            error: facts.error.or_else(|| self.error.clone()),
            low_space_bytes: low_space(self.state.path()),
            ..facts
        }
    }

    /// Starts the thread.
    pub(super) fn spawn(mut self, mut lane_file: LaneFile) -> Disk {
        let (commands, receiver) = mpsc::channel(DISK_COMMANDS_QUEUED);
        let (to_events, events) = mpsc::channel(EVENTS_QUEUED);
        let (to_facts, facts) = watch::channel(self.facts());
        let load = Arc::new(Load::default());
        let taken = load.clone();
        let (ends, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("disk".into())
            .spawn(move || {
                self.work(&mut lane_file, (receiver, &taken), &to_events, &to_facts);
                // The files are closed before anybody hears of the end.
                drop((self, lane_file));
                drop(ends);
            })
            .expect("a thread can be started when the daemon starts");
        Disk {
            commands,
            events,
            facts,
            load,
            ended,
        }
    }

    fn work(
        &mut self,
        lane_file: &mut LaneFile,
        (mut commands, load): (mpsc::Receiver<DiskCommand>, &Load),
        events: &mpsc::Sender<Event>,
        facts: &watch::Sender<LedgerFacts>,
    ) {
        let mut next = commands.blocking_recv();
        while let Some(command) = next.take() {
            let work = self.progress.begin(Part::Disk);
            let tries_anyway = matches!(command, DiskCommand::Record(_));
            match command {
                DiskCommand::Record(mut recording) => {
                    load.taken(&recording);
                    // Group commit: what waits behind it shares its syncs.
                    while let Ok(command) = commands.try_recv() {
                        match command {
                            DiskCommand::Record(more) => {
                                load.taken(&more);
                                join(&mut recording, *more);
                            }
                            other => {
                                next = Some(other);
                                break;
                            }
                        }
                    }
                    self.record(*recording);
                }
                DiskCommand::StoreLane(lane, written) => {
                    let result = lane_file.store(&lane).map_err(|error| error.to_string());
                    if result.is_ok() {
                        self.follow(&lane);
                    }
                    let _ = written.send(result);
                }
                DiskCommand::StoreNextKey(key) => {
                    let stored = self.state.store_next_key(&key, &mut UnwrapErr(SysRng));
                    let stored = stored.map_err(|error| error.to_string());
                    let _ = events.blocking_send(Event::NextKeyStored(stored));
                }
                DiskCommand::DropNextKey => {
                    if let Err(error) = self.state.drop_next_key(&mut UnwrapErr(SysRng)) {
                        tracing::warn!(
                            message_id = %journal::IDENTITY_KEY_LEFT,
                            %error, "an unused identity key cannot be removed"
                        );
                    }
                }
                DiskCommand::StoreCertificate(certificate) => {
                    if let Err(error) = self.state.store_certificate(*certificate) {
                        tracing::error!(
                            message_id = %journal::STATE_NOT_KEPT,
                            %error, "the controller's new certificate cannot be stored"
                        );
                    }
                }
                DiskCommand::ProbeHardware => {
                    let _ = events.blocking_send(self.probe());
                }
                DiskCommand::Update(command) => {
                    if let Some(event) = self.updates.obey(command) {
                        let _ = events.blocking_send(Event::Update(event));
                    }
                }
                DiskCommand::LimitLedger(options) => self.records.set_limits(options),
                DiskCommand::ReadBatch => {
                    let _ = events.blocking_send(Event::Batch(self.records.read_batch()));
                }
                DiskCommand::Acked { through, proof } => self.records.acked(through, &proof),
            }
            if !tries_anyway {
                self.retry();
            }
            // Only now: the first request of a starting agent does not wait for it.
            self.records.open_if_needed();
            facts.send_if_modified(|known| {
                let now = self.facts();
                let changed = *known != now;
                *known = now;
                changed
            });
            drop(work);
            if next.is_none() {
                next = commands.blocking_recv();
            }
        }
        let _work = self.progress.begin(Part::Disk);
        self.give_up_waiting();
    }

    /// The lane on disk names another key: that one is in force, and its file takes its place. What
    /// fails here is done with the next lane, or at the next start.
    fn follow(&mut self, lane: &LaneState) {
        let Some(key) = lane.identity_key.filter(|key| *key != self.identity_key) else {
            return;
        };
        match self.state.finish_change(&mut UnwrapErr(SysRng)) {
            Ok(()) => {
                tracing::info!(
                    message_id = %journal::IDENTITY_ROTATED,
                    epoch = lane.epoch, key = %key.id(), "the identity key was rotated"
                );
                self.identity_key = key;
            }
            Err(error) => {
                tracing::error!(
                    message_id = %journal::STATE_NOT_KEPT,
                    %error, "the new identity key is in force, and cannot be put in its place yet"
                );
            }
        }
    }

    fn record(&mut self, recording: Recording) {
        let whole = recording.whole;
        let mut all = std::mem::take(&mut self.waiting);
        join(&mut all, recording);
        let live = all.sessions.iter();
        let live = live.map(|known| (known.connection_id, known.clone()));
        let ended = all
            .ends
            .iter()
            .filter_map(|id| Some((*id, self.kept.get(id)?.clone())));
        let before: BTreeMap<Uuid, KnownSession> = ended.chain(live).collect();
        self.unrecorded.extend(all.starts.iter().copied());
        self.unrecorded.retain(|id| before.contains_key(id));
        self.keep(before, whole);
        self.append(all);
    }

    fn append(&mut self, mut all: Recording) {
        if all.records.is_empty() {
            return;
        }
        match self.records.append(&mut all) {
            Ok(()) => {
                for id in &all.starts {
                    self.unrecorded.remove(id);
                }
                // That one has ended is on disk with the next change: until then an end is known
                // twice, never lost.
            }
            Err(()) => {
                let too_many = give_up_beyond(&mut all, MAX_WAITING);
                if too_many > 0 {
                    self.records.give_up(too_many);
                }
                self.waiting = all;
            }
        }
    }

    /// What the disk did not take is tried again after whatever else it was asked to do: with each
    /// heartbeat, and with each acknowledgement, which may have made room.
    fn retry(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.append(waiting);
    }

    /// The agent ends, and what still waits for the disk ends with it: as a gap, never silently. The
    /// next start knows these connections from `sessions.json`, and says what it still can.
    fn give_up_waiting(&mut self) {
        self.retry();
        let left = std::mem::take(&mut self.waiting).records.len() as u64;
        if left > 0 {
            tracing::error!(
                message_id = %journal::RECORDS_LOST,
                records = left,
                "the agent ends before the disk took its last connection records; they are reported as lost"
            );
            self.records.give_up(left);
        }
    }

    fn keep(&mut self, sessions: BTreeMap<Uuid, KnownSession>, whole: bool) {
        match self.kept.keep(sessions, &self.unrecorded, whole) {
            Ok(()) => self.error = None,
            Err(error) => {
                tracing::error!(
                    message_id = %journal::STATE_NOT_KEPT,
                    %error, "the live sessions cannot be kept for the next start"
                );
                self.error = Some(error.to_string());
            }
        }
    }

    fn probe(&mut self) -> Event {
        let probe = enrol::probe(&self.settings);
        for note in &probe.notes {
            tracing::debug!(%note, "hardware probe");
        }
        let before = std::mem::replace(&mut self.snapshot, probe.snapshot);
        if probe.snapshot != SnapshotState::Read && probe.snapshot != before {
            // The first note says why.
            let why = probe.notes.first().map_or("", String::as_str);
            tracing::warn!(
                message_id = %journal::HOST_UNUSUAL,
                why,
                "the hardware is looked at without what only root can read"
            );
        }
        Event::Hardware(Box::new(probe.components))
    }
}

/// What the configuration says of the ledger.
pub(super) fn ledger_options(settings: &Settings) -> Options {
    Options {
        max_bytes: settings.ledger.max_bytes,
        when_full: match settings.ledger.when_full {
            config::WhenFull::DropOldest => WhenFull::DropOldest,
            config::WhenFull::Refuse => WhenFull::Refuse,
        },
        ..Options::default()
    }
}

/// What [`LedgerFacts::low_space_bytes`] says of a folder. A file system that does not tell is no
/// reason for a word.
fn low_space(folder: &Path) -> Option<u64> {
    let stat = statvfs(folder).ok()?;
    few(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// In whole MiB: what says it is told only when it changes.
fn few(free_bytes: u64) -> Option<u64> {
    (free_bytes < LOW_SPACE).then_some(free_bytes >> 20 << 20)
}

/// Two recordings as one: the later sessions hold, as whole as either wants them; all records count.
fn join(first: &mut Recording, second: Recording) {
    first.whole |= second.whole;
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
mod bench;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::stuck as stuck_for_tests;
