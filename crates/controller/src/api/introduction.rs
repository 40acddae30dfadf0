//! `/v1/introduction`: a host whose newest key this controller lost with its memory.
//!
//! Whoever asks may be anybody, so it costs him as much as an enrolment, and the walk through the
//! rotations begins with one signature of the key that is current here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::envelope::{Envelope, EnvelopeError};
use vpn_node_protocol::identity::{Introduction, IntroductionReply};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{MAX_REQUEST_BYTES, MAX_ROTATIONS, is_short_text};

use super::body::{Takes, read};
use super::messages::refusal;
use super::problem::Problem;
use super::reject::{Rejected, problem_of};
use super::{App, peer_of, respond, seat_of};
use crate::places::Seat;
use crate::rules::events::EventType;
use crate::rules::introduction::{Introduced, event, signer, walk};
use crate::store::KnownServer;

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (peer, seat) = (peer_of(&request), seat_of(&request));
    if let Err(problem) = app.limited(&app.introductions, peer, "introductions") {
        return problem.into_response();
    }
    let body = match read(request, Takes::Envelope, MAX_REQUEST_BYTES).await {
        Ok(body) => body,
        Err(problem) => return app.unreadable(peer, problem).await.into_response(),
    };
    respond(answer(&app, peer, seat.as_deref(), &body).await)
}

async fn answer(
    app: &App,
    peer: IpAddr,
    seat: Option<&Seat>,
    body: &Bytes,
) -> Result<(u16, Vec<u8>), Problem> {
    let (envelope, introduction) = match parse(body) {
        Ok(parsed) => parsed,
        Err(error) => return Err(app.unreadable(peer, problem_of(&error)).await),
    };
    let digest = envelope.digest();
    let newest = match signer(&envelope, &introduction) {
        Ok(newest) => newest,
        Err(why) => return Err(unsigned(app, peer, why).await),
    };
    // A key that is known already needs no proof, and a retired one has none.
    if let Some(server) = app.store.server_by_key(newest.id()).await? {
        if server.server_id != introduction.server_id || server.epoch != introduction.epoch {
            return Ok(unknown(app, peer, digest, &introduction.server_id).await);
        }
        return Ok(told(app, peer, seat, digest, &server).await);
    }
    let current = app.store.server_by_id(&introduction.server_id).await?;
    let proven = current.and_then(|server| {
        prove(app, peer, &introduction, &newest, &server).map(|proven| (server, proven))
    });
    let Some((server, introduced)) = proven else {
        return Ok(unknown(app, peer, digest, &introduction.server_id).await);
    };
    if let Some((code, why)) = app.standing_refusal(peer, &server).await {
        return Ok(refusal(&app.keys, digest, app.now_ms(), code, why));
    }
    if !app.store.introduce(introduced).await? {
        return Ok(unknown(app, peer, digest, &server.server_id).await);
    }
    Ok(told(app, peer, seat, digest, &server).await)
}

fn parse(body: &[u8]) -> Result<(Envelope, Introduction), EnvelopeError> {
    let envelope = Envelope::parse(body, MAX_REQUEST_BYTES)?;
    // Peeked to learn the key that must have signed it.
    let introduction: Introduction = envelope.peek()?;
    if introduction.rotations.len() > MAX_ROTATIONS {
        return Err(EnvelopeError::BadPayload(format!(
            "{} rotations; at most {MAX_ROTATIONS} are looked at",
            introduction.rotations.len()
        )));
    }
    // Quoted in an event.
    if !is_short_text(&introduction.server_id) {
        return Err(EnvelopeError::BadPayload(
            "server_id is too long, or holds control characters".to_owned(),
        ));
    }
    Ok((envelope, introduction))
}

fn prove(
    app: &App,
    peer: IpAddr,
    introduction: &Introduction,
    newest: &PublicKey,
    server: &KnownServer,
) -> Option<Introduced> {
    let open_reply = |envelope: &Envelope| app.keys.open_own(envelope);
    let current = (server.identity, server.epoch);
    let mut links = walk(introduction, current, newest, &open_reply)?;
    let newest = links.pop()?;
    Some(Introduced {
        event: event(&server.server_id, &newest, &peer.to_string(), app.now_ms()),
        server_id: server.server_id.clone(),
        current: server.identity,
        between: links,
        newest,
    })
}

/// The answer to a host that is known, or is now.
async fn told(
    app: &App,
    peer: IpAddr,
    seat: Option<&Seat>,
    digest: Digest,
    server: &KnownServer,
) -> (u16, Vec<u8>) {
    if let Some(seat) = seat {
        seat.prove(&server.server_id);
    }
    match app.standing_refusal(peer, server).await {
        Some((code, why)) => refusal(&app.keys, digest, app.now_ms(), code, why),
        None => reply(app, digest, true),
    }
}

async fn unknown(app: &App, peer: IpAddr, digest: Digest, server_id: &str) -> (u16, Vec<u8>) {
    app.reject(Rejected {
        peer,
        about: None,
        event_type: EventType::IntroductionRefused,
        description: format!(
            "an introduction in the name of server {server_id:?} does not lead from its current key to the one that signed"
        ),
    })
    .await;
    reply(app, digest, false)
}

fn reply(app: &App, request_digest: Digest, known: bool) -> (u16, Vec<u8>) {
    let reply = IntroductionReply {
        request_digest,
        controller_time_ms: app.now_ms(),
        known,
    };
    (200, app.keys.sign(&reply).to_json())
}

/// The newest key that it names has not signed it: nobody's word.
async fn unsigned(app: &App, peer: IpAddr, why: String) -> Problem {
    app.reject(Rejected {
        peer,
        about: None,
        event_type: EventType::IntroductionRefused,
        description: why.clone(),
    })
    .await;
    Problem::new(StatusCode::UNAUTHORIZED, "bad_signature", why)
}
