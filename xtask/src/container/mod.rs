//! `cargo xtask container WHAT`: what only a host with a running systemd can show, on a machine in
//! namespaces.

mod agent;
mod deb;
mod host;
mod life;
mod machine;
mod manager;
mod releases;
mod rootfs;
mod sandbox;
mod units;
mod update;

use std::process::ExitCode;

use anyhow::Result;

/// What can be shown.
#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Debian packages: installed, upgraded, downgraded, removed, purged
    Deb(manager::Stock),
    /// Updates: good releases stay, bad ones are sent away, whatever dies in between
    Update(update::Options),
    /// Sandboxes: every denial of every unit, tried from inside
    Sandbox(sandbox::Options),
    /// What a release's agent is in there.
    #[command(hide = true)]
    Agent(agent::Options),
}

/// Shows it.
pub(crate) fn run(what: &What) -> Result<ExitCode> {
    match what {
        What::Deb(stock) => deb::run(stock),
        What::Update(options) => update::run(options),
        What::Sandbox(options) => sandbox::run(options),
        What::Agent(options) => agent::run(options),
    }
}
