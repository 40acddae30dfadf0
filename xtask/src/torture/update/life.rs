//! A host's life: updates one after the other, a broken release between them, a rollback by root,
//! what is pruned; and the commands of root again, killed at their system calls.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use vpn_node_release::version::Version;

use super::commands::{self, Command};
use super::promise::{self, Found};
use super::round::{Scene, wait_for_rest, wait_for_silence};
use super::tree::{REQUEST, Tree};
use super::watch::Watch;
use super::{BAD, GOOD, NEXT, Outcome};
use crate::shell;
use crate::torture::trace::{self, Followed};

/// Requests after the first.
pub(super) const SECOND_REQUEST: &str = "6f1f0c1e-0000-4000-8000-000000000002";
const THIRD_REQUEST: &str = "6f1f0c1e-0000-4000-8000-000000000003";
const FOURTH_REQUEST: &str = "6f1f0c1e-0000-4000-8000-000000000004";
const FIFTH_REQUEST: &str = "6f1f0c1e-0000-4000-8000-000000000005";

/// The host with [`GOOD`] installed, at rest.
pub(super) fn installed(scene: &Scene<'_>) -> Result<Tree> {
    let tree = scene.template.copy_to(&scene.lab.path("installed"))?;
    let followed = supervise(&tree)?;
    ask(scene, &tree, &followed, &GOOD, REQUEST)?;
    expect(&tree, &[("installed", GOOD, None)])?;
    drop(followed);
    wait_for_silence(&tree)?;
    tree.clear_run();
    Ok(tree)
}

/// The whole story, then `kills` rollbacks that are killed.
pub(super) fn play(scene: &Scene<'_>, kills: u64, seed: u64) -> Result<Outcome> {
    let mut broken = Vec::new();
    let tree = installed(scene)?;
    let one = tree.copy_to(&scene.lab.path("one"))?;
    let two = match story(scene, &tree) {
        Ok(two) => two,
        Err(error) if shell::was_interrupted(&error) => return Err(error),
        Err(error) => {
            let sentence = format!("life: {error:#}");
            anstream::eprintln!("broken promise: {sentence}");
            return Ok(Outcome {
                figures: "the story broke off".to_owned(),
                broken: vec![sentence],
            });
        }
    };
    let mut figures = vec![
        "3 updates, 1 broken release sent away and blocked, 1 rollback, pruned as it must"
            .to_owned(),
    ];
    let offline = scene.lab.path("release.tar");
    scene.releases.of(&NEXT).export(&offline)?;
    for command in [
        Command {
            words: vec!["rollback".into()],
            host: &two,
            from: NEXT,
            to: GOOD,
        },
        Command {
            words: vec!["apply".into(), offline.into()],
            host: &one,
            from: GOOD,
            to: NEXT,
        },
    ] {
        let outcome = commands::kill(scene, &command, kills, seed)?;
        figures.push(outcome.figures);
        broken.extend(outcome.broken);
    }
    Ok(Outcome {
        figures: figures.join("; "),
        broken,
    })
}

/// Everything in order; a copy of the host with two updates comes back.
fn story(scene: &Scene<'_>, tree: &Tree) -> Result<Tree> {
    let before = Found::look(tree)?;
    fs::create_dir(tree.layout.versions().join("9.0.0")).context("cannot make a directory")?;
    let keep_none = fs::read_to_string(tree.layout.config())? + "keep = 0\n";
    fs::write(tree.layout.config(), keep_none)?;
    let mut history = vec![("installed", GOOD, None)];

    let followed = supervise(tree)?;
    ask(scene, tree, &followed, &BAD, SECOND_REQUEST)?;
    history.push(("rolled_back", BAD, Some("start_failed")));
    expect(tree, &history)?;
    ask(scene, tree, &followed, &BAD, THIRD_REQUEST)?;
    history.push(("refused", BAD, Some("blocked")));
    expect(tree, &history)?;
    ask(scene, tree, &followed, &NEXT, FOURTH_REQUEST)?;
    history.push(("installed", NEXT, None));
    expect(tree, &history)?;
    // BAD is neither linked nor one of the newest `keep`, GOOD is the previous one, and 9.0.0 has
    // no mark of ours.
    expect_versions(
        tree,
        &[GOOD.to_string(), NEXT.to_string(), "9.0.0".to_owned()],
    )?;
    drop(followed);
    wait_for_silence(tree)?;
    tree.clear_run();
    let two = tree.copy_to(&scene.lab.path("two"))?;

    let followed = supervise(tree)?;
    let said = tree.run(&["rollback"])?;
    ensure!(
        said.status.success(),
        "the rollback failed: {}",
        said.stderr
    );
    wait_for_rest(tree, &followed)?;
    history.push(("installed", GOOD, None));
    expect(tree, &history)?;
    ask(scene, tree, &followed, &NEXT, FIFTH_REQUEST)?;
    history.push(("installed", NEXT, None));
    expect(tree, &history)?;
    let found = Found::look(tree)?;
    let broken = promise::always(&found, &before, scene.releases);
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    drop(followed);
    wait_for_silence(tree)?;
    Ok(two)
}

pub(super) fn supervise(tree: &Tree) -> Result<Followed> {
    let ask = Watch::default().ask(Vec::new());
    trace::start(&tree.command(&["supervise"]), Vec::new(), tree.log()?, ask)
}

fn ask(
    scene: &Scene<'_>,
    tree: &Tree,
    followed: &Followed,
    version: &Version,
    request: &str,
) -> Result<()> {
    let release = scene.releases.of(version);
    release.deliver(&tree.layout.incoming(), request)?;
    wait_for_rest(tree, followed)?;
    let found = Found::look(tree)?;
    let broken = promise::at_rest(&found);
    ensure!(broken.is_empty(), "after {version}: {}", broken.join("; "));
    Ok(())
}

/// That attempts ended like this, in this order, and the last one that was installed is stable.
fn expect(tree: &Tree, wanted: &[(&str, Version, Option<&str>)]) -> Result<()> {
    let found = Found::look(tree)?;
    let wanted: Vec<(&str, String, Option<&str>)> = wanted
        .iter()
        .map(|(event, version, code)| (*event, version.to_string(), *code))
        .collect();
    let told: Vec<(&str, String, Option<&str>)> = found
        .endings()
        .map(|(event, version, code)| (event, version.to_owned(), code))
        .collect();
    ensure!(told == wanted, "history is {told:?} and not {wanted:?}");
    let last = wanted.iter().rfind(|(event, ..)| *event == "installed");
    let stable = found.stable().map(|version| version.to_string());
    ensure!(
        stable.as_ref() == last.map(|(_, version, _)| version),
        "stable is {stable:?}"
    );
    Ok(())
}

fn expect_versions(tree: &Tree, wanted: &[String]) -> Result<()> {
    let entries = fs::read_dir(tree.layout.versions())?;
    let there: BTreeSet<String> = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
    ensure!(
        there == wanted,
        "versions/ has {there:?} and not {wanted:?}"
    );
    Ok(())
}
