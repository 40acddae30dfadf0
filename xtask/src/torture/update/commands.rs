//! Commands of root (`rollback`, `apply FILE`), killed at their system calls beside a running
//! supervisor; afterwards the host boots, or root runs `recover`.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use vpn_node_release::version::Version;

use super::Outcome;
use super::crowd::side_by_side;
use super::life::supervise;
use super::promise::{self, Found};
use super::round::{Scene, wait_for_rest, wait_for_silence};
use super::tree::Tree;
use super::watch::{Death, Watch, Who};
use crate::shell;
use crate::torture::random::Random;
use crate::torture::trace;

/// A trial of ten seconds on a machine that is busy.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// What root does on which host.
pub(super) struct Command<'a> {
    pub(super) words: Vec<OsString>,
    pub(super) host: &'a Tree,
    pub(super) from: Version,
    pub(super) to: Version,
}

/// How one ended.
struct Ended {
    stops: u64,
    arrived: bool,
}

/// Kills the command at `kills` of its boundaries, each on a host of its own.
pub(super) fn kill(
    scene: &Scene<'_>,
    command: &Command<'_>,
    kills: u64,
    seed: u64,
) -> Result<Outcome> {
    let name = command.words[0].to_string_lossy();
    let boundaries = command
        .play(scene, &scene.lab.path("command"), u64::MAX)?
        .stops;
    let mut points: Vec<u64> = (1..=boundaries).collect();
    Random::new(seed).shuffle(&mut points);
    points.truncate(usize::try_from(kills).unwrap_or(usize::MAX));
    let played = side_by_side(
        scene.lab,
        &points,
        |at| format!("{name}:{at}"),
        |folder, at| command.play(scene, folder, *at),
    )?;
    let arrived = played.whole.iter().filter(|ended| ended.arrived).count();
    Ok(Outcome {
        figures: format!(
            "{} times `{name}` killed at one of {boundaries} boundaries, {arrived} arrived",
            points.len()
        ),
        broken: played.broken,
    })
}

impl Command<'_> {
    fn play(&self, scene: &Scene<'_>, folder: &Path, at: u64) -> Result<Ended> {
        let tree = self.host.copy_to(folder)?;
        let before = Found::look(&tree)?;
        let mut followed = supervise(&tree)?;
        wait_for_rest(&tree, &followed)?;
        let ended = self.run(&tree, at)?;
        if at.is_multiple_of(2) {
            drop(followed);
            wait_for_silence(&tree)?;
            tree.clear_run();
            followed = supervise(&tree)?;
        } else {
            let said = tree.run(&["recover"])?;
            ensure!(said.status.success(), "recover failed: {}", said.stderr);
        }
        wait_for_rest(&tree, &followed)?;
        drop(followed);
        wait_for_silence(&tree)?;
        let found = Found::look(&tree)?;
        let mut broken = promise::always(&found, &before, scene.releases);
        broken.extend(promise::at_rest(&found));
        let arrived = found.stable().as_ref() == Some(&self.to);
        let stayed = found.stable().as_ref() == Some(&self.from);
        if !(arrived || ended.killed && stayed) {
            broken.push(format!("{:?} is stable", found.stable()));
        }
        ensure!(broken.is_empty(), "{}", broken.join("; "));
        fs::remove_dir_all(folder)?;
        Ok(Ended {
            stops: ended.stops,
            arrived,
        })
    }

    fn run(&self, tree: &Tree, at: u64) -> Result<trace::Ended> {
        let mut command = tree.command(&[]);
        command.args(&self.words);
        let death = Death {
            // Followed alone, it is the first process, which the watch takes for the supervisor.
            who: Who::Supervisor,
            at,
            alone: false,
        };
        let ask = Watch::default().ask(vec![death]);
        let followed = trace::start(&command, Vec::new(), tree.log()?, ask)?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while !followed.is_over() {
            shell::check_interrupted()?;
            if Instant::now() > deadline {
                bail!("{:?} does not end", self.words);
            }
            thread::sleep(Duration::from_millis(10));
        }
        let ended = followed.end()?;
        ensure!(
            ended.killed || ended.status == Some(0),
            "{:?} failed without a crash",
            self.words
        );
        Ok(ended)
    }
}
