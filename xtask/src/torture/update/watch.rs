//! Stands beside every process of a host while it is followed: knows the updater from the
//! supervisor from the agents, counts, and says who dies.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use nix::unistd::Pid;

use vpn_node_updater::journal::{self, Phase};
use vpn_node_updater::layout::Layout;

use super::tree::Tree;
use crate::torture::power::Recorder;
use crate::torture::random::Random;
use crate::torture::trace::Next;

/// Whose boundaries count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Supervisor,
    Updater,
    Other,
}

/// A death: of `who`'s process alone, or of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub(super) who: Who,
    pub(super) at: u64,
    pub(super) alone: bool,
}

/// What was counted, shared with the tracer.
#[derive(Default)]
struct Counts {
    supervisor: u64,
    updater: u64,
    /// Deaths that came.
    died: usize,
    recorders: Vec<Recorder>,
}

/// See the module's page.
#[derive(Clone, Default)]
pub(super) struct Watch(Arc<Mutex<Counts>>);

impl Watch {
    /// Records `tree`'s disk for a power cut. A `deaf` one ignores every fsync(2).
    pub(super) fn recording(tree: &Tree, deaf: bool) -> Result<Self> {
        let watch = Self::default();
        for folder in ["opt", "var"] {
            let mut recorder = Recorder::new(&tree.root.join(folder))?;
            recorder.deaf = deaf;
            watch.lock().recorders.push(recorder);
        }
        Ok(watch)
    }

    /// The tracer's question at each boundary. The deaths come one after the other, each counted
    /// from the one before.
    pub(super) fn ask(&self, deaths: Vec<Death>) -> impl FnMut(u64, Pid) -> Next + Send + 'static {
        let shared = self.clone();
        let mut known = HashMap::new();
        let mut left = deaths.into_iter().peekable();
        let mut since = 0;
        move |stop, thread| {
            let mut counts = shared.lock();
            let who = if stop == 1 {
                known.insert(thread, Who::Supervisor);
                Who::Supervisor
            } else {
                who(thread, &mut known)
            };
            match who {
                Who::Supervisor => counts.supervisor += 1,
                Who::Updater => {
                    counts.updater += 1;
                    // Nobody else writes to what is recorded.
                    for recorder in &mut counts.recorders {
                        recorder.observe(thread);
                    }
                }
                Who::Other => return Next::GoOn,
            }
            let Some(death) = left.peek().copied().filter(|death| death.who == who) else {
                return Next::GoOn;
            };
            since += 1;
            if since < death.at {
                return Next::GoOn;
            }
            left.next();
            since = 0;
            counts.died += 1;
            if death.alone {
                Next::KillOne
            } else {
                Next::Kill
            }
        }
    }

    /// The tracer's question: everything dies as soon as the journal says `phase`.
    pub(super) fn until(
        &self,
        layout: &Layout,
        phase: Phase,
    ) -> impl FnMut(u64, Pid) -> Next + Send + 'static {
        let layout = layout.clone();
        let mut known = HashMap::new();
        move |_, thread| {
            let said = || journal::read(&layout).map(|journal| journal.phase);
            if who(thread, &mut known) == Who::Updater && said() == Some(phase) {
                return Next::Kill;
            }
            Next::GoOn
        }
    }

    /// Boundaries of the supervisor and of all updaters so far.
    pub(super) fn counted(&self) -> [u64; 2] {
        let counts = self.lock();
        [counts.supervisor, counts.updater]
    }

    pub(super) fn died(&self) -> usize {
        self.lock().died
    }

    /// Everything is dead: what a power cut leaves of the disk, if it was recorded.
    pub(super) fn cut(&self, seed: u64) -> Result<()> {
        let recorders = std::mem::take(&mut self.lock().recorders);
        if recorders.is_empty() {
            bail!("nothing was recorded");
        }
        let mut random = Random::new(seed);
        recorders
            .into_iter()
            .try_for_each(|recorder| recorder.cut(&mut random))
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By its command line. A child of the supervisor has its parent's until it becomes another
/// program, so only what is known for good is remembered.
fn who(thread: Pid, known: &mut HashMap<Pid, Who>) -> Who {
    if let Some(who) = known.get(&thread) {
        return *who;
    }
    let line = fs::read(format!("/proc/{thread}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let says = |word: &str| words.contains(&word.as_bytes());
    if words.get(1).is_none_or(|word| *word != b"--root") {
        if says("fake-agent") {
            known.insert(thread, Who::Other);
        }
        return Who::Other;
    }
    if says("run") || says("recover") {
        known.insert(thread, Who::Updater);
        return Who::Updater;
    }
    Who::Other
}
