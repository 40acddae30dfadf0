//! The daemon's command line, its logging and its runtime.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser};

use super::source::Source;
use crate::config::Settings;
use crate::core::journal;
use crate::host::hardware::{Roots, snapshot};
use crate::host::state::{StateDir, StateError};
use crate::host::{installation, logging, sealing, secrecy};

/// `SYSLOG_IDENTIFIER` of every entry.
const IDENTIFIER: &str = "vpn-node-agent";
/// EX_CONFIG of sysexits.h(3): starting again does not help.
const NEWER_STATE: u8 = 78;

/// The agent of a VPN host: identity, heartbeats, connection records.
///
/// systemd starts it (vpn-node-agent.service); by hand it runs in the foreground and logs to
/// the terminal. `vpn-node status` tells how it is.
#[derive(Debug, Parser)]
#[command(name = "vpn-node-agent", version = installation::version_line())]
struct Arguments {
    /// Configuration file; its fragments are in FILE's name with ".d" for ".toml"
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where identity, enrolment and ledger are kept; overrides state_dir of the configuration
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the status socket is made; overrides runtime_dir of the configuration
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// As root: write the hardware facts that only root can read to the runtime directory, and end
    #[arg(long)]
    probe_hardware: bool,
    /// As root: unseal the identity key, if it is sealed, for the start that follows, and end
    #[arg(long, conflicts_with = "probe_hardware")]
    unseal_identity: bool,
}

/// The command line's definition, for man pages and completions.
#[must_use]
pub fn command_line() -> clap::Command {
    Arguments::command()
}

/// Parses the arguments and runs the daemon until it is told to stop.
/// Exit codes: 0 stopped in order, 1 could not start or had to stop, 2 usage, 78 the state was
/// written by a newer version.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // A closed terminal is no reason to fail differently.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match prepare(&arguments).and_then(|ready| ready.map_or(Ok(()), serve)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = sentence(&error);
            // A start can fail before the settings say how much is to be logged.
            if tracing::dispatcher::has_been_set() || logging::init_in_journal(IDENTIFIER) {
                tracing::error!(
                    message_id = %journal::START_FAILED,
                    "{text}"
                );
            } else {
                anstream::eprintln!("vpn-node-agent: {text}");
            }
            match error.downcast_ref() {
                Some(super::Error::State(StateError::Format { .. })) => ExitCode::from(NEWER_STATE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The chain of reasons as one line; what a sentence says already is not said again.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for reason in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
    }
    text
}

/// Settings and logging for the daemon; none when everything asked for is done already.
fn prepare(arguments: &Arguments) -> anyhow::Result<Option<(Settings, Source)>> {
    let undumped = secrecy::forbid_dumps();
    let source = source(arguments)?;
    let settings = source.load()?;
    if arguments.probe_hardware {
        snapshot::write(&Roots::host(&settings.runtime_dir))?;
        return Ok(None);
    }
    if arguments.unseal_identity {
        let state = StateDir::new(&settings.state_dir);
        let program_dirs = sealing::PROGRAM_DIRS.map(Path::new);
        sealing::unseal_for_start(&state, &settings.runtime_dir, &program_dirs)?;
        return Ok(None);
    }
    logging::init(IDENTIFIER, settings.log_level.as_str())?;
    if let Err(error) = undumped {
        tracing::warn!(
            message_id = %journal::HOST_UNUSUAL,
            %error, "core dumps of this process cannot be forbidden: they would hold its keys"
        );
    }
    Ok(Some((settings, source)))
}

fn serve((settings, source): (Settings, Source)) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")?;
    let result = runtime.block_on(super::run::run(settings, source));
    // Not waiting for the look-up of a name that nobody answers: it is the only thing left.
    runtime.shutdown_background();
    Ok(result?)
}

fn source(arguments: &Arguments) -> std::io::Result<Source> {
    let absolute = |dir: &Option<PathBuf>| dir.as_deref().map(std::path::absolute).transpose();
    Ok(Source {
        config: arguments.config.clone(),
        state_dir: absolute(&arguments.state_dir)?,
        runtime_dir: absolute(&arguments.runtime_dir)?,
    })
}
