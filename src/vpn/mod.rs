//! One module a kind of VPN software, behind one trait; each is a pure parser and a thin reader.
//!
//! A [`Backend`] has a thread of its own, so that a daemon that stalls or floods holds up no other
//! kind. It says what it sees as [`Obs`]; who is connected is decided by [`crate::core::sessions`].
//! It ends a session when it is told to ([`Order`]), by the daemon's own means.

mod epoch;
mod health;
mod line;
pub mod ocserv;
pub mod openvpn;
mod stream;
pub mod strongswan;
pub mod wireguard;

pub use line::{Closed, Line, Order, Orders, Tell, Word, line};
pub use stream::{Address, Backoff, MAX_QUEUED_BYTES, Stream};
pub use vpn_node_protocol::message::BackendDetails;

use crate::core::sessions::{BackendId, Obs};

/// What one look saw of one backend, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose observations these are.
    pub backend: BackendId,
    /// Feed them to the reducer in this order, at a time read after the look: they carry stamps
    /// of it.
    pub obs: Vec<Obs>,
    /// What the server offers, when that became known or changed.
    pub details: Option<BackendDetails>,
}

/// A reader of one kind of VPN software, with all its instances on this host.
///
/// An instance that fails neither ends sessions nor keeps the others from being read. What does
/// not exist on this host, and is not named in the configuration, is not reported at all.
pub trait Backend: Send {
    /// Reads until the line is closed.
    fn run(self: Box<Self>, line: Line);
}
