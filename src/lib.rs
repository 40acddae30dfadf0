//! # vpn-node: the agent of a VPN host
//!
//! This page is the map. Arrows point down only; `tests/it/architecture.rs` holds them there.
//!
//! | layer | what it is | may use |
//! |---|---|---|
//! | `src/bin/*` | a few lines each: arguments, exit code | `daemon`, `cli` |
//! | [`daemon`] | the wiring and the one event loop | everything below |
//! | [`cli`] | arguments, then rendering (text, json) | `config`, `status`, `remote`, `host` |
//! | [`vpn`] | one module a backend: a pure parser and a thin reader | `core`, `host::{clock, bounded}` |
//! | [`host`] | what is read and kept on this machine | `core` |
//! | [`ledger`] | the durable connection ledger | `host::atomic` |
//! | [`remote`] | the client of the controller, the download of releases | `core`, `host::{state, atomic, bounded, clock}` |
//! | [`status`] | the socket that serves the report: server and client | `core`, `host::clock` |
//! | [`config`] | raw file, merged, validated | `core` |
//! | [`core`] | PURE state machines: `handle(event, now)` gives commands | the protocol and release crates |
//!
//! Reading order: [`core`] first (what the agent decides), then [`daemon`] (how a decision
//! becomes an action), then the workers that the daemon wires up, then [`cli`].

pub mod cli;
pub mod config;
pub mod core;
pub mod daemon;
pub mod host;
pub mod ledger;
pub mod remote;
pub mod status;
pub mod vpn;
