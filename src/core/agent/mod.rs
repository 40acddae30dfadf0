//! The agent's core: one state machine over everything that happens.
//!
//! The daemon feeds it ([`Agent::handle`], [`Agent::handle_timeout`]), sleeps until
//! [`Agent::next_deadline`], and does what [`Agent::next_command`] says. Time and randomness
//! are arguments, so that a test plays days of outage in milliseconds.

mod backends;
mod configuration;
mod connections;
mod directives;
mod disconnects;
mod event;
mod hardware;
mod report;
mod requests;
mod rotation;
mod standing;
mod updates;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;
use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::message::{ConnectionBatch, DirectiveAck};

use self::backends::Backends;
use self::directives::{Challenge, PollState};
use self::disconnects::Disconnects;
use self::hardware::Hardware;
use self::report::Memory;
use self::rotation::Rotation;
use self::standing::Claims;
use super::authorisation::Authorisation;
use super::lane::{Lane, LaneState};
use super::schedule::DEFAULT_INTERVAL;
use super::sessions::{KnownSession, Reducer};
use super::trust::{self, Trust};
use super::update::{self, Updates};
use crate::core::Now;

pub use configuration::Configured;
pub use event::{Command, Event, LedgerFacts, Problem, Recording, SendFailure};
pub use rotation::NoRotation;

/// How long the agent waits before it offers a batch again that the controller called bad.
const BAD_BATCH_PAUSE: Duration = Duration::from_secs(300);
/// How often a revoked host, or one whose key was replaced, asks whether that has changed: it never
/// does, unless the controller's database goes back to an older state.
const STOPPED_INTERVAL: Duration = Duration::from_secs(300);
/// How often a quarantined host asks whether an operator has decided, give or take a tenth: the
/// operator waits for the host that was kept. Less than one request a minute, which is half of what
/// a host costs that is well.
const QUARANTINED_INTERVAL: Duration = Duration::from_secs(67);
/// How often the live sessions are kept for the next start although none began or ended: their
/// last signs of life bound the end that a restart after a crash infers.
const KEEP_SESSIONS_EVERY: Duration = Duration::from_secs(300);

/// What the agent is made of when it starts.
pub struct Setup {
    /// Version of this program (semver.org).
    pub version: String,
    /// Process id, for the report.
    pub pid: u32,
    /// Host name (gethostname(2)).
    pub hostname: String,
    /// Where the operator says the host is.
    pub location: Option<String>,
    /// Controller's address, for the report.
    pub controller_url: String,
    /// The state directory, for what the operator is told to do with it.
    pub state_dir: PathBuf,
    /// This boot of the host.
    pub boot_id: Uuid,
    /// When the host was enrolled, in milliseconds since the Unix epoch.
    pub enrolled_ms: i64,
    /// `PRETTY_NAME` of os-release(5), or empty.
    pub os_version: String,
    /// The identity key.
    pub key: SigningKey,
    /// The key of a rotation that a former process began.
    pub next_key: Option<SigningKey>,
    /// The lane as it stands on disk.
    pub lane: LaneState,
    /// Pin and certificate.
    pub trust: Trust,
    /// Key of the hashes in `sessions`.
    pub session_key: [u8; 32],
    /// Sessions of a former process.
    pub sessions: Vec<KnownSession>,
    /// Those whose start may not have reached the ledger.
    pub unrecorded: BTreeSet<Uuid>,
    /// The slot that this program runs from: a version, or `system`; none elsewhere.
    pub running_from: Option<String>,
    /// About releases.
    pub updates: update::Setup,
}

/// The state machine.
pub struct Agent {
    about: About,
    key: SigningKey,
    rotation: Rotation,
    claims: Claims,
    lane: Lane,
    trust: Trust,
    authorisation: Authorisation,
    reducer: Reducer,
    started: Now,
    interval: Duration,
    heartbeat_at: Duration,
    sampling: bool,
    challenge: Option<Challenge>,
    /// The hardware is being looked at: once for all challenges that come meanwhile.
    probing: bool,
    hardware: Hardware,
    /// The challenge whose answer is in flight.
    answering: Option<Challenge>,
    /// Directives dealt with; the controller has not said that it knows.
    acks: Vec<DirectiveAck>,
    /// How many of them, from the first, are in the request in flight.
    acks_sent: usize,
    seen_directives: VecDeque<Uuid>,
    disconnects: Disconnects,
    updates: Updates,
    backends: Backends,
    poll: PollState,
    fetching_certificate: bool,
    upload: Upload,
    unrecorded: BTreeSet<Uuid>,
    keep_sessions_at: Duration,
    ledger: LedgerFacts,
    /// The ledger changed since the batch was asked for that is being read.
    ledger_changed: bool,
    /// The ledger as it was last read; an acknowledgement of another one is not for it.
    ledger_epoch: Option<Hex<16>>,
    clock_offset_ms: Option<i64>,
    memory: Memory,
    commands: VecDeque<Command>,
}

/// What the agent says of itself and never changes.
struct About {
    version: String,
    pid: u32,
    hostname: String,
    location: Option<String>,
    controller_url: String,
    state_dir: PathBuf,
    boot_id: Uuid,
    enrolled_ms: i64,
    os_version: String,
    running_from: Option<String>,
}

/// Where the next batch of the ledger is.
#[derive(Debug)]
enum Upload {
    /// Nothing asked for.
    Idle,
    /// The ledger is reading.
    Reading,
    /// Ready to go into the lane.
    Ready(ConnectionBatch),
    /// In the lane.
    InFlight,
    /// Refused; not before this instant.
    Paused(Duration),
}

impl Agent {
    /// An agent that has just started: unverified, its first heartbeat due at once.
    #[must_use]
    pub fn new(setup: Setup, now: Now) -> Self {
        Self {
            reducer: Reducer::new(setup.boot_id, setup.session_key, setup.sessions),
            about: About {
                version: setup.version,
                pid: setup.pid,
                hostname: setup.hostname,
                location: setup.location,
                controller_url: setup.controller_url,
                state_dir: setup.state_dir,
                boot_id: setup.boot_id,
                enrolled_ms: setup.enrolled_ms,
                os_version: setup.os_version,
                running_from: setup.running_from,
            },
            key: setup.key,
            rotation: Rotation::restore(setup.next_key, &setup.lane),
            claims: Claims::default(),
            lane: Lane::restore(setup.lane, now),
            trust: setup.trust,
            authorisation: Authorisation::default(),
            started: now,
            interval: DEFAULT_INTERVAL,
            heartbeat_at: now.boot,
            sampling: false,
            challenge: None,
            probing: false,
            hardware: Hardware::new(now),
            answering: None,
            acks: Vec::new(),
            acks_sent: 0,
            seen_directives: VecDeque::new(),
            disconnects: Disconnects::default(),
            updates: Updates::new(setup.updates, now),
            backends: Backends::default(),
            poll: PollState::NotYet,
            fetching_certificate: false,
            upload: Upload::Idle,
            unrecorded: setup.unrecorded,
            keep_sessions_at: now.boot + KEEP_SESSIONS_EVERY,
            ledger: LedgerFacts::default(),
            ledger_changed: false,
            ledger_epoch: None,
            clock_offset_ms: None,
            memory: Memory::default(),
            commands: VecDeque::new(),
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: Event, now: Now, rng: &mut impl CryptoRng) {
        self.forget_late_challenge(now);
        match event {
            Event::Answer(bytes) => self.answered(&bytes, now, rng),
            Event::SendFailed(failure) => self.send_failed(&failure, now, rng),
            Event::UnknownKey(failure) => self.unknown_key(&failure, now, rng),
            Event::PollAnswer(bytes) => self.poll_answered(&bytes, now, rng),
            Event::PollFailed(failure) => self.poll_failed(&failure, now, rng),
            Event::IntroductionAnswer(bytes) => self.introduction_answered(&bytes, now),
            Event::IntroductionFailed(failure) => self.introduction_failed(&failure, now),
            Event::WitnessAnswer(bytes) => self.witness_answered(&bytes, now),
            Event::WitnessFailed(failure) => self.witness_failed(&failure, now),
            Event::NextKeyStored(stored) => self.next_key_stored(stored, now),
            Event::Certificate(bytes) => self.certificate_came(&bytes, now),
            Event::CertificateFailed(failure) => {
                self.fetching_certificate = false;
                self.memory.note(failure.message, now);
            }
            Event::Sampled(metrics) => self.submit_heartbeat(metrics, now),
            Event::Hardware(components) => self.hardware_seen(&components, now, rng),
            Event::Observed(backend, obs) => self.observed(&backend, obs, now, rng),
            Event::Disconnected { order, result } => self.disconnected(order, result, now),
            Event::Details(backend, details) => self.details_came(backend, details),
            Event::Ledger(facts) => {
                self.ledger = facts;
                self.ledger_changed = true;
            }
            Event::Update(event) => self.updates.handle(event, now, rng),
            Event::Batch(batch) => self.batch_read(batch),
        }
        self.go_on(now, rng);
    }

    /// Does what has become due.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut impl CryptoRng) {
        self.forget_late_challenge(now);
        self.look_at_hardware(now);
        self.tick_sessions(now);
        self.give_up_disconnects(now);
        self.updates.handle_timeout(now);
        if let Upload::Paused(until) = self.upload
            && now.boot >= until
        {
            self.upload = Upload::Idle;
        }
        self.go_on(now, rng);
    }

    /// The boot-clock instant at which [`Agent::handle_timeout`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let free = self.lane.is_idle() && !self.sampling && self.challenge.is_none();
        [
            self.lane.send_at(),
            free.then(|| self.heartbeat_due()),
            self.poll.retry_at().filter(|_| self.may_poll()),
            self.challenge.as_ref().map(Challenge::deadline),
            self.reducer.next_deadline(),
            self.disconnects.deadline(),
            Some(self.updates.next_deadline()),
            Some(self.keep_sessions_at),
            Some(self.hardware.next_look()),
            match self.upload {
                Upload::Paused(until) => Some(until),
                _ => None,
            },
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next thing to do, in order.
    pub fn next_command(&mut self) -> Option<Command> {
        let command = self.commands.pop_front()?;
        Some(self.with_sessions(command))
    }

    /// The agent is about to stop: a heartbeat is due, unless the controller is silent or wants to
    /// hear nothing.
    pub fn last_word(&mut self, now: Now, rng: &mut impl CryptoRng) {
        if self.memory.is_heard() && self.authorisation.stopped().is_none() {
            self.heartbeat_at = now.boot;
            self.go_on(now, rng);
        }
    }

    /// Whether a request of the chain is due or under way. One whose attempt failed is not: it waits.
    #[must_use]
    pub fn is_speaking(&self, now: Now) -> bool {
        match self.lane.is_idle() {
            true => self.sampling || self.heartbeat_due() <= now.boot,
            false => self.lane.send_at().is_none_or(|at| at <= now.boot),
        }
    }

    /// The lane's state: to be kept when the daemon stops.
    #[must_use]
    pub fn lane_state(&self) -> &LaneState {
        self.lane.state()
    }

    /// Starts whatever the state now allows. Called after every event.
    fn go_on(&mut self, now: Now, rng: &mut impl CryptoRng) {
        self.pass_update_commands();
        self.use_lane(now);
        self.read_ahead();
        self.poll_if_due(now, rng);
        if self.lane.send_at().is_some_and(|at| now.boot >= at)
            && let Some(body) = self.lane.start_attempt(now)
        {
            self.memory.attempted();
            let state = Box::new(self.lane.state().clone());
            self.commands.push_back(Command::Send { state, body });
        }
    }

    fn certificate_came(&mut self, bytes: &[u8], now: Now) {
        self.fetching_certificate = false;
        let renewed = Envelope::parse(bytes, vpn_node_protocol::limits::MAX_REPLY_BYTES)
            .map_err(Into::into)
            .and_then(|envelope| self.trust.renew(&envelope).map(|()| envelope));
        match renewed {
            Ok(envelope) => {
                self.commands
                    .push_back(Command::StoreCertificate(Box::new(envelope)));
            }
            Err(error) => self.memory.note(error.to_string(), now),
        }
    }

    /// A message was signed by a key that the certificate does not have: ask for a newer one.
    fn renew_if_unknown(&mut self, error: &vpn_node_protocol::certificate::CertificateError) {
        if trust::is_unknown_key(error) && !self.fetching_certificate {
            self.fetching_certificate = true;
            self.commands.push_back(Command::FetchCertificate);
        }
    }

    /// After this long without an accepted request the controller counts as silent.
    fn silent_after(&self) -> Duration {
        self.interval * 2 + Duration::from_secs(15)
    }
}

#[cfg(test)]
mod tests;
