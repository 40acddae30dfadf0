//! Who this host is, when the controller doubts it (`docs/protocol.md`, "Rotation" and "Replay and
//! clones"): the introduction to a controller that forgot the key, the witness against the word
//! "behind", and what a signed refusal of the whole host means.

use std::path::Path;
use std::time::Duration;

use rand_core::CryptoRng;
use vpn_node_protocol::certificate::CertificateError;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::{Envelope, Payload as _};
use vpn_node_protocol::identity::{Introduction, IntroductionReply, Witness};
use vpn_node_protocol::limits::MAX_REPLY_BYTES;
use vpn_node_protocol::message::{Refusal, RefusalCode};

use super::report::bounded;
use super::{Agent, Command, QUARANTINED_INTERVAL, STOPPED_INTERVAL, SendFailure};
use crate::core::{Now, schedule, shown_path};

/// Why a host stands still whose key is not the server's any more. The controller's own sentence
/// goes beside it.
const KEY_REPLACED: &str = "the controller has another identity key for this server by now: this is a copy or an old backup of the host, or the server was enrolled anew";
/// Why a host stands still that is told to be behind.
const BEHIND: &str = "the controller remembers later requests of this server than this host does: this is a copy or an old backup of the host, and the controller was told so. An operator must resolve it there with 'vpn-node-controller server resolve-clone NAME'";

/// What the agent has said outside the lane, and waits for.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Digest of the introduction that is with the controller, and the epoch of its key.
    introduction: Option<(Digest, u32)>,
    /// Not before this instant another one: one for each wait between two attempts.
    introduce_at: Duration,
    /// The same of the witness.
    witness: Option<(Digest, u32)>,
}

/// What to do on a host that may be one of two. Which one is right, only the operator knows: what
/// comes first harms neither.
fn one_of_two(state_dir: &Path) -> String {
    format!(
        "If another machine runs as this server, switch this one off, or stop its agent, move {} away and enrol it with a new token of its own. Only if this is the one right machine: enrol it with a token that 'vpn-node-controller registration-key create --server NAME' makes, which shuts the other one out",
        shown_path(state_dir)
    )
}

/// What to do on a revoked host. No token for that server helps.
fn new_server(state_dir: &Path) -> String {
    format!(
        "The one way back: stop the agent, move {} away, enrol this host with a new token, and start the agent",
        shown_path(state_dir)
    )
}

/// The stable word for a refusal, as in `docs/protocol.md`.
const fn word(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Ahead => "ahead",
        RefusalCode::Quarantined => "quarantined",
        RefusalCode::Behind => "behind",
        RefusalCode::RetiredKey => "retired_key",
        RefusalCode::Revoked => "revoked",
        RefusalCode::BadRequest => "bad_request",
    }
}

impl Agent {
    /// The controller says that it knows no server of our key: unsigned, so it may be anybody's
    /// word, and the request is tried again as after any failure. But a controller that was
    /// restored from a backup may know an older key of ours: it is shown how ours came to be.
    pub(super) fn unknown_key(
        &mut self,
        failure: &SendFailure,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        self.send_failed(failure, now, rng);
        let next_attempt = self.lane.send_at().unwrap_or(now.boot);
        let lane = self.lane.state();
        let is_due = now.boot >= self.claims.introduce_at && self.claims.introduction.is_none();
        if !is_due || lane.rotations.is_empty() {
            return;
        }
        let introduction = Introduction {
            server_id: lane.server_id.clone(),
            epoch: lane.epoch,
            rotations: lane.rotations.clone(),
        };
        let envelope = Envelope::sign(&introduction, &[&self.key]);
        self.claims.introduction = Some((envelope.digest(), introduction.epoch));
        self.claims.introduce_at = next_attempt;
        let body = envelope.to_json();
        self.commands.push_back(Command::Introduce { body });
    }

    pub(super) fn introduction_answered(&mut self, bytes: &[u8], now: Now) {
        let Some((digest, epoch)) = self.claims.introduction.take() else {
            return;
        };
        // It may have been held on the way until its key was replaced.
        let of_this_key = epoch == self.lane.state().epoch;
        match self.refusal_in(bytes, digest, now) {
            Ok(Some(refusal)) => self.stop_if_told(&refusal, of_this_key, now),
            Ok(None) => self.introduced(bytes, digest, now),
            Err(error) => self.doubt(&error, now),
        }
    }

    fn introduced(&mut self, bytes: &[u8], digest: Digest, now: Now) {
        let opened = Envelope::parse(bytes, MAX_REPLY_BYTES)
            .map_err(Into::into)
            .and_then(|envelope| {
                self.trust
                    .open(&envelope, |r: &IntroductionReply| r.controller_time_ms)
            });
        match opened {
            Ok(reply) if reply.request_digest != digest => {}
            Ok(reply) => {
                self.trust
                    .saw_controller_time(reply.controller_time_ms, now);
                if reply.known {
                    self.lane.retry_now(now);
                } else {
                    let text = "the controller knows no key that leads to this host's: was it restored from a backup that is older than this host? Enrol the host anew with a token that 'vpn-node-controller registration-key create --server NAME' makes";
                    self.memory.note(text, now);
                }
            }
            Err(error) => self.doubt(&error, now),
        }
    }

    pub(super) fn introduction_failed(&mut self, failure: &SendFailure, now: Now) {
        self.claims.introduction = None;
        self.memory.note(&failure.message, now);
    }

    /// The controller remembers more than this host: recorded traffic, or a copy of the host that
    /// lives. That we live is what the witness proves, and what stops both holders.
    pub(super) fn behind(
        &mut self,
        refusal: &Refusal,
        envelope: Envelope,
        now: Now,
        rng: &mut impl CryptoRng,
    ) {
        self.stopped(refusal, now, rng);
        let lane = self.lane.state();
        let witness = Witness {
            server_id: lane.server_id.clone(),
            epoch: lane.epoch,
            refusal: envelope,
            seq: lane.seq + 1,
            boot_id: self.about.boot_id,
            boottime_ms: u64::try_from(now.boot.as_millis()).unwrap_or(u64::MAX),
        };
        let envelope = Envelope::sign(&witness, &[&self.key]);
        self.claims.witness = Some((envelope.digest(), witness.epoch));
        let body = envelope.to_json();
        self.commands.push_back(Command::Witness { body });
    }

    /// The answer is a refusal in any case: what the host has done ends with it.
    pub(super) fn witness_answered(&mut self, bytes: &[u8], now: Now) {
        let Some((digest, epoch)) = self.claims.witness.take() else {
            return;
        };
        let of_this_key = epoch == self.lane.state().epoch;
        match self.refusal_in(bytes, digest, now) {
            Ok(Some(refusal)) => self.stop_if_told(&refusal, of_this_key, now),
            Ok(None) => {}
            Err(error) => self.doubt(&error, now),
        }
    }

    pub(super) fn witness_failed(&mut self, failure: &SendFailure, now: Now) {
        self.claims.witness = None;
        self.memory.note(&failure.message, now);
    }

    /// Quarantined, revoked, or with a key that was replaced: the same request asks, slowly,
    /// whether that has changed.
    pub(super) fn stopped(&mut self, refusal: &Refusal, now: Now, rng: &mut impl CryptoRng) {
        self.stop(refusal, now);
        let interval = match refusal.code {
            RefusalCode::Quarantined | RefusalCode::Behind => QUARANTINED_INTERVAL,
            _ => STOPPED_INTERVAL,
        };
        let wait = schedule::next_heartbeat(interval, rng);
        self.lane.attempt_failed(now.boot + wait);
    }

    /// Lapses at once, when this refusal is one of the whole host. `of_this_key` is false for the
    /// answer to something that a former key of ours signed.
    pub(super) fn stop_if_told(&mut self, refusal: &Refusal, of_this_key: bool, now: Now) {
        match refusal.code {
            RefusalCode::Quarantined | RefusalCode::Revoked => self.stop(refusal, now),
            RefusalCode::RetiredKey if of_this_key => self.stop(refusal, now),
            RefusalCode::RetiredKey
            | RefusalCode::Ahead
            | RefusalCode::Behind
            | RefusalCode::BadRequest => {}
        }
    }

    fn stop(&mut self, refusal: &Refusal, now: Now) {
        self.memory.refused(&refusal.message, now);
        let state_dir = &self.about.state_dir;
        let said = bounded(&refusal.message);
        let reason = match refusal.code {
            RefusalCode::RetiredKey => format!("{KEY_REPLACED}. {}", one_of_two(state_dir)),
            RefusalCode::Behind => BEHIND.to_owned(),
            RefusalCode::Quarantined => format!("{said}. {}", one_of_two(state_dir)),
            RefusalCode::Revoked => format!("{said}. {}", new_server(state_dir)),
            RefusalCode::Ahead | RefusalCode::BadRequest => said,
        };
        self.authorisation.stop(word(refusal.code), reason);
    }

    /// The signed refusal of what has this digest, if the bytes are one.
    pub(super) fn refusal_in(
        &mut self,
        bytes: &[u8],
        digest: Digest,
        now: Now,
    ) -> Result<Option<Refusal>, CertificateError> {
        let envelope = Envelope::parse(bytes, MAX_REPLY_BYTES)?;
        if envelope.payload_type() != Refusal::TYPE {
            return Ok(None);
        }
        let refusal: Refusal = self
            .trust
            .open(&envelope, |r: &Refusal| r.controller_time_ms)?;
        if refusal.request_digest != digest {
            return Ok(None);
        }
        self.trust
            .saw_controller_time(refusal.controller_time_ms, now);
        Ok(Some(refusal))
    }

    fn doubt(&mut self, error: &CertificateError, now: Now) {
        self.renew_if_unknown(error);
        self.memory.note(error.to_string(), now);
    }
}
