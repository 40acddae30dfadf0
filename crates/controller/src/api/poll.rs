//! `/v1/poll`: the long-lived directive request.
//!
//! Held requests wait in a bounded map, one for each server. One task asks the database every
//! [`LOOK_EVERY`] whether something waits for anybody, or somebody was stopped, with a single
//! indexed query, because the operator's commands are other processes; what it finds wakes the held
//! requests.

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
use super::messages::refusal;
use super::problem::Problem;
use super::reject::Rejected;
use super::signer::{self, Signed, identify};
use super::{App, peer_of, respond, seat_of, stopped};
use crate::places::Seat;
use crate::rules::events::EventType;
use crate::rules::exchange::{QUARANTINED, REVOKED};
use crate::rules::heartbeat::to_wire;
use crate::rules::state::{KeyRole, OpenDirective, ServerStatus};
use crate::store::KnownServer;

/// A poll has a dozen short fields.
const MAX_POLL_BYTES: usize = 16 * 1024;
/// How soon a directive of another process is noticed, and that a server was stopped by one:
/// `server verify` is to be answered within a second. One look is one indexed query for all hosts,
/// some 50 µs of CPU time in a debug build, however many servers were revoked long ago: ten a
/// second are half a thousandth of a core, and none while no poll is held.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For how long a server counts as stopped lately, in milliseconds. Its held request is from before
/// that: a later one is refused at once. A hundred looks are enough to find it.
const STOPPED_LATELY_MS: i64 = 10_000;

/// Polls of one server whose ids are remembered: more than an agent sends while the nonces of two
/// heartbeats are good. Polls are two seconds apart, but for those that follow an acknowledgement.
const REMEMBERED: usize = 128;

/// Held requests by server, which the connection limit bounds, and the ids of the newest polls.
#[derive(Default)]
pub(super) struct Polls {
    held: Mutex<HashMap<String, Arc<Notify>>>,
    seen: Mutex<HashMap<String, VecDeque<Uuid>>>,
}

/// A place in [`Polls`], given up when the request ends in whatever way.
struct Place<'a> {
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
    fn hold<'a>(&'a self, server_id: &'a str) -> Place<'a> {
        let wake = Arc::new(Notify::new());
        let older = self.lock().insert(server_id.to_owned(), Arc::clone(&wake));
        if let Some(older) = older {
            older.notify_one();
        }
        Place {
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

impl Place<'_> {
    fn is_newest(&self) -> bool {
        let held = self.polls.lock();
        held.get(self.server_id)
            .is_some_and(|newest| Arc::ptr_eq(newest, &self.wake))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = self.polls.lock();
        let mine = |newest: &Arc<Notify>| Arc::ptr_eq(newest, &self.wake);
        if held.get(self.server_id).is_some_and(mine) {
            held.remove(self.server_id);
        }
    }
}

impl App {
    /// How many polls are held now.
    #[must_use]
    pub fn held_polls(&self) -> usize {
        self.polls.lock().len()
    }
}

/// Wakes held requests that are to be answered, until the controller stops.
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
        let now_ms = app.now_ms();
        let since_ms = now_ms.saturating_sub(STOPPED_LATELY_MS);
        match app.store.servers_to_wake(now_ms, since_ms).await {
            Ok(servers) => servers.iter().for_each(|id| app.polls.wake(id)),
            Err(error) => {
                tracing::warn!(%error, "what waits for held requests could not be looked up")
            }
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
    let (signers, envelope) = identify(app, peer, body, MAX_POLL_BYTES).await?;
    let named = |poll: &Poll| (poll.server_id.clone(), poll.epoch);
    let (server, poll) = match signer::open(&signers, &envelope, named) {
        Signed::Own(server, poll) => (server, poll),
        Signed::Another(server) => return Err(app.in_anothers_name(peer, &server).await),
        Signed::Unparsable(server, why) => {
            let error = EnvelopeError::BadPayload(why);
            return Err(app.unverified(peer, &server.server_id, &error).await.0);
        }
        Signed::Unverified(server, error) => {
            return Err(app.unverified(peer, &server.server_id, &error).await.0);
        }
    };
    if let Some(seat) = seat {
        seat.prove(&server.server_id);
    }
    let digest = envelope.digest();
    if let Some((code, why)) = app.standing_refusal(peer, &server).await {
        return Ok(refusal(&app.keys, digest, app.now_ms(), code, why));
    }
    if poll.nonce != server.nonce && Some(poll.nonce) != server.previous_nonce {
        app.reject(Rejected {
            peer,
            about: Some(&server.server_id),
            event_type: EventType::StalePoll,
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
            event_type: EventType::ReplayedPoll,
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
    let directives = match hold(app, &server, Instant::now() + wait).await? {
        Held::Directives(directives) => directives,
        Held::Stopped(code, why) => {
            return Ok(refusal(&app.keys, digest, app.now_ms(), code, why));
        }
    };
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

/// How a held request ends.
enum Held {
    /// What is handed out; nothing when the wait was over.
    Directives(Vec<OpenDirective>),
    /// The server was stopped meanwhile.
    Stopped(RefusalCode, &'static str),
}

/// Waits for something to hand out. Nothing is written for a wait that ends empty.
async fn hold(app: &App, server: &KnownServer, until: Instant) -> Result<Held, Problem> {
    let nothing = || Ok(Held::Directives(vec![]));
    let held = app.polls.hold(&server.server_id);
    let mut stopping = app.stopping.clone();
    loop {
        let over = tokio::select! {
            () = held.wake.notified() => false,
            () = tokio::time::sleep_until(until) => true,
            () = stopped(&mut stopping) => return nothing(),
        };
        // As it is when the answer goes out, not as it was when the request came.
        let Some(now) = app.store.server_by_key(server.identity.id()).await? else {
            return nothing();
        };
        match now.status {
            ServerStatus::Revoked => return Ok(Held::Stopped(RefusalCode::Revoked, REVOKED)),
            ServerStatus::Quarantined => {
                return Ok(Held::Stopped(RefusalCode::Quarantined, QUARANTINED));
            }
            ServerStatus::Pending | ServerStatus::Active => {}
        }
        // Replaced while its request was held, which was right when it came: nothing is handed out
        // to it, and it is no misuse.
        if over || !held.is_newest() || now.role == KeyRole::Retired {
            return nothing();
        }
        let directives = app
            .store
            .take_directives(&server.server_id, app.now_ms())
            .await?;
        if !directives.is_empty() {
            return Ok(Held::Directives(directives));
        }
    }
}
