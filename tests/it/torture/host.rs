//! A host: the agent's core, its disk, and a network that loses, repeats and delays.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use axum::http::StatusCode;
use ed25519_dalek::SigningKey;
use uuid::Uuid;
use vpn_node::core::Now;
use vpn_node::core::agent::{Agent, Command, Event, Problem, SendFailure, Setup};
use vpn_node::core::lane::LaneState;
use vpn_node::core::trust::Trust;
use vpn_node::core::update;
use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::message::ConnectionBatch;
use vpn_node_protocol::metrics::SystemMetrics;

use super::dice::Dice;
use super::fleet::{BEGIN_MS, Fleet, components};

/// How long an HTTP request is waited for.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A repeated request arrives this much later at most.
const LATEST_COPY_MS: u64 = 300_000;

/// The way to the controller; chances in a thousandth, each way for `loss`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Net {
    pub(super) loss: u64,
    pub(super) doubled: u64,
}

enum Happening {
    Deliver(Event),
    /// A copy of a request that was delayed on the way; nobody waits for its answer.
    LateCopy(Vec<u8>),
}

/// What survives a crash, and what a copy of the machine has.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) key: SigningKey,
    pub(super) lane: LaneState,
}

pub(super) struct Host {
    pub(super) disk: Disk,
    pub(super) peer: IpAddr,
    pub(super) net: Net,
    /// Chained requests that the controller answered with a reply.
    pub(super) accepted: u64,
    /// Chained requests that reached the controller, repetitions not counted.
    pub(super) requests: u64,
    boot_id: Uuid,
    booted: Duration,
    certificate: ControllerCertificate,
    agent: Agent,
    dice: Dice,
    queue: BTreeMap<(Duration, u64), Happening>,
    queued: u64,
    last_delivered: Vec<u8>,
}

impl Host {
    /// Starts an agent on this disk at `t`.
    pub(super) fn start(fleet: &Fleet, disk: Disk, peer: IpAddr, seed: u64, t: Duration) -> Self {
        let mut dice = Dice::new(seed);
        let boot_id = Uuid::from_bytes(dice.bytes());
        let certificate = fleet.keys.certificate().clone();
        let now = Now {
            boot: Duration::from_secs(5),
            wall_ms: BEGIN_MS + i64::try_from(t.as_millis()).unwrap(),
        };
        let agent = agent(&disk, &certificate, boot_id, now);
        Self {
            disk,
            peer,
            net: Net::default(),
            accepted: 0,
            requests: 0,
            boot_id,
            booted: t.saturating_sub(now.boot),
            certificate,
            agent,
            dice,
            queue: BTreeMap::new(),
            queued: 0,
            last_delivered: Vec::new(),
        }
    }

    /// The process is killed and started again, on the same boot.
    pub(super) fn restart(&mut self, t: Duration) {
        self.queue
            .retain(|_, happening| matches!(happening, Happening::LateCopy(_)));
        let now = self.now(t);
        self.agent = agent(&self.disk, &self.certificate, self.boot_id, now);
    }

    fn now(&self, t: Duration) -> Now {
        Now {
            boot: t.saturating_sub(self.booted),
            wall_ms: BEGIN_MS + i64::try_from(t.as_millis()).unwrap(),
        }
    }

    /// When it has something to do next.
    pub(super) fn next_at(&self, t: Duration) -> Duration {
        let deadline = self.agent.next_deadline().map(|boot| self.booted + boot);
        let happens = self.queue.first_key_value().map(|((at, _), _)| *at);
        let next = [deadline, happens].into_iter().flatten().min();
        next.expect("an agent always has a deadline").max(t)
    }

    /// Does what is due at `t`.
    pub(super) async fn turn(&mut self, fleet: &Fleet, t: Duration) {
        let due = self
            .queue
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= t);
        if due && let Some((_, happening)) = self.queue.pop_first() {
            match happening {
                Happening::Deliver(event) => {
                    self.agent.handle(event, self.now(t), &mut self.dice);
                }
                Happening::LateCopy(body) => {
                    fleet.post("/v1/messages", body, self.peer).await;
                }
            }
        } else {
            let now = self.now(t);
            self.agent.handle_timeout(now, &mut self.dice);
        }
        self.obey(fleet, t).await;
    }

    async fn obey(&mut self, fleet: &Fleet, t: Duration) {
        while let Some(command) = self.agent.next_command() {
            match command {
                Command::Send { state, body } => {
                    self.disk.lane = *state;
                    self.send(fleet, body, t).await;
                }
                Command::Witness { body } => {
                    let (_, answer) = fleet.post("/v1/messages", body, self.peer).await;
                    self.deliver(Event::WitnessAnswer(answer), t);
                }
                Command::Sample => self.deliver(Event::Sampled(SystemMetrics::default()), t),
                Command::ProbeHardware => {
                    self.deliver(Event::Hardware(Box::new(components())), t);
                }
                Command::ReadBatch => {
                    let batch = ConnectionBatch {
                        ledger_epoch: Hex([7; 16]),
                        records: vec![],
                        gaps: vec![],
                    };
                    self.deliver(Event::Batch(batch), t);
                }
                // Held for ever: heartbeats carry the same directives.
                Command::Poll { .. } => {}
                _ => {}
            }
        }
    }

    async fn send(&mut self, fleet: &Fleet, body: Vec<u8>, t: Duration) {
        if self.dice.chance(self.net.doubled) {
            let delay = Duration::from_millis(self.dice.below(LATEST_COPY_MS));
            self.queue_at(t + delay, Happening::LateCopy(body.clone()));
        }
        if self.dice.chance(self.net.loss) {
            return self.lost(t);
        }
        if body != self.last_delivered {
            self.requests += 1;
            self.last_delivered.clone_from(&body);
        }
        let (status, answer) = fleet.post("/v1/messages", body, self.peer).await;
        if self.dice.chance(self.net.loss) {
            return self.lost(t);
        }
        if status == StatusCode::OK {
            self.accepted += 1;
        }
        self.deliver(Event::Answer(answer), t);
    }

    fn lost(&mut self, t: Duration) {
        let failure = SendFailure {
            message: "no answer".to_owned(),
            retry_after: None,
            problem: Problem::Unreachable,
        };
        self.queue_at(t + TIMEOUT, Happening::Deliver(Event::SendFailed(failure)));
    }

    fn deliver(&mut self, event: Event, t: Duration) {
        self.queue_at(t + Duration::from_millis(20), Happening::Deliver(event));
    }

    fn queue_at(&mut self, at: Duration, happening: Happening) {
        self.queued += 1;
        self.queue.insert((at, self.queued), happening);
    }

    /// What the agent says of itself, as `vpn-node status` would.
    pub(super) fn state(&mut self, t: Duration) -> &'static str {
        let now = self.now(t);
        self.agent.report(now).verification.state.as_str()
    }
}

fn agent(disk: &Disk, certificate: &ControllerCertificate, boot_id: Uuid, now: Now) -> Agent {
    let setup = Setup {
        version: "0.1.0".to_owned(),
        pid: 1,
        hostname: "host".to_owned(),
        location: None,
        controller_url: "https://127.0.0.1:8443".to_owned(),
        state_dir: "/srv/agent".into(),
        boot_id,
        enrolled_ms: BEGIN_MS,
        os_version: String::new(),
        key: disk.key.clone(),
        next_key: None,
        trust: Trust::new(
            certificate.root.id(),
            certificate.clone(),
            disk.lane.floor_ms,
        ),
        lane: disk.lane.clone(),
        session_key: [9; 32],
        sessions: Vec::new(),
        unrecorded: Default::default(),
        running_from: None,
        updates: update::Setup {
            enabled: false,
            platform: vpn_node_release::version::Platform::here(),
            kept: update::Kept::default(),
        },
    };
    Agent::new(setup, now)
}
