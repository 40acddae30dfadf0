//! `cargo xtask bench events`: how long an event takes to the disk, and to the controller.
//!
//! First the daemon's disk thread alone is given 50 events a second, in turn with the disk's own
//! measure, a write of 4 KiB and fdatasync(2). Then the real agent beside a real controller reads
//! clients from a daemon of ours ([`openvpn`]) while the disk is measured ([`probe`]); its log tells
//! when records are on disk, and when the controller has them. All events are starts, which take
//! two syncs. Absolute figures of a shared machine mean little: the aim is a ratio.

mod openvpn;
mod probe;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::openvpn::Daemon;
use self::probe::Probe;
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
    /// How long clients connect to the server that the real agent reads
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..=600))]
    seconds: u64,
    /// How many of them a second
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=200))]
    rate: u64,
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
    let line = |what: &str, of: &Quantiles, beside: &Quantiles| {
        anstream::println!("{what:<44}{of}{:>12.2}", of.p99 / beside.p99);
    };
    line("fdatasync of 4 KiB beside the disk thread", &disk, &disk);
    line("event to durable, disk thread alone", &durable, &disk);
    let beside = &whole_way.disk;
    line("fdatasync of 4 KiB beside the agent", beside, beside);
    line("event to durable, real agent", &whole_way.durable, beside);
    line(
        "  durable to read for the controller",
        &whole_way.read,
        beside,
    );
    line("  read to stored and sent", &whole_way.sent, beside);
    line("  sent to answered", &whole_way.answered, beside);
    line(
        "event to committed, real controller",
        &whole_way.committed,
        beside,
    );
    let burst_ms = alone["burst_us"].as_f64().unwrap_or(f64::NAN) / 1000.0;
    anstream::println!(
        "{} events alone, {} the whole way; a burst of {} is durable in {burst_ms:.0} ms",
        alone["events"],
        whole_way.events,
        alone["burst"]
    );
    let alone_ratio = durable.p99 / disk.p99;
    let agent_ratio = whole_way.durable.p99 / beside.p99;
    let met = alone_ratio <= AIM && agent_ratio <= AIM;
    anstream::println!(
        "bench events: {}: event to durable p99 {:.2} ms, {alone_ratio:.2} times the disk's {:.2} ms; in the real agent {:.2} ms, {agent_ratio:.2} times {:.2} ms (aim {AIM}); to committed p99 {:.1} ms",
        if met { "ok" } else { "missed" },
        durable.p99,
        disk.p99,
        whole_way.durable.p99,
        beside.p99,
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
    disk: Quantiles,
    durable: Quantiles,
    read: Quantiles,
    sent: Quantiles,
    answered: Quantiles,
    committed: Quantiles,
}

/// Clients connect to a daemon that the real agent reads; its log tells what became of them.
fn whole_way(options: &Options) -> Result<WholeWay> {
    let programs = build::programs(options.programs.as_deref(), true)?;
    let mut lab = Lab::open()?;
    let socket = lab.path("openvpn.sock");
    let settings = format!("log_level = \"debug\"\n\n[openvpn]\nmanagement = [{socket:?}]\n");
    let fleet = Fleet::new(&lab, programs, Machine::Here, HEARTBEAT_S, &settings)?;
    fleet.init_controller()?;
    fleet.start_controller(&mut lab)?;
    fleet.host.enroll(&fleet.create_token()?.text)?;
    let daemon = Daemon::start(&socket, options.rate)?;
    fleet.start_agent(&mut lab)?;
    lab.wait_for("the host to be verified", VERIFIED_WITHIN, || {
        Ok((fleet.host.is_verified() && daemon.was_asked()).then_some(()))
    })?;
    let Options { seconds, rate, .. } = options;
    anstream::println!("{seconds} s of {rate} clients a second for the real agent");
    let probe = Probe::start(lab.folder())?;
    daemon.let_clients_come();
    shell::pause(Duration::from_secs(*seconds))?;
    let told = daemon.end();
    let disk = probe.end()?;
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
    let durable = reached(told.len(), &marks(&log, ON_DISK))?;
    let committed = reached(told.len(), &marks(&log, COMMITTED))?;
    let read = reached(told.len(), &marks(&log, READ))?;
    let sent = last_before(&times(&log, SENT), &committed);
    Ok(WholeWay {
        events: told.len(),
        disk: Quantiles::of(disk),
        durable: Quantiles::of(between(&told, &durable)),
        read: Quantiles::of(between(&durable, &read)),
        sent: Quantiles::of(between(&read, &sent)),
        answered: Quantiles::of(between(&sent, &committed)),
        committed: Quantiles::of(between(&told, &committed)),
    })
}

/// What the agent says at the level `debug` (`src/daemon/records.rs`, `src/daemon/controller.rs`).
const ON_DISK: &str = "connection records are on disk";
const READ: &str = "connection records are read for the controller";
const SENT: &str = "a request of the chain goes out";
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
            let through = line.split_once("through=")?.1.split_whitespace().next()?;
            Some(Mark {
                at_us: time_of(line)?,
                through: through.parse().ok()?,
            })
        })
        .collect()
}

fn times(log: &str, what: &str) -> Vec<u64> {
    let lines = log.lines().filter(|line| line.contains(what));
    lines.filter_map(time_of).collect()
}

fn time_of(line: &str) -> Option<u64> {
    let at: jiff::Timestamp = line.split_whitespace().next()?.parse().ok()?;
    at.as_microsecond().try_into().ok()
}

/// When each of so many events, in the order of their sequences, reached its mark.
fn reached(events: usize, marks: &[Mark]) -> Result<Vec<u64>> {
    let mut marks = marks.iter().peekable();
    (1..=events as u64)
        .map(|sequence| {
            while marks.next_if(|mark| mark.through < sequence).is_some() {}
            let mark = marks
                .peek()
                .with_context(|| format!("the agent's log does not tell of record {sequence}"))?;
            Ok(mark.at_us)
        })
        .collect()
}

/// For each answer the request that it is for: one is under way at a time.
fn last_before(requests: &[u64], answers: &[u64]) -> Vec<u64> {
    let last = |answer: &u64| {
        let sent = requests.partition_point(|request| request <= answer);
        sent.checked_sub(1).map_or(*answer, |at| requests[at])
    };
    answers.iter().map(last).collect()
}

fn between(from: &[u64], to: &[u64]) -> Vec<u64> {
    let pairs = from.iter().zip(to);
    pairs.map(|(from, to)| to.saturating_sub(*from)).collect()
}

/// Microseconds since the Unix epoch.
fn unix_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_micros() as u64
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
        assert_eq!(reached(3, &marks).unwrap(), [100, 100, 200]);
        assert_eq!(between(&[10, 20, 30], &[100, 100, 200]), [90, 80, 170]);
        assert!(reached(4, &marks).is_err());
        assert_eq!(last_before(&[5, 80, 150], &[100, 200, 3]), [80, 150, 3]);
    }

    #[test]
    fn quantiles_are_in_milliseconds() {
        let of = Quantiles::of((1..=1001).map(|n| n * 1000).collect());
        assert_eq!((of.p50, of.p99, of.p999), (501.0, 991.0, 1000.0));
    }
}
