//! The agent's directory is the agent's: while the updater verifies and installs, somebody replaces
//! package and metadata in it, as quickly as it goes. What is installed is what was signed, or
//! nothing.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use vpn_node_release::bundle::Content;
use vpn_node_updater::journal::Slot;
use vpn_node_updater::layout::agent_program;
use vpn_node_updater::slots;

use super::agent::Behaviour;
use super::promise::{self, Found};
use super::releases::{Release, Releases, contents};
use super::round::{Scene, rests_within, wait_for_silence};
use super::tree::Tree;
use super::watch::Watch;
use super::{GOOD, Outcome};
use crate::shell;
use crate::torture::random::Random;
use crate::torture::trace;

/// Hosts that go all the way, trial included, beside the one that only goes as far as the slot.
const WHOLE_HOSTS: usize = 4;
/// One request to its end, trial included.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Swaps for so long.
pub(super) fn play(scene: &Scene<'_>, time: Duration, seed: u64) -> Result<Outcome> {
    let stranger = Releases::make(&[(GOOD, Behaviour::Unsigned)], &scene.template.updater, 101)?;
    let swapped = AtomicU64::new(0);
    let end = Instant::now() + time;
    let ran: Vec<Result<Ran>> = thread::scope(|scope| {
        let (stranger, swapped) = (&stranger, &swapped);
        let quick = scope.spawn(move || {
            let folder = scene.lab.path("swap-quick");
            attacked(scene, stranger, &folder, seed, swapped, |tree| {
                quick(scene, tree, end)
            })
        });
        let whole: Vec<_> = (0..WHOLE_HOSTS)
            .map(|number| {
                scope.spawn(move || {
                    let folder = scene.lab.path(&format!("swap-{number}"));
                    let seed = seed + number as u64 + 1;
                    attacked(scene, stranger, &folder, seed, swapped, |tree| {
                        whole(scene, tree, end)
                    })
                })
            })
            .collect();
        let all = std::iter::once(quick).chain(whole);
        all.map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
        .collect()
    });
    let mut sum = Ran::default();
    let mut broken = Vec::new();
    for ran in ran {
        match ran {
            Ok(ran) => sum.add(ran),
            Err(error) if shell::was_interrupted(&error) => return Err(error),
            Err(error) => {
                anstream::eprintln!("broken promise: swap: {error:#}");
                broken.push(format!("swap: {error:#}"));
            }
        }
    }
    if broken.is_empty() && (sum.unpacked == 0 || sum.refused() == 0) {
        broken.push("swap: nothing was unpacked, or nothing refused: it shows nothing".to_owned());
    }
    let codes: Vec<String> = sum
        .codes
        .iter()
        .map(|(code, n)| format!("{n} {code}"))
        .collect();
    Ok(Outcome {
        figures: format!(
            "{} s, {} swaps beside {} runs: {} packages unpacked as signed, {} of them installed, \
             {} refused ({}), 0 wrong installs{}",
            time.as_secs(),
            swapped.load(Ordering::Relaxed),
            sum.runs,
            sum.unpacked,
            sum.installed,
            sum.refused(),
            codes.join(", "),
            if broken.is_empty() {
                ""
            } else {
                " but see above"
            },
        ),
        broken,
    })
}

/// What one host has to tell.
#[derive(Default)]
struct Ran {
    runs: u64,
    unpacked: u64,
    installed: u64,
    /// Why the others were not unpacked.
    codes: BTreeMap<String, u64>,
}

impl Ran {
    fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.unpacked += other.unpacked;
        self.installed += other.installed;
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
    }

    fn refused(&self) -> u64 {
        self.codes.values().sum()
    }

    /// Looks what a run made of it: what is unpacked is what was signed.
    fn look(&mut self, scene: &Scene<'_>, tree: &Tree, before: &Found) -> Result<()> {
        self.runs += 1;
        let found = Found::look(tree)?;
        let broken = promise::always(&found, before, scene.releases);
        ensure!(broken.is_empty(), "{}", broken.join("; "));
        let slot = tree.layout.version(&GOOD);
        if !slots::is_whole(&tree.layout, &Slot::Version(GOOD)) {
            let code = found
                .last_code()
                .context("nothing was installed, and nothing says why")?;
            *self.codes.entry(code.to_owned()).or_default() += 1;
            return Ok(());
        }
        for entry in contents(&GOOD, Behaviour::Good, &tree.updater)? {
            let Content::Bytes(wanted) = entry.content else {
                continue;
            };
            let there = fs::read(slot.join(entry.path.as_str()))?;
            ensure!(
                there == wanted,
                "WRONG INSTALL: {} is not what was signed",
                entry.path
            );
        }
        let record = fs::read_to_string(tree.layout.package_of(&GOOD)).unwrap_or_default();
        let sha256 = &scene.releases.of(&GOOD).sha256;
        ensure!(
            record.trim_end() == sha256,
            "WRONG INSTALL: recorded as {record}"
        );
        self.unpacked += 1;
        self.installed += u64::from(found.stable() == Some(GOOD));
        Ok(())
    }
}

/// A host whose incoming directory is under attack while `work` works on it.
fn attacked(
    scene: &Scene<'_>,
    stranger: &Releases,
    folder: &Path,
    seed: u64,
    swapped: &AtomicU64,
    work: impl FnOnce(&Tree) -> Result<Ran>,
) -> Result<Ran> {
    let tree = scene.template.copy_to(folder)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mut swapper = Swapper {
            incoming: tree.layout.incoming(),
            elsewhere: folder.join("elsewhere"),
            good: scene.releases.of(&GOOD),
            evil: stranger.of(&GOOD),
            random: Random::new(seed),
        };
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // The folder may just be moved away by ourselves: then the next one comes through.
                if swapper.swap().is_ok() {
                    swapped.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_micros(swapper.random.below(400)));
            }
        });
        let ran = work(&tree);
        stop.store(true, Ordering::Relaxed);
        ran
    })
}

/// One run after the other, without a supervisor: each goes as far as the start of the trial.
fn quick(scene: &Scene<'_>, tree: &Tree, end: Instant) -> Result<Ran> {
    let mut agent = Agent::start(tree)?;
    let before = Found::look(tree)?;
    let mut ran = Ran::default();
    while Instant::now() < end {
        shell::check_interrupted()?;
        request(scene, tree, ran.runs)?;
        tree.run(&["run"])?;
        ran.look(scene, tree, &before)?;
        // As if it had never been there, but for what is trusted.
        for gone in [tree.layout.version(&GOOD), tree.layout.packages()] {
            let _ = fs::remove_dir_all(gone);
        }
        for gone in [tree.layout.policy(), tree.layout.history()] {
            let _ = fs::remove_file(gone);
        }
    }
    agent.0.kill()?;
    agent.0.wait()?;
    Ok(ran)
}

/// One request after the other with everything that belongs to it, until one was installed; then a
/// new host.
fn whole(scene: &Scene<'_>, tree: &Tree, end: Instant) -> Result<Ran> {
    let mut ran = Ran::default();
    let before = Found::look(tree)?;
    while Instant::now() < end {
        let supervise = tree.command(&["supervise"]);
        let ask = Watch::default().ask(Vec::new());
        let followed = trace::start(&supervise, Vec::new(), tree.log()?, ask)?;
        loop {
            request(scene, tree, ran.runs)?;
            rests_within(tree, &followed, ENDS_WITHIN)?;
            ran.look(scene, tree, &before)?;
            if Found::look(tree)?.stable() == Some(GOOD) || Instant::now() >= end {
                break;
            }
            let _ = fs::remove_file(tree.layout.policy());
        }
        drop(followed);
        wait_for_silence(tree)?;
        tree.clear_run();
        // Back to the beginning, but for what is trusted.
        fs::remove_file(tree.layout.stable())?;
        symlink("system", tree.layout.stable())?;
        for gone in [tree.layout.previous(), tree.layout.history()] {
            let _ = fs::remove_file(gone);
        }
        for gone in tree.layout.journal() {
            let _ = fs::remove_file(gone);
        }
        let _ = fs::remove_dir_all(tree.layout.version(&GOOD));
        let _ = fs::remove_dir_all(tree.layout.packages());
    }
    Ok(ran)
}

fn request(scene: &Scene<'_>, tree: &Tree, number: u64) -> Result<()> {
    let id = format!("6f1f0c1e-0000-4000-8000-{number:012}");
    let release = scene.releases.of(&GOOD);
    release.ask(&tree.layout.incoming(), &id)
}

/// The stable agent, which answers so that nobody waits for it. Killed with its value.
struct Agent(Child);

impl Agent {
    fn start(tree: &Tree) -> Result<Self> {
        let socket = tree.layout.status_socket();
        fs::create_dir_all(socket.parent().context("a socket lies in a folder")?)?;
        let child = Command::new(agent_program(&tree.layout.stable()))
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the stable agent")?;
        let agent = Self(child);
        let deadline = Instant::now() + ENDS_WITHIN;
        while tree.report().is_err() {
            ensure!(
                Instant::now() < deadline,
                "the stable agent does not answer"
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who attacks.
struct Swapper<'a> {
    incoming: PathBuf,
    /// A folder of the attacker's own.
    elsewhere: PathBuf,
    good: &'a Release,
    evil: &'a Release,
    random: Random,
}

impl Swapper<'_> {
    /// One file, or the whole folder of targets, becomes another one.
    fn swap(&mut self) -> Result<()> {
        let files = self.good.files();
        let number = usize::try_from(self.random.below(files.len() as u64))?;
        // Half of the time the package.
        let number = if self.random.coin() {
            files.len() - 1
        } else {
            number
        };
        let (below, good) = &files[number];
        let evil = &self.evil.files()[number].1;
        let path = self.incoming.join(below);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        fs::create_dir_all(&self.elsewhere)?;
        let beside = self.elsewhere.join("file");
        match self.random.below(12) {
            0..=5 => {
                let _ = fs::remove_file(&beside);
                fs::write(&beside, good)?;
                fs::rename(&beside, &path)?;
            }
            6 => {
                let _ = fs::remove_file(&beside);
                fs::write(&beside, evil)?;
                fs::rename(&beside, &path)?;
            }
            // Into the very file that is being read, from somewhere in the middle.
            7 => {
                let at = self.random.below(evil.len() as u64);
                let mut file = OpenOptions::new().write(true).open(&path)?;
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&evil[usize::try_from(at)?..])?;
            }
            8 => {
                let target = self.elsewhere.join("evil");
                fs::write(&target, evil)?;
                let _ = fs::remove_file(&beside);
                symlink(&target, &beside)?;
                fs::rename(&beside, &path)?;
            }
            9 => {
                let target = self.elsewhere.join("evil");
                fs::write(&target, evil)?;
                let _ = fs::remove_file(&path);
                fs::hard_link(&target, &path)?;
            }
            10 => {
                let file = OpenOptions::new().write(true).open(&path)?;
                file.set_len(self.random.below(good.len() as u64 * 2))?;
            }
            _ => {
                let (folder, away) = (self.incoming.join("targets"), self.elsewhere.join("away"));
                let _ = fs::remove_dir_all(&away);
                fs::rename(&folder, &away)?;
            }
        }
        Ok(())
    }
}
