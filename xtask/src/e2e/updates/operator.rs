//! What operators and the root of a host decide: holds, files, and a package manager at work.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::scene::{Plan, SOON, Scene, seconds};
use super::shelf::{BASE, CRASHES, GOOD, Shelf};
use super::{Figure, Listed};
use crate::lab::fleet::column;

pub(super) const SCENARIOS: Listed = &[
    ("pinned-and-disabled", true, holds),
    ("offline-file", true, offline),
    ("package-manager-busy", true, package_manager),
];

/// Who pinned or disabled is left out, and told so; nobody else waits for him.
fn holds(shelf: &Shelf) -> Result<Figure> {
    let plan = Plan {
        hosts: 3,
        ..Plan::default()
    };
    let mut scene = Scene::set(shelf, &plan)?;
    scene.hosts[0].must_update(&["pin", BASE])?;
    scene.hosts[1].must_update(&["disable"])?;
    let kept = [
        scene.hosts[0].trusted_state()?,
        scene.hosts[1].trusted_state()?,
    ];
    scene.leaves_out(0, GOOD, "pinned")?;
    scene.leaves_out(1, GOOD, "updates_disabled")?;
    let id = scene.roll_out(GOOD, &[])?;
    let end = scene.watch(2, GOOD)?;
    ensure!(end.phase == "installed", "it ended as {}", end.phase);
    scene.is_installed(2, GOOD, BASE)?;
    let rollout = scene.rollout(&id)?;
    let out = rollout["left_out"].as_array().cloned().unwrap_or_default();
    for (number, code) in [(0, "pinned"), (1, "updates_disabled")] {
        let told = out.iter().any(|one| {
            column(one, "server_id") == scene.ids[number] && column(one, "code") == code
        });
        ensure!(told, "`rollout status` does not say {code}: {out:?}");
        ensure!(
            scene.hosts[number].trusted_state()? == kept[number],
            "a host that is {code} was touched"
        );
        scene.at_rest(number, BASE, "system")?;
    }
    // Nor does a file get past its own root.
    let file = export(&scene, GOOD)?;
    let words = ["apply", &file.to_string_lossy()];
    for (number, code) in [(0, "[pinned]"), (1, "[updates_disabled]")] {
        let said = scene.hosts[number].update(&words)?;
        ensure!(
            said.status.code() == Some(3) && said.stderr.contains(code),
            "`apply` ended with {} and said {}",
            said.status,
            said.stderr
        );
    }
    Ok(Figure::of(
        "left out by name and reason, also for a file; the third host has it",
    ))
}

/// A host without a way out: the exported file alone.
fn offline(shelf: &Shelf) -> Result<Figure> {
    let mut scene = Scene::set(shelf, &Plan::default())?;
    let file = export(&scene, GOOD)?;
    let before = scene.hosts[0].trusted_state()?;
    let broken = scene.lab.path("broken.tar");
    let mut bytes = fs::read(&file).context("cannot read the exported file")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&broken, bytes).context("cannot write a broken file")?;
    let refused = scene.hosts[0].update(&["apply", &broken.to_string_lossy()])?;
    ensure!(
        refused.status.code() == Some(3) && refused.stderr.contains("_mismatch]"),
        "a changed file: {} {}",
        refused.status,
        refused.stderr
    );
    let kept = |state: &std::collections::BTreeMap<String, String>| {
        ["stable", "experiment", "previous"].map(|link| state[link].clone())
    };
    ensure!(
        kept(&before) == kept(&scene.hosts[0].trusted_state()?),
        "a refused file moved a link"
    );
    let words = ["apply", &file.to_string_lossy()];
    let said = scene.hosts[0].must_update(&words)?;
    ensure!(said.contains(GOOD), "`apply` said {said:?}");
    scene.at_rest(0, GOOD, &format!("versions/{GOOD}"))?;
    scene.history_ends_with(0, "installed", GOOD, "")?;
    let (fleet, row) = (&scene.fleet, ["server", "show", &scene.ids[0]]);
    scene
        .lab
        .wait_for("the version at the controller", SOON, || {
            let rows = fleet.rows(&row, "servers")?;
            Ok((column(rows.first().context("no server")?, "version") == GOOD).then_some(()))
        })?;
    // A bad one goes away by itself, and the command says so.
    let bad = export(&scene, CRASHES)?;
    let said = scene.hosts[0].update(&["apply", &bad.to_string_lossy()])?;
    ensure!(
        said.status.code() == Some(4) && said.stderr.contains("[start_failed]"),
        "`apply` of a crashing release: {} {}",
        said.status,
        said.stderr
    );
    scene.at_rest(0, GOOD, &format!("versions/{GOOD}"))?;
    Ok(Figure::of(
        "a changed byte refused, the good one kept, a crashing one sent away (exit codes 3, 0, 4)",
    ))
}

/// dpkg holds its lock: nothing is begun. It is released: the same release goes in.
fn package_manager(shelf: &Shelf) -> Result<Figure> {
    let mut scene = Scene::set(shelf, &Plan::default())?;
    let path = scene.hosts[0].at("var/lib/dpkg/lock-frontend");
    let lock = hold(&path)?;
    let before = scene.hosts[0].trusted_state()?;
    scene.roll_out(GOOD, &[])?;
    let end = scene.watch(0, GOOD)?;
    ensure!(
        end.phase == "failed" && end.code == "package_manager_busy",
        "it ended as {} [{}]",
        end.phase,
        end.code
    );
    ensure!(
        scene.hosts[0].trusted_state()? == before,
        "something changed meanwhile"
    );
    let row = scene.controller_says(0, GOOD, "failed")?;
    ensure!(column(&row, "code") == "package_manager_busy", "{row}");
    scene.history_ends_with(0, "failed", GOOD, "package_manager_busy")?;
    scene.at_rest(0, BASE, "system")?;
    drop(lock);
    scene.roll_out(GOOD, &[])?;
    let (fleet, id) = (&scene.fleet, &scene.ids[0]);
    scene.lab.wait_for("the second deployment", SOON, || {
        let mut rows = fleet.rows(&["server", "show", id], "servers")?;
        let row = rows.pop().context("no server")?["deployment"].take();
        Ok((column(&row, "status") != "failed").then_some(()))
    })?;
    let host = &scene.hosts[0];
    scene.lab.wait_for("the second try", SOON, || {
        let software = host.software().unwrap_or_default();
        Ok((column(&software["attempt"], "phase") != "failed").then_some(()))
    })?;
    let end = scene.watch(0, GOOD)?;
    ensure!(end.phase == "installed", "it ended as {}", end.phase);
    scene.is_installed(0, GOOD, BASE)?;
    Ok(Figure::of(format!(
        "refused while dpkg worked, nothing changed; kept {} after its start later",
        seconds(end.after_start)
    )))
}

fn export(scene: &Scene<'_>, version: &str) -> Result<std::path::PathBuf> {
    let file = scene.lab.path(&format!("{version}.tar"));
    if !file.exists() {
        let publisher = scene.shelf.publisher_at(&scene.fleet.data_dir());
        publisher.release(&["export", version, "--to", &file.to_string_lossy()])?;
    }
    Ok(file)
}

/// Locks a file as dpkg does (fcntl(2), the whole file).
fn hold(path: &Path) -> Result<File> {
    let folder = path.parent().context("no folder")?;
    fs::create_dir_all(folder).context("cannot make dpkg's folder")?;
    let file = File::create(path).context("cannot make dpkg's lock")?;
    let lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_SETLK(&lock)).context("cannot lock")?;
    Ok(file)
}
