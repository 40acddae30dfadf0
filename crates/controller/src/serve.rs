//! The server: sockets, TLS handshakes, connections, shutdown.
//!
//! Each connection is a task of its own: a handshake with a deadline, then HTTP/1.1 with bounded
//! headers. Their number is bounded ([`crate::places`]). Shutdown answers held requests, lets running ones end, and
//! then commits what is queued.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::api::{self, App, Peer};
use crate::clock::{self, Clock};
use crate::config::Config;
use crate::keys::{KeyError, Keys};
use crate::places::{Places, Seat};
use crate::releases::{Tree, keeper};
use crate::rolling;
use crate::store::{self, Store, StoreError, Swept};
use crate::tls::{self, TlsError};

/// A handshake takes two round trips.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// For the headers of a request, and for the idle time before them: longer than two heartbeats.
const HEADER_DEADLINE: Duration = Duration::from_secs(75);
/// Headers of an honest agent have less than 1 KB.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// How long running requests may take to end at shutdown.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);
/// How often connections of refused devices are looked for, and personal keys whose time is over: an
/// end that an operator set to the minute is kept to the minute. One look is a few indexed queries.
const REFUSE_EVERY: Duration = Duration::from_secs(10);
/// A host is no longer available after this many silent heartbeat intervals.
const SILENT_INTERVALS: u32 = 3;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error("cannot listen on {address}: {source}; choose another 'listen' in controller.toml")]
    Listen {
        /// From the configuration.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A controller that serves, inside this process.
pub struct Running {
    /// Where it listens; the port is a real one when the configuration asks for port 0.
    pub addr: SocketAddr,
    store: Arc<dyn Store>,
    stopping: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// The database, for whoever wants to look or to make a token in this process.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Stops: no new connection, running requests end, everything queued is committed.
    pub async fn stop(self) {
        let _ = self.stopping.send(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the accept loop ended badly");
        }
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "the database was not closed cleanly");
        }
    }
}

/// Starts a controller with the system's clock. Its tasks run on the current runtime.
///
/// # Errors
/// [`ServeError`].
pub async fn start(config: Config) -> Result<Running, ServeError> {
    start_with_clock(config, clock::system()).await
}

/// Starts a controller with a clock of the caller's.
///
/// # Errors
/// [`ServeError`].
pub async fn start_with_clock(config: Config, clock: Clock) -> Result<Running, ServeError> {
    let keys = Arc::new(Keys::load(&config.data_dir)?);
    let tls = tls::server_config(&config)?;
    if let Some(fault) = tls::name_fault(&config)? {
        tracing::warn!("{fault}");
    }
    let store = store::open(&config).await?;
    let (stopping, stop) = watch::channel(false);
    let listen = TcpListener::bind(config.listen).await;
    let listener = listen.map_err(|source| ServeError::Listen {
        address: config.listen,
        source,
    })?;
    let addr = listener.local_addr().map_err(|source| ServeError::Listen {
        address: config.listen,
        source,
    })?;
    let app = App::new(
        Arc::clone(&store),
        keys,
        &config,
        Arc::clone(&clock),
        stop.clone(),
    );
    tokio::spawn(api::watch_directives(Arc::clone(&app)));
    tokio::spawn(expire_availability(
        Arc::clone(&store),
        Arc::clone(&clock),
        config.heartbeat_interval_s,
        stop.clone(),
    ));
    tokio::spawn(refuse_holders(
        Arc::clone(&store),
        Arc::clone(&clock),
        config.heartbeat_interval_s,
        stop.clone(),
    ));
    tokio::spawn(rolling::roll(
        Arc::clone(&store),
        Arc::clone(&clock),
        config.heartbeat_interval_s,
        stop.clone(),
    ));
    tokio::spawn(keeper::keep(
        Tree::at(config.releases()),
        Arc::clone(&store),
        clock,
        stop.clone(),
    ));
    let acceptor = TlsAcceptor::from(tls);
    let task = tokio::spawn(accept(listener, acceptor, api::router(app), stop));
    Ok(Running {
        addr,
        store,
        stopping,
        task,
    })
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let places = Places::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api::stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((socket, peer)) => {
                let Some(seat) = places.take(peer.ip()) else {
                    continue;
                };
                let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    let seat = Arc::new(seat);
                    tokio::select! {
                        () = serve_one(socket, peer, tls, router, stop, &seat) => {}
                        () = seat.overstayed() => {
                            tracing::debug!(%peer, "a connection that proved nothing was ended");
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted (out of file descriptors?)");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_DEADLINE, all).await.is_err() {
        tracing::warn!("some requests did not end in time; their hosts will ask again");
    }
}

async fn serve_one(
    socket: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    router: Router,
    mut stop: watch::Receiver<bool>,
    seat: &Arc<Seat>,
) {
    let _ = socket.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_DEADLINE, tls.accept(socket));
    let stream = tokio::select! {
        done = handshake => match done {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        },
        () = api::stopped(&mut stop) => return,
    };
    let routes = TowerToHyperService::new(router);
    let seat = Arc::clone(seat);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        request.extensions_mut().insert(Arc::clone(&seat));
        let answer = routes.call(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = api::stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended badly");
    }
}

/// Whoever is refused does not stay connected: also after an outage of the host, and when the end of
/// a personal key comes.
async fn refuse_holders(
    store: Arc<dyn Store>,
    clock: Clock,
    interval_s: u32,
    mut stop: watch::Receiver<bool>,
) {
    let heard_ms = silent_ms(interval_s);
    loop {
        tokio::select! {
            () = tokio::time::sleep(REFUSE_EVERY) => {}
            () = api::stopped(&mut stop) => return,
        }
        let now_ms = clock();
        match store.refuse_holders(now_ms, now_ms - heard_ms).await {
            Ok(Swept {
                expired: 0,
                asked: 0,
            }) => {}
            Ok(Swept { expired, asked }) => {
                tracing::info!(
                    expired,
                    asked,
                    "personal keys are over, or refused devices connected"
                );
            }
            Err(error) => tracing::warn!(%error, "refused devices could not be looked for"),
        }
    }
}

/// After this time without a heartbeat, in milliseconds, a host counts as silent.
fn silent_ms(interval_s: u32) -> i64 {
    i64::from(interval_s) * i64::from(SILENT_INTERVALS) * 1000
}

/// `servers.available` ends when heartbeats do.
async fn expire_availability(
    store: Arc<dyn Store>,
    clock: Clock,
    interval_s: u32,
    mut stop: watch::Receiver<bool>,
) {
    let silent_ms = silent_ms(interval_s);
    let pause = Duration::from_secs(interval_s.into());
    let mut looks = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = api::stopped(&mut stop) => return,
        }
        // After a start every host gets the time to be heard first.
        looks += 1;
        if looks < SILENT_INTERVALS {
            continue;
        }
        match store.expire_availability(clock() - silent_ms).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "hosts fell silent and are no longer available"),
            Err(error) => tracing::warn!(%error, "silent hosts could not be marked"),
        }
        if let Err(error) = store.expire_grace(clock()).await {
            tracing::warn!(%error, "grace periods that are over could not be marked");
        }
    }
}
