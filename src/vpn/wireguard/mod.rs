//! WireGuard: kernel interfaces over netlink, userspace daemons over their sockets.
//!
//! Owns the list of interfaces and what each is known to hold from poll to poll. Reading order:
//! [`peers`] (what is a session), [`uapi`] and [`netlink`] (what the answers mean); the rest is
//! thin. A poll takes [`POLL_BUDGET`] and one answer at most; whatever an interface answers, the
//! others are read, and no private or preshared key leaves the buffer that is wiped.

mod discover;
mod error;
pub mod netlink;
mod nl_socket;
pub mod peers;
mod reading;
mod roster;
#[cfg(test)]
mod tests;
pub mod uapi;
mod uapi_socket;
mod values;

use std::{
    collections::BTreeMap,
    mem::{self, Discriminant},
    path::PathBuf,
    time::Duration,
};

use nix::errno::Errno;

pub use error::ReadError;
pub use reading::{Handshake, MAX_ALLOWED_IPS, MAX_PEERS, PeerReading};

use self::{
    discover::{Found, MAX_INTERFACES, Source},
    nl_socket::Dump,
    peers::{HandshakeClock, PeerTable},
};
use super::{Backend, Line, Report};
use crate::{
    core::{
        Now,
        sessions::{BackendId, BackendKind, Obs, Stamp},
    },
    host::clock,
};

/// Longest wait for one answer: wireguard-go takes 0.4 s for the 65,536 peers it can have.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// After this much of a poll no further interface is asked before the next one.
pub const POLL_BUDGET: Duration = Duration::from_secs(4);

/// An interface that let a whole [`ANSWER_LIMIT`] pass is left alone for so long.
const STALLED_PAUSE: Duration = Duration::from_secs(30);

/// The kernel sends dumps in datagrams of at most 32 KiB if the buffer allows.
const BUFFER_BYTES: usize = 64 << 10;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the daemons' sockets, normally `/var/run/wireguard`.
    pub socket_dir: PathBuf,
    /// Whether to read kernel interfaces.
    pub kernel: bool,
    /// Time between two looks.
    pub poll: Duration,
}

/// All WireGuard interfaces of this host.
pub struct WireGuard {
    settings: Settings,
    interfaces: BTreeMap<String, Interface>,
    /// Instances with connections of a former process, until the first full list of interfaces.
    expected: Vec<String>,
    discovery: [Health; 2],
    /// The interface at which the last poll ran out of time.
    resume: Option<String>,
    buffer: Box<[u8]>,
}

struct Interface {
    epoch: Option<u64>,
    table: PeerTable,
    health: Health,
    retry_at: Duration,
}

/// Remembers a failure, so that it is logged when it begins and when it ends.
#[derive(Default)]
struct Health(Option<(Discriminant<ReadError>, Stamp)>);

impl WireGuard {
    /// Nothing is read before the first poll. `expected` names the instances of connections
    /// that a former process left ([`crate::core::sessions::Reducer::unconfirmed_backends`]): if
    /// such an interface does not exist any more, the reducer is told that nobody is there.
    #[must_use]
    pub fn new(settings: Settings, expected: impl IntoIterator<Item = BackendId>) -> Self {
        let mut expected: Vec<String> = expected
            .into_iter()
            .filter(|id| id.kind == BackendKind::WireGuard)
            .map(|id| id.instance)
            .collect();
        expected.dedup();
        Self {
            settings,
            interfaces: BTreeMap::new(),
            expected,
            discovery: Default::default(),
            resume: None,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        }
    }

    /// The interfaces that exist, and whether the list is sure to miss none.
    fn discover(&mut self, now: Now) -> (Vec<Found>, bool) {
        let Settings {
            socket_dir, kernel, ..
        } = &self.settings;
        let kernel = if *kernel {
            discover::kernel(ANSWER_LIMIT, &mut self.buffer)
        } else {
            Ok(Vec::new())
        };
        let sockets = discover::sockets(socket_dir, ANSWER_LIMIT, &mut self.buffer);
        let mut all = Vec::new();
        let mut sure = true;
        for (part, health) in [kernel, sockets].into_iter().zip(&mut self.discovery) {
            match part {
                Ok(found) => {
                    health.recovered("list of WireGuard interfaces");
                    all.extend(found);
                }
                Err(error) => {
                    sure = false;
                    health.failed("list of WireGuard interfaces", &error, now);
                }
            }
        }
        // Kernel interfaces come first, so that a stale socket cannot hide one.
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup_by(|b, a| a.name == b.name);
        all.truncate(MAX_INTERFACES);
        (all, sure)
    }

    /// What has vanished since the last poll, or since a former process of the agent.
    fn vanished(&mut self, found: &[Found], now: Now) -> Vec<Report> {
        let exists = |name: &String| found.iter().any(|found| found.name == *name);
        let mut reports = Vec::new();
        for (name, mut interface) in mem::take(&mut self.interfaces) {
            if exists(&name) {
                self.interfaces.insert(name, interface);
                continue;
            }
            let obs = interface.failed(&name, ReadError::Gone(Errno::ENODEV), now);
            reports.push(report(&name, obs));
        }
        for name in mem::take(&mut self.expected) {
            if !exists(&name) {
                reports.push(report(&name, vec![nobody(0, now)]));
            }
        }
        reports
    }
}

impl Backend for WireGuard {
    fn run(mut self: Box<Self>, line: Line) {
        let every = self.settings.poll;
        let mut look_at = Duration::ZERO;
        loop {
            let now = clock::now();
            if now.boot >= look_at {
                look_at = now.boot + every;
                let seen = self.poll(now);
                if line.tell(seen).is_err() {
                    return;
                }
            }
            let pause = look_at.saturating_sub(clock::now().boot);
            let told = match line.wait(&[], pause) {
                Ok(None) => Ok(()),
                Ok(Some(order)) => {
                    let why = "this version cannot remove WireGuard peers".to_owned();
                    line.answer(order.id, Err(why))
                }
                Err(closed) => Err(closed),
            };
            if told.is_err() {
                return;
            }
        }
    }
}

impl WireGuard {
    /// Asks all interfaces once. Blocks for [`POLL_BUDGET`] and one [`ANSWER_LIMIT`] at most.
    pub fn poll(&mut self, now: Now) -> Vec<Report> {
        let (mut found, sure) = self.discover(now);
        let mut reports = if sure {
            self.vanished(&found, now)
        } else {
            Vec::new()
        };
        if let Some(resume) = self.resume.take() {
            let served = found.partition_point(|found| found.name < resume);
            found.rotate_left(served);
        }
        let until = now.boot.saturating_add(POLL_BUDGET);
        for found in found {
            let now = clock::now();
            if now.boot >= until {
                self.resume = Some(found.name);
                break;
            }
            let interface = self
                .interfaces
                .entry(found.name.clone())
                .or_insert_with(|| Interface::new(&found.source));
            if now.boot >= interface.retry_at {
                let obs = interface.poll(&found, now, &mut self.buffer);
                reports.push(report(&found.name, obs));
            }
        }
        reports
    }
}

impl Interface {
    fn new(source: &Source) -> Self {
        let clock = match source {
            Source::Kernel { .. } => HandshakeClock::Unix,
            Source::Socket { .. } => HandshakeClock::Guess,
        };
        Self {
            epoch: None,
            table: PeerTable::new(clock),
            health: Health::default(),
            retry_at: Duration::ZERO,
        }
    }

    fn poll(&mut self, found: &Found, now: Now, buffer: &mut [u8]) -> Vec<Obs> {
        let mut obs = Vec::new();
        if self.epoch != Some(found.epoch) {
            obs.extend(self.table.interface_down(now));
            obs.push(Obs::Reset { epoch: found.epoch });
            self.epoch = Some(found.epoch);
        }
        if !found.up {
            obs.extend(self.failed(&found.name, ReadError::Down, now));
            return obs;
        }
        let mut round = self.table.begin(now);
        let mut see = |peer: &PeerReading| round.see(peer);
        let read = match &found.source {
            Source::Socket { path } => {
                uapi_socket::read(path, ANSWER_LIMIT, buffer, &mut see).map(|()| Dump::Clean)
            }
            // Retried once; a second interruption leaves a dump without removals.
            Source::Kernel { ifindex } => {
                let first = nl_socket::read(*ifindex, ANSWER_LIMIT, buffer, &mut see);
                match first {
                    Ok(Dump::Interrupted) => {
                        nl_socket::read(*ifindex, ANSWER_LIMIT, buffer, &mut see)
                    }
                    first => first,
                }
            }
        };
        obs.extend(round.finish(found.epoch, matches!(read, Ok(Dump::Clean))));
        match read {
            Ok(_) => self.health.recovered(&found.name),
            Err(error) => obs.extend(self.failed(&found.name, error, now)),
        }
        obs
    }

    /// Only what is gone or down ends sessions; any other failure says nothing about them.
    fn failed(&mut self, name: &str, error: ReadError, now: Now) -> Vec<Obs> {
        let mut obs = Vec::new();
        if matches!(error, ReadError::Deadline(_)) {
            self.retry_at = now.boot.saturating_add(STALLED_PAUSE);
        }
        if error.ends_sessions() {
            obs.extend(self.table.interface_down(now));
            obs.push(nobody(self.epoch.unwrap_or_default(), now));
        }
        let since = self.health.failed(name, &error, now);
        obs.push(Obs::Unavailable {
            error: error.to_string(),
            since,
        });
        obs
    }
}

impl Health {
    /// Since when it fails; says so in the log when that began or became another failure.
    fn failed(&mut self, what: &str, error: &ReadError, now: Now) -> Stamp {
        let kind = mem::discriminant(error);
        let before = self.0;
        let since = before.map_or(now, |(_, since)| since);
        self.0 = Some((kind, since));
        if before.is_none_or(|(known, _)| known != kind) {
            if error.ends_sessions() {
                tracing::info!(interface = what, reason = %error, "WireGuard interface ended");
            } else {
                tracing::error!(interface = what, %error, "cannot read WireGuard");
            }
        }
        since
    }

    fn recovered(&mut self, what: &str) {
        if self.0.take().is_some() {
            tracing::info!(interface = what, "WireGuard is read again");
        }
    }
}

/// Nobody is connected: the interface does not exist or is down.
fn nobody(epoch: u64, at: Now) -> Obs {
    Obs::Snapshot {
        epoch,
        at,
        complete: true,
        sessions: Vec::new(),
    }
}

fn report(instance: &str, obs: Vec<Obs>) -> Report {
    let backend = BackendId {
        kind: BackendKind::WireGuard,
        instance: instance.to_owned(),
    };
    Report {
        backend,
        obs,
        details: None,
    }
}
