//! A model controller, as `docs/protocol.md` has it: the real rule of the chain
//! (`vpn_node_controller::rules::chain`), proof after a loss of memory, quarantine, challenges,
//! leases, acknowledgements, keys of both sides. Its database is one value, so that a backup is a
//! clone of it.

mod identity;
mod judgement;
mod polls;

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use vpn_node_protocol::certificate::{
    ControllerCertificate, SealingKeyEntry, SigningKeyEntry, Validity,
};
use vpn_node_protocol::chain;
use vpn_node_protocol::connection::ConnectionRecord;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::encoding::{Base64, Digest, Hex, Nonce};
use vpn_node_protocol::envelope::{Envelope, Payload as _};
use vpn_node_protocol::hardware::{Components, HardwareStatus};
use vpn_node_protocol::identity::{Rotate, Witness};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{CHALLENGE_DEADLINE_S, MAX_DIRECTIVES, MAX_REQUEST_BYTES};
use vpn_node_protocol::message::{
    Authorisation, Body, ChallengeAnswer, ConnectionBatch, ConnectionsAck, DirectiveAck, Heartbeat,
    Message, Purpose, Refusal, RefusalCode, Reply, ReplyHeader, Standing, Verdict,
};
use vpn_node_protocol::sealing::{Context, SealingSecret};

use super::dice::Dice;
use super::disk::unsealed;
use identity::{Keys, Role};
use judgement::Outcome;

pub(super) const SERVER: &str = "server-1";

/// What the controller would keep in its database.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) seq: u64,
    chain: Digest,
    pub(super) nonces: [Nonce; 2],
    last: Option<(Digest, Reply)>,
    /// The newest requests that it took, by number, so that a late copy is known for what it is.
    taken: BTreeMap<u64, Digest>,
    /// Requests refused as ahead: late copies of them come too.
    refused_ahead: Vec<Digest>,
    pub(super) keys: Keys,
    pub(super) quarantined: bool,
    pub(super) revoked: bool,
    pub(super) approved: bool,
    pub(super) verdict: Verdict,
    open: Option<(Uuid, Nonce, Purpose, i64)>,
    pub(super) unacked: Vec<(Uuid, Envelope)>,
    pub(super) acks: Vec<DirectiveAck>,
    pub(super) records: BTreeMap<(Hex<16>, u64), ConnectionRecord>,
    pub(super) acked: BTreeMap<[u8; 16], u64>,
    pub(super) heartbeats: u64,
    pub(super) last_heartbeat: Option<Heartbeat>,
    /// Of the last challenge that was answered.
    pub(super) last_hardware: Option<Components>,
    pub(super) batches: u64,
    pub(super) lost: u64,
}

pub(super) struct Controller {
    root: SigningKey,
    pub(super) online: SigningKey,
    own_keys: Vec<PublicKey>,
    sealing: SealingSecret,
    pub(super) certificate: ControllerCertificate,
    /// Whose request is being looked at.
    signer: PublicKey,
    dice: Dice,
    pub(super) db: Database,
    pub(super) lease_s: u32,
    pub(super) interval_s: u32,
    /// Says "bad request" to every batch.
    pub(super) hates_batches: bool,
    /// Says "bad request" to so many requests of any kind.
    pub(super) bad_requests: u32,
    /// Believes no proof, and remembers nothing.
    pub(super) never_convinced: bool,
    pub(super) polls_work: bool,
    /// Gives no challenge for this reason.
    pub(super) deaf_to: Option<Purpose>,
    pub(super) reason: Option<String>,
    /// Answers to challenges that were judged good, and others.
    pub(super) good_answers: u64,
    pub(super) bad_answers: u64,
    /// Why a host was quarantined.
    pub(super) quarantines: Vec<String>,
    pub(super) memory_losses: u64,
    pub(super) late_copies: u64,
    pub(super) aheads: u64,
    /// Requests signed by keys that were replaced.
    pub(super) retired_uses: u64,
    pub(super) witnesses: u64,
    pub(super) introductions: u64,
    /// So many requests are remembered.
    pub(super) remembers: usize,
}

/// What comes back.
pub(super) enum Said {
    Answer(Vec<u8>),
    /// HTTP says 401, and nothing is signed.
    UnknownKey,
    /// HTTP says no, and nothing is signed.
    Nothing,
}

impl Said {
    /// The signed answer.
    pub(super) fn signed(self) -> Vec<u8> {
        match self {
            Self::Answer(bytes) => bytes,
            Self::UnknownKey | Self::Nothing => panic!("an answer that nobody signed"),
        }
    }
}

/// What becomes of a poll.
pub(super) enum Polled {
    Hold(Digest),
    Answer(Vec<u8>),
    Refused,
}

impl Controller {
    pub(super) fn new(identity: PublicKey, seed: u64, now_ms: i64) -> Self {
        let mut dice = Dice::new(seed ^ 0xc0ff_ee00);
        let root = SigningKey::from_bytes(&dice.bytes());
        let online = SigningKey::from_bytes(&dice.bytes());
        let sealing = SealingSecret::from_bytes(&dice.bytes());
        let validity = Validity {
            not_before_ms: now_ms - 3_600_000,
            not_after_ms: now_ms + 365 * 86_400_000,
        };
        let certificate = ControllerCertificate {
            serial: 1,
            root: (&root).into(),
            issued_ms: now_ms,
            signing_keys: vec![SigningKeyEntry {
                key: (&online).into(),
                validity,
            }],
            sealing_keys: vec![SealingKeyEntry {
                id: sealing.id(),
                key: Base64(sealing.public().to_vec()),
                validity,
            }],
        };
        let db = Database {
            seq: 0,
            chain: chain::start(SERVER, 1, &identity),
            nonces: [Hex(dice.bytes()); 2],
            last: None,
            taken: BTreeMap::new(),
            refused_ahead: Vec::new(),
            keys: Keys::new(identity),
            quarantined: false,
            revoked: false,
            approved: true,
            verdict: Verdict::Unverified,
            open: None,
            unacked: Vec::new(),
            acks: Vec::new(),
            records: BTreeMap::new(),
            acked: BTreeMap::new(),
            heartbeats: 0,
            last_heartbeat: None,
            last_hardware: None,
            batches: 0,
            lost: 0,
        };
        Self {
            own_keys: vec![(&online).into()],
            root,
            online,
            sealing,
            certificate,
            signer: identity,
            dice,
            db,
            lease_s: 1800,
            interval_s: 30,
            hates_batches: false,
            bad_requests: 0,
            never_convinced: false,
            polls_work: true,
            deaf_to: None,
            reason: None,
            good_answers: 0,
            bad_answers: 0,
            quarantines: Vec::new(),
            memory_losses: 0,
            late_copies: 0,
            aheads: 0,
            retired_uses: 0,
            witnesses: 0,
            introductions: 0,
            remembers: 4096,
        }
    }

    pub(super) fn pin(&self) -> Digest {
        PublicKey::from(&self.root).id()
    }

    pub(super) fn signed_certificate(&self) -> Envelope {
        Envelope::sign(&self.certificate, &[&self.root])
    }

    /// A new signing key; the old one leaves the certificate, or ends at `old_ends_ms`.
    pub(super) fn rotate(&mut self, now_ms: i64, old_ends_ms: Option<i64>) {
        self.online = SigningKey::from_bytes(&self.dice.bytes());
        self.own_keys.push((&self.online).into());
        self.certificate.serial += 1;
        let keys = &mut self.certificate.signing_keys;
        match old_ends_ms {
            Some(end) => keys.iter_mut().for_each(|e| e.validity.not_after_ms = end),
            None => keys.clear(),
        }
        keys.push(SigningKeyEntry {
            key: (&self.online).into(),
            validity: Validity {
                not_before_ms: now_ms - 3_600_000,
                not_after_ms: now_ms + 365 * 86_400_000,
            },
        });
    }

    /// A request came to `/v1/messages`.
    pub(super) fn message(&mut self, bytes: &[u8], now_ms: i64) -> Said {
        let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).expect("an envelope");
        let Some((key, role)) = self.key_of(&envelope) else {
            return Said::UnknownKey;
        };
        self.signer = key;
        if role == Role::Retired {
            self.retired_uses += 1;
            return Said::Answer(self.refuse(envelope.digest(), RefusalCode::RetiredKey, now_ms));
        }
        Said::Answer(match envelope.payload_type() {
            Heartbeat::TYPE => self.take(&envelope, role, now_ms, Self::heartbeat),
            ChallengeAnswer::TYPE => self.take(&envelope, role, now_ms, Self::challenge_answer),
            ConnectionBatch::TYPE => self.take(&envelope, role, now_ms, Self::batch),
            Rotate::TYPE => {
                let message: Message<Rotate> = envelope.open(&key).expect("signed by the host");
                let second: Result<Message<Rotate>, _> = envelope.open(&message.body.new_key);
                second.expect("signed by the new key too");
                self.take(&envelope, role, now_ms, Self::rotation)
            }
            Witness::TYPE => self.witness(&envelope, now_ms),
            other => panic!("the agent sent {other}"),
        })
    }

    fn take<B>(
        &mut self,
        envelope: &Envelope,
        role: Role,
        now_ms: i64,
        effect: fn(&mut Self, B, i64) -> Result<Option<ConnectionsAck>, ()>,
    ) -> Vec<u8>
    where
        B: Body + Serialize + DeserializeOwned,
    {
        let message: Message<B> = envelope.open(&self.signer).expect("signed by the host");
        let (header, digest) = (message.header, envelope.digest());
        match self.judge(&header, &digest, role) {
            Outcome::Accept => {}
            Outcome::Repeat => {
                let (_, reply) = self.db.last.as_ref().expect("it is the last one");
                return Envelope::sign(reply, &[&self.online]).to_json();
            }
            Outcome::Refuse(code) => return self.refuse(digest, code, now_ms),
        }
        if self.bad_requests > 0 {
            self.bad_requests -= 1;
            return self.refuse(digest, RefusalCode::BadRequest, now_ms);
        }
        if role == Role::Next {
            self.new_key_is_used();
        }
        let Ok(connections_ack) = effect(self, message.body, now_ms) else {
            return self.refuse(digest, RefusalCode::BadRequest, now_ms);
        };
        for ack in header.directive_acks {
            self.db.unacked.retain(|(id, _)| *id != ack.id);
            self.db.acks.push(ack);
        }
        let nonce = Hex(self.dice.bytes());
        self.db.seq = header.seq;
        self.db.chain = chain::next(&header.chain, &digest);
        self.db.nonces = [self.db.nonces[1], nonce];
        self.db.taken.insert(header.seq, digest);
        while self.db.taken.len() > self.remembers {
            self.db.taken.pop_first();
        }
        let directives = &self.db.unacked;
        let reply = Reply {
            header: ReplyHeader {
                server_id: SERVER.to_owned(),
                epoch: header.epoch,
                request_digest: digest,
                seq: header.seq,
                chain: self.db.chain,
                nonce,
                controller_time_ms: now_ms,
            },
            standing: self.standing(),
            heartbeat_interval_s: self.interval_s,
            directives: directives
                .iter()
                .take(MAX_DIRECTIVES)
                .map(|(_, e)| e.clone())
                .collect(),
            connections_ack,
        };
        let answer = Envelope::sign(&reply, &[&self.online]).to_json();
        self.db.last = Some((digest, reply));
        answer
    }

    pub(super) fn refuse(&self, digest: Digest, code: RefusalCode, now_ms: i64) -> Vec<u8> {
        let refusal = Refusal {
            request_digest: digest,
            controller_time_ms: now_ms,
            code,
            message: format!("refused: {code:?}"),
        };
        Envelope::sign(&refusal, &[&self.online]).to_json()
    }

    fn standing(&self) -> Standing {
        let verdict = match self.db.approved {
            true => self.db.verdict,
            false => Verdict::Pending,
        };
        Standing {
            verdict,
            lease_s: self.lease_s,
            hardware_status: match verdict {
                Verdict::Verified => HardwareStatus::Verified,
                Verdict::Mismatch => HardwareStatus::Mismatch,
                Verdict::Failed => HardwareStatus::Failed,
                Verdict::Unverified | Verdict::Pending => HardwareStatus::Pending,
            },
            reason: self.reason.clone(),
        }
    }

    fn heartbeat(&mut self, body: Heartbeat, now_ms: i64) -> Result<Option<ConnectionsAck>, ()> {
        let fresh_start = body.authorisation == Authorisation::Unverified;
        if fresh_start && self.db.verdict == Verdict::Verified {
            self.db.verdict = Verdict::Unverified;
        }
        let open = self.db.open.is_some_and(|(.., until)| now_ms < until);
        if let Some(purpose) = body.verification_wanted
            && self.deaf_to != Some(purpose)
            && !open
        {
            self.challenge(purpose, now_ms);
        }
        self.db.heartbeats += 1;
        self.db.last_heartbeat = Some(body);
        Ok(None)
    }

    /// Issues a challenge; it goes with the next reply.
    pub(super) fn challenge(&mut self, purpose: Purpose, now_ms: i64) -> Uuid {
        let (id, value) = (Uuid::from_bytes(self.dice.bytes()), Hex(self.dice.bytes()));
        let until = now_ms + i64::from(CHALLENGE_DEADLINE_S) * 1000;
        self.db.open = Some((id, value, purpose, until));
        let directive = self.directive(id, Action::Challenge { value, purpose }, now_ms);
        self.issue(&directive);
        id
    }

    pub(super) fn directive(&self, id: Uuid, action: Action, now_ms: i64) -> Directive {
        Directive {
            id,
            server_id: SERVER.to_owned(),
            epoch: self.db.keys.epoch,
            issued_ms: now_ms,
            deadline_s: CHALLENGE_DEADLINE_S,
            action,
        }
    }

    /// Has a directive delivered until it is acknowledged.
    pub(super) fn issue(&mut self, directive: &Directive) {
        let envelope = Envelope::sign(directive, &[&self.online]);
        self.db.unacked.push((directive.id, envelope));
    }

    fn challenge_answer(
        &mut self,
        body: ChallengeAnswer,
        now_ms: i64,
    ) -> Result<Option<ConnectionsAck>, ()> {
        let identity = self.signer.id();
        let context = Context::Hardware {
            identity: &identity,
        };
        let json = self.sealing.open(&body.hardware, context).expect("opens");
        let components: Components = serde_json::from_slice(&json).expect("components");
        assert_eq!(components.verification_hash(), body.verification_hash);
        self.db.last_hardware = Some(components);
        let asked = self.db.open.filter(|(id, value, purpose, until)| {
            (*id, *value, *purpose) == (body.challenge_id, body.value, body.purpose)
                && now_ms < *until
        });
        if asked.is_some() {
            self.db.open = None;
            self.db.verdict = Verdict::Verified;
            self.good_answers += 1;
        } else {
            self.bad_answers += 1;
        }
        Ok(None)
    }

    fn batch(&mut self, body: ConnectionBatch, _: i64) -> Result<Option<ConnectionsAck>, ()> {
        if self.hates_batches {
            return Err(());
        }
        self.db.batches += 1;
        let epoch = body.ledger_epoch;
        let mark = self.db.acked.entry(epoch.0).or_default();
        for record in body.records {
            if record.seq <= *mark {
                continue;
            }
            self.db.lost += record.seq - *mark - 1;
            *mark = record.seq;
            let twice = self
                .db
                .records
                .insert((epoch, record.seq), unsealed(&record.sealed));
            assert!(twice.is_none(), "stored once for (epoch, sequence)");
        }
        Ok(Some(ConnectionsAck {
            ledger_epoch: epoch,
            acked_through: *mark,
        }))
    }
}
