//! An unprivileged user of the host: reads no key, no record and nobody's address, commands nothing,
//! and does not disturb the agent.
//!
//! What must not be read is looked for by its bytes, everywhere; root looks first, so that a search
//! that finds nothing has been seen to find.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Stage;
use super::frames::Tally;
use super::site::{Plan, SOON, Site};
use super::wireguard::{FIRST_ADDRESS, Tunnel};
use crate::lab::fleet::column;
use crate::shell;

const AGENT: &str = "vpn-node-agent.service";
const SOCKET: &str = "/run/vpn-node/status.sock";
/// The process that reads kernel WireGuard for the agent.
const READER: &str = "/run/vpn-node-wireguard/reader.sock";
/// Each of them is one attempt to connect.
const READER_FRAMES: u64 = 1000;
/// How many frames, at 14 ms each in a guest; the second is the promise.
const FRAMES: u64 = 5_000;
const ALL_FRAMES: u64 = 100_000;
const FRAMES_WITHIN: Duration = Duration::from_secs(3600);
const SEED: u64 = 20_261_122;
/// How much more memory the agent may have used at most after all of it.
const GROWTH_KIB: u64 = 16 << 10;
/// Where an agent, systemd or an administrator might have put something.
const PLACES: &str = "/etc /home /opt /run /srv /tmp /var /dev/shm";

pub(super) fn run(stage: &Stage) -> Result<String> {
    let mut site = Site::installed(stage, &Plan::default())?;
    let outcome = play(&mut site, stage.full);
    site.end(stage, outcome)
}

fn play(site: &mut Site, full: bool) -> Result<String> {
    let tunnel = Tunnel::lay(&mut site.vm)?;
    tunnel.must_answer(&mut site.vm)?;
    site.connection("the client's connection", |row| {
        column(row, "client_identity") == tunnel.client
    })?;
    site.vm.sh("useradd --create-home mallory")?;
    let searched = reads_nothing(site, &tunnel)?;
    sees_the_summary(site)?;
    commands_nothing(site)?;
    spies_on_no_process(site)?;
    let frames = if full { ALL_FRAMES } else { FRAMES };
    let told = disturbs_nothing(site, frames)?;
    leaves_no_core(site)?;
    Ok(format!(
        "{searched} secrets found nowhere; nothing commanded; no core; {told} (seed {SEED})"
    ))
}

/// Every secret and personal datum that there is; how many they are.
fn reads_nothing(site: &mut Site, tunnel: &Tunnel) -> Result<usize> {
    let identity = site.vm.sh("cat /var/lib/vpn-node/identity.json")?;
    let identity: Value = serde_json::from_str(&identity).context("identity.json")?;
    let secret = identity["secret"]
        .as_str()
        .context("identity.json has no secret")?;
    let token = site.token.clone();
    let secrets = [secret, &token, &tunnel.client, FIRST_ADDRESS];
    let patterns = secrets.join("\n");
    let search = format!(
        "grep --recursive --binary-files=text --files-with-matches \
                          --devices=skip --no-messages --fixed-strings --file=- {PLACES}; true"
    );
    let as_root = site.vm.run_with(&search, Some(patterns.as_bytes()), SOON)?;
    ensure!(
        as_root.stdout.contains("/var/lib/vpn-node/identity.json"),
        "root's search does not find the key either:\n{}",
        as_root.stdout
    );
    let as_user = format!("runuser --user mallory -- sh -c '{search}'");
    let found = site
        .vm
        .run_with(&as_user, Some(patterns.as_bytes()), SOON)?;
    ensure!(
        found.stdout.is_empty() && found.stderr.is_empty(),
        "an unprivileged user finds secrets in:\n{}{}",
        found.stdout,
        found.stderr
    );
    let readable = as_mallory(
        site,
        "find /var/lib/vpn-node /run/credentials /etc/credstore -type f -readable 2>/dev/null; \
         find /run/vpn-node -type f -readable 2>/dev/null; \
         journalctl --quiet --no-pager --unit=vpn-node-agent.service 2>/dev/null; true",
    )?;
    ensure!(
        readable.is_empty(),
        "an unprivileged user reads:\n{readable}"
    );
    site.story
        .say("another user's search of the whole host finds no key and nobody's address");
    Ok(secrets.len())
}

fn sees_the_summary(site: &mut Site) -> Result<()> {
    let said = as_mallory(site, "vpn-node status --json")?;
    let status: Value = serde_json::from_str(&said).context("vpn-node status --json")?;
    let mut names: Vec<&str> = status
        .as_object()
        .context("no object")?
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    ensure!(
        names == ["enrolled", "healthy", "schema", "state", "version"],
        "the public summary has {names:?}"
    );
    let said = as_mallory(site, "vpn-node connections --json 2>&1; true")?;
    ensure!(
        !said.contains("started_ms") && !said.contains(FIRST_ADDRESS),
        "another user is told about connections:\n{said}"
    );
    Ok(())
}

/// Each with the commands of the product, which a user may well start.
fn commands_nothing(site: &mut Site) -> Result<()> {
    let key = "jq -r .identity.key_id <<< \"$(vpn-node status --json)\"";
    let before = site.vm.sh(key)?;
    for command in [
        "vpn-node identity rotate",
        "vpn-node identity status",
        "vpn-node update apply 9.9.9",
        "vpn-node update rollback",
        "vpn-node gate enable wg-quick@wg0.service",
        "vpn-node enroll < /dev/null",
        "systemctl stop vpn-node-agent.service",
        "systemctl kill vpn-node-agent.service",
    ] {
        let script = format!("runuser --user mallory -- sh -c '{command}'");
        let output = site.vm.run(&script, SOON)?;
        ensure!(
            output.status != 0,
            "another user may: {command}\n{}{}",
            output.stdout,
            output.stderr
        );
    }
    ensure!(
        site.vm.sh(key)? == before,
        "another user's command rotated the key"
    );
    site.story.say("every command of another user is refused");
    Ok(())
}

fn spies_on_no_process(site: &mut Site) -> Result<()> {
    let pid = site.property(AGENT, "MainPID")?;
    for file in ["environ", "mem", "maps", "auxv", "stack", "syscall", "io"] {
        let script = format!("head -c 1 /proc/{pid}/{file}");
        let output = site
            .vm
            .run(&format!("runuser --user mallory -- {script}"), SOON)?;
        ensure!(output.status != 0, "another user reads /proc/{pid}/{file}");
    }
    let said = as_mallory(
        site,
        &format!("ls /proc/{pid}/fd /proc/{pid}/map_files 2>/dev/null; true"),
    )?;
    ensure!(
        said.is_empty(),
        "another user sees the agent's files:\n{said}"
    );
    Ok(())
}

fn disturbs_nothing(site: &mut Site, frames: u64) -> Result<String> {
    bring_the_xtask(site)?;
    let state = |site: &mut Site| -> Result<(String, String)> {
        Ok((
            site.property(AGENT, "MainPID")?,
            site.property(AGENT, "NRestarts")?,
        ))
    };
    let before = state(site)?;
    let peak = peak_kib(site, &before.0)?;
    site.vm.start(&format!(
        "runuser --user mallory -- /usr/local/bin/xtask vm-frames {SOCKET} {frames} {SEED} \
         > /root/tally 2>&1; touch /root/tallied"
    ))?;
    // In the middle of it root is answered, and the controller hears of the host.
    site.vm
        .sh("sleep 3; for i in 1 2 3 4 5; do vpn-node status --json > /dev/null || exit 1; done")?;
    site.beats_on()?;
    let said = site
        .vm
        .wait_for("the end of the frames", FRAMES_WITHIN, |vm| {
            let told = vm.run("test -e /root/tallied && cat /root/tally", SOON)?;
            Ok((told.status == 0).then_some(told.stdout))
        })?;
    let tally: Tally =
        serde_json::from_str(said.trim()).with_context(|| format!("the tally: {said}"))?;
    ensure!(
        tally.granted.is_empty(),
        "another user was given {:?}",
        tally.granted
    );
    ensure!(
        tally.answers.contains_key("denied") && !tally.answers.contains_key("garbage"),
        "the answers are {:?}",
        tally.answers
    );
    let told = as_mallory(
        site,
        &format!("/usr/local/bin/xtask vm-frames {READER} {READER_FRAMES} {SEED}"),
    )?;
    let at_reader: Tally = serde_json::from_str(told.trim()).context("the reader's tally")?;
    ensure!(
        at_reader.answers.keys().eq(["PermissionDenied"]),
        "another user reaches the reader of WireGuard: {:?}",
        at_reader.answers
    );
    let after = state(site)?;
    ensure!(
        before == after,
        "the agent was {before:?} (process, restarts) and is {after:?}"
    );
    let grown = peak_kib(site, &after.0)?.saturating_sub(peak);
    ensure!(grown < GROWTH_KIB, "the agent's memory grew by {grown} KiB");
    site.beats_on()?;
    let told = format!(
        "{frames} frames in {:.0} s, memory +{grown} KiB, same process; the reader's socket refuses \
         {READER_FRAMES} of {READER_FRAMES}",
        tally.seconds
    );
    site.story.say(&format!("{told}: {:?}", tally.answers));
    Ok(told)
}

/// A crash of the agent leaves no memory behind, where a crash of another program does.
fn leaves_no_core(site: &mut Site) -> Result<()> {
    site.vm.sh(
        "runuser --user mallory -- bash -c 'ulimit -c unlimited; kill -SEGV $$' || true; \
         systemctl kill --kill-whom=main --signal=SEGV vpn-node-agent.service",
    )?;
    site.vm.wait_for("a core of another program", SOON, |vm| {
        let kept = vm.sh("ls /var/lib/systemd/coredump")?;
        Ok(kept.contains("core.bash").then_some(()))
    })?;
    let kept = site.vm.sh("ls /var/lib/systemd/coredump")?;
    ensure!(
        !kept.contains("vpn-node"),
        "the agent's memory is kept:\n{kept}"
    );
    let listed = site.vm.sh(
        "coredumpctl --quiet --no-pager list 2>/dev/null | grep vpn-node | grep present; true",
    )?;
    ensure!(listed.is_empty(), "coredumpctl lists:\n{listed}");
    site.beats_on()?;
    Ok(())
}

/// Itself, into the guest: not by its path, where cargo may have put a newer one.
fn bring_the_xtask(site: &mut Site) -> Result<()> {
    let small = site.lab.path("xtask");
    let mut strip = Command::new("strip");
    let own = format!("/proc/{}/exe", std::process::id());
    strip.arg("-o").arg(&small).arg(own);
    shell::succeed(strip, None, SOON)?;
    let bytes = std::fs::read(&small).context("cannot read the program")?;
    site.vm.put("/usr/local/bin/xtask", &bytes)?;
    site.vm.sh("chmod 0755 /usr/local/bin/xtask").map(drop)
}

fn as_mallory(site: &mut Site, script: &str) -> Result<String> {
    site.vm
        .sh(&format!("runuser --user mallory -- sh -c '{script}'"))
}

/// The most resident memory that a process ever had.
fn peak_kib(site: &mut Site, pid: &str) -> Result<u64> {
    let said = site
        .vm
        .sh(&format!("awk '/^VmHWM:/ {{print $2}}' /proc/{pid}/status"))?;
    said.trim()
        .parse()
        .with_context(|| format!("VmHWM is {said:?}"))
}
