//! # The controller of a vpn-node fleet
//!
//! One program: `serve` answers the agents, the other commands are the operator's. Arrows point
//! down only; [`rules`] is pure and decides, everything else carries out.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | arguments, then text or JSON |
//! | [`serve`], `places` | sockets, TLS handshakes, shutdown; who may hold how many connections |
//! | [`api`] | HTTP: size, signature, dispatch, signed answers |
//! | [`setup`], [`registration`], [`personal_key`] | what `init`, `registration-key create` and `personal-key create` make |
//! | [`verification`], [`disconnection`] | challenging a host now; waiting for connections that are to be ended |
//! | [`rolling`] | the scheduler of rollouts, once a second |
//! | [`rules`] | PURE: enrolment, chain, copies, verification, connection records, devices, rollouts |
//! | [`store`] | the tables behind one trait; SQLite is the default |
//! | [`releases`] | signed releases: the repository, its keys, what becomes public when |
//! | [`keys`], [`tls`], [`config`] | what stands in the data directory |
//! | `secrecy` | no core dump of a process that holds keys |
//!
//! Reading order: [`rules::chain`], [`rules::exchange`], [`store`], [`api`].

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disconnection;
pub mod keys;
pub mod personal_key;
mod places;
pub mod registration;
pub mod releases;
pub mod rolling;
pub mod rules;
mod secrecy;
pub mod serve;
pub mod setup;
pub mod store;
pub mod tls;
pub mod verification;
