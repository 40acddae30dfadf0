//! `supervise` and the hidden `child`: the agent without systemd.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::unistd::{Gid, Uid, User};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use vpn_node_release::code::UpdaterCode;

use crate::error::UpdateError;
use crate::layout::{Layout, updater_program};
use crate::supervisor::plain::{Plan, exec_child, supervise};

/// Runs the agent until a signal comes.
pub(super) fn run(
    layout: &Layout,
    user: Option<String>,
    agent_arguments: Vec<OsString>,
) -> Result<(), UpdateError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        let set = flag::register(signal, stop.clone());
        set.map_err(|error| failed(format!("cannot listen for signals: {error}")))?;
    }
    let own = std::env::current_exe()
        .map_err(|error| failed(format!("cannot find this program: {error}")))?;
    // The newest one works; the one that runs now stays the supervisor until it is restarted.
    let stable = updater_program(&layout.stable());
    let words = |program: PathBuf, command: &str| -> Vec<OsString> {
        let root = layout.root().as_os_str().to_owned();
        vec![program.into(), "--root".into(), root, command.into()]
    };
    let plan = Plan {
        layout: layout.clone(),
        agent_arguments,
        user: user.map(|name| account(&name)).transpose()?,
        recover: words(own.clone(), "recover"),
        updater: words(stable, "run"),
        launcher: vec![
            own.into(),
            "child".into(),
            std::process::id().to_string().into(),
            "--".into(),
        ],
    };
    supervise(&plan, &stop).map_err(Into::into)
}

/// Does not return unless it failed.
pub(super) fn child(parent: u32, words: &[OsString]) -> UpdateError {
    let error = exec_child(parent, words);
    failed(format!("cannot start {words:?}: {error}"))
}

fn account(name: &str) -> Result<(Uid, Gid), UpdateError> {
    let found = User::from_name(name)
        .map_err(|errno| failed(format!("cannot look up the user {name:?}: {errno}")))?;
    let user = found.ok_or_else(|| {
        failed(format!(
            "there is no user {name:?}; make it, or leave --user out"
        ))
    })?;
    Ok((user.uid, user.gid))
}

fn failed(sentence: String) -> UpdateError {
    UpdateError::failed(UpdaterCode::StartFailed, sentence)
}
