//! Many hosts side by side: a round mostly waits for a probation to pass.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::point::{Phase, Point};
use super::round::{Scene, Went};
use crate::lab::Lab;
use crate::shell;

/// Hosts for each processor.
const HOSTS_PER_CORE: usize = 24;
/// With so many broken promises there is one fault to find, not more of them to count.
const ENOUGH_BROKEN: usize = 12;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// See the module's page.
pub(super) struct Crowd<'a> {
    lab: &'a Lab,
    scene: &'a Scene<'a>,
}

/// What became of all points.
#[derive(Default)]
pub(super) struct Outcome {
    /// Points at which the crash came, by [`Phase`].
    crashed: [u64; 4],
    twice: u64,
    power: u64,
    installed: u64,
    /// A sentence each.
    pub(super) broken: Vec<String>,
}

impl Outcome {
    pub(super) fn figures(&self) -> String {
        let [updater, host, supervisor, version] = self.crashed;
        let all: u64 = self.crashed.iter().sum();
        let cuts = match self.power {
            0 => String::new(),
            power => format!(", {power} with a power cut"),
        };
        format!(
            "{all} crashes ({updater} updater, {host} host, {supervisor} supervisor, {version} new \
             version; {} twice{cuts}), {} ended with the new version, {} broken promises",
            self.twice,
            self.installed,
            self.broken.len()
        )
    }

    fn count(&mut self, point: Point, went: Went) {
        self.installed += u64::from(went.installed);
        if went.crashed {
            self.crashed[point.phase as usize] += 1;
            self.twice += u64::from(point.again.is_some());
            self.power += u64::from(point.power.is_some());
        }
    }
}

impl<'a> Crowd<'a> {
    pub(super) fn new(lab: &'a Lab, scene: &'a Scene<'a>) -> Self {
        Self { lab, scene }
    }

    /// Plays every point.
    pub(super) fn crash_all(&self, points: &[Point]) -> Result<Outcome> {
        let started = Instant::now();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let hosts = (cores * HOSTS_PER_CORE).min(points.len());
        let next = AtomicUsize::new(0);
        let outcome = Mutex::new(Outcome::default());
        thread::scope(|scope| {
            let work = |number| self.work(number, points, &next, &outcome);
            let workers: Vec<_> = (0..hosts)
                .map(|number| scope.spawn(move || work(number)))
                .collect();
            let mut told = Instant::now();
            while workers.iter().any(|worker| !worker.is_finished()) {
                thread::sleep(shell::LOOK_AGAIN);
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    let begun = next.load(Ordering::Relaxed).min(points.len());
                    anstream::println!(
                        "{:4} s  {begun} of {} points begun, {} broken promises",
                        started.elapsed().as_secs(),
                        points.len(),
                        lock(&outcome).broken.len()
                    );
                }
            }
            workers.into_iter().try_for_each(|worker| {
                let joined = worker.join();
                joined.unwrap_or_else(|_| Err(anyhow!("a host panicked")))
            })
        })?;
        Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn work(
        &self,
        number: usize,
        points: &[Point],
        next: &AtomicUsize,
        outcome: &Mutex<Outcome>,
    ) -> Result<()> {
        let folder = self.lab.path(&format!("host-{number}"));
        while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
            match self.scene.play(&folder, *point) {
                Ok(went) => lock(outcome).count(*point, went),
                Err(error) if shell::was_interrupted(&error) => return Err(error),
                Err(error) => {
                    let sentence = format!("{point}: {error:#}");
                    anstream::eprintln!("broken promise: {sentence}");
                    let mut outcome = lock(outcome);
                    outcome.broken.push(sentence);
                    if outcome.broken.len() >= ENOUGH_BROKEN {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The phases by their place in [`Outcome::crashed`].
const _: () = assert!(Phase::Updater as usize == 0 && Phase::Version as usize == 3);
