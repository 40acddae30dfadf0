//! The demo without root: the same demo, run again inside a user namespace of ours.
//!
//! In there we are root over namespaces of our own, which is all that it needs; kernel
//! WireGuard works then, wireguard-go only where everybody may open /dev/net/tun.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Options;
use crate::build::Programs;
use crate::shell;

/// Continues in a user namespace if we are not root and may make one; then it does not return.
/// It returns if the demo should go on as it is.
pub(crate) fn become_root_of_a_namespace(options: &Options, programs: &Programs) -> Result<()> {
    if shell::is_root() || shell::find("unshare").is_none() {
        return Ok(());
    }
    let mut probe = unshare();
    probe.arg("true");
    if !shell::output(probe, None, Duration::from_secs(10))?
        .status
        .success()
    {
        return Ok(());
    }
    anstream::println!("not root: going on inside a user namespace, where we are");
    let mut again = unshare();
    again
        .arg(std::env::current_exe().context("cannot find this program's own file")?)
        .arg("demo")
        // The root of a namespace cannot install packages.
        .arg("--no-install")
        .arg("--programs")
        .arg(programs.cli.parent().unwrap_or(Path::new(".")));
    if options.keep {
        again.arg("--keep");
    }
    // In place of this process, so that signals and the exit status need no forwarding.
    Err(again.exec()).context("cannot run unshare")
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--"]);
    command
}
