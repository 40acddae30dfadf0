//! Whether these suites see anything: faults are made on purpose, and each must be found.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Result, ensure};
use vpn_node_release::bundle::{Content, MANIFEST, TREE_MARK, tree_digest};
use vpn_node_release::digest::Digest;
use vpn_node_updater::journal;
use vpn_node_updater::layout::agent_program;

use super::agent::Behaviour;
use super::crowd::side_by_side;
use super::life;
use super::point::{Phase, Point};
use super::promise::{self, Found};
use super::releases::{contents, packed};
use super::round::{Scene, wait_for_start};
use super::torn::stop_at;
use super::tree::{REQUEST, Tree};
use super::{GOOD, Outcome};
use crate::shell;

/// Power cuts on a disk that ignores every fsync(2): so many of which some must be found.
const CUTS: u64 = 24;

/// Every fault; a broken promise is one that nobody found.
pub(super) fn play(scene: &Scene<'_>, updater_boundaries: u64) -> Result<Outcome> {
    let installed = life::installed(scene)?;
    let mut found = Vec::new();
    let mut broken = Vec::new();
    let mut note = |name: &str, outcome: Result<()>| match outcome {
        Ok(()) => found.push(name.to_owned()),
        Err(error) => {
            anstream::eprintln!("broken promise: control: {name}: {error:#}");
            broken.push(format!("control: {name}: {error:#}"));
        }
    };
    note("no fsync", without_fsync(scene, updater_boundaries));
    note("no recovery", without_recovery(scene));
    note("an unsigned version", unsigned(scene, &installed));
    note("a changed version", changed(scene, &installed));
    note("a lowered mark", lowered(scene, &installed));
    note("a false history", false_history(scene, &installed));
    shell::check_interrupted()?;
    Ok(Outcome {
        figures: format!("{} of 6 faults found ({})", found.len(), found.join(", ")),
        broken,
    })
}

/// The updater syncs, and the disk does nothing about it.
fn without_fsync(scene: &Scene<'_>, boundaries: u64) -> Result<()> {
    let points: Vec<Point> = (0..CUTS)
        .map(|number| Point {
            power: Some(number),
            // The later half, in which there is something to lose.
            ..Point::once(Phase::Host, boundaries * (CUTS + number) / (2 * CUTS))
        })
        .collect();
    let scene = Scene {
        deaf: true,
        ..*scene
    };
    let played = side_by_side(scene.lab, &points, Point::to_string, |folder, point| {
        // What is found is what is wanted here.
        Ok(scene.play(folder, *point).is_err())
    })?;
    let found = played.whole.iter().filter(|found| **found).count();
    ensure!(found > 0, "none of {CUTS} power cuts was found");
    Ok(())
}

/// Everything dies during a trial, and nobody starts again.
fn without_recovery(scene: &Scene<'_>) -> Result<()> {
    let tree = scene.template.copy_to(&scene.lab.path("control"))?;
    let release = scene.releases.of(&GOOD);
    release.deliver(&tree.layout.incoming(), REQUEST)?;
    stop_at(&tree, journal::Phase::Probation)?;
    must_find(&promise::at_rest(&Found::look(&tree)?), "come to rest")
}

/// Somebody puts a version of a stranger into a slot, mark and all, and it is started.
fn unsigned(scene: &Scene<'_>, installed: &Tree) -> Result<()> {
    let tree = installed.copy_to(&scene.lab.path("control"))?;
    let before = Found::look(&tree)?;
    let slot = tree.layout.version(&GOOD);
    for entry in contents(&GOOD, Behaviour::Unsigned, &tree.updater)? {
        if let Content::Bytes(bytes) = entry.content {
            fs::write(slot.join(entry.path.as_str()), bytes)?;
        }
    }
    let (_, manifest) = packed(&GOOD, Behaviour::Unsigned, &tree.updater)?;
    let bytes = serde_json::to_vec(&manifest)?;
    fs::write(slot.join(MANIFEST), &bytes)?;
    let mark = tree_digest(&manifest, Digest::of(&bytes)).mark();
    fs::write(slot.join(TREE_MARK), mark)?;
    let mut agent = Command::new(agent_program(&tree.layout.stable())).spawn()?;
    let seen = wait_for_start(&tree, 1 + before.starts());
    agent.kill()?;
    agent.wait()?;
    seen?;
    let broken = promise::always(&Found::look(&tree)?, &before, scene.releases);
    must_find(&broken, "unsigned")
}

/// One byte of the stable version is another.
fn changed(scene: &Scene<'_>, installed: &Tree) -> Result<()> {
    let tree = installed.copy_to(&scene.lab.path("control"))?;
    let before = Found::look(&tree)?;
    fs::write(tree.layout.version(&GOOD).join("share/doc/notes"), "else")?;
    let broken = promise::always(&Found::look(&tree)?, &before, scene.releases);
    must_find(&broken, "not whole")
}

/// The trust store is that of before the update.
fn lowered(scene: &Scene<'_>, installed: &Tree) -> Result<()> {
    let tree = installed.copy_to(&scene.lab.path("control"))?;
    let before = Found::look(&tree)?;
    for copy in ["highwater.a", "highwater.b"] {
        let old = scene.template.layout.trust().join(copy);
        if old.exists() {
            fs::copy(old, tree.layout.trust().join(copy))?;
        } else {
            let _ = fs::remove_file(tree.layout.trust().join(copy));
        }
    }
    let broken = promise::always(&Found::look(&tree)?, &before, scene.releases);
    must_find(&broken, "the trusted release went")
}

/// History tells of an installation, and the link leads to the version before.
fn false_history(scene: &Scene<'_>, installed: &Tree) -> Result<()> {
    let tree = installed.copy_to(&scene.lab.path("control"))?;
    fs::remove_file(tree.layout.stable())?;
    symlink("system", tree.layout.stable())?;
    let mark = tree.layout.version(&GOOD).join(TREE_MARK);
    ensure!(mark.exists(), "the version has no mark");
    must_find(&promise::at_rest(&Found::look(&tree)?), "history says")
}

fn must_find(broken: &[String], word: &str) -> Result<()> {
    ensure!(
        broken.iter().any(|sentence| sentence.contains(word)),
        "not found: {broken:?}"
    );
    Ok(())
}
