//! Places for connections: how many there are, and who may hold how many.
//!
//! Whoever has not yet signed anything as a host of the fleet is a newcomer. Newcomers have a
//! short time, few places for each source, and half of all places together. A host that has
//! proven itself keeps its connection, up to a few for each host. So strangers who open
//! connections and say nothing, or never read their answers, do not shut the fleet out.

use std::collections::HashMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Connections at once: every host keeps up to two, and each takes about 30 KB here.
const MAX_CONNECTIONS: usize = 20_000;
/// File descriptors for everything else: database, log, signals.
const OTHER_FILES: u64 = 64;
/// Newcomers of one source at once. A host is one for as long as a handshake and its first
/// request take, so many hosts behind one address fit.
const PER_SOURCE: usize = 256;
/// Connections of one host at once: two, and those whose end has not been noticed yet.
const PER_HOST: usize = 8;
/// How long a newcomer may stay: handshake, and the largest body at 20 kB/s.
const NEWCOMER_TIME: Duration = Duration::from_secs(60);
/// How long a newcomer may stay who reads a release: 30 MB at 33 kB/s. Whoever is slower goes on with
/// the rest on another connection.
const READER_TIME: Duration = Duration::from_secs(15 * 60);
/// Readers of one source at once; further ones have a newcomer's time.
const READERS_PER_SOURCE: usize = 32;
/// All readers together have this part of the places.
const READERS_PART: usize = 8;
/// Newcomers turned away are told of once in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    newcomers: usize,
    by_source: HashMap<String, usize>,
    readers: HashMap<String, usize>,
    hosts: usize,
    by_host: HashMap<String, usize>,
    turned_away: u64,
    warned: Option<Instant>,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    places: Arc<Places>,
    holder: Mutex<Holder>,
    /// Its source, if it has the longer time of whoever reads a release.
    reads: OnceLock<String>,
}

#[derive(Clone, Debug)]
enum Holder {
    Newcomer(String),
    Host(String),
}

impl Places {
    /// As many as there are file descriptors for.
    pub(crate) fn new() -> Arc<Self> {
        let files = usize::try_from(raise_file_limit().saturating_sub(OTHER_FILES));
        let most = files.unwrap_or(usize::MAX).clamp(1, MAX_CONNECTIONS);
        if most < MAX_CONNECTIONS {
            tracing::info!(most, "the limit of open files bounds the connections");
        }
        Self::of(most)
    }

    fn of(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a newcomer, or none.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Seat> {
        let source = source_of(peer.to_canonical());
        let mut taken = self.lock();
        let of_source = taken.by_source.get(&source).copied().unwrap_or(0);
        let full = taken.newcomers + taken.hosts >= self.most
            || taken.newcomers >= self.most.div_ceil(2)
            || of_source >= PER_SOURCE;
        if full {
            taken.turn_away(peer);
            return None;
        }
        taken.newcomers += 1;
        *taken.by_source.entry(source.clone()).or_default() += 1;
        Some(Seat {
            places: Arc::clone(self),
            holder: Mutex::new(Holder::Newcomer(source)),
            reads: OnceLock::new(),
        })
    }
}

impl Taken {
    fn turn_away(&mut self, peer: IpAddr) {
        self.turned_away += 1;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            let count = std::mem::take(&mut self.turned_away);
            tracing::warn!(count, %peer, "connections were turned away: too many have proven nothing");
        }
    }

    fn stop_reading(&mut self, source: &str) {
        if let Some(count) = self.readers.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                self.readers.remove(source);
            }
        }
    }

    fn leave(&mut self, holder: &Holder) {
        let (all, each, key) = match holder {
            Holder::Newcomer(source) => (&mut self.newcomers, &mut self.by_source, source),
            Holder::Host(id) => (&mut self.hosts, &mut self.by_host, id),
        };
        *all -= 1;
        if let Some(count) = each.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                each.remove(key);
            }
        }
    }
}

impl Seat {
    fn holder(&self) -> MutexGuard<'_, Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The holder has signed something as this host. With too many connections it stays a
    /// newcomer, and this one ends soon.
    pub(crate) fn prove(&self, server_id: &str) {
        let mut holder = self.holder();
        if matches!(*holder, Holder::Host(_)) {
            return;
        }
        let mut taken = self.places.lock();
        let count = taken.by_host.entry(server_id.to_owned()).or_default();
        if *count >= PER_HOST {
            return;
        }
        *count += 1;
        taken.hosts += 1;
        taken.leave(&holder);
        *holder = Holder::Host(server_id.to_owned());
    }

    /// The holder has asked for a package: it gets the time for that, if there are not too many.
    pub(crate) fn read_release(&self) {
        let Holder::Newcomer(source) = self.holder().clone() else {
            return;
        };
        let mut taken = self.places.lock();
        let all: usize = taken.readers.values().sum();
        let of_source = taken.readers.get(&source).copied().unwrap_or(0);
        let free = of_source < READERS_PER_SOURCE && all < self.places.most / READERS_PART;
        if free && self.reads.set(source.clone()).is_ok() {
            taken.readers.insert(source, of_source + 1);
        }
    }

    /// How long it may stay without having proven anything.
    fn time(&self) -> Duration {
        match self.reads.get() {
            Some(_) => READER_TIME,
            None => NEWCOMER_TIME,
        }
    }

    /// Ends when the holder has had its time as a newcomer; never for a host.
    pub(crate) async fn overstayed(&self) {
        tokio::time::sleep(NEWCOMER_TIME).await;
        tokio::time::sleep(self.time().saturating_sub(NEWCOMER_TIME)).await;
        if matches!(*self.holder(), Holder::Host(_)) {
            pending::<()>().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let holder = self.holder().clone();
        let mut taken = self.places.lock();
        taken.leave(&holder);
        if let Some(source) = self.reads.get() {
            taken.stop_reading(source);
        }
    }
}

/// The part of an address that one party holds: an IPv4 address, or an IPv6 /64.
pub(crate) fn source_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// As many file descriptors as this process may give itself (setrlimit(2)); returns their number.
fn raise_file_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        },
        // The least that POSIX systems give.
        Err(_) => 1024,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn one_source_takes_its_share_and_others_still_come() {
        let places = Places::of(MAX_CONNECTIONS);
        let crowd: Vec<Seat> = (0..PER_SOURCE).filter_map(|_| places.take(ip(1))).collect();
        assert_eq!(crowd.len(), PER_SOURCE);
        assert!(places.take(ip(1)).is_none());
        assert!(places.take(ip(2)).is_some());
        drop(crowd);
        assert!(places.take(ip(1)).is_some());
        assert!(places.lock().by_source.is_empty());
    }

    #[test]
    fn newcomers_of_many_sources_leave_half_of_the_places_to_hosts() {
        let places = Places::of(10);
        let mut hosts = vec![];
        for n in 0..5 {
            let seat = places.take(ip(n)).unwrap();
            seat.prove(&n.to_string());
            hosts.push(seat);
        }
        let crowd: Vec<Seat> = (0..20).filter_map(|n| places.take(ip(n))).collect();
        assert_eq!(crowd.len(), 5);
        drop(crowd);
        let crowd: Vec<Seat> = (0..20).filter_map(|n| places.take(ip(n))).collect();
        hosts.truncate(1);
        assert_eq!(crowd.len(), 5);
        assert!(places.take(ip(99)).is_none());
    }

    #[test]
    fn a_proven_host_frees_its_place_as_a_newcomer_but_not_without_end() {
        let places = Places::of(MAX_CONNECTIONS);
        let mut seats = vec![];
        for _ in 0..PER_HOST + 3 {
            let seat = places.take(ip(1)).unwrap();
            seat.prove("a");
            seat.prove("a");
            seats.push(seat);
        }
        let count = || {
            let taken = places.lock();
            (taken.hosts, taken.newcomers)
        };
        assert_eq!(count(), (PER_HOST, 3));
        drop(seats);
        let taken = places.lock();
        assert_eq!((taken.hosts, taken.newcomers), (0, 0));
        assert!(taken.by_host.is_empty() && taken.by_source.is_empty());
    }

    #[test]
    fn whoever_reads_a_release_has_longer_but_not_many_of_one_source() {
        let places = Places::of(MAX_CONNECTIONS);
        let mut crowd = vec![];
        for _ in 0..=READERS_PER_SOURCE {
            let seat = places.take(ip(1)).unwrap();
            seat.read_release();
            seat.read_release();
            crowd.push(seat);
        }
        assert_eq!(crowd[0].time(), READER_TIME);
        assert_eq!(crowd[READERS_PER_SOURCE].time(), NEWCOMER_TIME);
        let other = places.take(ip(2)).unwrap();
        assert_eq!(other.time(), NEWCOMER_TIME);
        other.read_release();
        assert_eq!(other.time(), READER_TIME);
        drop((crowd, other));
        assert!(places.lock().readers.is_empty());
    }

    #[test]
    fn a_whole_ipv6_network_is_one_source() {
        let of = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }
}
