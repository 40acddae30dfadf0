//! One module a backend behind one trait; each is a pure parser and a thin reader.
//!
//! A backend is polled on a worker thread: it may block, but only for a bounded time. It says
//! what it sees as [`Obs`]; who is connected is decided by [`crate::core::sessions`].

pub mod wireguard;

use crate::core::{
    Now,
    sessions::{BackendId, Obs},
};

/// What one poll saw of one backend, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose observations these are.
    pub backend: BackendId,
    /// Feed them to the reducer in this order.
    pub obs: Vec<Obs>,
}

/// A reader of one kind of VPN software.
pub trait Backend {
    /// Asks all instances once. Blocks for a bounded time (each backend says which), and an
    /// instance that fails neither ends sessions nor keeps the others from being asked.
    /// Reduce the observations at a time read after the poll, since they carry stamps of it.
    fn poll(&mut self, now: Now) -> Vec<Report>;
}
