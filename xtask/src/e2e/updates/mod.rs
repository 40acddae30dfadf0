//! `cargo xtask e2e updates`: releases that are good, bad and hostile, each on a host of its own.
//!
//! Real controller, agent, updater (under its plain supervisor) and HTTP. Scenarios share nothing
//! but the packages, and run side by side, since most of their time is waiting: a host waits half a
//! minute to know how it is before the switch, whatever its probation.

mod controller;
mod front;
mod good;
mod mirror;
mod misbehaving;
mod operator;
mod scene;
mod shelf;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::scene::seconds;
use self::shelf::Shelf;
use crate::build;
use crate::lab::Lab;
use crate::lab::story::Story;
use crate::shell;

/// Arguments of `cargo xtask e2e updates`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The scenarios that end within two minutes (the default)
    #[arg(long)]
    short: bool,
    /// All of them, one with the probation that hosts have by default
    #[arg(long, conflicts_with = "short")]
    full: bool,
    /// Only scenarios whose name contains this (may be repeated)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// How many are played at once
    #[arg(long, value_name = "N", default_value_t = 12)]
    jobs: usize,
    /// Take the programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// What is shown, and how.
struct Scenario {
    name: &'static str,
    /// Whether it belongs to `--short`.
    short: bool,
    play: fn(&Shelf) -> Result<Figure>,
}

/// What a scenario found.
struct Figure {
    /// A sentence with its figures.
    text: String,
    /// How long a bad release ran, if one did.
    back: Option<Duration>,
}

impl Figure {
    fn of(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            back: None,
        }
    }
}

/// Every scenario, the slowest ones first: they would else be waited for at the end.
fn all() -> Vec<Scenario> {
    [
        misbehaving::SCENARIOS,
        controller::SCENARIOS,
        operator::SCENARIOS,
        mirror::SCENARIOS,
        good::SCENARIOS,
    ]
    .into_iter()
    .flatten()
    .map(|(name, short, play)| Scenario {
        name,
        short: *short,
        play: *play,
    })
    .collect()
}

/// A scenario's name, whether it belongs to `--short`, and what it does.
type Listed = &'static [(&'static str, bool, fn(&Shelf) -> Result<Figure>)];

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let programs = build::programs(options.programs.as_deref(), false)?;
    let named = |name: &str| options.only.iter().any(|text| name.contains(text));
    let mut chosen = all();
    chosen.retain(|one| match options.only.is_empty() {
        true => one.short || options.full,
        false => named(one.name),
    });
    if chosen.is_empty() {
        let names: Vec<&str> = all().iter().map(|one| one.name).collect();
        bail!("no scenario is called so; there are {}", names.join(", "));
    }
    let story = Story::begin();
    let lab = Lab::open()?;
    let shelf = Shelf::fill(&lab, programs, chosen.iter().any(|one| !one.short))?;
    story.say(&format!(
        "the releases are signed and published; {} scenarios, {} at once",
        chosen.len(),
        options.jobs.clamp(1, chosen.len())
    ));
    let played = play(&story, &shelf, &chosen, options.jobs.max(1));
    shell::check_interrupted()?;
    verdict(&story, &played)
}

/// A scenario's name, and how it ended.
type Played = (&'static str, Result<Figure>);

fn play(story: &Story, shelf: &Shelf, chosen: &[Scenario], jobs: usize) -> Vec<Played> {
    let next = AtomicUsize::new(0);
    let played = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.min(chosen.len()) {
            scope.spawn(|| {
                while let Some(one) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let figure = (one.play)(shelf);
                    let took = seconds(begun.elapsed());
                    match &figure {
                        Ok(found) => story.say(&format!("{}: {} ({took})", one.name, found.text)),
                        Err(error) if shell::was_interrupted(error) => return,
                        Err(error) => {
                            story.say(&format!("{}: FAILED ({took}): {error:#}", one.name));
                        }
                    }
                    if let Ok(mut played) = played.lock() {
                        played.push((one.name, figure));
                    }
                }
            });
        }
    });
    played.into_inner().unwrap_or_default()
}

fn verdict(story: &Story, played: &[Played]) -> Result<ExitCode> {
    let failed: Vec<&str> = played
        .iter()
        .filter(|(_, figure)| figure.is_err())
        .map(|(name, _)| *name)
        .collect();
    if !failed.is_empty() {
        anstream::println!(
            "e2e updates: FAILED — {} of {}: {}, {} s",
            failed.len(),
            played.len(),
            failed.join(", "),
            story.elapsed().as_secs()
        );
        return Ok(ExitCode::FAILURE);
    }
    let back: Vec<Duration> = played
        .iter()
        .filter_map(|(_, figure)| figure.as_ref().ok()?.back)
        .collect();
    let slowest = back.iter().max().copied().unwrap_or_default();
    anstream::println!(
        "e2e updates: ok — {} scenarios; {} bad releases reverted by themselves, the slowest after \
         {}; {} s",
        played.len(),
        back.len(),
        seconds(slowest),
        story.elapsed().as_secs()
    );
    Ok(ExitCode::SUCCESS)
}
