//! strongSwan: IKE SAs through charon's VICI socket.
//!
//! Owns the two connections to charon and what is known of its SAs while it is away. Reading order:
//! [`sa`] (what is a session, and why one ended), [`table`] (events and lists together),
//! [`conversation`] (who asks what when), [`message`] and [`packet`] (the format); the rest is thin.
//! Whatever charon sends or does not send, memory and waits are bounded.

mod ask;
pub mod conversation;
mod entry;
mod error;
mod fault;
mod handover;
pub mod limits;
pub mod message;
pub mod packet;
pub mod sa;
pub mod table;
#[cfg(test)]
mod tests;

use std::{
    fs, io, mem,
    path::{Path, PathBuf},
    time::Duration,
};

pub use fault::Fault;

use self::{
    conversation::{Answer, Conversation, Side},
    error::LinkError,
    table::Table,
};
use super::{
    Address, Backend, BackendDetails, Backoff, Line, Order, Report, Stream, epoch, health::Health,
};
use crate::core::journal;
use crate::{
    core::{
        Now,
        sessions::{BackendId, BackendKind, Obs, SessionKey},
    },
    host::clock,
};

/// The name of the one instance: a host has one charon.
const INSTANCE: &str = "charon";

/// Where IKE begins (RFC 7296 §2); behind NAT it goes on at 4500. VICI does not tell another one.
const IKE_PORT: u16 = 500;

/// Time between two looks for a charon that does not run: how late its first clients are seen.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Read at once; a list of all SAs is a stream of packets of about a kilobyte.
const READ_BYTES: usize = 64 << 10;

/// Reads of one socket before the other one and orders have their turn.
const READS_AT_ONCE: usize = 8;

/// Where charon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its VICI socket, normally `/var/run/charon.vici`.
    pub vici: PathBuf,
    /// Whether it must be there.
    pub expected: bool,
}

/// The reader of charon.
pub struct StrongSwan {
    settings: Settings,
    link: Option<Link>,
    /// What is known of the charon of this epoch, while there is no link.
    table: Table,
    epoch: Option<u64>,
    /// When the last link broke: if charon is gone, then since then.
    broke_at: Option<Now>,
    /// Whether a former process left connections.
    left: bool,
    health: Health<LinkError>,
    backoff: Backoff,
    look_at: Duration,
    buffer: Box<[u8]>,
}

/// Both connections.
struct Link {
    events: Stream,
    commands: Stream,
    talk: Conversation,
}

impl StrongSwan {
    /// Nothing is read before it runs. `expected` are the backends of connections that a former
    /// process left ([`crate::core::sessions::Reducer::unconfirmed_backends`]).
    #[must_use]
    pub fn new(settings: Settings, expected: impl IntoIterator<Item = BackendId>) -> Self {
        let left = expected.into_iter().any(|id| id == backend_id());
        Self {
            settings,
            link: None,
            table: Table::default(),
            epoch: None,
            broke_at: None,
            left,
            health: Health::default(),
            backoff: Backoff::default(),
            look_at: Duration::ZERO,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }

    /// Connects when it is time to, reads what is there, and does what is due. Never blocks.
    fn turn(&mut self, now: Now, seen: &mut Report, answers: &mut Vec<Answer>) {
        if self.link.is_none() && self.look_at.max(self.backoff.at()) <= now.boot {
            match self.connect(now, &mut seen.obs) {
                Ok(link) => self.link = Some(link),
                Err(error) => self.failed(error, now, &mut seen.obs),
            }
        }
        let Some(link) = &mut self.link else {
            return;
        };
        let turned = link.turn(now, &mut self.buffer, &mut seen.obs);
        answers.extend(link.talk.take_answers());
        if let Some(version) = link.talk.take_version() {
            seen.details = Some(BackendDetails {
                version: Some(version),
                port: Some(IKE_PORT),
                ..BackendDetails::default()
            });
        }
        if let Err(error) = turned {
            self.broken(error, now, seen, answers);
        } else if link.talk.has_listed() {
            self.backoff.worked();
            if self.health.recovered() {
                tracing::info!(
                    message_id = %journal::BACKEND_UP,
                    "strongSwan is read again"
                );
            }
        }
    }

    fn connect(&mut self, now: Now, obs: &mut Vec<Obs>) -> Result<Link, LinkError> {
        let path = &self.settings.vici;
        let address = Address::Unix(path.clone());
        let epoch = epoch_of(path)?;
        let events = Stream::connect(&address).map_err(LinkError::from_connect)?;
        let commands = Stream::connect(&address).map_err(LinkError::from_connect)?;
        if epoch_of(path)? != epoch {
            return Err(LinkError::Restarting);
        }
        if self.epoch.replace(epoch) != Some(epoch) {
            self.gone(now, obs);
        }
        self.broke_at = None;
        self.left = false;
        let talk = Conversation::new(epoch, mem::take(&mut self.table), now);
        Ok(Link {
            events,
            commands,
            talk,
        })
    }

    /// The link is over. Whether charon is too, the next attempt tells.
    fn broken(&mut self, error: LinkError, now: Now, seen: &mut Report, answers: &mut Vec<Answer>) {
        let Some(link) = self.link.take() else {
            return;
        };
        let worked = link.talk.has_listed();
        let (table, undone) = link.talk.into_table(&mut seen.obs);
        self.table = table;
        answers.extend(undone);
        self.broke_at = Some(now);
        if worked && matches!(error, LinkError::Closed(_)) {
            // Normally charon stops, and the next attempt says so. If not, it says what is wrong.
            tracing::debug!(%error, "the connection to charon ended");
            self.backoff.failed(now.boot);
        } else {
            self.failed(error, now, &mut seen.obs);
        }
    }

    /// There is no link, because of `error`.
    fn failed(&mut self, error: LinkError, now: Now, obs: &mut Vec<Obs>) {
        if error.is_absence() {
            self.look_at = now.boot + LOOK_EVERY;
            let was_here = self.epoch.take();
            self.gone(now, obs);
            if was_here.is_some() || mem::take(&mut self.left) {
                obs.push(Obs::nobody(was_here.unwrap_or_default(), now));
            } else if !self.settings.expected && !self.health.fails() {
                return; // This host has no strongSwan.
            }
        } else {
            self.backoff.failed(now.boot);
        }
        let socket = &self.settings.vici;
        let failure = self.health.failed(&error, now);
        if failure.is_news {
            if error.is_absence() {
                tracing::info!(
                    message_id = %journal::BACKEND_GONE,
                    ?socket, reason = %error, "strongSwan is not running"
                );
            } else {
                tracing::error!(
                    message_id = %journal::BACKEND_UNREADABLE,
                    ?socket, %error, "cannot read strongSwan"
                );
            }
        }
        obs.push(Obs::Unavailable {
            error: error.sentence(socket),
            since: failure.since,
        });
    }

    /// The charon whose SAs are in the table is gone.
    fn gone(&mut self, now: Now, obs: &mut Vec<Obs>) {
        let since = self.broke_at.take().unwrap_or(now);
        self.table.daemon_gone(since, obs);
    }

    fn order(&mut self, order: &Order, now: Now) -> Option<Answer> {
        let SessionKey::Ike { unique_id } = order.key else {
            return Some((order.id, Err("charon has no such sessions".to_owned())));
        };
        let Some(link) = &mut self.link else {
            return Some((order.id, Err("charon cannot be reached".to_owned())));
        };
        link.talk.order(order.id, unique_id, now);
        None
    }

    fn deadline(&self) -> Duration {
        match &self.link {
            Some(link) => link.talk.deadline(),
            None => self.look_at.max(self.backoff.at()),
        }
    }
}

impl Backend for StrongSwan {
    fn run(mut self: Box<Self>, line: Line) {
        loop {
            let mut seen = Report {
                backend: backend_id(),
                obs: Vec::new(),
                details: None,
            };
            let mut answers = Vec::new();
            self.turn(clock::now(), &mut seen, &mut answers);
            let told = if seen.obs.is_empty() && seen.details.is_none() {
                Ok(())
            } else {
                line.tell(vec![seen])
            };
            let pause = self.deadline().saturating_sub(clock::now().boot);
            let mut interests = Vec::new();
            if let Some(link) = &self.link {
                interests = vec![link.events.interest(), link.commands.interest()];
            }
            let ordered = told
                .and_then(|()| {
                    let mut answers = answers.into_iter();
                    answers.try_for_each(|(order, result)| line.answer(order, result))
                })
                .and_then(|()| line.wait(&interests, pause));
            drop(interests);
            let answered = match ordered {
                Ok(Some(order)) => match self.order(&order, clock::now()) {
                    Some((order, result)) => line.answer(order, result),
                    None => Ok(()),
                },
                Ok(None) => Ok(()),
                Err(closed) => Err(closed),
            };
            if answered.is_err() {
                return;
            }
        }
    }
}

impl Link {
    fn turn(&mut self, now: Now, buffer: &mut [u8], obs: &mut Vec<Obs>) -> Result<(), LinkError> {
        for side in [Side::Events, Side::Commands] {
            let stream = match side {
                Side::Events => &mut self.events,
                Side::Commands => &mut self.commands,
            };
            stream.send(&self.talk.take_output(side))?;
            for _ in 0..READS_AT_ONCE {
                let Some(read) = stream.read(buffer)? else {
                    break;
                };
                self.talk.received(side, &buffer[..read], now, obs)?;
            }
        }
        self.talk.tick(now, obs)?;
        self.events.send(&self.talk.take_output(Side::Events))?;
        self.commands.send(&self.talk.take_output(Side::Commands))?;
        Ok(())
    }
}

/// Which charon this is.
fn epoch_of(vici: &Path) -> Result<u64, LinkError> {
    let metadata = fs::metadata(vici).map_err(LinkError::from_connect)?;
    Ok(epoch::of_socket(&metadata))
}

fn backend_id() -> BackendId {
    BackendId {
        kind: BackendKind::StrongSwan,
        instance: INSTANCE.to_owned(),
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Closed(error)
    }
}
