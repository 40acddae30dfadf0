//! What counts as a WireGuard session: evidence from poll to poll. Pure.
//!
//! WireGuard has no sessions, only handshakes. Evidence is a handshake that *changed* since the
//! last poll, stamped with the boot clock, so that steps of the wall clock neither start nor end
//! anything. Peers that never shook hands cost no memory; others 75 bytes; live ones 112 more.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    time::Duration,
};

use super::{
    reading::{Handshake, MAX_PEERS, PeerReading},
    roster::Roster,
};
use crate::core::{
    Now,
    sessions::{
        Confidence, End, Endpoint, Identity, Net, Obs, Patch, Reason, Session, SessionKey, stamp_of,
    },
};

/// A key that old is refused by both sides (WireGuard whitepaper §6.1, `REJECT_AFTER_TIME`).
/// Renewal comes at 120 s with traffic and at 125 s with keepalives only, so less than this flaps.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

/// Below this many seconds a handshake time is not Unix time but time elapsed (boringtun).
const ELAPSED_BELOW_S: u64 = 1_000_000_000;

/// How far a handshake computed from elapsed time may wander between polls and be the same one:
/// more than the 2 s that a slow answer takes, less than the 5 s between handshakes.
const ELAPSED_JITTER: Duration = Duration::from_secs(3);

/// Marks a handshake computed from elapsed time; Unix nanoseconds reach this bit in 2262.
const ELAPSED: u64 = 1 << 63;

/// How an interface tells the time of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeClock {
    /// Always Unix time: the kernel.
    Unix,
    /// Unix time or elapsed time, whichever the number looks like: userspace daemons.
    Guess,
}

/// The peers of one interface, from poll to poll.
pub struct PeerTable {
    clock: HandshakeClock,
    peers: Roster<Peer>,
    /// When the last complete round began: what is missing now was there then.
    complete_at: Duration,
    /// Whether a whole answer was seen once: only then an unknown peer is a new one.
    complete_once: bool,
    /// Whether the next round tells everything instead of the changes.
    resync: bool,
    incarnations: u32,
}

/// Bytes from and to a peer.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Traffic {
    rx: u64,
    tx: u64,
}

/// A peer that shook hands at some time.
struct Peer {
    handshake: u64,
    /// The counters at the last poll. They go on from session to session.
    traffic: Traffic,
    /// Its session, if it has one.
    live: Option<Box<Live>>,
}

/// The `handshake` of a peer that has none any more: as good as unknown until the round ends.
const FORGOTTEN: u64 = 0;

struct Live {
    incarnation: u32,
    started: Duration,
    /// The last handshake.
    evidence: Duration,
    rx_grew: Duration,
    /// The counters when it began.
    at_start: Traffic,
    endpoint: Option<Endpoint>,
    allowed_ips_hash: u64,
    /// Past [`REJECT_AFTER`] at the last poll already.
    overdue: bool,
}

/// One poll: [`Self::see`] each peer, then [`Self::finish`].
pub struct Round<'a> {
    table: &'a mut PeerTable,
    now: Now,
    /// When the last complete round before this one began.
    before: Duration,
    snapshot: bool,
    overflow: bool,
    /// Of each place of the roster, whether this answer named the peer.
    seen: Vec<bool>,
    sessions: Vec<Session>,
    obs: Vec<Obs>,
}

impl PeerTable {
    /// An interface of which nothing is known yet.
    #[must_use]
    pub fn new(clock: HandshakeClock) -> Self {
        Self {
            clock,
            peers: Roster::new(),
            complete_at: Duration::ZERO,
            complete_once: false,
            resync: true,
            incarnations: 0,
        }
    }

    /// Whether this session goes on, as far as the last poll knows.
    pub fn is_live(&mut self, public_key: &[u8; 32], incarnation: u32) -> bool {
        let Some(place) = self.peers.find(public_key) else {
            return false;
        };
        let live = &self.peers.at(place).live;
        live.as_ref()
            .is_some_and(|live| live.incarnation == incarnation)
    }

    /// Whether the last poll saw a whole answer.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.resync
    }

    /// Begins a poll at `now`.
    pub fn begin(&mut self, now: Now) -> Round<'_> {
        self.peers.rewind();
        Round {
            before: self.complete_at,
            snapshot: self.resync,
            overflow: false,
            seen: vec![false; self.peers.len()],
            now,
            sessions: Vec::new(),
            obs: Vec::new(),
            table: self,
        }
    }

    /// The interface is down or gone: all sessions end as `interface_down`. Handshakes stay
    /// known, so that one from before is no evidence when the interface comes back.
    pub fn interface_down(&mut self, now: Now) -> Vec<Obs> {
        self.resync = true;
        let before = self.complete_at;
        let mut live: Vec<_> = self
            .peers
            .iter_mut()
            .filter_map(|(key, peer)| Some((*key, peer.live.take()?)))
            .collect();
        live.sort_by_key(|(key, _)| *key);
        live.into_iter()
            .map(|(key, live)| Obs::Down {
                key: session_key(key, live.incarnation),
                end: End::noticed(Reason::InterfaceDown, Confidence::Observed, before, now),
            })
            .collect()
    }
}

impl Peer {
    fn known(handshake: u64, reading: &PeerReading) -> Self {
        Self {
            handshake,
            traffic: traffic_of(reading),
            live: None,
        }
    }
}

impl Round<'_> {
    /// Takes one peer. Of a peer that comes twice (netlink splits long ones) the first counts.
    pub fn see(&mut self, reading: &PeerReading) {
        let key = reading.public_key;
        let handshake = self.handshake(reading.handshake);
        let Some(place) = self.table.peers.find(&key) else {
            let Some(handshake) = handshake else {
                return;
            };
            if self.table.peers.len() >= MAX_PEERS {
                self.overflow = true;
                return;
            }
            let place = self
                .table
                .peers
                .insert(key, Peer::known(handshake, reading));
            self.seen.push(true);
            return self.first_sight(place, reading);
        };
        if mem::replace(&mut self.seen[place], true) {
            return;
        }
        let peer = self.table.peers.at(place);
        let Some(handshake) = handshake else {
            // Handshake back to 0: the peer was taken out and put in again.
            peer.handshake = FORGOTTEN;
            return self.end_reset(place, key);
        };
        if peer.handshake == FORGOTTEN {
            *peer = Peer::known(handshake, reading);
            return self.first_sight(place, reading);
        }
        let changed = is_another(peer.handshake, handshake);
        // An elapsed time wanders by its jitter: hold on to the first sight of it.
        if changed || handshake & ELAPSED == 0 {
            peer.handshake = handshake;
        }
        let before = mem::replace(&mut peer.traffic, traffic_of(reading));
        let reset = reading.rx < before.rx || reading.tx < before.tx;
        if peer.live.is_some() {
            if !reset {
                return self.go_on(place, reading, changed, before);
            }
            self.end_reset(place, key);
        }
        if changed {
            let at_start = if reset { Traffic::default() } else { before };
            self.begin_session(place, reading, self.fresh_age(reading), at_start);
        }
    }

    /// Ends the poll. `complete` says that the answer was whole: only then absence is removal.
    #[must_use]
    pub fn finish(mut self, epoch: u64, complete: bool) -> Vec<Obs> {
        let complete = complete && !self.overflow;
        if complete {
            self.forget_missing();
            self.table.complete_once = true;
            self.table.complete_at = self.now.boot;
        } else if self.table.peers.len() >= MAX_PEERS {
            // A daemon that never finishes must not fill the table for ever.
            let seen = &self.seen;
            self.table
                .peers
                .retain(|place, _, peer| peer.live.is_some() || seen[place]);
        }
        self.table.resync = !complete;
        if self.snapshot {
            self.obs.push(Obs::Snapshot {
                epoch,
                at: self.now,
                complete,
                sessions: self.sessions,
            });
        }
        self.obs
    }

    /// What a whole answer did not name is gone.
    fn forget_missing(&mut self) {
        let mut removed = Vec::new();
        let seen = &self.seen;
        let gone = |place: usize, peer: &Peer| !seen[place] || peer.handshake == FORGOTTEN;
        let peers = &mut self.table.peers;
        if !peers
            .iter_mut()
            .enumerate()
            .any(|(place, (_, peer))| gone(place, peer))
        {
            return;
        }
        peers.retain(|place, key, peer| {
            let gone = gone(place, peer);
            if gone && let Some(live) = peer.live.take() {
                removed.push((*key, live));
            }
            !gone
        });
        removed.sort_unstable_by_key(|(key, _)| *key);
        for (key, live) in removed {
            let end = End::noticed(
                Reason::PeerRemoved,
                Confidence::Observed,
                self.before,
                self.now,
            );
            self.tell_end(key, &live, end);
        }
    }

    /// An unknown peer with a handshake: new, unless the table has not seen a whole answer yet.
    /// Then the age on the wall clock decides, the only use of it.
    fn first_sight(&mut self, place: usize, reading: &PeerReading) {
        if self.table.complete_once {
            let age = self.fresh_age(reading);
            return self.begin_session(place, reading, age, Traffic::default());
        }
        // A handshake in the future is a stepped clock: taken as now, time will tell.
        let age = self.age(reading.handshake).unwrap_or_default();
        if age < REJECT_AFTER {
            // Which of the bytes so far are of this session, nobody knows: none are counted.
            self.begin_session(place, reading, age, traffic_of(reading));
        }
    }

    fn begin_session(
        &mut self,
        place: usize,
        reading: &PeerReading,
        age: Duration,
        at_start: Traffic,
    ) {
        let started = self.now.boot.saturating_sub(age);
        self.table.incarnations = self.table.incarnations.wrapping_add(1);
        let live = Live {
            incarnation: self.table.incarnations,
            started,
            evidence: started,
            rx_grew: started,
            at_start,
            endpoint: reading.endpoint,
            allowed_ips_hash: hash_of(&reading.allowed_ips),
            overdue: false,
        };
        let session = session_of(&live, reading, self.now);
        self.table.peers.at(place).live = Some(Box::new(live));
        if self.snapshot {
            self.sessions.push(session);
        } else {
            self.obs.push(Obs::Up(Box::new(session)));
        }
    }

    /// A live peer: renewed, still in time, or silent for too long.
    fn go_on(&mut self, place: usize, reading: &PeerReading, changed: bool, before: Traffic) {
        let key = reading.public_key;
        let Some(live) = &mut self.table.peers.at(place).live else {
            return;
        };
        let now = self.now.boot;
        if changed {
            live.evidence = now;
            live.overdue = false;
        } else if now.saturating_sub(live.evidence) >= REJECT_AFTER
            && mem::replace(&mut live.overdue, true)
        {
            return self.end(place, key, |_, live, now| timeout(live, now));
        }
        // Only growth of rx is a sign of life: retries to a dead peer make tx grow.
        if reading.rx > before.rx {
            live.rx_grew = now;
        }
        let allowed_ips_hash = hash_of(&reading.allowed_ips);
        let other_ips = live.allowed_ips_hash != allowed_ips_hash;
        let news = changed
            || other_ips
            || before != traffic_of(reading)
            || live.endpoint != reading.endpoint;
        live.endpoint = reading.endpoint;
        live.allowed_ips_hash = allowed_ips_hash;
        if self.snapshot {
            self.sessions.push(session_of(live, reading, self.now));
        } else if news {
            self.obs.push(Obs::Update(Patch {
                key: session_key(key, live.incarnation),
                endpoint: reading.endpoint,
                virtual_ips: other_ips.then(|| reading.allowed_ips.as_slice().into()),
                rx: reading.rx,
                tx: reading.tx,
                last_seen: stamp_of(live.evidence.max(live.rx_grew), self.now),
            }));
        }
    }

    /// The counters or the handshake went back: the peer was removed and added between polls.
    fn end_reset(&mut self, place: usize, key: [u8; 32]) {
        self.end(place, key, |before, _, now| {
            End::noticed(Reason::PeerRemoved, Confidence::Inferred, before, now)
        });
    }

    fn end(&mut self, place: usize, key: [u8; 32], end: impl FnOnce(Duration, &Live, Now) -> End) {
        if let Some(live) = self.table.peers.at(place).live.take() {
            let end = end(self.before, &live, self.now);
            self.tell_end(key, &live, end);
        }
    }

    fn tell_end(&mut self, key: [u8; 32], live: &Live, end: End) {
        self.obs.push(Obs::Down {
            key: session_key(key, live.incarnation),
            end,
        });
    }

    /// The age of a handshake that happened since the last poll: its own clock refines it, but
    /// never beyond that poll.
    fn fresh_age(&self, reading: &PeerReading) -> Duration {
        let since = self.now.boot.saturating_sub(self.before);
        self.age(reading.handshake)
            .filter(|age| *age <= since)
            .unwrap_or_default()
    }

    /// How long ago, by the wall clock or as elapsed. None: in the future.
    fn age(&self, handshake: Handshake) -> Option<Duration> {
        let told = Duration::new(handshake.secs, handshake.nanos);
        if self.is_elapsed(handshake) {
            return Some(told);
        }
        let wall = Duration::from_millis(u64::try_from(self.now.wall_ms).ok()?);
        wall.checked_sub(told)
    }

    /// The handshake as one comparable number; none if there never was one.
    fn handshake(&self, handshake: Handshake) -> Option<u64> {
        if handshake == Handshake::default() {
            return None;
        }
        if self.is_elapsed(handshake) {
            let told = Duration::new(handshake.secs, handshake.nanos);
            let at = self.now.boot.saturating_sub(told);
            return Some(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX) | ELAPSED);
        }
        let told = handshake.secs.saturating_mul(1_000_000_000);
        Some(told.saturating_add(handshake.nanos.into()) & !ELAPSED)
    }

    fn is_elapsed(&self, handshake: Handshake) -> bool {
        self.table.clock == HandshakeClock::Guess && handshake.secs < ELAPSED_BELOW_S
    }
}

fn is_another(known: u64, now: u64) -> bool {
    match (known & ELAPSED != 0, now & ELAPSED != 0) {
        (true, true) => {
            let jitter = u64::try_from(ELAPSED_JITTER.as_nanos()).unwrap_or(u64::MAX);
            now & !ELAPSED > (known & !ELAPSED).saturating_add(jitter)
        }
        _ => known != now,
    }
}

/// Silent since the last growth of rx; dead for certain when its key ran out.
fn timeout(live: &Live, now: Now) -> End {
    let key_ran_out = live.evidence.saturating_add(REJECT_AFTER).min(now.boot);
    End {
        reason: Reason::Timeout,
        confidence: Confidence::Inferred,
        earliest: stamp_of(live.rx_grew, now),
        at: stamp_of(live.rx_grew, now),
        latest: stamp_of(key_ran_out.max(live.rx_grew), now),
    }
}

fn session_of(live: &Live, reading: &PeerReading, now: Now) -> Session {
    Session {
        key: session_key(reading.public_key, live.incarnation),
        identity: Identity::PeerKey(reading.public_key),
        started: stamp_of(live.started, now),
        last_seen: stamp_of(live.evidence.max(live.rx_grew), now),
        endpoint: reading.endpoint,
        virtual_ips: reading.allowed_ips.as_slice().into(),
        rx: reading.rx,
        tx: reading.tx,
        rx_at_start: live.at_start.rx,
        tx_at_start: live.at_start.tx,
    }
}

fn traffic_of(reading: &PeerReading) -> Traffic {
    Traffic {
        rx: reading.rx,
        tx: reading.tx,
    }
}

fn session_key(public_key: [u8; 32], incarnation: u32) -> SessionKey {
    SessionKey::WireGuard {
        public_key,
        incarnation,
    }
}

fn hash_of(allowed_ips: &[Net]) -> u64 {
    let mut hasher = DefaultHasher::new();
    allowed_ips.hash(&mut hasher);
    hasher.finish()
}
