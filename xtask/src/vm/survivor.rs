//! One VPN host in a virtual machine that is off between two of its lives, and the fleet that it belongs
//! to: our package installed with dpkg, a newer one, a signed release, kernel WireGuard, a controller.
//!
//! Controller and repository run on this machine in the namespace of the guest's network. Whatever
//! the host starts as an agent is told on its serial console first, which no power cut reaches.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vpn_node_release::digest::Digest;
use vpn_node_release::version::Version;

use super::qemu::{Options, Vm};
use super::site::{self, Plan};
use super::{Stage, debs, image};
use crate::lab::Lab;
use crate::lab::fleet::{CONTROLLER, Fleet};
use crate::lab::installed::Stock;
use crate::lab::publisher::{self, Publisher};
use crate::lab::story::Story;
use crate::shell;

/// The version of the package that a host begins with.
pub(super) const FIRST: Version = Version::new(1, 0, 0);
/// The release that the updater installs.
pub(super) const RELEASE: Version = Version::new(2, 0, 0);
/// The package after that.
pub(super) const SECOND: Version = Version::new(3, 0, 0);

/// How long a trial lasts here (120 s in production).
const UPDATER: &[u8] = b"probation = \"10s\"\nextension = \"20s\"\n";
/// Unpacking a package of a debug build on an emulated processor.
pub(super) const DPKG_WITHIN: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(90);

/// Before each start of an agent: what the link leads to, whether it is marked as whole, and the
/// digest of the program, on a line of the serial console.
const WITNESS: &str = r#"#!/bin/sh
slot=$(readlink "/opt/vpn-node/$1")
case $slot in system) mark=whole ;; *) [ -s "/opt/vpn-node/$slot/tree.sha256" ] && mark=whole || mark=half ;; esac
set -- "$1" $(sha256sum "/opt/vpn-node/$1/bin/vpn-node-agent")
printf '\nWITNESS %s %s %s %s\n' "$1" "$slot" "$mark" "$2" >/dev/ttyS0
"#;
const WITNESS_PLACE: &str = "/usr/local/sbin/witness";

/// See the module's page.
pub(super) struct Scene {
    pub(super) lab: Lab,
    pub(super) fleet: Fleet,
    pub(super) story: Story,
    /// The guest with its disk, which every boot goes on with.
    pub(super) host: Options,
    /// SHA-256 of every program that anybody of ours has packed.
    pub(super) known: BTreeSet<String>,
}

impl Scene {
    /// Packages, release, controller; and a disk on which the first package is installed, which is
    /// not enrolled and off.
    pub(super) fn set(stage: &Stage) -> Result<Self> {
        let story = Story::begin();
        let mut lab = Lab::open()?;
        let programs = &stage.programs;
        let stock = Stock::of(programs, &lab.path("stock"))?;
        let publisher = publish(&lab, &programs.controller, &stock)?;
        let (root, _) = publisher.first_root()?;
        let plan = Plan {
            releases: Some(publisher.repository()),
            ..Plan::default()
        };
        let (network, fleet) = site::surroundings(&mut lab, programs, &plan)?;
        let [first, second] = [debs(Some(&FIRST))?.agent, debs(Some(&SECOND))?.agent];
        let mut known = digests(stock.folder())?;
        for (name, deb) in [("first", &first), ("second", &second)] {
            known.extend(programs_of(deb, &lab.path(name))?);
        }
        let files = lab.path("files.tar");
        image::tar(
            &[
                ("first.deb", &first),
                ("second.deb", &second),
                ("root.json", &root),
            ],
            &files,
        )?;
        let mut host = Options::new(&lab, "host", network);
        host.files = Some(files);
        let mut scene = Self {
            lab,
            fleet,
            story,
            host,
            known,
        };
        scene.install(stage)?;
        Ok(scene)
    }

    fn install(&mut self, stage: &Stage) -> Result<()> {
        let mut vm = self.boot(stage)?;
        vm.settle()?;
        vm.sh("mkdir -p /root/in && tar -xf /dev/disk/by-id/virtio-files -C /root/in")?;
        vm.put(WITNESS_PLACE, WITNESS.as_bytes())?;
        vm.sh(&format!("chmod 755 {WITNESS_PLACE}"))?;
        for (unit, link) in [
            ("vpn-node-agent", "stable"),
            ("vpn-node-agent-exp", "experiment"),
        ] {
            let folder = format!("/etc/systemd/system/{unit}.service.d");
            vm.sh(&format!("mkdir -p {folder}"))?;
            // The unit's DevicePolicy= holds for "+", too.
            let drop_in = format!(
                "[Service]\nDeviceAllow=/dev/ttyS0 w\nExecStartPre=+{WITNESS_PLACE} {link}\n"
            );
            let place = format!("{folder}/witness.conf");
            vm.put(&place, drop_in.as_bytes())?;
            vm.sh(&format!("chmod 644 {place}"))?;
        }
        vm.sh("mkdir -p /etc/vpn-node")?;
        vm.put("/etc/vpn-node/updater.toml", UPDATER)?;
        vm.sh("chmod 644 /etc/vpn-node/updater.toml")?;
        vm.sh_within("dpkg -i /root/in/first.deb", DPKG_WITHIN)?;
        vm.sh("vpn-node update trust /root/in/root.json")?;
        vm.power_off(&mut self.lab)?;
        self.story.say("the package is installed on a Debian");
        Ok(())
    }

    /// Boots the host with its disk; its services may still be starting.
    pub(super) fn boot(&mut self, stage: &Stage) -> Result<Vm> {
        Vm::boot(&mut self.lab, &stage.image, &self.host)
    }

    /// Enrols the host with a new token and waits for its agent to be verified.
    pub(super) fn enrol(&mut self, vm: &mut Vm) -> Result<()> {
        let token = self.fleet.create_token()?;
        let enrolled = vm.run_with("vpn-node enroll", Some(token.text.as_bytes()), SOON)?;
        ensure!(
            enrolled.status == 0,
            "the enrolment failed: {}{}",
            enrolled.stdout,
            enrolled.stderr
        );
        vm.sh("systemctl restart vpn-node-agent.service")?;
        verified(vm, SOON).map(drop)
    }

    /// The controller is gone, as for an outage.
    pub(super) fn stop_controller(&mut self) -> Result<()> {
        self.lab.stop(CONTROLLER)
    }

    /// It is back.
    pub(super) fn start_controller(&mut self) -> Result<()> {
        self.fleet.start_controller(&mut self.lab).map(drop)
    }

    /// Which agents this boot of the host has started, as the serial console has them. A sentence
    /// for each that nobody of ours has packed, or whose slot was not whole.
    pub(super) fn witnessed(&self) -> Result<(usize, Vec<String>)> {
        let serial = fs::read(self.lab.log(&format!("{}.serial", self.host.name)));
        let serial = serial.context("cannot read the serial console")?;
        Ok(judge_starts(&String::from_utf8_lossy(&serial), &self.known))
    }
}

/// See [`Scene::witnessed`].
fn judge_starts(console: &str, known: &BTreeSet<String>) -> (usize, Vec<String>) {
    let mut broken = Vec::new();
    let mut starts = 0;
    for line in console.lines() {
        let Some((_, words)) = line.split_once("WITNESS ") else {
            continue;
        };
        let words: Vec<&str> = words.split_whitespace().collect();
        // The last line of a console is cut off with the power, and then nothing was started yet.
        let [_, slot, mark, digest] = words[..] else {
            continue;
        };
        if digest.len() != 64 {
            continue;
        }
        starts += 1;
        if mark != "whole" || !known.contains(digest) {
            broken.push(format!(
                "an agent was started that nobody verified: {slot} {mark} {digest}"
            ));
        }
    }
    (starts, broken)
}

/// The agent's report.
pub(super) fn report(vm: &mut Vm) -> Result<Value> {
    let output = vm.run("vpn-node status --json", SOON)?;
    serde_json::from_str(&output.stdout).with_context(|| {
        format!(
            "`vpn-node status --json` ended with {} and said: {}{}",
            output.status, output.stdout, output.stderr
        )
    })
}

/// Waits until the agent is verified and its last heartbeat was taken; its report.
pub(super) fn verified(vm: &mut Vm, within: Duration) -> Result<Value> {
    vm.wait_for("the agent to be verified", within, |vm| {
        let report = report(vm)?;
        let well = report["verification"]["state"] == "verified"
            && report["last_heartbeat"]["accepted"] == true
            && report["heartbeats"]["last_problem"] == "none";
        Ok(well.then_some(report))
    })
}

/// A signed repository with one release of the host's own programs.
fn publish(lab: &Lab, controller: &Path, stock: &Stock) -> Result<Publisher> {
    let publisher = Publisher::offline(controller, &lab.path("releases"), &lab.path("keys"));
    publisher.init(2, 1)?;
    let out = lab.path("packages");
    fs::create_dir_all(&out).context("cannot make the folder for packages")?;
    let package = publisher::pack(stock.folder(), &RELEASE.to_string(), &[], &out)?;
    publisher.add(&package, "for a host in a virtual machine")?;
    publisher.sign()?;
    Ok(publisher)
}

/// The digests of the programs in a package.
fn programs_of(deb: &Path, folder: &Path) -> Result<BTreeSet<String>> {
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--extract").arg(deb).arg(folder);
    shell::succeed(unpack, None, SOON)?;
    digests(&folder.join("opt/vpn-node/system/bin"))
}

fn digests(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))?;
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_file()));
    files
        .map(|path| {
            let bytes = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
            Ok(Digest::of(&bytes).to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_agents_of_ours_from_whole_slots_may_start() {
        let good = "a".repeat(64);
        let known = BTreeSet::from([good.clone()]);
        let console = format!(
            "booting\n\nWITNESS stable system whole {good}\r\n\
             [  3.1] x WITNESS experiment versions/2.0.0 whole {good}\n\
             WITNESS experiment versions/2.0.0 half {good}\n\
             WITNESS stable system whole {}\n\
             WITNESS stable system whole {}",
            "b".repeat(64),
            &good[..30]
        );
        let (starts, broken) = judge_starts(&console, &known);
        assert_eq!(starts, 4);
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[0].contains("half") && broken[1].contains("bbb"));
    }
}
