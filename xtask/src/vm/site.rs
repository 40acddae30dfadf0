//! A VPN host and its controller: the host is a virtual machine, the controller runs beside it and
//! is what the guest reaches as 10.0.2.2.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::page::Page;
use super::qemu::{HOST, Options, Root, Vm};
use super::{Stage, image};
use crate::build::Programs;
use crate::lab::Lab;
use crate::lab::fleet::{Fleet, column};
use crate::lab::machine::Machine;
use crate::lab::story::Story;
use crate::shell;

/// Seconds between heartbeats (30 in production).
const HEARTBEAT_S: u32 = 3;
/// A guest is five to ten times slower than a host, and this machine may be busy.
pub(super) const SOON: Duration = Duration::from_secs(240);
/// Unpacking a package, with the fsyncs of dpkg.
pub(super) const INSTALLS_WITHIN: Duration = Duration::from_secs(300);
/// The name of a state in which the package is installed.
const INSTALLED: &str = "installed";
/// The name of the virtual machine in the lab.
const GUEST: &str = "vpn-host";

/// What differs from one suite to the next.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// Settings of the controller.
    pub(super) settings: &'a [(&'a str, u32)],
    /// A signed repository of releases, which the controller gets a copy of.
    pub(super) releases: Option<&'a Path>,
}

/// See the module's page.
pub(super) struct Site {
    pub(super) vm: Vm,
    pub(super) fleet: Fleet,
    pub(super) story: Story,
    pub(super) lab: Lab,
    /// What the host was enrolled with; empty if it is not.
    pub(super) token: String,
}

impl Site {
    /// A stock Debian with our package in /root, and a controller. Nothing of ours is installed on
    /// the guest.
    pub(super) fn set(stage: &Stage, plan: &Plan<'_>) -> Result<Self> {
        let mut site = Self::boot(stage, plan, None)?;
        let state = site.vm.settle()?;
        ensure!(state == "running", "systemd of a stock Debian says {state}");
        let unpack = "tar --extract --file /dev/disk/by-id/virtio-files --directory /root";
        site.vm.sh(unpack)?;
        let seconds = site.vm.booted_in.as_secs_f64();
        let told = format!("a stock Debian has booted in {seconds:.1} s");
        site.story.say(&told);
        Ok(site)
    }

    /// The same with the agent installed, enrolled without a person, and verified.
    pub(super) fn installed(stage: &Stage, plan: &Plan<'_>) -> Result<Self> {
        if !stage.installed().exists() {
            prepare(stage)?;
        }
        let mut site = Self::boot(stage, plan, Some(&stage.installed()))?;
        site.vm.set_clock()?;
        let page = Page::open("install.md")?;
        let unattended = page.of("unattended");
        let [give, take_away] = &unattended[..] else {
            bail!("docs/install.md has another number of unattended steps than two");
        };
        let token = site.fleet.create_token()?.text;
        site.follow(give, Some(&token))?;
        site.token = token;
        site.verified()?;
        site.follow(take_away, None)?;
        let told = "the agent is installed, has enrolled itself with a credential, is verified";
        site.story.say(told);
        Ok(site)
    }

    /// A controller and a guest; one that goes on where `saved` was saved.
    fn boot(stage: &Stage, plan: &Plan<'_>, saved: Option<&Path>) -> Result<Self> {
        let story = Story::begin();
        let mut lab = Lab::open()?;
        let (network, fleet) = surroundings(&mut lab, &stage.programs, plan)?;
        let deb = &stage.debs.agent;
        let name = deb.file_name().context("a package without a name")?;
        let files = lab.path("files.tar");
        image::tar(&[(&name.to_string_lossy(), deb)], &files)?;
        let mut options = Options::new(&lab, GUEST, network);
        options.files = Some(files);
        if let (Some(saved), Root::Overlay(overlay)) = (saved, &options.root) {
            fs::copy(saved, overlay).context("cannot copy the disk of a saved machine")?;
            options.saved = Some(INSTALLED.to_owned());
        }
        let vm = Vm::boot(&mut lab, &stage.image, &options)?;
        Ok(Self {
            vm,
            fleet,
            story,
            lab,
            token: String::new(),
        })
    }

    /// Types commands of the documentation, each of which must succeed, in the folder with the
    /// package; `input` is what is pasted. Returns what they printed.
    pub(super) fn follow(&mut self, commands: &str, input: Option<&str>) -> Result<String> {
        let script = format!("cd /root\nset -e\n{commands}");
        let input = input.map(str::as_bytes);
        let output = self.vm.run_with(&script, input, INSTALLS_WITHIN)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            output.status == 0,
            "commands of docs/install.md failed (exit status {}):\n{commands}\nthey said:\n{said}",
            output.status
        );
        Ok(said)
    }

    /// Waits until the controller has verified the host. Returns its row.
    pub(super) fn verified(&mut self) -> Result<Value> {
        let fleet = &self.fleet;
        self.lab.wait_for("the verification of the host", SOON, || {
            let rows = fleet.rows(&["server", "list"], "servers")?;
            let mut rows = rows.into_iter();
            Ok(rows.find(|row| column(row, "verdict") == "verified"))
        })
    }

    /// How many heartbeats the controller has accepted.
    pub(super) fn heartbeats(&self) -> Result<usize> {
        let words = ["heartbeats", "list", "--limit", "1000"];
        Ok(self.fleet.rows(&words, "heartbeats")?.len())
    }

    /// Waits for another heartbeat.
    pub(super) fn beats_on(&mut self) -> Result<()> {
        let before = self.heartbeats()?;
        let fleet = &self.fleet;
        self.lab.wait_for("a further heartbeat", SOON, || {
            let words = ["heartbeats", "list", "--limit", "1000"];
            Ok((fleet.rows(&words, "heartbeats")?.len() > before).then_some(()))
        })
    }

    /// Waits for a connection at the controller which `is` true of.
    pub(super) fn connection(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let fleet = &self.fleet;
        self.lab.wait_for(what, SOON, || {
            let rows = fleet.rows(&["connections", "list"], "connections")?;
            Ok(rows.into_iter().find(|row| is(row)))
        })
    }

    /// The end of a suite: see [`Stage::end`].
    pub(super) fn end(self, stage: &Stage, outcome: Result<String>) -> Result<String> {
        stage.end(self.lab, outcome)
    }

    /// A property of a unit, as `systemctl show` has it.
    pub(super) fn property(&mut self, unit: &str, name: &str) -> Result<String> {
        let said = self
            .vm
            .sh(&format!("systemctl show --property={name} --value {unit}"))?;
        Ok(said.trim().to_owned())
    }
}

/// Installs the package once, and saves the running machine for every suite that begins there.
fn prepare(stage: &Stage) -> Result<()> {
    let mut site = Site::set(stage, &Plan::default())?;
    let mut page = Page::open("install.md")?;
    site.follow(&page.next("Install the package")?, None)?;
    site.vm.sh("sync")?;
    site.vm.save(INSTALLED)?;
    let disk = site.lab.path(&format!("{GUEST}.qcow2"));
    site.vm.cut_power(&mut site.lab)?;
    site.story
        .say("the package is installed, and the machine saved for what begins there");
    fs::copy(disk, stage.installed())
        .map(drop)
        .context("cannot keep the disk of a saved machine")
}

/// The network of a guest, and in it the controller of its fleet, which the guest reaches by another
/// address than it listens at.
pub(super) fn surroundings(
    lab: &mut Lab,
    programs: &Programs,
    plan: &Plan<'_>,
) -> Result<(Machine, Fleet)> {
    let network = Machine::boot(lab, "network")?;
    let mut fleet = Fleet::new(lab, programs.clone(), network, HEARTBEAT_S, "")?;
    let port = fleet.listens_at().port();
    fleet.stand_behind(format!("{HOST}:{port}").parse()?);
    fleet.init_controller()?;
    for (key, value) in plan.settings {
        fleet.set_controller(key, *value)?;
    }
    if let Some(releases) = plan.releases {
        let mut copy = Command::new("cp");
        copy.arg("-a")
            .arg(releases)
            .arg(fleet.data_dir().join("releases"));
        shell::succeed(copy, None, SOON)?;
    }
    fleet.start_controller(lab)?;
    Ok((network, fleet))
}
