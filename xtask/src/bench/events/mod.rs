//! `cargo xtask bench events`: how long an event takes to the disk, and to the controller.
//!
//! First the daemon's disk thread alone is given 100 events a second, in turn with the disk's own
//! measure, a write of 4 KiB and fdatasync(2). Then the real agent beside a real controller reads
//! clients from a daemon of ours ([`uapi`]); its log tells when records are on disk, and when the
//! controller has them. Absolute figures of a shared machine mean little: the aim is a ratio.

mod uapi;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::uapi::Daemon;
use crate::build;
use crate::lab::Lab;
use crate::lab::fleet::{AGENT, Fleet};
use crate::lab::machine::Machine;
use crate::shell;
use crate::torture::suites::{self, OPTIMISED, Suite};

/// Durable at the 99th percentile: so many times the disk's own figure at most.
const AIM: f64 = 3.0;
const VERIFIED_WITHIN: Duration = Duration::from_secs(60);
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const HEARTBEAT_S: u32 = 5;

const DURABLE: Suite = Suite {
    name: "events",
    package: "vpn-node",
    target: &["--lib"],
    binary: "vpn_node",
    test: "bench_events_durable",
};

/// Arguments of `cargo xtask bench events`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fail if the aim is missed
    #[arg(long)]
    strict: bool,
    /// How long clients connect to the real agent, 100 a second
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=120))]
    seconds: u64,
    /// Take the three programs from this folder instead of building them for release
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The disk thread alone, then the whole way.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let binary = suites::build(&DURABLE, &OPTIMISED)?;
    let ran = suites::run_built(&binary, &DURABLE, "full")?;
    ensure!(ran.passed, "the disk thread could not be measured");
    let alone: Value = serde_json::from_str(&ran.figures)
        .with_context(|| format!("the disk thread's figures are no JSON: {}", ran.figures))?;
    let disk = Quantiles::from_json(&alone["fdatasync_us"])?;
    let durable = Quantiles::from_json(&alone["durable_us"])?;
    let whole_way = whole_way(options)?;

    anstream::println!(
        "\n{:<44}{:>9}{:>9}{:>9}{:>12}",
        "milliseconds",
        "p50",
        "p99",
        "p99.9",
        "p99 ratio"
    );
    let line = |what: &str, of: &Quantiles| {
        anstream::println!("{what:<44}{of}{:>12.2}", of.p99 / disk.p99);
    };
    line("fdatasync of 4 KiB, the disk itself", &disk);
    line("event to durable, disk thread alone", &durable);
    line("event to durable, real agent", &whole_way.durable);
    line("event to committed, real controller", &whole_way.committed);
    let burst_ms = alone["burst_us"].as_f64().unwrap_or(f64::NAN) / 1000.0;
    anstream::println!(
        "{} events alone, {} the whole way; a burst of {} is durable in {burst_ms:.0} ms",
        alone["events"],
        whole_way.events,
        alone["burst"]
    );
    let ratio = durable.p99 / disk.p99;
    let met = ratio <= AIM;
    anstream::println!(
        "bench events: {}: event to durable p99 {:.2} ms, {ratio:.2} times the disk's {:.2} ms (aim {AIM}); to committed p99 {:.1} ms",
        if met { "ok" } else { "missed" },
        durable.p99,
        disk.p99,
        whole_way.committed.p99
    );
    Ok(if options.strict && !met {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Milliseconds.
struct Quantiles {
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Quantiles {
    fn from_json(figures: &Value) -> Result<Self> {
        let at = |name: &str| {
            let micros = figures[name].as_f64();
            micros
                .map(|micros| micros / 1000.0)
                .with_context(|| format!("there is no {name} in {figures}"))
        };
        Ok(Self {
            p50: at("p50")?,
            p99: at("p99")?,
            p999: at("p999")?,
        })
    }

    /// Of times in microseconds.
    fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let last = times.len().saturating_sub(1) as f64;
        let at = |part: f64| {
            let index = (last * part).round() as usize;
            times.get(index).map_or(f64::NAN, |us| *us as f64 / 1000.0)
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.2}{:>9.2}{:>9.2}", self.p50, self.p99, self.p999)
    }
}

struct WholeWay {
    events: usize,
    durable: Quantiles,
    committed: Quantiles,
}

/// Clients connect to a daemon that the real agent reads; its log tells what became of them.
fn whole_way(options: &Options) -> Result<WholeWay> {
    let programs = build::programs(options.programs.as_deref(), true)?;
    let mut lab = Lab::open()?;
    let sockets = lab.path("wireguard");
    let settings =
        format!("log_level = \"debug\"\n\n[wireguard]\npoll_s = 1\nsocket_dir = {sockets:?}\n");
    let fleet = Fleet::new(&lab, programs, Machine::Here, HEARTBEAT_S, &settings)?;
    fleet.init_controller()?;
    fleet.start_controller(&mut lab)?;
    fleet.host.enroll(&fleet.create_token()?.text)?;
    let daemon = Daemon::start(&sockets)?;
    fleet.start_agent(&mut lab)?;
    lab.wait_for("the host to be verified", VERIFIED_WITHIN, || {
        Ok((fleet.host.is_verified() && daemon.was_asked()).then_some(()))
    })?;
    anstream::println!("{} s of clients for the real agent", options.seconds);
    daemon.let_clients_come();
    shell::pause(Duration::from_secs(options.seconds))?;
    let told = daemon.end();
    let log = lab.log(AGENT);
    let read =
        || fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()));
    lab.wait_for(
        "the controller to have every record",
        SETTLED_WITHIN,
        || {
            let reached = marks(&read()?, COMMITTED)
                .last()
                .map_or(0, |mark| mark.through);
            Ok((reached >= told.len() as u64).then_some(()))
        },
    )?;
    let log = read()?;
    Ok(WholeWay {
        events: told.len(),
        durable: Quantiles::of(times(&told, &marks(&log, ON_DISK))?),
        committed: Quantiles::of(times(&told, &marks(&log, COMMITTED))?),
    })
}

/// What the agent says at the level `debug` (`src/daemon/records.rs`).
const ON_DISK: &str = "connection records are on disk";
const COMMITTED: &str = "the controller has the connection records";

/// A line of the log: since then everything up to this sequence.
#[derive(Debug, PartialEq)]
struct Mark {
    /// Microseconds since the Unix epoch.
    at_us: u64,
    through: u64,
}

fn marks(log: &str, what: &str) -> Vec<Mark> {
    let lines = log.lines().filter(|line| line.contains(what));
    lines
        .filter_map(|line| {
            let at: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
            let through = line.split_once("through=")?.1.split_whitespace().next()?;
            Some(Mark {
                at_us: at.as_microsecond().try_into().ok()?,
                through: through.parse().ok()?,
            })
        })
        .collect()
}

/// From each event, told at these microseconds in the order of their sequences, to its mark.
fn times(told: &[u64], marks: &[Mark]) -> Result<Vec<u64>> {
    let mut marks = marks.iter().peekable();
    let events = (1..).zip(told);
    events
        .map(|(sequence, told)| {
            while marks.next_if(|mark| mark.through < sequence).is_some() {}
            let mark = marks
                .peek()
                .with_context(|| format!("the agent's log does not tell of record {sequence}"))?;
            Ok(mark.at_us.saturating_sub(*told))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-22T09:00:01.000500Z DEBUG vpn_node::daemon::records: connection records are on disk through=2
2026-11-22T09:00:01.000900Z  INFO vpn_node: something else through=9
2026-11-22T09:00:02.000000Z DEBUG vpn_node::daemon::records: connection records are on disk through=3
";

    #[test]
    fn marks_are_read_from_the_log() {
        let marks = marks(LOG, ON_DISK);
        let throughs: Vec<u64> = marks.iter().map(|mark| mark.through).collect();
        assert_eq!(throughs, [2, 3]);
        assert_eq!(marks[1].at_us - marks[0].at_us, 999_500);
    }

    #[test]
    fn each_event_waits_for_the_first_mark_that_covers_it() {
        let marks = [(100, 2), (200, 3)].map(|(at_us, through)| Mark { at_us, through });
        assert_eq!(times(&[10, 20, 30], &marks).unwrap(), [90, 80, 170]);
        assert!(times(&[10, 20, 30, 40], &marks).is_err());
    }

    #[test]
    fn quantiles_are_in_milliseconds() {
        let of = Quantiles::of((1..=1001).map(|n| n * 1000).collect());
        assert_eq!((of.p50, of.p99, of.p999), (501.0, 991.0, 1000.0));
    }
}
