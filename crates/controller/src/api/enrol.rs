//! `/v1/enrol/hello` and `/v1/enrol/complete`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::{
    EnrolOutcome, EnrolRefusal, EnrolReply, EnrolRequest, Hello, HelloRequest, HelloResponse,
    KeyStatus,
};
use vpn_node_protocol::envelope::{Envelope, EnvelopeError, Payload as _};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::MAX_ENROLMENT_BYTES;

use super::body::{Takes, read};
use super::problem::Problem;
use super::reject::{Rejected, problem_of};
use super::{App, opening, peer_of, signed_envelope};
use crate::clock;
use crate::rules::enrolment::{self, EnrolEnd, Enrolment, Refused, bad, key_status};
use crate::rules::events::EventType;
use crate::rules::state::{ServerStatus, word};

pub(super) async fn hello(State(app): State<Arc<App>>, request: Request) -> Response {
    let peer = peer_of(&request);
    match greet(&app, peer, request).await {
        Ok(response) => Json(response).into_response(),
        Err(problem) => app.unreadable(peer, problem).await.into_response(),
    }
}

async fn greet(app: &App, peer: IpAddr, request: Request) -> Result<HelloResponse, Problem> {
    app.limited(&app.enrolments, peer, "enrolments")?;
    let body = read(request, Takes::Json, MAX_ENROLMENT_BYTES).await?;
    let asked: HelloRequest = serde_json::from_slice(&body).map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_payload",
            "the body is not the greeting of an enrolment",
        )
    })?;
    let stored = app
        .store
        .registration_key(&hex(&asked.registration_key))
        .await?;
    let now_ms = app.now_ms();
    let key_status = key_status(stored.as_ref(), now_ms);
    let server_id = stored.and_then(|key| key.for_server_id);
    presented(app, peer, &asked.registration_key, &key_status).await;
    // Stateless: our own signature on it is what the next request is checked by.
    let hello = Hello {
        registration_key: asked.registration_key,
        client_nonce: asked.client_nonce,
        server_nonce: clock::nonce(),
        controller_time_ms: now_ms,
        key_status,
        server_id,
    };
    Ok(HelloResponse {
        certificate: app.keys.certificate_envelope().clone(),
        hello: app.keys.sign(&hello),
    })
}

/// Hexadecimal digits that name a registration key in an event: enough to find it in the list.
const SHOWN_DIGITS: usize = 8;

/// Records that a key came which can enrol nobody any more. A host stops at this greeting, so
/// nothing else would tell that somebody holds a spent token.
async fn presented(app: &App, peer: IpAddr, key: &PublicKey, status: &KeyStatus) {
    let (event_type, description) = match status {
        KeyStatus::Active | KeyStatus::Unknown => return,
        KeyStatus::Used { .. } => (
            EventType::RegistrationKeyPresentedAgain,
            "a used registration key was presented again: this is nothing if the same host just repeated its enrolment, else somebody holds a copy of its token",
        ),
        KeyStatus::Expired { .. } => (
            EventType::RegistrationKeyPresentedExpired,
            "an expired registration key was presented: somebody kept its token beyond its time; a host that is yours needs a new one",
        ),
        KeyStatus::Revoked => (
            EventType::RegistrationKeyPresentedRevoked,
            "a revoked registration key was presented: somebody still holds the token that an operator took back",
        ),
    };
    let key = hex(key);
    app.reject(Rejected {
        peer,
        about: Some(&format!("{peer} key {}", &key[..SHOWN_DIGITS])),
        event_type,
        description: description.to_owned(),
    })
    .await;
}

pub(super) async fn complete(State(app): State<Arc<App>>, request: Request) -> Response {
    let peer = peer_of(&request);
    match enrol(&app, peer, request).await {
        Ok(Ok(reply)) => signed_envelope(StatusCode::OK, &app.keys.sign(&reply)),
        Ok(Err(unsigned)) => unsigned.into_response(),
        Err(problem) => app.unreadable(peer, problem).await.into_response(),
    }
}

/// The reply, or the unsigned answer to a request that not both keys have signed: anybody on the
/// way can take a signature out, and the host would take a signed "no" for a word about its own
/// request, whose digest is the same.
async fn enrol(
    app: &App,
    peer: IpAddr,
    request: Request,
) -> Result<Result<EnrolReply, Problem>, Problem> {
    app.limited(&app.enrolments, peer, "enrolments")?;
    let body = read(request, Takes::Envelope, MAX_ENROLMENT_BYTES).await?;
    let envelope =
        Envelope::parse(&body, MAX_ENROLMENT_BYTES).map_err(|error| problem_of(&error))?;
    // Peeked only to learn the two keys that must then both verify it.
    let peeked: EnrolRequest = envelope.peek().map_err(|error| problem_of(&error))?;
    let now_ms = app.now_ms();
    let outcome = match judge(app, &envelope, peeked, peer, now_ms) {
        Ok(enrolment) => carry_out(app, peer, enrolment).await?,
        Err(NotJudged::Refused(refused)) => refuse(app, peer, None, refused).await,
        Err(NotJudged::Unsigned(error)) => {
            refuse(app, peer, None, bad(&error.to_string())).await;
            return Ok(Err(problem_of(&error)));
        }
    };
    Ok(Ok(EnrolReply {
        request_digest: envelope.digest(),
        controller_time_ms: now_ms,
        outcome,
    }))
}

/// Why an enrolment ends before the token is looked at.
enum NotJudged {
    /// Both keys have signed it, and it cannot be accepted; or it is none of a greeting of ours.
    Refused(Refused),
    /// A signature is missing, or does not hold.
    Unsigned(EnvelopeError),
}

impl From<Refused> for NotJudged {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// Everything that can be judged before the token is looked at.
fn judge(
    app: &App,
    envelope: &Envelope,
    request: EnrolRequest,
    peer: IpAddr,
    now_ms: i64,
) -> Result<Enrolment, NotJudged> {
    let hello: Option<Hello> = app.keys.open_own(&request.hello);
    let root = &app.keys.certificate().root;
    let registration = enrolment::check_hello(hello.as_ref(), &request, root, now_ms)?;
    let identity = request.identity_key;
    for key in [&registration, &identity] {
        envelope
            .verify(EnrolRequest::TYPE, key)
            .map_err(NotJudged::Unsigned)?;
    }
    enrolment::check_fields(&request)?;
    let components = opening::hardware(&app.keys, &request.hardware, &identity.id())
        .map_err(|error| bad(&error))?;
    enrolment::check_hardware(&components, &request.verification_hash)?;
    Ok(Enrolment {
        registration_key: hex(&registration),
        identity,
        server_id: clock::uuid_v7(now_ms).to_string(),
        status: if app.auto_approve {
            ServerStatus::Active
        } else {
            ServerStatus::Pending
        },
        nonce: clock::nonce(),
        log_id: clock::uuid_v7(now_ms),
        request,
        components,
        peer_ip: peer.to_string(),
        now_ms,
    })
}

async fn carry_out(app: &App, peer: IpAddr, enrolment: Enrolment) -> Result<EnrolOutcome, Problem> {
    let warnings = enrolment::warnings(&enrolment.components);
    let registration_key = enrolment.registration_key.clone();
    match app.store.enrol(enrolment).await? {
        EnrolEnd::Enrolled {
            server_id,
            epoch,
            nonce,
            status,
        } => {
            tracing::info!(server_id, status = word(&status), "a host enrolled");
            Ok(EnrolOutcome::Enrolled {
                server_id,
                epoch,
                nonce,
                status: word(&status),
                warnings,
            })
        }
        EnrolEnd::Refused(refused) => Ok(refuse(app, peer, Some(&registration_key), refused).await),
    }
}

/// Records a refusal, and says it.
async fn refuse(
    app: &App,
    peer: IpAddr,
    registration_key: Option<&str>,
    refused: Refused,
) -> EnrolOutcome {
    let event_type = match refused.code {
        // Somebody else holds a copy of a token.
        EnrolRefusal::TokenUsed => EventType::RegistrationKeyReuse,
        EnrolRefusal::TokenRevoked => EventType::RegistrationKeyRevokedUsed,
        EnrolRefusal::TokenExpired => EventType::RegistrationKeyExpiredUsed,
        EnrolRefusal::TokenUnknown => EventType::RegistrationKeyUnknown,
        EnrolRefusal::StaleHello | EnrolRefusal::BadRequest => EventType::EnrolmentRefused,
    };
    app.reject(Rejected {
        peer,
        about: registration_key,
        event_type,
        description: refused.message.clone(),
    })
    .await;
    EnrolOutcome::Refused {
        code: refused.code,
        message: refused.message,
    }
}

fn hex(key: &PublicKey) -> String {
    Hex(*key.as_bytes()).to_string()
}
