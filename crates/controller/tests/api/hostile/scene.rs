//! A small fleet with a past, and one valid next message of every kind that was never delivered.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::path::Path;

use axum::body::Body;
use axum::http::{Request, header};
use ed25519_dalek::SigningKey;
use serde_json::Value;
use uuid::Uuid;
use vpn_node_controller::api::Peer;
use vpn_node_protocol::connection::ConnectionEvent;
use vpn_node_protocol::directive::Directive;
use vpn_node_protocol::encoding::{Base64, Digest, Hex, Nonce};
use vpn_node_protocol::enrolment::HelloRequest;
use vpn_node_protocol::envelope::{CONTENT_TYPE, Envelope, Payload};
use vpn_node_protocol::identity::{Rotation, Witness};
use vpn_node_protocol::message::{DirectiveAck, DirectiveOutcome, Gap, GapReason, Purpose, Reply};

use crate::connections::{batch, record, seal};
use crate::poll::poll;
use crate::support::{Answered, Host, World};
use crate::verification::answer_to;

/// Memory, where there is such a file system: every commit is an fsync.
const IN_MEMORY: &str = "/dev/shm";
/// Requests from one address, below the controller's limit of enrolments for one source: a limit
/// that refuses everything would prove nothing.
const PER_SOURCE: u32 = 500;
/// Requests that the host has made.
const PAST: u64 = 5;
/// Those that the controller forgot: it was restored from a backup.
const FORGOTTEN: RangeInclusive<u64> = 2..=3;
/// The one that was refused as ahead first, and accepted with proof then.
const AHEAD: u64 = 4;

/// A kind of message.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    /// The valid next one.
    pub(super) make: fn(&Scene) -> Vec<u8>,
}

/// Every kind that an agent sends; a new one is a line here and a line for the oracle.
pub(super) const KINDS: &[Kind] = &[
    kind("hello", "/v1/enrol/hello", Scene::hello),
    kind("enrol-request", "/v1/enrol/complete", Scene::enrol_request),
    kind("heartbeat", "/v1/messages", Scene::heartbeat),
    kind("challenge-answer", "/v1/messages", Scene::challenge_answer),
    kind("connections", "/v1/messages", Scene::connections),
    kind("rotate", "/v1/messages", Scene::rotate),
    kind("witness", "/v1/messages", Scene::witness),
    kind("poll", "/v1/poll", Scene::poll),
    kind("introduction", "/v1/introduction", Scene::introduction),
];

const fn kind(name: &'static str, path: &'static str, make: fn(&Scene) -> Vec<u8>) -> Kind {
    Kind { name, path, make }
}

pub(super) struct Scene {
    pub(super) world: World,
    /// Enrolled, with a challenge to answer.
    pub(super) host: Host,
    /// Has replaced its key, and will once more: with the key that is next, not used yet.
    pub(super) other: Host,
    /// The same with its key in force.
    pub(super) in_force: Host,
    /// The same with its key of before.
    pub(super) retired: Host,
    /// Replies to it, of three epochs.
    pub(super) others_replies: Vec<Envelope>,
    /// Has replaced its key twice, which the controller has forgotten.
    pub(super) moved: Host,
    /// The same as the controller knows it.
    pub(super) unmoved: Host,
    /// Holds a token and has been greeted.
    pub(super) newcomer: Host,
    /// To which the host would change.
    pub(super) new_key: SigningKey,
    /// Refusals of the host's requests.
    pub(super) ahead: Answered,
    pub(super) behind: Answered,
    /// The request that was refused as ahead.
    pub(super) refused: Envelope,
    greeting: Envelope,
    challenge: Directive,
    /// What the host has said, first to last, and the answers.
    pub(super) said: Vec<Envelope>,
    pub(super) answers: Vec<Answered>,
    /// The host's enrolment.
    pub(super) enrolment: Vec<u8>,
    /// How long a poll asks to be held.
    pub(super) poll_wait_s: u32,
    /// Ids of answered polls, the newest last: the controller remembers as many.
    polled: VecDeque<Uuid>,
    delivered: u32,
}

impl Scene {
    pub(super) async fn new() -> Self {
        let dir = match Path::new(IN_MEMORY).is_dir() {
            true => tempfile::tempdir_in(IN_MEMORY),
            false => tempfile::tempdir(),
        };
        let world = World::in_dir(dir.unwrap(), |_| {}).await;
        let mut host = Host::new(&world.token().await, 1);
        let (enrolment, outcome) = host.enrol(&world).await;
        host.take_enrolment(outcome);
        let mut moved = Host::enrolled(&world, 4).await;
        moved.beat(&world).await;
        let unmoved = moved.clone();
        let mut past = Past::default();
        past.say(&world, &mut host).await;
        let backup = world.back_up().await;
        moved.rotate(&world, 104).await;
        moved.beat(&world).await;
        moved.rotate(&world, 105).await;
        for _ in FORGOTTEN {
            past.say(&world, &mut host).await;
        }
        let world = world.restore(backup).await;
        let refused = host.sign(host.header(&world), host.heartbeat());
        let ahead = world.post("/v1/messages", refused.to_json()).await;
        for _ in AHEAD..=PAST {
            past.say(&world, &mut host).await;
        }
        let forgotten = past.said[1].to_json();
        let behind = world.post("/v1/messages", forgotten).await;
        let mut other = Host::enrolled(&world, 2).await;
        other.beat(&world).await;
        let retired = other.clone();
        other.rotate(&world, 102).await;
        other.beat(&world).await;
        let mut in_force = other.clone();
        other.rotate(&world, 103).await;
        // What the old key's holder knows after the rotation.
        let rotation = other.rotations.last().expect("two of them").clone();
        let newest = in_force.last_reply.iter().chain([&rotation.reply]);
        let oldest = retired.last_reply.iter().chain([&other.rotations[0].reply]);
        let others_replies = oldest.chain(newest).cloned().collect();
        let answer = Answered {
            status: 200,
            signed: true,
            body: rotation.reply.to_json(),
        };
        in_force.take(&world, &rotation.request, &answer);
        let Past {
            said,
            answers,
            challenge,
        } = past;
        let newcomer = Host::new(&world.token().await, 3);
        let greeting = newcomer.hello(&world).await.hello;
        Self {
            world,
            host,
            other,
            in_force,
            retired,
            others_replies,
            moved,
            unmoved,
            newcomer,
            new_key: SigningKey::from_bytes(&[101; 32]),
            ahead,
            behind,
            refused,
            greeting,
            challenge: challenge.expect("a restarted host is challenged"),
            said,
            answers,
            enrolment,
            poll_wait_s: 0,
            polled: VecDeque::new(),
            delivered: 0,
        }
    }

    fn hello(&self) -> Vec<u8> {
        let asked = HelloRequest {
            registration_key: (&self.newcomer.registration).into(),
            client_nonce: Hex([5; 32]),
        };
        serde_json::to_vec(&asked).unwrap()
    }

    fn enrol_request(&self) -> Vec<u8> {
        let request = self.newcomer.enrol_request(&self.world, &self.greeting);
        let keys = [&self.newcomer.registration, &self.newcomer.key];
        Envelope::sign(&request, &keys).to_json()
    }

    fn heartbeat(&self) -> Vec<u8> {
        let header = self.host.header(&self.world);
        self.host.sign(header, self.host.heartbeat()).to_json()
    }

    fn challenge_answer(&self) -> Vec<u8> {
        let mut header = self.host.header(&self.world);
        header.directive_acks = vec![DirectiveAck {
            id: self.challenge.id,
            outcome: DirectiveOutcome::Applied,
            detail: None,
        }];
        let answer = answer_to(&self.world, &self.host, &self.challenge);
        self.host.sign(header, answer).to_json()
    }

    fn connections(&self) -> Vec<u8> {
        let (world, host) = (&self.world, &self.host);
        let start = record(host, 7, ConnectionEvent::Start);
        let update = record(host, 7, ConnectionEvent::Update);
        let mut body = batch(vec![
            seal(world, host, 1, &start),
            seal(world, host, 3, &update),
        ]);
        body.gaps = vec![Gap {
            first: 2,
            last: 2,
            reason: GapReason::Torn,
        }];
        host.sign(host.header(world), body).to_json()
    }

    fn rotate(&self) -> Vec<u8> {
        let rotate = self.host.rotate_request(&self.world, &self.new_key);
        rotate.to_json()
    }

    fn witness(&self) -> Vec<u8> {
        let witness = Witness {
            server_id: self.host.server_id.clone(),
            epoch: self.host.epoch,
            refusal: Envelope::parse(&self.behind.body, 1 << 20).unwrap(),
            seq: 2,
            boot_id: self.host.boot_id,
            boottime_ms: 7,
        };
        Envelope::sign(&witness, &[&self.host.key]).to_json()
    }

    fn introduction(&self) -> Vec<u8> {
        Envelope::sign(&self.moved.introduction(), &[&self.moved.key]).to_json()
    }

    fn poll(&self) -> Vec<u8> {
        poll(&self.host, self.poll_wait_s).to_json()
    }

    /// Delivers bytes; from another address now and then.
    pub(super) async fn deliver(&mut self, path: &str, body: Vec<u8>) -> Answered {
        let source = (self.delivered / PER_SOURCE).to_be_bytes();
        self.delivered += 1;
        let sent = body.clone();
        let mut request = Request::post(path)
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .body(Body::from(body))
            .unwrap();
        let peer = Peer([10, source[1], source[2], source[3]].into());
        request.extensions_mut().insert(peer);
        let answer = self.world.send(request).await;
        assert_ne!(answer.status, 429, "a limit refuses, and nothing is tested");
        assert!(
            answer.status < 500,
            "{path}: {}\nof {}",
            String::from_utf8_lossy(&answer.body),
            String::from_utf8_lossy(&sent[..sent.len().min(3000)])
        );
        answer
    }

    /// What our own key signed, if it did.
    pub(super) fn own<P: Payload>(&self, answer: &Answered) -> Option<P> {
        let envelope = Envelope::parse(&answer.body, 1 << 20).ok()?;
        self.world.keys.open_own(&envelope)
    }

    /// The nonces that a poll of the host may repeat.
    pub(super) fn nonces(&self) -> Vec<Nonce> {
        let newest = self.answers.iter().rev().take(2);
        let replies = newest.map(|answer| self.own::<Reply>(answer).expect("a reply"));
        replies.map(|reply| reply.header.nonce).collect()
    }

    /// What the other host's key in force said last: that it is replaced.
    pub(super) fn last_of_other(&self) -> &Rotation {
        self.other.rotations.last().expect("two of them")
    }

    /// Whether a poll with this id was answered, as far as the controller must remember.
    pub(super) fn was_polled(&self, request_id: Uuid) -> bool {
        self.polled.contains(&request_id)
    }

    /// A poll with this id was answered.
    pub(super) fn polled(&mut self, request_id: Uuid) {
        const REMEMBERED: usize = 32;
        self.polled.push_back(request_id);
        if self.polled.len() > REMEMBERED {
            self.polled.pop_front();
        }
    }

    /// Digest of what the host said as its `seq`-th, if the controller remembers it.
    pub(super) fn digest(&self, seq: u64) -> Option<Digest> {
        if FORGOTTEN.contains(&seq) {
            return None;
        }
        let at = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.said.get(at).map(Envelope::digest)
    }
}

/// What a host has said, and the answers.
#[derive(Default)]
struct Past {
    said: Vec<Envelope>,
    answers: Vec<Answered>,
    challenge: Option<Directive>,
}

impl Past {
    /// One more heartbeat, with proof when it is asked for.
    async fn say(&mut self, world: &World, host: &mut Host) {
        let mut heartbeat = host.heartbeat();
        heartbeat.verification_wanted = Some(Purpose::Start);
        let mut header = host.header(world);
        if header.seq == AHEAD {
            header.proof = host.last_reply.clone().map(Box::new);
        }
        let envelope = host.sign(header, heartbeat);
        let answer = world.post("/v1/messages", envelope.to_json()).await;
        let reply: Reply = host.take(world, &envelope, &answer);
        self.challenge = host.directives(world, &reply.directives).pop();
        self.said.push(envelope);
        self.answers.push(answer);
    }
}

/// The payload of an envelope as JSON.
pub(super) fn payload(envelope: &Value) -> Value {
    let bytes: Base64 = serde_json::from_value(envelope["payload"].clone()).unwrap();
    serde_json::from_slice(&bytes.0).unwrap()
}
