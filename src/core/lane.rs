//! The one lane of chained requests (`docs/protocol.md`, "Chained requests").
//!
//! One request is in flight at a time. It is on disk, whole, before it is sent; a retry, also
//! after a crash, is the same bytes. So the controller can tell a retry from a second holder of
//! the same identity, and no crash makes this agent look like a clone of itself.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vpn_node_protocol::certificate::CertificateError;
use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::{Digest, Nonce};
use vpn_node_protocol::envelope::{Envelope, EnvelopeError};
use vpn_node_protocol::identity::Rotation;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{MAX_REPLY_BYTES, MAX_ROTATIONS, MAX_ROTATIONS_BYTES};
use vpn_node_protocol::message::{
    Body, DirectiveAck, Header, Message, Refusal, RefusalCode, Reply,
};

use super::trust::Trust;
use crate::core::Now;

/// What is on disk of the lane (`chain.slots`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    /// Format of this file; 1.
    pub version: u32,
    /// The server that the chain belongs to.
    pub server_id: String,
    /// Epoch of the identity key.
    pub epoch: u32,
    /// The identity key of this epoch. It decides which identity counts after a crash in the middle
    /// of a change. Absent in files of versions that knew no change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_key: Option<PublicKey>,
    /// Number of the last answered request; 0 before the first.
    pub seq: u64,
    /// Chain value for the next request.
    pub chain: Digest,
    /// Nonce for the next request.
    pub nonce: Nonce,
    /// Latest controller time that was verified, in milliseconds since the Unix epoch.
    pub floor_ms: i64,
    /// The last reply, whole: proof for a controller that lost its memory.
    pub last_reply: Option<Envelope>,
    /// The request that was sent, or was about to be, and is not answered.
    pub pending: Option<Envelope>,
    /// The newest rotations of this identity, oldest first, for a controller that lost them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<Rotation>,
}

impl LaneState {
    /// The lane of a host that was just enrolled.
    #[must_use]
    pub fn enrolled(
        server_id: &str,
        epoch: u32,
        identity_key: PublicKey,
        nonce: Nonce,
        floor_ms: i64,
    ) -> Self {
        Self {
            version: 1,
            server_id: server_id.to_owned(),
            epoch,
            identity_key: Some(identity_key),
            seq: 0,
            chain: chain::start(server_id, epoch, &identity_key),
            nonce,
            floor_ms,
            last_reply: None,
            pending: None,
            rotations: Vec::new(),
        }
    }
}

/// What the lane needs to know to speak.
pub struct Voice<'a> {
    /// The identity key.
    pub key: &'a SigningKey,
    /// The key that signs too: in a rotation the new one.
    pub cosigner: Option<&'a SigningKey>,
    /// This boot of the host.
    pub boot_id: Uuid,
    /// Directives dealt with and not yet acknowledged.
    pub acks: Vec<DirectiveAck>,
}

/// The lane: idle, or one request in flight.
#[derive(Debug)]
pub struct Lane {
    state: LaneState,
    flight: Option<Flight>,
    failures: u32,
    /// The controller asked for proof: the next request carries it.
    prove: bool,
}

#[derive(Debug)]
struct Flight {
    digest: Digest,
    /// Made before a restart: nobody knows when it was first sent.
    restored: bool,
    /// When it was first sent.
    first_sent: Option<Now>,
    attempts: u32,
    /// When it may be sent (again); none while an attempt is on its way.
    send_at: Option<Duration>,
}

/// A reply that was verified, in order, and has moved the chain.
#[derive(Debug)]
pub struct Answered {
    /// The reply.
    pub reply: Reply,
    /// The request, as it was sent.
    pub request: Envelope,
    /// When this run first sent the request.
    pub sent: Now,
    /// The reply was certainly made just now. Not so after a retry or a restart: the controller
    /// may have answered the first attempt long ago, and repeats that answer.
    pub fresh: bool,
    /// The request was made before the agent started: its reply may be of any age.
    pub restored: bool,
}

/// Why an answer did not move the lane.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The controller signed a "no".
    #[error("the controller refused the request: {}", .0.message)]
    Refused(Refusal),
    /// The controller signed that it takes nothing from this host, whatever it is.
    #[error("the controller stopped this host: {}", .0.message)]
    Stopped(Refusal),
    /// The same, because the request is older than the controller remembers: the refusal as it
    /// came, for the witness.
    #[error("the controller stopped this host: {}", .0.message)]
    Behind(Refusal, Box<Envelope>),
    /// Signed by a key that is not in the certificate.
    #[error("{0}")]
    Untrusted(#[from] CertificateError),
    /// Not an envelope, or too large.
    #[error("the controller's answer cannot be read: {0}")]
    Unreadable(#[from] EnvelopeError),
    /// A reply to something else.
    #[error("the controller's answer is not to this request: it is old, or a proxy mixed two up")]
    Misdirected,
}

impl Lane {
    /// The lane as it stands on disk. A pending request is due at once.
    #[must_use]
    pub fn restore(state: LaneState, now: Now) -> Self {
        let flight = state.pending.as_ref().map(|pending| Flight {
            digest: pending.digest(),
            restored: true,
            first_sent: None,
            attempts: 0,
            send_at: Some(now.boot),
        });
        Self {
            state,
            flight,
            failures: 0,
            prove: false,
        }
    }

    /// What must be on disk.
    #[must_use]
    pub fn state(&self) -> &LaneState {
        &self.state
    }

    /// Whether a new request can be made.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flight.is_none()
    }

    /// Failed attempts in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the request in flight is due for an attempt.
    #[must_use]
    pub fn send_at(&self) -> Option<Duration> {
        self.flight.as_ref().and_then(|flight| flight.send_at)
    }

    /// Makes the next request and puts it in flight, due at once.
    ///
    /// # Panics
    /// When a request is in flight: callers ask [`Lane::is_idle`] first.
    pub fn submit<B: Body + Serialize + DeserializeOwned>(
        &mut self,
        body: B,
        voice: Voice<'_>,
        now: Now,
    ) {
        assert!(self.is_idle(), "one chained request at a time");
        let proof = self.state.last_reply.as_ref().filter(|_| self.prove);
        let header = Header {
            server_id: self.state.server_id.clone(),
            epoch: self.state.epoch,
            seq: self.state.seq + 1,
            chain: self.state.chain,
            nonce: self.state.nonce,
            boot_id: voice.boot_id,
            agent_time_ms: now.wall_ms,
            boottime_ms: u64::try_from(now.boot.as_millis()).unwrap_or(u64::MAX),
            directive_acks: voice.acks,
            proof: proof.cloned().map(Box::new),
        };
        let keys: Vec<&SigningKey> = [voice.key].into_iter().chain(voice.cosigner).collect();
        let envelope = Envelope::sign(&Message { header, body }, &keys);
        self.flight = Some(Flight {
            digest: envelope.digest(),
            restored: false,
            first_sent: None,
            attempts: 0,
            send_at: Some(now.boot),
        });
        self.state.pending = Some(envelope);
    }

    /// An attempt starts: the bytes to send, which are in [`Lane::state`] too.
    pub fn start_attempt(&mut self, now: Now) -> Option<Vec<u8>> {
        let flight = self.flight.as_mut()?;
        flight.send_at = None;
        flight.attempts = flight.attempts.saturating_add(1);
        flight.first_sent.get_or_insert(now);
        self.state.pending.as_ref().map(Envelope::to_json)
    }

    /// The attempt failed without a word from the controller: try again at `at`.
    pub fn attempt_failed(&mut self, at: Duration) {
        self.failures = self.failures.saturating_add(1);
        if let Some(flight) = &mut self.flight {
            flight.send_at = Some(at);
        }
    }

    /// An answer came. Only the reply to exactly the request in flight moves the chain, and only
    /// to the value that both sides compute.
    ///
    /// # Errors
    /// [`LaneError`]. After [`LaneError::Refused`] the request is gone (the controller did not
    /// take it); after every other error it is still in flight and wants
    /// [`Lane::attempt_failed`]. So after [`LaneError::Stopped`] and [`LaneError::Behind`]: the
    /// controller may have taken it before it stopped the host, and another request of that number
    /// would look like a clone's.
    pub fn answered(
        &mut self,
        bytes: &[u8],
        trust: &mut Trust,
        now: Now,
    ) -> Result<Answered, LaneError> {
        let envelope = Envelope::parse(bytes, MAX_REPLY_BYTES)?;
        let digest = self
            .flight
            .as_ref()
            .map(|flight| flight.digest)
            .ok_or(LaneError::Misdirected)?;
        if envelope.payload_type() == <Refusal as vpn_node_protocol::envelope::Payload>::TYPE {
            let refusal: Refusal = trust.open(&envelope, |r: &Refusal| r.controller_time_ms)?;
            if refusal.request_digest != digest {
                return Err(LaneError::Misdirected);
            }
            trust.saw_controller_time(refusal.controller_time_ms, now);
            self.state.floor_ms = trust.floor_ms();
            self.failures = 0;
            match refusal.code {
                RefusalCode::Quarantined | RefusalCode::RetiredKey | RefusalCode::Revoked => {
                    return Err(LaneError::Stopped(refusal));
                }
                RefusalCode::Behind => {
                    return Err(LaneError::Behind(refusal, Box::new(envelope)));
                }
                RefusalCode::Ahead | RefusalCode::BadRequest => {}
            }
            self.flight = None;
            self.state.pending = None;
            return Err(LaneError::Refused(refusal));
        }
        let reply: Reply = trust.open(&envelope, |r: &Reply| r.header.controller_time_ms)?;
        let header = &reply.header;
        let expected = header.request_digest == digest
            && header.server_id == self.state.server_id
            && header.epoch == self.state.epoch
            && header.seq == self.state.seq + 1
            && header.chain == chain::next(&self.state.chain, &digest);
        if !expected {
            return Err(LaneError::Misdirected);
        }
        let request = self.state.pending.take().ok_or(LaneError::Misdirected)?;
        trust.saw_controller_time(header.controller_time_ms, now);
        self.state.seq = header.seq;
        self.state.chain = header.chain;
        self.state.nonce = header.nonce;
        self.state.floor_ms = trust.floor_ms();
        self.state.last_reply = Some(envelope);
        self.failures = 0;
        self.prove = false;
        let flight = self.flight.take();
        let restored = flight.as_ref().is_some_and(|flight| flight.restored);
        let fresh = !restored && flight.as_ref().is_some_and(|flight| flight.attempts == 1);
        let sent = flight.and_then(|flight| flight.first_sent).unwrap_or(now);
        Ok(Answered {
            reply,
            request,
            sent,
            fresh,
            restored,
        })
    }

    /// Whether the request in flight was made before the agent started.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.restored)
    }

    /// The controller does not remember the last reply: the next request proves it. False when
    /// the one before did already, so that it will hardly help.
    pub fn prove_next(&mut self) -> bool {
        !std::mem::replace(&mut self.prove, true)
    }

    /// The request in flight is due at once, whatever was planned: something has changed that
    /// makes another answer likely.
    pub fn retry_now(&mut self, now: Now) {
        if let Some(flight) = &mut self.flight
            && flight.send_at.is_some()
        {
            flight.send_at = Some(now.boot);
        }
    }

    /// `rotation` was accepted with the last reply: from now on `key` signs. The next request is
    /// the first of the next epoch; the nonce is that of the last reply, which also stays the proof
    /// of it. Once this state is on disk the old key has no use any more.
    pub fn begin_epoch(&mut self, key: PublicKey, rotation: Envelope) {
        let state = &mut self.state;
        if let Some(reply) = state.last_reply.clone() {
            let request = rotation;
            state.rotations.push(Rotation { request, reply });
        }
        forget_rotations(&mut state.rotations);
        state.epoch += 1;
        state.identity_key = Some(key);
        state.seq = 0;
        state.chain = chain::start(&state.server_id, state.epoch, &key);
    }
}

/// Keeps the newest, within both bounds.
fn forget_rotations(rotations: &mut Vec<Rotation>) {
    let mut bytes = 0;
    let kept = rotations.iter().rev().take(MAX_ROTATIONS).take_while(|r| {
        bytes += r.request.to_json().len() + r.reply.to_json().len();
        bytes <= MAX_ROTATIONS_BYTES
    });
    let forgotten = rotations.len() - kept.count();
    rotations.drain(..forgotten);
}
