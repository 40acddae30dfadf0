//! The reducer: observations of all backends in, connection events out.
//!
//! It owns connection ids, identities, coalescing, reasons and counts. Three rules carry it:
//! a session key names one connection while it is up; an observed end beats an inferred one;
//! absence means an end only in a complete snapshot.

mod restored;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use uuid::Uuid;
use zeroize::Zeroizing;

use self::restored::restored_end;
pub use self::view::{BackendStatus, LiveSession};
use super::{
    event::{Change, SessionEvent, SessionRecord, What},
    held::{Held, HeldEnd, Live, Slot},
    known::{KeyHash, KnownSession},
    obs::{End, Obs, Patch},
    types::{
        BackendId, Confidence, Endpoint, Net, Reason, Session, SessionKey, Stamp, connection_id,
    },
};
use crate::core::Now;

/// How long connections of a former process of the agent wait for their backend to answer
/// completely. After that the backend is taken for unconfigured, and they end as inferred.
pub const RESTORED_PATIENCE: Duration = Duration::from_secs(600);

/// Pure: feed it with [`Self::observe`] and [`Self::tick`], and do what the events say.
pub struct Reducer {
    boot_id: Uuid,
    id_key: Zeroizing<[u8; 32]>,
    backends: Vec<Backend>,
    live: HashMap<Slot, Live>,
    held: Held,
    restored: BTreeMap<(BackendId, KeyHash, Uuid), KnownSession>,
    restored_until: Option<Duration>,
    round: u32,
}

struct Backend {
    id: BackendId,
    epoch: Option<u64>,
    unavailable: Option<(String, Stamp)>,
    live: usize,
}

/// One call: its time, its randomness, its answer.
struct Turn<'a> {
    now: Now,
    random: &'a mut dyn FnMut() -> [u8; 10],
    out: Vec<SessionEvent>,
}

impl Reducer {
    /// A reducer in the boot `boot_id` of the host that goes on where a former process stopped.
    ///
    /// `id_key` is the secret of this installation under which `restored` was hashed: 32 random
    /// bytes that stay on the host. `restored` is what [`Self::persistable`] gave.
    #[must_use]
    pub fn new(boot_id: Uuid, id_key: [u8; 32], restored: Vec<KnownSession>) -> Self {
        Self {
            boot_id,
            id_key: Zeroizing::new(id_key),
            backends: Vec::new(),
            live: HashMap::new(),
            held: Held::default(),
            restored: restored
                .into_iter()
                .map(|known| {
                    let id = known.connection_id;
                    ((known.backend.clone(), known.key_hash, id), known)
                })
                .collect(),
            restored_until: None,
            round: 0,
        }
    }

    /// Takes one observation. `random` gives 10 fresh random bytes for each new connection id.
    pub fn observe(
        &mut self,
        backend: &BackendId,
        obs: Obs,
        now: Now,
        random: &mut dyn FnMut() -> [u8; 10],
    ) -> Vec<SessionEvent> {
        let out = self.tick(now);
        let mut turn = Turn { now, random, out };
        let at = self.backend_index(backend);
        let opens = matches!(
            obs,
            Obs::Reset { .. } | Obs::Snapshot { .. } | Obs::Unavailable { .. }
        );
        if self.backends[usize::from(at)].epoch.is_none() && !opens {
            // Without an epoch its keys mean nothing; its first snapshot tells the same again.
            return turn.out;
        }
        match obs {
            Obs::Reset { epoch } => self.enter_epoch(at, epoch, &mut turn),
            Obs::Snapshot {
                epoch,
                complete,
                sessions,
                at: _,
            } => {
                self.enter_epoch(at, epoch, &mut turn);
                self.snapshot(at, complete, sessions, &mut turn);
            }
            Obs::Up(session) => self.see(at, *session, true, &mut turn),
            Obs::Update(patch) => self.patch(at, patch, &mut turn),
            Obs::Rekey { old, new } => self.rekey(at, &old, new, &mut turn),
            Obs::Down { key, end } => self.down((at, key), end, &mut turn),
            Obs::Unavailable { error, since } => {
                self.backends[usize::from(at)].unavailable = Some((error, since));
            }
        }
        turn.out
    }

    /// Reports the ends whose waiting time is over. Call at [`Self::next_deadline`].
    pub fn tick(&mut self, now: Now) -> Vec<SessionEvent> {
        let mut out = Vec::new();
        for (slot, held) in self.held.take_due(now, None) {
            out.push(self.ended(slot.0, held.live, held.end));
        }
        self.tick_restored(now, &mut out);
        out
    }

    /// The boot-clock instant of the next [`Self::tick`] that may have something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let restored = match self.restored_until {
            _ if self.restored.is_empty() => None,
            None => Some(Duration::ZERO),
            until => until,
        };
        [self.held.next(), restored].into_iter().flatten().min()
    }

    fn backend_index(&mut self, id: &BackendId) -> u16 {
        let index = match self.backends.iter().position(|backend| backend.id == *id) {
            Some(index) => index,
            None => {
                self.backends.push(Backend {
                    id: id.clone(),
                    epoch: None,
                    unavailable: None,
                    live: 0,
                });
                self.backends.len() - 1
            }
        };
        u16::try_from(index).expect("backends are few: their number is bounded by their readers")
    }

    /// Another life of the daemon: nothing of the former one is up any more.
    fn enter_epoch(&mut self, at: u16, epoch: u64, turn: &mut Turn<'_>) {
        let backend = &mut self.backends[usize::from(at)];
        backend.unavailable = None;
        if backend.epoch.replace(epoch) == Some(epoch) {
            return;
        }
        let (id, reason) = (backend.id.clone(), backend.id.kind.gone_reason());
        for (slot, held) in self.held.take_due(turn.now, Some(at)) {
            turn.out.push(self.ended(slot.0, held.live, held.end));
        }
        for slot in self.slots_of(at, |_| true) {
            let live = self.remove_live(&slot).expect("just listed");
            let end = gone(&live, reason.clone(), turn.now);
            turn.out.push(self.ended(at, live, end));
        }
        let of_another = |known: &KnownSession| known.backend == id && known.epoch != epoch;
        self.end_restored(of_another, &reason, turn.now, &mut turn.out);
    }

    /// Clause "complete=false infers no ends". What is missing goes first, so that a client
    /// that came back under another key is found waiting.
    fn snapshot(&mut self, at: u16, complete: bool, sessions: Vec<Session>, turn: &mut Turn<'_>) {
        if complete {
            self.round = self.round.wrapping_add(1);
            let round = self.round;
            for session in &sessions {
                if let Some(live) = self.live.get_mut(&(at, session.key.clone())) {
                    live.round = round;
                }
            }
            for slot in self.slots_of(at, |live| live.round != round) {
                let end = gone(&self.live[&slot], Reason::Unknown(String::new()), turn.now);
                self.down(slot, end, turn);
            }
        }
        for session in sessions {
            self.see(at, session, false, turn);
        }
        if complete {
            let id = self.backends[usize::from(at)].id.clone();
            let of_this = |known: &KnownSession| known.backend == id;
            self.end_restored(of_this, &Reason::AgentRestart, turn.now, &mut turn.out);
        }
    }

    /// A session is up: as known, back again, known from a former process, or new.
    /// `up` says that the daemon announced it; a snapshot only lists it.
    fn see(&mut self, at: u16, session: Session, up: bool, turn: &mut Turn<'_>) {
        let slot = (at, session.key.clone());
        if self.live.contains_key(&slot) {
            return self.refresh(&slot, session, turn);
        }
        let stale = |held: &HeldEnd| !up && held.end.confidence == Confidence::Observed;
        if self.held.get(&slot).is_some_and(stale) {
            return;
        }
        if let Some(held) = self.held.take(&slot) {
            if !up {
                // Its absence was the error: nothing happened.
                self.insert_live(slot.clone(), held.live);
                return self.refresh(&slot, session, turn);
            }
            return self.continue_or_start(slot, held, session, turn);
        }
        if let Some(known) = self.take_restored(&slot) {
            return self.adopt(slot, known, session, turn);
        }
        match self.held.take_identity(at, &session.identity) {
            Some(held) => self.continue_or_start(slot, held, session, turn),
            None => self.start(slot, session, turn),
        }
    }

    fn start(&mut self, slot: Slot, session: Session, turn: &mut Turn<'_>) {
        let live = Live {
            connection_id: connection_id(turn.now, (turn.random)()),
            hash: self.hash(&slot),
            session,
            earlier_rx: 0,
            earlier_tx: 0,
            round: self.round,
        };
        turn.out.push(self.event(slot.0, &live, What::Start));
        self.insert_live(slot, live);
    }

    /// The client is back after an end that nobody was told of yet: in time for one connection?
    fn continue_or_start(
        &mut self,
        slot: Slot,
        held: HeldEnd,
        session: Session,
        turn: &mut Turn<'_>,
    ) {
        if !held.continues_at(session.started) {
            turn.out.push(self.ended(slot.0, held.live, held.end));
            return self.start(slot, session, turn);
        }
        let mut live = held.live;
        live.hash = self.hash(&slot);
        live.earlier_rx = live.earlier_rx.saturating_add(live.session.received());
        live.earlier_tx = live.earlier_tx.saturating_add(live.session.sent());
        live.session.key = session.key.clone();
        live.session.rx_at_start = session.rx_at_start;
        live.session.tx_at_start = session.tx_at_start;
        self.insert_live(slot.clone(), live);
        self.refresh(&slot, session, turn);
    }

    /// Takes over the current values; what was at the start stays.
    fn refresh(&mut self, slot: &Slot, session: Session, turn: &mut Turn<'_>) {
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

    fn patch(&mut self, at: u16, patch: Patch, turn: &mut Turn<'_>) {
        let Some(live) = self.live.get_mut(&(at, patch.key)) else {
            return; // It ended, or its start was not seen: the next snapshot decides.
        };
        let session = &mut live.session;
        session.rx = patch.rx;
        session.tx = patch.tx;
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
            let backend = self.backends[usize::from(at)].id.clone();
            turn.out.push(update_event(backend, live, change, turn.now));
        }
    }

    fn rekey(&mut self, at: u16, old: &SessionKey, new: SessionKey, turn: &mut Turn<'_>) {
        let slot = (at, new.clone());
        if *old == new {
            return;
        }
        let Some(mut live) = self.remove_live(&(at, old.clone())) else {
            return;
        };
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
        live.hash = self.hash(&slot);
        live.session.key = new;
        let backend = self.backends[usize::from(at)].id.clone();
        turn.out
            .push(update_event(backend, &live, Change::Rekey, turn.now));
        self.insert_live(slot, live);
    }

    /// Clause "exact beats inferred": an end is held where a better one may still come.
    fn down(&mut self, slot: Slot, end: End, turn: &mut Turn<'_>) {
        if let Some(live) = self.remove_live(&slot) {
            let end = end.not_before(live.session.started);
            if let Some(held) = self.held.hold(slot.clone(), live, end, turn.now) {
                turn.out.push(self.ended(slot.0, held.live, held.end));
            }
        } else if self.held.improve(&slot, &end) {
            // Reported when its time has come.
        } else if let Some(known) = self.take_restored(&slot) {
            let mut event = restored_end(&known, end.reason.clone(), turn.now, self.boot_id);
            event.what = What::End(end.not_before(event.session.started));
            turn.out.push(event);
        }
    }

    /// The slots of one backend, in an order that does not depend on the hash map.
    fn slots_of(&self, at: u16, which: impl Fn(&Live) -> bool) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self
            .live
            .iter()
            .filter(|(slot, live)| slot.0 == at && which(live))
            .map(|(slot, _)| slot.clone())
            .collect();
        slots.sort();
        slots
    }

    fn insert_live(&mut self, slot: Slot, live: Live) {
        self.backends[usize::from(slot.0)].live += 1;
        let before = self.live.insert(slot, live);
        debug_assert!(before.is_none(), "a key names one connection");
    }

    fn remove_live(&mut self, slot: &Slot) -> Option<Live> {
        let live = self.live.remove(slot)?;
        self.backends[usize::from(slot.0)].live -= 1;
        Some(live)
    }

    fn hash(&self, slot: &Slot) -> KeyHash {
        KeyHash::of(
            &self.id_key,
            &self.backends[usize::from(slot.0)].id,
            &slot.1,
        )
    }

    fn ended(&self, at: u16, live: Live, end: End) -> SessionEvent {
        let end = end.not_before(live.session.started);
        self.event(at, &live, What::End(end))
    }

    fn event(&self, at: u16, live: &Live, what: What) -> SessionEvent {
        SessionEvent {
            connection_id: live.connection_id,
            backend: self.backends[usize::from(at)].id.clone(),
            session: SessionRecord::of(&live.session, live.earlier_rx, live.earlier_tx),
            what,
        }
    }
}

fn gone(live: &Live, reason: Reason, now: Now) -> End {
    let earliest = live.session.last_seen.boot;
    End::noticed(reason, Confidence::Inferred, earliest, now)
}

fn update_event(backend: BackendId, live: &Live, change: Change, at: Now) -> SessionEvent {
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
