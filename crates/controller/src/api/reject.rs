//! What a rejected request leaves: an event, rate-limited, and nothing else.

use std::net::IpAddr;

use axum::http::StatusCode;
use vpn_node_protocol::envelope::EnvelopeError;

use super::App;
use super::problem::Problem;
use crate::places::source_of;
use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;
use crate::rules::exchange::Repeats;

/// A request that was rejected before anything was believed of it.
pub(super) struct Rejected<'a> {
    /// Where it came from.
    pub(super) peer: IpAddr,
    /// Whom it is about, for `security_events.source_id`: a server's id, a registration key.
    /// The address alone when `None`.
    pub(super) about: Option<&'a str>,
    /// What it was.
    pub(super) event_type: EventType,
    /// A sentence; values from outside are escaped in it.
    pub(super) description: String,
}

impl App {
    /// Records a rejected request, if its kind and source have not been recorded just now.
    /// Returns whether it was.
    pub(super) async fn reject(&self, rejected: Rejected<'_>) -> bool {
        let now_ms = self.now_ms();
        let source = source_of(rejected.peer);
        let Some(suppressed) = self
            .events
            .allow(rejected.event_type.word(), source, now_ms)
        else {
            return false;
        };
        let mut description = format!("from {}: {}", rejected.peer, rejected.description);
        if suppressed > 0 {
            description.push_str(&format!("; {suppressed} more like it were not recorded"));
        }
        let event = NewEvent {
            event_type: rejected.event_type,
            source_id: Some(match rejected.about {
                Some(about) => about.to_owned(),
                None => rejected.peer.to_string(),
            }),
            description,
            at_ms: now_ms,
        };
        // A rejected request is rejected whether or not that can be written down.
        if let Err(error) = self.store.record_event(event).await {
            tracing::error!(%error, "a security event could not be stored");
        }
        true
    }

    /// Records a signed request that has no effect, however often it comes.
    pub(super) async fn repeated(&self, peer: IpAddr, server_id: &str, seq: u64, what: Repeats) {
        let (event_type, description) = match what {
            Repeats::OldRequest => (
                EventType::ReplayedRequest,
                format!(
                    "the old request {seq} came again: recorded traffic, or a restored snapshot"
                ),
            ),
            Repeats::OtherHolder => (
                EventType::OtherHolderRefused,
                format!(
                    "request {seq} is of the holder that was not kept: it still runs with this identity"
                ),
            ),
        };
        self.reject(Rejected {
            peer,
            about: Some(server_id),
            event_type,
            description,
        })
        .await;
    }

    /// Records a message of a known key that does not verify; with its problem, whether it was
    /// recorded.
    pub(super) async fn unverified(
        &self,
        peer: IpAddr,
        server_id: &str,
        error: &EnvelopeError,
    ) -> (Problem, bool) {
        let event_type = match error {
            EnvelopeError::BadSignature { .. } => EventType::BadSignature,
            EnvelopeError::WrongType { .. } => EventType::WrongType,
            _ => EventType::BadPayload,
        };
        let recorded = self
            .reject(Rejected {
                peer,
                about: Some(server_id),
                event_type,
                description: error.to_string(),
            })
            .await;
        (problem_of(error), recorded)
    }

    /// Records a request that is not even readable, and passes the problem on.
    pub(super) async fn unreadable(&self, peer: IpAddr, problem: Problem) -> Problem {
        if problem.is_ours() {
            return problem;
        }
        self.reject(Rejected {
            peer,
            about: None,
            event_type: EventType::UnreadableRequest,
            description: format!("{}: {:?}", problem.code(), problem.message()),
        })
        .await;
        problem
    }
}

/// The unsigned error for an envelope that does not verify.
pub(super) fn problem_of(error: &EnvelopeError) -> Problem {
    let (status, code) = match error {
        EnvelopeError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        EnvelopeError::NotAnEnvelope(_) => (StatusCode::BAD_REQUEST, "not_an_envelope"),
        EnvelopeError::WrongType { .. } => (StatusCode::BAD_REQUEST, "wrong_type"),
        EnvelopeError::BadSignature { .. } => (StatusCode::UNAUTHORIZED, "bad_signature"),
        EnvelopeError::BadPayload(_) => (StatusCode::BAD_REQUEST, "bad_payload"),
    };
    Problem::new(status, code, error.to_string())
}
