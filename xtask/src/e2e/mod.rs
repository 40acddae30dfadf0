//! `cargo xtask e2e WHAT`: one promise of the product, shown with its real programs and measured.
//!
//! Each ends with one line of verdict, and with a failure if the promise is broken.

mod connections;
mod gate;
mod supervisor;
mod updates;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

/// What can be shown.
#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Connections: one row each, with its true end and reason, whatever the VPN daemons do
    Connections(connections::Options),
    /// The gate: a gated VPN runs only while its host is authorised, whatever happens to the agent
    Gate(gate::Options),
    /// Updates: good releases are kept, bad ones go away by themselves, hostile ones never get in
    Updates(updates::Options),
    /// What plays systemd in there.
    #[command(hide = true)]
    Supervisor {
        /// The services, as JSON
        plan: PathBuf,
    },
}

/// Shows it.
pub(crate) fn run(what: &What) -> Result<ExitCode> {
    match what {
        What::Connections(options) => connections::run(options),
        What::Gate(options) => gate::run(options),
        What::Updates(options) => updates::run(options),
        What::Supervisor { plan } => supervisor::run(plan),
    }
}
