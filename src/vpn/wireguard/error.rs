//! Why an interface could not be read, in the operator's words.

use std::{io, path::PathBuf};

use nix::errno::Errno;
use thiserror::Error;

use super::{netlink::NetlinkError, uapi::UapiError};

/// Why one interface, or the list of them, could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The interface or its daemon does not exist any more: its sessions are over.
    #[error("the interface is gone ({0}); it is read again when it is back")]
    Gone(Errno),
    /// The interface is configured down: its sessions are over.
    #[error("the interface is down; `ip link set up` or wg-quick brings it back")]
    Down,
    /// The agent may not ask.
    #[error(
        "permission denied ({0}): kernel interfaces need CAP_NET_ADMIN, which \
         vpn-node-wireguard.service has; daemon sockets need write access to the socket"
    )]
    Denied(Errno),
    /// The daemon did not finish in time.
    #[error(
        "no whole answer within {0} ms: the daemon is overloaded or hangs; restart it if this stays"
    )]
    Deadline(u128),
    /// The daemon's answer was refused.
    #[error("{0}; is another program listening there?")]
    Uapi(#[from] UapiError),
    /// The kernel's answer was refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The WireGuard reader does not answer: nothing is known of the kernel's interfaces.
    #[error(
        "the WireGuard reader at {path} does not answer ({why}); `systemctl status \
         vpn-node-wireguard.socket vpn-node-wireguard.service` says more, and connections are kept \
         until it is back"
    )]
    Reader {
        /// Its socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The WireGuard reader is there, and is of a release that does not fit.
    #[error(
        "the WireGuard reader at {path} speaks another version of the protocol than this agent \
         ({why}); connections are kept until they fit. `systemctl restart \
         vpn-node-wireguard.service` starts the installed reader; if this stays, bring agent and \
         package to one version (`vpn-node update status`)"
    )]
    ReaderVersion {
        /// Its socket.
        path: PathBuf,
        /// Who does not understand whom.
        why: String,
    },
    /// A directory could not be listed.
    #[error("cannot list {path}: {source}; check that the agent may read it")]
    List {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another system call failed.
    #[error("{call} failed: {errno}")]
    Call {
        /// Its name.
        call: &'static str,
        /// Why.
        errno: Errno,
    },
}

impl ReadError {
    /// Sorts an errno of `call` into what it means for the sessions.
    pub(super) fn of(call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENODEV | Errno::ENXIO => Self::Gone(errno),
            Errno::EACCES | Errno::EPERM => Self::Denied(errno),
            errno => Self::Call { call, errno },
        }
    }

    /// Likewise of an answer over netlink.
    pub(super) fn of_netlink(error: NetlinkError) -> Self {
        match error {
            NetlinkError::Kernel(errno) => Self::of("netlink", Errno::from_raw(errno)),
            error => Self::Netlink(error),
        }
    }

    /// Whether the sessions of the interface are over.
    pub(super) fn ends_sessions(&self) -> bool {
        matches!(self, Self::Gone(_) | Self::Down)
    }
}
