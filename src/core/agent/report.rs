//! The agent's report of itself.

use std::sync::Arc;
use std::time::Duration;

use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Authorisation as State, Verdict};

use super::{Agent, Problem};
use crate::core::Now;
use crate::core::report::{
    Backlog, ConfigurationStatus, ConnectionRow, ErrorNote, Heartbeats, IdentityStatus,
    LastHeartbeat, LedgerStatus, MAX_ERROR_TEXT, MAX_LAST_ERRORS, StatusReport, Verification,
    VerificationState,
};

/// What the agent remembers only to report it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    last_accepted: Option<Now>,
    last_answer_was_good: Option<bool>,
    last_error: Option<String>,
    heartbeats: Heartbeats,
    problem: Problem,
    errors: std::collections::VecDeque<ErrorNote>,
    state: Option<(State, Duration)>,
    pub(super) configuration: ConfigurationStatus,
}

impl Memory {
    /// A chained request was accepted.
    pub(super) fn accepted(&mut self, sent: Now) {
        self.last_error = None;
        self.problem = Problem::None;
        self.heartbeats.accepted += 1;
        self.last_answer_was_good = Some(true);
        self.last_accepted = Some(sent);
    }

    /// The controller refused a chained request, and signed that.
    pub(super) fn refused(&mut self, message: &str, now: Now) {
        self.last_answer_was_good = Some(false);
        self.problem = Problem::Refused;
        self.unanswered(message, now);
    }

    /// A chained request did not get through, or got no answer that can be believed: that says
    /// nothing about what the controller thinks of this host.
    pub(super) fn unanswered(&mut self, message: &str, now: Now) {
        let message = bounded(message);
        if self.last_error.as_ref() != Some(&message) {
            self.note(message.clone(), now);
        }
        self.last_error = Some(message);
    }

    /// A chained request goes out, maybe not for the first time.
    pub(super) fn attempted(&mut self) {
        self.heartbeats.attempted += 1;
    }

    /// Whether the controller took the latest request that it could take.
    pub(super) fn is_heard(&self) -> bool {
        self.last_accepted.is_some() && self.problem == Problem::None
    }

    /// An attempt failed so.
    pub(super) fn failed(&mut self, problem: Problem) {
        self.problem = problem;
    }

    /// Something an operator may want to read.
    pub(super) fn note(&mut self, text: impl AsRef<str>, now: Now) {
        let text = bounded(text.as_ref());
        if self.errors.back().is_some_and(|last| last.text == text) {
            return;
        }
        if self.errors.len() >= MAX_LAST_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(ErrorNote {
            at_ms: now.wall_ms,
            text,
        });
    }
}

/// As much of a text from outside as is kept.
pub(super) fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_ERROR_TEXT)].to_owned()
}

impl Agent {
    /// The report as of `now`.
    pub fn report(&mut self, now: Now) -> StatusReport {
        let state = self.authorisation.state(now, self.silent_after());
        let since = match self.memory.state {
            Some((known, since)) if known == state => since,
            _ => now.boot,
        };
        self.memory.state = Some((state, since));
        let ago = |then: Now| now.boot.saturating_sub(then.boot).as_secs();
        let backends = self.backend_statuses(now);
        let lane = self.lane.state();
        StatusReport {
            uptime_s: ago(self.started),
            server_id: Some(lane.server_id.clone()),
            controller_url: Some(self.about.controller_url.clone()),
            enrolled: true,
            enrolled_since_ms: Some(self.about.enrolled_ms),
            verification: self.verification(state, now.boot.saturating_sub(since), now),
            authorised_until: self
                .authorisation
                .remaining(now)
                .map(|left| now.after(left)),
            last_heartbeat: LastHeartbeat {
                at_ms: self.memory.last_accepted.map(|at| at.wall_ms),
                seconds_ago: self.memory.last_accepted.map(ago),
                accepted: self.memory.last_answer_was_good,
                last_error: self.memory.last_error.clone(),
            },
            heartbeats: Heartbeats {
                last_problem: self.memory.problem.as_str().to_owned(),
                ..self.memory.heartbeats.clone()
            },
            running_from: self.about.running_from.clone(),
            update: Some(self.updates.status_report(now)),
            next_heartbeat_s: Some(
                self.lane
                    .send_at()
                    .unwrap_or(self.heartbeat_at)
                    .saturating_sub(now.boot)
                    .as_secs(),
            ),
            heartbeat_interval_s: self.interval.as_secs(),
            clock_offset_ms: self.clock_offset_ms.map(|offset| -offset),
            backends,
            connections: Arc::new(self.connection_rows()),
            backlog: Backlog {
                records: self.ledger.records,
                bytes: self.ledger.bytes,
                oldest_s: None,
            },
            ledger: LedgerStatus {
                gaps: self.ledger.gaps,
                quarantined: self.ledger.quarantined,
                error: self.ledger.error.clone(),
                writable: self.ledger.error.is_none() && self.ledger.unstored == 0,
                low_space_bytes: self.ledger.low_space_bytes,
            },
            identity: Some(IdentityStatus {
                epoch: u64::from(lane.epoch),
                key_id: PublicKey::from(&self.key).id().to_string(),
                rotated_ms: self.rotation.rotated_ms,
                // A controller that refuses the whole host takes no new key.
                rotating: self.rotation.is_under_way() && self.authorisation.stopped().is_none(),
            }),
            configuration: self.memory.configuration.clone(),
            last_errors: self.memory.errors.iter().cloned().collect(),
            ..StatusReport::starting(
                &self.about.version,
                &self.about.hostname,
                self.about.pid,
                now.boot,
            )
        }
    }

    fn verification(&self, state: State, in_state: Duration, now: Now) -> Verification {
        let standing = self.authorisation.standing();
        Verification {
            state: match state {
                State::Unverified => VerificationState::Unverified,
                State::Verified => VerificationState::Verified,
                State::Grace => VerificationState::Grace,
                State::Lapsed => VerificationState::Lapsed,
            },
            for_s: in_state.as_secs(),
            detail: self.why(state),
            valid_for_s: self.authorisation.remaining(now).map(|left| left.as_secs()),
            hardware_status: standing.map(|s| s.hardware_status.as_str().to_owned()),
            stopped: self.authorisation.stopped_code(),
            warnings: match state {
                State::Verified | State::Grace => standing
                    .and_then(|s| s.reason.clone())
                    .into_iter()
                    .collect(),
                State::Unverified | State::Lapsed => Vec::new(),
            },
        }
    }

    /// One sentence: why the host is in this state.
    fn why(&self, state: State) -> String {
        if let Some(reason) = self.authorisation.stopped() {
            return reason.to_owned();
        }
        let standing = self.authorisation.standing();
        let said = standing.and_then(|s| s.reason.as_deref());
        match (state, standing.map(|s| s.verdict)) {
            (State::Verified, _) => "The controller vouches for this host.".to_owned(),
            (State::Grace, _) => "The controller was satisfied, but is silent now.".to_owned(),
            (State::Lapsed, None | Some(Verdict::Verified)) => {
                "The controller has been silent for longer than the grace period.".to_owned()
            }
            (_, Some(Verdict::Pending)) => {
                "Enrolled; an operator has not approved this host yet.".to_owned()
            }
            (_, Some(Verdict::Mismatch | Verdict::Failed)) => said
                .unwrap_or("The controller refused the last verification.")
                .to_owned(),
            (State::Lapsed, Some(Verdict::Unverified)) => {
                "The controller wants a new challenge answered.".to_owned()
            }
            (State::Unverified, Some(Verdict::Unverified | Verdict::Verified)) => {
                "The controller has not judged a challenge since the agent started.".to_owned()
            }
            (State::Unverified, None) => {
                "The controller has not answered since the agent started.".to_owned()
            }
        }
    }

    fn connection_rows(&self) -> Vec<ConnectionRow> {
        self.reducer
            .live()
            .map(|live| ConnectionRow {
                id: live.connection_id.to_string(),
                backend: live.backend.to_string(),
                started_ms: live.started.wall_ms,
                last_seen_ms: live.last_seen.wall_ms,
                rx: live.rx,
                tx: live.tx,
            })
            .collect()
    }
}
