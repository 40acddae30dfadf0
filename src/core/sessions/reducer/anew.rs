//! A change of the configuration: the readers of one kind of VPN software start anew, or end. The
//! connections stay what they are.

use std::time::Duration;

use super::{
    super::{
        event::SessionEvent,
        held::Slot,
        types::{BackendId, BackendKind, Confidence},
    },
    RESTORED_PATIENCE, Reducer,
};
use crate::core::Now;

impl Reducer {
    /// The lives of daemons in which connections are known: a reader that starts anew goes on there.
    pub fn epochs(&self) -> impl Iterator<Item = (&BackendId, u64)> {
        let live = self.backends.iter().filter(|backend| backend.live > 0);
        let live = live.filter_map(|backend| Some((&backend.id, backend.epoch?)));
        live.chain(self.unconfirmed_epochs())
    }

    /// Another reader looks from now on: what it does not find, and what has no connections, is not
    /// shown any more.
    pub fn reader_restarts(&mut self, kind: BackendKind) {
        let of_kind = |backend: &&mut super::Backend| backend.id.kind == kind;
        for backend in self.backends.iter_mut().filter(of_kind) {
            backend.shown = false;
            backend.unavailable = None;
        }
    }

    /// Nobody looks any more. The connections wait, as those of a former process do: for a reader
    /// that finds them again within [`RESTORED_PATIENCE`], or for their end.
    pub fn reader_ends(&mut self, kind: BackendKind, now: Now) -> Vec<SessionEvent> {
        self.reader_restarts(kind);
        let mut out = Vec::new();
        for at in 0..self.backends.len() {
            let backend = &self.backends[at];
            let (true, Ok(at)) = (backend.id.kind == kind, u16::try_from(at)) else {
                continue;
            };
            let of_this = |slot: &Slot| slot.0 == at;
            for (slot, held) in self.held.take_where(|slot, _| of_this(slot)) {
                if held.end.confidence == Confidence::Observed {
                    out.push(self.ended(slot.0, held.live, held.end));
                } else {
                    self.wait_for_reader(self.known(at, &held.live));
                }
            }
            for slot in self.slots_of(at, |_| true) {
                let live = self.remove_live(&slot).expect("just listed");
                self.wait_for_reader(self.known(at, &live));
            }
            self.departed.forget_all_of(at);
            let backend = &mut self.backends[usize::from(at)];
            (backend.epoch, backend.answered) = (None, false);
        }
        let until = now.boot.saturating_add(RESTORED_PATIENCE);
        let known = self.restored_until.unwrap_or(Duration::ZERO);
        self.restored_until = Some(until.max(known));
        out
    }

    fn wait_for_reader(&mut self, known: super::KnownSession) {
        let id = (known.backend.clone(), known.key_hash, known.connection_id);
        self.restored.insert(id, known);
    }
}
