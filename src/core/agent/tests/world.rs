//! Everything around the agent: a host with two clocks and VPN clients, a disk, a network that
//! loses, doubles, delays and reorders, and a controller at its other end.
//!
//! The world plays `daemon::event_loop` and watches, in every scenario, what must always hold:
//! one chained request at a time, retries byte for byte, nothing sent before it is on disk, no
//! deadline that stays in the past, few commands a second, no grace beyond the lease.

mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use uuid::Uuid;
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::{Envelope, Payload};
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Authorisation, Refusal, Reply, Verdict};

use super::controller::{Controller, SERVER};
use super::dice::Dice;
use super::disk::{Disk, Fuse};
use crate::core::Now;
use crate::core::agent::{Agent, Event, Setup};
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
    Introduction(Vec<u8>, u32),
    Witness(Vec<u8>, u32),
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
    /// What a probe finds.
    pub(super) hardware: Components,
    /// Changes the controller's answers to chained requests on their way.
    pub(super) tamper: Option<Tamper>,
    /// Changes the answers to polls.
    pub(super) tamper_poll: Option<Tamper>,
    /// Introductions that somebody on the way holds back; none are held at first.
    pub(super) held_introductions: Option<Vec<Vec<u8>>>,
    /// When each attempt of a chained request was made.
    pub(super) attempts: Vec<Duration>,
    pub(super) polls: Vec<Duration>,
    pub(super) certificates_asked: u64,
    pub(super) probes: u64,
    pub(super) crashes: u64,
    pub(super) last_request: Vec<u8>,
    pub(super) vpn: super::vpn::Vpn,
    pub(super) releases: super::releases::Releases,
    boot_id: Uuid,
    booted: Duration,
    run: u32,
    pub(super) starts: u64,
    queue: BTreeMap<(Duration, u64), Happening>,
    queued: u64,
    in_flight: bool,
    facts_queued: bool,
    /// Epoch, number, bytes and first sending of the request that awaits its answer.
    outstanding: Option<((u32, u64), Vec<u8>, Duration)>,
    last_verified_sent: Option<Duration>,
    /// When the machine was paused, and for how long.
    pauses: Vec<(Duration, Duration)>,
    second: (u64, u32),
}

impl World {
    /// An enrolled host whose agent does not run yet.
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let key = SigningKey::from_bytes(&dice.bytes());
        let identity = PublicKey::from(&key);
        let controller = Controller::new(identity, seed, BEGIN_MS);
        let lane = LaneState::enrolled(SERVER, 1, identity, controller.db.nonces[1], BEGIN_MS);
        Self {
            t: s(1),
            disk: Disk::new(key, lane, controller.signed_certificate()),
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
            hardware: super::hardware(),
            tamper: None,
            tamper_poll: None,
            held_introductions: None,
            attempts: Vec::new(),
            polls: Vec::new(),
            certificates_asked: 0,
            probes: 0,
            crashes: 0,
            last_request: Vec::new(),
            vpn: super::vpn::Vpn::default(),
            releases: super::releases::Releases::new(),
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
            pauses: Vec::new(),
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
            state_dir: "/srv/agent".into(),
            boot_id: self.boot_id,
            enrolled_ms: BEGIN_MS,
            os_version: "Model OS".to_owned(),
            key: self.disk.identity.clone(),
            next_key: self.disk.next_identity.clone(),
            trust: Trust::new(pin, certificate, self.disk.lane.floor_ms),
            lane: self.disk.lane.clone(),
            session_key: [9; 32],
            sessions: self.disk.sessions.values().cloned().collect(),
            unrecorded: self.disk.unrecorded.clone(),
            running_from: None,
            updates: self.releases.setup(),
        };
        let mut agent = Agent::new(setup, now);
        agent.handle_timeout(now, &mut self.dice);
        // The disk thread opens the ledger after its first command, and tells.
        agent.handle(Event::Ledger(self.disk.facts()), now, &mut self.dice);
        self.agent = Some(agent);
        if !self.vpn.unreadable {
            self.look_at_vpn();
        }
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
            agent.finish(now);
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

    /// A hypervisor stops the machine: its boot clock does not count that, its wall clock is set
    /// right afterwards.
    pub(super) fn pause_machine(&mut self, time: Duration) {
        self.pauses.push((self.t, time));
        self.t += time;
        self.booted += time;
    }

    /// Whether the machine was paused since the last verified request.
    pub(super) fn was_paused(&self) -> bool {
        !self
            .unseen(self.last_verified_sent.unwrap_or_default())
            .is_zero()
    }

    /// Time since then that the boot clock did not count.
    fn unseen(&self, since: Duration) -> Duration {
        let later = self.pauses.iter().filter(|(at, _)| *at >= since);
        later.map(|(_, time)| *time).sum()
    }

    /// When the request was sent whose answer last said verified, in this run of the agent.
    pub(super) fn verified_sent(&self) -> Option<Duration> {
        self.last_verified_sent
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
            Event::SendFailed(_) | Event::UnknownKey(_) => self.in_flight = false,
            _ => {}
        }
        let place = |agent: &Agent| (agent.lane.state().epoch, agent.lane.state().seq);
        let before = self.agent.as_ref().map(place);
        self.tell(event);
        let after = self.agent.as_ref().map(place);
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
        // Strict: as if the wall clock stood still, so the boot clock alone must end it.
        let over = sent + LEASE + self.unseen(sent) + s(1);
        assert!(!serves(over.max(self.t)), "grace too long");
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
