//! What can be wrong with one OpenVPN server's interfaces, in the operator's words.

use std::path::PathBuf;

use thiserror::Error;

/// Why a management interface or a status file could not be read. Names no client.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Nobody listens.
    #[error("nobody listens on the management interface: the daemon does not run ({0})")]
    Down(String),
    /// It could not be connected to for another reason.
    #[error(
        "cannot connect to the management interface: {0}; the user vpn-node must be able to reach it, \
         its folder included (/run/openvpn-server is root's alone, /run/openvpn is not)"
    )]
    Connect(String),
    /// It accepted, and said nothing.
    #[error(
        "the management interface does not answer: another program holds it (it serves one at a \
         time); the status file is read instead, if there is one"
    )]
    Taken,
    /// The connection broke or was closed.
    #[error("the management interface closed the connection: {0}")]
    Broken(String),
    /// Asked, and not answered in time.
    #[error("the daemon did not answer {0:?} in time: it is overloaded or hangs")]
    Silent(&'static str),
    /// A line that no OpenVPN prints.
    #[error(
        "the management interface sent a line longer than any of OpenVPN's; is another program listening there?"
    )]
    LongLine,
    /// Something that does not belong into the protocol, or not there.
    #[error(
        "the management interface did not keep to the protocol at {0:?}; is another program listening there?"
    )]
    Garbage(&'static str),
    /// More clients than are read.
    #[error("the daemon lists more clients than this agent reads from one server")]
    TooMuch,
    /// Not a server.
    #[error("this OpenVPN is no server: take it out of [openvpn] management")]
    NoServer,
    /// It wants a password and none is configured.
    #[error(
        "the management interface asks for a password: name the file with it as [openvpn] password_file"
    )]
    PasswordWanted,
    /// It does not take the one that is configured.
    #[error("the management interface refuses the password: check [openvpn] password_file")]
    PasswordRefused,
    /// The password file cannot be read.
    #[error(
        "cannot read the management password from {path:?}: {why}; the user vpn-node must be able to"
    )]
    PasswordFile {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another program must talk to this daemon, or clients could not connect.
    #[error(
        "the server leaves {0} to its management client, which the agent must not be; it reads \
         the status file instead"
    )]
    Claimed(&'static str),
    /// The status file cannot be read.
    #[error(
        "cannot read the status file {path:?}: {why}; let the user vpn-node read it, or give the server a `management` line with a socket that vpn-node can reach"
    )]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// There is no status file.
    #[error("there is no status file {0:?}: the daemon does not run, or writes another one")]
    NoFile(PathBuf),
    /// The status file has another content.
    #[error("{0:?} is no status file of an OpenVPN server")]
    NoStatus(PathBuf),
    /// The status file does not change any more.
    #[error("the status file {0:?} has not changed for minutes: the daemon is down or hangs")]
    Stale(PathBuf),
}

impl Fault {
    /// Whether trying again soon can change nothing: somebody must act first.
    pub(super) fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::NoServer
                | Self::PasswordWanted
                | Self::PasswordRefused
                | Self::PasswordFile { .. }
                | Self::Claimed(_)
        )
    }

    /// Whether it only says that no daemon runs, as on a host where OpenVPN is not in use.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Down(_) | Self::NoFile(_) | Self::Stale(_))
    }

    /// Whether the server is read all the same.
    pub(super) fn is_mild(&self) -> bool {
        matches!(self, Self::Taken | Self::Claimed(_))
    }
}
