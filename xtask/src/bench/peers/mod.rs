//! `cargo xtask bench peers`: what it costs to read many WireGuard peers, beside `wg show all dump`
//! and prometheus_wireguard_exporter.
//!
//! Both sides read the same socket in one run, by turns, in namespaces where nothing else is. The
//! socket is a real wireguard-go's, and then one that serves a prepared answer: a daemon's own work
//! is no part of the figures, and wireguard-go stops at 65,536 peers. The agent's side is the
//! product's own backend as it is shipped, alone in a process (`xtask/reader`).

mod exporter;
pub(crate) mod fake;
mod reader;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use self::exporter::PeersExporter;
use self::fake::Fake;
use self::reader::{Polls, Reader, in_mounts};
use self::table::{Figures, Row};
use crate::apt::{self, need};
use crate::lab::Lab;
use crate::lab::machine::{self, Machine};
use crate::shell;

/// How many peers wireguard-go gets. It can have 65,536.
const REAL: [usize; 2] = [10_000, 60_000];
/// How many the prepared answer has. The first is also what the exporter is scraped with.
const PREPARED: [usize; 2] = [10_000, 100_000];
/// Turns of each side, so that a machine that slows down slows both.
const TURNS: usize = 3;
/// Readings in one turn. The middle one of all counts: with the turns an odd number.
const READINGS: usize = 5;
/// Where the exporter's many seconds allow no more.
const SCRAPES: usize = 3;
const INTERFACE: &str = "wg0";
/// wireguard-go takes seconds for tens of thousands of peers, more on a busy machine.
const CONFIGURED_WITHIN: Duration = Duration::from_secs(300);
const UP_WITHIN: Duration = Duration::from_secs(15);

/// Arguments of `cargo xtask bench peers`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Fail if an aim is missed
    #[arg(long)]
    strict: bool,
    /// Take this `wireguard-reader` instead of building it as the agent is shipped
    #[arg(long, value_name = "FILE")]
    reader: Option<PathBuf>,
    /// Install neither Debian packages nor the exporter
    #[arg(long)]
    no_install: bool,
}

/// One run: a real daemon, a prepared answer, the exporter, the table.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    if let Some(obstacle) = obstacle(!options.no_install)? {
        bail!("peers cannot be measured here: {obstacle}");
    }
    let exporter = PeersExporter::find(!options.no_install)?;
    let mut lab = Lab::open()?;
    let machine = Machine::boot(&mut lab, "vpn-host")?;
    let reader = Reader::find(options.reader.as_deref(), machine)?;

    let mut rows = real_daemon(&mut lab, machine, &reader)?;
    let Figures { peers, extra_kib } = prepared_answers(machine, &reader)?;
    rows.extend(peers);
    let ours = rows.iter().find(|row| row.what == row_name(PREPARED[0]));
    let ours = ours.context("the first row of the prepared answers")?.ours;
    rows.push(growth(&rows)?);
    rows.push(through_the_reader(&reader)?);
    rows.push(Row::memory(extra_kib));
    rows.push(scrape(&mut lab, machine, &exporter, ours)?);

    anstream::println!("\n{}", table::show(&rows));
    let missed: Vec<String> = rows.iter().filter_map(Row::missed).collect();
    if missed.is_empty() {
        anstream::println!("peers: ok — every aim is met");
        return Ok(ExitCode::SUCCESS);
    }
    anstream::println!("peers: missed — {}", missed.join(", "));
    Ok(if options.strict {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn obstacle(may_install: bool) -> Result<Option<String>> {
    if let Some(obstacle) = machine::obstacle()? {
        return Ok(Some(obstacle));
    }
    let needs = [
        need("wg", "wireguard-tools"),
        need("wireguard-go", "wireguard-go"),
    ];
    apt::provide(&needs, may_install)
}

/// wireguard-go, with ever more peers that never shook hands. Its interface stays down, which
/// spares it a few threads a peer; whether it is up is asked in another network namespace, where
/// it is unknown.
fn real_daemon(lab: &mut Lab, machine: Machine, reader: &Reader) -> Result<Vec<Row>> {
    let mut command = machine.command("wireguard-go");
    command.args(["--foreground", INTERFACE]);
    lab.start("wireguard-go", command)?;
    lab.wait_for("the interface of wireguard-go", UP_WITHIN, || {
        machine.run(&["wg", "show", INTERFACE]).map(Some)
    })?;
    let mut rows = Vec::new();
    let mut there = 0;
    for peers in REAL {
        anstream::println!("wireguard-go with {peers} peers");
        let mut command = machine.command("wg");
        command.args(["addconf", INTERFACE, "/dev/stdin"]);
        let config = fake::config(there..peers);
        shell::succeed(command, Some(config.as_bytes()), CONFIGURED_WITHIN)?;
        there = peers;
        let (ours, wg, _) = by_turns(reader)?;
        let what = format!("wireguard-go, {} peers", thousands(peers));
        rows.push(Row::cpu(what, ours, wg, None));
    }
    lab.stop("wireguard-go")?;
    Ok(rows)
}

/// The prepared answers: CPU time beside `wg`, and memory beside an answer with one peer.
fn prepared_answers(machine: Machine, reader: &Reader) -> Result<Figures> {
    let least = {
        let _one = Fake::serve(machine, 1)?;
        reader.poll(READINGS)?.peak_kib
    };
    let mut rows = Vec::new();
    let mut extra_kib = 0;
    for peers in PREPARED {
        anstream::println!("a prepared answer with {peers} peers");
        let fake = Fake::serve(machine, peers)?;
        let (ours, wg, seen) = by_turns(reader)?;
        ensure!(
            seen.connected == fake.connected(),
            "of {} connected peers {} were seen, so the figures would mean nothing",
            fake.connected(),
            seen.connected
        );
        rows.push(Row::cpu(row_name(peers), ours, wg, Some(0.15)));
        extra_kib = seen.peak_kib.saturating_sub(least);
    }
    Ok(Figures {
        peers: rows,
        extra_kib,
    })
}

/// CPU times of the product's backend and of `wg`, in milliseconds, and what the former saw.
fn by_turns(reader: &Reader) -> Result<(f64, f64, Polls)> {
    let (mut ours, mut wg) = (Vec::new(), Vec::new());
    let mut seen = Polls::default();
    for _ in 0..TURNS {
        seen = reader.poll(READINGS)?;
        ours.extend_from_slice(&seen.cpu_ms);
        wg.extend(reader.wg(READINGS)?);
    }
    Ok((median(ours)?, median(wg)?, seen))
}

/// A kernel's dump through `vpn-node-wireguard`, beside the agent that asks the kernel itself.
fn through_the_reader(reader: &Reader) -> Result<Row> {
    let peers = PREPARED[1];
    anstream::println!("a prepared kernel with {peers} peers");
    let (mut ours, mut itself) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (relayed, direct) = reader.kernel(peers, READINGS)?;
        ours.extend(relayed);
        itself.extend(direct);
    }
    let what = format!("by the reader, {} peers", thousands(peers));
    Ok(Row::cpu(what, median(ours)?, median(itself)?, Some(1.2)))
}

/// From 10,000 to 100,000 peers: in proportion, or nearly so.
fn growth(rows: &[Row]) -> Result<Row> {
    let of = |peers| {
        let row = rows.iter().find(|row| row.what == row_name(peers));
        row.with_context(|| format!("{peers} peers were not measured"))
    };
    let (small, large) = (of(PREPARED[0])?, of(PREPARED[1])?);
    Ok(Row::growth(
        large.ours / small.ours,
        large.theirs / small.theirs,
    ))
}

/// The exporter runs `wg` itself; its own CPU time is taken and that of its children left out.
fn scrape(lab: &mut Lab, machine: Machine, exporter: &PeersExporter, ours: f64) -> Result<Row> {
    anstream::println!("prometheus_wireguard_exporter with {} peers", PREPARED[0]);
    let _fake = Fake::serve(machine, PREPARED[0])?;
    let theirs = exporter.scrape(lab, |program| in_mounts(machine, program), SCRAPES)?;
    Ok(Row::cpu(
        format!("one scrape, {} peers", thousands(PREPARED[0])),
        ours,
        theirs,
        Some(0.001),
    ))
}

fn row_name(peers: usize) -> String {
    format!("prepared, {} peers", thousands(peers))
}

/// `100,000`.
fn thousands(number: usize) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", number / 1000, number % 1000)
}

/// The middle one of an odd number of figures.
fn median(mut figures: Vec<f64>) -> Result<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.get(figures.len() / 2);
    middle.copied().context("nothing was measured")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_people_write_them() {
        assert_eq!(thousands(100_000), "100,000");
        assert_eq!(thousands(1_005), "1,005");
        assert_eq!(thousands(7), "7");
    }

    #[test]
    fn the_middle_figure_counts() {
        assert_eq!(median(vec![9.0, 1.0, 2.0]).unwrap(), 2.0);
        assert!(median(Vec::new()).is_err());
    }

    #[test]
    fn growth_is_of_the_prepared_answers() {
        let row = |peers, ours, theirs| Row::cpu(row_name(peers), ours, theirs, None);
        let rows = [row(10_000, 2.0, 20.0), row(100_000, 21.0, 190.0)];
        let growth = growth(&rows).unwrap();
        assert!((growth.ours - 10.5).abs() < 1e-9);
        assert!(growth.missed().is_none());
        assert!(super::growth(&rows[..1]).is_err());
    }
}
