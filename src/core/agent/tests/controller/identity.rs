//! The model controller's view of a host's keys: rotation, introduction, witness, retired keys.

use vpn_node_controller::rules::state::ChainState;
use vpn_node_protocol::chain;
use vpn_node_protocol::directive::Directive;
use vpn_node_protocol::envelope::{Envelope, Payload as _};
use vpn_node_protocol::identity::{Introduction, IntroductionReply, Rotate, Rotation, Witness};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{MAX_REQUEST_BYTES, MAX_ROTATIONS, WITNESS_LIFETIME_MS};
use vpn_node_protocol::message::{Body as _, ConnectionsAck, Message, Refusal, RefusalCode, Reply};

use super::{Controller, SERVER, Said};

/// The keys of the one server.
#[derive(Clone)]
pub(in super::super) struct Keys {
    pub(in super::super) current: PublicKey,
    pub(in super::super) epoch: u32,
    /// Accepted and not used yet, with its epoch.
    pub(in super::super) next: Option<(PublicKey, u32)>,
    pub(in super::super) retired: Vec<PublicKey>,
}

impl Keys {
    pub(super) fn new(current: PublicKey) -> Self {
        Self {
            current,
            epoch: 1,
            next: None,
            retired: Vec::new(),
        }
    }
}

/// What a key is to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Current,
    Next,
    Retired,
}

impl Controller {
    /// The first key that the envelope names and that is known.
    pub(super) fn key_of(&self, envelope: &Envelope) -> Option<(PublicKey, Role)> {
        let keys = &self.db.keys;
        let next = keys.next.iter().map(|(key, _)| (*key, Role::Next));
        let retired = keys.retired.iter().map(|key| (*key, Role::Retired));
        let known: Vec<(PublicKey, Role)> = [(keys.current, Role::Current)]
            .into_iter()
            .chain(next)
            .chain(retired)
            .collect();
        envelope
            .key_ids()
            .find_map(|id| known.iter().find(|(key, _)| key.id() == id).copied())
    }

    pub(super) fn refused_altogether(&self) -> Option<RefusalCode> {
        match (self.db.revoked, self.db.quarantined) {
            (true, _) => Some(RefusalCode::Revoked),
            (_, true) => Some(RefusalCode::Quarantined),
            _ => None,
        }
    }

    /// Where the chain of this key stands.
    pub(super) fn stored(&self, role: Role) -> ChainState {
        let db = &self.db;
        match (role, db.keys.next) {
            (Role::Next, Some((key, epoch))) => ChainState {
                epoch,
                seq: 0,
                chain: chain::start(SERVER, epoch, &key),
                nonce: db.nonces[1],
                last_digest: None,
            },
            _ => ChainState {
                epoch: db.keys.epoch,
                seq: db.seq,
                chain: db.chain,
                nonce: db.nonces[1],
                last_digest: db.last.as_ref().map(|(digest, _)| *digest),
            },
        }
    }

    /// The old epoch is dead from here on.
    pub(super) fn new_key_is_used(&mut self) {
        let start = self.stored(Role::Next);
        let keys = &mut self.db.keys;
        let Some((key, epoch)) = keys.next.take() else {
            return;
        };
        keys.retired.push(std::mem::replace(&mut keys.current, key));
        keys.epoch = epoch;
        self.db.seq = start.seq;
        self.db.chain = start.chain;
        self.db.last = None;
        self.db.taken.clear();
        // Open directives are signed again when they are delivered.
        for (_, envelope) in &mut self.db.unacked {
            let Ok(directive) = envelope.peek::<Directive>() else {
                continue;
            };
            let again = Directive { epoch, ..directive };
            *envelope = Envelope::sign(&again, &[&self.online]);
        }
    }

    pub(super) fn rotation(&mut self, body: Rotate, _: i64) -> Result<Option<ConnectionsAck>, ()> {
        let keys = &mut self.db.keys;
        if keys.current == body.new_key || keys.retired.contains(&body.new_key) {
            return Err(());
        }
        let former = keys.next.replace((body.new_key, keys.epoch + 1));
        keys.retired.extend(
            former
                .map(|(key, _)| key)
                .filter(|key| *key != body.new_key),
        );
        Ok(None)
    }

    /// A request came to `/v1/introduction`.
    pub(in super::super) fn introduction(&mut self, bytes: &[u8], now_ms: i64) -> Said {
        let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).expect("an envelope");
        self.introductions += 1;
        let digest = envelope.digest();
        if let Some(code) = self.refused_altogether() {
            return Said::Answer(self.refuse(digest, code, now_ms));
        }
        let known = match self.key_of(&envelope) {
            Some((_, Role::Retired)) => {
                let refusal = self.refuse(digest, RefusalCode::RetiredKey, now_ms);
                return Said::Answer(refusal);
            }
            Some((key, _)) => envelope.verify(Introduction::TYPE, &key).is_ok(),
            None => match self.introduced(&envelope) {
                Some(newest) => {
                    self.db.keys.next = Some(newest);
                    true
                }
                None => false,
            },
        };
        let reply = IntroductionReply {
            request_digest: digest,
            controller_time_ms: now_ms,
            known,
        };
        Said::Answer(Envelope::sign(&reply, &[&self.online]).to_json())
    }

    /// From a key that is known to the one that signed, rotation by rotation.
    fn introduced(&self, envelope: &Envelope) -> Option<(PublicKey, u32)> {
        let claimed: Introduction = envelope.peek().ok()?;
        assert!(claimed.rotations.len() <= MAX_ROTATIONS);
        let (mut key, mut epoch) = (self.db.keys.current, self.db.keys.epoch);
        // At that epoch: the rotation that brought this key is signed by it too.
        let starts = |rotation: &Rotation| {
            let opened = rotation.request.open::<Message<Rotate>>(&key);
            opened.is_ok_and(|message| message.header.epoch == epoch)
        };
        let first = claimed.rotations.iter().position(starts)?;
        for Rotation { request, reply } in &claimed.rotations[first..] {
            let message: Message<Rotate> = request.open(&key).ok()?;
            request.verify(Rotate::TYPE, &message.body.new_key).ok()?;
            let mut own = self.own_keys.iter().map(|own| reply.open::<Reply>(own));
            let reply = own.find_map(Result::ok)?.header;
            let fits = (message.header.server_id.as_str(), message.header.epoch) == (SERVER, epoch)
                && (reply.server_id.as_str(), reply.epoch) == (SERVER, epoch)
                && reply.request_digest == request.digest();
            if !fits {
                return None;
            }
            (key, epoch) = (message.body.new_key, epoch + 1);
        }
        envelope.verify(Introduction::TYPE, &key).ok()?;
        (claimed.server_id == SERVER && claimed.epoch == epoch).then_some((key, epoch))
    }

    pub(super) fn witness(&mut self, envelope: &Envelope, now_ms: i64) -> Vec<u8> {
        let digest = envelope.digest();
        let witness: Witness = envelope.open(&self.signer).expect("signed by the host");
        let mut own = self
            .own_keys
            .iter()
            .map(|own| witness.refusal.open::<Refusal>(own));
        let refusal = own.find_map(Result::ok).expect("our refusal");
        assert_eq!(refusal.code, RefusalCode::Behind);
        if now_ms - refusal.controller_time_ms > WITNESS_LIFETIME_MS {
            return self.refuse(digest, RefusalCode::BadRequest, now_ms);
        }
        self.witnesses += 1;
        self.db.quarantined = true;
        self.refuse(digest, RefusalCode::Quarantined, now_ms)
    }
}
