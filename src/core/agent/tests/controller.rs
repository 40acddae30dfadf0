//! A model controller, as `docs/protocol.md` has it: the chain by compare-and-set with the stored
//! reply, proof after a loss of memory, quarantine, challenges, leases, acknowledgements, keys.
//! Its database is one value, so that a backup is a clone of it.

use std::collections::{BTreeMap, HashSet};

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
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::hardware::{Components, HardwareStatus};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{CHALLENGE_DEADLINE_S, MAX_DIRECTIVES, MAX_REQUEST_BYTES};
use vpn_node_protocol::message::{
    Authorisation, Body, ChallengeAnswer, ConnectionBatch, ConnectionsAck, DirectiveAck, Header,
    Heartbeat, Message, Poll, PollReply, Purpose, Refusal, RefusalCode, Reply, ReplyHeader,
    Standing, Verdict,
};
use vpn_node_protocol::sealing::{Context, SealingSecret};

use super::dice::Dice;
use super::disk::unsealed;

pub(super) const SERVER: &str = "server-1";
const EPOCH: u32 = 1;

/// What the controller would keep in its database.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) seq: u64,
    chain: Digest,
    pub(super) nonces: [Nonce; 2],
    last: Option<(Digest, Reply)>,
    /// Every request it took, so that a late copy of one is known for what it is.
    taken: HashSet<Digest>,
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
    identity: PublicKey,
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
}

enum Judgement {
    Accept,
    Repeat,
    LateCopy,
    Refuse(RefusalCode),
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
            chain: chain::start(SERVER, EPOCH, &identity),
            nonces: [Hex(dice.bytes()); 2],
            last: None,
            taken: HashSet::new(),
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
            identity,
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

    /// A chained request came. No answer: HTTP says no, and nothing is signed.
    pub(super) fn message(&mut self, bytes: &[u8], now_ms: i64) -> Option<Vec<u8>> {
        let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).expect("an envelope");
        match envelope.payload_type() {
            Heartbeat::TYPE => self.take(&envelope, now_ms, Self::heartbeat),
            ChallengeAnswer::TYPE => self.take(&envelope, now_ms, Self::challenge_answer),
            ConnectionBatch::TYPE => self.take(&envelope, now_ms, Self::batch),
            other => panic!("the agent sent {other}"),
        }
    }

    fn take<B>(
        &mut self,
        envelope: &Envelope,
        now_ms: i64,
        effect: fn(&mut Self, B, i64) -> Result<Option<ConnectionsAck>, ()>,
    ) -> Option<Vec<u8>>
    where
        B: Body + Serialize + DeserializeOwned,
    {
        let message: Message<B> = envelope.open(&self.identity).expect("signed by the host");
        let (header, digest) = (message.header, envelope.digest());
        match self.judge(&header, &digest) {
            Judgement::Accept => {}
            Judgement::Repeat => {
                let (_, reply) = self.db.last.as_ref()?;
                return Some(Envelope::sign(reply, &[&self.online]).to_json());
            }
            Judgement::LateCopy => {
                self.late_copies += 1;
                return None;
            }
            Judgement::Refuse(code) => return Some(self.refuse(digest, code, now_ms)),
        }
        if self.bad_requests > 0 {
            self.bad_requests -= 1;
            return Some(self.refuse(digest, RefusalCode::BadRequest, now_ms));
        }
        let Ok(connections_ack) = effect(self, message.body, now_ms) else {
            return Some(self.refuse(digest, RefusalCode::BadRequest, now_ms));
        };
        for ack in header.directive_acks {
            self.db.unacked.retain(|(id, _)| *id != ack.id);
            self.db.acks.push(ack);
        }
        let nonce = Hex(self.dice.bytes());
        self.db.seq = header.seq;
        self.db.chain = chain::next(&header.chain, &digest);
        self.db.nonces = [self.db.nonces[1], nonce];
        self.db.taken.insert(digest);
        let directives = &self.db.unacked;
        let reply = Reply {
            header: ReplyHeader {
                server_id: SERVER.to_owned(),
                epoch: EPOCH,
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
        Some(answer)
    }

    /// The table of "Replay and clones".
    fn judge(&mut self, header: &Header, digest: &Digest) -> Judgement {
        assert_eq!((header.server_id.as_str(), header.epoch), (SERVER, EPOCH));
        let db = &self.db;
        if db.revoked {
            return Judgement::Refuse(RefusalCode::Revoked);
        }
        if db.quarantined {
            return Judgement::Refuse(RefusalCode::Quarantined);
        }
        if self.never_convinced {
            return Judgement::Refuse(RefusalCode::Ahead);
        }
        let next = db.seq + 1;
        if header.seq == next && header.chain == db.chain && header.nonce == db.nonces[1] {
            return Judgement::Accept;
        }
        if header.seq > next || (header.seq == next && header.chain == db.chain) {
            if self.proven(header) {
                self.memory_losses += 1;
                return Judgement::Accept;
            }
            self.aheads += 1;
            return Judgement::Refuse(RefusalCode::Ahead);
        }
        if header.seq == db.seq && db.last.as_ref().is_some_and(|(last, _)| last == digest) {
            return Judgement::Repeat;
        }
        if db.taken.contains(digest) {
            return Judgement::LateCopy;
        }
        self.quarantines.push(format!(
            "request {} at stored {}: another history",
            header.seq, db.seq
        ));
        self.db.quarantined = true;
        Judgement::Refuse(RefusalCode::Quarantined)
    }

    fn proven(&self, header: &Header) -> bool {
        let Some(proof) = &header.proof else {
            return false;
        };
        let opened = self
            .own_keys
            .iter()
            .find_map(|k| proof.open::<Reply>(k).ok());
        opened.is_some_and(|reply| {
            let said = reply.header;
            said.server_id == SERVER
                && said.epoch == EPOCH
                && said.seq + 1 == header.seq
                && (said.chain, said.nonce) == (header.chain, header.nonce)
        })
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
            epoch: EPOCH,
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
        let identity = self.identity.id();
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

    /// A poll came: its digest, if it deserves an answer.
    pub(super) fn poll(&self, bytes: &[u8]) -> Option<Digest> {
        let envelope = Envelope::parse(bytes, MAX_REQUEST_BYTES).expect("an envelope");
        let poll: Poll = envelope.open(&self.identity).expect("signed by the host");
        let welcome = self.polls_work && !self.db.revoked && !self.db.quarantined;
        (welcome && self.db.nonces.contains(&poll.nonce)).then(|| envelope.digest())
    }

    pub(super) fn poll_reply(&self, digest: Digest, now_ms: i64) -> Vec<u8> {
        let reply = PollReply {
            request_digest: digest,
            controller_time_ms: now_ms,
            directives: self
                .db
                .unacked
                .iter()
                .take(MAX_DIRECTIVES)
                .map(|(_, e)| e.clone())
                .collect(),
        };
        Envelope::sign(&reply, &[&self.online]).to_json()
    }
}
