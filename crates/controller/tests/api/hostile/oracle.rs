//! What `docs/protocol.md` says must become of a message, worked out apart from the controller's
//! rules and from how the message was made. Shared is only the code that reads and verifies
//! envelopes, which has hostile tests and vectors of its own.

use serde::Serialize;
use serde::de::DeserializeOwned;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::enrolment::{EnrolRequest, Hello, HelloRequest, transcript};
use vpn_node_protocol::envelope::{Envelope, Payload as _};
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{
    MAX_BACKENDS, MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_DIRECTIVE_ACKS, MAX_ENROLMENT_BYTES,
    MAX_GAPS, MAX_RECORD_BYTES, MAX_REQUEST_BYTES, MAX_TEXT_BYTES,
};
use vpn_node_protocol::message::{
    Body, ChallengeAnswer, ConnectionBatch, Header, Heartbeat, Message, Poll, Reply,
};
use vpn_node_protocol::metrics::MAX_DISKS;
use vpn_node_protocol::sealing::Context;

use super::scene::Scene;
use crate::support::Host;

/// What must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Expect {
    /// A "no"; nothing changes.
    Refused,
    /// A greeting, or an answer to a poll: nothing changes.
    Answered,
    /// What was done already, once more: the same answer, and nothing changes.
    Repeated,
    /// Judged: the signature is right, and the message is the valid next one.
    Accepted,
    /// Judged: the signature is right, and the chain is another one.
    Quarantined,
    /// Judged: both signatures are right, and the token is good.
    Enrolled,
}

impl Expect {
    /// Whether the store changes, lawfully.
    pub(super) fn changes(self) -> bool {
        matches!(self, Self::Accepted | Self::Quarantined | Self::Enrolled)
    }
}

/// What must become of these bytes, sent to this path.
pub(super) fn expect(scene: &Scene, path: &str, bytes: &[u8]) -> Expect {
    match path {
        "/v1/enrol/hello" => hello(bytes),
        "/v1/enrol/complete" => complete(scene, bytes),
        "/v1/messages" => message(scene, bytes),
        "/v1/poll" => poll(scene, bytes),
        other => panic!("no path {other}"),
    }
    .unwrap_or(Expect::Refused)
}

/// Unsigned: whoever asks is greeted.
fn hello(bytes: &[u8]) -> Option<Expect> {
    let small = bytes.len() <= MAX_ENROLMENT_BYTES;
    let _: HelloRequest = serde_json::from_slice(bytes).ok().filter(|_| small)?;
    Some(Expect::Answered)
}

/// "Enrolment", step 4.
fn complete(scene: &Scene, bytes: &[u8]) -> Option<Expect> {
    let keys = &scene.world.keys;
    let envelope = Envelope::parse(bytes, MAX_ENROLMENT_BYTES).ok()?;
    let request: EnrolRequest = envelope.peek().ok()?;
    let hello: Hello = keys.open_own(&request.hello)?;
    let (token, identity) = (hello.registration_key, request.identity_key);
    for key in [&token, &identity] {
        envelope.verify(EnrolRequest::TYPE, key).ok()?;
    }
    let root = &keys.certificate().root;
    let same = transcript(&request.hello, root, &token, &identity) == request.transcript;
    let texts = [&request.version, &request.hostname, &request.os_version];
    let texts = texts.into_iter().chain(&request.location).all(|t| short(t));
    let capabilities = request.capabilities.len() <= 64
        && request.capabilities.iter().all(|capability| {
            short(&capability.kind) && capability.details.to_string().len() <= 4096
        });
    if !same || token == identity || !texts || request.hostname.is_empty() || !capabilities {
        return None;
    }
    let id = identity.id();
    let context = Context::Hardware { identity: &id };
    let opened = keys.unseal(&request.hardware, context).ok()?;
    let components: Components = serde_json::from_slice(&opened).ok()?;
    if components.verification_hash() != request.verification_hash {
        return None;
    }
    let is = |host: &Host| PublicKey::from(&host.registration) == token;
    if is(&scene.newcomer) {
        // One identity is one server.
        let taken = [&scene.host, &scene.other].map(Host::identity);
        return (!taken.contains(&identity)).then_some(Expect::Enrolled);
    }
    // Any other token of this test is spent.
    let of = [&scene.host, &scene.other].into_iter().find(|h| is(h))?;
    (of.identity() == identity).then_some(Expect::Repeated)
}

/// "Chained requests" and "Replay and clones".
fn message(scene: &Scene, bytes: &[u8]) -> Option<Expect> {
    let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).ok()?;
    let host = sender(scene, &envelope)?;
    let header = match envelope.payload_type() {
        Heartbeat::TYPE => opened(&envelope, host, heartbeat)?,
        ChallengeAnswer::TYPE => opened(&envelope, host, |answer: &ChallengeAnswer| {
            short(&answer.os_version)
        })?,
        ConnectionBatch::TYPE => opened(&envelope, host, connections)?,
        _ => return None,
    };
    let bounded = header.directive_acks.len() <= MAX_DIRECTIVE_ACKS
        && (1..=i64::MAX.cast_unsigned()).contains(&header.seq);
    if header.server_id != host.server_id || header.epoch != 1 || !bounded {
        return None;
    }
    place(scene, host, &header, envelope.digest())
}

/// The table of "Replay and clones", line by line.
fn place(scene: &Scene, host: &Host, header: &Header, digest: Digest) -> Option<Expect> {
    let next = host.seq + 1;
    let (chain, nonce) = (header.chain == host.chain, header.nonce == host.nonce);
    let proven = || {
        let proof = header.proof.as_ref()?;
        let reply: Reply = scene.world.keys.open_own(proof)?;
        let said = reply.header;
        let ours = said.server_id == host.server_id && said.epoch == 1;
        let leads = said.seq.checked_add(1) == Some(header.seq)
            && (said.chain, said.nonce) == (header.chain, header.nonce);
        (ours && leads).then_some(Expect::Accepted)
    };
    if header.seq > next {
        return proven();
    }
    if header.seq == next {
        return match (chain, nonce) {
            (true, true) => Some(Expect::Accepted),
            (true, false) => proven(),
            (false, _) => Some(Expect::Quarantined),
        };
    }
    // Of the other host nothing is recorded but its first heartbeat, which no test repeats.
    let mine = host.server_id == scene.host.server_id;
    let known = mine.then(|| scene.digest(header.seq)).flatten();
    match known == Some(digest) {
        true if header.seq == host.seq => Some(Expect::Repeated),
        true => None,
        false => Some(Expect::Quarantined),
    }
}

/// "Directives": the poll.
fn poll(scene: &Scene, bytes: &[u8]) -> Option<Expect> {
    const MOST: usize = 16 * 1024;
    let envelope = Envelope::parse(bytes, MOST).ok()?;
    let host = sender(scene, &envelope)?;
    let poll: Poll = envelope.open(&host.identity()).ok()?;
    let nonces = match host.server_id == scene.host.server_id {
        true => scene.nonces(),
        false => vec![host.nonce],
    };
    let ours = poll.server_id == host.server_id && poll.epoch == 1;
    let new = !scene.was_polled(poll.request_id);
    (ours && nonces.contains(&poll.nonce) && new).then_some(Expect::Answered)
}

/// Whose key the envelope names first.
fn sender<'a>(scene: &'a Scene, envelope: &Envelope) -> Option<&'a Host> {
    envelope.key_ids().find_map(|id| {
        [&scene.host, &scene.other]
            .into_iter()
            .find(|host| host.identity().id() == id)
    })
}

fn opened<B>(envelope: &Envelope, host: &Host, bounded: impl Fn(&B) -> bool) -> Option<Header>
where
    B: Body + Serialize + DeserializeOwned,
{
    let message: Message<B> = envelope.open(&host.identity()).ok()?;
    bounded(&message.body).then_some(message.header)
}

fn heartbeat(body: &Heartbeat) -> bool {
    let disks = &body.metrics.disks;
    body.backends.len() <= MAX_BACKENDS
        && disks.len() <= MAX_DISKS
        && disks.iter().all(|disk| short(&disk.mount))
        && body
            .backends
            .iter()
            .all(|b| short(&b.kind) && short(&b.instance))
        && [&body.version]
            .into_iter()
            .chain(&body.location)
            .all(|t| short(t))
}

fn connections(body: &ConnectionBatch) -> bool {
    let sizes: Vec<usize> = body
        .records
        .iter()
        .map(|r| r.sealed.as_bytes().len())
        .collect();
    let records: Vec<_> = body.records.iter().map(|r| (r.seq, r.seq)).collect();
    let gaps: Vec<_> = body.gaps.iter().map(|gap| (gap.first, gap.last)).collect();
    let mut all = [records.clone(), gaps.clone()].concat();
    all.sort_unstable();
    records.len() <= MAX_BATCH_RECORDS
        && gaps.len() <= MAX_GAPS
        && sizes.iter().all(|size| *size <= MAX_RECORD_BYTES)
        && sizes.iter().sum::<usize>() <= MAX_BATCH_BYTES
        && [records, gaps, all].iter().all(|ranges| ascending(ranges))
}

fn ascending(ranges: &[(u64, u64)]) -> bool {
    let whole = |&(first, last): &(u64, u64)| {
        first >= 1 && first <= last && last <= i64::MAX.cast_unsigned()
    };
    ranges.iter().all(whole) && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)
}

fn short(text: &str) -> bool {
    text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control)
}
