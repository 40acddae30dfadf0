//! A host that changes its identity key.

use ed25519_dalek::SigningKey;
use vpn_node_protocol::chain;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::identity::{Introduction, Rotate, Rotation};
use vpn_node_protocol::message::Message;

use super::{Answered, Host, World};

impl Host {
    /// The next chained request: a rotation to this key, signed by both.
    pub(crate) fn rotate_request(&self, world: &World, new_key: &SigningKey) -> Envelope {
        let message = Message {
            header: self.header(world),
            body: Rotate {
                new_key: new_key.into(),
            },
        };
        Envelope::sign(&message, &[&self.key, new_key])
    }

    /// Takes the reply to a rotation: the next request is the first of the new epoch.
    pub(crate) fn take_rotation(
        &mut self,
        world: &World,
        request: Envelope,
        answer: &Answered,
        new_key: SigningKey,
    ) {
        self.take(world, &request, answer);
        let reply = self.last_reply.clone().unwrap();
        self.rotations.push(Rotation { request, reply });
        self.key = new_key;
        self.epoch += 1;
        self.seq = 0;
        self.chain = chain::start(&self.server_id, self.epoch, &self.identity());
    }

    /// A new key, accepted and not yet used.
    pub(crate) async fn rotate(&mut self, world: &World, seed: u8) {
        let new_key = SigningKey::from_bytes(&[seed; 32]);
        let request = self.rotate_request(world, &new_key);
        let answer = world.post("/v1/messages", request.to_json()).await;
        self.take_rotation(world, request, &answer, new_key);
    }

    pub(crate) fn introduction(&self) -> Introduction {
        Introduction {
            server_id: self.server_id.clone(),
            epoch: self.epoch,
            rotations: self.rotations.clone(),
        }
    }

    /// Sends an introduction that the host's own key signs.
    pub(crate) async fn introduce(&self, world: &World, what: &Introduction) -> Answered {
        let envelope = Envelope::sign(what, &[&self.key]);
        world.post("/v1/introduction", envelope.to_json()).await
    }
}
