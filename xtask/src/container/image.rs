//! An image that is built in a chroot, without a running systemd, and booted later: packages of an
//! image are enabled for the first boot, and start nothing before it.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::host::{Expect, Host, PATH_UNIT};
use super::life::FIRST;
use super::machine::Machine;
use super::manager::{AGENT, By, CONTROLLER, Shelf, Step};
use crate::lab::story::Story;

/// Builds one and boots it.
pub(super) fn play(lower: &Path, shelf: &Shelf, story: &Story, prepare: &str) -> Result<()> {
    let machine = Machine::new(lower)?;
    shelf.deliver(&machine)?;
    off(&machine, &["sh", "-ec", prepare])?;
    for package in [CONTROLLER, AGENT] {
        let words = shelf.words(By::File, Step::Install, package, FIRST)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        off(&machine, &words)?;
    }
    let running = "ls -d /run/systemd/system /run/vpn-node 2>/dev/null || true";
    let running = off(&machine, &["sh", "-c", running])?;
    ensure!(
        running.is_empty(),
        "the installation in an image has made {running}"
    );
    let mut host = Host::boot(machine, shelf)?;
    host.all_enabled("in an image")?;
    host.eventually("the path unit of the updater", || {
        Ok((host.machine.property(PATH_UNIT, "ActiveState")? == "active").then_some(()))
    })?;
    host.start_controller()?;
    let way = host.enrol()?;
    host.look(&Expect {
        stable: "system",
        runs: true,
    })
    .context("after the first boot of an image")?;
    story.say(&format!(
        "installed in an image without a running systemd: enabled for its first boot, enrolled by {way}"
    ));
    Ok(())
}

fn off(machine: &Machine, words: &[&str]) -> Result<String> {
    let output = machine.run_off(words)?;
    let said = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.status.success(),
        "in an image, `{}` failed: {said}",
        words.join(" ")
    );
    Ok(output.stdout)
}
