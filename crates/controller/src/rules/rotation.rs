//! New identity keys (`docs/protocol.md`, "Rotation").
//!
//! A server has one current key, and between a rotation and the first request of the new epoch a
//! next one. Both are judged here: the current one against the stored chain, the next one against
//! the start of its own epoch. A retired key never gets this far.

use vpn_node_protocol::chain as chain_value;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::ReplyHeader;

use crate::rules::clones;
use crate::rules::effect::{Effect, NewEvent, NewKey};
use crate::rules::events::EventType;
use crate::rules::request::{Request, Subject};
use crate::rules::state::{ChainState, KeyRole, KeyUse, ServerKey, Snapshot};

/// What the reply that a request shows is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It may be the reply before this request.
    Before(ReplyHeader),
    /// It answered the rotation, but the old key was used after it.
    Overtaken,
    /// There is none, or it is of another epoch.
    Nothing,
}

/// The chain that a request of this key continues.
#[must_use]
pub fn chain_of(snapshot: &Snapshot, signer: &ServerKey) -> ChainState {
    match signer.role {
        KeyRole::Next => ChainState {
            epoch: signer.epoch,
            seq: 0,
            chain: chain_value::start(&snapshot.server_id, signer.epoch, &signer.key),
            nonce: snapshot.chain.nonce,
            last_digest: None,
        },
        KeyRole::Current | KeyRole::Retired => snapshot.chain.clone(),
    }
}

/// Judges the reply that a request shows. The first request of an epoch has no reply of its epoch
/// before it: there the reply to the rotation stands, as if it were reply 0 of the new epoch.
#[must_use]
pub fn proof(snapshot: &Snapshot, signer: &ServerKey, request: &Request) -> Shown {
    let header = &request.header;
    let Some(reply) = &request.proof else {
        return Shown::Nothing;
    };
    if reply.epoch == header.epoch {
        return Shown::Before(reply.clone());
    }
    let ends_the_epoch_before = signer.role == KeyRole::Next
        && header.seq == 1
        && reply.epoch.checked_add(1) == Some(header.epoch);
    if !ends_the_epoch_before {
        return Shown::Nothing;
    }
    // A controller that remembers more of the old epoch than this reply has lost nothing.
    if reply.epoch == snapshot.chain.epoch && reply.seq < snapshot.chain.seq {
        return Shown::Overtaken;
    }
    Shown::Before(ReplyHeader {
        epoch: signer.epoch,
        seq: 0,
        chain: chain_of(snapshot, signer).chain,
        ..reply.clone()
    })
}

/// Whether a request wants a key that somebody else has, that was replaced, or that signs already: a
/// next key, which the host itself may name again, comes into force with its own first request.
#[must_use]
pub fn is_to_a_taken_key(snapshot: &Snapshot, signer: &ServerKey, request: &Request) -> bool {
    match request.subject {
        Subject::Rotate(new_key) => new_key == signer.key || snapshot.new_key == KeyUse::Taken,
        _ => false,
    }
}

/// What an accepted rotation writes.
#[must_use]
pub fn next_key(new_key: &PublicKey, signer: &ServerKey, request: &Request) -> Effect {
    Effect::NextKey(NewKey {
        key: *new_key,
        epoch: signer.epoch.saturating_add(1),
        at_ms: request.now_ms,
    })
}

/// What the first accepted request of a next key writes before everything else.
pub fn first_use(
    snapshot: &Snapshot,
    signer: &ServerKey,
    request: &Request,
    effects: &mut Vec<Effect>,
) {
    if signer.role != KeyRole::Next {
        return;
    }
    effects.push(Effect::KeyInForce(NewKey {
        key: signer.key,
        epoch: signer.epoch,
        at_ms: request.now_ms,
    }));
    effects.push(Effect::Event(NewEvent {
        event_type: EventType::KeyRotated,
        source_id: Some(snapshot.server_id.clone()),
        description: format!(
            "the host uses its identity key {} of epoch {} now, from {}; every older key is refused from now on",
            signer.key.id(),
            signer.epoch,
            request.peer_ip
        ),
        at_ms: request.now_ms,
    }));
    effects.extend(clones::resolved(snapshot, request.now_ms));
}
