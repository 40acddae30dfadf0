//! # vpn-node-updater
//!
//! The root helper of a host: verifies a release again from its own copy, installs it beside the
//! running one, tries it, keeps it or goes back. It has no network, and it believes the agent
//! nothing: what the agent downloaded is copied first and then judged as if a stranger had sent it.
//!
//! Reading order: [`layout`] (where everything lies), [`run`] (the way of a release onto the host,
//! as a story), and what it uses, in that order: [`incoming`] and [`offline`] (what came in),
//! [`verify`] and [`trust`] (whom this host believes), [`preflight`] (is there room), [`slots`]
//! (the version directories and links), [`journal`] (what is written down before it is done),
//! [`supervisor`] (who starts and stops the agent), [`probation`] (how a new version is judged) by
//! its [`evidence`], [`snapshot`] (the agent's state before a migration), [`recovery`] (the way to
//! rest, after a verdict as after a power cut). [`plan`], [`status`] and [`history`] tell; [`cli`]
//! is the program. Below them [`host`], [`disk`], [`clock`], [`config`], [`hold`], [`lock`] and
//! [`error`].

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
