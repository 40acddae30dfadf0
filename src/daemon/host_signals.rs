//! What the daemon and the service manager tell each other: signals in, notifications out.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::Error;

/// Tells systemd something; without systemd, or when it does not listen, nothing is lost.
pub(super) fn notify(tell: impl FnOnce() -> std::io::Result<()>) {
    if let Err(error) = tell() {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that the daemon listens to.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Error> {
        let on = |kind| {
            signal(kind).map_err(|source| Error::System {
                doing: "watch for signals",
                source,
            })
        };
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
            hup: on(SignalKind::hangup())?,
        })
    }

    /// What the daemon is asked for next.
    pub(super) async fn next(&mut self) -> Ask {
        tokio::select! {
            _ = self.term.recv() => Ask::Stop,
            _ = self.int.recv() => Ask::Stop,
            _ = self.hup.recv() => Ask::Reload,
        }
    }

    /// Returns when the daemon is told to stop; it does not reload meanwhile.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Ask::Stop {}
    }
}
