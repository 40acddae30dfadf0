//! What goes into the lane next, and what its answers mean.
//!
//! The order is fixed: the answer to a challenge (it has a deadline), then a new identity key, then
//! a heartbeat that is due, then one batch of connection records. A backlog of days never holds up
//! a heartbeat.

use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;
use vpn_node_protocol::limits::MAX_DIRECTIVE_ACKS;
use vpn_node_protocol::message::{
    Authorisation as State, BacklogReport, ChallengeAnswer, ConnectionBatch, ConnectionsAck,
    Heartbeat, Purpose, Refusal, RefusalCode,
};
use vpn_node_protocol::metrics::SystemMetrics;
use vpn_node_protocol::sealing::{Context, Sealed};
use vpn_node_protocol::{hardware::Components, keys::PublicKey};

use super::{Agent, BAD_BATCH_PAUSE, Command, Problem, SendFailure, Upload};
use crate::core::lane::{Answered, LaneError, Voice};
use crate::core::{Now, schedule};

/// A reply within this many milliseconds of its request tells the controller's clock.
const PROMPT_REPLY_MS: u128 = 5_000;

impl Agent {
    /// Fills an idle lane.
    pub(super) fn use_lane(&mut self, now: Now) {
        if !self.lane.is_idle() || self.sampling {
            return;
        }
        if self.wants_hardware() || self.submit_rotation(now) {
            return;
        }
        if now.boot >= self.heartbeat_due() {
            self.sampling = true;
            self.commands.push_back(Command::Sample);
        } else if matches!(self.upload, Upload::Ready(_))
            && self.authorisation.stopped().is_none()
            && let Upload::Ready(batch) = std::mem::replace(&mut self.upload, Upload::InFlight)
        {
            self.submit(batch, now);
        }
    }

    /// Has the ledger read the next batch while the lane is busy with something else.
    pub(super) fn read_ahead(&mut self) {
        let waiting = self.ledger.records > 0 || self.ledger.gaps > 0;
        if waiting && matches!(self.upload, Upload::Idle) && self.authorisation.stopped().is_none()
        {
            self.read_ledger();
        }
    }

    fn read_ledger(&mut self) {
        self.upload = Upload::Reading;
        self.ledger_changed = false;
        self.commands.push_back(Command::ReadBatch);
    }

    pub(super) fn batch_read(&mut self, batch: ConnectionBatch) {
        self.ledger_epoch = Some(batch.ledger_epoch);
        let empty = batch.records.is_empty() && batch.gaps.is_empty();
        self.upload = if empty {
            Upload::Idle
        } else {
            Upload::Ready(batch)
        };
        if empty && !self.ledger_changed {
            // The ledger knows better than our last count of it, unless that is the newer one.
            self.ledger.records = 0;
            self.ledger.gaps = 0;
        }
    }

    pub(super) fn submit_heartbeat(&mut self, metrics: SystemMetrics, now: Now) {
        self.sampling = false;
        if !self.lane.is_idle() {
            return;
        }
        let state = self.authorisation.state(now, self.silent_after());
        let backends = self.backend_reports(now);
        let update = self.updates.report(now);
        self.updates.heartbeat_goes(update.is_some());
        let heartbeat = Heartbeat {
            version: self.about.version.clone(),
            uptime_s: now.boot.saturating_sub(self.started.boot).as_secs(),
            backends,
            metrics,
            clock_offset_ms: self.clock_offset_ms,
            backlog: BacklogReport {
                records: self.ledger.records,
                bytes: self.ledger.bytes,
                lost: self.ledger.lost,
                unstored: self.ledger.unstored,
            },
            location: self.about.location.clone(),
            authorisation: state,
            verification_wanted: self.wants_challenge(state),
            update,
        };
        self.submit(heartbeat, now);
    }

    /// Asks for a challenge until one was judged.
    fn wants_challenge(&self, state: State) -> Option<Purpose> {
        let unverified = matches!(state, State::Unverified | State::Lapsed);
        let start = unverified.then_some(Purpose::Start);
        let wanted = self.hardware.wants_challenge().or(start);
        wanted.filter(|_| self.challenge.is_none())
    }

    pub(super) fn answer_challenge(
        &mut self,
        components: &Components,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        self.probing = false;
        let Some(challenge) = self.challenge.take() else {
            return;
        };
        if !self.lane.is_idle() {
            // Probed while something else went into the lane: look again when it is free.
            self.challenge = Some(challenge);
            return;
        }
        let identity = PublicKey::from(&self.key).id();
        let json =
            zeroize::Zeroizing::new(serde_json::to_vec(components).expect("components serialise"));
        let sealed = match self.sealing_key(now) {
            Some(key) => Sealed::seal(
                &key,
                Context::Hardware {
                    identity: &identity,
                },
                &json,
                rng,
            )
            .map_err(|error| error.to_string()),
            None => Err("the controller's certificate has no sealing key".to_owned()),
        };
        match sealed {
            Ok(hardware) => {
                self.authorisation.challenge_answered();
                self.hardware.told();
                let answer = ChallengeAnswer {
                    challenge_id: challenge.id,
                    value: challenge.value,
                    purpose: challenge.purpose,
                    hardware,
                    verification_hash: components.verification_hash(),
                    os_version: self.about.os_version.clone(),
                };
                self.submit(answer, now);
                self.answering = Some(challenge);
            }
            Err(error) => self.memory.note(
                format!("cannot answer the controller's challenge: {error}"),
                now,
            ),
        }
    }

    fn submit<B>(&mut self, body: B, now: Now)
    where
        B: vpn_node_protocol::message::Body + serde::Serialize + serde::de::DeserializeOwned,
    {
        self.submit_cosigned(body, None, now);
    }

    /// The same, with a second signature.
    pub(super) fn submit_cosigned<B>(&mut self, body: B, cosigner: Option<&SigningKey>, now: Now)
    where
        B: vpn_node_protocol::message::Body + serde::Serialize + serde::de::DeserializeOwned,
    {
        self.acks_sent = self.acks.len().min(MAX_DIRECTIVE_ACKS);
        self.acknowledgements_go();
        let voice = Voice {
            key: &self.key,
            cosigner,
            boot_id: self.about.boot_id,
            acks: self.acks[..self.acks_sent].to_vec(),
        };
        self.lane.submit(body, voice, now);
    }

    pub(super) fn send_failed(
        &mut self,
        failure: &SendFailure,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        let wait = schedule::backoff(self.lane.failures(), failure.retry_after, rng);
        self.lane.attempt_failed(now.boot + wait);
        self.memory.failed(failure.problem);
        self.memory.unanswered(&failure.message, now);
    }

    pub(super) fn answered(&mut self, bytes: &[u8], now: Now, rng: &mut impl CryptoRng) {
        let restored = self.lane.is_restored();
        match self.lane.answered(bytes, &mut self.trust, now) {
            Ok(answered) => self.accepted(answered, now, rng),
            Err(LaneError::Refused(refusal)) => self.refused(&refusal, restored, now, rng),
            Err(LaneError::Stopped(refusal)) => self.stopped(&refusal, now, rng),
            Err(LaneError::Behind(refusal, envelope)) => {
                self.behind(&refusal, *envelope, now, rng);
            }
            Err(error) => {
                if let LaneError::Untrusted(error) = &error {
                    self.renew_if_unknown(error);
                }
                let failure = SendFailure {
                    message: error.to_string(),
                    retry_after: None,
                    problem: Problem::Unreachable,
                };
                self.send_failed(&failure, now, rng);
            }
        }
    }

    fn accepted(&mut self, answered: Answered, now: Now, rng: &mut impl CryptoRng) {
        let Answered {
            reply,
            request,
            sent,
            fresh,
            restored,
        } = answered;
        self.interval = schedule::bounded_interval(reply.heartbeat_interval_s);
        let rtt = now.boot.saturating_sub(sent.boot);
        if fresh && rtt.as_millis() <= PROMPT_REPLY_MS {
            let middle = sent.after(rtt / 2);
            self.clock_offset_ms = Some(
                reply
                    .header
                    .controller_time_ms
                    .saturating_sub(middle.wall_ms),
            );
        }
        self.answering = None;
        let acknowledged = std::mem::take(&mut self.acks_sent);
        self.acks.drain(..acknowledged);
        if acknowledged > 0 {
            self.poll_at_once(now);
        }
        self.memory.accepted(sent);
        self.updates.heartbeat_ended(true);
        self.authorisation.judged(reply.standing.clone(), sent);
        if let Some(ack) = &reply.connections_ack
            && Some(ack.ledger_epoch) == self.ledger_epoch
        {
            self.batch_acked(ack, &reply.header.chain.0);
        } else if matches!(self.upload, Upload::InFlight) {
            self.upload = Upload::Idle;
        }
        // Nobody knows how old those of a former process are; what still holds comes again.
        for directive in reply.directives.iter().filter(|_| !restored) {
            self.directive_came(directive, reply.header.controller_time_ms, now, rng);
        }
        let rotated = self.rotated(request, &reply, now);
        self.heartbeat_at = if restored || rotated || rtt >= self.interval {
            // Said before a restart or an outage, so it is old: say how it is now. And until the
            // new key is used, the old one still speaks for this host.
            now.boot
        } else if self.heartbeat_at <= sent.boot {
            now.boot + schedule::next_heartbeat(self.interval, rng)
        } else {
            // A batch or an answer, sent while no heartbeat was due: it puts none off.
            self.heartbeat_at.min(now.boot + self.interval)
        };
        self.start_polling(now);
    }

    fn batch_acked(&mut self, ack: &ConnectionsAck, proof: &[u8; 32]) {
        self.commands.push_back(Command::Acked {
            through: ack.acked_through,
            proof: *proof,
        });
        // After a restart the ledger may be reading already: then one batch is sent twice.
        if !matches!(self.upload, Upload::Reading) {
            self.read_ledger();
        }
    }

    fn refused(&mut self, refusal: &Refusal, restored: bool, now: Now, rng: &mut impl CryptoRng) {
        self.acks_sent = 0;
        self.updates.heartbeat_ended(false);
        let answering = self.answering.take();
        let was_batch = matches!(self.upload, Upload::InFlight);
        if was_batch {
            self.upload = Upload::Idle;
        }
        self.memory.refused(&refusal.message, now);
        let wait = match refusal.code {
            // The controller lost its memory: prove the last reply, at once. A controller that
            // no proof convinces is asked as often as any other.
            RefusalCode::Ahead if self.lane.prove_next() => {
                self.challenge = self.challenge.take().or(answering);
                schedule::backoff(0, None, rng)
            }
            RefusalCode::Ahead => schedule::next_heartbeat(self.interval, rng),
            RefusalCode::BadRequest if was_batch => {
                // No heartbeat waits for a bad batch.
                self.upload = Upload::Paused(now.boot + BAD_BATCH_PAUSE);
                return;
            }
            // Made before a restart, so it is no reason to wait: if it was answered before this host
            // went back to an older state, the next request shows that there are two holders.
            RefusalCode::BadRequest if restored => schedule::backoff(0, None, rng),
            // The lane tells the others apart: see `stopped`.
            RefusalCode::BadRequest
            | RefusalCode::Quarantined
            | RefusalCode::Behind
            | RefusalCode::RetiredKey
            | RefusalCode::Revoked => schedule::next_heartbeat(self.interval, rng),
        };
        self.heartbeat_at = now.boot + wait;
        let asks_for_proof = refusal.code == RefusalCode::Ahead;
        self.rotation_refused(asks_for_proof.then_some(wait), &refusal.message, now);
    }
}
