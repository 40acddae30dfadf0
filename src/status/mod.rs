//! The status socket: how people and monitors on this host ask the agent how it is.
//!
//! One request line, one answer line, both JSON. Everyone may connect; the kernel tells who did
//! (`SO_PEERCRED`, unix(7)), and [`Policy`] decides how much that user sees: the report for root,
//! the agent's own user and the group `vpn-node`, the public summary for everybody else.
//! Two requests change something, and only root and the agent's own user may send them: [`Wish`].

mod client;
mod policy;
mod server;
mod socket;
mod wire;

pub use client::{Client, ClientError, Status};
pub use policy::{GROUP, Peer, Policy, Scope};
pub use server::{Limits, Wish, serve};
pub use socket::{SocketError, StatusSocket};
pub use wire::{ApplyAnswer, HealthAnswer, RotationAnswer};

#[cfg(test)]
mod tests;
