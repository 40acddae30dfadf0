//! Sessions that go on: new counters, another address, another key.

use super::{
    super::{
        event::{Change, SessionEvent, SessionRecord, What},
        held::{Live, Slot},
        obs::{End, Patch},
        types::{BackendId, Confidence, Endpoint, Net, Reason, Session, SessionKey},
    },
    Reducer, Turn,
};
use crate::core::Now;

impl Reducer {
    /// Takes over the current values; what was at the start stays.
    pub(super) fn refresh(&mut self, slot: &Slot, session: Session, turn: &mut Turn<'_>) {
        let patch = Patch {
            key: session.key,
            endpoint: session.endpoint,
            virtual_ips: Some(session.virtual_ips),
            rx: session.rx,
            tx: session.tx,
            last_seen: session.last_seen,
        };
        self.patch(slot.0, patch, turn);
    }

    pub(super) fn patch(&mut self, at: u16, patch: Patch, turn: &mut Turn<'_>) {
        let Some(live) = self.live.get_mut(&(at, patch.key)) else {
            return; // It ended, or its start was not seen: the next snapshot decides.
        };
        let session = &mut live.session;
        let before = (session.received(), session.sent());
        // A lower number is an older one: two ways of asking a daemon overtake each other.
        session.rx = session.rx.max(patch.rx);
        session.tx = session.tx.max(patch.tx);
        let backend = &mut self.backends[usize::from(at)];
        let grown = (session.received() - before.0, session.sent() - before.1);
        backend.counts.grew(grown.0, grown.1);
        if patch.last_seen.boot > session.last_seen.boot {
            session.last_seen = patch.last_seen;
        }
        let mut changes = [None, None];
        if changed_endpoint(session, patch.endpoint) {
            changes[0] = Some(Change::Endpoint);
        }
        if changed_virtual_ips(session, patch.virtual_ips) {
            changes[1] = Some(Change::VirtualIps);
        }
        let live = &*live;
        for change in changes.into_iter().flatten() {
            turn.out
                .push(update_event(backend.id.clone(), live, change, turn.now));
        }
    }

    pub(super) fn rekey(
        &mut self,
        at: u16,
        old: &SessionKey,
        new: SessionKey,
        turn: &mut Turn<'_>,
    ) {
        let slot = (at, new.clone());
        if *old == new {
            return;
        }
        let former = (at, old.clone());
        let Some(mut live) = self.remove_live(&former) else {
            // Known from a former process, and not listed yet in this one: it waits under its new key.
            if let Some(mut known) = self.take_restored(&former) {
                known.key_hash = self.hash(&slot);
                let id = (known.backend.clone(), known.key_hash, known.connection_id);
                self.restored.insert(id, known);
            }
            return;
        };
        self.departed.insert(former, turn.now.boot);
        self.departed.forget(&slot);
        if self.live.contains_key(&slot) {
            // The new key was announced as a session of its own before the rekey was.
            let end = End::noticed(
                Reason::Replaced,
                Confidence::Observed,
                live.session.last_seen.boot,
                turn.now,
            );
            turn.out.push(self.ended(at, live, end));
            return;
        }
        if let Some(held) = self.held.take(&slot) {
            // Another session had this key, and just ended.
            turn.out.push(self.ended(at, held.live, held.end));
        }
        if let Some(intent) = self.intents.get_mut(&live.connection_id) {
            intent.slot = slot.clone();
        }
        live.hash = self.hash(&slot);
        live.since = turn.now.boot;
        live.session.key = new;
        let backend = self.backends[usize::from(at)].id.clone();
        turn.out
            .push(update_event(backend, &live, Change::Rekey, turn.now));
        self.insert_live(slot, live);
    }
}

pub(super) fn update_event(
    backend: BackendId,
    live: &Live,
    change: Change,
    at: Now,
) -> SessionEvent {
    SessionEvent {
        connection_id: live.connection_id,
        backend,
        session: SessionRecord::of(&live.session, live.earlier_rx, live.earlier_tx),
        what: What::Update { change, at },
    }
}

/// An endpoint that is no longer told is no news; a first one completes the start.
fn changed_endpoint(session: &mut Session, endpoint: Option<Endpoint>) -> bool {
    endpoint.is_some() && std::mem::replace(&mut session.endpoint, endpoint) != endpoint
}

fn changed_virtual_ips(session: &mut Session, virtual_ips: Option<Box<[Net]>>) -> bool {
    match virtual_ips {
        Some(virtual_ips) if virtual_ips != session.virtual_ips => {
            session.virtual_ips = virtual_ips;
            true
        }
        _ => false,
    }
}
