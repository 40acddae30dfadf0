//! Every small file and link that an update leaves, at every stage of it, damaged in every way: the
//! host recovers, or fails closed and says why. Nothing unverified is started either way.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vpn_node_release::bundle::TREE_MARK;
use vpn_node_release::code::{MetadataCode, PolicyCode, UpdaterCode};
use vpn_node_updater::disk::Disk;
use vpn_node_updater::hold::Hold;
use vpn_node_updater::journal::Phase;
use vpn_node_updater::layout::Layout;

use super::promise::{self, Found};
use super::round::{Scene, wait_for_silence};
use super::tree::Tree;
use super::watch::Watch;
use super::{GOOD, NEXT};
use crate::lab::Lab;
use crate::shell;
use crate::torture::trace;

/// What is asked for again and again does not come to rest: the updater waits for a person.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// So often in a row the host must look as if it had come to rest or to a stand.
const LOOKS: u32 = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(250);

const STABLE_MARK: &str = "the stable slot's mark";
const REQUEST_FILE: &str = "request.json";
const MARKS: &str = "both high-water marks";

/// One damage, of one file, at one stage.
#[derive(Clone, Debug)]
pub(super) struct Case {
    stage: usize,
    victim: Victim,
    damage: Damage,
}

/// What is damaged: one file, or both copies of one.
#[derive(Clone, Debug)]
struct Victim {
    name: &'static str,
    paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Missing,
    Empty,
    Half,
    Zeros,
    Flipped(u64),
    Longer,
    /// A link that leads to nothing.
    Dangling,
}

const OF_FILES: [Damage; 7] = [
    Damage::Missing,
    Damage::Empty,
    Damage::Half,
    Damage::Zeros,
    Damage::Flipped(0),
    Damage::Flipped(1),
    Damage::Longer,
];
const OF_LINKS: [Damage; 2] = [Damage::Missing, Damage::Dangling];

/// A host that was stopped on its way from [`GOOD`] to [`NEXT`].
pub(super) struct Stage {
    name: String,
    phase: Option<Phase>,
    tree: Tree,
    before: Found,
}

/// How many cases, and how they ended: each code with its number.
pub(super) fn figures(cases: usize, ends: &[String]) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for end in ends {
        *counts.entry(end).or_default() += 1;
    }
    let ends: Vec<String> = counts
        .iter()
        .map(|(end, count)| format!("{count} {end}"))
        .collect();
    format!("{cases} damaged files, then {}", ends.join(", "))
}

/// Stops hosts at each stage of the update from [`GOOD`] to [`NEXT`].
pub(super) fn stages(
    lab: &Lab,
    installed: &Tree,
    deliver: impl Fn(&Tree) -> Result<()>,
) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for phase in [
        None,
        Some(Phase::Copied),
        Some(Phase::Verified),
        Some(Phase::Staged),
        Some(Phase::Switching),
        Some(Phase::Probation),
        Some(Phase::Committing),
    ] {
        let name = phase.map_or_else(
            || "asked".to_owned(),
            |phase| format!("{phase:?}").to_lowercase(),
        );
        let tree = installed.copy_to(&lab.path(&format!("stage-{name}")))?;
        // So that there is one to be torn.
        Hold::read(&tree.layout)?.write(&tree.layout, &Disk::default())?;
        deliver(&tree)?;
        if let Some(phase) = phase {
            stop_at(&tree, phase)?;
        }
        fs::remove_file(super::agent::witness(&tree.root)).ok();
        stages.push(Stage {
            name,
            phase,
            before: Found::look(&tree)?,
            tree,
        });
    }
    Ok(stages)
}

/// Kills everything as soon as the journal says `phase`.
pub(super) fn stop_at(tree: &Tree, phase: Phase) -> Result<()> {
    let supervise = tree.command(&["supervise"]);
    let at = Watch::default().until(&tree.layout, phase);
    let followed = trace::start(&supervise, Vec::new(), tree.log()?, at)?;
    let deadline = Instant::now() + SETTLES_WITHIN;
    while !followed.is_over() {
        shell::check_interrupted()?;
        ensure!(
            Instant::now() < deadline,
            "the update did not come to {phase:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
    drop(followed);
    wait_for_silence(tree)?;
    tree.clear_run();
    Ok(())
}

/// All cases of these stages.
pub(super) fn cases(stages: &[Stage]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (number, stage) in stages.iter().enumerate() {
        for victim in victims(&stage.tree.layout) {
            if victim
                .paths
                .iter()
                .any(|path| fs::symlink_metadata(path).is_err())
            {
                continue;
            }
            let is_link =
                fs::symlink_metadata(&victim.paths[0]).is_ok_and(|meta| meta.is_symlink());
            let damages = if is_link {
                &OF_LINKS[..]
            } else {
                &OF_FILES[..]
            };
            // The stable version is not read again at each boot: a mark that is well formed counts.
            let readable = |damage: &&Damage| {
                victim.name != STABLE_MARK || !matches!(damage, Damage::Flipped(_))
            };
            let damages = damages.iter().filter(readable);
            cases.extend(damages.map(|damage| Case {
                stage: number,
                victim: victim.clone(),
                damage: *damage,
            }));
        }
    }
    cases
}

/// Paths below the tree's root.
fn victims(layout: &Layout) -> Vec<Victim> {
    let [journal_a, journal_b] = layout.journal();
    let trust = |name: &str| layout.trust().join(name);
    let high = [trust("highwater.a"), trust("highwater.b")];
    let slot = layout.version(&NEXT);
    let one = |name, path: PathBuf| Victim {
        name,
        paths: vec![path],
    };
    vec![
        one("journal.a", journal_a.clone()),
        one("journal.b", journal_b.clone()),
        Victim {
            name: "both journals",
            paths: vec![journal_a, journal_b],
        },
        one("status.json", layout.status()),
        one("policy.json", layout.policy()),
        one("history.jsonl", layout.history()),
        one(REQUEST_FILE, layout.incoming().join("request.json")),
        one("highwater.a", high[0].clone()),
        one("highwater.b", high[1].clone()),
        Victim {
            name: MARKS,
            paths: high.to_vec(),
        },
        one("root.json", trust("root.json")),
        one("timestamp.json", trust("timestamp.json")),
        one("snapshot.json", trust("snapshot.json")),
        one("targets.json", trust("targets.json")),
        one("packages/NEXT", layout.package_of(&NEXT)),
        one("the new slot's mark", slot.join(TREE_MARK)),
        one("the new slot's agent", slot.join("bin/vpn-node-agent")),
        one("the new slot's data", slot.join("share/ballast")),
        one("the new slot's manifest", slot.join("manifest.json")),
        one(STABLE_MARK, layout.version(&GOOD).join(TREE_MARK)),
        one("packages/STABLE", layout.package_of(&GOOD)),
        one("work/package", layout.work().join("package")),
        one("link stable", layout.stable()),
        one("link experiment", layout.experiment()),
        one("link previous", layout.previous()),
    ]
}

impl Case {
    pub(super) fn show(&self, stages: &[Stage]) -> String {
        format!(
            "{} {} at {}",
            self.damage, self.victim.name, stages[self.stage].name
        )
    }

    /// Plays it in `folder`; how it ended, or a broken promise.
    pub(super) fn play(
        &self,
        stages: &[Stage],
        folder: &Path,
        scene: &Scene<'_>,
    ) -> Result<String> {
        let stage = &stages[self.stage];
        let tree = stage.tree.copy_to(folder)?;
        for path in &self.victim.paths {
            let below = path.strip_prefix(&stage.tree.root)?;
            self.damage.inflict(&tree.root.join(below))?;
        }
        let supervise = tree.command(&["supervise"]);
        let ask = Watch::default().ask(Vec::new());
        let followed = trace::start(&supervise, Vec::new(), tree.log()?, ask)?;
        let rested = wait(&tree, &followed)?;
        drop(followed);
        wait_for_silence(&tree)?;
        let end = self.judge(&tree, stages, rested, scene)?;
        fs::remove_dir_all(folder)?;
        Ok(end)
    }

    fn judge(
        &self,
        tree: &Tree,
        stages: &[Stage],
        rested: bool,
        scene: &Scene<'_>,
    ) -> Result<String> {
        let found = Found::look(tree)?;
        let before = &stages[self.stage].before;
        let mut broken = promise::always(&found, before, scene.releases);
        let trust_is_lost = self.victim.name == MARKS || self.victim.name == "root.json";
        if trust_is_lost {
            broken.retain(|sentence| sentence != promise::TRUST_LOST);
        }
        if self.victim.name.starts_with("the new slot") {
            // It may lie there as long as nothing leads to it.
            broken.retain(|sentence| !sentence.ends_with(promise::NOT_AS_PACKED));
        }
        if rested {
            broken.extend(promise::at_rest(&found));
        }
        let log = fs::read_to_string(tree.log_path()).unwrap_or_default();
        let end = if found.stable() == Some(NEXT) {
            "installed".to_owned()
        } else if self.victim.name == REQUEST_FILE
            && self.damage == Damage::Missing
            && stages[self.stage].phase.is_none()
        {
            "not asked for".to_owned()
        } else {
            let code = found
                .last_code()
                .map(str::to_owned)
                .or_else(|| code_in(&log));
            if code.is_none() {
                broken.push("it was not installed, and nothing says why".to_owned());
            }
            code.unwrap_or_default()
        };
        let decided = stages[self.stage].phase == Some(Phase::Committing);
        if self.victim.name == MARKS && end == "installed" && !decided {
            broken.push("it was installed although what was trusted is lost".to_owned());
        }
        let said = shell::last_lines(log.trim_end(), 5);
        ensure!(
            broken.is_empty(),
            "{}\n{}",
            broken.join("; "),
            shell::indent(&said)
        );
        Ok(end)
    }
}

/// A code of ours that a line of the log has.
fn code_in(log: &str) -> Option<String> {
    let codes = UpdaterCode::ALL.iter().map(|code| code.as_str());
    let codes = codes.chain(MetadataCode::ALL.iter().map(|code| code.as_str()));
    let mut codes = codes.chain(PolicyCode::ALL.iter().map(|code| code.as_str()));
    let words: Vec<&str> = log
        .split(|c: char| !c.is_ascii_lowercase() && c != '_')
        .collect();
    codes
        .find(|code| code.contains('_') && words.contains(code))
        .map(str::to_owned)
}

/// Until it rests, or stands still with the stable agent running; false for the latter.
fn wait(tree: &Tree, followed: &trace::Followed) -> Result<bool> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    let mut rested = 0;
    loop {
        shell::check_interrupted()?;
        ensure!(!followed.is_over(), "the supervisor ended");
        thread::sleep(LOOK_AGAIN);
        let report = tree.report();
        let stable = Found::look(tree)?
            .stable()
            .map(|version| version.to_string());
        let answers = report.is_ok_and(|report| Some(report.version) == stable);
        rested = if answers && promise::rests(&tree.layout) {
            rested + 1
        } else {
            0
        };
        if rested == LOOKS {
            return Ok(true);
        }
        if Instant::now() > deadline {
            ensure!(answers, "no stable agent answers");
            return Ok(false);
        }
    }
}

impl Damage {
    fn inflict(self, path: &Path) -> Result<()> {
        let failed = || format!("cannot damage {}", path.display());
        if matches!(self, Self::Missing | Self::Dangling) {
            fs::remove_file(path).with_context(failed)?;
            if self == Self::Dangling {
                symlink("versions/9.9.9", path).with_context(failed)?;
            }
            return Ok(());
        }
        let mut bytes = fs::read(path).with_context(failed)?;
        match self {
            Self::Empty => bytes.clear(),
            Self::Half => bytes.truncate(bytes.len() / 2),
            Self::Zeros => bytes.fill(0),
            Self::Flipped(which) => {
                // One at the beginning, where numbers and names are, and one in the middle.
                let at = match which {
                    0 => bytes.len() / 8,
                    _ => bytes.len() / 2,
                };
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1;
                }
            }
            Self::Longer => bytes.extend(b"\n{\"x\":"),
            Self::Missing | Self::Dangling => {}
        }
        // In place, so that the mode stays.
        let file = OpenOptions::new().write(true).truncate(true).open(path);
        file.and_then(|mut file| file.write_all(&bytes))
            .with_context(failed)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::Half => "half",
            Self::Zeros => "zeroed",
            Self::Flipped(_) => "flipped",
            Self::Longer => "longer",
            Self::Dangling => "dangling",
        })
    }
}
