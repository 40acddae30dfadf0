//! `cargo xtask torture …`: suites that break what a promise must survive, and look whether it holds.
//!
//! [`enroll`] and [`ledger`] kill real programs between system calls. The other suites are tests of
//! their packages that do more when they are asked to ([`suites`]).

mod call;
pub(crate) mod enroll;
mod ledger;
mod power;
pub(crate) mod random;
pub(crate) mod suites;
mod trace;
mod update;

use std::process::ExitCode;

use anyhow::Result;

use self::suites::Suite;
use crate::shell;

/// What to torture.
#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Kill agent, command and controller at every system call from a token to the first heartbeat
    Enroll(enroll::Options),
    /// Kill, cut off, damage, fill and starve the connection ledger: nothing acknowledged is lost
    Ledger(ledger::Options),
    /// Kill the updater, the new version and the supervisor, cut power, tear files, swap packages:
    /// the old or the new version runs, and nothing that was not verified
    Update(update::Options),
    /// The agent in the slots of such hosts
    #[command(hide = true)]
    FakeAgent(update::agent::Options),
    /// Copy hosts and restore them: both holders of an identity are found
    Clone,
    /// Set clocks years off: nobody is locked out, no lease is lengthened
    Clock,
    /// Send the controller what no honest host sends
    Hostile,
}

const CLONE: Suite = Suite {
    name: "clone",
    package: "vpn-node",
    target: &["--test", "it"],
    binary: "it",
    test: "torture_clone",
};
const CLOCK: Suite = Suite {
    name: "clock",
    package: "vpn-node",
    target: &["--lib"],
    binary: "vpn_node",
    test: "torture_clock",
};
const HOSTILE: Suite = Suite {
    name: "hostile",
    package: "vpn-node-controller",
    target: &["--test", "api"],
    binary: "api",
    test: "torture_hostile",
};

/// Runs one suite.
pub(crate) fn run(what: &What) -> Result<ExitCode> {
    if let What::FakeAgent(options) = what {
        // It ends by SIGTERM, as any program.
        return update::agent::run(options).map(|()| ExitCode::SUCCESS);
    }
    shell::catch_signals()?;
    match what {
        What::Enroll(options) => enroll::run(options),
        What::Ledger(options) => ledger::run(options),
        What::Update(options) => update::run(options),
        What::FakeAgent(_) => unreachable!("handled above"),
        What::Clone => suites::run(&CLONE),
        What::Clock => suites::run(&CLOCK),
        What::Hostile => suites::run(&HOSTILE),
    }
}
