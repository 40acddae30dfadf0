//! What others may see of the reducer's state: the status report's view, without personal data.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{
    super::{
        event::{SessionEvent, What},
        types::{BackendId, Stamp},
    },
    Reducer,
};

/// What `status` shows of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendStatus<'a> {
    /// Which one.
    pub id: &'a BackendId,
    /// Connections that are up.
    pub live: usize,
    /// Why it cannot be read, and since when.
    pub unavailable: Option<(&'a str, Stamp)>,
    /// Whether it could be read at some time since the agent started.
    pub was_up: bool,
    /// What went on there.
    pub counts: Counts,
}

impl BackendStatus<'_> {
    /// Whether it can be read now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.was_up && self.unavailable.is_none()
    }
}

/// What went on at one backend since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that began.
    pub started: u64,
    /// Connections that ended, those of a former process included.
    pub ended: u64,
    /// Bytes from all clients. Of a connection that a former process saw, those since it was
    /// found again.
    pub rx: u64,
    /// Bytes to all clients, likewise.
    pub tx: u64,
}

impl Counts {
    pub(super) fn grew(&mut self, rx: u64, tx: u64) {
        self.rx = self.rx.saturating_add(rx);
        self.tx = self.tx.saturating_add(tx);
    }
}

/// What `status` shows of one connection: no personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSession<'a> {
    /// UUIDv7.
    pub connection_id: Uuid,
    /// Where it is connected.
    pub backend: &'a BackendId,
    /// When it began.
    pub started: Stamp,
    /// Last sign of life.
    pub last_seen: Stamp,
    /// Bytes from the client.
    pub rx: u64,
    /// Bytes to the client.
    pub tx: u64,
}

impl Reducer {
    /// Everything that is connected, in no particular order.
    pub fn live(&self) -> impl Iterator<Item = LiveSession<'_>> {
        self.live.iter().map(|(slot, live)| LiveSession {
            connection_id: live.connection_id,
            backend: &self.backends[usize::from(slot.0)].id,
            started: live.session.started,
            last_seen: live.session.last_seen,
            rx: live.earlier_rx.saturating_add(live.session.received()),
            tx: live.earlier_tx.saturating_add(live.session.sent()),
        })
    }

    /// The starts of those of `ids` that are up, once more and by id: for records that may not have
    /// been stored.
    #[must_use]
    pub fn starts_of(&self, ids: &BTreeSet<Uuid>) -> Vec<SessionEvent> {
        let wanted = self
            .live
            .iter()
            .filter(|(_, live)| ids.contains(&live.connection_id));
        let mut starts: Vec<SessionEvent> = wanted
            .map(|(slot, live)| self.event(slot.0, live, What::Start))
            .collect();
        starts.sort_by_key(|event| event.connection_id);
        starts
    }

    /// The backends that were ever heard, with their connection counts; but for those that went
    /// with a change of the configuration.
    pub fn backends(&self) -> impl Iterator<Item = BackendStatus<'_>> {
        let shown = |backend: &&super::Backend| backend.shown || backend.live > 0;
        self.backends
            .iter()
            .filter(shown)
            .map(|backend| BackendStatus {
                id: &backend.id,
                live: backend.live,
                unavailable: backend
                    .unavailable
                    .as_ref()
                    .map(|(error, since)| (error.as_str(), *since)),
                was_up: backend.answered,
                counts: backend.counts,
            })
    }
}
