//! A good release is kept, root may go back from it, and no connection notices.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::scene::{Plan, SOON, Scene, seconds};
use super::shelf::{BASE, BETTER, GOOD, Shelf};
use super::{Figure, Listed};
use crate::bench::peers::fake::Fake;
use crate::lab::fleet::column;

pub(super) const SCENARIOS: Listed = &[
    ("good", true, good),
    ("good-with-defaults", false, with_defaults),
    ("two-at-once", false, two_at_once),
];

/// What the fake WireGuard daemon has, and how many of them are connected.
const PEERS: usize = 100;
const ONE_OF: usize = 20;

/// A daemon with connections, whom an agent with these settings finds.
pub(super) struct Vpn {
    pub(super) settings: String,
    pub(super) connected: usize,
    _daemons: Vec<Fake>,
    _folder: tempfile::TempDir,
}

impl Vpn {
    /// `wg-full` with connected peers, and `wg-empty` with the same interface and nobody connected.
    pub(super) fn serve() -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for sockets")?;
        let serve = |name: &str, peers, one_of| {
            let sockets = folder.path().join(name);
            std::fs::create_dir(&sockets).context("no folder for sockets")?;
            Fake::serve_at(sockets.join("wg0.sock"), peers, one_of)
        };
        let full = serve("wg-full", PEERS, ONE_OF)?;
        let empty = serve("wg-empty", 0, 1)?;
        Ok(Self {
            settings: wireguard(&folder.path().join("wg-full")),
            connected: full.connected(),
            _daemons: vec![full, empty],
            _folder: folder,
        })
    }
}

fn wireguard(sockets: &Path) -> String {
    format!("[wireguard]\nenabled = true\nkernel = false\npoll_s = 1\nsocket_dir = {sockets:?}\n")
}

fn good(shelf: &Shelf) -> Result<Figure> {
    let vpn = Vpn::serve()?;
    let mut scene = Scene::set(
        shelf,
        &Plan {
            agent: &vpn.settings,
            ..Plan::default()
        },
    )?;
    let before = live(&mut scene, vpn.connected)?;
    let id = scene.roll_out(GOOD, &[])?;
    let end = scene.watch(0, GOOD)?;
    ensure!(end.phase == "installed", "it ended as {}", end.phase);
    scene.is_installed(0, GOOD, BASE)?;
    let fleet = &scene.fleet;
    let words = ["rollout", "status", &id];
    scene.lab.wait_for("a completed rollout", SOON, || {
        let rows = fleet.rows(&words, "rollouts")?;
        Ok((column(rows.first().context("no rollout")?, "state") == "completed").then_some(()))
    })?;
    let after = live(&mut scene, vpn.connected)?;
    ensure!(
        before == after,
        "the connections are others: {before:?}, then {after:?}"
    );
    let installed = end.after_start;

    // Root does not want it after all.
    let said = scene.hosts[0].must_update(&["rollback"])?;
    ensure!(said.contains(BASE), "`rollback` said {said:?}");
    scene.at_rest(0, BASE, "system")?;
    let again = live(&mut scene, vpn.connected)?;
    ensure!(before == again, "root's way back cost connections");
    let (fleet, row) = (&scene.fleet, ["server", "show", &scene.ids[0]]);
    scene
        .lab
        .wait_for("the version at the controller", SOON, || {
            let rows = fleet.rows(&row, "servers")?;
            Ok((column(rows.first().context("no server")?, "version") == BASE).then_some(()))
        })?;
    Ok(Figure::of(format!(
        "kept {} after its start, {} connections are the same rows; back by `rollback`",
        seconds(installed),
        vpn.connected
    )))
}

/// As hosts are when nobody has written an updater.toml for a demonstration.
fn with_defaults(shelf: &Shelf) -> Result<Figure> {
    let plan = Plan {
        updater: "supervisor = \"plain\"\n",
        ..Plan::default()
    };
    let mut scene = Scene::set(shelf, &plan)?;
    scene.roll_out(GOOD, &[])?;
    let end = scene.watch(0, GOOD)?;
    ensure!(end.phase == "installed", "it ended as {}", end.phase);
    ensure!(
        (115..180).contains(&end.after_start.as_secs()),
        "a probation of 120 s took {}",
        seconds(end.after_start)
    );
    scene.is_installed(0, GOOD, BASE)?;
    Ok(Figure::of(format!(
        "kept after {}",
        seconds(end.after_start)
    )))
}

/// A second rollout, and root with a file, while the first release is on trial.
fn two_at_once(shelf: &Shelf) -> Result<Figure> {
    let mut scene = Scene::set(shelf, &Plan::default())?;
    let file = scene.lab.path("better.tar");
    let export = ["export", BETTER, "--to", &file.to_string_lossy()];
    shelf
        .publisher_at(&scene.fleet.data_dir())
        .release(&export)?;
    scene.roll_out(GOOD, &[])?;
    scene.reaches(0, GOOD, "probation")?;
    scene.roll_out(BETTER, &[])?;
    let refused = scene.hosts[0].update(&["apply", &file.to_string_lossy()])?;
    ensure!(
        refused.status.code() == Some(5) && refused.stderr.contains("[busy]"),
        "`apply` during a trial ended with {} and said {}",
        refused.status,
        refused.stderr
    );
    let first = scene.watch(0, GOOD)?;
    ensure!(
        first.phase == "installed",
        "the first ended as {}",
        first.phase
    );
    let second = scene.watch(0, BETTER)?;
    ensure!(
        second.phase == "installed",
        "the second ended as {}",
        second.phase
    );
    scene.is_installed(0, BETTER, GOOD)?;
    ensure!(
        scene.hosts[0].link("previous").as_deref() == Some(&*format!("versions/{GOOD}")),
        "previous leads elsewhere"
    );
    Ok(Figure::of(
        "one after the other, the first to its end; `apply` meanwhile was refused [busy]",
    ))
}

/// The live connections of the first host at the controller, when there are so many.
fn live(scene: &mut Scene<'_>, wanted: usize) -> Result<BTreeSet<String>> {
    let fleet = &scene.fleet;
    let words = ["connections", "list", "--server", &scene.ids[0]];
    scene
        .lab
        .wait_for("every connection at the controller", SOON, || {
            let rows = fleet.rows(&words, "connections")?;
            let id = |row: &Value| column(row, "connection_id");
            let ended = |row: &Value| !column(row, "connection_end").is_empty();
            ensure!(!rows.iter().any(ended), "a connection has ended");
            Ok((rows.len() == wanted).then(|| rows.iter().map(id).collect()))
        })
}
