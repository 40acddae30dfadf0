//! From a stock Debian to a host of the fleet, and back, by `docs/install.md` to the letter.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Stage;
use super::page::Page;
use super::site::{Plan, SOON, Site};
use super::wireguard::{FIRST_ADDRESS, SECOND_ADDRESS, Tunnel, UNIT};
use crate::lab::fleet::column;
use crate::lab::publisher::Publisher;

/// What a purge must not leave: programs, units and links, state, settings.
const OURS: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /root -o -path /var/log \
                    -o -path /var/cache -o -path /var/lib/dpkg \\) -prune -o -name '*vpn-node*' -print";

pub(super) fn run(stage: &Stage) -> Result<String> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let publisher = Publisher::offline(
        &stage.programs.controller,
        &folder.path().join("releases"),
        &folder.path().join("keys"),
    );
    publisher.init(2, 1)?;
    let (root, sha256) = publisher.first_root()?;
    let root = fs::read(&root).context("cannot read the root metadata")?;
    let mut site = Site::set(stage, &Plan::default())?;
    let outcome = play(&mut site, &root, &sha256);
    site.end(stage, outcome)
}

fn play(site: &mut Site, root: &[u8], sha256: &str) -> Result<String> {
    site.vm.put("/root/1.root.json", root)?;
    let booted = site.vm.booted_in;
    let before = site.vm.sh("dpkg --get-selections | wc -l")?;
    let mut page = Page::open("install.md")?;

    let began = Instant::now();
    site.follow(&page.next("Install the package")?, None)?;
    let installed = began.elapsed();
    site.story.say("the package is installed");
    let token = site.fleet.create_token()?.text;
    site.follow(&page.next("Enrol it")?, Some(&token))?;
    let row = site.verified()?;
    let enrolled = began.elapsed();
    site.story.say(&format!(
        "the host {} is enrolled and verified (hardware: {})",
        column(&row, "hostname"),
        column(&row, "hardware_verification_status")
    ));
    site.beats_on()?;
    let said = site.follow(&page.next("See how it is")?, None)?;
    ensure!(said.contains("active (running)"), "systemctl says:\n{said}");

    let tunnel = Tunnel::lay(&mut site.vm)?;
    connect_and_roam(site, &tunnel)?;
    let said = site.follow(&page.next("See who is connected")?, None)?;
    ensure!(
        said.contains("wireguard") && !said.contains(&tunnel.client) && !said.contains("192.0.2."),
        "vpn-node connections says:\n{said}"
    );
    end(site, &tunnel)?;

    let gate = "Optional: let the VPN run only while the host is authorised";
    site.follow(&page.next(gate)?, None)?;
    ensure!(
        site.property(UNIT, "ActiveState")? == "active",
        "the gate stopped {UNIT}"
    );
    let update = "Optional: take releases over the controller";
    let commands = format!("export SHA256={sha256}\n{}", page.next(update)?);
    site.follow(&commands, None)?;
    site.story
        .say("the VPN is gated and runs, the publisher is trusted");
    let seal = "Optional: seal the identity to this machine";
    site.follow(&page.next(seal)?, None)?;
    site.beats_on()?;
    let sealed = site
        .vm
        .sh("vpn-node identity status --json | jq -r .sealed")?;
    ensure!(sealed.trim() == "true", "the identity is sealed: {sealed}");
    site.story
        .say("the identity is sealed, and the agent goes on with it");
    let problems = site.vm.sh("systemctl --failed --plain --no-legend")?;
    ensure!(problems.is_empty(), "units have failed:\n{problems}");

    // apt asks whether it may.
    site.follow(&page.next("Uninstall")?, Some("y\n"))?;
    ensure!(
        site.property(UNIT, "ActiveState")? == "active",
        "the VPN does not run any more after the package was removed"
    );
    ensure!(
        !site.vm.sh("ls -A /var/lib/vpn-node")?.is_empty(),
        "removing the package removed the identity"
    );
    site.follow(&page.next("Uninstall")?, Some("y\n"))?;
    page.must_be_done()?;
    let left = site.vm.sh(OURS)?;
    ensure!(left.is_empty(), "a purge leaves:\n{left}");
    let after = site.vm.sh("dpkg --get-selections | wc -l")?;
    ensure!(
        before == after,
        "{before} packages before, {after} afterwards"
    );
    site.story
        .say("the package is purged, nothing of it is left, and the VPN runs on");
    Ok(format!(
        "boot {:.0} s, package {:.0} s, verified {:.0} s after the first command",
        booted.as_secs_f64(),
        installed.as_secs_f64(),
        enrolled.as_secs_f64()
    ))
}

fn connect_and_roam(site: &mut Site, tunnel: &Tunnel) -> Result<()> {
    tunnel.must_answer(&mut site.vm)?;
    let client = tunnel.client.clone();
    let up = move |row: &serde_json::Value, address: &str| {
        column(row, "client_identity") == client
            && column(row, "client_ip") == address
            && column(row, "connection_end").is_empty()
    };
    let first = site.connection("the client's connection", |row| up(row, FIRST_ADDRESS))?;
    tunnel.roam(&mut site.vm)?;
    let moved = site.connection("the client's new address", |row| up(row, SECOND_ADDRESS))?;
    ensure!(
        column(&first, "connection_id") == column(&moved, "connection_id"),
        "a client that roams is another connection"
    );
    site.story.say(&format!(
        "a WireGuard client has connected from {FIRST_ADDRESS} and roamed to {SECOND_ADDRESS}, in one connection"
    ));
    Ok(())
}

fn end(site: &mut Site, tunnel: &Tunnel) -> Result<()> {
    tunnel.remove(&mut site.vm)?;
    let began = Instant::now();
    let ended = site.connection("the end of the connection", |row| {
        column(row, "client_identity") == tunnel.client && !column(row, "connection_end").is_empty()
    })?;
    ensure!(began.elapsed() < SOON, "the end came late");
    let reason = column(&ended, "disconnection_reason");
    ensure!(reason == "peer_removed", "the connection ended as {reason}");
    site.story
        .say("an administrator took the client off: the connection has ended as peer_removed");
    Ok(())
}
