//! `cargo xtask torture enroll`: a token must survive every crash between it and the first heartbeat.
//!
//! The real programs are killed at system-call boundaries on both sides, some of them twice, some
//! with what a power cut would take from the disk as well. Afterwards the same token must finish
//! the same enrolment without any repair, the host must get a heartbeat accepted, and there must be
//! one server, no alarm, and no leftover. A broken promise is named with its point, which `--only`
//! repeats: exactly for `vpn-node enroll`, nearly for programs with several threads, whose
//! boundaries come in another order each time.

mod point;
mod promise;
mod shard;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use self::point::{Boundaries, Phase, Point};
use self::shard::Shard;
use super::trace;
use crate::build::{self, Programs};
use crate::shell;

/// Crash points of an ordinary run, besides the double crashes and power losses.
const POINTS: u64 = 1200;
/// Crash points of the run that is a part of `cargo xtask test`.
const SHORT_POINTS: u64 = 80;
/// A point mostly waits, for a start or for a retry: so many fleets for each processor.
const SHARDS_PER_CORE: usize = 6;
/// With so many broken promises there is one fault to find, not more of them to count.
const ENOUGH_BROKEN: usize = 20;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Arguments of `cargo xtask torture enroll`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many crash points, spread evenly over all boundaries
    #[arg(long, value_name = "N", default_value_t = POINTS, value_parser = clap::value_parser!(u64).range(1..))]
    points: u64,
    /// Every boundary
    #[arg(long, conflicts_with = "points")]
    full: bool,
    /// Which points are chosen, and what a power cut takes
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// One point again, as a broken promise names it: agent:57, agent:57+33 or agent:57~8
    #[arg(long, value_name = "PHASE:N", conflicts_with_all = ["points", "full", "seed"])]
    only: Option<Point>,
    /// Take the three programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The whole suite.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(why) = trace::obstacle() {
        return Err(anyhow!(
            "{why}. Run this as root, outside of a sandbox that filters ptrace"
        ));
    }
    let programs = build::programs(options.programs.as_deref(), false)?;
    let number = if options.full {
        u64::MAX
    } else {
        options.points
    };
    let outcome = torture(&programs, number, options.seed, options.only)?;
    if !outcome.broken.is_empty() {
        anstream::println!(
            "each is repeated with `cargo xtask torture enroll --only POINT`, as it is named above"
        );
    }
    anstream::println!("{}", outcome.verdict());
    Ok(if outcome.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The short form: why it cannot run here, or whether every promise held.
pub(crate) fn short(programs: &Programs) -> Result<Result<bool, String>> {
    if let Some(why) = trace::obstacle() {
        return Ok(Err(why));
    }
    let outcome = torture(programs, SHORT_POINTS, 1, None)?;
    anstream::println!("{}", outcome.verdict());
    Ok(Ok(outcome.broken.is_empty()))
}

/// What became of all points.
#[derive(Default)]
struct Outcome {
    /// Programs that were killed at the boundary that was meant, by phase.
    crashed: [u64; 4],
    twice: u64,
    power: u64,
    /// A sentence each.
    broken: Vec<String>,
    took: Duration,
    seed: u64,
}

impl Outcome {
    fn verdict(&self) -> String {
        let [enroll, credential, agent, controller] = self.crashed;
        let all: u64 = self.crashed.iter().sum();
        let figures = format!(
            "{all} crash points ({} enroll, {agent} agent, {controller} controller)",
            enroll + credential
        );
        let seconds = self.took.as_secs();
        if self.broken.is_empty() {
            return format!(
                "torture enroll: ok: {figures}, 0 burnt tokens, 0 duplicates, {seconds} s"
            );
        }
        format!(
            "torture enroll: FAILED: {figures}, {} broken promises with seed {}, {seconds} s",
            self.broken.len(),
            self.seed
        )
    }

    fn count(&mut self, point: Point) {
        self.crashed[point.phase as usize] += 1;
        self.twice += u64::from(point.again.is_some());
        self.power += u64::from(point.power.is_some());
    }
}

fn torture(programs: &Programs, number: u64, seed: u64, only: Option<Point>) -> Result<Outcome> {
    let started = Instant::now();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let count = if only.is_some() {
        1
    } else {
        cores * SHARDS_PER_CORE
    };
    let mut shards = Vec::new();
    for _ in 0..count {
        shards.push(Shard::open(programs.clone())?);
    }
    let points = match only {
        Some(point) => vec![point],
        None => point::sample(measure(&mut shards[0])?, number, seed),
    };
    anstream::println!(
        "points: {} with seed {seed}; fleets side by side: {count}",
        points.len()
    );
    let mut outcome = crash_all(&mut shards, &points)?;
    anstream::println!("the controllers' tables are judged");
    for shard in &shards {
        for sentence in shard.judge()? {
            anstream::eprintln!("broken promise: {sentence}");
            outcome.broken.push(sentence);
        }
    }
    outcome.seed = seed;
    outcome.took = started.elapsed();
    anstream::println!(
        "{} of them crashed twice, {} lost power",
        outcome.twice,
        outcome.power
    );
    Ok(outcome)
}

/// Runs each phase to its end and counts.
fn measure(shard: &mut Shard) -> Result<Boundaries> {
    let mut boundaries = [0; 4];
    for phase in Phase::ALL {
        let ended = shard.crash(Point::once(phase, u64::MAX))?;
        ensure!(
            ended.stops > 0,
            "the tracer saw no system call of phase {}",
            phase.name()
        );
        anstream::println!("{}: {} boundaries", phase.name(), ended.stops);
        boundaries[phase as usize] = ended.stops;
    }
    Ok(boundaries)
}

fn crash_all(shards: &mut [Shard], points: &[Point]) -> Result<Outcome> {
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new(Outcome::default());
    thread::scope(|scope| {
        let workers: Vec<_> = shards
            .iter_mut()
            .map(|shard| scope.spawn(|| work(shard, points, &next, &outcome)))
            .collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(shell::LOOK_AGAIN);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let done = next.load(Ordering::Relaxed).min(points.len());
                anstream::println!(
                    "{:4} s  {done} of {} points, {} broken promises",
                    started.elapsed().as_secs(),
                    points.len(),
                    lock(&outcome).broken.len()
                );
            }
        }
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a shard panicked")))
        })
    })?;
    Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn work(
    shard: &mut Shard,
    points: &[Point],
    next: &AtomicUsize,
    outcome: &Mutex<Outcome>,
) -> Result<()> {
    while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
        match shard.crash(*point) {
            Ok(ended) if ended.killed => lock(outcome).count(*point),
            // The program came to its end before: another order of its threads.
            Ok(_) => {}
            Err(error) if shell::was_interrupted(&error) => return Err(error),
            Err(error) => {
                anstream::eprintln!("broken promise: {point}: {error:#}");
                let mut outcome = lock(outcome);
                outcome.broken.push(format!("{point}: {error:#}"));
                if outcome.broken.len() >= ENOUGH_BROKEN {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

fn lock(outcome: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(PoisonError::into_inner)
}
