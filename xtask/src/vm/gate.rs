//! The gate with a real systemd: a VPN that is gated runs only while its host is authorised, and one
//! that is not gated is never touched.
//!
//! How long something took is read from the guest's own clock, since a look from outside takes
//! longer there than what it looks at.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Stage;
use super::site::{Plan, SOON, Site};
use super::wireguard::{Tunnel, UNIT};
use crate::lab::fleet::CONTROLLER;

/// Seconds of silence that the controller allows (1800 in production), so that a lease runs out
/// while one looks.
const LEASE_S: u32 = 30;
/// The agent asks a controller that was gone for long again after two minutes at the latest.
const AFTER_BACKOFF: Duration = Duration::from_secs(240);
/// How long the VPN may be up after its agent fell silent: docs/gate.md says 5 s, and this guest is
/// slow and busy.
const DOWN_WITHIN_S: f64 = 15.0;
const AGENT: &str = "vpn-node-agent.service";

pub(super) fn run(stage: &Stage) -> Result<String> {
    let plan = Plan {
        settings: &[("lease_s", LEASE_S)],
        ..Plan::default()
    };
    let mut site = Site::installed(stage, &plan)?;
    let outcome = play(&mut site);
    site.end(stage, outcome)
}

fn play(site: &mut Site) -> Result<String> {
    let tunnel = Tunnel::lay(&mut site.vm)?;
    tunnel.must_answer(&mut site.vm)?;
    let started = site.property(UNIT, "InvocationID")?;
    without_opt_in(site, &tunnel)?;
    ensure!(
        site.property(UNIT, "InvocationID")? == started,
        "{UNIT} was restarted without an opt-in"
    );

    site.vm.sh(&format!("vpn-node gate enable {UNIT}"))?;
    ensure!(
        site.property(UNIT, "InvocationID")? == started,
        "an open gate restarted {UNIT}"
    );
    site.story
        .say("vpn-node gate enable: the gate is open, the VPN has run on");
    let stopped = goes_down(
        site,
        &tunnel,
        "the agent is stopped (SIGSTOP)",
        &kill("STOP"),
    )?;
    site.vm.sh(&kill("CONT"))?;
    comes_up(site, &tunnel, "the agent goes on (SIGCONT)")?;
    let killed = goes_down(
        site,
        &tunnel,
        "the agent is killed (kill -9)",
        &kill("KILL"),
    )?;
    comes_up(site, &tunnel, "systemd has started the agent again")?;
    for (what, took) in [("SIGSTOP", stopped), ("kill -9", killed)] {
        ensure!(
            took < DOWN_WITHIN_S,
            "the VPN was up for {took:.1} s after {what} of the agent"
        );
    }
    site.lab.crash(CONTROLLER)?;
    let lapsed = goes_down(site, &tunnel, "the controller is gone", "true")?;
    let lease = f64::from(LEASE_S);
    ensure!(
        lapsed < lease + DOWN_WITHIN_S,
        "the VPN was up for {lapsed:.1} s of a lease of {LEASE_S} s"
    );
    site.fleet.start_controller(&mut site.lab)?;
    comes_up(site, &tunnel, "the controller is back")?;
    Ok(format!(
        "without opt-in nothing stopped; down {stopped:.1} s after SIGSTOP, {killed:.1} s after \
         kill -9, {lapsed:.1} s into a lease of {LEASE_S} s; up again each time"
    ))
}

/// The same faults, and the VPN runs on: nobody has asked for the gate.
fn without_opt_in(site: &mut Site, tunnel: &Tunnel) -> Result<()> {
    site.lab.crash(CONTROLLER)?;
    site.vm
        .wait_for("an authorisation that has lapsed", SOON, |vm| {
            let state = vm.sh("vpn-node status --json | jq -r .verification.state")?;
            Ok((state.trim() == "lapsed").then_some(()))
        })?;
    site.vm.sh(&kill("STOP"))?;
    // Longer than what an open gate takes for a silent agent.
    site.vm.sh("sleep 8")?;
    ensure!(
        tunnel.answers(&mut site.vm)?,
        "the VPN is down without an opt-in"
    );
    site.vm.sh(&kill("KILL"))?;
    ensure!(
        tunnel.answers(&mut site.vm)?,
        "the VPN is down without an opt-in"
    );
    site.fleet.start_controller(&mut site.lab)?;
    site.vm
        .wait_for("an agent that is verified again", AFTER_BACKOFF, |vm| {
            let state = vm.sh("vpn-node status --json | jq -r .verification.state")?;
            Ok((state.trim() == "verified").then_some(()))
        })?;
    site.story
        .say("without opt-in: lapsed, the agent stopped and killed, and the VPN has run on");
    Ok(())
}

fn kill(signal: &str) -> String {
    format!("systemctl kill --kill-whom=main --signal={signal} {AGENT}")
}

/// Does it, and waits until systemd has stopped the VPN. How many seconds that took in the guest.
fn goes_down(site: &mut Site, tunnel: &Tunnel, cause: &str, act: &str) -> Result<f64> {
    let began = microseconds(
        site,
        &format!("awk '{{print $1 * 1000000}}' /proc/uptime && {act}"),
    )?;
    let what = format!("the VPN to stop after this: {cause}");
    site.vm.wait_for(&what, SOON, |vm| {
        let state = vm.sh(&format!(
            "systemctl show --property=ActiveState --value {UNIT}"
        ))?;
        Ok((state.trim() != "active").then_some(()))
    })?;
    site.vm.wait_for("the interface to go", SOON, |vm| {
        Ok(vm.sh("ip link show dev wg0").is_err().then_some(()))
    })?;
    ensure!(
        !tunnel.answers(&mut site.vm)?,
        "a ping goes through a VPN that is stopped"
    );
    let ended = microseconds(
        site,
        &format!("systemctl show --property=ActiveExitTimestampMonotonic --value {UNIT}"),
    )?;
    #[expect(clippy::cast_precision_loss, reason = "a few minutes in microseconds")]
    let took = ended.saturating_sub(began) as f64 / 1e6;
    site.story
        .say(&format!("{cause}: the VPN is down after {took:.1} s"));
    Ok(took)
}

fn comes_up(site: &mut Site, tunnel: &Tunnel, cause: &str) -> Result<()> {
    let what = format!("a ping through the tunnel after this: {cause}");
    site.vm.wait_for(&what, AFTER_BACKOFF, |vm| {
        Ok(tunnel.answers(vm)?.then_some(()))
    })?;
    site.story.say(&format!("{cause}: the VPN is up again"));
    Ok(())
}

fn microseconds(site: &mut Site, script: &str) -> Result<u64> {
    let said = site.vm.sh(script)?;
    let whole = said.trim().split('.').next().unwrap_or_default();
    whole
        .parse()
        .with_context(|| format!("`{script}` said {said:?}"))
}
