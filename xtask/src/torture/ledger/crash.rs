//! A real process with a ledger in a real directory is killed at system calls, again and again.
//!
//! The process is a test of the ledger in a hidden role (`src/ledger/tests/worker.rs`). What it claims
//! to have on disk comes over a pipe, and survives it; the next one on the same directory demands all
//! of it before it works on, and may be killed while it does. A chain of such processes ends with one
//! that nobody kills. With every tenth crash goes what a power cut may take of what was not synced.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::lab::Lab;
use crate::shell;
use crate::torture::power::Recorder;
use crate::torture::random::Random;
use crate::torture::trace::{self, Ended, Next};

/// The test that is the process.
pub(super) const WORKER: &str = "torture_ledger_worker";
const WORKER_PATH: &str = "ledger::tests::worker::torture_ledger_worker";
/// Crashes of one ledger, before the next chain begins with a new one.
const CRASHES: u64 = 40;
/// One crash in so many is a power cut as well.
const POWER: u64 = 10;
/// A run takes some milliseconds; a machine may be busy, a process that is stuck never ends.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// The processes wait for the tracer half of the time.
const SHARDS_PER_CORE: usize = 2;
const TELL_EVERY: Duration = Duration::from_secs(10);
/// With so many broken promises there is one fault to find, not more of them to count.
const ENOUGH_BROKEN: usize = 5;

/// What became of all chains.
#[derive(Default)]
pub(super) struct Outcome {
    kills: u64,
    power: u64,
    /// Runs that nobody killed, which found everything and ended well.
    whole: u64,
    records: u64,
    /// A sentence each.
    pub(super) broken: Vec<String>,
}

impl Outcome {
    pub(super) fn figures(&self) -> String {
        format!(
            "{} kills at system calls ({} of them power cuts), {} records claimed durable: {}, {} whole runs between",
            self.kills,
            self.power,
            self.records,
            match self.broken.len() {
                0 => "0 lost, 0 twice, 0 sequences used again".to_owned(),
                some => format!("{some} broken promises"),
            },
            self.whole
        )
    }
}

/// Kills `kills` times, or plays one chain.
pub(super) fn torture(binary: &Path, kills: u64, seed: u64, only: Option<u64>) -> Result<Outcome> {
    let started = Instant::now();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let shards = only.map_or(cores * SHARDS_PER_CORE, |_| 1);
    let next = AtomicU64::new(only.unwrap_or(0));
    let outcome = Mutex::new(Outcome::default());
    thread::scope(|scope| {
        let work = || -> Result<()> {
            let lab = Lab::open_in_memory()?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let mut chain = Chain::new(binary, lab.folder(), seed, number)?;
                if let Err(error) = chain.play(|| lock(&outcome).kills >= kills, &outcome) {
                    if shell::was_interrupted(&error) {
                        return Err(error);
                    }
                    lock(&outcome).broken.push(format!(
                        "chain {number} (--seed {seed} --chain {number}), run {}: {error:#}",
                        chain.run
                    ));
                }
                let now = lock(&outcome);
                let enough = now.kills >= kills || now.broken.len() >= ENOUGH_BROKEN;
                if enough || only.is_some() {
                    return Ok(());
                }
            }
        };
        let workers: Vec<_> = (0..shards).map(|_| scope.spawn(work)).collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(shell::LOOK_AGAIN);
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let seconds = started.elapsed().as_secs();
                anstream::println!("{seconds:4} s  {} of {kills} kills", lock(&outcome).kills);
            }
        }
        workers.into_iter().try_for_each(|worker| {
            let joined = worker.join();
            joined.unwrap_or_else(|_| Err(anyhow!("a shard panicked")))
        })
    })?;
    Ok(outcome.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// One ledger and the processes that have it, one after the other.
struct Chain<'a> {
    binary: &'a Path,
    folder: PathBuf,
    random: Random,
    /// Of the process; it chooses what it does, and no other process of the chain has it.
    run: u64,
}

impl<'a> Chain<'a> {
    fn new(binary: &'a Path, place: &Path, seed: u64, number: u64) -> Result<Self> {
        let folder = place.join("chain");
        let failed = || format!("cannot make {}", folder.display());
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let mut maker = fs::DirBuilder::new();
        maker.mode(0o700);
        maker.create(&folder).with_context(failed)?;
        maker.create(folder.join("ledger")).with_context(failed)?;
        fs::write(folder.join("claims"), "").with_context(failed)?;
        Ok(Self {
            binary,
            folder,
            random: Random::new(seed.wrapping_mul(1 << 32) ^ number),
            run: number * 1_000,
        })
    }

    fn play(&mut self, enough: impl Fn() -> bool, outcome: &Mutex<Outcome>) -> Result<()> {
        // Each run has about as many boundaries as the one before that came to its end.
        let mut boundaries = self.whole_run(outcome)?;
        for _ in 0..CRASHES {
            if enough() {
                break;
            }
            let at = 1 + self.random.below(boundaries);
            let power = self.random.below(POWER) == 0;
            let (ended, came, records) = self.one_run(at, power)?;
            let mut outcome = lock(outcome);
            outcome.records += records;
            if ended.killed {
                outcome.kills += 1;
                outcome.power += u64::from(power);
            } else {
                outcome.whole += 1;
                boundaries = came;
            }
        }
        self.whole_run(outcome).map(drop)
    }

    fn whole_run(&mut self, outcome: &Mutex<Outcome>) -> Result<u64> {
        let (_, boundaries, records) = self.one_run(u64::MAX, false)?;
        let mut outcome = lock(outcome);
        outcome.whole += 1;
        outcome.records += records;
        Ok(boundaries)
    }

    /// One process, killed at its boundary `at` if it comes to that. How it ended, how many
    /// boundaries it came to, how many records it claimed.
    fn one_run(&mut self, at: u64, power: bool) -> Result<(Ended, u64, u64)> {
        shell::check_interrupted()?;
        self.run += 1;
        let begun = self.folder.join("begun");
        if begun.exists() {
            fs::remove_file(&begun).context("cannot remove the mark of the run before")?;
        }
        let (mut pipe, claims) = std::io::pipe().context("cannot make a pipe")?;
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes)
        });
        let recorder = match power {
            true => Some(Recorder::new(&self.folder.join("ledger"))?),
            false => None,
        };
        let recorder = Arc::new(Mutex::new(recorder));
        let came = Arc::new(AtomicU64::new(0));
        let (shared, count) = (Arc::clone(&recorder), Arc::clone(&came));
        let followed = trace::start(
            &self.command(),
            Vec::new(),
            Stdio::from(claims),
            move |_, thread| {
                if let Some(recorder) = lock(&shared).as_mut() {
                    recorder.observe(thread);
                }
                // What comes before the mark is the test harness.
                if count.load(Ordering::Relaxed) == 0 && !begun.exists() {
                    return Next::GoOn;
                }
                match count.fetch_add(1, Ordering::Relaxed) + 1 {
                    here if here == at => Next::Kill,
                    _ => Next::GoOn,
                }
            },
        )?;
        let deadline = Instant::now() + ENDS_WITHIN;
        while !followed.is_over() {
            if Instant::now() > deadline {
                bail!("it did not end within {} s", ENDS_WITHIN.as_secs());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let ended = followed.end()?;
        let said = reader
            .join()
            .map_err(|_| anyhow!("the reader of the pipe panicked"))?
            .context("cannot read the claims")?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let whole = ended.status == Some(0) && said.ends_with("complete\n");
        if !ended.killed && !whole {
            bail!("{}", shell::last_lines(said.trim_end(), 12));
        }
        let records = self.note(&said)?;
        if ended.killed
            && let Some(recorder) = lock(&recorder).take()
        {
            recorder.cut(&mut self.random)?;
        }
        Ok((ended, came.load(Ordering::Relaxed), records))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.binary);
        command
            .args(["--exact", WORKER_PATH, "--nocapture", "--test-threads=1"])
            .env("VPN_NODE_LEDGER_WORKER", &self.folder)
            .env("VPN_NODE_LEDGER_RUN", self.run.to_string())
            // A broken promise is quoted by its last lines.
            .env("RUST_BACKTRACE", "0");
        command
    }

    /// Keeps the claims for the processes that follow; the last line may be cut off.
    fn note(&self, said: &str) -> Result<u64> {
        let whole = &said[..said.rfind('\n').map_or(0, |end| end + 1)];
        OpenOptions::new()
            .append(true)
            .open(self.folder.join("claims"))
            .and_then(|mut file| file.write_all(whole.as_bytes()))
            .context("cannot keep the claims")?;
        let claims = whole.lines().filter(|line| line.starts_with("durable "));
        Ok(claims.count() as u64)
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
