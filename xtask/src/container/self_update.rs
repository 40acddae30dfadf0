//! Two who install versions on one host: the package manager, and the updater with signed releases.
//! The newest wins whoever brings it, and a trial is disturbed by nobody.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vpn_node_release::handover::{Attempt, Phase, Status};

use super::host::{Expect, Host};
use super::life::{FIRST, SECOND, THIRD};
use super::machine::Machine;
use super::manager::{AGENT, By, CONTROLLER, Shelf, Step};
use super::units::TRIAL;
use crate::build::Programs;
use crate::lab::installed::Stock;
use crate::lab::publisher::{Publisher, pack};
use crate::lab::story::Story;
use crate::package::Kind;
use crate::shell;

/// A package that is newer than all releases here.
pub(super) const LAST: &str = "6.0.0";
/// Releases, each between two packages.
const RELEASES: [&str; 3] = ["2.0.0", "4.0.0", "5.0.0"];
/// The probation is 120 s in production. A host looks at itself for half a minute before.
const SETTINGS: &[u8] = b"probation = \"10s\"\nextension = \"10s\"\n";
const TRIED_WITHIN: Duration = Duration::from_secs(180);
const COPIED_WITHIN: Duration = Duration::from_secs(60);

/// The whole of it; `prepare` is what the package manager needs.
pub(super) fn play(
    lower: &Path,
    shelf: &Shelf,
    programs: &Programs,
    story: &Story,
    prepare: &str,
) -> Result<String> {
    let machine = Machine::new(lower)?;
    let sha256 = publish(&machine, programs)?;
    machine.write("etc/vpn-node/updater.toml", SETTINGS, 0o644)?;
    let mut host = Host::boot(machine, shelf)?;
    host.machine.must(&["sh", "-ec", prepare])?;
    host.does(By::File, Step::Install, CONTROLLER, FIRST)?;
    host.start_controller()?;
    host.does(By::File, Step::Install, AGENT, FIRST)?;
    host.enrol()?;
    trust(&host, &sha256)?;

    release(&mut host, story, RELEASES[0])?;
    host.does(By::Repository, Step::Upgrade, AGENT, SECOND)?;
    host.look(&on("versions/2.0.0"))?;
    story.say(&format!(
        "package {SECOND}: older than what the updater installed, which goes on"
    ));
    host.does(By::Repository, Step::Upgrade, AGENT, THIRD)?;
    host.look(&on("system"))?;
    story.say(&format!("package {THIRD}: newer, so it runs"));
    release(&mut host, story, RELEASES[1])?;

    begin(&host, RELEASES[2])?;
    host.within(TRIED_WITHIN, "a trial", || {
        Ok((host.machine.property(TRIAL, "ActiveState")? == "active").then_some(()))
    })?;
    let pid = host.pid(TRIAL)?;
    host.does(By::Repository, Step::Upgrade, AGENT, LAST)?;
    ensure!(host.pid(TRIAL)? == pid, "a package has disturbed a trial");
    let attempt = ended(&host, RELEASES[2])?;
    ensure!(
        attempt.phase == Phase::Installed,
        "the trial ended as {attempt:?}"
    );
    host.within(TRIED_WITHIN, "the newer package's version", || {
        let stable = host.machine.must(&["readlink", "/opt/vpn-node/stable"])?;
        let active = host.machine.property(super::units::STABLE, "ActiveState")? == "active";
        Ok((active && stable.trim() == "system").then_some(()))
    })?;
    host.look(&on("system"))?;
    story.say(&format!(
        "package {LAST} came during the trial of {}: undisturbed, and then the newer one runs",
        RELEASES[2]
    ));
    end(&host)?;
    Ok(format!(
        "{} releases installed between {} packages",
        RELEASES.len(),
        4
    ))
}

/// What the updater installed goes with the package where the word is "purge".
fn end(host: &Host<'_>) -> Result<()> {
    let purge = host.shelf.kind == Kind::Deb;
    let step = if purge { Step::Purge } else { Step::Remove };
    host.does(By::File, step, AGENT, LAST)?;
    let left = host
        .machine
        .must(&["sh", "-c", "ls -A /opt/vpn-node 2>/dev/null || true"])?;
    let right = if purge {
        left.is_empty()
    } else {
        left.contains("versions")
    };
    ensure!(right, "after {step:?} /opt/vpn-node has: {left}");
    Ok(())
}

fn on(stable: &str) -> Expect<'_> {
    Expect { stable, runs: true }
}

/// Makes keys and signed releases on the machine's disk; the first root's SHA-256.
fn publish(machine: &Machine, programs: &Programs) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let stock = Stock::of(programs, &folder.path().join("programs"))?;
    let repository = folder.path().join("releases");
    let publisher = Publisher::offline(
        &programs.controller,
        &repository,
        &folder.path().join("keys"),
    );
    publisher.init(2, 1)?;
    for version in RELEASES {
        let package = pack(stock.folder(), version, &[], folder.path())?;
        publisher.add(&package, "between two packages")?;
    }
    publisher.sign()?;
    let (_, sha256) = publisher.first_root()?;
    let to = machine.disk().join("srv/releases");
    std::fs::create_dir_all(to.parent().context("a folder")?)?;
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(&repository).arg(&to);
    shell::succeed(copy, None, COPIED_WITHIN)?;
    Ok(sha256)
}

/// The controller takes the releases, and the host believes their publisher.
fn trust(host: &Host<'_>, sha256: &str) -> Result<()> {
    let bring = "chown -R vpn-node-controller: /srv/releases
        runuser -u vpn-node-controller -- mkdir -m 700 /var/lib/vpn-node-controller/releases
        runuser -u vpn-node-controller -- cp -r /srv/releases/online-keys /var/lib/vpn-node-controller/releases/";
    host.machine.must(&["sh", "-ec", bring])?;
    host.controller(&[
        "release",
        "import",
        "/srv/releases",
        "--root-sha256",
        sha256,
    ])?;
    let root = "/srv/releases/metadata/1.root.json";
    let words = ["vpn-node", "update", "trust", root, "--sha256", sha256];
    host.machine.must(&words).map(drop)
}

/// A release that is good: rolled out, tried, kept.
fn release(host: &mut Host<'_>, story: &Story, version: &str) -> Result<()> {
    begin(host, version)?;
    let attempt = ended(host, version)?;
    ensure!(
        attempt.phase == Phase::Installed,
        "{version} ended as {attempt:?}"
    );
    host.look(&on(&format!("versions/{version}")))?;
    story.say(&format!(
        "release {version}: downloaded, verified, tried and kept by the updater"
    ));
    Ok(())
}

fn begin(host: &Host<'_>, version: &str) -> Result<()> {
    // The controller knows only by the next heartbeat what the host has.
    host.eventually(&format!("a rollout of {version}"), || {
        let words = ["rollout", "create", version, "--yes"];
        Ok(host.controller(&words).ok().map(drop))
    })
}

/// The attempt for this version, when it is over.
fn ended(host: &Host<'_>, version: &str) -> Result<Attempt> {
    host.within(
        TRIED_WITHIN,
        &format!("the end of the trial of {version}"),
        || {
            let said = host
                .machine
                .run(&["cat", "/var/lib/vpn-node-updater/status.json"])?;
            let status: Option<Status> = serde_json::from_str(&said.stdout).ok();
            let attempt = status.and_then(|status| status.attempt);
            Ok(attempt.filter(|attempt| attempt.version == version && attempt.phase.is_final()))
        },
    )
}
