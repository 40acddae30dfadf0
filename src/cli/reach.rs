//! Finding the agent, and saying why it was not found: not running and not enrolled are two things.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::Exit;
use super::args::Global;
use super::console::Console;
use crate::config::{self, ConfigError, Effective, Settings};
use crate::core::report::SCHEMA;
use crate::core::shown_path;
use crate::host::state::{Enrolment, StateDir};
use crate::remote::{self, TlsError};
use crate::status::{Client, ClientError};

/// Where this command looks.
pub(super) struct Place {
    pub(super) client: Client,
    enrollment_file: PathBuf,
    /// Where the updater keeps its state.
    pub(super) updater_dir: PathBuf,
    /// The agent's settings are faulty, so it does not start.
    fault: Option<ConfigError>,
    state_dir: PathBuf,
    /// What the agent reads at its start.
    ca_file: Option<PathBuf>,
}

/// The place by options and configuration. A question works with a broken configuration too (the
/// agent runs with the one of its start), but a file that was named must be good.
pub(super) fn place(global: &Global, json: bool, console: &mut Console<'_>) -> Result<Place, Exit> {
    let loaded = config::load(global.config.as_deref());
    place_by(loaded, global, json, console)
}

/// The same with what came of loading.
pub(super) fn place_by(
    loaded: Result<Effective, ConfigError>,
    global: &Global,
    json: bool,
    console: &mut Console<'_>,
) -> Result<Place, Exit> {
    let mut fault = None;
    let settings = match loaded {
        Ok(effective) => effective.settings,
        // An ordinary user need not be able to read it.
        Err(error) if global.config.is_none() && error.is_permission_denied() => {
            Settings::default()
        }
        Err(error) if global.config.is_none() => {
            console.warning(format_args!(
                "the settings have a mistake, so the default places are asked: {error}"
            ));
            fault = Some(error);
            Settings::default()
        }
        Err(error) => {
            say("config", &error.to_string(), None, json, console);
            return Err(Exit::Failed);
        }
    };
    let mut settings = settings;
    apply_options(&mut settings, global);
    let socket = global.socket.clone();
    Ok(Place {
        client: Client::new(&socket.unwrap_or_else(|| settings.status_socket())),
        enrollment_file: settings.enrollment_file(),
        updater_dir: settings.updater_dir(),
        fault,
        state_dir: settings.state_dir,
        ca_file: settings.controller.ca_file,
    })
}

/// The settings for a command that acts: the configuration must be good.
pub(super) fn settings(global: &Global) -> Result<Settings, ConfigError> {
    let mut settings = config::load(global.config.as_deref())?.settings;
    apply_options(&mut settings, global);
    Ok(settings)
}

/// `--state-dir` counts more than the configuration.
pub(super) fn apply_options(settings: &mut Settings, global: &Global) {
    if let Some(folder) = &global.state_dir {
        // Without a working directory a relative path stays as it was given.
        settings.state_dir = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
    }
}

/// What the settings name and cannot be used, so that the agent does not start; as far as this user
/// may look.
fn unusable_ca_file(place: &Place) -> Option<TlsError> {
    let error = remote::check_ca_file(place.ca_file.as_deref()?).err()?;
    let is_pinned = |enrolment: &Enrolment| enrolment.server_pin.is_some();
    match (&error, StateDir::new(&place.state_dir).enrolment()) {
        (TlsError::CaFileDenied { .. }, _) => None,
        // It is not read for a controller that the token pinned.
        (_, Ok(Some(enrolment))) if is_pinned(&enrolment) => None,
        _ => Some(error),
    }
}

/// Whether an enrolment is stored; none if this user may not look.
fn is_enrolled(file: &Path) -> Option<bool> {
    match std::fs::symlink_metadata(file) {
        Ok(_) => Some(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// Says why there is no answer, and returns the exit code for it.
pub(super) fn explain(
    place: &Place,
    error: &ClientError,
    json: bool,
    console: &mut Console<'_>,
) -> Exit {
    if let ClientError::NotRunning { path, .. } = error {
        if let Some(fault) = &place.fault {
            let what = match json {
                true => format!(": {fault}"),
                // A program reads the message alone.
                false => " (the warning says where)".to_owned(),
            };
            return faulty(&what, path, json, console);
        }
        if let Some(fault) = unusable_ca_file(place) {
            return faulty(&format!(": {fault}"), path, json, console);
        }
    }
    let enrolled = match error {
        ClientError::NotRunning { .. } => is_enrolled(&place.enrollment_file),
        _ => None,
    };
    let (code, message, exit) = match (error, enrolled) {
        (ClientError::NotRunning { .. }, Some(false)) => (
            "not_enrolled",
            format!(
                "This host is not enrolled ({} does not exist), and the agent is not running. Run \
                 `vpn-node enroll` as root with a token from the controller.",
                shown_path(&place.enrollment_file)
            ),
            Exit::NotEnrolled,
        ),
        (ClientError::NotRunning { .. }, Some(true)) => (
            "not_running",
            format!("{error} This host is enrolled."),
            Exit::Unreachable,
        ),
        (ClientError::NotRunning { .. }, None) => (
            "not_running",
            format!("{error} Only root can see whether this host is enrolled."),
            Exit::Unreachable,
        ),
        (ClientError::Timeout { .. }, _) => ("timeout", error.to_string(), Exit::Unreachable),
        (ClientError::Denied { by_agent: true, .. }, _) => {
            ("denied", error.to_string(), Exit::Failed)
        }
        (ClientError::Denied { .. }, _) => ("denied", error.to_string(), Exit::Unreachable),
        (ClientError::Refused { .. }, _) => ("refused", error.to_string(), Exit::Unreachable),
        (ClientError::Garbage { .. }, _) => ("garbage", error.to_string(), Exit::Unreachable),
        (ClientError::Io { .. }, _) => ("io", error.to_string(), Exit::Unreachable),
    };
    say(code, &message, enrolled, json, console);
    exit
}

/// To start it would not help.
fn faulty(what: &str, socket: &Path, json: bool, console: &mut Console<'_>) -> Exit {
    let message = format!(
        "vpn-node-agent does not answer on {}, and it does not start while its settings have a \
         mistake{what}. Mend that until `vpn-node config check` says good, then run `systemctl \
         start vpn-node-agent`.",
        shown_path(socket)
    );
    say("config", &message, None, json, console);
    Exit::Unreachable
}

/// The agent runs and waits for an enrolment: says so, and returns the exit code for it.
pub(super) fn not_enrolled(json: bool, console: &mut Console<'_>) -> Exit {
    let message = "This host is not enrolled. Run `vpn-node enroll` as root with a token from the \
                   controller.";
    say("not_enrolled", message, Some(false), json, console);
    Exit::NotEnrolled
}

/// A failure, for a person or for a program.
pub(super) fn say(
    code: &str,
    message: &str,
    enrolled: Option<bool>,
    json: bool,
    console: &mut Console<'_>,
) {
    if json {
        let value = json!({
            "schema": SCHEMA,
            "error": { "code": code, "message": message },
            "enrolled": enrolled,
        });
        console.json(&value);
    } else {
        console.error(message);
    }
}
