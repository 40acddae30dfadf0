//! The agent of a release in this machine: it serves a status socket, tells systemd that it is
//! ready, and misbehaves as its release was made to.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, raise};
use serde_json::json;

const SOCKET: &str = "/run/vpn-node/status.sock";

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct Options {
    behaviour: Behaviour,
    version: String,
    /// What the unit file says behind the program
    arguments: Vec<String>,
}

/// What a release does when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Behaviour {
    Good,
    /// After three seconds.
    Crashes,
    /// Exit code 78.
    CannotReadState,
    /// After three seconds.
    Hangs,
    /// Tells systemd that it is ready, and then ends as if that were right.
    Ends,
}

impl Behaviour {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Crashes => "crashes",
            Self::CannotReadState => "cannot-read-state",
            Self::Hangs => "hangs",
            Self::Ends => "ends",
        }
    }
}

/// Runs until it is ended, or ends itself.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    // --probe-hardware, --unseal-identity: there is none here.
    if !options.arguments.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if options.behaviour == Behaviour::CannotReadState {
        return Ok(ExitCode::from(78));
    }
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET).context("cannot listen")?;
    listener.set_nonblocking(true)?;
    let began = Instant::now();
    let mut told = None;
    loop {
        if told.is_none_or(|told: Instant| told.elapsed() > Duration::from_secs(5)) {
            tell_systemd()?;
            told = Some(Instant::now());
        }
        if began.elapsed() > Duration::from_secs(3) {
            match options.behaviour {
                Behaviour::Crashes => raise(Signal::SIGABRT)?,
                Behaviour::Hangs => raise(Signal::SIGSTOP)?,
                Behaviour::Ends => return Ok(ExitCode::SUCCESS),
                Behaviour::Good | Behaviour::CannotReadState => {}
            }
        }
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false)?;
                BufReader::new(&stream).read_line(&mut String::new())?;
                let _ = stream.write_all(report(&options.version).as_bytes());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// sd_notify(3).
fn tell_systemd() -> Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to(b"READY=1\nWATCHDOG=1\n", path)?;
    Ok(())
}

fn report(version: &str) -> String {
    let report = json!({
        "schema": 1,
        "version": version,
        "age_s": 0,
        // Long enough that nobody waits for it to find its VPN daemons.
        "uptime_s": 600,
        "enrolled": true,
        "backends": [{"kind": "wireguard", "instance": "wg0", "state": "up", "sessions": 5}],
        "heartbeats": {"attempted": 3, "accepted": 3, "last_problem": "none"},
        "last_heartbeat": {"at_ms": 1, "accepted": true, "last_error": null},
        "ledger": {"writable": true, "error": null},
    });
    format!("{}\n", json!({"v": 1, "scope": "full", "ok": report}))
}
