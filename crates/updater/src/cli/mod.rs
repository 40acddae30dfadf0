//! `vpn-node-updater`: arguments, the wiring of a host, sentences and exit codes.

mod args;
mod root;
mod show;
mod supervise;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, geteuid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use vpn_node_release::code::{PolicyCode, UpdaterCode};

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, SupervisorKind};
use crate::disk::Disk;
use crate::error::{Kind, UpdateError};
use crate::host::Host;
use crate::layout::Layout;
use crate::lock::{self, Wait};
use crate::probation::Watch;
use crate::recovery::apply::to_rest;
use crate::run::{self, Outcome, rollback};
use crate::supervisor::Supervisor;
use crate::supervisor::plain::Plain;
use crate::supervisor::systemd::Systemd;
use crate::{plan, trust};
use args::{Arguments, Command};

/// How long a run of the service lasts at least. Longer than the 600 s / 20 of its limit of starts,
/// after which the path unit would give up for good: whoever is the agent's user could bring that
/// about with twenty requests, and a disk that is full with one.
const RETRY_AFTER: Duration = Duration::from_secs(35);

/// The command line's definition, for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// Parses, does it, tells it.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match act(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&told(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The sentence and its stable word.
fn told(error: &UpdateError) -> String {
    format!("{error} [{}]", error.code)
}

fn exit_code(error: &UpdateError) -> u8 {
    if error.code == UpdaterCode::Busy.as_str() {
        return 5;
    }
    if error.code == PolicyCode::AlreadyInstalled.as_str() {
        // What was wanted is there.
        return 0;
    }
    match error.kind {
        Kind::Failed => 1,
        Kind::Refused => 3,
        Kind::RolledBack => 4,
    }
}

fn act(arguments: Arguments) -> Result<(), UpdateError> {
    let layout = Layout::new(arguments.root);
    match arguments.command {
        Command::Status { json } => return show::status(&layout, json),
        Command::History { json } => return show::history(&layout, json),
        Command::Supervise { user, agent } => return supervise::run(&layout, user, agent),
        Command::Child { parent, words } => return Err(supervise::child(parent, &words)),
        _ => {}
    }
    need_root(&layout)?;
    let disk = Disk::default();
    prepare(&layout, &disk)?;
    let root = root::Root {
        layout: &layout,
        disk: &disk,
        clock: &SystemClock,
    };
    match arguments.command {
        Command::Run => {
            let began = SystemClock.now().boot;
            let done = on_host(&layout, &disk, Wait::Yes, |host| {
                tell(&run::run(host)?, "nothing was asked for");
                Ok(())
            });
            // The lock is free already: commands of root need not wait. Another supervisor than
            // systemd has a patience of its own.
            let waits = layout.incoming().join("request.json").exists();
            if layout.is_host() || (done.is_err() && waits) {
                let took = SystemClock.now().boot.saturating_sub(began);
                SystemClock.sleep(RETRY_AFTER.saturating_sub(took));
            }
            done
        }
        Command::Recover => recover(&layout, &disk),
        Command::Trust {
            file,
            sha256,
            replace,
        } => {
            let _lock = lock::whole(&layout, Wait::No)?;
            let now = SystemClock.now();
            let done = trust::install(&layout, &disk, now, &file, sha256, replace)?;
            let already = if done.already { " already" } else { "" };
            let version = done.version;
            say(&format!("trusts{already} root metadata version {version}"));
            say(&format!(
                "SHA-256 {}: compare it with what its publisher tells you",
                done.sha256
            ));
            root.tell_status();
            Ok(())
        }
        Command::Plan {
            offline,
            version,
            json,
        } => on_host(&layout, &disk, Wait::No, |host| {
            let planned = plan::plan(host, offline.as_deref(), version)?;
            show::plan(planned.as_ref(), json)
        }),
        Command::Apply { file, version } => {
            let config = Config::read(&layout)?;
            wired(&layout, &disk, &config, Wait::No, signals()?, |host| {
                tell(&run::apply(host, &file, version)?, "nothing to do");
                Ok(())
            })
        }
        Command::Rollback => on_host(&layout, &disk, Wait::No, |host| {
            tell(&rollback::rollback(host)?, "nothing to do");
            Ok(())
        }),
        Command::Pin { version } => root.pin(version),
        Command::Unpin => root.unpin(),
        Command::Disable => root.disable(true),
        Command::Enable => root.disable(false),
        Command::Unblock { version } => root.unblock(&version),
        // Done above.
        Command::Status { .. }
        | Command::History { .. }
        | Command::Supervise { .. }
        | Command::Child { .. } => Ok(()),
    }
}

/// Wires the real host, under the lock.
fn on_host(
    layout: &Layout,
    disk: &Disk,
    wait: Wait,
    act: impl FnOnce(&mut Host<'_>) -> Result<(), UpdateError>,
) -> Result<(), UpdateError> {
    let config = Config::read(layout)?;
    wired(layout, disk, &config, wait, Arc::default(), act)
}

fn wired(
    layout: &Layout,
    disk: &Disk,
    config: &Config,
    wait: Wait,
    stop: Arc<AtomicBool>,
    act: impl FnOnce(&mut Host<'_>) -> Result<(), UpdateError>,
) -> Result<(), UpdateError> {
    let _lock = lock::whole(layout, wait)?;
    let mut supervisor = supervisor(layout, config);
    let mut probation = Watch::new(layout, config, &SystemClock).until(stop);
    act(&mut Host {
        layout,
        disk,
        clock: &SystemClock,
        config,
        supervisor: supervisor.as_mut(),
        probation: &mut probation,
        log: &mut complain,
    })
}

/// A mistake in updater.toml must not stop a host from coming to rest.
fn recover(layout: &Layout, disk: &Disk) -> Result<(), UpdateError> {
    let config = Config::read(layout).unwrap_or_else(|error| {
        complain(&format!("{error}; recovering with the defaults"));
        Config::default()
    });
    wired(layout, disk, &config, Wait::Yes, Arc::default(), to_rest)?;
    // The services that call this at each start and stop leave the journal to what happens.
    if std::io::stdout().is_terminal() {
        say("nothing is left half done");
    }
    Ok(())
}

/// Set by the signals that end a program of a person. No service stands behind that one which would
/// send a version home that nobody watches any more (`ExecStopPost=`), so it does it itself.
fn signals() -> Result<Arc<AtomicBool>, UpdateError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|error| {
            UpdateError::failed(
                UpdaterCode::StartFailed,
                format!("cannot listen for signals: {error}"),
            )
        })?;
    }
    Ok(stop)
}

/// A tree that is not the host itself must never move the host's units.
fn supervisor(layout: &Layout, config: &Config) -> Box<dyn Supervisor> {
    match config.supervisor {
        SupervisorKind::Systemd if layout.is_host() => Box::new(Systemd::default()),
        SupervisorKind::Systemd | SupervisorKind::Plain => Box::new(Plain::new(layout)),
    }
}

fn need_root(layout: &Layout) -> Result<(), UpdateError> {
    if geteuid().is_root() || !layout.is_host() {
        return Ok(());
    }
    Err(UpdateError::failed(
        UpdaterCode::NotRoot,
        "only root may do this: use sudo",
    ))
}

/// The updater's own directory; nothing above it is made, so a typo in --root makes no tree.
fn prepare(layout: &Layout, disk: &Disk) -> Result<(), UpdateError> {
    let state = layout.state();
    let above = state.parent().unwrap_or(layout.root());
    if access(above, AccessFlags::F_OK) == Err(Errno::ENOENT) {
        return Err(UpdateError::failed(
            UpdaterCode::DiskError,
            format!(
                "cannot create {}: there is no {above}; correct --root, or make it (mkdir -p {above})",
                state.display(),
                above = above.display()
            ),
        ));
    }
    let place = if state.exists() { &state } else { above };
    if !geteuid().is_root() && access(place, AccessFlags::W_OK) == Err(Errno::EACCES) {
        return Err(UpdateError::failed(
            UpdaterCode::NotRoot,
            format!("only root may write in {}: use sudo", place.display()),
        ));
    }
    disk.ensure_dir(&state, 0o755)
}

fn tell(outcome: &Outcome, nothing: &str) {
    match outcome {
        Outcome::Nothing => say(nothing),
        Outcome::Installed { version, remark } => {
            say(&format!("version {version} is installed and runs"));
            if let Some(remark) = remark {
                say(remark);
            }
        }
    }
}

/// A line on standard output. Nobody may be reading any more (`| head`): that is no failure.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line on standard error. The terminal may be gone: what is under way must not end by that.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "vpn-node-updater: {line}");
}
