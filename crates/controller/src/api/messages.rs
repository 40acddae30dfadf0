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
use vpn_node_protocol::envelope::{Envelope, EnvelopeError, Payload};
use vpn_node_protocol::identity::{Rotate, Witness};
use vpn_node_protocol::limits::MAX_REQUEST_BYTES;
use vpn_node_protocol::message::{
    Body, ChallengeAnswer, ConnectionBatch, Header, Heartbeat, Message, Refusal, RefusalCode, Reply,
};

use super::body::{Takes, read};
use super::problem::Problem;
use super::signer::{self, Signed, Signers, identify};
use super::{App, opening, peer_of, respond, seat_of, witness};
use crate::clock;
use crate::keys::Keys;
use crate::places::Seat;
use crate::rules::challenge;
use crate::rules::exchange::{self, Outcome};
use crate::rules::request::{self, Fresh, OpenedAnswer, Subject};
use crate::rules::{connections, heartbeat, rollout};
use crate::store::{Decision, KnownServer, Wants};

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (peer, seat) = (peer_of(&request), seat_of(&request));
    let body = match read(request, Takes::Envelope, MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(problem) => return app.unreadable(peer, problem).await.into_response(),
    };
    respond(answer(&app, peer, seat.as_deref(), &body).await)
}

/// A request that has been read, with the servers whose keys it names. Nothing is verified yet.
struct Came<'a> {
    app: &'a Arc<App>,
    peer: IpAddr,
    seat: Option<&'a Seat>,
    signers: Signers,
    envelope: &'a Envelope,
}

/// A verified request: who sent it, and its digest.
pub(super) struct Verified<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) peer: IpAddr,
    pub(super) server: KnownServer,
    pub(super) digest: Digest,
}

/// A verified payload, or a signed refusal of it.
type Opened<'a, P> = Result<(Verified<'a>, P), (u16, Vec<u8>)>;

async fn answer(
    app: &Arc<App>,
    peer: IpAddr,
    seat: Option<&Seat>,
    body: &Bytes,
) -> Result<(u16, Vec<u8>), Problem> {
    let (signers, envelope) = identify(app, peer, body, MAX_REQUEST_BYTES).await?;
    let kind = envelope.payload_type();
    let came = Came {
        app,
        peer,
        seat,
        signers,
        envelope: &envelope,
    };
    match kind {
        Heartbeat::TYPE => heartbeat_came(came).await,
        ChallengeAnswer::TYPE => answer_came(came).await,
        ConnectionBatch::TYPE => batch_came(came).await,
        Rotate::TYPE => rotate_came(came).await,
        Witness::TYPE => witness_came(came).await,
        _ => {
            let error = EnvelopeError::WrongType {
                found: kind.chars().take(80).collect(),
                expected: Heartbeat::TYPE,
            };
            Err(came.unverified(&came.signers.first.server_id, &error).await)
        }
    }
}

async fn heartbeat_came(came: Came<'_>) -> Result<(u16, Vec<u8>), Problem> {
    let (verified, message) = match came.open::<Heartbeat>().await? {
        Ok(opened) => opened,
        Err(refused) => return Ok(refused),
    };
    if let Err(why) = heartbeat::check(&message.body) {
        return Ok(verified.bad(why));
    }
    let wants = Wants {
        deployment: rollout::report::named(&message.body),
        ..Wants::default()
    };
    let subject = Subject::Heartbeat(Box::new(message.body));
    verified.exchange(message.header, subject, wants).await
}

async fn answer_came(came: Came<'_>) -> Result<(u16, Vec<u8>), Problem> {
    let (verified, message) = match came.open::<ChallengeAnswer>().await? {
        Ok(opened) => opened,
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

async fn batch_came(came: Came<'_>) -> Result<(u16, Vec<u8>), Problem> {
    let (verified, message) = match came.open::<ConnectionBatch>().await? {
        Ok(opened) => opened,
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

/// A new identity key. A missing signature of that key is no word of the host: anybody on the way
/// can take it out, so it gets no signed answer.
async fn rotate_came(came: Came<'_>) -> Result<(u16, Vec<u8>), Problem> {
    let envelope = came.envelope;
    let (verified, message) = match came.open::<Rotate>().await? {
        Ok(opened) => opened,
        Err(refused) => return Ok(refused),
    };
    let new_key = message.body.new_key;
    if let Err(error) = envelope.verify(Rotate::TYPE, &new_key) {
        return Err(verified.unverified(&error).await);
    }
    let wants = Wants {
        new_key: Some(new_key),
        ..Wants::default()
    };
    verified
        .exchange(message.header, Subject::Rotate(new_key), wants)
        .await
}

/// The answer to a refusal `behind`: not chained, so that it can be given at once.
async fn witness_came(came: Came<'_>) -> Result<(u16, Vec<u8>), Problem> {
    let named = |witness: &Witness| (witness.server_id.clone(), witness.epoch);
    match came.open_named(named).await? {
        Ok((verified, witness)) => witness::judge(verified, witness).await,
        Err(refused) => Ok(refused),
    }
}

impl<'a> Came<'a> {
    /// A chained request: verified, parsed, its header checked.
    async fn open<B>(self) -> Result<Opened<'a, Message<B>>, Problem>
    where
        B: Body + Serialize + DeserializeOwned,
    {
        let named = |message: &Message<B>| (message.header.server_id.clone(), message.header.epoch);
        let (verified, message) = match self.open_named(named).await? {
            Ok(opened) => opened,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Err(why) = exchange::check_header(&message.header) {
            return Ok(Err(verified.bad(why)));
        }
        Ok(Ok((verified, message)))
    }

    /// Verifies and parses; the inner error is a signed refusal, for a signature that holds.
    /// `named` is the server and the key epoch that the payload names.
    async fn open_named<P: Payload>(
        self,
        named: impl Fn(&P) -> (String, u32),
    ) -> Result<Opened<'a, P>, Problem> {
        let (server, payload) = match signer::open(&self.signers, self.envelope, named) {
            Signed::Own(server, payload) => (server, Ok(payload)),
            Signed::Unparsable(server, why) => (server, Err(why)),
            Signed::Another(server) => {
                return Err(self.app.in_anothers_name(self.peer, &server).await);
            }
            Signed::Unverified(server, error) => {
                return Err(self.unverified(&server.server_id, &error).await);
            }
        };
        if let Some(seat) = self.seat {
            seat.prove(&server.server_id);
        }
        let verified = Verified {
            app: self.app,
            peer: self.peer,
            server,
            digest: self.envelope.digest(),
        };
        if let Some((code, why)) = self.app.standing_refusal(self.peer, &verified.server).await {
            return Ok(Err(verified.refused(code, why)));
        }
        match payload {
            Ok(payload) => Ok(Ok((verified, payload))),
            Err(why) => {
                let why = format!("the signed payload does not parse: {why}");
                Ok(Err(verified.bad(&why)))
            }
        }
    }

    /// Records a message of a known key whose signature or type does not hold.
    async fn unverified(&self, server_id: &str, error: &EnvelopeError) -> Problem {
        let (problem, recorded) = self.app.unverified(self.peer, server_id, error).await;
        if recorded && self.envelope.payload_type() == Heartbeat::TYPE {
            let now_ms = self.app.now_ms();
            let row = self
                .app
                .store
                .record_bad_heartbeat(server_id.to_owned(), now_ms);
            if let Err(error) = row.await {
                tracing::error!(%error, "a rejected heartbeat could not be stored");
            }
        }
        problem
    }
}

impl Verified<'_> {
    async fn unverified(&self, error: &EnvelopeError) -> Problem {
        let id = &self.server.server_id;
        self.app.unverified(self.peer, id, error).await.0
    }

    /// A signed refusal of what can never be accepted.
    fn bad(&self, why: &str) -> (u16, Vec<u8>) {
        self.refused(RefusalCode::BadRequest, why)
    }

    fn refused(&self, code: RefusalCode, why: &str) -> (u16, Vec<u8>) {
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
            .filter(|reply| reply.server_id == header.server_id);
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
                rotation_id: clock::uuid_v7(now_ms),
                log_id: clock::uuid_v7(now_ms),
            },
        };
        let keys = Arc::clone(&app.keys);
        let decide = Box::new(move |snapshot: &_| {
            let outcome = exchange::decide(snapshot, &request);
            decision(&keys, request.digest, request.now_ms, outcome)
        });
        let wants = Wants {
            seq: Some(seq),
            signer: Some(self.server.identity.id()),
            ..wants
        };
        let id = self.server.server_id;
        let decided = app.store.exchange(id.clone(), wants, decide).await?;
        if let Some(repeats) = decided.repeats {
            app.repeated(self.peer, &id, seq, repeats).await;
        }
        Ok((decided.status, decided.body))
    }
}

/// Signs what was decided.
pub(super) fn decision(keys: &Keys, digest: Digest, now_ms: i64, outcome: Outcome) -> Decision {
    match outcome {
        Outcome::Repeat(body) => Decision {
            effects: vec![],
            status: 200,
            body,
            repeats: None,
        },
        Outcome::Refuse {
            code,
            message,
            effects,
            repeats,
        } => {
            let (status, body) = refusal(keys, digest, now_ms, code, &message);
            Decision {
                effects,
                status,
                body,
                repeats,
            }
        }
        Outcome::Accept(mut accepted) => {
            accepted.reply.directives = accepted.directives.iter().map(|d| keys.sign(d)).collect();
            let body = keys.sign(&accepted.reply).to_json();
            Decision {
                effects: accepted.into_effects(body.clone()),
                status: 200,
                body,
                repeats: None,
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
