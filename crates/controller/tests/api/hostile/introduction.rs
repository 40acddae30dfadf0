//! What `docs/protocol.md` says must become of an introduction ("Rotation", a controller that lost
//! its memory), worked out apart from the controller's rules.

use vpn_node_protocol::envelope::{Envelope, Payload as _};
use vpn_node_protocol::identity::{Introduction, Rotate, Rotation};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{MAX_REQUEST_BYTES, MAX_ROTATIONS};
use vpn_node_protocol::message::{Body as _, Message, Reply};

use super::oracle::{Expect, Role, is_taken, short, speaker, speakers};
use super::scene::Scene;

pub(super) fn expect(scene: &Scene, bytes: &[u8]) -> Option<Expect> {
    let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).ok()?;
    let said: Introduction = envelope.peek().ok()?;
    if said.rotations.len() > MAX_ROTATIONS || !short(&said.server_id) {
        return None;
    }
    let newest = new_key(said.rotations.last()?)?;
    envelope.verify(Introduction::TYPE, &newest).ok()?;
    if let Some(known) = speaker(scene, &newest.id()) {
        let own = (&known.host.server_id, known.host.epoch) == (&said.server_id, said.epoch);
        return match (own, known.role) {
            (false, _) => Some(Expect::NotKnown),
            (true, Role::Retired) => None,
            (true, _) => Some(Expect::Known),
        };
    }
    let keys = walk(scene, &said).filter(|keys| keys.last() == Some(&newest));
    let free = keys.filter(|keys| !keys.iter().any(|key| is_taken(scene, key)));
    Some(match free {
        Some(_) => Expect::Introduced,
        None => Expect::NotKnown,
    })
}

/// The keys after the one in force, when every link holds and the epochs fit.
fn walk(scene: &Scene, said: &Introduction) -> Option<Vec<PublicKey>> {
    let of_server = |host: &crate::support::Host| host.server_id == said.server_id;
    let current = speakers(scene)
        .into_iter()
        .find(|one| of_server(one.host) && one.role == Role::Current)?;
    let (mut key, mut epoch) = (current.host.identity(), current.host.epoch);
    let leads = |rotation: &Rotation, key: &PublicKey, epoch: u32| {
        leads(scene, &said.server_id, rotation, key, epoch)
    };
    let begins = said
        .rotations
        .iter()
        .position(|rotation| leads(rotation, &key, epoch))?;
    let mut keys = vec![];
    for rotation in &said.rotations[begins..] {
        if !leads(rotation, &key, epoch) {
            return None;
        }
        key = new_key(rotation)?;
        epoch += 1;
        keys.push(key);
    }
    (epoch == said.epoch).then_some(keys)
}

/// Signed by both keys, and answered by the controller.
fn leads(scene: &Scene, server_id: &str, rotation: &Rotation, key: &PublicKey, epoch: u32) -> bool {
    let Rotation { request, reply } = rotation;
    let signed = |key: &PublicKey| request.verify(Rotate::TYPE, key).is_ok();
    let Ok(asked) = request.peek::<Message<Rotate>>() else {
        return false;
    };
    let Some(reply) = scene.world.keys.open_own::<Reply>(reply) else {
        return false;
    };
    let (asked, new_key, said) = (asked.header, asked.body.new_key, reply.header);
    signed(key)
        && signed(&new_key)
        && (asked.server_id.as_str(), asked.epoch) == (server_id, epoch)
        && (said.server_id.as_str(), said.epoch) == (server_id, epoch)
        && (said.seq, said.request_digest) == (asked.seq, request.digest())
}

fn new_key(rotation: &Rotation) -> Option<PublicKey> {
    let asked: Message<Rotate> = rotation.request.peek().ok()?;
    Some(asked.body.new_key)
}
