//! Many hosts side by side: a round mostly waits for a probation to pass.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::lab::Lab;
use crate::shell;

/// Hosts for each processor.
const HOSTS_PER_CORE: usize = 24;
/// With so many broken promises there is one fault to find, not more of them to count.
const ENOUGH_BROKEN: usize = 12;
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What became of all rounds.
pub(super) struct Played<R> {
    pub(super) whole: Vec<R>,
    /// A sentence each.
    pub(super) broken: Vec<String>,
}

/// Plays every round on a host of its own, in a folder that it may use. A round that fails is a
/// broken promise; `show` names it.
pub(super) fn side_by_side<T: Sync, R: Send>(
    lab: &Lab,
    rounds: &[T],
    show: impl Fn(&T) -> String + Sync,
    play: impl Fn(&Path, &T) -> Result<R> + Sync,
) -> Result<Played<R>> {
    let started = Instant::now();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let hosts = (cores * HOSTS_PER_CORE).min(rounds.len());
    let next = AtomicUsize::new(0);
    let played = Mutex::new(Played {
        whole: Vec::new(),
        broken: Vec::new(),
    });
    let work = |number: usize| -> Result<()> {
        let folder = lab.path(&format!("host-{number}"));
        while let Some(round) = rounds.get(next.fetch_add(1, Ordering::Relaxed)) {
            match play(&folder, round) {
                Ok(went) => lock(&played).whole.push(went),
                Err(error) if shell::was_interrupted(&error) => return Err(error),
                Err(error) => {
                    let sentence = format!("{}: {error:#}", show(round));
                    anstream::eprintln!("broken promise: {sentence}");
                    let mut played = lock(&played);
                    played.broken.push(sentence);
                    if played.broken.len() >= ENOUGH_BROKEN {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..hosts)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(shell::LOOK_AGAIN);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let (whole, broken) = {
                    let played = lock(&played);
                    (played.whole.len(), played.broken.len())
                };
                anstream::println!(
                    "{:4} s  {whole} of {} rounds, {broken} broken promises",
                    started.elapsed().as_secs(),
                    rounds.len(),
                );
            }
        }
        workers.into_iter().try_for_each(|worker| {
            let joined = worker.join();
            joined.unwrap_or_else(|_| Err(anyhow!("a host panicked")))
        })
    })?;
    Ok(played.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
