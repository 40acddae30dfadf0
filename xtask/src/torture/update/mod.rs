//! `cargo xtask torture update`: whatever dies, is torn or is swapped while a release is installed,
//! the old or the new version runs, and nothing that was not verified ever does.
//!
//! The real updater, with the plain supervisor, works on trees that look like hosts; the agent in
//! their slots is a fake that leaves a line with a witness whenever it is started.

pub(crate) mod agent;
mod commands;
mod control;
mod crowd;
mod life;
mod point;
mod promise;
mod releases;
mod round;
mod swap;
mod torn;
mod tree;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use vpn_node_release::version::Version;

use self::agent::Behaviour;
use self::point::{Boundaries, Phase, Point};
use self::releases::Releases;
use self::round::{Scene, Went};
use self::tree::Tree;
use super::random::Random;
use super::trace;
use crate::build;
use crate::lab::Lab;

/// Kills of an ordinary run.
const KILLS: u64 = 1000;
const SHORT_KILLS: u64 = 30;
/// Power cuts of an ordinary run.
const CUTS: u64 = 400;
const SHORT_CUTS: u64 = 20;
/// Damaged files of a short run; otherwise all of them.
const SHORT_TORN: usize = 40;
/// How long the packages are swapped.
const SWAP: Duration = Duration::from_secs(60);
const SHORT_SWAP: Duration = Duration::from_secs(15);

const GOOD: Version = Version::new(1, 5, 0);
const BAD: Version = Version::new(1, 5, 1);
const NEXT: Version = Version::new(1, 6, 0);

/// Arguments of `cargo xtask torture update`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// What CI runs: every part, in three minutes
    #[arg(long)]
    short: bool,
    /// Every system call of the updater instead of 1,000 crashes
    #[arg(long, conflicts_with = "short")]
    full: bool,
    /// Which boundaries are chosen, and what a power cut takes
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Crashes again, as broken promises name them: updater:57, host:57+33, bad-host:57~8
    #[arg(long, value_name = "POINT", value_delimiter = ',', conflicts_with_all = ["only", "full", "short"])]
    point: Vec<Point>,
    /// Take this updater instead of building it
    #[arg(long, value_name = "FILE")]
    updater: Option<PathBuf>,
}

/// What can be run apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Updates, a broken release, what is pruned, and commands of root that are killed
    Life,
    /// kill -9 of the updater, of everything, of the supervisor and of the new version
    Kills,
    /// The same with what a power cut takes from the disk
    Power,
    /// Every small file and link damaged at every stage
    Torn,
    /// Packages and metadata that are replaced between verification and installation
    Swap,
    /// Faults that are made on purpose, to see whether these suites see them
    Control,
}

const ALL: [Part; 6] = [
    Part::Control,
    Part::Life,
    Part::Kills,
    Part::Power,
    Part::Torn,
    Part::Swap,
];

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Life => "life",
            Self::Kills => "kills",
            Self::Power => "power",
            Self::Torn => "torn",
            Self::Swap => "swap",
            Self::Control => "control",
        }
    }
}

impl Options {
    fn size(&self, short: u64, usual: u64) -> u64 {
        match (self.short, self.full) {
            (true, _) => short,
            (_, true) => u64::MAX,
            _ => usual,
        }
    }
}

/// The figures of a part, and the promises that it saw broken.
struct Outcome {
    figures: String,
    broken: Vec<String>,
}

/// The whole suite.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(why) = trace::obstacle() {
        return Err(anyhow!(
            "{why}. Run this as root, outside of a sandbox that filters ptrace"
        ));
    }
    let started = Instant::now();
    let updater = match &options.updater {
        Some(updater) => std::path::absolute(updater)?,
        None => build::one("vpn-node-updater", "dev")?,
    };
    let lab = Lab::open_in_memory()?;
    let releases = Releases::make(
        &[
            (GOOD, Behaviour::Good),
            (BAD, Behaviour::Crashes),
            (NEXT, Behaviour::Good),
        ],
        &updater,
        1,
    )?;
    let template = Tree::plant(&lab.path("template"), &updater, &releases)?;
    let scene = Scene {
        lab: &lab,
        template: &template,
        releases: &releases,
        deaf: false,
    };
    let mut figures = Vec::new();
    let mut broken = Vec::new();
    let mut add = |name: &str, outcome: Outcome| {
        figures.push(format!("{name}: {}", outcome.figures));
        broken.extend(outcome.broken);
    };
    if !options.point.is_empty() {
        add("points", crash(&scene, &options.point)?);
    } else {
        let parts = match options.only.as_slice() {
            [] => &ALL[..],
            only => only,
        };
        let mut boundaries = None;
        for part in parts {
            anstream::println!("== {}", part.name());
            if boundaries.is_none() && matches!(part, Part::Kills | Part::Power | Part::Control) {
                boundaries = Some(measure(&scene)?);
            }
            add(part.name(), play(&scene, *part, boundaries, options)?);
        }
    }
    anstream::println!(
        "torture update: {}: {}; {} broken promises, seed {}, {} s",
        if broken.is_empty() { "ok" } else { "FAILED" },
        figures.join("; "),
        broken.len(),
        options.seed,
        started.elapsed().as_secs()
    );
    Ok(if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn play(
    scene: &Scene<'_>,
    part: Part,
    boundaries: Option<Boundaries>,
    options: &Options,
) -> Result<Outcome> {
    let boundaries = boundaries.unwrap_or_default();
    match part {
        Part::Life => life::play(scene, options.size(20, 120), options.seed),
        Part::Control => control::play(scene, boundaries.updater[0]),
        Part::Kills => {
            let number = options.size(SHORT_KILLS, KILLS);
            crash(scene, &point::kills(&boundaries, number, options.seed))
        }
        Part::Power => {
            let number = options.size(SHORT_CUTS, CUTS);
            crash(scene, &point::cuts(&boundaries, number, options.seed))
        }
        Part::Torn => tear(scene, options),
        Part::Swap => {
            let time = if options.short { SHORT_SWAP } else { SWAP };
            swap::play(scene, time, options.seed)
        }
    }
}

/// Plays every point.
fn crash(scene: &Scene<'_>, points: &[Point]) -> Result<Outcome> {
    let played = crowd::side_by_side(scene.lab, points, Point::to_string, |folder, point| {
        Ok((*point, scene.play(folder, *point)?))
    })?;
    let crashed: Vec<&(Point, Went)> = played
        .whole
        .iter()
        .filter(|(_, went)| went.crashed)
        .collect();
    let number =
        |is: &dyn Fn(&Point) -> bool| crashed.iter().filter(|(point, _)| is(point)).count();
    let by_phase: Vec<String> = Phase::ALL
        .into_iter()
        .map(|phase| format!("{} {}", number(&|point| point.phase == phase), phase.name()))
        .collect();
    let installed = played
        .whole
        .iter()
        .filter(|(_, went)| went.installed)
        .count();
    let figures = format!(
        "{} crashes ({}; {} twice, {} with a power cut), then {installed} times the new version \
         runs and {} times the old one",
        crashed.len(),
        by_phase.join(", "),
        number(&|point| point.again.is_some()),
        number(&|point| point.power.is_some()),
        played.whole.len() - installed,
    );
    Ok(Outcome {
        figures,
        broken: played.broken,
    })
}

/// Plays all cases of damaged files, or some of them.
fn tear(scene: &Scene<'_>, options: &Options) -> Result<Outcome> {
    let installed = life::installed(scene)?;
    let stages = torn::stages(scene.lab, &installed, |tree| {
        let next = scene.releases.of(&NEXT);
        next.deliver(&tree.layout.incoming(), life::SECOND_REQUEST)
    })?;
    let mut cases = torn::cases(&stages);
    if options.short {
        Random::new(options.seed).shuffle(&mut cases);
        cases.truncate(SHORT_TORN);
    }
    let played = crowd::side_by_side(
        scene.lab,
        &cases,
        |case| case.show(&stages),
        |folder, case| case.play(&stages, folder, scene),
    )?;
    Ok(Outcome {
        figures: torn::figures(cases.len(), &played.whole),
        broken: played.broken,
    })
}

/// Installs a good and a bad release without any crash, and counts.
fn measure(scene: &Scene<'_>) -> Result<Boundaries> {
    let mut boundaries = Boundaries {
        version_ms: 11_000,
        ..Boundaries::default()
    };
    for bad in [false, true] {
        let started = Instant::now();
        let whole = Point {
            bad,
            ..Point::once(Phase::Updater, u64::MAX)
        };
        let went = scene.play(&scene.lab.path("measure"), whole)?;
        ensure!(
            went.counted.iter().all(|count| *count > 0),
            "the tracer saw no system calls"
        );
        let [supervisor, updater] = went.counted;
        anstream::println!(
            "{} release: {updater} boundaries of the updater, {supervisor} of the supervisor, {:.1} s",
            if bad { "bad" } else { "good" },
            started.elapsed().as_secs_f64()
        );
        boundaries.supervisor[usize::from(bad)] = supervisor;
        boundaries.updater[usize::from(bad)] = updater;
    }
    Ok(boundaries)
}
