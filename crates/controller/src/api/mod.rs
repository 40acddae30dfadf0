//! HTTP: size, signature, dispatch, signed answers. Handlers are thin; [`crate::rules`] decides.
//!
//! A request that does not verify changes no state. It leaves a security event, at most one a
//! minute for each kind and source; how many more there were stands in the next one.

mod body;
mod enrol;
mod introduction;
mod limiter;
mod messages;
mod opening;
mod poll;
mod problem;
mod reject;
mod releases;
mod signer;
mod witness;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::watch;
use vpn_node_protocol::envelope::{CONTENT_TYPE, Envelope};

use self::problem::Problem;
use crate::clock::Clock;
use crate::config::Config;
use crate::keys::Keys;
use crate::places::Seat;
use crate::releases::Tree;
use crate::rules::state::Policy;
use crate::store::Store;

use limiter::{EventLimiter, RateLimiter};
use poll::Polls;
pub use poll::watch_directives;

/// Who is at the other end of a connection; the accept loop puts it into every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// What handlers share.
pub struct App {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    policy: Policy,
    auto_approve: bool,
    clock: Clock,
    events: EventLimiter,
    enrolments: RateLimiter,
    introductions: RateLimiter,
    polls: Polls,
    releases: Tree,
    stopping: watch::Receiver<bool>,
}

impl App {
    /// Puts the parts together. `stopping` turns true when held requests must be answered.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        keys: Arc<Keys>,
        config: &Config,
        clock: Clock,
        stopping: watch::Receiver<bool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            keys,
            policy: Policy {
                heartbeat_interval_s: config.heartbeat_interval_s,
                lease_s: config.lease_s,
                verification_interval_s: config.verification_interval_s,
            },
            auto_approve: config.auto_approve,
            clock,
            events: EventLimiter::default(),
            enrolments: RateLimiter::default(),
            introductions: RateLimiter::default(),
            polls: Polls::default(),
            releases: Tree::at(config.releases()),
            stopping,
        })
    }

    fn now_ms(&self) -> i64 {
        (self.clock)()
    }
}

/// The routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/enrol/hello", post(enrol::hello))
        .route("/v1/enrol/complete", post(enrol::complete))
        .route("/v1/messages", post(messages::post))
        .route("/v1/poll", post(poll::post))
        .route("/v1/introduction", post(introduction::post))
        .route("/v1/certificate", get(certificate))
        .route("/v1/releases/metadata/{name}", get(releases::metadata))
        .route("/v1/releases/targets/{*path}", get(releases::target))
        .route("/v1/health", get(|| async { "ok" }))
        .with_state(app)
}

async fn certificate(State(app): State<Arc<App>>) -> Response {
    signed(StatusCode::OK, app.keys.certificate_envelope().to_json())
}

/// A signed answer.
fn signed(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response()
}

/// What a handler of signed requests came to: a signed answer with its status, or a problem.
fn respond(answer: Result<(u16, Vec<u8>), Problem>) -> Response {
    match answer {
        Ok((status, body)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
            signed(status, body)
        }
        Err(problem) => problem.into_response(),
    }
}

fn signed_envelope(status: StatusCode, envelope: &Envelope) -> Response {
    signed(status, envelope.to_json())
}

fn peer_of(request: &Request) -> IpAddr {
    let unknown = Peer(IpAddr::from([0, 0, 0, 0]));
    let Peer(address) = *request.extensions().get::<Peer>().unwrap_or(&unknown);
    // An IPv4 host on a dual-stack socket is shown as what it is.
    address.to_canonical()
}

/// The place of the connection that a request came on.
fn seat_of(request: &Request) -> Option<Arc<Seat>> {
    request.extensions().get().cloned()
}

/// Waits until the controller stops; also when whoever would say so is gone.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}
