//! What the daemon and the service manager tell each other: signals in, notifications out.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::error::Error;

/// Tells systemd something; without systemd, or when it does not listen, nothing is lost.
pub(super) fn notify(tell: impl FnOnce() -> std::io::Result<()>) {
    if let Err(error) = tell() {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

/// SIGTERM and SIGINT.
pub(super) struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
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
        })
    }

    /// Returns when the daemon is told to stop.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
