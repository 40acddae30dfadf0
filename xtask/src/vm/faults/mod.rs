//! `cargo xtask vm faults`: what happens to hosts in their years: a full disk, a disk that turned
//! read-only, a wrong clock, a bad network and none, no memory, kill -9 again and again.
//!
//! After each of them nobody does anything, and the host is healthy again by itself; while it lasts,
//! `vpn-node status` says what is wrong. Clients come and go meanwhile, and none of their records is
//! lost.

mod plagues;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Stage;
use super::qemu::Vm;
use super::survivor::{self, Scene};
use super::wireguard;
use crate::shell;

/// An agent that was killed starts after five seconds, a heartbeat that failed is tried again within
/// a minute; everything is emulated.
const HEALS_WITHIN: Duration = Duration::from_secs(180);
/// Until the status shows what is wrong.
const SHOWS_WITHIN: Duration = Duration::from_secs(120);
const COMMAND_WITHIN: Duration = Duration::from_secs(90);

/// The host that all of it happens to.
struct Patient<'a> {
    scene: Scene,
    stage: &'a Stage,
    vm: Option<Vm>,
    /// Clients that came and went: two records each.
    clients: u32,
    /// What each fault was, said and took.
    figures: Vec<String>,
}

/// The whole suite.
pub(super) fn run(stage: &Stage) -> Result<String> {
    let scene = Scene::set(stage)?;
    let mut patient = Patient {
        scene,
        stage,
        vm: None,
        clients: 0,
        figures: Vec::new(),
    };
    let played = play(&mut patient);
    let told = played.map(|()| {
        format!(
            "{}; {} clients came and went meanwhile, no record lost",
            patient.figures.join("; "),
            patient.clients
        )
    });
    stage.end(patient.scene.lab, told)
}

fn play(patient: &mut Patient<'_>) -> Result<()> {
    let mut vm = patient.scene.boot(patient.stage)?;
    vm.settle()?;
    patient.scene.enrol(&mut vm)?;
    wireguard::serve(&mut vm)?;
    patient.vm = Some(vm);
    plagues::prepare(patient)?;
    patient.client()?;
    patient.heals("nothing at all", Instant::now())?;
    for (name, plague) in plagues::ALL {
        plague(patient).with_context(|| format!("{name}, which {}", patient.state()))?;
        shell::check_interrupted()?;
    }
    Ok(())
}

impl Patient<'_> {
    fn vm(&mut self) -> &mut Vm {
        self.vm.as_mut().expect("the host is on between two faults")
    }

    /// A client comes and goes.
    fn client(&mut self) -> Result<()> {
        self.clients += 1;
        let number = 1 + self.clients % 250;
        wireguard::session(self.vm(), number, "3")
    }

    fn status(&mut self) -> Result<Value> {
        survivor::report(self.vm())
    }

    /// What `vpn-node healthcheck` says, and the last error that the status has if that is well.
    fn health(&mut self) -> Result<String> {
        let output = self.vm().run("vpn-node healthcheck 2>&1", COMMAND_WITHIN)?;
        let mut said = output.stdout.trim().replace('\n', " ");
        if output.status == 0
            && let Some(error) = self.status()?["last_heartbeat"]["last_error"].as_str()
        {
            said = format!("{said}; {error}");
        }
        Ok(said)
    }

    /// Waits until the status shows the fault, as `shows` recognises it; what health says then.
    fn shows(&mut self, what: &str, shows: impl Fn(&Value) -> bool) -> Result<String> {
        let mut vm = self.vm.take().context("the host is off")?;
        let seen = vm.wait_for(&format!("the status to show {what}"), SHOWS_WITHIN, |vm| {
            let report = survivor::report(vm)?;
            Ok(shows(&report).then_some(()))
        });
        self.vm = Some(vm);
        seen?;
        self.health()
    }

    /// The fault is over since `end`. Waits until the host is healthy, has had its heartbeat taken
    /// and every record is with the controller; how long that took.
    fn heals(&mut self, name: &str, end: Instant) -> Result<Duration> {
        let mut vm = self.vm.take().context("the host is off")?;
        let healed = vm.wait_for(
            &format!("the host to heal after {name}"),
            HEALS_WITHIN,
            |vm| {
                let report = survivor::report(vm)?;
                let health = vm.run("vpn-node healthcheck", COMMAND_WITHIN)?.status;
                let well = health == 0
                    && report["verification"]["state"] == "verified"
                    && report["heartbeats"]["last_problem"] == "none"
                    && report["ledger"]["writable"] == true
                    && report["backlog"]["records"] == 0;
                Ok(well.then_some(report))
            },
        );
        self.vm = Some(vm);
        let took = end.elapsed();
        let report = healed?;
        let ledger = &report["ledger"];
        ensure!(
            ledger["gaps"] == 0 && ledger["quarantined"] == 0,
            "records were lost in {name}: {ledger}"
        );
        Ok(took)
    }

    /// Notes how a fault went, and says it.
    fn note(&mut self, name: &str, said: &str, healed: Duration) {
        let figure = format!("{name}: \"{said}\", healed in {} s", healed.as_secs());
        self.scene.story.say(&figure);
        self.figures.push(figure);
    }

    /// For the message about a fault that did not end well.
    fn state(&mut self) -> String {
        let Some(vm) = self.vm.as_mut() else {
            return "left the host off".to_owned();
        };
        let look = "vpn-node status; systemctl status --no-pager -n 25 vpn-node-agent.service";
        let output = vm.run(look, COMMAND_WITHIN);
        output.map_or_else(
            |error| format!("left a host that does not answer ({error:#})"),
            |output| format!("left this:\n{}", shell::indent(&output.stdout)),
        )
    }
}
