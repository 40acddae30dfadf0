//! Why there is no connection to charon.

use std::io;
use std::path::Path;

use super::Fault;

/// See the module's page.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// No socket, or nobody behind it.
    #[error("charon does not run")]
    Absent,
    /// The socket is there for others.
    #[error(
        "the agent may not use charon's VICI socket: give the agent's group access to it \
         (see /usr/share/doc/vpn-node-agent/backends.md)"
    )]
    Forbidden,
    /// It changed while it was opened.
    #[error("charon restarts")]
    Restarting,
    /// The kernel refused for another reason.
    #[error("cannot connect to charon: {0}")]
    Connect(io::Error),
    /// It worked, and ended.
    #[error("the connection to charon ended: {0}")]
    Closed(io::Error),
    /// It speaks, but not so.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl LinkError {
    /// What stat(2) and connect(2) say about the socket.
    pub(super) fn from_connect(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ConnectionRefused => Self::Absent,
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            _ => Self::Connect(error),
        }
    }

    /// Whether this says for sure that charon does not run.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// For the operator, with the socket.
    pub(super) fn sentence(&self, vici: &Path) -> String {
        format!("{}: {self}", vici.display())
    }
}
