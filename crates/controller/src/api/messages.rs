//! `/v1/messages`: every chained request.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::{Envelope, EnvelopeError};
use vpn_node_protocol::limits::{MAX_REQUEST_BYTES, MAX_SIGNATURES};
use vpn_node_protocol::message::{
    Body, ChallengeAnswer, ConnectionBatch, Header, Heartbeat, Message, Refusal, RefusalCode, Reply,
};

use super::body::{Takes, read};
use super::problem::Problem;
use super::reject::{Rejected, problem_of};
use super::{App, opening, peer_of, respond, seat_of};
use crate::clock;
use crate::keys::Keys;
use crate::places::Seat;
use crate::rules::challenge;
use crate::rules::effect::Severity;
use crate::rules::exchange::{self, Outcome};
use crate::rules::request::{self, Fresh, OpenedAnswer, Subject};
use crate::rules::state::ServerStatus;
use crate::rules::{connections, heartbeat};
use crate::store::{Decision, KnownServer, Wants};

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (peer, seat) = (peer_of(&request), seat_of(&request));
    let body = match read(request, Takes::Envelope, MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(problem) => return app.unreadable(peer, problem).await.into_response(),
    };
    respond(answer(&app, peer, seat.as_deref(), &body).await)
}

/// A verified request: who sent it, and its digest.
struct Verified<'a> {
    app: &'a Arc<App>,
    peer: IpAddr,
    seat: Option<&'a Seat>,
    server: KnownServer,
    digest: Digest,
}

async fn answer(
    app: &Arc<App>,
    peer: IpAddr,
    seat: Option<&Seat>,
    body: &Bytes,
) -> Result<(u16, Vec<u8>), Problem> {
    let (server, envelope) = identify(app, peer, body, MAX_REQUEST_BYTES).await?;
    let kind = envelope.payload_type().to_owned();
    let verified = Verified {
        app,
        peer,
        seat,
        server,
        digest: envelope.digest(),
    };
    match kind.as_str() {
        Heartbeat::TYPE => heartbeat_came(verified, &envelope).await,
        ChallengeAnswer::TYPE => answer_came(verified, &envelope).await,
        ConnectionBatch::TYPE => batch_came(verified, &envelope).await,
        _ => {
            let error = EnvelopeError::WrongType {
                found: kind.chars().take(80).collect(),
                expected: Heartbeat::TYPE,
            };
            Err(verified.unverified(&error, false).await)
        }
    }
}

/// Finds the server whose key the envelope names. The hint is unauthenticated: the signature is
/// verified with the key that is found.
pub(super) async fn identify(
    app: &App,
    peer: IpAddr,
    body: &[u8],
    limit: usize,
) -> Result<(KnownServer, Envelope), Problem> {
    let envelope = match Envelope::parse(body, limit) {
        Ok(envelope) => envelope,
        Err(error) => return Err(app.unreadable(peer, problem_of(&error)).await),
    };
    let key_ids: Vec<Digest> = envelope.key_ids().take(MAX_SIGNATURES).collect();
    for key_id in &key_ids {
        if let Some(server) = app.store.server_by_key(*key_id).await? {
            return Ok((server, envelope));
        }
    }
    app.reject(Rejected {
        peer,
        about: None,
        event_type: "unknown_key",
        severity: Severity::Low,
        description: match key_ids.first() {
            Some(id) => format!("no server has the key {id}"),
            None => "the message names no key".to_owned(),
        },
    })
    .await;
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "unknown_key",
        "this controller knows no server with that key: enrol the host with a new token",
    ))
}

async fn heartbeat_came(
    verified: Verified<'_>,
    envelope: &Envelope,
) -> Result<(u16, Vec<u8>), Problem> {
    let message: Message<Heartbeat> = match verified.open(envelope, true).await? {
        Ok(message) => message,
        Err(refused) => return Ok(refused),
    };
    if let Err(why) = heartbeat::check(&message.body) {
        return Ok(verified.bad(why));
    }
    let subject = Subject::Heartbeat(Box::new(message.body));
    verified
        .exchange(message.header, subject, Wants::default())
        .await
}

async fn answer_came(
    verified: Verified<'_>,
    envelope: &Envelope,
) -> Result<(u16, Vec<u8>), Problem> {
    let message: Message<ChallengeAnswer> = match verified.open(envelope, false).await? {
        Ok(message) => message,
        Err(refused) => return Ok(refused),
    };
    if let Err(why) = challenge::check(&message.body) {
        return Ok(verified.bad(why));
    }
    let identity = verified.server.identity.id();
    let components = opening::hardware(&verified.app.keys, &message.body.hardware, &identity);
    let subject = Subject::Answer(Box::new(OpenedAnswer {
        answer: message.body,
        components,
    }));
    let wants = Wants {
        hardware: true,
        ..Wants::default()
    };
    verified.exchange(message.header, subject, wants).await
}

async fn batch_came(
    verified: Verified<'_>,
    envelope: &Envelope,
) -> Result<(u16, Vec<u8>), Problem> {
    let message: Message<ConnectionBatch> = match verified.open(envelope, false).await? {
        Ok(message) => message,
        Err(refused) => return Ok(refused),
    };
    if let Err(why) = connections::check(&message.body) {
        return Ok(verified.bad(why));
    }
    // Hundreds of key agreements: off the threads that answer everybody else.
    let (keys, id) = (
        Arc::clone(&verified.app.keys),
        verified.server.server_id.clone(),
    );
    let batch = message.body;
    let opened = tokio::task::spawn_blocking(move || opening::batch(&keys, &id, &batch))
        .await
        .map_err(|_| {
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the controller is stopping: ask again",
            )
            .retry_after(1)
        })?;
    let wants = Wants {
        ledger_epoch: Some(opened.ledger_epoch),
        ..Wants::default()
    };
    verified
        .exchange(message.header, Subject::Batch(opened), wants)
        .await
}

impl Verified<'_> {
    /// Verifies and parses; the inner error is a signed refusal, for a signature that holds.
    async fn open<B>(
        &self,
        envelope: &Envelope,
        is_heartbeat: bool,
    ) -> Result<Result<Message<B>, (u16, Vec<u8>)>, Problem>
    where
        B: Body + Serialize + DeserializeOwned,
    {
        let message: Message<B> = match envelope.open(&self.server.identity) {
            Ok(message) => message,
            Err(EnvelopeError::BadPayload(why)) => {
                let why = format!("the signed payload does not parse: {why}");
                return Ok(Err(self.bad(&why)));
            }
            Err(error) => return Err(self.unverified(&error, is_heartbeat).await),
        };
        if let Some(seat) = self.seat {
            seat.prove(&self.server.server_id);
        }
        let header = &message.header;
        if header.server_id != self.server.server_id || header.epoch != self.server.epoch {
            self.app
                .reject(Rejected {
                    peer: self.peer,
                    about: Some(&self.server.server_id),
                    event_type: "message_for_another_server",
                    severity: Severity::Medium,
                    description: "the signed message names another server id or key epoch"
                        .to_owned(),
                })
                .await;
            return Ok(Err(
                self.bad("the message names another server or key epoch")
            ));
        }
        if let Err(why) = exchange::check_header(header) {
            return Ok(Err(self.bad(why)));
        }
        Ok(Ok(message))
    }

    /// Records a message of a known key whose signature or type does not hold.
    async fn unverified(&self, error: &EnvelopeError, is_heartbeat: bool) -> Problem {
        let recorded = self
            .app
            .reject(Rejected {
                peer: self.peer,
                about: Some(&self.server.server_id),
                event_type: match error {
                    EnvelopeError::BadSignature { .. } => "bad_signature",
                    _ => "wrong_type",
                },
                severity: Severity::Medium,
                description: error.to_string(),
            })
            .await;
        if recorded && is_heartbeat {
            let id = self.server.server_id.clone();
            let row = self.app.store.record_bad_heartbeat(id, self.app.now_ms());
            if let Err(error) = row.await {
                tracing::error!(%error, "a rejected heartbeat could not be stored");
            }
        }
        problem_of(error)
    }

    /// A signed refusal of what can never be accepted.
    fn bad(&self, why: &str) -> (u16, Vec<u8>) {
        let (code, why) = match self.server.status {
            ServerStatus::Revoked => (RefusalCode::Revoked, "this server was revoked"),
            _ => (RefusalCode::BadRequest, why),
        };
        refusal(&self.app.keys, self.digest, self.app.now_ms(), code, why)
    }

    /// Judges and stores in one transaction, and returns what goes back to the host.
    async fn exchange(
        self,
        header: Header,
        subject: Subject,
        wants: Wants,
    ) -> Result<(u16, Vec<u8>), Problem> {
        let app = self.app;
        let now_ms = app.now_ms();
        let proof = header
            .proof
            .as_deref()
            .and_then(|envelope| app.keys.open_own::<Reply>(envelope))
            .map(|reply| reply.header)
            .filter(|reply| reply.server_id == header.server_id && reply.epoch == header.epoch);
        let seq = header.seq;
        let request = request::Request {
            header,
            subject,
            digest: self.digest,
            proof,
            peer_ip: self.peer.to_string(),
            now_ms,
            policy: app.policy,
            fresh: Fresh {
                nonce: clock::nonce(),
                challenge_id: clock::uuid_v7(now_ms),
                challenge_value: clock::nonce(),
                log_id: clock::uuid_v7(now_ms),
            },
        };
        let keys = Arc::clone(&app.keys);
        let decide = Box::new(move |snapshot: &_| {
            let outcome = exchange::decide(snapshot, &request);
            decision(&keys, &request, outcome)
        });
        let wants = Wants {
            seq: Some(seq),
            ..wants
        };
        let id = self.server.server_id;
        let decided = app.store.exchange(id.clone(), wants, decide).await?;
        if decided.old {
            app.reject(Rejected {
                peer: self.peer,
                about: Some(&id),
                event_type: "replayed_request",
                severity: Severity::Medium,
                description: format!(
                    "the old request {seq} came again: recorded traffic, or a restored snapshot"
                ),
            })
            .await;
        }
        Ok((decided.status, decided.body))
    }
}

/// Signs what was decided.
fn decision(keys: &Keys, request: &request::Request, outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Repeat(body) => Decision {
            effects: vec![],
            status: 200,
            body,
            old: false,
        },
        Outcome::Refuse {
            code,
            message,
            effects,
            old,
        } => {
            let (status, body) = refusal(keys, request.digest, request.now_ms, code, &message);
            Decision {
                effects,
                status,
                body,
                old,
            }
        }
        Outcome::Accept(mut accepted) => {
            accepted.reply.directives = accepted.directives.iter().map(|d| keys.sign(d)).collect();
            let body = keys.sign(&accepted.reply).to_json();
            Decision {
                effects: accepted.into_effects(body.clone()),
                status: 200,
                body,
                old: false,
            }
        }
    }
}

/// A signed "no" with its HTTP status.
pub(super) fn refusal(
    keys: &Keys,
    request_digest: Digest,
    controller_time_ms: i64,
    code: RefusalCode,
    message: &str,
) -> (u16, Vec<u8>) {
    let status = match code {
        RefusalCode::Ahead | RefusalCode::Behind | RefusalCode::Quarantined => 409,
        RefusalCode::RetiredKey | RefusalCode::Revoked => 403,
        RefusalCode::BadRequest => 400,
    };
    let refusal = Refusal {
        request_digest,
        controller_time_ms,
        code,
        message: message.to_owned(),
    };
    (status, keys.sign(&refusal).to_json())
}
