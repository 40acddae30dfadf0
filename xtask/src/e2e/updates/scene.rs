//! What a scenario plays in: a controller with the published releases, hosts under the plain
//! supervisor, and how all of it is looked at from outside.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::front::{Front, Mode};
use super::shelf::{BASE, Shelf};
use crate::lab::Lab;
use crate::lab::fleet::{CONTROLLER, Fleet, column};
use crate::lab::host::Host;
use crate::lab::machine::Machine;
use crate::shell;

/// Seconds between heartbeats here; 30 in production.
const HEARTBEAT_S: u32 = 2;
/// The shortest probation and extension that updater.toml takes, or near to it.
pub(super) const SHORT: &str = "supervisor = \"plain\"\nprobation = \"10s\"\nextension = \"6s\"\n";
/// What happens within seconds, on a machine that does ten other things.
pub(super) const SOON: Duration = Duration::from_secs(90);
/// A trial with all that may be in its way: the baseline of a host that just started, a counter-check.
const TRIAL: Duration = Duration::from_secs(420);
/// The promise: a bad release is gone this long after its start.
const BACK_WITHIN: Duration = Duration::from_secs(120);
/// A look is a small file; what is timed takes seconds.
const LOOK: Duration = Duration::from_millis(25);

/// How a scene differs from the usual one.
pub(super) struct Plan<'a> {
    pub(super) hosts: usize,
    /// updater.toml.
    pub(super) updater: &'a str,
    /// agent.toml, besides the directories.
    pub(super) agent: &'a str,
    /// Whether a [`Front`] stands before the controller.
    pub(super) front: bool,
}

impl Default for Plan<'_> {
    fn default() -> Self {
        Self {
            hosts: 1,
            updater: SHORT,
            agent: "",
            front: false,
        }
    }
}

/// See the module's page.
pub(super) struct Scene<'a> {
    // The first that goes: what runs ends before its front does.
    pub(super) lab: Lab,
    pub(super) fleet: Fleet,
    pub(super) front: Option<Front>,
    pub(super) shelf: &'a Shelf,
    pub(super) hosts: Vec<Host>,
    /// Their ids, in the same order.
    pub(super) ids: Vec<String>,
}

/// How a trial ended.
pub(super) struct End {
    pub(super) phase: String,
    pub(super) code: String,
    pub(super) detail: String,
    /// Since the new version was started, or a little more.
    pub(super) after_start: Duration,
}

impl<'a> Scene<'a> {
    /// Everything runs, every host is verified and may be updated.
    pub(super) fn set(shelf: &'a Shelf, plan: &Plan<'_>) -> Result<Self> {
        let lab = Lab::open()?;
        let machine = Machine::Here;
        let programs = shelf.programs.clone();
        // What this machine has of VPN daemons is none of the scenario's business.
        let usual = "[openvpn]\nenabled = false\n[strongswan]\nenabled = false\n[ocserv]\nenabled = false\n";
        let agent = match plan.agent.contains("[wireguard]") {
            true => format!("{usual}{}", plan.agent),
            false => format!("{usual}[wireguard]\nenabled = false\n{}", plan.agent),
        };
        let agent = agent.replace("LAB", &lab.folder().to_string_lossy());
        let mut fleet = Fleet::new(&lab, programs, machine, HEARTBEAT_S, &agent)?;
        let front = plan.front.then(Front::open).transpose()?;
        if let Some(front) = &front {
            fleet.stand_behind(front.address());
        }
        fleet.init_controller()?;
        if let Some(front) = &front {
            front.serve(fleet.listens_at(), &fleet.data_dir())?;
        }
        shelf.copy_to(&fleet.data_dir())?;
        let mut scene = Self {
            lab,
            fleet,
            front,
            shelf,
            hosts: Vec::new(),
            ids: Vec::new(),
        };
        scene.fleet.start_controller(&mut scene.lab)?;
        for number in 0..plan.hosts {
            scene.add_host(number, plan.updater)?;
        }
        Ok(scene)
    }

    fn add_host(&mut self, number: usize, updater: &str) -> Result<()> {
        let host = self.fleet.add_host(&format!("h{number}"))?;
        host.enroll(&self.fleet.create_token()?.text)?;
        host.install(&self.shelf.stock, updater)?;
        let (root, sha256) = self.shelf.publisher.first_root()?;
        host.trust(&root, &sha256)?;
        self.lab.start(&name(number), host.supervise())?;
        self.lab.wait_for("a verified host", SOON, || {
            Ok(host.is_verified().then_some(()))
        })?;
        let id = host.server_id()?;
        let (fleet, words) = (&self.fleet, ["server", "show", &id]);
        // Until then a rollout would leave it out.
        self.lab.wait_for("a host that can be updated", SOON, || {
            let rows = fleet.rows(&words, "servers")?;
            let row = rows.first().context("no such server")?;
            let managed = column(&row["software"], "managed");
            Ok(["true", "1"].contains(&managed.as_str()).then_some(()))
        })?;
        self.ids.push(id);
        self.hosts.push(host);
        Ok(())
    }

    /// Ends the supervisor of a host as a power cut would, with everything that it runs.
    pub(super) fn cut_power(&mut self, number: usize) -> Result<()> {
        let agent = self.hosts[number].at("run/vpn-node/status.sock");
        self.lab.crash(&name(number))?;
        // Its children die with it (PR_SET_PDEATHSIG).
        self.lab.wait_for("the end of the agent", SOON, || {
            let alive = std::os::unix::net::UnixStream::connect(&agent).is_ok();
            Ok((!alive).then_some(()))
        })
    }

    /// Starts it again.
    pub(super) fn power_on(&mut self, number: usize) -> Result<()> {
        let command = self.hosts[number].supervise();
        self.lab.start(&name(number), command).map(drop)
    }

    /// Begins a rollout of `version` to every host, and gives its id.
    pub(super) fn roll_out(&mut self, version: &str, more: &[&str]) -> Result<String> {
        let words = [&["rollout", "create", version, "--yes"], more].concat();
        let fleet = &self.fleet;
        // A host that was started a moment ago has not said yet what it has.
        let what = format!("a rollout of {version}");
        let answer = self
            .lab
            .wait_for(&what, SOON, || fleet.ask(&words).map(Some))?;
        let id = column(&answer, "rollout_id");
        ensure!(!id.is_empty(), "`rollout create` gave no rollout_id");
        Ok(id)
    }

    /// The newest deployment of a host at the controller.
    pub(super) fn deployment(&self, number: usize) -> Result<Value> {
        let words = ["server", "show", &self.ids[number]];
        let mut rows = self.fleet.rows(&words, "servers")?;
        let row = rows.pop().context("no such server")?;
        Ok(row["deployment"].clone())
    }

    /// What the controller knows of a host's software.
    pub(super) fn known_software(&self, number: usize) -> Result<Value> {
        let words = ["server", "show", &self.ids[number]];
        let mut rows = self.fleet.rows(&words, "servers")?;
        let row = rows.pop().context("no such server")?;
        Ok(row["software"].clone())
    }

    /// One rollout, with all that `rollout status` tells.
    pub(super) fn rollout(&self, id: &str) -> Result<Value> {
        let mut rows = self.fleet.rows(&["rollout", "status", id], "rollouts")?;
        rows.pop().context("no such rollout")
    }

    /// Waits until the updater of a host is at `phase` with `version`, or beyond.
    pub(super) fn reaches(&mut self, number: usize, version: &str, phase: &str) -> Result<()> {
        const ORDER: [&str; 4] = ["verified", "staged", "probation", "installed"];
        let rank = |phase: &str| ORDER.iter().position(|one| *one == phase).unwrap_or(9);
        let what = format!("{version} to be at least {phase}");
        let host = &self.hosts[number];
        self.lab.wait_for(&what, TRIAL, || {
            let found = phase_of(host, version).map(|found| rank(&found));
            Ok(found.filter(|found| *found >= rank(phase)).map(drop))
        })
    }

    /// Watches the trial of `version` on a host to its end.
    pub(super) fn watch(&mut self, number: usize, version: &str) -> Result<End> {
        let host = &self.hosts[number];
        let deadline = Instant::now() + TRIAL;
        let mut before = Instant::now();
        loop {
            shell::check_interrupted()?;
            let attempt = attempt_of(host, version);
            match attempt.as_ref().map(|attempt| column(attempt, "phase")) {
                None => before = Instant::now(),
                Some(phase) if ["verified", "staged"].contains(&phase.as_str()) => {
                    before = Instant::now();
                }
                Some(phase) if phase == "probation" => {}
                Some(phase) => {
                    let attempt = attempt.unwrap_or_default();
                    return Ok(End {
                        phase,
                        code: column(&attempt, "code"),
                        detail: column(&attempt, "detail"),
                        after_start: before.elapsed(),
                    });
                }
            }
            if Instant::now() > deadline {
                bail!(
                    "the trial of {version} did not end; the controller says {}{}{}",
                    self.deployment(number)?,
                    self.lab.words_since(&name(number), 0),
                    self.lab.words_since(CONTROLLER, 0)
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// `version` runs, on the disk and in memory, and both sides say so.
    pub(super) fn is_installed(&mut self, number: usize, version: &str, from: &str) -> Result<()> {
        self.at_rest(number, version, &format!("versions/{version}"))?;
        let said = self.controller_says(number, version, "installed")?;
        ensure!(
            column(&said, "previous_version") == from,
            "previous_version is {} instead of {from}",
            said["previous_version"]
        );
        self.history_ends_with(number, "installed", version, "")
    }

    /// `version` was sent away for `code` in time, `from` runs again, and both sides say so.
    pub(super) fn is_sent_away(
        &mut self,
        number: usize,
        version: &str,
        end: &End,
        code: &str,
    ) -> Result<()> {
        ensure!(
            end.phase == "rolled_back" && end.code == code,
            "{version} ended as {} [{}] instead of rolled_back [{code}]: {}",
            end.phase,
            end.code,
            end.detail
        );
        ensure!(
            end.after_start <= BACK_WITHIN,
            "the former version ran again only after {}",
            seconds(end.after_start)
        );
        self.at_rest(number, BASE, "system")?;
        let said = self.controller_says(number, version, "rolled_back")?;
        ensure!(
            column(&said, "code") == code && column(&said, "previous_version") == BASE,
            "the controller says {said}"
        );
        let software = self.hosts[number].software().unwrap_or_default();
        let blocked = software["blocked"].as_array().cloned().unwrap_or_default();
        ensure!(
            blocked.iter().any(|one| one["version"] == version),
            "{version} is not blocked: {blocked:?}"
        );
        self.history_ends_with(number, "rolled_back", version, code)
    }

    /// Nothing is on trial, `stable` leads there, and that is what answers.
    pub(super) fn at_rest(&mut self, number: usize, version: &str, stable: &str) -> Result<()> {
        let host = &self.hosts[number];
        let slot = stable.rsplit('/').next().unwrap_or(stable);
        let what = format!("version {version} to answer from {slot}");
        self.lab.wait_for(&what, SOON, || match host.running() {
            Some((found, from)) if found == version && from == slot => Ok(Some(())),
            Some((found, from)) => bail!("{found} answers from {from}"),
            None => bail!("nobody answers"),
        })?;
        ensure!(
            host.link("stable").as_deref() == Some(stable),
            "stable leads to {:?}",
            host.link("stable")
        );
        ensure!(
            host.link("experiment").is_none(),
            "an experiment is left: {:?}",
            host.link("experiment")
        );
        Ok(())
    }

    /// Waits until the controller's row of the host's newest deployment says so.
    pub(super) fn controller_says(
        &mut self,
        number: usize,
        version: &str,
        status: &str,
    ) -> Result<Value> {
        let words = ["server", "show", &self.ids[number]];
        let fleet = &self.fleet;
        let what = format!("the controller's row: {version} {status}");
        self.lab.wait_for(&what, SOON, || {
            let mut rows = fleet.rows(&words, "servers")?;
            let row = rows.pop().context("no such server")?["deployment"].take();
            let there = column(&row, "version") == version && column(&row, "status") == status;
            match there {
                true => Ok(Some(row)),
                false => bail!("it is {row}"),
            }
        })
    }

    /// The newest line of the host's history.
    pub(super) fn history_ends_with(
        &self,
        number: usize,
        event: &str,
        version: &str,
        code: &str,
    ) -> Result<()> {
        let lines = self.hosts[number].history();
        let last = lines.last().context("the history is empty")?;
        ensure!(
            column(last, "event") == event
                && column(last, "version") == version
                && column(last, "code") == code,
            "the history ends with {last} instead of {event} {version} [{code}]"
        );
        Ok(())
    }

    /// What the front does from now on.
    pub(super) fn meddle(&self, mode: Mode) -> Result<()> {
        let front = self.front.as_ref().context("there is no front")?;
        front.set(mode);
        Ok(())
    }

    /// Which host is told first.
    pub(super) fn first_told(&mut self) -> Result<usize> {
        let (fleet, ids) = (&self.fleet, &self.ids);
        self.lab.wait_for("a host that is told", SOON, || {
            for (number, id) in ids.iter().enumerate() {
                let rows = fleet.rows(&["server", "show", id], "servers")?;
                let row = &rows.first().context("no such server")?["deployment"];
                if row["in_flight"] == true {
                    return Ok(Some(number));
                }
            }
            Ok(None)
        })
    }

    /// The host says `code` of its newest deployment, and will try again.
    pub(super) fn is_told(&mut self, number: usize, code: &str) -> Result<()> {
        let (fleet, words) = (&self.fleet, ["server", "show", &self.ids[number]]);
        let what = format!("{code} at the controller");
        self.lab.wait_for(&what, SOON, || {
            let mut rows = fleet.rows(&words, "servers")?;
            let row = rows.pop().context("no such server")?["deployment"].take();
            let again = column(&row, "status") == "downloading";
            ensure!(again && column(&row, "code") == code, "it is {row}");
            Ok(Some(()))
        })
    }

    /// The newest deployment of a host has ended.
    pub(super) fn is_over(&mut self, number: usize) -> Result<()> {
        let (fleet, words) = (&self.fleet, ["server", "show", &self.ids[number]]);
        self.lab.wait_for("the end of a deployment", SOON, || {
            let mut rows = fleet.rows(&words, "servers")?;
            let row = rows.pop().context("no such server")?["deployment"].take();
            const OVER: [&str; 4] = ["refused", "failed", "superseded", "blocked"];
            let status = column(&row, "status");
            ensure!(OVER.contains(&status.as_str()), "it is {row}");
            Ok(Some(()))
        })
    }

    /// The rollout stops by itself.
    pub(super) fn is_halted(&mut self, id: &str) -> Result<()> {
        let fleet = &self.fleet;
        self.lab.wait_for("a halted rollout", SOON, || {
            let mut rows = fleet.rows(&["rollout", "status", id], "rollouts")?;
            let row = rows.pop().context("no such rollout")?;
            let state = column(&row, "state");
            ensure!(state == "halted", "it is {state}");
            Ok(Some(()))
        })
    }

    /// A rollout of `version` would leave this host out, for `code`.
    pub(super) fn leaves_out(&mut self, number: usize, version: &str, code: &str) -> Result<()> {
        let (fleet, id) = (&self.fleet, &self.ids[number]);
        let words = ["rollout", "create", version, "--dry-run"];
        let what = format!("a plan that leaves the host out as {code}");
        self.lab.wait_for(&what, SOON, || {
            let answer = fleet.ask(&words)?;
            let out = answer["left_out"].as_array().cloned().unwrap_or_default();
            let of_host = out.iter().find(|one| column(one, "server_id") == *id);
            let found = of_host.map(|one| column(one, "code")).unwrap_or_default();
            ensure!(found == code, "the plan says {found:?}");
            Ok(Some(()))
        })
    }
}

/// The name of a host's supervisor in the lab.
pub(super) fn name(number: usize) -> String {
    format!("host-{number}")
}

fn attempt_of(host: &Host, version: &str) -> Option<Value> {
    let software = host.software()?;
    let attempt = &software["attempt"];
    (column(attempt, "version") == version).then(|| attempt.clone())
}

fn phase_of(host: &Host, version: &str) -> Option<String> {
    attempt_of(host, version).map(|attempt| column(&attempt, "phase"))
}

/// For people.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
