//! OpenVPN: its management interface, and its status file where that is not at hand.
//!
//! Owns the list of servers on this host. Reading order: [`status`] (who is listed), [`log`] (why
//! somebody went), [`sessions`] (both together), [`conversation`] (what is asked and answered),
//! [`server`] (epochs and orders); these are pure. The rest is thin. The agent stays passive: it
//! never authenticates clients, and leaves an interface that wants that from it.

mod client;
mod config;
mod conversation;
mod discover;
mod fault;
mod file;
mod instance;
mod lines;
mod log;
mod protocol;
mod server;
mod sessions;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use fault::Fault;

use self::discover::discover;
use self::instance::{Instance, Turn};
use super::{Address, Backend, Closed, Line, Order, Report};
use crate::core::Now;
use crate::core::journal;
use crate::core::sessions::{BackendId, BackendKind, Obs};
use crate::host::clock;

/// How often the folders with configurations are looked at again.
const DISCOVER_EVERY: Duration = Duration::from_secs(30);

/// What is read from a socket at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The management interfaces; `None`: those of the configurations that are found.
    pub management: Option<Vec<Address>>,
    /// The file with their password.
    pub password_file: Option<PathBuf>,
    /// The status files; `None`: those of the configurations that are found.
    pub status_files: Option<Vec<PathBuf>>,
    /// Where servers are configured on this host.
    pub places: Places,
}

/// The folders of Debian's and Fedora's units for OpenVPN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Configurations of `openvpn-server@.service`.
    pub server_configs: PathBuf,
    /// Configurations of `openvpn@.service`.
    pub configs: PathBuf,
    /// Status files of `openvpn-server@.service`.
    pub server_status: PathBuf,
    /// Status files of `openvpn@.service`.
    pub status: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            server_configs: PathBuf::from("/etc/openvpn/server"),
            configs: PathBuf::from("/etc/openvpn"),
            server_status: PathBuf::from("/run/openvpn-server"),
            status: PathBuf::from("/run/openvpn"),
        }
    }
}

/// All OpenVPN servers of this host.
pub struct OpenVpn {
    settings: Settings,
    instances: BTreeMap<String, Instance>,
    /// Epochs of connections of a former process, until their servers are found.
    expected: BTreeMap<String, u64>,
    discover_at: Duration,
    unreadable: Option<PathBuf>,
    buffer: Box<[u8]>,
}

/// What all servers brought.
#[derive(Default)]
struct Round {
    reports: Vec<Report>,
    answers: Vec<server::Answer>,
}

impl OpenVpn {
    /// Nothing is read before the thread runs. `expected` names the servers of connections that a
    /// former process left, with the epochs in which these were known.
    #[must_use]
    pub fn new(settings: Settings, expected: impl IntoIterator<Item = (BackendId, u64)>) -> Self {
        let expected = expected
            .into_iter()
            .filter(|(id, _)| id.kind == BackendKind::OpenVpn)
            .map(|(id, epoch)| (id.instance, epoch));
        Self {
            settings,
            instances: BTreeMap::new(),
            expected: expected.collect(),
            discover_at: Duration::ZERO,
            unreadable: None,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        }
    }

    /// Gives every server its turn.
    fn turn(&mut self, now: Now) -> Round {
        let mut round = Round::default();
        if now.boot >= self.discover_at {
            self.discover_at = now.boot.saturating_add(DISCOVER_EVERY);
            self.discover(now, &mut round);
        }
        for (name, instance) in &mut self.instances {
            // A fresh reading for each: the one before may have taken its time.
            let turn = instance.turn(clock::now(), &mut self.buffer);
            round.add(name, turn);
        }
        round
    }

    fn discover(&mut self, now: Now, round: &mut Round) {
        let discovery = discover(&self.settings);
        let sure = discovery.unreadable.is_none();
        self.say_unreadable(discovery.unreadable);
        let mut before = std::mem::take(&mut self.instances);
        for found in discovery.servers {
            let name = found.name.clone();
            let instance = match before.remove(&name) {
                Some(mut instance) => {
                    instance.is_now(found);
                    instance
                }
                None => {
                    tracing::debug!(instance = name, "OpenVPN server found");
                    let epoch = self.expected.remove(&name);
                    Instance::new(found, self.settings.password_file.clone(), epoch)
                }
            };
            self.instances.insert(name, instance);
        }
        for (name, instance) in before {
            // A server goes on when its configuration is removed under it.
            if instance.works() || !sure {
                self.instances.insert(name, instance);
            } else {
                round.add(&name, instance.give_up(now));
            }
        }
        if sure {
            for (name, epoch) in std::mem::take(&mut self.expected) {
                round.add(
                    &name,
                    Turn {
                        obs: vec![Obs::nobody(epoch, now)],
                        ..Turn::default()
                    },
                );
            }
        }
    }

    /// Said once for each file.
    fn say_unreadable(&mut self, unreadable: Option<(PathBuf, std::io::Error)>) {
        let path = unreadable.as_ref().map(|(path, _)| path.clone());
        if let Some((path, error)) = &unreadable
            && self.unreadable.as_ref() != Some(path)
        {
            tracing::warn!(
                message_id = %journal::BACKEND_PARTIAL,
                ?path,
                %error,
                "cannot look for OpenVPN servers here; let the user vpn-node read it, or name \
                 the servers in [openvpn] management"
            );
        }
        self.unreadable = path;
    }

    /// When the next turn is due, whatever happens.
    fn deadline(&self) -> Duration {
        let instances = self.instances.values().filter_map(Instance::deadline);
        instances.fold(self.discover_at, Duration::min)
    }

    /// Hands an order on, or refuses it.
    fn order(&mut self, order: Order, now: Now) -> Result<(), String> {
        let instance = self.instances.get_mut(&order.backend.instance);
        let instance = instance.ok_or("this OpenVPN server is not read any more")?;
        match instance.order(order.id, order.key, now) {
            true => Ok(()),
            false => Err("too many sessions of this server are being ended already".to_owned()),
        }
    }
}

impl Backend for OpenVpn {
    fn run(mut self: Box<Self>, line: Line) {
        while self.step(&line).is_ok() {}
    }
}

impl OpenVpn {
    /// One turn, and the wait for the next.
    fn step(&mut self, line: &Line) -> Result<(), Closed> {
        let Round { reports, answers } = self.turn(clock::now());
        line.tell(reports)?;
        for (order, result) in answers {
            line.answer(order, result)?;
        }
        let interests: Vec<_> = self
            .instances
            .values()
            .filter_map(Instance::interest)
            .collect();
        let pause = self.deadline().saturating_sub(clock::now().boot);
        if let Some(order) = line.wait(&interests, pause)? {
            let id = order.id;
            if let Err(why) = self.order(order, clock::now()) {
                line.answer(id, Err(why))?;
            }
        }
        Ok(())
    }
}

impl Round {
    fn add(&mut self, name: &str, turn: Turn) {
        self.answers.extend(turn.answers);
        if turn.obs.is_empty() && turn.details.is_none() {
            return;
        }
        self.reports.push(Report {
            backend: BackendId {
                kind: BackendKind::OpenVpn,
                instance: name.to_owned(),
            },
            obs: turn.obs,
            details: turn.details,
        });
    }
}
