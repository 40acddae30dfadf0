//! The WireGuard reader: a small process that alone may ask the kernel about WireGuard, and the
//! agent's side of it.
//!
//! The kernel tells peers, and takes them out, for CAP_NET_ADMIN only: a right to change any
//! interface, route and firewall of the host. So `vpn-node-wireguard` has it, and the agent, which
//! speaks with the network, has not. It can do three things ([`wire`]): list interfaces, dump one
//! without its keys ([`scrub`]), take peers out of one. Reading order: `wire`, `scrub`,
//! [`server`], [`client`].

pub(super) mod client;
pub(super) mod scrub;
mod server;
pub mod wire;

pub use super::nl_socket::Datagrams;
pub use server::{Asked, IDLE_LIMIT, Server, ServerError, check};
