//! Directives and the long-lived request that brings them.

use std::time::Duration;

use rand_core::CryptoRng;
use uuid::Uuid;
use vpn_node_protocol::directive::{Action, Directive};
use vpn_node_protocol::encoding::Nonce;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::limits::{
    CHALLENGE_DEADLINE_S, MAX_DIRECTIVE_ACKS, MAX_DIRECTIVES, MAX_POLL_WAIT_S, MAX_REPLY_BYTES,
};
use vpn_node_protocol::message::{DirectiveOutcome, Poll, PollReply, Purpose};

use super::{Agent, Command, NoRotation, SendFailure};
use crate::core::update::Order;
use crate::core::{Now, schedule};

/// Directive ids remembered to apply each at most once. Their deadlines, checked against the
/// controller's clock, refuse what is older than this memory.
const REMEMBERED: usize = 256;

/// Acknowledgements that may wait. A directive beyond them is not looked at; the controller sends
/// it again until it is acknowledged.
const MAX_WAITING_ACKS: usize = 4 * MAX_DIRECTIVE_ACKS;

/// From one directive request to the next at least: a controller (or a proxy) that answers at
/// once, for example with directives that wait for their acknowledgement, is no reason to hurry.
const POLL_APART: Duration = Duration::from_secs(2);

/// A challenge to answer.
#[derive(Debug)]
pub(super) struct Challenge {
    pub(super) id: Uuid,
    pub(super) value: Nonce,
    pub(super) purpose: Purpose,
    /// By the boot clock, counted from its receipt.
    deadline: Duration,
}

impl Challenge {
    /// The boot-clock instant after which no answer counts.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// Where the directive request is.
#[derive(Debug)]
pub(super) enum PollState {
    /// No reply yet in this run: the nonce would be an old one.
    NotYet,
    /// With the controller.
    InFlight {
        /// Its digest, which the answer must carry.
        digest: vpn_node_protocol::encoding::Digest,
        /// Epoch of the key that signed it: a later rotation makes its key an old one.
        epoch: u32,
        sent: Duration,
        failures: u32,
    },
    /// To be sent at this instant.
    Due { at: Duration, failures: u32 },
}

impl PollState {
    pub(super) fn retry_at(&self) -> Option<Duration> {
        match self {
            Self::Due { at, .. } => Some(*at),
            Self::NotYet | Self::InFlight { .. } => None,
        }
    }

    fn failures(&self) -> u32 {
        match self {
            Self::NotYet => 0,
            Self::InFlight { failures, .. } | Self::Due { failures, .. } => *failures,
        }
    }
}

impl Agent {
    /// Drops a challenge that no answer can satisfy any more, whatever holds up its answer.
    pub(super) fn forget_late_challenge(&mut self, now: Now) {
        if self.challenge.take_if(|c| now.boot >= c.deadline).is_some() {
            // A probe that took so long may have got lost: the next challenge asks again.
            self.probing = false;
        }
    }

    /// Has the hardware looked at when a challenge waits and the lane is free for its answer.
    /// True while the lane is kept for it.
    pub(super) fn wants_hardware(&mut self) -> bool {
        if self.challenge.is_none() {
            return false;
        }
        if !std::mem::replace(&mut self.probing, true) {
            self.commands.push_back(Command::ProbeHardware);
        }
        true
    }

    /// A directive came, with a reply or over the directive request, that was made at
    /// `carried_ms` by the controller's clock.
    pub(super) fn directive_came(
        &mut self,
        envelope: &Envelope,
        carried_ms: i64,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        let directive: Directive = match self.trust.open(envelope, |d: &Directive| d.issued_ms) {
            Ok(directive) => directive,
            Err(error) => {
                self.renew_if_unknown(&error);
                return self
                    .memory
                    .note(format!("a directive was refused: {error}"), now);
            }
        };
        let lane = self.lane.state();
        if directive.server_id != lane.server_id || directive.epoch != lane.epoch {
            let text = "a directive for another server or key was refused".to_owned();
            return self.memory.note(text, now);
        }
        let done = self.seen_directives.contains(&directive.id);
        if done || self.is_disconnecting(directive.id) || self.acks.len() >= MAX_WAITING_ACKS {
            return;
        }
        if let Some((outcome, detail)) = self.apply(&directive, carried_ms, now, rng) {
            self.acknowledge(directive.id, outcome, detail);
        }
    }

    /// It is dealt with: should it come again, it changes nothing.
    pub(super) fn remember_directive(&mut self, id: Uuid) {
        if self.seen_directives.len() >= REMEMBERED {
            self.seen_directives.pop_front();
        }
        self.seen_directives.push_back(id);
    }

    /// None: the end of it will be told later, or when it comes again.
    fn apply(
        &mut self,
        directive: &Directive,
        carried_ms: i64,
        now: Now,
        rng: &mut impl CryptoRng,
    ) -> Option<(DirectiveOutcome, Option<String>)> {
        let age_ms = carried_ms.saturating_sub(directive.issued_ms);
        let left_ms = i64::from(directive.deadline_s) * 1000 - age_ms.max(0);
        let Ok(left_ms @ 1..) = u64::try_from(left_ms) else {
            return Some((DirectiveOutcome::Late, None));
        };
        let outcome = match directive.action {
            Action::Challenge { value, purpose } => {
                // The lane is kept for its answer, so heartbeats wait: not longer than this.
                let left_ms = left_ms.min(u64::from(CHALLENGE_DEADLINE_S) * 1000);
                self.challenge = Some(Challenge {
                    id: directive.id,
                    value,
                    purpose,
                    deadline: now.boot + Duration::from_millis(left_ms),
                });
                DirectiveOutcome::Applied
            }
            Action::Rotate => {
                // One that is under way does what this one wants.
                match self.rotate(rng) {
                    Err(NoRotation::Stopped(_)) => DirectiveOutcome::Late,
                    _ => DirectiveOutcome::Applied,
                }
            }
            Action::Disconnect {
                ref connection_ids,
                reason,
            } => return self.disconnect(directive.id, connection_ids, reason, now),
            Action::Update {
                deployment_id,
                ref version,
                ref target,
                ref repository,
            } => {
                let order = Order {
                    deployment: Some(deployment_id),
                    version: version.clone(),
                    target: target.clone(),
                    repository: repository.clone(),
                };
                let left = Duration::from_millis(left_ms);
                // The order of assignments is kept on disk: one from the future would bar all
                // that come after it.
                let made_ms = directive.issued_ms.min(carried_ms);
                let made = (directive.id, made_ms);
                return self.assigned(made, order, left, now, rng);
            }
            Action::CancelUpdate { deployment_id } => {
                return Some(self.update_cancelled(deployment_id, now));
            }
            Action::Unknown => DirectiveOutcome::Unsupported,
        };
        Some((outcome, None))
    }

    /// The first reply of this run: from now on directives are waited for.
    pub(super) fn start_polling(&mut self, now: Now) {
        if matches!(self.poll, PollState::NotYet) {
            self.poll = PollState::Due {
                at: now.boot,
                failures: 0,
            };
        }
    }

    /// The controller has heard what became of its directives: the next one is waited for again
    /// without [`POLL_APART`], which holds up answers that bring nothing new. A chained request
    /// has paid for each of these polls.
    pub(super) fn poll_at_once(&mut self, now: Now) {
        if let PollState::Due { at, failures: 0 } = &mut self.poll {
            *at = now.boot;
        }
    }

    /// Not for a host that is stopped, nor with a new key before a chained request has used it.
    pub(super) fn may_poll(&self) -> bool {
        self.authorisation.stopped().is_none() && self.lane.state().seq > 0
    }

    pub(super) fn poll_if_due(&mut self, now: Now, rng: &mut impl CryptoRng) {
        let PollState::Due { at, failures } = self.poll else {
            return;
        };
        if now.boot < at || !self.may_poll() {
            return;
        }
        let lane = self.lane.state();
        let request = Poll {
            server_id: lane.server_id.clone(),
            epoch: lane.epoch,
            nonce: lane.nonce,
            boot_id: self.about.boot_id,
            request_id: random_uuid(rng),
            wait_s: MAX_POLL_WAIT_S,
        };
        let envelope = Envelope::sign(&request, &[&self.key]);
        self.poll = PollState::InFlight {
            digest: envelope.digest(),
            epoch: request.epoch,
            sent: now.boot,
            failures,
        };
        self.commands.push_back(Command::Poll {
            body: envelope.to_json(),
            wait: Duration::from_secs(u64::from(MAX_POLL_WAIT_S)),
        });
    }

    pub(super) fn poll_answered(&mut self, bytes: &[u8], now: Now, rng: &mut impl CryptoRng) {
        let PollState::InFlight {
            digest,
            epoch,
            sent,
            ..
        } = self.poll
        else {
            return;
        };
        if let Ok(Some(refusal)) = self.refusal_in(bytes, digest, now) {
            // No word of the lane is needed: the next request hears the same.
            let of_this_key = epoch == self.lane.state().epoch;
            self.stop_if_told(&refusal, of_this_key, now);
            return self.poll_later(None, now, rng);
        }
        let reply = Envelope::parse(bytes, MAX_REPLY_BYTES)
            .map_err(Into::into)
            .and_then(|envelope| {
                self.trust
                    .open(&envelope, |r: &PollReply| r.controller_time_ms)
            });
        match reply {
            Ok(reply) if reply.request_digest == digest => {
                self.trust
                    .saw_controller_time(reply.controller_time_ms, now);
                for directive in reply.directives.iter().take(MAX_DIRECTIVES) {
                    self.directive_came(directive, reply.controller_time_ms, now, rng);
                }
                self.poll = PollState::Due {
                    at: now.boot.max(sent + POLL_APART),
                    failures: 0,
                };
            }
            // The answer to another request.
            Ok(_) => self.poll_later(None, now, rng),
            Err(error) => {
                self.renew_if_unknown(&error);
                self.poll_later(None, now, rng);
            }
        }
    }

    pub(super) fn poll_failed(
        &mut self,
        failure: &SendFailure,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        self.poll_later(failure.retry_after, now, rng);
    }

    /// Not noted as an error: heartbeats carry the same directives, and tell when all is silent.
    fn poll_later(&mut self, retry_after: Option<Duration>, now: Now, rng: &mut impl CryptoRng) {
        let failures = self.poll.failures().saturating_add(1);
        let wait = schedule::backoff(failures, retry_after, rng);
        self.poll = PollState::Due {
            at: now.boot + wait,
            failures,
        };
    }
}

/// A random UUID (RFC 9562 version 4).
pub(super) fn random_uuid(rng: &mut impl CryptoRng) -> Uuid {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}
