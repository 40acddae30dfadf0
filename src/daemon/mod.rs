//! The wiring and the one event loop.
//!
//! Reading order: `run` (the life of the daemon as a story), `event_loop` (what it does all
//! day), `controller` (the exchanges with the controller), `disk` (the thread for everything that
//! may wait for a disk), `watch` (the thread that reads the VPN daemons),
//! `watchdog` and `progress` (whether all of these get on), `updates` (what it does
//! about releases), [`enrol`]. [`wireguard_reader`] is the other process, which asks the kernel.

mod controller;
mod disk;
pub mod enrol;
mod error;
mod event_loop;
mod gaps;
mod host_signals;
mod life;
mod main;
mod progress;
mod records;
mod run;
mod source;
mod updates;
mod watch;
mod watchdog;
pub mod wireguard_reader;

pub use error::Error;
pub use main::{command_line, main};

/// The name of the systemd credential with the token (systemd.exec(5), `LoadCredential=`).
pub const TOKEN_CREDENTIAL: &str = "registration-token";

/// How many observations of VPN daemons may wait for the loop; then their reader waits.
const OBSERVATIONS_QUEUED: usize = 16;
/// How many commands may wait for the disk; then the loop waits. The disk thread never waits for
/// the loop, so the two cannot wait for each other.
const DISK_COMMANDS_QUEUED: usize = 1024;
