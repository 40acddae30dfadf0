//! `cargo xtask torture ledger`: what the ledger has called durable is there, once, as it was, or in a
//! gap that says so, whatever happens to the process, the power and the disk.
//!
//! [`crash`] kills a real process at system calls. The rest are tests of the ledger, the daemon's disk
//! thread and the core, in large numbers; each prints its figures, and the verdict repeats them.

mod crash;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use super::suites::{self, OPTIMISED, Suite};
use super::trace;

/// Crash points of an ordinary run.
const KILLS: u64 = 10_000;
/// Crash points of the run that is for CI.
const SHORT_KILLS: u64 = 300;
const FULL_KILLS: u64 = 100_000;

/// Arguments of `cargo xtask torture ledger`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// What CI runs: every part, in a minute
    #[arg(long)]
    short: bool,
    /// Ten times as much of everything; 72 h of outage on the disk (20 GB in the folder for
    /// temporary files)
    #[arg(long, conflicts_with = "short")]
    full: bool,
    /// Which crash points are chosen, and what a power cut takes
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// One chain of crashes again, as a broken promise names it
    #[arg(long, value_name = "N", conflicts_with_all = ["only", "full", "short"])]
    chain: Option<u64>,
}

/// What can be run apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// kill -9 of a real process at system calls, some with what a power cut takes from the disk
    Crash,
    /// A simulated disk that forgets and tears what was not synced
    Power,
    /// Flipped bits in segments and journal
    Flips,
    /// EIO, ENOSPC and half-done writes at every operation
    Faults,
    /// The same under the daemon's own loop, with sealing, sending and acknowledging
    Daemon,
    /// Hours or days without a controller at 100 events a second, then the drain
    Outage,
    /// The heartbeats of an agent that drains such a backlog, in simulated time
    Heartbeat,
}

const ALL: [Part; 7] = [
    Part::Power,
    Part::Flips,
    Part::Faults,
    Part::Daemon,
    Part::Heartbeat,
    Part::Outage,
    Part::Crash,
];

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Power => "power",
            Self::Flips => "flips",
            Self::Faults => "faults",
            Self::Daemon => "daemon",
            Self::Outage => "outage",
            Self::Heartbeat => "heartbeat",
        }
    }

    fn suite(self) -> Suite {
        Suite {
            name: self.name(),
            package: "vpn-node",
            target: &["--lib"],
            binary: "vpn_node",
            test: match self {
                Self::Crash => crash::WORKER,
                Self::Power => "torture_ledger_power",
                Self::Flips => "torture_ledger_flips",
                Self::Faults => "torture_ledger_faults",
                Self::Daemon => "torture_ledger_daemon",
                Self::Outage => "torture_ledger_outage",
                Self::Heartbeat => "torture_ledger_heartbeat",
            },
        }
    }
}

/// The whole suite.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let parts = match options.only.as_slice() {
        [] if options.chain.is_some() => &[Part::Crash],
        [] => &ALL[..],
        only => only,
    };
    let without_kills = trace::obstacle().filter(|_| parts.contains(&Part::Crash));
    if let (Some(why), false) = (&without_kills, options.short && options.only.is_empty()) {
        bail!(
            "{why}. Run this as root, outside of a sandbox that filters ptrace, or without the part `crash`"
        );
    }
    let more = if options.full { &OPTIMISED[..] } else { &[] };
    let binary = suites::build(&Part::Crash.suite(), more)?;
    let started = Instant::now();
    let mut held = true;
    let mut figures = Vec::new();
    for part in parts {
        anstream::println!("== {}", part.name());
        let (passed, said) = match (part, &without_kills) {
            (Part::Crash, Some(why)) => (true, format!("skipped: {why}")),
            (Part::Crash, None) => kill(&binary, options)?,
            (other, _) => play(&binary, *other, options)?,
        };
        held &= passed;
        let failed = if passed { "" } else { "FAILED: " };
        figures.push(format!("{}: {failed}{said}", part.name()));
    }
    anstream::println!(
        "torture ledger: {}: {}; {} s",
        if held { "ok" } else { "FAILED" },
        figures.join("; "),
        started.elapsed().as_secs()
    );
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn kill(binary: &Path, options: &Options) -> Result<(bool, String)> {
    let kills = match (options.short, options.full) {
        (true, _) => SHORT_KILLS,
        (_, true) => FULL_KILLS,
        _ => KILLS,
    };
    let outcome = crash::torture(binary, kills, options.seed, options.chain)?;
    for sentence in &outcome.broken {
        anstream::eprintln!("broken promise: {sentence}");
    }
    Ok((outcome.broken.is_empty(), outcome.figures()))
}

fn play(binary: &Path, part: Part, options: &Options) -> Result<(bool, String)> {
    let scale = match (options.short, options.full) {
        (true, _) => "",
        (_, true) => "full",
        _ => "usual",
    };
    let ran = suites::run_built(binary, &part.suite(), scale)?;
    anstream::println!("{} s", ran.took.as_secs());
    Ok((ran.passed, ran.figures))
}
