//! Everything around the agent: a host with two clocks and VPN clients, a disk, a network that
//! loses, doubles, delays and reorders, and a controller at its other end.
//!
//! The world plays `daemon::event_loop` and watches, in every scenario, what must always hold:
//! one chained request at a time, retries byte for byte, nothing sent before it is on disk, no
//! deadline that stays in the past, few commands a second, no grace beyond the lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use uuid::Uuid;
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::{Envelope, Payload};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Authorisation, Refusal, Reply, Verdict};
use vpn_node_protocol::metrics::SystemMetrics;

use super::controller::{Controller, SERVER};
use super::dice::Dice;
use super::disk::{Crash, Disk, Fuse};
use super::hardware;
use crate::core::Now;
use crate::core::agent::{Agent, Command, Event, SendFailure, Setup};
use crate::core::lane::LaneState;
use crate::core::report::StatusReport;
use crate::core::trust::Trust;

/// The world begins on 1 January 2026.
pub(super) const BEGIN_MS: i64 = 1_767_225_600_000;
/// How long the HTTP client waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// No state of the agent wants more than this from its workers in one second.
const MOST_COMMANDS_A_SECOND: u32 = 60;
const LEASE: Duration = Duration::from_secs(1800);

pub(super) fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The way to the controller. Times in milliseconds, chances in a thousandth.
pub(super) struct Net {
    pub(super) up: bool,
    pub(super) loss: u64,
    pub(super) doubled: u64,
    /// A second copy arrives up to this much later.
    pub(super) copy_delay: u64,
    pub(super) latency: u64,
    pub(super) retry_after: Option<Duration>,
}

enum Happening {
    /// A request reaches the controller; its answer is awaited by this run of the agent, if any.
    Message(Vec<u8>, Option<u32>),
    Poll(Vec<u8>, u32, Duration),
    Certificate(u32),
    /// The controller's patience with a poll is over, or a directive came meanwhile.
    PollHeld(Digest, u32, Duration),
    ToAgent(u32, Event),
    Facts(u32),
}

pub(super) type Tamper = Box<dyn FnMut(&Controller, Vec<u8>) -> Vec<u8>>;

pub(super) struct World {
    pub(super) t: Duration,
    pub(super) dice: Dice,
    pub(super) controller: Controller,
    pub(super) disk: Disk,
    pub(super) agent: Option<Agent>,
    pub(super) net: Net,
    pub(super) fuse: Fuse,
    pub(super) wall_skew_ms: i64,
    pub(super) controller_skew_ms: i64,
    pub(super) sampler_works: bool,
    pub(super) probe_works: bool,
    pub(super) probe_takes: Duration,
    /// Changes the controller's answers to chained requests on their way.
    pub(super) tamper: Option<Tamper>,
    /// Changes the answers to polls.
    pub(super) tamper_poll: Option<Tamper>,
    /// When each attempt of a chained request was made.
    pub(super) attempts: Vec<Duration>,
    pub(super) polls: Vec<Duration>,
    pub(super) certificates_asked: u64,
    pub(super) probes: u64,
    pub(super) crashes: u64,
    pub(super) last_request: Vec<u8>,
    pub(super) vpn: super::vpn::Vpn,
    key: SigningKey,
    boot_id: Uuid,
    booted: Duration,
    run: u32,
    pub(super) starts: u64,
    queue: BTreeMap<(Duration, u64), Happening>,
    queued: u64,
    in_flight: bool,
    facts_queued: bool,
    /// Number, bytes and first sending of the request that awaits its answer.
    outstanding: Option<(u64, Vec<u8>, Duration)>,
    last_verified_sent: Option<Duration>,
    second: (u64, u32),
}

impl World {
    /// An enrolled host whose agent does not run yet.
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let key = SigningKey::from_bytes(&dice.bytes());
        let identity = PublicKey::from(&key);
        let controller = Controller::new(identity, seed, BEGIN_MS);
        let start = chain::start(SERVER, 1, &identity);
        let lane = LaneState::enrolled(SERVER, 1, start, controller.db.nonces[1], BEGIN_MS);
        Self {
            t: s(1),
            disk: Disk::new(lane, controller.signed_certificate()),
            controller,
            agent: None,
            net: Net {
                up: true,
                loss: 0,
                doubled: 0,
                copy_delay: 0,
                latency: 40,
                retry_after: None,
            },
            fuse: Fuse::default(),
            wall_skew_ms: 0,
            controller_skew_ms: 0,
            sampler_works: true,
            probe_works: true,
            probe_takes: Duration::from_millis(60),
            tamper: None,
            tamper_poll: None,
            attempts: Vec::new(),
            polls: Vec::new(),
            certificates_asked: 0,
            probes: 0,
            crashes: 0,
            last_request: Vec::new(),
            vpn: super::vpn::Vpn::default(),
            key,
            boot_id: Uuid::from_u128(1),
            booted: Duration::ZERO,
            run: 0,
            starts: 0,
            queue: BTreeMap::new(),
            queued: 0,
            in_flight: false,
            facts_queued: false,
            outstanding: None,
            last_verified_sent: None,
            second: (0, 0),
            dice,
        }
    }

    /// An enrolled host with a running agent.
    pub(super) fn started(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.start();
        world
    }

    /// A host that the controller has verified.
    pub(super) fn verified(seed: u64) -> Self {
        let mut world = Self::started(seed);
        world.run_for(s(60));
        assert_eq!(world.state(), Authorisation::Verified);
        world
    }

    pub(super) fn now(&self) -> Now {
        let t_ms = i64::try_from(self.t.as_millis()).unwrap();
        Now {
            boot: self.t - self.booted,
            wall_ms: BEGIN_MS + t_ms + self.wall_skew_ms,
        }
    }

    pub(super) fn controller_ms(&self) -> i64 {
        BEGIN_MS + i64::try_from(self.t.as_millis()).unwrap() + self.controller_skew_ms
    }

    pub(super) fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("the agent runs")
    }

    pub(super) fn report(&mut self) -> StatusReport {
        let now = self.now();
        self.agent().report(now)
    }

    pub(super) fn state(&self) -> Authorisation {
        let agent = self.agent.as_ref().expect("the agent runs");
        let now = self.now();
        agent.authorisation.state(now, agent.silent_after())
    }

    /// The agent's process starts with what is on disk.
    pub(super) fn start(&mut self) {
        self.run += 1;
        self.starts += 1;
        self.in_flight = false;
        self.facts_queued = false;
        self.last_verified_sent = None;
        self.disk.reopen();
        let pin = self.controller.pin();
        let certificate = ControllerCertificate::open(&self.disk.certificate, &pin, 0).unwrap();
        let now = self.now();
        let setup = Setup {
            version: "1.2.3".to_owned(),
            pid: 7,
            hostname: "gw".to_owned(),
            location: None,
            controller_url: "https://controller.example".to_owned(),
            boot_id: self.boot_id,
            enrolled_ms: BEGIN_MS,
            os_version: "Model OS".to_owned(),
            key: self.key.clone(),
            trust: Trust::new(pin, certificate, self.disk.lane.floor_ms),
            lane: self.disk.lane.clone(),
            session_key: [9; 32],
            sessions: self.disk.sessions.values().cloned().collect(),
            unrecorded: self.disk.unrecorded.clone(),
            ledger: self.disk.facts(),
        };
        let mut agent = Agent::new(setup, now);
        agent.handle_timeout(now, &mut self.dice);
        self.agent = Some(agent);
        self.look_at_vpn();
    }

    /// The process is gone at once: kill -9, or the power.
    pub(super) fn kill(&mut self) {
        self.agent = None;
        self.run += 1;
    }

    /// The process ends in order.
    pub(super) fn stop(&mut self) {
        let now = self.now();
        if let Some(agent) = &mut self.agent {
            agent.keep_sessions(now);
        }
        self.obey();
        self.kill();
    }

    pub(super) fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// The host starts again: another boot, the boot clock at zero.
    pub(super) fn reboot(&mut self) {
        self.kill();
        self.vpn.all_gone();
        self.boot_id = Uuid::from_bytes(self.dice.bytes());
        self.booted = self.t;
        self.t += s(20);
        self.start();
    }

    /// Nothing runs, and the boot clock counts it.
    pub(super) fn suspend(&mut self, time: Duration) {
        self.t += time;
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        self.run_until(self.t + time);
    }

    pub(super) fn run_until(&mut self, end: Duration) {
        let mut turns = 0;
        loop {
            self.obey();
            self.watch();
            let due = self.agent.as_ref().and_then(Agent::next_deadline);
            let due = due.map(|boot| (self.booted + boot).max(self.t));
            let happens = self.queue.first_key_value().map(|((at, _), _)| *at);
            let next = [due, happens].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.t = self.t.max(end);
                return;
            };
            turns = if next > self.t { 0 } else { turns + 1 };
            assert!(turns < 500, "busy at {:?}", self.t);
            self.t = self.t.max(next);
            if happens == Some(next) || happens.is_some_and(|at| at <= self.t) {
                let (_, happening) = self.queue.pop_first().expect("just seen");
                self.happen(happening);
            } else {
                self.time_out();
            }
        }
    }

    /// A deadline that has come is over once it was handled, or something was done about it.
    fn time_out(&mut self) {
        let now = self.now();
        let agent = self.agent.as_mut().expect("it had a deadline");
        agent.handle_timeout(now, &mut self.dice);
        let past = agent.next_deadline().is_some_and(|at| at <= now.boot);
        assert!(
            !past || !agent.commands.is_empty(),
            "at {:?}: the deadline stays in the past and nothing is done",
            self.t
        );
    }

    pub(super) fn tell(&mut self, event: Event) {
        let now = self.now();
        if let Some(agent) = &mut self.agent {
            agent.handle(event, now, &mut self.dice);
        }
        self.obey();
    }

    pub(super) fn obey(&mut self) {
        while let Some(command) = self.agent.as_mut().and_then(Agent::next_command) {
            let second = self.t.as_secs();
            if self.second.0 != second {
                self.second = (second, 0);
            }
            self.second.1 += 1;
            assert!(
                self.second.1 <= MOST_COMMANDS_A_SECOND,
                "too much in one second at {:?}: {command:?}",
                self.t
            );
            if self
                .fuse
                .burn()
                .and_then(|()| self.perform(command))
                .is_err()
            {
                self.crashes += 1;
                self.kill();
            }
        }
    }

    fn perform(&mut self, command: Command) -> Result<(), Crash> {
        match command {
            Command::Send { state, body } => self.send(&state, body)?,
            Command::Poll { body, wait } => {
                self.polls.push(self.t);
                let at = self.trip();
                match self.gets_through() {
                    true => self.later(at, Happening::Poll(body, self.run, wait)),
                    false => self.fail(Event::PollFailed),
                }
            }
            Command::FetchCertificate => {
                self.certificates_asked += 1;
                let at = self.trip();
                match self.gets_through() {
                    true => self.later(at, Happening::Certificate(self.run)),
                    false => self.fail(Event::CertificateFailed),
                }
            }
            Command::StoreCertificate(envelope) => self.disk.certificate = *envelope,
            Command::Sample if self.sampler_works => {
                let now = self.now();
                let agent = self.agent.as_mut().expect("it commands");
                let event = Event::Sampled(SystemMetrics::default());
                agent.handle(event, now, &mut self.dice);
            }
            Command::Sample => {}
            Command::ProbeHardware => {
                self.probes += 1;
                if self.probe_works {
                    let event = Event::Hardware(Box::new(hardware()));
                    self.later(self.probe_takes, Happening::ToAgent(self.run, event));
                }
            }
            Command::Record(recording) => {
                self.disk.record(*recording, &mut self.fuse)?;
                self.facts_changed();
            }
            Command::ReadBatch => {
                let event = Event::Batch(self.disk.read_batch());
                let after = Duration::from_millis(1 + self.dice.below(20));
                self.later(after, Happening::ToAgent(self.run, event));
            }
            Command::Acked { through, .. } => {
                self.disk.acked(through);
                self.fuse.burn()?;
                self.facts_changed();
            }
        }
        Ok(())
    }

    fn send(&mut self, state: &LaneState, body: Vec<u8>) -> Result<(), Crash> {
        assert!(!self.in_flight, "one chained request at a time");
        self.in_flight = true;
        if let Err(message) = self.disk.store_lane(state) {
            let failure = SendFailure {
                message,
                retry_after: None,
            };
            let event = Event::SendFailed(failure);
            self.later(
                Duration::from_millis(5),
                Happening::ToAgent(self.run, event),
            );
            return Ok(());
        }
        let pending = self.disk.lane.pending.as_ref().expect("on disk");
        assert_eq!(pending.to_json(), body, "sent as it is on disk");
        let first = match &self.outstanding {
            Some((seq, before, first)) if *seq == state.seq + 1 => {
                assert!(*before == body, "a retry is the same bytes");
                *first
            }
            _ => self.t,
        };
        self.outstanding = Some((state.seq + 1, body.clone(), first));
        self.fuse.burn()?;
        self.attempts.push(self.t);
        self.last_request.clone_from(&body);
        let at = self.trip();
        if self.net.up && self.dice.chance(self.net.doubled) {
            let late = at + Duration::from_millis(self.dice.below(self.net.copy_delay.max(1)));
            self.later(late, Happening::Message(body.clone(), None));
        }
        match self.gets_through() {
            true => self.later(at, Happening::Message(body, Some(self.run))),
            false => self.fail(Event::SendFailed),
        }
        // After this the bytes are with the kernel: they may arrive although the host stops.
        self.fuse.burn()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Message(bytes, waiting) => {
                let answer = match self.net.up {
                    true => self.controller.message(&bytes, self.controller_ms()),
                    false => None,
                };
                let Some(run) = waiting else { return };
                match answer {
                    Some(mut answer) if self.gets_through() => {
                        if let Some(tamper) = &mut self.tamper {
                            answer = tamper(&self.controller, answer);
                        }
                        let at = self.trip();
                        self.later(at, Happening::ToAgent(run, Event::Answer(answer)));
                    }
                    _ => self.fail(Event::SendFailed),
                }
            }
            Happening::Poll(bytes, run, wait) => match self.controller.poll(&bytes) {
                Some(digest) if self.net.up => {
                    let until = self.t + wait;
                    self.happen(Happening::PollHeld(digest, run, until));
                }
                _ => self.fail(Event::PollFailed),
            },
            Happening::PollHeld(digest, run, until) => {
                if self.controller.db.unacked.is_empty() && self.t < until && run == self.run {
                    let look = s(1).min(until - self.t);
                    return self.later(look, Happening::PollHeld(digest, run, until));
                }
                if !self.gets_through() {
                    return self.fail(Event::PollFailed);
                }
                let mut answer = self.controller.poll_reply(digest, self.controller_ms());
                if let Some(tamper) = &mut self.tamper_poll {
                    answer = tamper(&self.controller, answer);
                }
                let at = self.trip();
                self.later(at, Happening::ToAgent(run, Event::PollAnswer(answer)));
            }
            Happening::Certificate(run) => {
                let bytes = self.controller.signed_certificate().to_json();
                let at = self.trip();
                self.later(at, Happening::ToAgent(run, Event::Certificate(bytes)));
            }
            Happening::ToAgent(run, event) if run == self.run => self.deliver(event),
            Happening::ToAgent(..) => {}
            Happening::Facts(run) if run == self.run => {
                self.facts_queued = false;
                let facts = self.disk.facts();
                self.tell(Event::Ledger(facts));
            }
            Happening::Facts(_) => {}
        }
    }

    fn deliver(&mut self, event: Event) {
        let mut reply = None;
        match &event {
            Event::Answer(bytes) => {
                self.in_flight = false;
                let envelope = Envelope::parse(bytes, usize::MAX).ok();
                if envelope.as_ref().map(Envelope::payload_type) == Some(Refusal::TYPE) {
                    // Only a signed "no" lets another request take this number.
                    self.outstanding = None;
                }
                reply = envelope.and_then(|e| e.peek::<Reply>().ok());
            }
            Event::SendFailed(_) => self.in_flight = false,
            _ => {}
        }
        let before = self.agent.as_ref().map(|agent| agent.lane.state().seq);
        self.tell(event);
        let after = self.agent.as_ref().map(|agent| agent.lane.state().seq);
        if before < after
            && let (Some((_, _, first)), Some(reply)) = (&self.outstanding, reply)
            && reply.standing.verdict == Verdict::Verified
        {
            self.last_verified_sent = Some(*first);
        }
    }

    /// The lease, seen from outside.
    fn watch(&self) {
        let Some(agent) = &self.agent else { return };
        let serves = |t: Duration| {
            let now = Now {
                boot: t.saturating_sub(self.booted),
                wall_ms: self.now().wall_ms,
            };
            let state = agent.authorisation.state(now, agent.silent_after());
            matches!(state, Authorisation::Verified | Authorisation::Grace)
        };
        let Some(sent) = self.last_verified_sent else {
            assert!(!serves(self.t), "nobody vouched for this run");
            return;
        };
        assert!(!serves((sent + LEASE + s(1)).max(self.t)), "grace too long");
    }

    fn gets_through(&mut self) -> bool {
        self.net.up && !self.dice.chance(self.net.loss)
    }

    fn trip(&mut self) -> Duration {
        Duration::from_millis(self.net.latency / 2 + self.dice.below(self.net.latency + 1))
    }

    /// An exchange fails: refused at once, or nobody answers until the time is over.
    fn fail(&mut self, event: fn(SendFailure) -> Event) {
        let silent = self.dice.chance(500);
        let after = if silent { TIMEOUT } else { self.trip() };
        let failure = SendFailure {
            message: "the controller does not answer".to_owned(),
            retry_after: self.net.retry_after,
        };
        self.later(after, Happening::ToAgent(self.run, event(failure)));
    }

    /// As a watch channel: the newest facts, once.
    fn facts_changed(&mut self) {
        if !std::mem::replace(&mut self.facts_queued, true) {
            let after = Duration::from_millis(1 + self.dice.below(20));
            self.later(after, Happening::Facts(self.run));
        }
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((self.t + after, self.queued), happening);
    }

    /// From now on another holder of the identity speaks.
    pub(super) fn forget_outstanding(&mut self) {
        self.outstanding = None;
    }

    /// What the controller has in its table: connections by id, each with its events.
    pub(super) fn connections(&self) -> BTreeMap<Uuid, BTreeSet<&'static str>> {
        super::vpn::connections(self.controller.db.records.values())
    }
}
