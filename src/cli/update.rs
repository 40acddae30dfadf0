//! `vpn-node update`: what the updater says is read here, by anyone; what changes the host is done
//! by the updater, which this program becomes when root asks.

mod follow;
mod show;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use vpn_node_release::handover::{MAX_FILE_BYTES, Status as Installed};

use super::args::{Global, UpdateCommand};
use super::console::Console;
use super::{Exit, reach};
use crate::core::report::{SCHEMA, UpdateStatus};
use crate::core::{shown, shown_path};
use crate::host::{atomic, installation};
use crate::status::{ClientError, Status};

/// The updater's program.
const UPDATER: &str = "vpn-node-updater";
/// The agent's state directory on a host; above it the updater's `--root`.
const STATE_DIR: &str = "var/lib/vpn-node";

/// Shows, asks the agent, or becomes the updater.
pub(super) fn run(global: &Global, command: UpdateCommand, console: &mut Console<'_>) -> Exit {
    match command {
        UpdateCommand::Status { json, watch } => status(global, json, watch, console),
        UpdateCommand::History { json } => history(global, json, console),
        UpdateCommand::Apply {
            release: Some(version),
            offline: None,
            no_wait,
        } => apply(global, &version, no_wait, console),
        other => as_updater(global, &other, console),
    }
}

/// What is known: from the agent if it answers and this user may ask, and from the updater's file,
/// at which the agent looks once a minute.
struct Known {
    update: UpdateStatus,
    /// Whether the agent said it.
    by_agent: bool,
}

fn known(place: &reach::Place) -> Result<Known, String> {
    let updater = installed(&place.updater_dir);
    let trusts = |status: &Installed| status.root_version.is_some();
    if let Ok(Status::Full(report)) = place.client.status()
        && let Some(mut update) = report.update
    {
        if let Ok(Some(fresh)) = updater {
            update.managed = trusts(&fresh);
            update.updater = Some(fresh);
        }
        let by_agent = true;
        return Ok(Known { update, by_agent });
    }
    let updater = updater?;
    let update = UpdateStatus {
        managed: updater.as_ref().is_some_and(trusts),
        updater,
        ..UpdateStatus::default()
    };
    Ok(Known {
        update,
        by_agent: false,
    })
}

fn installed(updater_dir: &Path) -> Result<Option<Installed>, String> {
    let path = updater_dir.join("status.json");
    let limit = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
    match atomic::read_bounded(&path, limit) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let path = shown_path(&path);
            format!("{path} is not understood ({error}); the updater writes it anew")
        }),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn status(global: &Global, json: bool, watch: bool, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, json, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    if watch {
        return follow::until_nothing_goes_on(&place, console);
    }
    match known(&place) {
        Ok(known) if json => {
            let update = match known.by_agent {
                true => serde_json::to_value(&known.update),
                false => Ok(json!({ "updater": known.update.updater })),
            };
            console.json(&json!({ "schema": SCHEMA, "update": update.unwrap_or_default() }));
            Exit::Ok
        }
        Ok(known) => {
            console.out(&show::screen(&known));
            Exit::Ok
        }
        Err(error) => {
            reach::say("status", &error, None, json, console);
            Exit::Failed
        }
    }
}

fn history(global: &Global, json: bool, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, json, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    match show::read_history(&place.updater_dir) {
        Ok(lines) if json => {
            console.json(&json!({ "schema": SCHEMA, "history": lines }));
            Exit::Ok
        }
        Ok(lines) => {
            console.out(&show::history(&lines));
            Exit::Ok
        }
        Err(error) => {
            reach::say("history", &error, None, json, console);
            Exit::Failed
        }
    }
}

/// Has the agent fetch a version, and follows it.
fn apply(global: &Global, version: &str, no_wait: bool, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, false, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    match place.client.apply_release(version) {
        Ok(answer) if answer.begun => {
            console.out(&format!("{}\n", shown(&answer.detail)));
            match no_wait {
                true => Exit::Ok,
                false => follow::version(&place, version, console),
            }
        }
        Ok(answer) => {
            let detail = shown(&answer.detail);
            console.error(format_args!("{} is not fetched: {detail}", shown(version)));
            Exit::Failed
        }
        // The group is not enough here, so the usual advice would mislead.
        Err(ClientError::Denied {
            detail,
            by_agent: true,
            ..
        }) => {
            console.error(format_args!("{} Run this as root.", shown(&detail)));
            Exit::Failed
        }
        Err(error) => reach::explain(&place, &error, false, console),
    }
}

/// Becomes the updater: its output and exit code are its own.
fn as_updater(global: &Global, command: &UpdateCommand, console: &mut Console<'_>) -> Exit {
    if !nix::unistd::geteuid().is_root() {
        console.error("only root can do this: run it with sudo.");
        return Exit::Failed;
    }
    let settings = match reach::settings(global) {
        Ok(settings) => settings,
        Err(error) => {
            console.error(error);
            return Exit::Failed;
        }
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = installation::here().programs.as_deref();
    let Some(program) = find(beside, &path) else {
        console.error(format_args!(
            "{UPDATER} is neither beside this program nor in PATH, so this host installs no \
             releases: install the package vpn-node-agent, which brings it."
        ));
        return Exit::Failed;
    };
    let error = std::process::Command::new(&program)
        .args(arguments(command, root_of(&settings.state_dir)))
        .exec();
    console.error(format_args!(
        "cannot start {}: {error}",
        shown_path(&program)
    ));
    Exit::Failed
}

/// The sister of this program: of the same release. Else the first in PATH.
fn find(beside: Option<&Path>, path: &OsStr) -> Option<PathBuf> {
    let in_path = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    let folders = beside.map(Path::to_owned).into_iter().chain(in_path);
    folders
        .map(|folder| folder.join(UPDATER))
        .find(|program| program.is_file())
}

/// The tree that a state directory belongs to, if it is that of another one than the host's.
fn root_of(state_dir: &Path) -> Option<PathBuf> {
    let parts = Path::new(STATE_DIR).components().count();
    let root = state_dir.ancestors().nth(parts)?;
    let elsewhere = root != Path::new("/") && state_dir.ends_with(STATE_DIR);
    elsewhere.then(|| root.to_owned())
}

/// The updater's command line.
fn arguments(command: &UpdateCommand, root: Option<PathBuf>) -> Vec<OsString> {
    // One word: a value that begins with - is no option.
    let option = |name: &str, value: &OsStr| {
        let mut word = OsString::from(format!("--{name}="));
        word.push(value);
        word
    };
    let text = |name: &str, value: &Option<String>| {
        let value = value.as_ref();
        value.map(|value| option(name, value.as_ref()))
    };
    let mut line: Vec<OsString> = Vec::new();
    line.extend(root.map(|root| option("root", root.as_os_str())));
    line.push(name(command).into());
    let operand: Option<OsString> = match command {
        UpdateCommand::Apply {
            release, offline, ..
        } => {
            line.extend(text("version", release));
            offline.clone().map(OsString::from)
        }
        UpdateCommand::Plan {
            offline,
            release,
            json,
        } => {
            let offline = offline.as_ref();
            line.extend(offline.map(|file| option("offline", file.as_os_str())));
            line.extend(text("version", release));
            line.extend(json.then(|| "--json".into()));
            None
        }
        UpdateCommand::Trust {
            file,
            sha256,
            replace,
        } => {
            line.extend(text("sha256", sha256));
            line.extend(replace.then(|| "--replace".into()));
            Some(file.into())
        }
        UpdateCommand::Pin { release } | UpdateCommand::Unblock { release } => Some(release.into()),
        _ => None,
    };
    if let Some(operand) = operand {
        line.push("--".into());
        line.push(operand);
    }
    line
}

/// The updater's name of a command; those that are read here have the same.
fn name(command: &UpdateCommand) -> &'static str {
    match command {
        UpdateCommand::Status { .. } => "status",
        UpdateCommand::History { .. } => "history",
        UpdateCommand::Apply { .. } => "apply",
        UpdateCommand::Plan { .. } => "plan",
        UpdateCommand::Rollback => "rollback",
        UpdateCommand::Pin { .. } => "pin",
        UpdateCommand::Unpin => "unpin",
        UpdateCommand::Disable => "disable",
        UpdateCommand::Enable => "enable",
        UpdateCommand::Unblock { .. } => "unblock",
        UpdateCommand::Trust { .. } => "trust",
    }
}

#[cfg(test)]
mod tests;
