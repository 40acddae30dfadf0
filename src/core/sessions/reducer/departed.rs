//! Keys that are certainly over: a look that is older than their end, or a daemon that still lists
//! for a moment what it has let go, brings none of them back.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::super::{
    held::{COALESCE, Slot},
    types::SessionKey,
};

/// How long a key is remembered: longer than any look takes and waits for the loop.
const KEEP: Duration = Duration::from_secs(30);

/// The keys that ended of late, each with the boot-clock instant at which that was told.
#[derive(Default)]
pub(super) struct Departed {
    at: HashMap<Slot, Duration>,
    /// In the order of time. An entry of `at` that is newer than its entry here has another one.
    queue: VecDeque<(Duration, Slot)>,
}

impl Departed {
    /// `slot` is over, as was told at `now`.
    pub(super) fn insert(&mut self, slot: Slot, now: Duration) {
        self.tidy(now);
        self.at.insert(slot.clone(), now);
        self.queue.push_back((now, slot));
    }

    /// Whether a look made at `looked` proves nothing about this key.
    pub(super) fn explains(&self, slot: &Slot, looked: Duration) -> bool {
        let told = self.at.get(slot);
        told.is_some_and(|told| looked <= told.saturating_add(COALESCE))
    }

    /// The daemon announced it again.
    pub(super) fn forget(&mut self, slot: &Slot) {
        self.at.remove(slot);
    }

    /// Another life of the daemon: its keys mean something else.
    pub(super) fn forget_all_of(&mut self, backend: u16) {
        let of_it = |slot: &(u16, SessionKey)| slot.0 == backend;
        self.at.retain(|slot, _| !of_it(slot));
        self.queue.retain(|(_, slot)| !of_it(slot));
    }

    fn tidy(&mut self, now: Duration) {
        while let Some((told, _)) = self.queue.front()
            && told.saturating_add(KEEP) < now
            && let Some((told, slot)) = self.queue.pop_front()
        {
            if self.at.get(&slot) == Some(&told) {
                self.at.remove(&slot);
            }
        }
    }
}
