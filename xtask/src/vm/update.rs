//! Updates with a real systemd: a signed release that an operator rolls out is tried and kept, and
//! one that is bad goes away by itself.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Stage;
use super::site::{Plan, SOON, Site};
use super::wireguard::Tunnel;
use crate::lab::fleet::column;
use crate::lab::installed::Stock;
use crate::lab::publisher::{Content, Publisher, pack};
use crate::shell;

const GOOD: &str = "1.1.0";
const CRASHES: &str = "1.2.0";
const LOSES_VPN: &str = "1.3.0";
/// In place of two minutes; a VPN daemon is missed after 45 seconds.
const UPDATER: &str = "probation = \"60s\"\nextension = \"20s\"\n";
/// A look at the host before the switch (half a minute), the trial, and the way back.
const TRIAL: Duration = Duration::from_secs(400);
/// The promise: a bad release is gone this long after its start.
const GONE_WITHIN: Duration = Duration::from_secs(120);
/// It goes on as the real agent, which lies beside it under another name, with its own settings.
const WITHOUT_WIREGUARD: &str = "#!/bin/sh
[ $# -eq 0 ] || exec \"${0%/*}/vpn-node\" \"$@\"
printf '[wireguard]\\nenabled = false\\n' > /run/vpn-node/other.toml
exec \"${0%/*}/vpn-node\" --config /run/vpn-node/other.toml
";

pub(super) fn run(stage: &Stage) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let publisher = publish(stage, folder.path())?;
    let (root, sha256) = publisher.first_root()?;
    let plan = Plan {
        releases: Some(publisher.repository()),
        ..Plan::default()
    };
    let mut site = Site::installed(stage, &plan)?;
    let root = fs::read(&root).context("cannot read the root metadata")?;
    let outcome = play(&mut site, &root, &sha256);
    site.end(stage, outcome)
}

/// Three releases, signed by the right people.
fn publish(stage: &Stage, folder: &Path) -> Result<Publisher> {
    let stock = Stock::of(&stage.programs, &folder.join("programs"))?;
    let publisher = Publisher::offline(
        &stage.programs.controller,
        &folder.join("releases"),
        &folder.join("keys"),
    );
    publisher.init(2, 1)?;
    let crash = Content::Script("#!/bin/sh\necho 'symbol lookup error' >&2\nexit 127\n");
    let blind = Content::Script(WITHOUT_WIREGUARD);
    let releases: [(&str, &[_]); 3] = [
        (GOOD, &[]),
        (CRASHES, &[("vpn-node-agent", crash)]),
        (
            LOSES_VPN,
            &[
                ("vpn-node-agent", blind),
                ("vpn-node", Content::Program("vpn-node-agent")),
            ],
        ),
    ];
    for (version, changed) in releases {
        let package = pack(stock.folder(), version, changed, folder)?;
        publisher.add(&package, "for a host in a virtual machine")?;
    }
    publisher.sign()?;
    Ok(publisher)
}

fn play(site: &mut Site, root: &[u8], sha256: &str) -> Result<String> {
    site.vm.put("/root/1.root.json", root)?;
    site.vm.sh(&format!(
        "printf '{UPDATER}' > /etc/vpn-node/updater.toml; chmod 0644 /etc/vpn-node/updater.toml; \
         vpn-node update trust /root/1.root.json --sha256 {sha256}"
    ))?;
    let tunnel = Tunnel::lay(&mut site.vm)?;
    tunnel.must_answer(&mut site.vm)?;
    let row = site.connection("the client's connection", |row| {
        column(row, "client_identity") == tunnel.client
    })?;
    let server = column(&site.verified()?, "server_id");
    managed(site, &server)?;

    let kept = roll_out(site, &server, GOOD, "installed")?;
    must_run(site, GOOD)?;
    site.story.say(&format!(
        "{GOOD} is kept after {:.0} s of trial",
        kept.as_secs_f64()
    ));
    let crashed = roll_out(site, &server, CRASHES, "rolled_back")?;
    must_run(site, GOOD)?;
    site.story.say(&format!(
        "{CRASHES} crashes: gone by itself after {:.0} s",
        crashed.as_secs_f64()
    ));
    let blind = roll_out(site, &server, LOSES_VPN, "rolled_back")?;
    must_run(site, GOOD)?;
    site.story.say(&format!(
        "{LOSES_VPN} does not see the VPN: gone by itself after {:.0} s",
        blind.as_secs_f64()
    ));
    for took in [crashed, blind] {
        ensure!(
            took < GONE_WITHIN,
            "a bad release ran for {} s",
            took.as_secs()
        );
    }
    let now = site.connection("the client's connection", |row| {
        column(row, "client_identity") == tunnel.client
    })?;
    ensure!(
        now["connection_id"] == row["connection_id"] && column(&now, "connection_end").is_empty(),
        "the connection did not outlive the updates: {now}"
    );
    site.beats_on()?;
    Ok(format!(
        "kept after {:.0} s of trial; crashing gone after {:.0} s, blind for the VPN after {:.0} s; \
         the connection is one row",
        kept.as_secs_f64(),
        crashed.as_secs_f64(),
        blind.as_secs_f64()
    ))
}

/// Until the controller knows that, a rollout would leave the host out.
fn managed(site: &mut Site, server: &str) -> Result<()> {
    let fleet = &site.fleet;
    site.lab.wait_for("a host that can be updated", SOON, || {
        let rows = fleet.rows(&["server", "show", server], "servers")?;
        let row = rows.first().context("no such server")?;
        let managed = column(&row["software"], "managed");
        Ok(["true", "1"].contains(&managed.as_str()).then_some(()))
    })
}

/// An operator rolls it out; how long it ran until it ended in this phase.
fn roll_out(site: &mut Site, server: &str, version: &str, phase: &str) -> Result<Duration> {
    let fleet = &site.fleet;
    let words = ["rollout", "create", version, "--yes"];
    site.lab
        .wait_for(&format!("a rollout of {version}"), SOON, || {
            fleet.ask(&words).map(Some)
        })?;
    let mut began = Instant::now();
    let what = format!("the end of the trial of {version}");
    let attempt = site.vm.wait_for(&what, TRIAL, |vm| {
        let text = vm.sh("cat /var/lib/vpn-node-updater/status.json")?;
        let status: Value = serde_json::from_str(&text).context("status.json")?;
        let attempt = &status["attempt"];
        let ours = column(attempt, "version") == version;
        match column(attempt, "phase").as_str() {
            "installed" | "rolled_back" | "refused" | "failed" if ours => Ok(Some(attempt.clone())),
            "probation" if ours => Ok(None),
            _ => {
                began = Instant::now();
                Ok(None)
            }
        }
    })?;
    let took = began.elapsed();
    ensure!(
        column(&attempt, "phase") == phase,
        "{version} ended as {attempt}"
    );
    let fleet = &site.fleet;
    site.lab
        .wait_for("the controller's word about it", SOON, || {
            let rows = fleet.rows(&["server", "show", server], "servers")?;
            let row = &rows.first().context("no such server")?["deployment"];
            ensure!(
                column(row, "version") == version && column(row, "status") == phase,
                "it is {row}"
            );
            Ok(Some(()))
        })?;
    Ok(took)
}

/// The version answers, as the service that a boot starts, and nothing is on trial.
fn must_run(site: &mut Site, version: &str) -> Result<()> {
    site.vm
        .wait_for(&format!("{version} to answer"), SOON, |vm| {
            let said = vm.sh("vpn-node status --json | jq -r .running_from")?;
            let agent = vm.sh("systemctl is-active vpn-node-agent.service")?;
            Ok((said.trim() == version && agent.trim() == "active").then_some(()))
        })?;
    let links = site
        .vm
        .sh("readlink /opt/vpn-node/stable; ls /opt/vpn-node")?;
    ensure!(
        links.starts_with(&format!("versions/{version}\n")) && !links.contains("experiment"),
        "the links are:\n{}",
        shell::indent(&links)
    );
    Ok(())
}
