//! Sessions that the controller wants ended: the end carries the order's reason, whatever the VPN
//! daemon then says, and no comeback is taken for the same connection.
//!
//! An intent lasts until its session ends or its order has failed ([`Reducer::forget_intent`]), so
//! there are never more of them than orders under way.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{
    super::{
        event::SessionEvent,
        held::Slot,
        obs::End,
        types::{BackendId, Confidence, Reason, SessionKey},
    },
    Reducer,
};
use crate::core::Now;

/// What shall become of one live session.
pub(super) struct Intent {
    pub(super) reason: Reason,
    /// Where it is now: a rekey gives it another key.
    pub(super) slot: Slot,
}

/// What [`Reducer::intend`] found of the connections that it was asked for. What it does not
/// mention is over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Intended {
    /// To be ended by their daemons, in the order of their ids.
    pub up: Vec<(Uuid, BackendId, SessionKey)>,
    /// Some were left by a former process of the agent, and no backend has confirmed or denied
    /// them: which session that is, nobody knows yet.
    pub unconfirmed: bool,
    /// Ends that waited for a comeback: they wait no longer.
    pub events: Vec<SessionEvent>,
}

/// What the daemon's word "it is over" means for the connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It is over; the end, if nothing else has told it yet.
    Over(Option<Box<SessionEvent>>),
    /// It goes on under this key: the daemon renamed it meanwhile.
    Renamed(SessionKey),
}

impl Reducer {
    /// Marks those of `ids` that are up: their ends will say `reason`.
    pub fn intend(&mut self, ids: &BTreeSet<Uuid>, reason: &Reason, now: Now) -> Intended {
        let mut up: Vec<(Uuid, Slot)> = Vec::new();
        for (slot, live) in &self.live {
            if ids.contains(&live.connection_id) {
                up.push((live.connection_id, slot.clone()));
            }
        }
        for (id, slot) in &up {
            let (reason, slot) = (reason.clone(), slot.clone());
            self.intents.entry(*id).or_insert(Intent { reason, slot });
        }
        let mut events = Vec::new();
        for (slot, held) in self.held.take_connections(ids) {
            // It ended before the order was given, so its reason stands. But only the daemon
            // itself can say that what was concluded is so.
            if held.end.confidence == Confidence::Inferred {
                up.push((held.live.connection_id, slot.clone()));
                self.departed.insert(slot.clone(), now.boot);
            }
            events.push(self.ended(slot.0, held.live, held.end));
        }
        up.sort();
        let place = |(id, (at, key)): (Uuid, Slot)| {
            let backend = self.backends[usize::from(at)].id.clone();
            (id, backend, key)
        };
        Intended {
            up: up.into_iter().map(place).collect(),
            unconfirmed: self
                .restored
                .values()
                .any(|known| ids.contains(&known.connection_id)),
            events,
        }
    }

    /// The order for this connection failed: it ends as it ends. False if it has ended already.
    pub fn forget_intent(&mut self, id: Uuid) -> bool {
        self.intents.remove(&id).is_some()
    }

    /// The daemon says that the session which it called `key` is over. If it has not told that end
    /// itself it happened between the last sign of life and `now`.
    pub fn confirmed(&mut self, id: Uuid, key: &SessionKey, now: Now) -> Confirmed {
        let Some(intent) = self.intents.get(&id) else {
            return Confirmed::Over(None);
        };
        if intent.slot.1 != *key {
            return Confirmed::Renamed(intent.slot.1.clone());
        }
        let (slot, reason) = (intent.slot.clone(), intent.reason.clone());
        let Some(live) = self.remove_live(&slot) else {
            return Confirmed::Over(None);
        };
        let seen = live.session.last_seen.boot;
        let end = End::noticed(reason, Confidence::Observed, seen, now);
        self.departed.insert(slot.clone(), now.boot);
        Confirmed::Over(Some(Box::new(self.ended(slot.0, live, end))))
    }
}
