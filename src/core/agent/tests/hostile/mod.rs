//! Hostile answers: every flipped bit of every kind of answer, and mutants of them. Whatever the
//! way to the controller makes of an answer, the agent believes what it believed: its place in the
//! chain, the latest time, keys, authorisation, challenges and acknowledgements.

mod directives;
mod flips;
mod mutants;

use std::cell::RefCell;
use std::rc::Rc;

use vpn_node_protocol::certificate::ControllerCertificate;
use vpn_node_protocol::encoding::{Digest, Hex};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{
    Body as _, ConnectionBatch, DirectiveOutcome, Heartbeat, Purpose, RefusalCode,
};

use super::world::{World, s};
use crate::core::agent::directives::PollState;
use crate::core::agent::{Command, Event};
use crate::core::lane::LaneState;

/// Where an answer comes in.
type Door = fn(Vec<u8>) -> Event;

/// An agent that waits for an answer, and the answer.
struct Rig {
    world: World,
    door: Door,
    good: Vec<u8>,
    /// What it was answered before, first to last.
    past: Vec<Vec<u8>>,
}

/// What the agent believes.
#[derive(Debug, PartialEq)]
struct Believed {
    lane: LaneState,
    certificate: ControllerCertificate,
    floor_ms: i64,
    controller_now_ms: i64,
    rest: String,
}

/// A name, and how an agent comes to wait for such an answer.
type Kind = (&'static str, fn() -> Rig);

/// Kinds of answers; a new one is a line here.
const KINDS: [Kind; 7] = [
    ("reply with a directive", reply),
    ("reply with an acknowledgement", acknowledgement),
    ("refusal: ahead", || refusal(RefusalCode::Ahead)),
    ("refusal: bad request", || refusal(RefusalCode::BadRequest)),
    ("refusal: revoked", || refusal(RefusalCode::Revoked)),
    ("poll-reply with a directive", poll_reply),
    ("certificate", certificate),
];

fn reply() -> Rig {
    let mut rig = Rig::waiting(Heartbeat::TYPE);
    let now = rig.world.controller_ms();
    rig.world.controller.challenge(Purpose::OnDemand, now);
    let request = rig.world.last_request.clone();
    rig.good = rig.world.controller.message(&request, now).signed();
    rig
}

fn acknowledgement() -> Rig {
    let mut rig = Rig::waiting(ConnectionBatch::TYPE);
    let (now, request) = (rig.world.controller_ms(), rig.world.last_request.clone());
    rig.good = rig.world.controller.message(&request, now).signed();
    rig
}

fn refusal(code: RefusalCode) -> Rig {
    let mut rig = Rig::waiting(Heartbeat::TYPE);
    let request = Envelope::parse(&rig.world.last_request, usize::MAX).unwrap();
    let now = rig.world.controller_ms();
    rig.good = rig.world.controller.refuse(request.digest(), code, now);
    rig
}

/// The digest of the poll that waits.
const POLL: Hex<32> = Hex([9; 32]);

fn poll_reply() -> Rig {
    let mut rig = Rig::waiting(Heartbeat::TYPE);
    rig.door = Event::PollAnswer;
    // The time of the answer is known already: what is left of it is the directive.
    let now = rig.world.controller_ms();
    let empty = rig.world.controller.poll_reply(POLL, now);
    rig.hear(empty);
    rig.world.controller.challenge(Purpose::OnDemand, now);
    rig.good = rig.world.controller.poll_reply(POLL, now);
    rig
}

fn certificate() -> Rig {
    let mut rig = Rig::waiting(Heartbeat::TYPE);
    rig.door = Event::Certificate;
    let now = rig.world.controller_ms();
    rig.world.controller.rotate(now, None);
    rig.good = rig.world.controller.signed_certificate().to_json();
    rig
}

impl Rig {
    /// A verified host whose request of this type is on its way.
    fn waiting(payload_type: &str) -> Self {
        let mut world = World::verified(90);
        let past = Rc::new(RefCell::new(vec![]));
        let record = |past: &Rc<RefCell<Vec<Vec<u8>>>>| {
            let past = Rc::clone(past);
            Box::new(move |_: &_, answer: Vec<u8>| {
                past.borrow_mut().push(answer.clone());
                answer
            })
        };
        world.tamper = Some(record(&past));
        world.tamper_poll = Some(record(&past));
        world.run_for(s(300));
        world.controller.polls_work = false;
        world.connect();
        for _ in 0..20_000 {
            let lane = &world.agent().lane;
            let pending = lane.state().pending.as_ref();
            let on_its_way = lane.send_at().is_none();
            if on_its_way && pending.is_some_and(|p| p.payload_type() == payload_type) {
                let past = past.take();
                assert!(past.len() > 5, "there is a past");
                return Self {
                    world,
                    door: Event::Answer,
                    good: vec![],
                    past,
                };
            }
            world.run_for(s(1) / 100);
        }
        panic!("no {payload_type} is sent");
    }

    /// All that an answer may change: in full, but for when to ask again and what is reported.
    fn believes(&mut self) -> Believed {
        let now = self.world.now();
        let agent = self.world.agent();
        let rest = (
            (&agent.authorisation, agent.interval, agent.heartbeat_at),
            (&agent.challenge, agent.probing, &agent.answering),
            (&agent.acks, agent.acks_sent, &agent.seen_directives),
            (&agent.upload, agent.ledger_epoch, agent.clock_offset_ms),
        );
        Believed {
            lane: agent.lane.state().clone(),
            certificate: agent.trust.certificate().clone(),
            floor_ms: agent.trust.floor_ms(),
            controller_now_ms: agent.trust.controller_now_ms(now),
            rest: format!("{rest:?}"),
        }
    }

    fn hear(&mut self, bytes: Vec<u8>) {
        self.hear_at(self.door, bytes);
    }

    /// The answer comes, while the agent waits at each of its doors. It may ask for a certificate
    /// and send again what is on its way, and does nothing else.
    fn hear_at(&mut self, door: Door, bytes: Vec<u8>) {
        let commands = self.commands_after(door, bytes);
        let pending = self.world.agent().lane.state().pending.clone();
        for command in commands {
            match command {
                Command::FetchCertificate | Command::Poll { .. } => {}
                // A line in the log, once for each directive.
                Command::Settled { outcome, .. } => assert_ne!(outcome, DirectiveOutcome::Applied),
                Command::Send { body, .. } => {
                    assert_eq!(Some(body), pending.as_ref().map(Envelope::to_json));
                }
                other => panic!("a hostile answer makes the agent do {other:?}"),
            }
        }
    }

    fn commands_after(&mut self, door: Door, bytes: Vec<u8>) -> Vec<Command> {
        let now = self.world.now();
        let agent = self.world.agent.as_mut().expect("the agent runs");
        agent.poll = PollState::InFlight {
            digest: POLL,
            sent: now.boot,
            failures: 0,
            epoch: agent.lane.state().epoch,
        };
        agent.handle(door(bytes), now, &mut self.world.dice);
        std::iter::from_fn(|| agent.next_command()).collect()
    }

    /// The good answer comes, and the agent does what it wants.
    fn hear_good(&mut self, bytes: Vec<u8>) {
        self.commands_after(self.door, bytes);
    }

    /// The names of the keys that sign answers.
    fn key_ids(&self) -> [String; 2] {
        let online = PublicKey::from(&self.world.controller.online).id();
        [online.to_string(), self.world.controller.pin().to_string()]
    }
}

/// A signature, and the name of its key if that is a wrong one.
type Signature = (String, Option<String>);

/// What a receiver verifies of an envelope: payload and type by their digest, and the signatures.
/// The names of the keys are hints: without one every key is tried, with a wrong one none, so a
/// name is left out when it is the right one.
fn message_of(bytes: &[u8], key_ids: &[String]) -> Option<(Digest, Vec<Signature>)> {
    let digest = Envelope::parse(bytes, usize::MAX).ok()?.digest();
    let json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let signature = |signature: &serde_json::Value| {
        let name = text(&signature["keyid"]);
        let hint = (!name.is_empty() && !key_ids.contains(&name)).then_some(name);
        (text(&signature["sig"]), hint)
    };
    let signatures = json["signatures"].as_array()?.iter().map(signature);
    Some((digest, signatures.collect()))
}
