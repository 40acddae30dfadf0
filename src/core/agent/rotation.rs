//! A new identity key (`docs/protocol.md`, "Rotation"): wanted, made durable, told, in force.
//!
//! The key is on disk before the request that names it, and the request before it is sent. The
//! accepted reply begins the next epoch; the next request is signed with the new key, and what the
//! disk thread writes before that request decides that the new key counts from now on. So a crash
//! anywhere leaves one key that speaks, and a rotation that goes on where it was.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::identity::{Rotate, Rotation as Record};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Message, Reply};

use super::{Agent, Command};
use crate::core::Now;
use crate::core::lane::LaneState;

/// Where a rotation is.
pub(super) struct Rotation {
    step: Step,
    /// Not before this instant does the request go out.
    hold_until: Duration,
    /// When the key in force was accepted, by the controller's clock, in milliseconds since the
    /// Unix epoch; none for the key of the enrolment.
    pub(super) rotated_ms: Option<i64>,
}

enum Step {
    /// No new key.
    Idle,
    /// The new key is being made durable.
    Storing(SigningKey),
    /// It is on disk; its request goes out when the lane is free.
    Ready(SigningKey),
    /// Its request is in the lane.
    InFlight(SigningKey),
}

/// Why no rotation was begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRotation {
    /// There is one already.
    #[error("a rotation is under way already: 'vpn-node status' shows when it is done")]
    UnderWay,
    /// The controller takes nothing from this host.
    #[error("the controller takes nothing from this host, so no new key either: {0}")]
    Stopped(String),
}

impl Rotation {
    /// What a start finds: `next` is the key that a former process made durable. Its request may
    /// be in flight; else it goes out as if it had just been wanted.
    pub(super) fn restore(next: Option<SigningKey>, lane: &LaneState) -> Self {
        let told = lane.pending.as_ref().and_then(new_key);
        let step = match next {
            None => Step::Idle,
            Some(next) if told == Some(PublicKey::from(&next)) => Step::InFlight(next),
            Some(next) => Step::Ready(next),
        };
        Self {
            step,
            hold_until: Duration::ZERO,
            rotated_ms: lane.rotations.last().and_then(accepted_ms),
        }
    }

    /// Whether there is a new key that is not in force.
    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.step, Step::Idle)
    }
}

impl Agent {
    /// A new identity key is wanted: by the controller's directive, or by the operator of the host.
    ///
    /// # Errors
    /// [`NoRotation`].
    pub fn rotate(&mut self, rng: &mut impl CryptoRng) -> Result<(), NoRotation> {
        if self.rotation.is_under_way() {
            return Err(NoRotation::UnderWay);
        }
        if let Some(reason) = self.authorisation.stopped() {
            return Err(NoRotation::Stopped(reason.to_owned()));
        }
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        rng.fill_bytes(secret.as_mut());
        let next = SigningKey::from_bytes(&secret);
        self.rotation.step = Step::Storing(next.clone());
        self.commands.push_back(Command::StoreNextKey(next));
        Ok(())
    }

    pub(super) fn next_key_stored(&mut self, stored: Result<(), String>, now: Now) {
        self.rotation.step = match (self.rotation.take(), stored) {
            (Step::Storing(next), Ok(())) => Step::Ready(next),
            (Step::Storing(_), Err(error)) => {
                let text = format!("the identity key was not rotated: {error}");
                self.memory.note(text, now);
                Step::Idle
            }
            (other, _) => other,
        };
    }

    /// Puts the request into the idle lane when the new key is on disk. True when it did.
    pub(super) fn submit_rotation(&mut self, now: Now) -> bool {
        let next = match self.rotation.take() {
            Step::Ready(next) if now.boot >= self.rotation.hold_until => next,
            other => {
                self.rotation.step = other;
                return false;
            }
        };
        let body = Rotate {
            new_key: (&next).into(),
        };
        self.submit_cosigned(body, Some(&next), now);
        self.rotation.step = Step::InFlight(next);
        true
    }

    /// A request was accepted. If it was the rotation, its key is in force from here on, and the
    /// old one is wiped. Without the key (its file was lost) the old one stays: the controller takes
    /// both until the new one is used.
    pub(super) fn rotated(&mut self, request: Envelope, reply: &Reply, now: Now) -> bool {
        let Some(told) = new_key(&request) else {
            return false;
        };
        match self.rotation.take() {
            Step::InFlight(next) if PublicKey::from(&next) == told => {
                self.lane.begin_epoch(told, request);
                self.key = next;
                self.rotation.rotated_ms = Some(reply.header.controller_time_ms);
                true
            }
            other => {
                self.rotation.step = other;
                let text = "the new identity key is not on this host any more: the old one stays in force; rotate again with 'vpn-node identity rotate'";
                self.memory.note(text, now);
                false
            }
        }
    }

    /// The controller did not take the request in flight. If it was the rotation, and `again` says
    /// in how long it may be sent in another form, it is; else the new key is given up.
    pub(super) fn rotation_refused(&mut self, again: Option<Duration>, why: &str, now: Now) {
        self.rotation.step = match (self.rotation.take(), again) {
            (Step::InFlight(next), Some(wait)) => {
                self.rotation.hold_until = now.boot + wait;
                Step::Ready(next)
            }
            (Step::InFlight(_), None) => {
                let text = format!("the identity key was not rotated: {why}");
                self.memory.note(text, now);
                self.commands.push_back(Command::DropNextKey);
                Step::Idle
            }
            (other, _) => other,
        };
    }
}

impl Rotation {
    fn take(&mut self) -> Step {
        std::mem::replace(&mut self.step, Step::Idle)
    }
}

/// The key that a rotation's request names: one of our own, as it stands on disk.
fn new_key(request: &Envelope) -> Option<PublicKey> {
    let message: Message<Rotate> = request.peek().ok()?;
    Some(message.body.new_key)
}

fn accepted_ms(record: &Record) -> Option<i64> {
    let reply: Reply = record.reply.peek().ok()?;
    Some(reply.header.controller_time_ms)
}
