//! `cargo xtask container WHAT`: what only a host with a running systemd can show, on a machine in
//! namespaces.

mod agent;
mod deb;
mod dialect;
mod host;
mod image;
mod life;
mod machine;
mod manager;
mod packages;
mod releases;
mod rootfs;
mod rpm;
mod sandbox;
mod self_update;
mod units;
mod update;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::shell;

/// What can be shown.
#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Debian packages: installed, upgraded, downgraded, removed, purged
    Deb(deb::Options),
    /// RPM packages: signed, installed, upgraded, downgraded, removed
    Rpm(manager::Stock),
    /// Updates: good releases stay, bad ones are sent away, whatever dies in between
    Update(update::Options),
    /// Sandboxes: every denial of every unit, tried from inside
    Sandbox(sandbox::Options),
    /// What a release's agent is in there.
    #[command(hide = true)]
    Agent(agent::Options),
}

/// Shows it; all of it, one after the other, if nothing is named.
pub(crate) fn run(what: Option<&What>) -> Result<ExitCode> {
    match what {
        None => all(),
        Some(What::Deb(options)) => deb::run(options),
        Some(What::Rpm(stock)) => rpm::run(stock),
        Some(What::Update(options)) => update::run(options),
        Some(What::Sandbox(options)) => sandbox::run(options),
        Some(What::Agent(options)) => agent::run(options),
    }
}

/// The root file system that the machines of `container NAME` start from. Where none can run, that
/// it is skipped, and why, is said here.
fn prepare(name: &str, suite: rootfs::Suite) -> Result<Option<PathBuf>> {
    shell::catch_signals()?;
    let provided = match machine::obstacle() {
        Some(why) => Err(why),
        None => rootfs::provide(suite)?,
    };
    if let Err(why) = &provided {
        anstream::println!("container {name}: skipped — {why}");
    }
    Ok(provided.ok())
}

/// A promise that is broken keeps no other from being looked at.
fn all() -> Result<ExitCode> {
    type Show = fn() -> Result<ExitCode>;
    let shows: [(&str, Show); 4] = [
        ("sandbox", || sandbox::run(&sandbox::Options::default())),
        ("deb", || deb::run(&deb::Options::default())),
        ("rpm", || rpm::run(&manager::Stock::default())),
        ("update", || update::run(&update::Options::default())),
    ];
    let mut broken = Vec::new();
    for (name, show) in shows {
        let ended = show();
        shell::check_interrupted()?;
        match ended {
            Ok(code) if code == ExitCode::SUCCESS => {}
            Ok(_) => broken.push(name),
            Err(error) => {
                anstream::eprintln!("error: container {name}: {error:#}");
                broken.push(name);
            }
        }
    }
    if broken.is_empty() {
        anstream::println!(
            "container: ok — {} of {} shown or skipped with a reason",
            shows.len(),
            shows.len()
        );
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("container: FAILED — broken: {}", broken.join(", "));
    Ok(ExitCode::FAILURE)
}
