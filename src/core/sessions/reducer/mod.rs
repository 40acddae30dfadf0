//! The reducer: observations of all backends in, connection events out.
//!
//! It owns connection ids, identities, coalescing, reasons and counts. Three rules carry it:
//! a session key names one connection while it is up; an observed end beats an inferred one;
//! absence means an end only in a complete snapshot.

mod anew;
mod changes;
mod departed;
mod intents;
mod restored;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::intents::{Confirmed, Intended};
pub use self::view::{BackendStatus, Counts, LiveSession};
use self::{changes::update_event, departed::Departed, intents::Intent, restored::restored_end};
use super::{
    event::{Change, SessionEvent, SessionRecord, What},
    held::{Held, HeldEnd, Live, Slot},
    known::{KeyHash, KnownSession},
    obs::{End, Obs},
    types::{BackendId, Confidence, Reason, Session, Stamp, connection_id},
};
use crate::core::Now;

/// How long connections of a former process of the agent wait for their backend to answer
/// completely. After that the backend is taken for unconfigured, and they end as inferred.
pub const RESTORED_PATIENCE: Duration = Duration::from_secs(600);

/// Backends that are remembered: readers bound how many there are at a time, but over months
/// interfaces with new names may come and go without end.
const MAX_BACKENDS_KEPT: usize = 1024;

/// Pure: feed it with [`Self::observe`] and [`Self::tick`], and do what the events say.
pub struct Reducer {
    boot_id: Uuid,
    id_key: Zeroizing<[u8; 32]>,
    backends: Vec<Backend>,
    live: HashMap<Slot, Live>,
    held: Held,
    departed: Departed,
    intents: HashMap<Uuid, Intent>,
    restored: BTreeMap<(BackendId, KeyHash, Uuid), KnownSession>,
    restored_until: Option<Duration>,
    round: u32,
}

struct Backend {
    id: BackendId,
    epoch: Option<u64>,
    /// Whether its reader has said anything since that was started.
    shown: bool,
    /// Whether it has told all that it holds, or a session of its own accord.
    answered: bool,
    unavailable: Option<(String, Stamp)>,
    live: usize,
    counts: Counts,
}

/// What a snapshot says of itself.
#[derive(Clone, Copy)]
struct Look {
    /// When the daemon was asked.
    looked: Duration,
    /// Whether it told everything.
    complete: bool,
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
            departed: Departed::default(),
            intents: HashMap::new(),
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
        let opens = matches!(
            obs,
            Obs::Reset { .. } | Obs::Snapshot { .. } | Obs::Unavailable { .. }
        );
        let open = |known: &Backend| known.id == *backend && known.epoch.is_some();
        if !opens && !self.backends.iter().any(open) {
            // Without an epoch its keys mean nothing; its first snapshot tells the same again.
            return turn.out;
        }
        let Some(at) = self.backend_index(backend) else {
            return turn.out;
        };
        self.backends[usize::from(at)].shown = true;
        match obs {
            Obs::Reset { epoch } => self.enter_epoch(at, epoch, &mut turn),
            Obs::Snapshot {
                epoch,
                complete,
                sessions,
                at: looked,
            } => {
                self.enter_epoch(at, epoch, &mut turn);
                self.backends[usize::from(at)].answered |= complete;
                let looked = looked.boot.min(now.boot);
                let look = Look { looked, complete };
                self.snapshot(at, look, sessions, &mut turn);
            }
            Obs::Up(session) => {
                self.backends[usize::from(at)].answered = true;
                self.see(at, *session, None, &mut turn);
            }
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

    /// The process ends: what the daemons have told goes out now, for the next one will not know it.
    /// What was only concluded is looked at again by that one.
    pub fn finish(&mut self) -> Vec<SessionEvent> {
        let told = |held: &HeldEnd| held.end.confidence == Confidence::Observed;
        let held = self.held.take_where(|_, held| told(held));
        held.into_iter()
            .map(|(slot, held)| self.ended(slot.0, held.live, held.end))
            .collect()
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

    /// The place of a backend; a new one takes that of one that is gone when there are many. None:
    /// there is no room.
    fn backend_index(&mut self, id: &BackendId) -> Option<u16> {
        let known = self.backends.iter().position(|backend| backend.id == *id);
        if let Some(index) = known {
            return u16::try_from(index).ok();
        }
        let new = Backend {
            id: id.clone(),
            epoch: None,
            shown: true,
            answered: false,
            unavailable: None,
            live: 0,
            counts: Counts::default(),
        };
        if self.backends.len() < MAX_BACKENDS_KEPT {
            self.backends.push(new);
            return u16::try_from(self.backends.len() - 1).ok();
        }
        let gone = |backend: &Backend| backend.live == 0 && backend.unavailable.is_some();
        let index = (0..self.backends.len()).find(|index| {
            let of_it = |slot: &Slot| usize::from(slot.0) == *index;
            gone(&self.backends[*index]) && !self.held.iter().any(|(slot, _)| of_it(slot))
        })?;
        self.backends[index] = new;
        let index = u16::try_from(index).ok()?;
        self.departed.forget_all_of(index);
        Some(index)
    }

    /// Another life of the daemon: nothing of the former one is up any more.
    fn enter_epoch(&mut self, at: u16, epoch: u64, turn: &mut Turn<'_>) {
        let backend = &mut self.backends[usize::from(at)];
        backend.unavailable = None;
        if backend.epoch.replace(epoch) == Some(epoch) {
            return;
        }
        let (id, reason) = (backend.id.clone(), backend.id.kind.gone_reason());
        self.departed.forget_all_of(at);
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
    /// that came back under another key is found waiting. What came up after the look was made
    /// cannot be in it.
    fn snapshot(&mut self, at: u16, look: Look, sessions: Vec<Session>, turn: &mut Turn<'_>) {
        if look.complete {
            self.round = self.round.wrapping_add(1);
            let round = self.round;
            for session in &sessions {
                if let Some(live) = self.live.get_mut(&(at, session.key.clone())) {
                    live.round = round;
                }
            }
            let missing = |live: &Live| live.round != round && live.since < look.looked;
            for slot in self.slots_of(at, missing) {
                let end = gone(&self.live[&slot], Reason::Unknown(String::new()), turn.now);
                self.down(slot, end, turn);
            }
        }
        for session in sessions {
            self.see(at, session, Some(look.looked), turn);
        }
        if look.complete {
            let id = self.backends[usize::from(at)].id.clone();
            let of_this = |known: &KnownSession| known.backend == id;
            self.end_restored(of_this, &Reason::AgentRestart, turn.now, &mut turn.out);
        }
    }

    /// A session is up: as known, back again, known from a former process, or new. A look at
    /// `looked` lists it; without one, the daemon announced it.
    fn see(&mut self, at: u16, session: Session, looked: Option<Duration>, turn: &mut Turn<'_>) {
        let slot = (at, session.key.clone());
        if self.live.contains_key(&slot) {
            return self.refresh(&slot, session, turn);
        }
        match looked {
            Some(looked) if self.departed.explains(&slot, looked) => return,
            Some(_) => {}
            None => self.departed.forget(&slot),
        }
        let since = looked.unwrap_or(turn.now.boot);
        if let Some(held) = self.held.take(&slot) {
            if looked.is_some() && held.end.confidence == Confidence::Inferred {
                // Its absence was the error: nothing happened.
                self.insert_live(slot.clone(), held.live);
                return self.refresh(&slot, session, turn);
            }
            return self.continue_or_start(slot, held, session, since, turn);
        }
        if let Some(known) = self.take_restored(&slot) {
            return self.adopt(slot, known, session, since, turn);
        }
        match self.held.take_identity(at, &session.identity) {
            Some(held) => self.continue_or_start(slot, held, session, since, turn),
            None => self.start(slot, session, since, turn),
        }
    }

    fn start(&mut self, slot: Slot, session: Session, since: Duration, turn: &mut Turn<'_>) {
        let live = Live {
            connection_id: connection_id(turn.now, (turn.random)()),
            hash: self.hash(&slot),
            earlier_rx: 0,
            earlier_tx: 0,
            round: self.round,
            since,
            session,
        };
        let counts = &mut self.backends[usize::from(slot.0)].counts;
        counts.started = counts.started.saturating_add(1);
        counts.grew(live.session.received(), live.session.sent());
        turn.out.push(self.event(slot.0, &live, What::Start));
        self.insert_live(slot, live);
    }

    /// The client is back after an end that nobody was told of yet: in time for one connection?
    fn continue_or_start(
        &mut self,
        slot: Slot,
        held: HeldEnd,
        session: Session,
        since: Duration,
        turn: &mut Turn<'_>,
    ) {
        let kind = self.backends[usize::from(slot.0)].id.kind;
        if !held.continues_at(session.started, kind) {
            turn.out.push(self.ended(slot.0, held.live, held.end));
            return self.start(slot, session, since, turn);
        }
        // A rekey that was missed takes the counters along; nothing is counted twice.
        let missed = held.end.confidence == Confidence::Inferred && kind.renames_sessions();
        let mut live = held.live;
        let not_lower = session.rx >= live.session.rx && session.tx >= live.session.tx;
        live.hash = self.hash(&slot);
        live.since = since;
        let renamed = live.session.key != session.key;
        live.session.key = session.key.clone();
        if !(missed && not_lower) {
            live.earlier_rx = live.earlier_rx.saturating_add(live.session.received());
            live.earlier_tx = live.earlier_tx.saturating_add(live.session.sent());
            (live.session.rx, live.session.tx) = (session.rx_at_start, session.tx_at_start);
            (live.session.rx_at_start, live.session.tx_at_start) =
                (session.rx_at_start, session.tx_at_start);
        }
        if renamed {
            // Told, so that what is kept for the next start knows the new key.
            let backend = self.backends[usize::from(slot.0)].id.clone();
            turn.out
                .push(update_event(backend, &live, Change::Rekey, turn.now));
        }
        self.insert_live(slot.clone(), live);
        self.refresh(&slot, session, turn);
    }

    /// Clause "exact beats inferred": an end is held where a better one may still come. For one
    /// that was ordered there is no better one.
    fn down(&mut self, slot: Slot, end: End, turn: &mut Turn<'_>) {
        let exact = end.confidence == Confidence::Observed;
        if let Some(live) = self.remove_live(&slot) {
            let ordered = self.intents.contains_key(&live.connection_id);
            if exact || ordered {
                self.departed.insert(slot.clone(), turn.now.boot);
            }
            let end = end.not_before(live.session.started);
            if ordered {
                turn.out.push(self.ended(slot.0, live, end));
            } else if let Some(held) = self.held.hold(slot.clone(), live, end, turn.now) {
                turn.out.push(self.ended(slot.0, held.live, held.end));
            }
        } else if self.held.improve(&slot, &end) {
            // Reported when its time has come.
            if exact {
                self.departed.insert(slot, turn.now.boot);
            }
        } else if let Some(known) = self.take_restored(&slot) {
            let mut event = restored_end(&known, end.reason.clone(), turn.now, self.boot_id);
            event.what = What::End(end.not_before(event.session.started));
            if exact {
                self.departed.insert(slot.clone(), turn.now.boot);
            }
            self.count_end(slot.0);
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

    /// The one place where live connections end. An order's reason beats every other.
    fn ended(&mut self, at: u16, live: Live, end: End) -> SessionEvent {
        let mut end = end.not_before(live.session.started);
        if let Some(intent) = self.intents.remove(&live.connection_id) {
            (end.reason, end.confidence) = (intent.reason, Confidence::Observed);
        }
        self.count_end(at);
        self.event(at, &live, What::End(end))
    }

    fn count_end(&mut self, at: u16) {
        let counts = &mut self.backends[usize::from(at)].counts;
        counts.ended = counts.ended.saturating_add(1);
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
