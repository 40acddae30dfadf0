//! `cargo xtask torture update`: whatever dies, is torn or is swapped while a release is installed,
//! the old or the new version runs, and nothing that was not verified ever does.
//!
//! The real updater, with the plain supervisor, works on trees that look like hosts; the agent in
//! their slots is a fake that leaves a line with a witness whenever it is started.

pub(crate) mod agent;
mod crowd;
mod point;
mod promise;
mod releases;
mod round;
mod tree;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use vpn_node_release::version::Version;

use self::agent::Behaviour;
use self::crowd::Crowd;
use self::point::{Boundaries, Phase, Point};
use self::releases::Releases;
use self::round::Scene;
use self::tree::Tree;
use super::trace;
use crate::build;
use crate::lab::Lab;

/// Kills of an ordinary run.
const KILLS: u64 = 1000;
const SHORT_KILLS: u64 = 30;
/// Power cuts of an ordinary run.
const CUTS: u64 = 500;
const SHORT_CUTS: u64 = 20;

const GOOD: Version = Version::new(1, 5, 0);
const BAD: Version = Version::new(1, 5, 1);
const NEXT: Version = Version::new(1, 6, 0);

/// Arguments of `cargo xtask torture update`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// What CI runs: every part, in two minutes
    #[arg(long)]
    short: bool,
    /// Every boundary
    #[arg(long, conflicts_with = "short")]
    full: bool,
    /// Which boundaries are chosen, and what a power cut takes
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// One crash again, as a broken promise names it: updater:57, host:57+33, bad-host:57~8
    #[arg(long, value_name = "POINT", conflicts_with_all = ["only", "full", "short"])]
    point: Option<Point>,
    /// Take this updater instead of building it
    #[arg(long, value_name = "FILE")]
    updater: Option<PathBuf>,
}

/// What can be run apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// kill -9 of the updater, of everything, of the supervisor and of the new version
    Kills,
    /// The same with what a power cut takes from the disk
    Power,
}

const ALL: [Part; 2] = [Part::Kills, Part::Power];

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
    let releases = Releases::make(&[
        (GOOD, Behaviour::Good),
        (BAD, Behaviour::Crashes),
        (NEXT, Behaviour::Good),
    ])?;
    let template = Tree::plant(&lab.path("template"), &updater, &releases)?;
    let scene = Scene {
        template: &template,
        releases: &releases,
        good: &GOOD,
        bad: &BAD,
    };
    let crowd = Crowd::new(&lab, &scene);
    let parts = match options.only.as_slice() {
        [] => &ALL[..],
        only => only,
    };
    let mut figures = Vec::new();
    let mut held = true;
    if let Some(point) = options.point {
        let outcome = crowd.crash_all(&[point])?;
        held = outcome.broken.is_empty();
        figures.push(outcome.figures());
    } else {
        let boundaries = measure(&lab, &scene)?;
        for part in parts {
            let points = match part {
                Part::Kills => point::kills(&boundaries, options.size(SHORT_KILLS, KILLS), options.seed),
                Part::Power => point::cuts(&boundaries, options.size(SHORT_CUTS, CUTS), options.seed),
            };
            anstream::println!("== {}: {} points", part.name(), points.len());
            let outcome = crowd.crash_all(&points)?;
            held &= outcome.broken.is_empty();
            figures.push(format!("{}: {}", part.name(), outcome.figures()));
        }
    }
    anstream::println!(
        "torture update: {}: {}; seed {}, {} s",
        if held { "ok" } else { "FAILED" },
        figures.join("; "),
        options.seed,
        started.elapsed().as_secs()
    );
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Kills => "kills",
            Self::Power => "power",
        }
    }
}

/// Installs a good and a bad release without any crash, and counts.
fn measure(lab: &Lab, scene: &Scene<'_>) -> Result<Boundaries> {
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
        let went = scene.play(&lab.path("measure"), whole)?;
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
