//! Ends that wait a moment: for the client to be back, or for a better reason.
//!
//! Owns the sessions that are down but not yet reported so.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use uuid::Uuid;

use super::{
    known::KeyHash,
    obs::End,
    types::{BackendKind, Confidence, Identity, Session, SessionKey},
};
use crate::core::Now;

/// A client that is back within this is the same connection: IKE reauthentication takes 10 ms,
/// a client that restarts its tunnel about a second. Also the wait for a better reason.
pub const COALESCE: Duration = Duration::from_secs(2);

/// A session's place: the index of its backend and its key there.
pub(super) type Slot = (u16, SessionKey);

/// A session with what the reducer adds to it.
pub(super) struct Live {
    pub(super) connection_id: Uuid,
    pub(super) hash: KeyHash,
    pub(super) session: Session,
    /// Bytes of former keys of the same connection.
    pub(super) earlier_rx: u64,
    pub(super) earlier_tx: u64,
    /// The last snapshot that held it.
    pub(super) round: u32,
    /// Since when it is up under this key: what looked earlier cannot have seen it.
    pub(super) since: Duration,
}

/// A session that is down, and why as far as known.
pub(super) struct HeldEnd {
    pub(super) live: Live,
    pub(super) end: End,
    deadline: Duration,
}

impl HeldEnd {
    /// Whether a session of the same identity that began at `started` is this one still.
    ///
    /// When an end was only concluded, the client may have been away for all the time that nobody
    /// looked. Where one session keeps its key that was a reconnect, unless it began so soon that
    /// there was no time for a longer absence; where a session changes its key while it lasts, the
    /// notice of that was missed. A session from well before is another one, seen late.
    pub(super) fn continues_at(&self, started: Now, kind: BackendKind) -> bool {
        let over = match self.end.confidence {
            Confidence::Observed => self.end.at.boot,
            Confidence::Inferred if kind.renames_sessions() => self.end.at.boot,
            Confidence::Inferred => self.end.earliest.boot,
        };
        self.end.reason.may_coalesce()
            && started.boot <= over.saturating_add(COALESCE)
            && started.boot.saturating_add(COALESCE) >= self.end.earliest.boot
    }
}

/// All held ends.
#[derive(Default)]
pub(super) struct Held {
    ends: HashMap<Slot, HeldEnd>,
    /// The latest held end of each identity.
    by_identity: HashMap<(u16, Identity), SessionKey>,
    /// No deadline is earlier than this.
    next: Option<Duration>,
}

impl Held {
    /// Holds an end, or gives it back at once where waiting can change nothing.
    pub(super) fn hold(&mut self, slot: Slot, live: Live, end: End, now: Now) -> Option<HeldEnd> {
        let until = match end.confidence {
            Confidence::Inferred => now.boot,
            Confidence::Observed if end.reason.may_coalesce() => end.at.boot,
            Confidence::Observed => return Some(HeldEnd::due_now(live, end, now)),
        };
        let deadline = until.saturating_add(COALESCE);
        if deadline <= now.boot {
            return Some(HeldEnd::due_now(live, end, now));
        }
        self.next = Some(self.next.map_or(deadline, |next| next.min(deadline)));
        let identity = (slot.0, live.session.identity.clone());
        self.by_identity.insert(identity, slot.1.clone());
        self.ends.insert(
            slot,
            HeldEnd {
                live,
                end,
                deadline,
            },
        );
        None
    }

    /// Puts `end` in the place of a less certain one. False if nothing is held there.
    pub(super) fn improve(&mut self, slot: &Slot, end: &End) -> bool {
        let Some(held) = self.ends.get_mut(slot) else {
            return false;
        };
        if end.confidence > held.end.confidence {
            held.end = end.clone().not_before(held.live.session.started);
        }
        true
    }

    pub(super) fn take(&mut self, slot: &Slot) -> Option<HeldEnd> {
        let held = self.ends.remove(slot)?;
        let identity = (slot.0, held.live.session.identity.clone());
        if self.by_identity.get(&identity) == Some(&slot.1) {
            self.by_identity.remove(&identity);
        }
        Some(held)
    }

    /// The held end of this identity on this backend.
    pub(super) fn take_identity(&mut self, backend: u16, identity: &Identity) -> Option<HeldEnd> {
        if self.by_identity.is_empty() {
            return None;
        }
        let key = self.by_identity.get(&(backend, identity.clone()))?.clone();
        self.take(&(backend, key))
    }

    /// Takes the ends of these connections, in the order of their slots.
    pub(super) fn take_connections(&mut self, ids: &BTreeSet<Uuid>) -> Vec<(Slot, HeldEnd)> {
        let is_named = |held: &HeldEnd| ids.contains(&held.live.connection_id);
        let named = self.ends.iter().filter(|(_, held)| is_named(held));
        let mut slots: Vec<Slot> = named.map(|(slot, _)| slot.clone()).collect();
        slots.sort();
        slots
            .into_iter()
            .filter_map(|slot| self.take(&slot).map(|held| (slot, held)))
            .collect()
    }

    /// Takes the ends whose time has come, oldest first; of one backend all, if given.
    pub(super) fn take_due(&mut self, now: Now, all_of: Option<u16>) -> Vec<(Slot, HeldEnd)> {
        if all_of.is_none() && self.next.is_none_or(|next| next > now.boot) {
            return Vec::new();
        }
        let mut slots: Vec<Slot> = Vec::new();
        for (slot, held) in &self.ends {
            if held.deadline <= now.boot || all_of == Some(slot.0) {
                slots.push(slot.clone());
            }
        }
        let mut due: Vec<(Slot, HeldEnd)> = slots
            .into_iter()
            .filter_map(|slot| self.take(&slot).map(|held| (slot, held)))
            .collect();
        due.sort_by(|a, b| (a.1.end.at.boot, &a.0).cmp(&(b.1.end.at.boot, &b.0)));
        self.next = self.ends.values().map(|held| held.deadline).min();
        due
    }

    /// When [`Self::take_due`] has something to do next, at the earliest.
    pub(super) fn next(&self) -> Option<Duration> {
        self.next
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Slot, &HeldEnd)> {
        self.ends.iter()
    }
}

impl HeldEnd {
    fn due_now(live: Live, end: End, now: Now) -> Self {
        Self {
            live,
            end,
            deadline: now.boot,
        }
    }
}
