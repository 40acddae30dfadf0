//! What a controller, a power cut and a whole fleet do to an update.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::front::Mode;
use super::scene::{Plan, SOON, Scene, name, seconds};
use super::shelf::{BASE, CRASHES, GOOD, Shelf};
use super::{Figure, Listed};
use crate::lab::fleet::{CONTROLLER, column};
use crate::lab::installed;
use crate::shell;

pub(super) const SCENARIOS: Listed = &[
    ("controller-vanishes", false, controller_vanishes),
    ("controller-killed-in-rollout", false, controller_killed),
    ("power-off-past-deadline", true, power_off),
    ("controller-down", true, controller_down),
    ("controller-answers-429", true, controller_busy),
    ("agent-killed-in-download", true, agent_killed),
    ("canary-fails", true, canary_fails),
];

/// Bytes a second of a download that is to be interrupted; the package has some 14 MB.
const SLOWLY: usize = 2_000_000;
const MANY: u64 = 3_000_000;

/// It is not there from before the switch until long after: that is no fault of the release.
fn controller_down(shelf: &Shelf) -> Result<Figure> {
    let mut scene = Scene::set(shelf, &Plan::default())?;
    scene.roll_out(GOOD, &[])?;
    scene.reaches(0, GOOD, "staged")?;
    scene.lab.crash(CONTROLLER)?;
    is_kept(scene, |scene| {
        scene.fleet.start_controller(&mut scene.lab).map(drop)
    })
}

/// It was there before, and goes when the trial begins: the former version is asked, too.
fn controller_vanishes(shelf: &Shelf) -> Result<Figure> {
    let mut scene = Scene::set(shelf, &Plan::default())?;
    scene.roll_out(GOOD, &[])?;
    scene.reaches(0, GOOD, "probation")?;
    scene.lab.crash(CONTROLLER)?;
    is_kept(scene, |scene| {
        scene.fleet.start_controller(&mut scene.lab).map(drop)
    })
}

/// 429 to every heartbeat of the trial.
fn controller_busy(shelf: &Shelf) -> Result<Figure> {
    let plan = Plan {
        front: true,
        ..Plan::default()
    };
    let mut scene = Scene::set(shelf, &plan)?;
    scene.roll_out(GOOD, &[])?;
    scene.reaches(0, GOOD, "probation")?;
    scene.meddle(Mode::Busy)?;
    is_kept(scene, |scene| scene.meddle(Mode::Pass))
}

/// The controller does not answer until the release is kept, and hears of it when it is back.
fn is_kept(
    mut scene: Scene<'_>,
    back: impl FnOnce(&mut Scene<'_>) -> Result<()>,
) -> Result<Figure> {
    let end = scene.watch(0, GOOD)?;
    ensure!(
        end.phase == "installed",
        "a controller that does not answer sent it away: {} [{}]",
        end.phase,
        end.code
    );
    scene.at_rest(0, GOOD, &format!("versions/{GOOD}"))?;
    back(&mut scene)?;
    scene.is_installed(0, GOOD, BASE)?;
    Ok(Figure::of(format!(
        "kept after {}: {}",
        seconds(end.after_start),
        end.detail
    )))
}

/// Everything of the host is killed on trial, and started long after the trial should have ended.
fn power_off(shelf: &Shelf) -> Result<Figure> {
    let mut scene = Scene::set(shelf, &Plan::default())?;
    scene.roll_out(GOOD, &[])?;
    scene.reaches(0, GOOD, "probation")?;
    scene.cut_power(0)?;
    ensure!(
        scene.hosts[0].link("stable").as_deref() == Some("system"),
        "a power cut on trial left stable at {:?}",
        scene.hosts[0].link("stable")
    );
    shell::pause(Duration::from_secs(15))?;
    scene.power_on(0)?;
    // The former version first, whatever becomes of the other one.
    let host = &scene.hosts[0];
    scene.lab.wait_for("the former version", SOON, || {
        Ok(host
            .running()
            .filter(|(version, from)| version == BASE && from == "system")
            .map(drop))
    })?;
    let end = scene.watch(0, GOOD)?;
    ensure!(
        end.phase == "installed",
        "the second try ended as {} [{}]: {}",
        end.phase,
        end.code,
        end.detail
    );
    scene.is_installed(0, GOOD, BASE)?;
    Ok(Figure::of(
        "the former version came up by itself; tried again, and kept",
    ))
}

/// The rollout goes on where it was.
fn controller_killed(shelf: &Shelf) -> Result<Figure> {
    let plan = Plan {
        hosts: 2,
        ..Plan::default()
    };
    let mut scene = Scene::set(shelf, &plan)?;
    let id = scene.roll_out(GOOD, &[])?;
    let first = scene.first_told()?;
    scene.reaches(first, GOOD, "staged")?;
    scene.lab.crash(CONTROLLER)?;
    shell::pause(Duration::from_secs(3))?;
    scene.fleet.start_controller(&mut scene.lab)?;
    for number in [first, 1 - first] {
        let end = scene.watch(number, GOOD)?;
        ensure!(end.phase == "installed", "it ended as {}", end.phase);
        scene.is_installed(number, GOOD, BASE)?;
    }
    let state = column(&scene.rollout(&id)?, "state");
    ensure!(
        ["running", "completed"].contains(&state.as_str()),
        "the rollout is {state}"
    );
    Ok(Figure::of("both hosts have it, one row each"))
}

/// What was fetched before the agent was killed is not fetched again.
fn agent_killed(shelf: &Shelf) -> Result<Figure> {
    let plan = Plan {
        front: true,
        ..Plan::default()
    };
    let mut scene = Scene::set(shelf, &plan)?;
    scene.meddle(Mode::Throttled(SLOWLY))?;
    scene.roll_out(GOOD, &[])?;
    let partial = scene.hosts[0].at("var/lib/vpn-node/updates");
    scene.lab.wait_for("a part of the package", SOON, || {
        Ok(largest_below(&partial).filter(|size| *size > MANY))
    })?;
    let supervisor = scene.lab.pid(&name(0)).context("no supervisor runs")?;
    let killed = installed::child_of(supervisor)?;
    kill(Pid::from_raw(killed), Signal::SIGKILL).context("cannot kill the agent")?;
    let front = scene.front.as_ref().context("no front")?;
    let from = scene.lab.wait_for("the rest of the package", SOON, || {
        Ok(front.asked().get(1).copied())
    })?;
    ensure!(
        from >= MANY / 2,
        "the download began again at byte {from} after {MANY} bytes were here"
    );
    scene.meddle(Mode::Pass)?;
    let end = scene.watch(0, GOOD)?;
    ensure!(end.phase == "installed", "it ended as {}", end.phase);
    scene.is_installed(0, GOOD, BASE)?;
    Ok(Figure::of(format!(
        "the download went on at byte {from}; kept {} after its start",
        seconds(end.after_start)
    )))
}

/// The first of three hosts has the bad release alone.
fn canary_fails(shelf: &Shelf) -> Result<Figure> {
    let plan = Plan {
        hosts: 3,
        ..Plan::default()
    };
    let mut scene = Scene::set(shelf, &plan)?;
    let id = scene.roll_out(CRASHES, &["--canary", "1", "--max-in-flight", "3"])?;
    let canary = scene.first_told()?;
    let others: Vec<usize> = (0..3).filter(|one| *one != canary).collect();
    let mut before = Vec::new();
    for number in &others {
        before.push(scene.hosts[*number].trusted_state()?);
    }
    let end = scene.watch(canary, CRASHES)?;
    scene.is_sent_away(canary, CRASHES, &end, "start_failed")?;
    scene.is_halted(&id)?;
    // Long enough for three more heartbeats, with which a directive would come.
    shell::pause(Duration::from_secs(6))?;
    for (number, before) in others.iter().zip(before) {
        ensure!(
            scene.hosts[*number].trusted_state()? == before,
            "host {number} was touched"
        );
        let row = scene.deployment(*number)?;
        ensure!(
            column(&row, "status") == "pending" && column(&row, "attempts") == "0",
            "the controller says of host {number}: {row}"
        );
    }
    Ok(Figure {
        text: format!(
            "rolled back {} after its start, the rollout halted, two hosts untouched",
            seconds(end.after_start)
        ),
        back: Some(end.after_start),
    })
}

/// The largest file below a folder: the package that is being fetched.
fn largest_below(folder: &std::path::Path) -> Option<u64> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    entries
        .filter_map(|entry| match entry.file_type().ok()?.is_dir() {
            true => largest_below(&entry.path()),
            false => entry.metadata().ok().map(|about| about.len()),
        })
        .max()
}
