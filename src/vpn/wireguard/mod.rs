//! WireGuard: kernel interfaces over netlink, userspace daemons over their sockets.
//!
//! Owns the list of interfaces and what each is known to hold from poll to poll. Reading order:
//! [`peers`] (what is a session), [`uapi`] and [`netlink`] (what the answers mean), [`interface`]
//! (one of them from poll to poll), [`orders`] (how a session is ended); the rest is thin. A poll
//! takes [`POLL_BUDGET`] and one answer at most; whatever an interface answers, the others are
//! read, and no private or preshared key leaves the buffer that is wiped. On a host as the package
//! leaves it that buffer is in another process ([`reader_process`]).

mod discover;
mod error;
mod interface;
mod kernel;
pub mod netlink;
mod nl_socket;
mod orders;
pub mod peers;
pub mod reader_process;
mod reading;
mod roster;
#[cfg(test)]
mod tests;
pub mod uapi;
mod uapi_socket;
mod values;

use std::{collections::BTreeMap, convert::Infallible, mem, path::PathBuf, time::Duration};

use nix::errno::Errno;

pub use error::ReadError;
pub use reading::{DeviceReading, Dump, Handshake, MAX_ALLOWED_IPS, MAX_PEERS, PeerReading};

use self::{
    discover::{Found, MAX_INTERFACES},
    interface::{Interface, log_failure, log_recovery, report, unavailable},
    kernel::Kernel,
    netlink::Link,
};
use super::{Backend, Closed, Line, Report, health::Health};
use crate::{
    core::{
        Now,
        sessions::{BackendId, BackendKind, Obs},
    },
    host::clock,
};

/// Longest wait for one answer: wireguard-go takes 0.4 s for the 65,536 peers it can have.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// After this much of a poll no further interface is asked before the next one.
pub const POLL_BUDGET: Duration = Duration::from_secs(4);

/// The kernel sends dumps in datagrams of at most 32 KiB if the buffer allows, and the reader
/// process passes each on in a packet.
const BUFFER_BYTES: usize = reader_process::wire::MAX_PACKET;

/// What the log calls all of them together.
const LIST: &str = "list of WireGuard interfaces";

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directory of the daemons' sockets, normally `/var/run/wireguard`.
    pub socket_dir: PathBuf,
    /// Whether to read kernel interfaces.
    pub kernel: bool,
    /// The socket of the reader process ([`reader_process`]), which is asked instead of the kernel
    /// while it exists. None: the kernel is asked, which wants CAP_NET_ADMIN.
    pub reader: Option<PathBuf>,
    /// Time between two looks.
    pub poll: Duration,
}

/// All WireGuard interfaces of this host.
pub struct WireGuard {
    settings: Settings,
    interfaces: BTreeMap<String, Interface>,
    /// Instances with connections of a former process, until the first full list of interfaces.
    expected: Vec<String>,
    discovery: [Health<ReadError>; 2],
    /// The interface at which the last poll ran out of time.
    resume: Option<String>,
    buffer: Box<[u8]>,
}

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

    /// The interfaces that exist, and what there is to say of others: that they have vanished if
    /// the list is sure to miss none, else that nothing is known of them.
    fn discover(&mut self, now: Now) -> (Vec<Found>, Vec<Report>) {
        let sockets = discover::sockets(&self.settings.socket_dir);
        let mut all = Vec::new();
        let sockets = sockets.map(|mut found| all.append(&mut found));
        let kernel = self.links(&mut all);
        let [of_kernel, of_sockets] = &mut self.discovery;
        let sure = note(&kernel, of_kernel, now) & note(&sockets, of_sockets, now);
        // Kernel interfaces come first, so that a stale socket cannot hide one.
        let mut found = discover::kernel(kernel.as_deref().unwrap_or_default());
        found.append(&mut all);
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|b, a| a.name == b.name);
        found.truncate(MAX_INTERFACES);
        let others = match &kernel {
            _ if sure => self.vanished(&found, now),
            Err(error) => self.unlisted(error, &found, now),
            Ok(_) => Vec::new(),
        };
        (found, others)
    }

    /// The kernel's list, which also tells of each userspace interface whether it is down.
    fn links(&mut self, sockets: &mut [Found]) -> Result<Vec<Link>, ReadError> {
        let all = self.settings.kernel;
        if !all && sockets.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = sockets.iter().map(|found| found.name.as_str()).collect();
        let kernel = Kernel::by(self.settings.reader.as_deref());
        match kernel.links(all, &names, ANSWER_LIMIT, &mut self.buffer) {
            Ok(links) => {
                discover::mark_down(sockets, &links);
                Ok(links)
            }
            Err(error) if all => Err(error),
            // Each daemon says by itself whether it can be read.
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Nobody could say which kernel interfaces there are: none is known to be gone.
    fn unlisted(&mut self, why: &ReadError, found: &[Found], now: Now) -> Vec<Report> {
        let known = self.interfaces.iter_mut();
        let mut reports: Vec<Report> = known
            .filter(|(name, interface)| interface.is_kernels() && !names(found, name))
            .map(|(name, interface)| interface.unlisted(name, why, now))
            .collect();
        for name in &self.expected {
            if !self.interfaces.contains_key(name) && !names(found, name) {
                reports.push(report(name, vec![unavailable(why, now)]));
            }
        }
        reports
    }

    /// What has vanished since the last poll, or since a former process of the agent.
    fn vanished(&mut self, found: &[Found], now: Now) -> Vec<Report> {
        let exists = |name: &String| names(found, name);
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
                reports.push(report(&name, vec![Obs::nobody(0, now)]));
            }
        }
        reports
    }
}

impl Backend for WireGuard {
    fn run(mut self: Box<Self>, line: Line) {
        let Err(Closed) = self.watch(&line); // the agent is stopping
    }
}

impl WireGuard {
    fn watch(&mut self, line: &Line) -> Result<Infallible, Closed> {
        let mut look_at = Duration::ZERO;
        loop {
            let now = clock::now();
            if now.boot >= look_at {
                look_at = now.boot.saturating_add(self.settings.poll);
                line.tell(self.poll(now))?;
            }
            let pause = look_at.saturating_sub(clock::now().boot);
            if let Some(order) = line.wait(&[], pause)? {
                self.obey(order, line)?;
            }
        }
    }

    /// Asks all interfaces once. Blocks for [`POLL_BUDGET`] and one [`ANSWER_LIMIT`] at most, and longer
    /// only for a reader process that has yet to start.
    pub fn poll(&mut self, now: Now) -> Vec<Report> {
        let (mut found, mut reports) = self.discover(now);
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
            if !interface.is_paused(now) {
                let kernel = Kernel::by(self.settings.reader.as_deref());
                reports.push(interface.poll(&found, kernel, now, &mut self.buffer));
            }
        }
        reports
    }
}

/// Whether a part of the list could be read; says in the log when that changes.
fn note<T>(part: &Result<T, ReadError>, health: &mut Health<ReadError>, now: Now) -> bool {
    match part {
        Ok(_) => {
            if health.recovered() {
                log_recovery(LIST);
            }
        }
        Err(error) => {
            if health.failed(error, now).is_news {
                log_failure(LIST, error);
            }
        }
    }
    part.is_ok()
}

fn names(found: &[Found], name: &str) -> bool {
    found.iter().any(|found| found.name == name)
}
