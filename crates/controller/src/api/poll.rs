//! `/v1/poll`: the long-lived directive request.
//!
//! Held requests wait in a bounded map, one for each server. One task asks the database every
//! [`LOOK_EVERY`] whether something waits for anybody, with a single indexed query, because the
//! operator's commands are other processes; what it finds wakes the held requests.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;
use vpn_node_protocol::envelope::EnvelopeError;
use vpn_node_protocol::limits::MAX_POLL_WAIT_S;
use vpn_node_protocol::message::{Poll, PollReply, RefusalCode};

use super::body::{Takes, read};
use super::messages::{identify, refusal};
use super::problem::Problem;
use super::reject::{Rejected, problem_of};
use super::{App, peer_of, respond, seat_of, stopped};
use crate::places::Seat;
use crate::rules::effect::Severity;
use crate::rules::heartbeat::to_wire;
use crate::rules::state::ServerStatus;
use crate::store::KnownServer;

/// A poll has a dozen short fields.
const MAX_POLL_BYTES: usize = 16 * 1024;
/// How soon a directive of another process is noticed: `server verify` is to be answered within a
/// second. One look is one indexed query for all hosts, 46 µs of CPU time in a debug build: ten a
/// second are half a thousandth of a core, and none while no poll is held.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Polls of one server whose ids are remembered: as many as an agent sends while the nonces of two
/// heartbeats are good.
const REMEMBERED: usize = 32;

/// Held requests by server, which the connection limit bounds, and the ids of the newest polls.
#[derive(Default)]
pub(super) struct Polls {
    held: Mutex<HashMap<String, Arc<Notify>>>,
    seen: Mutex<HashMap<String, VecDeque<Uuid>>>,
}

/// A place in [`Polls`], given up when the request ends in whatever way.
struct Held<'a> {
    polls: &'a Polls,
    server_id: &'a str,
    wake: Arc<Notify>,
}

impl Polls {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a poll is new, and not a recorded one that is sent again.
    fn is_new(&self, server_id: &str, request_id: Uuid) -> bool {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(server_id.to_owned()).or_default();
        if seen.contains(&request_id) {
            return false;
        }
        if seen.len() >= REMEMBERED {
            seen.pop_front();
        }
        seen.push_back(request_id);
        true
    }

    /// Holds a request; an older one of the same server is answered at once.
    fn hold<'a>(&'a self, server_id: &'a str) -> Held<'a> {
        let wake = Arc::new(Notify::new());
        let older = self.lock().insert(server_id.to_owned(), Arc::clone(&wake));
        if let Some(older) = older {
            older.notify_one();
        }
        Held {
            polls: self,
            server_id,
            wake,
        }
    }

    fn wake(&self, server_id: &str) {
        if let Some(wake) = self.lock().get(server_id) {
            wake.notify_one();
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

impl Held<'_> {
    fn is_newest(&self) -> bool {
        let held = self.polls.lock();
        held.get(self.server_id)
            .is_some_and(|newest| Arc::ptr_eq(newest, &self.wake))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = self.polls.lock();
        let mine = |newest: &Arc<Notify>| Arc::ptr_eq(newest, &self.wake);
        if held.get(self.server_id).is_some_and(mine) {
            held.remove(self.server_id);
        }
    }
}

/// Wakes held requests for which something waits, until the controller stops.
pub async fn watch_directives(app: Arc<App>) {
    let mut stopping = app.stopping.clone();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stopped(&mut stopping) => return,
        }
        if app.polls.is_empty() {
            continue;
        }
        match app.store.servers_with_directives().await {
            Ok(servers) => servers.iter().for_each(|id| app.polls.wake(id)),
            Err(error) => tracing::warn!(%error, "waiting directives could not be looked up"),
        }
    }
}

pub(super) async fn post(State(app): State<Arc<App>>, request: Request) -> Response {
    let (peer, seat) = (peer_of(&request), seat_of(&request));
    let body = match read(request, Takes::Envelope, MAX_POLL_BYTES).await {
        Ok(body) => body,
        Err(problem) => return app.unreadable(peer, problem).await.into_response(),
    };
    respond(answer(&app, peer, seat.as_deref(), &body).await)
}

async fn answer(
    app: &App,
    peer: IpAddr,
    seat: Option<&Seat>,
    body: &[u8],
) -> Result<(u16, Vec<u8>), Problem> {
    let (server, envelope) = identify(app, peer, body, MAX_POLL_BYTES).await?;
    let poll: Poll = match envelope.open(&server.identity) {
        Ok(poll) => poll,
        Err(error) => return Err(unverified(app, peer, &server, &error).await),
    };
    if let Some(seat) = seat {
        seat.prove(&server.server_id);
    }
    let digest = envelope.digest();
    let no = |code, why| Ok(refusal(&app.keys, digest, app.now_ms(), code, why));
    match server.status {
        ServerStatus::Revoked => return no(RefusalCode::Revoked, "this server was revoked"),
        ServerStatus::Quarantined => {
            return no(RefusalCode::Quarantined, "this server is quarantined");
        }
        ServerStatus::Pending | ServerStatus::Active => {}
    }
    if poll.server_id != server.server_id || poll.epoch != server.epoch {
        return no(
            RefusalCode::BadRequest,
            "the poll names another server or key epoch",
        );
    }
    if poll.nonce != server.nonce && Some(poll.nonce) != server.previous_nonce {
        app.reject(Rejected {
            peer,
            about: Some(&server.server_id),
            event_type: "stale_poll",
            severity: Severity::Low,
            description: "a poll repeats neither of the last two nonces".to_owned(),
        })
        .await;
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "stale_nonce",
            "the poll repeats neither of the last two nonces: poll again after the next reply",
        ));
    }
    if !app.polls.is_new(&server.server_id, poll.request_id) {
        app.reject(Rejected {
            peer,
            about: Some(&server.server_id),
            event_type: "replayed_poll",
            severity: Severity::Medium,
            description: "a poll came a second time: recorded traffic".to_owned(),
        })
        .await;
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "replayed",
            "this poll was answered before: every poll has an id of its own",
        ));
    }
    let wait = Duration::from_secs(poll.wait_s.min(MAX_POLL_WAIT_S).into());
    let directives = hold(app, &server.server_id, Instant::now() + wait).await?;
    let reply = PollReply {
        request_digest: digest,
        controller_time_ms: app.now_ms(),
        directives: directives
            .iter()
            .map(|directive| {
                app.keys
                    .sign(&to_wire(directive, &server.server_id, server.epoch))
            })
            .collect(),
    };
    Ok((200, app.keys.sign(&reply).to_json()))
}

/// Waits for something to hand out. Nothing is written for a wait that ends empty.
async fn hold(
    app: &App,
    server_id: &str,
    until: Instant,
) -> Result<Vec<crate::rules::state::OpenDirective>, Problem> {
    let held = app.polls.hold(server_id);
    let mut stopping = app.stopping.clone();
    loop {
        tokio::select! {
            () = held.wake.notified() => {}
            () = tokio::time::sleep_until(until) => return Ok(vec![]),
            () = stopped(&mut stopping) => return Ok(vec![]),
        }
        if !held.is_newest() {
            return Ok(vec![]);
        }
        let directives = app.store.take_directives(server_id, app.now_ms()).await?;
        if !directives.is_empty() {
            return Ok(directives);
        }
    }
}

async fn unverified(
    app: &App,
    peer: IpAddr,
    server: &KnownServer,
    error: &EnvelopeError,
) -> Problem {
    app.reject(Rejected {
        peer,
        about: Some(&server.server_id),
        event_type: match error {
            EnvelopeError::BadSignature { .. } => "bad_signature",
            EnvelopeError::WrongType { .. } => "wrong_type",
            _ => "bad_payload",
        },
        severity: Severity::Medium,
        description: error.to_string(),
    })
    .await;
    problem_of(error)
}
