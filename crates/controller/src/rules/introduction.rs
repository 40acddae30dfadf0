//! A host whose newest key is not known here shows how it came to it (`docs/protocol.md`,
//! "Rotation").
//!
//! Each link is a rotation that the key before and the new one signed, and that one of our own keys
//! answered: nobody but the controller and the host can make one. The walk begins at the key that
//! is current here, so a key that was retired here proves nothing.

use vpn_node_protocol::envelope::{Envelope, Payload as _};
use vpn_node_protocol::identity::{Introduction, Rotate, Rotation};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Body as _, Message, Reply};

use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;

/// A key that the walk came by, with its epoch.
pub type Link = (PublicKey, u32);

/// What an introduction proves: the way from the current key to the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduced {
    /// Whose.
    pub server_id: String,
    /// The key that the walk began at; current when it was looked up.
    pub current: PublicKey,
    /// Keys between, oldest first: used by the host and replaced by it since.
    pub between: Vec<Link>,
    /// The newest key.
    pub newest: Link,
    /// What is to be recorded.
    pub event: NewEvent,
}

/// Whose key signed an introduction: the last one that it names.
///
/// # Errors
/// A sentence: there is no rotation in it, or the signature does not hold.
pub fn signer(envelope: &Envelope, introduction: &Introduction) -> Result<PublicKey, String> {
    let last = introduction.rotations.last();
    let last = last.ok_or("the introduction shows no rotation")?;
    let message: Message<Rotate> = last.request.peek().map_err(|error| error.to_string())?;
    let newest = message.body.new_key;
    envelope
        .verify(Introduction::TYPE, &newest)
        .map_err(|error| error.to_string())?;
    Ok(newest)
}

/// Walks the rotations from `current` of `epoch` to the newest key. `open_reply` opens what one of
/// our own keys signed. `None` when the walk does not get there.
#[must_use]
pub fn walk(
    introduction: &Introduction,
    (current, epoch): Link,
    newest: &PublicKey,
    open_reply: &dyn Fn(&Envelope) -> Option<Reply>,
) -> Option<Vec<Link>> {
    let server_id = introduction.server_id.as_str();
    let mut links = vec![];
    let mut at = (current, epoch);
    for rotation in &introduction.rotations {
        match follow(rotation, server_id, at, open_reply) {
            Some(link) => {
                links.push(link);
                at = link;
            }
            // Older than what is known here.
            None if links.is_empty() => {}
            None => return None,
        }
    }
    (at.0 == *newest && at.1 == introduction.epoch && !links.is_empty()).then_some(links)
}

/// One rotation, if it leads on from this key.
fn follow(
    rotation: &Rotation,
    server_id: &str,
    (key, epoch): Link,
    open_reply: &dyn Fn(&Envelope) -> Option<Reply>,
) -> Option<Link> {
    let request = &rotation.request;
    let peeked: Message<Rotate> = request.peek().ok()?;
    // Before any signature: most of what is older is passed over by this.
    if peeked.header.epoch != epoch || peeked.header.server_id != server_id {
        return None;
    }
    let message: Message<Rotate> = request.open(&key).ok()?;
    let new_key = message.body.new_key;
    request.verify(Rotate::TYPE, &new_key).ok()?;
    let reply = open_reply(&rotation.reply)?.header;
    let answers = reply.server_id == server_id
        && reply.epoch == epoch
        && reply.seq == message.header.seq
        && reply.request_digest == request.digest();
    answers.then_some((new_key, epoch.checked_add(1)?))
}

/// The event of an introduction.
#[must_use]
pub fn event(server_id: &str, (newest, epoch): &Link, peer_ip: &str, now_ms: i64) -> NewEvent {
    NewEvent {
        event_type: EventType::KeyIntroduced,
        source_id: Some(server_id.to_owned()),
        description: format!(
            "the host proves with our own signatures that its identity key is {} of epoch {epoch}, which is not stored: this database lost its newest commits (restored backup, failover); from {peer_ip}",
            newest.id()
        ),
        at_ms: now_ms,
    }
}
