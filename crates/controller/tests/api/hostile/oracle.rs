//! What `docs/protocol.md` says must become of a message, worked out apart from the controller's
//! rules and from how the message was made. Shared is only the code that reads and verifies
//! envelopes, which has hostile tests and vectors of its own.

use serde::Serialize;
use serde::de::DeserializeOwned;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::enrolment::{EnrolRequest, Hello, HelloRequest, transcript};
use vpn_node_protocol::envelope::{Envelope, Payload};
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::identity::{Rotate, Witness};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{
    MAX_BACKENDS, MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_DIRECTIVE_ACKS, MAX_ENROLMENT_BYTES,
    MAX_GAPS, MAX_RECORD_BYTES, MAX_REQUEST_BYTES, MAX_TEXT_BYTES, WITNESS_LIFETIME_MS,
};
use vpn_node_protocol::message::{
    Body, ChallengeAnswer, ConnectionBatch, Header, Heartbeat, Message, Poll, Refusal, RefusalCode,
    Reply,
};
use vpn_node_protocol::metrics::MAX_DISKS;
use vpn_node_protocol::sealing::Context;

use super::introduction;
use super::scene::Scene;
use crate::support::Host;

/// What must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Expect {
    /// A "no"; nothing changes.
    Refused,
    /// Its signer names another server or epoch than that of the key: an unsigned "no".
    InAnothersName,
    /// A signed "no" to an introduction that proves nothing.
    NotKnown,
    /// A "yes" to an introduction of a key that is known already: nothing changes.
    Known,
    /// A greeting, or an answer to a poll: nothing changes.
    Answered,
    /// What was done already, once more: the same answer, and nothing changes.
    Repeated,
    /// Judged: the signature is right, and the message is the valid next one.
    Accepted,
    /// Judged: the signature is right, and the chain is another one.
    Quarantined,
    /// Judged: the signature is right, and the controller asks for the proof: the digest is
    /// remembered.
    Ahead,
    /// Judged: both signatures are right, and the token is good.
    Enrolled,
    /// Judged: our own signatures lead to the key.
    Introduced,
}

impl Expect {
    /// Whether the store changes, lawfully.
    pub(super) fn changes(self) -> bool {
        match self {
            Self::Refused | Self::InAnothersName | Self::NotKnown => false,
            Self::Known | Self::Answered | Self::Repeated => false,
            Self::Accepted | Self::Quarantined | Self::Ahead => true,
            Self::Enrolled | Self::Introduced => true,
        }
    }
}

/// What must become of these bytes, sent to this path.
pub(super) fn expect(scene: &Scene, path: &str, bytes: &[u8]) -> Expect {
    match path {
        "/v1/enrol/hello" => hello(bytes),
        "/v1/enrol/complete" => complete(scene, bytes),
        "/v1/messages" => message(scene, bytes),
        "/v1/poll" => poll(scene, bytes),
        "/v1/introduction" => introduction::expect(scene, bytes),
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
        return (!is_taken(scene, &identity)).then_some(Expect::Enrolled);
    }
    // Any other token of this test is spent.
    (is(&scene.host) && scene.host.identity() == identity).then_some(Expect::Repeated)
}

/// "Chained requests" and "Replay and clones".
fn message(scene: &Scene, bytes: &[u8]) -> Option<Expect> {
    let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).ok()?;
    let read = |opened: Result<(Speaker<'_>, Header), Expect>, new_key: Option<PublicKey>| {
        let (speaker, header) = match opened {
            Ok(opened) => opened,
            Err(end) => return Some(end),
        };
        let bounded = header.directive_acks.len() <= MAX_DIRECTIVE_ACKS
            && (1..=i64::MAX.cast_unsigned()).contains(&header.seq);
        if !bounded || speaker.role == Role::Retired {
            return None;
        }
        let end = place(scene, &speaker, &header, envelope.digest())?;
        let taken = new_key.is_some_and(|key| is_new_key_taken(scene, &speaker, &key));
        (end != Expect::Accepted || !taken).then_some(end)
    };
    match envelope.payload_type() {
        Heartbeat::TYPE => read(chained(scene, &envelope, heartbeat)?, None),
        ChallengeAnswer::TYPE => {
            let bounded = |answer: &ChallengeAnswer| short(&answer.os_version);
            read(chained(scene, &envelope, bounded)?, None)
        }
        ConnectionBatch::TYPE => read(chained(scene, &envelope, connections)?, None),
        Rotate::TYPE => {
            let opened = chained(scene, &envelope, |_: &Rotate| true)?;
            // In another's name comes first: nothing of the new key was looked at then.
            if opened.is_err() {
                return read(opened, None);
            }
            let message: Message<Rotate> = envelope.peek().ok()?;
            let new_key = message.body.new_key;
            envelope.verify(Rotate::TYPE, &new_key).ok()?;
            read(opened, Some(new_key))
        }
        Witness::TYPE => witness(scene, &envelope),
        _ => None,
    }
}

/// The table of "Replay and clones", line by line.
fn place(scene: &Scene, speaker: &Speaker<'_>, header: &Header, digest: Digest) -> Option<Expect> {
    let host = speaker.host;
    let next = host.seq + 1;
    let (chain, nonce) = (header.chain == host.chain, header.nonce == host.nonce);
    let proven = || match proof(scene, speaker, header) {
        Proof::Good => Expect::Accepted,
        Proof::Overtaken => Expect::Quarantined,
        Proof::None => Expect::Ahead,
    };
    if header.seq > next {
        return Some(proven());
    }
    if header.seq == next {
        return Some(match (chain, nonce) {
            (true, true) => Expect::Accepted,
            (true, false) => proven(),
            (false, _) => Expect::Quarantined,
        });
    }
    // Of the other hosts nothing is sent again but what the one in force said last.
    let mine = host.server_id == scene.host.server_id;
    let last = || scene.last_of_other().request.digest();
    let known = match (mine, header.seq == host.seq) {
        (true, _) => scene.digest(header.seq),
        (false, true) if host.identity() == scene.in_force.identity() => Some(last()),
        (false, _) => None,
    };
    if known == Some(digest) {
        return (header.seq == host.seq).then_some(Expect::Repeated);
    }
    let forgotten = header.seq < host.seq && mine && known.is_none();
    let was_ahead = mine && digest == scene.refused.digest();
    (!forgotten && !was_ahead).then_some(Expect::Quarantined)
}

enum Proof {
    Good,
    /// "Rotation": the old key was used after it.
    Overtaken,
    None,
}

fn proof(scene: &Scene, speaker: &Speaker<'_>, header: &Header) -> Proof {
    let said = header.proof.as_ref();
    let said = said.and_then(|proof| scene.world.keys.open_own::<Reply>(proof));
    let Some(said) = said.map(|reply| reply.header) else {
        return Proof::None;
    };
    if said.server_id != header.server_id {
        return Proof::None;
    }
    if said.epoch == header.epoch {
        let leads = said.seq.checked_add(1) == Some(header.seq)
            && (said.chain, said.nonce) == (header.chain, header.nonce);
        return if leads { Proof::Good } else { Proof::None };
    }
    let first = speaker.role == Role::Next && header.seq == 1 && said.epoch + 1 == header.epoch;
    if !first {
        return Proof::None;
    }
    match (said.seq < scene.in_force.seq, said.nonce == header.nonce) {
        (true, _) => Proof::Overtaken,
        (false, true) => Proof::Good,
        (false, false) => Proof::None,
    }
}

/// "Rotation", step 3: a new key is unknown, or this server's own next one when another signs.
fn is_new_key_taken(scene: &Scene, speaker: &Speaker<'_>, key: &PublicKey) -> bool {
    let own_next = speaker.role == Role::Current
        && speaker.host.server_id == scene.other.server_id
        && *key == scene.other.identity();
    !own_next && is_taken(scene, key)
}

/// Whether anybody has or had this key, for whatever.
pub(super) fn is_taken(scene: &Scene, key: &PublicKey) -> bool {
    let tokens = [&scene.host, &scene.other, &scene.moved, &scene.newcomer];
    let mut tokens = tokens
        .map(|host| PublicKey::from(&host.registration))
        .into_iter();
    speakers(scene)
        .iter()
        .any(|one| one.host.identity() == *key)
        || tokens.any(|one| one == *key)
}

/// "Witness".
fn witness(scene: &Scene, envelope: &Envelope) -> Option<Expect> {
    let named = |witness: &Witness| (witness.server_id.clone(), witness.epoch);
    let (speaker, witness) = match sender(scene, envelope, named)? {
        Ok(opened) => opened,
        Err(end) => return Some(end),
    };
    let refusal: Refusal = scene.world.keys.open_own(&witness.refusal)?;
    let now_ms = scene.world.now();
    let fresh = (now_ms - WITNESS_LIFETIME_MS..=now_ms).contains(&refusal.controller_time_ms);
    let holds = speaker.role == Role::Current
        && refusal.code == RefusalCode::Behind
        && fresh
        && (1..=speaker.host.seq).contains(&witness.seq);
    holds.then_some(Expect::Quarantined)
}

/// "Directives": the poll.
fn poll(scene: &Scene, bytes: &[u8]) -> Option<Expect> {
    const MOST: usize = 16 * 1024;
    let envelope = Envelope::parse(bytes, MOST).ok()?;
    let named = |poll: &Poll| (poll.server_id.clone(), poll.epoch);
    let (speaker, poll) = match sender(scene, &envelope, named)? {
        Ok(opened) => opened,
        Err(end) => return Some(end),
    };
    let host = speaker.host;
    let nonces = match host.server_id == scene.host.server_id {
        true => scene.nonces(),
        false => vec![host.nonce],
    };
    let good = speaker.role != Role::Retired && nonces.contains(&poll.nonce);
    (good && !scene.was_polled(poll.request_id)).then_some(Expect::Answered)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Next,
    Current,
    Retired,
}

/// A key that the controller knows; its host stands where the controller believes it to be.
pub(super) struct Speaker<'a> {
    pub(super) host: &'a Host,
    pub(super) role: Role,
}

pub(super) fn speakers(scene: &Scene) -> [Speaker<'_>; 5] {
    [
        (&scene.host, Role::Current),
        (&scene.unmoved, Role::Current),
        (&scene.other, Role::Next),
        (&scene.in_force, Role::Current),
        (&scene.retired, Role::Retired),
    ]
    .map(|(host, role)| Speaker { host, role })
}

pub(super) fn speaker<'a>(scene: &'a Scene, id: &Digest) -> Option<Speaker<'a>> {
    let mut all = speakers(scene).into_iter();
    all.find(|one| one.host.identity().id() == *id)
}

/// Whose message it is: of the signer whom it names, in whatever order the signatures stand.
fn sender<'a, P: Payload>(
    scene: &'a Scene,
    envelope: &Envelope,
    named: impl Fn(&P) -> (String, u32),
) -> Option<Result<(Speaker<'a>, P), Expect>> {
    let mut end = None;
    for one in envelope.key_ids().filter_map(|id| speaker(scene, &id)) {
        let Ok(payload) = envelope.open::<P>(&one.host.identity()) else {
            continue;
        };
        if named(&payload) == (one.host.server_id.clone(), one.host.epoch) {
            return Some(Ok((one, payload)));
        }
        end = Some(Err(Expect::InAnothersName));
    }
    end
}

fn chained<'a, B>(
    scene: &'a Scene,
    envelope: &Envelope,
    bounded: impl Fn(&B) -> bool,
) -> Option<Result<(Speaker<'a>, Header), Expect>>
where
    B: Body + Serialize + DeserializeOwned,
{
    let named = |message: &Message<B>| (message.header.server_id.clone(), message.header.epoch);
    match sender(scene, envelope, named)? {
        Ok((speaker, message)) => bounded(&message.body).then_some(Ok((speaker, message.header))),
        Err(end) => Some(Err(end)),
    }
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

pub(super) fn short(text: &str) -> bool {
    text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control)
}
