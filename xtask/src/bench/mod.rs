//! `cargo xtask bench footprint`: what the agent costs its host, beside prometheus-node-exporter.
//!
//! Both run side by side in one run on one machine, because absolute figures of a shared machine
//! mean little: the verdict is about ratios. For 60 s the agent sends 20 signed heartbeats and
//! the exporter is scraped 20 times; then memory, CPU time, start and size are compared.

pub(crate) mod events;
mod exporter;
pub(crate) mod peers;
mod process;
mod table;
pub(crate) mod update;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use self::exporter::Exporter;
use self::process::{Cpu, Memory};
use self::table::{Figures, Table};
use crate::build;
use crate::lab::Lab;
use crate::lab::fleet::{AGENT, Fleet, column};
use crate::lab::machine::Machine;
use crate::shell;

const ROUNDS: u32 = 20;
const INTERVAL_S: u32 = 3;
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// Starts of each program; the middle one counts. Odd.
const STARTS: usize = 5;

/// Arguments of `cargo xtask bench footprint`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fail if an aim is missed
    #[arg(long)]
    strict: bool,
    /// Take the three programs from this folder instead of building them for release
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Do not install Debian packages, even as root
    #[arg(long)]
    no_install: bool,
}

/// One run: both start, 60 s pass, the table.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let exporter = Exporter::find(!options.no_install)?;
    anstream::println!("building for release (a first build takes minutes)");
    let programs = build::programs(options.programs.as_deref(), true)?;
    let agent_file = programs.agent.clone();

    let mut lab = Lab::open()?;
    let fleet = Fleet::new(&lab, programs, Machine::Here, INTERVAL_S, "")?;
    fleet.init_controller()?;
    fleet.start_controller(&mut lab)?;
    fleet.host.enroll(&fleet.create_token()?.text)?;

    // In turn, so that a machine that slows down slows both; the last two stay.
    let mut agent_starts = Vec::new();
    let mut exporter_starts = Vec::new();
    let (agent_pid, scraped) = loop {
        let (agent_pid, agent_start) = start_agent(&mut lab, &fleet)?;
        let scraped = exporter.start(&mut lab)?;
        agent_starts.push(agent_start);
        exporter_starts.push(scraped.start);
        if agent_starts.len() == STARTS {
            break (agent_pid, scraped);
        }
        lab.crash(AGENT)?;
        lab.crash(exporter::PROGRAM)?;
    };

    anstream::println!("measuring for {} s", ROUNDS * INTERVAL_S);
    let heartbeats_before = count_heartbeats(&fleet)?;
    let cpu_before = (Cpu::of(agent_pid)?, Cpu::of(scraped.pid)?);
    let window = Instant::now();
    for round in 1..=ROUNDS {
        scraped.scrape()?;
        let next = Duration::from_secs(u64::from(round * INTERVAL_S));
        shell::pause(next.saturating_sub(window.elapsed()))?;
    }
    let cpu_after = (Cpu::of(agent_pid)?, Cpu::of(scraped.pid)?);
    let minutes = window.elapsed().as_secs_f64() / 60.0;
    let heartbeats = count_heartbeats(&fleet)?.saturating_sub(heartbeats_before);
    ensure!(
        heartbeats * 10 >= ROUNDS as usize * 8,
        "the agent sent {heartbeats} heartbeats in the window instead of about {ROUNDS}, \
         so the comparison would not be fair"
    );

    let table = Table {
        agent: Figures {
            memory: Memory::of(agent_pid)?,
            cpu_ms_per_minute: cpu_after.0.since(cpu_before.0).as_secs_f64() * 1000.0 / minutes,
            start: median(agent_starts),
            size: size_of(&agent_file)?,
        },
        exporter: Figures {
            memory: Memory::of(scraped.pid)?,
            cpu_ms_per_minute: cpu_after.1.since(cpu_before.1).as_secs_f64() * 1000.0 / minutes,
            start: median(exporter_starts),
            size: size_of(&scraped.file)?,
        },
    };
    anstream::println!("\n{table}");
    anstream::println!("{heartbeats} heartbeats, {ROUNDS} scrapes");
    let missed = table.missed_aims();
    if missed.is_empty() {
        anstream::println!("footprint: ok — every aim is met");
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("footprint: missed — {}", missed.join(", "));
    Ok(if options.strict {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Starts the agent. Returns its process and the time to its first accepted heartbeat.
fn start_agent(lab: &mut Lab, fleet: &Fleet) -> Result<(u32, Duration)> {
    let (clock, wall) = (Instant::now(), SystemTime::now());
    let pid = fleet.start_agent(lab)?;
    let received = lab.wait_for(
        "the agent's first accepted heartbeat",
        STARTS_WITHIN,
        || {
            let rows = fleet.rows(&["heartbeats", "list"], "heartbeats")?;
            // Newest first; those of earlier starts lie before this one.
            let times = rows.iter().map(|row| column(row, "received_time"));
            Ok(times.take_while(|time| since(wall, time).is_some()).last())
        },
    )?;
    // We see it by starting a program again and again; the controller's own time is closer, if
    // it has milliseconds at all.
    let seen = clock.elapsed();
    Ok((
        pid,
        since(wall, &received).map_or(seen, |stored| stored.min(seen)),
    ))
}

/// The middle one of an odd number of times.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The time from `start` to a stored time with a fraction of a second, on the same clock.
fn since(start: SystemTime, received: &str) -> Option<Duration> {
    let received = if let Ok(unix_ms) = received.parse::<u64>() {
        SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)
    } else if received.contains('.') {
        SystemTime::from(received.parse::<jiff::Timestamp>().ok()?)
    } else {
        return None;
    };
    received.duration_since(start).ok()
}

fn count_heartbeats(fleet: &Fleet) -> Result<usize> {
    fleet
        .rows(&["heartbeats", "list", "--limit", "1000"], "heartbeats")
        .map(|rows| rows.len())
}

fn size_of(file: &std::path::Path) -> Result<u64> {
    std::fs::metadata(file)
        .map(|about| about.len())
        .with_context(|| format!("cannot read the size of {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_time_counts_only_with_milliseconds() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(
            since(start, "2023-11-14T22:13:20.250Z"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            since(start, "1700000000125"),
            Some(Duration::from_millis(125))
        );
        assert_eq!(since(start, "2023-11-14T22:13:20Z"), None);
        assert_eq!(since(start, "2023-11-14T22:13:19.9Z"), None);
    }
}
