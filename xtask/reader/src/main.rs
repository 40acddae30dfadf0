//! What `cargo xtask bench peers` measures: the agent's own WireGuard backend, alone in a process,
//! and beside it any other program that reads the same.
//!
//! `wireguard-reader poll DIR COUNT` polls the sockets in DIR; `wireguard-reader kernel PEERS COUNT`
//! reads a prepared kernel, itself and through the reader process; `wireguard-reader run COUNT PROGRAM
//! ARGUMENTS…` runs a program. Each prints one line of JSON. It is never shipped.

mod relay;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;
use vpn_node::{
    core::sessions::Obs,
    host::clock,
    vpn::{
        Report,
        wireguard::{Settings, WireGuard},
    },
};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["poll", dir, count] => poll(dir, count.parse()?),
        ["kernel", peers, count] => relay::run(peers.parse()?, count.parse()?),
        ["run", count, program, ref arguments @ ..] => run(count.parse()?, program, arguments),
        _ => bail!(
            "usage: wireguard-reader poll DIR COUNT | kernel PEERS COUNT | run COUNT PROGRAM ARGUMENTS…"
        ),
    }
}

/// Reads and compares `count` times, after a first poll that learns who is there.
fn poll(dir: &str, count: usize) -> Result<()> {
    let settings = Settings {
        socket_dir: PathBuf::from(dir),
        kernel: true,
        reader: None,
        poll: Duration::ZERO,
    };
    let mut wireguard = WireGuard::new(settings, []);
    let mut seen = Seen::default();
    seen.take(wireguard.poll(clock::now()))?;
    let mut micros = Vec::new();
    for _ in 0..count {
        let before = cpu(UsageWho::RUSAGE_SELF)?;
        let reports = wireguard.poll(clock::now());
        let after = cpu(UsageWho::RUSAGE_SELF)?;
        micros.push((after - before).as_micros());
        seen.take(reports)?;
    }
    let line = json!({
        "cpu_us": micros,
        "connected": seen.connected,
        "updates": seen.updates,
        "peak_kib": peak_kib()?,
    });
    println!("{line}");
    Ok(())
}

/// What the polls told, so that nobody measures a reader that read nothing.
#[derive(Default)]
struct Seen {
    connected: usize,
    updates: usize,
}

impl Seen {
    fn take(&mut self, reports: Vec<Report>) -> Result<()> {
        for obs in reports.into_iter().flat_map(|report| report.obs) {
            match obs {
                Obs::Snapshot {
                    complete, sessions, ..
                } => {
                    ensure!(complete, "an answer was not whole");
                    self.connected += sessions.len();
                }
                Obs::Up(_) => self.connected += 1,
                Obs::Update(_) => self.updates += 1,
                Obs::Unavailable { error, .. } => bail!("{error}"),
                Obs::Reset { .. } | Obs::Rekey { .. } | Obs::Down { .. } => {}
            }
        }
        Ok(())
    }
}

/// Runs a program `count` times; its output goes nowhere, which is the cheapest for it.
fn run(count: usize, program: &str, arguments: &[&str]) -> Result<()> {
    let mut micros = Vec::new();
    for _ in 0..count {
        let before = cpu(UsageWho::RUSAGE_CHILDREN)?;
        let status = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .status()
            .with_context(|| format!("cannot start {program}"))?;
        ensure!(status.success(), "{program} failed: {status}");
        let after = cpu(UsageWho::RUSAGE_CHILDREN)?;
        micros.push((after - before).as_micros());
    }
    println!("{}", json!({ "cpu_us": micros }));
    Ok(())
}

/// User and system time so far (getrusage(2)).
fn cpu(whose: UsageWho) -> Result<Duration> {
    let usage = getrusage(whose).context("getrusage failed")?;
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or_default()
    };
    Ok(Duration::from_micros(
        micros(usage.user_time()) + micros(usage.system_time()),
    ))
}

/// The most memory that this process ever had resident, in KiB (`VmHWM` of proc(5)).
fn peak_kib() -> Result<u64> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("/proc/self/status has no VmHWM")?.parse()?)
}
