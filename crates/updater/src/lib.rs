//! # vpn-node-updater
//!
//! The root helper of a host: verifies a release again from its own copy, installs it beside the
//! running one, tries it, keeps it or goes back. It has no network, and it believes the agent
//! nothing: what the agent downloaded is copied first and then judged as if a stranger had sent it.
//!
//! Reading order: [`layout`] (where everything lies), [`journal`] (what is written down before
//! something is done), [`supervisor`] (who starts and stops the agent), [`probation`] (how a new
//! version is judged) by its [`evidence`], and below them [`disk`], [`clock`], [`config`], [`hold`]
//! and [`error`].

pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod error;
pub mod evidence;
pub mod history;
pub mod hold;
pub mod host;
pub mod incoming;
pub mod journal;
pub mod layout;
pub mod lock;
pub mod offline;
pub mod plan;
pub mod preflight;
pub mod probation;
pub mod recovery;
pub mod run;
pub mod slots;
pub mod snapshot;
pub mod status;
pub mod supervisor;
#[cfg(test)]
mod testing;
pub mod trust;
pub mod verify;
