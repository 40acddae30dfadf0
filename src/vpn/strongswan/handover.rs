//! Clients that authenticate anew before they end what they have (make before break).
//!
//! For a moment such a client has two IKE SAs, and is one connection. An SA that comes up where the
//! same client has one already waits here: if the client itself deletes the old one in time, the new
//! one goes on with its connection, else it is one of its own. Pure.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::core::{Now, sessions::Endpoint};

/// A client that authenticates anew deletes its old SA within this: charon does at once.
pub(super) const HANDOVER: Duration = Duration::from_secs(2);

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Handovers {
    /// The new SA of each old one.
    by_old: HashMap<u64, u64>,
    by_new: HashMap<u64, u64>,
    /// When each new one is decided upon on the boot clock, in that order. It may have been before.
    due: VecDeque<(Duration, u64)>,
    /// The SA that was seen last at an address and port. It may be gone, or elsewhere.
    places: HashMap<Endpoint, u64>,
}

impl Handovers {
    /// The SA `id` is there.
    pub(super) fn seen_at(&mut self, endpoint: Option<Endpoint>, id: u64) {
        if let Some(endpoint) = endpoint {
            self.places.insert(endpoint, id);
        }
    }

    /// The SA that was seen there last, and is not in a handover itself.
    pub(super) fn last_at(&self, endpoint: Endpoint) -> Option<u64> {
        let id = *self.places.get(&endpoint)?;
        let free = !self.by_old.contains_key(&id) && !self.waits(id);
        free.then_some(id)
    }

    /// Forgets all places but these.
    pub(super) fn forget_places(&mut self, but: impl Iterator<Item = (Option<Endpoint>, u64)>) {
        self.places.clear();
        for (endpoint, id) in but {
            self.seen_at(endpoint, id);
        }
    }

    /// `new` came up while its client has `old`.
    pub(super) fn begin(&mut self, old: u64, new: u64, now: Now) {
        self.by_old.insert(old, new);
        self.by_new.insert(new, old);
        self.due.push_back((now.boot + HANDOVER, new));
    }

    /// Whether `new` is a new one, and it is not decided yet what it is.
    pub(super) fn waits(&self, new: u64) -> bool {
        self.by_new.contains_key(&new)
    }

    /// Decides about the handover that `id` is one of the two SAs of. Returns the new one.
    pub(super) fn decide(&mut self, id: u64) -> Option<u64> {
        let new = self.by_old.get(&id).copied().unwrap_or(id);
        let old = self.by_new.remove(&new)?;
        self.by_old.remove(&old);
        Some(new)
    }

    /// The new ones that have waited long enough.
    pub(super) fn decide_due(&mut self, now: Now) -> Vec<u64> {
        let mut decided = Vec::new();
        while let Some((_, new)) = self.due.pop_front_if(|(until, _)| *until <= now.boot) {
            decided.extend(self.decide(new));
        }
        decided
    }

    /// All new ones: nobody will hear what becomes of the old ones.
    pub(super) fn decide_all(&mut self) -> Vec<u64> {
        self.by_old.clear();
        self.due.clear();
        let mut decided: Vec<u64> = self.by_new.drain().map(|(new, _)| new).collect();
        decided.sort_unstable();
        decided
    }

    /// When [`Self::decide_due`] is to be called next, on the boot clock.
    pub(super) fn next(&self) -> Option<Duration> {
        self.due.front().map(|(until, _)| *until)
    }
}
