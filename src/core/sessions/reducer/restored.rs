//! Connections across a restart of the agent: what is kept, found again, or given up.

use std::time::Duration;

use uuid::Uuid;

use super::{
    super::{
        event::{SessionEvent, What},
        held::{Live, Slot},
        known::KnownSession,
        obs::End,
        types::{BackendId, Confidence, Reason, Session, Stamp},
    },
    RESTORED_PATIENCE, Reducer, Turn,
};
use crate::core::Now;

impl Reducer {
    /// The backends of connections that nothing has confirmed since the agent started.
    pub fn unconfirmed_backends(&self) -> impl Iterator<Item = &BackendId> {
        self.restored.keys().map(|(backend, ..)| backend)
    }

    /// Their epochs: a reader that cannot tell its daemon's lives apart goes on in the last one.
    pub fn unconfirmed_epochs(&self) -> impl Iterator<Item = (&BackendId, u64)> {
        let known = self.restored.values();
        known.map(|known| (&known.backend, known.epoch))
    }

    /// What the next process of the agent needs to go on without a duplicate or a false end.
    #[must_use]
    pub fn persistable(&self) -> Vec<KnownSession> {
        let live = self.live.iter();
        let held = self.held.iter().map(|(slot, held)| (slot, &held.live));
        let mut known: Vec<KnownSession> = live
            .chain(held)
            .map(|(slot, live)| self.known(slot.0, live))
            .chain(self.restored.values().cloned())
            .collect();
        known.sort_by_key(|known| known.connection_id);
        known
    }

    /// Goes on, silently, with a connection of a former process. Where the daemon's name for it does
    /// not tell two sessions of one client apart, lower counters do.
    pub(super) fn adopt(
        &mut self,
        slot: Slot,
        known: KnownSession,
        session: Session,
        since: Duration,
        turn: &mut Turn<'_>,
    ) {
        let lower = session.rx < known.rx || session.tx < known.tx;
        if lower && !session.key.is_unique_in_epoch() {
            let reason = Reason::AgentRestart;
            turn.out
                .push(restored_end(&known, reason, turn.now, self.boot_id));
            self.count_end(slot.0);
            return self.start(slot, session, since, turn);
        }
        let started = known.started(self.boot_id);
        // A lower counter was started over: what was counted so far stays, and goes on from there.
        let carry = |now: u64, then: u64, at_start: u64, earlier: u64| match now < then {
            false => (at_start, earlier),
            true => (now, earlier.saturating_add(then.saturating_sub(at_start))),
        };
        let (rx_at_start, earlier_rx) =
            carry(session.rx, known.rx, known.rx_at_start, known.earlier_rx);
        let (tx_at_start, earlier_tx) =
            carry(session.tx, known.tx, known.tx_at_start, known.earlier_tx);
        let live = Live {
            connection_id: known.connection_id,
            hash: known.key_hash,
            session: Session {
                started,
                rx_at_start,
                tx_at_start,
                ..session
            },
            earlier_rx,
            earlier_tx,
            round: self.round,
            since,
        };
        self.insert_live(slot, live);
    }

    pub(super) fn tick_restored(&mut self, now: Now, out: &mut Vec<SessionEvent>) {
        if self.restored.is_empty() {
            return;
        }
        match self.restored_until {
            None => {
                self.restored_until = Some(now.boot.saturating_add(RESTORED_PATIENCE));
                let boot_id = self.boot_id;
                let of_another_boot = |known: &KnownSession| known.boot_id != boot_id;
                self.end_restored(of_another_boot, &Reason::DaemonDown, now, out);
            }
            Some(until) if until <= now.boot => {
                self.end_restored(|_| true, &Reason::AgentRestart, now, out);
            }
            Some(_) => {}
        }
    }

    pub(super) fn take_restored(&mut self, slot: &Slot) -> Option<KnownSession> {
        if self.restored.is_empty() {
            return None;
        }
        let backend = &self.backends[usize::from(slot.0)];
        let (id, hash) = (backend.id.clone(), self.hash(slot));
        let first = (id.clone(), hash, Uuid::nil());
        let (key, known) = self
            .restored
            .range(first..=(id, hash, Uuid::max()))
            .next()?;
        if Some(known.epoch) != backend.epoch {
            return None;
        }
        let key = key.clone();
        self.restored.remove(&key)
    }

    pub(super) fn end_restored(
        &mut self,
        which: impl Fn(&KnownSession) -> bool,
        reason: &Reason,
        now: Now,
        out: &mut Vec<SessionEvent>,
    ) {
        let (boot_id, backends) = (self.boot_id, &mut self.backends);
        self.restored.retain(|_, known| {
            let ends = which(known);
            if ends {
                out.push(restored_end(known, reason.clone(), now, boot_id));
                let of_it = |backend: &&mut super::Backend| backend.id == known.backend;
                if let Some(backend) = backends.iter_mut().find(of_it) {
                    backend.counts.ended = backend.counts.ended.saturating_add(1);
                }
            }
            !ends
        });
    }

    pub(super) fn known(&self, at: u16, live: &Live) -> KnownSession {
        let nanos = |stamp: Stamp| u64::try_from(stamp.boot.as_nanos()).unwrap_or(u64::MAX);
        let (backend, session) = (&self.backends[usize::from(at)], &live.session);
        KnownSession {
            connection_id: live.connection_id,
            backend: backend.id.clone(),
            epoch: backend.epoch.unwrap_or_default(),
            boot_id: self.boot_id,
            key_hash: live.hash,
            started_boot_ns: nanos(session.started),
            started_wall_ms: session.started.wall_ms,
            seen_boot_ns: nanos(session.last_seen),
            seen_wall_ms: session.last_seen.wall_ms,
            rx: session.rx,
            tx: session.tx,
            rx_at_start: session.rx_at_start,
            tx_at_start: session.tx_at_start,
            earlier_rx: live.earlier_rx,
            earlier_tx: live.earlier_tx,
        }
    }
}

/// The end of a connection that nobody watched since its last sign of life.
pub(super) fn restored_end(
    known: &KnownSession,
    reason: Reason,
    now: Now,
    boot_id: Uuid,
) -> SessionEvent {
    let session = known.record(boot_id);
    let end = End {
        reason,
        confidence: Confidence::Inferred,
        earliest: session.last_seen,
        at: session.last_seen,
        latest: now,
    };
    SessionEvent {
        connection_id: known.connection_id,
        backend: known.backend.clone(),
        what: What::End(end.not_before(session.started)),
        session,
    }
}
