//! `vpn-node identity`: how the identity key lies on this host's disk, and sealing it.

use std::path::Path;

use serde_json::json;

use super::args::{Global, IdentityCommand};
use super::console::Console;
use super::{Exit, reach, rotate};
use crate::core::report::SCHEMA;
use crate::core::{shown, shown_path};
use crate::host::sealing::{self, PROGRAM_DIRS, SealWith, SealingError, SystemdCreds};
use crate::host::state::{StateDir, StateError};

/// Looks, seals or unseals, in the configured state directory.
pub(super) fn run(global: &Global, command: IdentityCommand, console: &mut Console<'_>) -> Exit {
    let json = matches!(command, IdentityCommand::Status { json: true });
    let settings = match reach::settings(global) {
        Ok(settings) => settings,
        Err(error) => {
            reach::say("config", &error.to_string(), None, json, console);
            return Exit::Failed;
        }
    };
    let state = StateDir::new(&settings.state_dir);
    let done = match command {
        IdentityCommand::Status { json } => status(&state, json, console),
        IdentityCommand::Seal { with } => as_root(console, || seal(&state, &with)),
        IdentityCommand::Unseal => as_root(console, || unseal(&state)),
        IdentityCommand::Rotate => return rotate::run(global, console),
    };
    match done {
        Ok(exit) => exit,
        Err(SealingError::State(error @ StateError::NotEnrolled)) => {
            let message = error.to_string();
            reach::say("not_enrolled", &message, Some(false), json, console);
            Exit::NotEnrolled
        }
        Err(error) => {
            let message = shown(&error.to_string()).to_string();
            reach::say("state", &message, None, json, console);
            Exit::Failed
        }
    }
}

fn status(state: &StateDir, json: bool, console: &mut Console<'_>) -> Result<Exit, SealingError> {
    let enrolment = state.enrolment()?.ok_or(StateError::NotEnrolled)?;
    let sealed = sealing::status(state)?;
    let key = enrolment.identity_key.id();
    if json {
        console.json(&json!({
            "schema": SCHEMA,
            "server_id": enrolment.server_id,
            "key_id": key,
            "epoch": enrolment.epoch,
            "sealed": sealed.is_some(),
            "sealed_with": sealed.map(|with| with.to_string()),
        }));
        return Ok(Exit::Ok);
    }
    let lies = match sealed {
        Some(with) => format!("sealed to this machine (systemd-creds, {with})"),
        None => "in plain, readable by the agent's user alone".to_owned(),
    };
    console.out(&format!(
        "Key       {key}\nEpoch     {}\nServer    {}\nIn        {}\nOn disk   {lies}\n",
        enrolment.epoch,
        shown(&enrolment.server_id),
        shown_path(state.path()),
    ));
    Ok(Exit::Ok)
}

/// systemd-creds needs root, and so do the state directory's owner and modes, to be kept.
fn as_root(
    console: &mut Console<'_>,
    change: impl FnOnce() -> Result<String, SealingError>,
) -> Result<Exit, SealingError> {
    if !nix::unistd::geteuid().is_root() {
        console.error("only root can seal and unseal the identity key: run it with sudo.");
        return Ok(Exit::Failed);
    }
    console.out(&change()?);
    Ok(Exit::Ok)
}

fn seal(state: &StateDir, with: &str) -> Result<String, SealingError> {
    let with = SealWith::from_name(with).expect("the parser knows the same names");
    let creds = SystemdCreds::find(&PROGRAM_DIRS.map(Path::new))?;
    // Neither an agent nor an enrolment may read or write the identity meanwhile.
    let _locks = (state.lock()?, state.lock_enrolment()?);
    let sealed = sealing::seal(state, &creds, with)?;
    Ok(format!(
        "The identity key is sealed to this machine (systemd-creds, {sealed}).\n\
         Start the agent again: systemctl start vpn-node-agent\n"
    ))
}

fn unseal(state: &StateDir) -> Result<String, SealingError> {
    let creds = SystemdCreds::find(&PROGRAM_DIRS.map(Path::new))?;
    let _locks = (state.lock()?, state.lock_enrolment()?);
    sealing::unseal(state, &creds)?;
    Ok(
        "The identity key is in plain again, readable by the agent's user alone.\n\
        Start the agent again: systemctl start vpn-node-agent\n"
            .to_owned(),
    )
}
