//! `cargo xtask vm power`: the power goes at any instant of an enrolment, of the recording of
//! connections, of an update and of an upgrade. There is always one working version, dpkg can be
//! brought to rest, nothing that was promised is lost, and no agent ever runs that was not verified.
//!
//! Twice: by crash states, which are what a disk may hold after a power cut ([`record`], [`judge`]),
//! and by ending the machine itself and booting it again ([`cuts`]).

mod cuts;
mod judge;
mod ledger;
mod record;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::judge::{Found, Repair, Told};
use self::record::{Chapter, Recording};
use super::Stage;
use super::replay::{self, Mount, Replay};
use super::survivor::Scene;
use super::writelog::{Entry, WriteLog};
use crate::lab::Lab;
use crate::shell;
use crate::torture::random::Random;

const STATES: usize = 300;
/// They come in rounds, each through the whole log; when there is no time for all, none is begun
/// after this.
const ROUND: usize = 25;
const STATES_WITHIN: Duration = Duration::from_secs(150);
const CUTS: u32 = 50;
const SHORT_CUTS: u32 = 4;
/// One crash state of so many is one of the control.
const CONTROL: usize = 8;
/// With so many states that break a promise there is a fault to find, not more of them to count.
const ENOUGH_BROKEN: usize = 5;
const COPY_WITHIN: Duration = Duration::from_secs(60);
/// Where dpkg's second package lies in the guest.
const DEB: &str = "/root/in/second.deb";

/// The whole suite.
pub(super) fn run(stage: &Stage) -> Result<String> {
    let mut scene = Scene::set(stage)?;
    let played = play(&mut scene, stage);
    stage.end(scene.lab, played)
}

fn play(scene: &mut Scene, stage: &Stage) -> Result<String> {
    // Both begin with a host that is not enrolled and a controller that has never heard of it.
    let before = scene.lab.path("controller-before");
    scene.stop_controller()?;
    copy(&scene.fleet.data_dir(), &before)?;
    scene.start_controller()?;
    let recording = Recording::make(scene, stage)?;
    let replayed = replay_all(scene, stage, &recording)?;
    scene.story.say(&replayed);

    scene.stop_controller()?;
    fs::remove_dir_all(scene.fleet.data_dir()).context("cannot remove the controller's data")?;
    copy(&before, &scene.fleet.data_dir())?;
    scene.start_controller()?;
    let cut = cuts::play(scene, stage, if stage.full { CUTS } else { SHORT_CUTS })?;
    Ok(format!("{replayed}; {cut}; seed {}", stage.seed))
}

/// A copy of everything in the folder.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.arg("-a").args([from, to]);
    shell::succeed(copy, None, COPY_WITHIN).map(drop)
}

/// What the crash states showed.
#[derive(Default)]
struct Tally {
    states: usize,
    lost: usize,
    torn: usize,
    repaired: [usize; 3],
    rescued: usize,
    control: usize,
    flagged: usize,
    slowest: Duration,
    broken: Vec<String>,
}

fn replay_all(scene: &mut Scene, stage: &Stage, recording: &Recording) -> Result<String> {
    let log = WriteLog::open(&recording.log)?;
    for Chapter { name, from, to } in &recording.chapters {
        let entries = &log.entries()[*from..*to];
        let flushes = entries.iter().filter(|entry| entry.flushes).count();
        scene.story.say(&format!(
            "{name}: {} writes, {flushes} flushes",
            entries.len() - flushes
        ));
    }
    // Crash states come and go in memory: each is a copy of the whole disk.
    let memory = Lab::open_in_memory()?;
    let began = Instant::now();
    let mut tally = Tally::default();
    'rounds: for round in 0..STATES / ROUND {
        if !stage.full && began.elapsed() >= STATES_WITHIN {
            break;
        }
        let mut replay = Replay::begin(&log, &recording.start, &memory.path("disk.img"))?;
        let seed = stage.seed.wrapping_mul(1 << 16) ^ round as u64;
        for (number, at) in instants(log.entries(), &recording.chapters, ROUND, seed) {
            let point = (round * ROUND + number, at);
            one(
                scene,
                stage,
                recording,
                &memory,
                &mut replay,
                point,
                &mut tally,
            )?;
            if tally.broken.len() >= ENOUGH_BROKEN {
                break 'rounds;
            }
        }
        scene.story.say(&format!("{} crash states", tally.states));
    }
    verdict(&tally, began.elapsed())
}

/// Makes and judges one crash state.
fn one(
    scene: &Scene,
    stage: &Stage,
    recording: &Recording,
    memory: &Lab,
    replay: &mut Replay<'_>,
    (number, at): (usize, usize),
    tally: &mut Tally,
) -> Result<()> {
    shell::check_interrupted()?;
    let began = Instant::now();
    let state = memory.path("state.img");
    let mut random = Random::new(stage.seed.wrapping_mul(1 << 32) ^ number as u64);
    let loss = replay.state(at, &mut random, &state)?;
    let is_control = recording.chapters[0].contains(at);
    let broken = judge(scene, recording, memory, at, is_control, tally);
    let broken = broken.with_context(|| format!("crash state {number} after {at} writes"))?;
    tally.states += 1;
    tally.lost += loss.lost;
    tally.torn += loss.torn;
    tally.slowest = tally.slowest.max(began.elapsed());
    let chapter = recording
        .chapters
        .iter()
        .find(|chapter| chapter.contains(at));
    let name = chapter.map_or("between chapters", |chapter| chapter.name);
    for sentence in &broken {
        let sentence = format!(
            "crash state {number} (--seed {}), {name}, after {at} writes of which {} of the last {} \
             are lost and {} torn: {sentence}",
            stage.seed, loss.lost, loss.at_risk, loss.torn
        );
        anstream::eprintln!("broken promise: {sentence}");
        tally.broken.push(sentence);
    }
    if !broken.is_empty() && stage.keep {
        let kept = scene.lab.path(&format!("state-{number}.img"));
        replay.state(
            at,
            &mut Random::new(stage.seed.wrapping_mul(1 << 32) ^ number as u64),
            &kept,
        )?;
    }
    fs::remove_file(&state).context("cannot remove a crash state")
}

fn judge(
    scene: &Scene,
    recording: &Recording,
    memory: &Lab,
    at: usize,
    is_control: bool,
    tally: &mut Tally,
) -> Result<Vec<String>> {
    let state = memory.path("state.img");
    let mount = Mount::new(&state, &memory.path("mounted"))?;
    let found = Found::look(mount.root(), &scene.known)?;
    if is_control {
        tally.control += 1;
        tally.flagged += usize::from(found.shows_missing_sync());
    }
    let told = Told::by(mount.root(), DEB)?;
    let after = Found::look(mount.root(), &scene.known)?;
    mount.end()?;
    let mut broken = judge::broken(&found, &told, &after, &recording.promised(at));
    if let Some(why) = replay::fsck(&state)? {
        broken.push(format!("the file system is damaged: {why}"));
    }
    let kind = match told.repair() {
        Repair::None => 0,
        Repair::Configured => 1,
        Repair::Reinstalled => 2,
    };
    tally.repaired[kind] += 1;
    tally.rescued += usize::from(told.rescued());
    Ok(broken)
}

fn verdict(tally: &Tally, took: Duration) -> Result<String> {
    if !tally.broken.is_empty() {
        bail!("{}", tally.broken.join("\n"));
    }
    ensure!(
        tally.control == 0 || tally.flagged > 0,
        "the control that renames without fsync was whole in all of its {} states: this would not \
         have seen a missing fsync",
        tally.control
    );
    let [none, configured, again] = tally.repaired;
    Ok(format!(
        "{} crash states of {STATES} in {} s ({} writes lost, {} torn): all whole; dpkg: {none} \
         at rest, {configured} after configure -a, {again} after the package again; recovery \
         needed the package's updater {} times; control: {} of {} states flagged without fsync, \
         0 with it",
        tally.states,
        took.as_secs(),
        tally.lost,
        tally.torn,
        tally.rescued,
        tally.flagged,
        tally.control,
    ))
}

impl Chapter {
    fn contains(&self, at: usize) -> bool {
        (self.from + 1..=self.to).contains(&at)
    }
}

/// Numbered instants in their order: of each chapter as many as of the others, but for the control.
/// Half of them are just before a flush, when most is at risk.
fn instants(
    entries: &[Entry],
    chapters: &[Chapter],
    count: usize,
    seed: u64,
) -> Vec<(usize, usize)> {
    let mut random = Random::new(seed);
    let Some((control, others)) = chapters.split_first() else {
        return Vec::new();
    };
    let mut all: Vec<(usize, usize)> = (1..=count)
        .map(|number| {
            let chapter = match others {
                [] => control,
                _ if number % CONTROL == 0 => control,
                others => &others[number % others.len()],
            };
            let length = (chapter.to - chapter.from).max(1) as u64;
            let mut at = chapter.from + 1 + usize::try_from(random.below(length)).unwrap_or(0);
            if random.coin() {
                let ahead = entries[at.min(entries.len())..chapter.to.max(at)].iter();
                at += ahead.take_while(|entry| !entry.flushes).count();
            }
            (number, at.min(entries.len()))
        })
        .collect();
    all.sort_by_key(|(_, at)| *at);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::writelog::made::{log, sectors};

    #[test]
    fn instants_come_in_order_from_every_chapter() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let entry = |n: u64| match n % 5 {
            4 => (0, 1, Vec::new()),
            _ => (n, 0, sectors(b'a', 1)),
        };
        let written: Vec<_> = (0..100).map(entry).collect();
        log(&path, &written);
        let log = WriteLog::open(&path).unwrap();
        let chapter = |name, from, to| Chapter { name, from, to };
        let chapters = [
            chapter("control", 5, 20),
            chapter("a", 20, 50),
            chapter("b", 60, 100),
        ];
        let all = instants(log.entries(), &chapters, 200, 1);
        assert_eq!(all.len(), 200);
        assert!(all.is_sorted_by_key(|(_, at)| *at));
        for chapter in &chapters {
            let inside = all.iter().filter(|(_, at)| chapter.contains(*at)).count();
            assert!(inside >= 20, "{}: {inside}", chapter.name);
        }
        let outside = |at: usize| !chapters.iter().any(|chapter| chapter.contains(at));
        assert!(!all.iter().any(|(_, at)| outside(*at)));
        let before_flush = |at: usize| log.entries().get(at).is_none_or(|entry| entry.flushes);
        let most_at_risk = all.iter().filter(|(_, at)| before_flush(*at)).count();
        assert!((80..160).contains(&most_at_risk), "{most_at_risk}");
        assert_eq!(all, instants(log.entries(), &chapters, 200, 1));
        assert_ne!(all, instants(log.entries(), &chapters, 200, 2));
    }
}
