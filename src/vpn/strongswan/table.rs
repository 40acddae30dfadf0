//! The IKE SAs of one charon that are sessions, and those that just went down.
//!
//! Owns what events and lists say together: which SAs are up, under which id, and what their CHILD
//! SAs counted. An SA that goes down waits a moment here, for its last bytes and its reason.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use super::{
    Fault,
    entry::Entry,
    handover::Handovers,
    limits::MAX_SESSIONS,
    sa::{Child, IkeSa, Leave, State},
};
use crate::core::{
    Now,
    sessions::{
        Confidence, End, Endpoint, Obs, Patch, Reason, Session, SessionKey, Stamp, stamp_of,
    },
};

/// An SA that is down waits so long for the last counts of its CHILD SAs, and for the SA that takes
/// its place: charon tells them in the events right behind.
pub const LAST_BYTES: Duration = Duration::from_millis(200);

/// An SA that this side deleted waits so long for the connection to break: then charon stops. Also
/// how long one without any reason waits for the SA that takes its place.
pub const BETTER_REASON: Duration = Duration::from_secs(1);

/// While SA after SA is deleted, as by a charon that stops with thousands of them, each waits so
/// long at most.
pub const BETTER_REASON_AT_MOST: Duration = Duration::from_secs(10);

/// Rekeys that are remembered, so that an order for the id before reaches the SA.
const REKEYS_KEPT: usize = 1024;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Table {
    sessions: HashMap<u64, Entry>,
    leaving: VecDeque<Leaving>,
    /// When the last SA left that this side deleted.
    last_deleted: Duration,
    rekeyed: VecDeque<(u64, u64)>,
    handovers: Handovers,
    list: Option<List>,
    round: u32,
}

/// A list under way, and what events said since it was asked for.
#[derive(Debug, Default)]
struct List {
    gone: HashSet<u64>,
    fresh: HashSet<u64>,
}

#[derive(Debug)]
struct Leaving {
    id: u64,
    entry: Option<Entry>,
    /// The end as it is now; its reason may get better.
    end: End,
    leave: Leave,
    /// This side deleted it because the agent was told to: nothing better is waited for.
    ordered: bool,
    /// The last counts of a CHILD SA came.
    counted: bool,
}

impl Table {
    /// How many SAs are up or waiting to be reported down.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len() + self.leaving.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this SA is up.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Whether this SA is down, and that is not told yet.
    #[must_use]
    pub fn is_leaving(&self, id: u64) -> bool {
        self.leaving.iter().any(|leaving| leaving.id == id)
    }

    /// The id under which the SA goes on that was known as `id`.
    #[must_use]
    pub fn current(&self, id: u64) -> u64 {
        self.rekeyed
            .iter()
            .fold(id, |id, (old, new)| if *old == id { *new } else { id })
    }

    /// `ike-updown` with `up`.
    ///
    /// # Errors
    /// [`Fault::TooManySas`].
    pub fn up(&mut self, sa: IkeSa, now: Now, obs: &mut Vec<Obs>) -> Result<(), Fault> {
        if !sa.is_session() {
            return Ok(());
        }
        let id = sa.unique_id;
        let identity = sa.identity.clone();
        let of_it = |entry: &Entry| entry.session.identity == identity;
        // Who left must have left before this one can be the same client again. Where charon itself
        // authenticates anew, it deletes the SA whose time is up.
        self.release(obs, |leaving| {
            let renewed = leaving.leave == Leave::Expired;
            leaving.leave == Leave::Client || renewed && leaving.entry.as_ref().is_some_and(of_it)
        });
        self.while_listing(|list| list.fresh.insert(id))?;
        let former = self.former(&sa);
        let session = self.see(sa, now)?.session.clone();
        match former {
            Some(old) => self.handovers.begin(old, id, now),
            None => obs.push(Obs::Up(Box::new(session))),
        }
        // An SA of the same client in whose place this one is: two sessions, not one that goes on.
        for leaving in &mut self.leaving {
            let gave_way = matches!(leaving.leave, Leave::Silent | Leave::Timeout);
            if gave_way && leaving.entry.as_ref().is_some_and(of_it) {
                leaving.end.reason = Reason::Replaced;
            }
        }
        self.release(obs, |leaving| leaving.end.reason == Reason::Replaced);
        Ok(())
    }

    /// `ike-updown` without `up`. Returns the id under which its client goes on, if it has made
    /// another SA before it ended this one.
    ///
    /// # Errors
    /// [`Fault::TooManySas`].
    pub fn down(&mut self, sa: &IkeSa, now: Now, obs: &mut Vec<Obs>) -> Result<Option<u64>, Fault> {
        let id = sa.unique_id;
        self.while_listing(|list| list.gone.insert(id))?;
        let next = self.handovers.decide(id);
        if sa.leave == Leave::Client
            && let Some(next) = next.filter(|next| *next != id)
            && self.hand_over(id, next, obs)
        {
            return Ok(Some(next));
        }
        self.tell_apart(next, obs);
        let entry = self.sessions.remove(&id);
        if self.len() >= MAX_SESSIONS {
            return Err(Fault::TooManySas);
        }
        let earliest = match (sa.leave, &entry) {
            // Charon gave up on a client that was last heard then.
            (Leave::Timeout, Some(entry)) => entry.session.last_seen.boot,
            _ => now.boot,
        };
        let leave = match &entry {
            Some(entry) if sa.leave == Leave::Ours && entry.has_expired(now) => Leave::Expired,
            _ => sa.leave,
        };
        if sa.leave == Leave::Ours {
            self.last_deleted = now.boot;
        }
        self.leaving.push_back(Leaving {
            id,
            entry,
            end: End::noticed(leave.reason(), Confidence::Observed, earliest, now),
            leave,
            ordered: false,
            counted: false,
        });
        Ok(None)
    }

    /// `ike-rekey`: the same session under another id.
    ///
    /// # Errors
    /// [`Fault::TooManySas`].
    pub fn rekey(&mut self, old: u64, new: u64, obs: &mut Vec<Obs>) -> Result<(), Fault> {
        let apart = self.handovers.decide(old);
        self.tell_apart(apart, obs);
        let Some(mut entry) = self.sessions.remove(&old) else {
            return Ok(());
        };
        self.while_listing(|list| list.gone.insert(old) && list.fresh.insert(new))?;
        entry.renew_at = None;
        entry.session.key = key(new);
        self.handovers.seen_at(entry.session.endpoint, new);
        self.sessions.insert(new, entry);
        self.renamed(old, new, obs);
        Ok(())
    }

    /// `ike-update`: the client is at another address now.
    pub fn moved(&mut self, id: u64, endpoint: Option<Endpoint>, now: Now, obs: &mut Vec<Obs>) {
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.session.last_seen = now;
            entry.session.endpoint = endpoint.or(entry.session.endpoint);
            self.handovers.seen_at(entry.session.endpoint, id);
            obs.push(Obs::Update(entry.patch()));
        }
    }

    /// CHILD SAs of this SA, as an event tells them: new, rekeyed or down, with their last counts.
    pub fn count(&mut self, id: u64, children: &[Child], obs: &mut Vec<Obs>) {
        // The last counts of one whose client goes on with another SA come after that.
        let goes_on = if self.has(id) { id } else { self.current(id) };
        if let Some(entry) = self.sessions.get_mut(&goes_on) {
            entry.count(children);
            obs.push(Obs::Update(entry.patch()));
            return;
        }
        let mut leaving = self.leaving.iter_mut().rev();
        if let Some(leaving) = leaving.find(|leaving| leaving.id == id)
            && let Some(entry) = &mut leaving.entry
        {
            entry.count(children);
            leaving.counted = true;
        }
    }

    /// A list of all SAs is asked for now.
    pub fn list_begins(&mut self) {
        self.list = Some(List::default());
        self.round = self.round.wrapping_add(1);
    }

    /// One SA of the list.
    ///
    /// # Errors
    /// [`Fault::TooManySas`].
    pub fn listed(&mut self, sa: IkeSa, now: Now) -> Result<(), Fault> {
        let id = sa.unique_id;
        let round = self.round;
        if self
            .list
            .as_ref()
            .is_some_and(|list| list.gone.contains(&id))
        {
            return Ok(()); // It was read before it went down.
        }
        // One that is being deleted is up until charon says why not, but begins nothing.
        let lingers = sa.state == State::Deleting && self.has(id);
        if sa.is_session() || lingers {
            let children = sa.children.clone();
            let entry = self.see(sa, now)?;
            entry.round = round;
            entry.retire(&children);
        }
        Ok(())
    }

    /// The list is complete: what it does not have is gone, unless it came up meanwhile.
    /// `asked`: when it was asked for.
    pub fn list_ends(&mut self, epoch: u64, asked: Stamp, obs: &mut Vec<Obs>) {
        let Some(list) = self.list.take() else {
            return;
        };
        let round = self.round;
        self.sessions
            .retain(|id, entry| entry.round == round || list.fresh.contains(id));
        let up = self.sessions.iter();
        self.handovers
            .forget_places(up.map(|(id, entry)| (entry.session.endpoint, *id)));
        // Whose end is not told yet is not ended by the list either; and one that may turn out to
        // be another's going on is not begun by it.
        let leaving = self.leaving.iter();
        let leaving = leaving.filter_map(|leaving| Some((leaving.id, leaving.entry.as_ref()?)));
        let mut sessions: Vec<(u64, Session)> = self
            .sessions
            .iter()
            .map(|(id, entry)| (*id, entry))
            .filter(|(id, _)| !self.handovers.waits(*id))
            .chain(leaving)
            .map(|(id, entry)| (id, entry.session.clone()))
            .collect();
        sessions.sort_by_key(|(id, _)| *id);
        obs.push(Obs::Snapshot {
            epoch,
            at: asked,
            complete: true,
            sessions: sessions.into_iter().map(|(_, session)| session).collect(),
        });
    }

    /// The connection broke: the list is void, and what this side deleted last was charon stopping.
    pub fn disconnected(&mut self, obs: &mut Vec<Obs>) {
        self.list = None;
        let apart = self.handovers.decide_all();
        self.tell_apart(apart, obs);
        for leaving in &mut self.leaving {
            if !leaving.ordered && leaving.may_get_better() {
                leaving.end.reason = Reason::DaemonDown;
            }
        }
        self.release(obs, |_| true);
    }

    /// Charon is gone since `at`, and all of its SAs with it.
    pub fn daemon_gone(&mut self, at: Now, obs: &mut Vec<Obs>) {
        let apart = self.handovers.decide_all();
        self.tell_apart(apart, obs);
        let mut gone: Vec<u64> = std::mem::take(self).sessions.into_keys().collect();
        gone.sort_unstable();
        obs.extend(gone.into_iter().map(|id| Obs::Down {
            key: key(id),
            end: End::noticed(Reason::DaemonDown, Confidence::Observed, at.boot, at),
        }));
    }

    /// This side deleted `id` because the agent was told to end it.
    pub fn ordered(&mut self, id: u64) {
        for leaving in &mut self.leaving {
            leaving.ordered |= leaving.id == id;
        }
    }

    /// Reports those whose waiting time is over.
    pub fn tick(&mut self, now: Now, obs: &mut Vec<Obs>) {
        let apart = self.handovers.decide_due(now);
        self.tell_apart(apart, obs);
        let last_deleted = self.last_deleted;
        self.release(obs, |leaving| leaving.until(last_deleted) <= now.boot);
    }

    /// The boot-clock instant of the next [`Self::tick`] that has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let until = |leaving: &Leaving| leaving.until(self.last_deleted);
        let leaving = self.leaving.iter().map(until).min();
        let handover = self.handovers.next();
        [leaving, handover].into_iter().flatten().min()
    }

    fn while_listing(&mut self, note: impl FnOnce(&mut List) -> bool) -> Result<(), Fault> {
        if let Some(list) = &mut self.list {
            note(list);
            if list.gone.len() + list.fresh.len() > 2 * MAX_SESSIONS {
                return Err(Fault::TooManySas);
            }
        }
        Ok(())
    }

    /// The one SA of the same client, at the same address and port, that it has already. Two devices
    /// of one user are never at one address and port at a time, also not behind NAT.
    fn former(&self, sa: &IkeSa) -> Option<u64> {
        let endpoint = sa.endpoint.filter(|endpoint| endpoint.port.is_some())?;
        let old = self.handovers.last_at(endpoint)?;
        let entry = self.sessions.get(&old)?;
        let same = entry.session.identity == sa.identity && entry.session.endpoint == sa.endpoint;
        (same && !self.has(sa.unique_id)).then_some(old)
    }

    /// `old` is over, and its client goes on with `new`. False if one of them is not known.
    fn hand_over(&mut self, old: u64, new: u64, obs: &mut Vec<Obs>) -> bool {
        if !self.has(old) || !self.has(new) {
            return false;
        }
        let former = self.sessions.remove(&old);
        if let (Some(former), Some(entry)) = (former, self.sessions.get_mut(&new)) {
            entry.takes_over(&former);
            let virtual_ips = Some(entry.session.virtual_ips.clone());
            let patch = Patch {
                virtual_ips,
                ..entry.patch()
            };
            self.renamed(old, new, obs);
            obs.push(Obs::Update(patch));
        }
        true
    }

    fn renamed(&mut self, old: u64, new: u64, obs: &mut Vec<Obs>) {
        if self.rekeyed.len() == REKEYS_KEPT {
            self.rekeyed.pop_front();
        }
        self.rekeyed.push_back((old, new));
        let (old, new) = (key(old), key(new));
        obs.push(Obs::Rekey { old, new });
    }

    /// These are sessions of their own.
    fn tell_apart(&self, which: impl IntoIterator<Item = u64>, obs: &mut Vec<Obs>) {
        for id in which {
            if let Some(entry) = self.sessions.get(&id) {
                obs.push(Obs::Up(Box::new(entry.session.clone())));
            }
        }
    }

    fn release(&mut self, obs: &mut Vec<Obs>, which: impl Fn(&Leaving) -> bool) {
        self.leaving.retain(|leaving| {
            let leaves = which(leaving);
            if leaves {
                // The last counts come first: afterwards nobody listens.
                obs.extend(leaving.entry.iter().map(|entry| Obs::Update(entry.patch())));
                obs.push(Obs::Down {
                    key: key(leaving.id),
                    end: leaving.end.clone(),
                });
            }
            !leaves
        });
    }

    /// Takes over what is told of an SA that is up.
    fn see(&mut self, sa: IkeSa, now: Now) -> Result<&mut Entry, Fault> {
        if self.len() >= MAX_SESSIONS && !self.has(sa.unique_id) {
            return Err(Fault::TooManySas);
        }
        let since = now
            .boot
            .saturating_sub(Duration::from_secs(sa.established_s));
        let started = stamp_of(since, now);
        let round = self.round;
        let entry = self.sessions.entry(sa.unique_id).or_insert_with(|| Entry {
            session: Session {
                key: key(sa.unique_id),
                identity: sa.identity,
                started,
                last_seen: started,
                endpoint: None,
                virtual_ips: Box::default(),
                rx: 0,
                tx: 0,
                rx_at_start: 0,
                tx_at_start: 0,
            },
            children: Vec::new(),
            renew_at: None,
            before: (0, 0),
            round,
        });
        entry.session.endpoint = sa.endpoint.or(entry.session.endpoint);
        entry.session.virtual_ips = sa.vips;
        self.handovers.seen_at(entry.session.endpoint, sa.unique_id);
        let renew_at = sa.renew_in.map(|renew_in| now.boot + renew_in);
        entry.renew_at = renew_at.or(entry.renew_at);
        entry.count(&sa.children);
        let idle = sa.children.iter().filter_map(|child| child.idle_s).min();
        if let Some(idle) = idle {
            let heard = now.boot.saturating_sub(Duration::from_secs(idle));
            if heard > entry.session.last_seen.boot {
                entry.session.last_seen = stamp_of(heard, now);
            }
        }
        Ok(entry)
    }
}

impl Leaving {
    fn may_get_better(&self) -> bool {
        matches!(self.leave, Leave::Ours | Leave::Expired | Leave::Silent)
    }

    /// How long to wait for counts that are still to come.
    fn last_bytes(&self) -> Duration {
        let children = self.entry.as_ref().map_or(0, |entry| entry.children.len());
        if children == 0 || children == 1 && self.counted {
            Duration::ZERO
        } else {
            LAST_BYTES
        }
    }

    fn until(&self, last_deleted: Duration) -> Duration {
        let at = self.end.at.boot;
        match self.leave {
            _ if self.ordered => at + self.last_bytes(),
            Leave::Client => at + self.last_bytes(),
            // One that gives way just when a request is under way looks as if that timed out.
            Leave::Timeout => at + LAST_BYTES,
            Leave::Silent => at + BETTER_REASON,
            Leave::Ours | Leave::Expired => {
                (last_deleted + BETTER_REASON).min(at + BETTER_REASON_AT_MOST)
            }
        }
    }
}

fn key(unique_id: u64) -> SessionKey {
    SessionKey::Ike { unique_id }
}
