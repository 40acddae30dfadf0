//! ocserv: its users through occtl(8).
//!
//! Reading order: [`users`] and [`events`] (what occtl's words mean), [`known`] (looks and events
//! together), [`occtl`] (the child processes). A look is two short processes; one more listens to
//! the events, which make a look come at once. ocserv answers root alone.

pub mod events;
mod known;
mod occtl;
#[cfg(test)]
mod tests;
pub mod users;

use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::known::Known;
use self::occtl::{Events, Occtl};
use super::health::Health;
use super::{Address, Backend, BackendDetails, Backoff, Closed, Line, Order, Report, Stream};
use crate::core::Now;
use crate::core::journal;
use crate::core::sessions::{BackendId, BackendKind, Obs, Session, SessionKey};
use crate::host::clock;

/// The name of the one instance.
const INSTANCE: &str = "ocserv";

/// Time between two looks when nothing happens, and between two at a socket that is not there.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// An event and the list that it is in are so long apart.
const AFTER_EVENT: Duration = Duration::from_millis(50);

/// An ordered end is looked for so often, so long apart: [`AFTER_EVENT`] each.
const LOOKS_AFTER_ORDER: u32 = 40;

/// Where ocserv is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its control socket, normally `/var/run/occtl.socket`.
    pub socket: PathBuf,
    /// Whether it must be there.
    pub expected: bool,
}

/// Why ocserv cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OcservError {
    /// No socket, or nobody behind it.
    #[error("ocserv does not run")]
    Absent,
    /// The agent may not.
    #[error(
        "ocserv answers root alone, and the agent is not root \
         (see /usr/share/doc/vpn-node-agent/backends.md)"
    )]
    Forbidden,
    /// occtl cannot be run.
    #[error("cannot run occtl: {0}")]
    Run(io::Error),
    /// occtl ended with an error.
    #[error(
        "occtl failed: ocserv answers root alone, and nobody while it starts \
         (see /usr/share/doc/vpn-node-agent/backends.md)"
    )]
    Refused,
    /// occtl did not end.
    #[error("occtl did not answer in time, and was ended")]
    Silent,
    /// occtl says something else than expected.
    #[error("occtl printed what the agent does not understand")]
    Answer,
    /// More than can be.
    #[error("occtl tells of more than {} users", users::MAX_SESSIONS)]
    TooMany,
}

/// The reader of ocserv.
pub struct Ocserv {
    occtl: Occtl,
    expected: bool,
    /// Whether a former process left connections.
    left: bool,
    known: Known,
    events: Option<Events>,
    look_at: Duration,
    backoff: Backoff,
    health: Health<OcservError>,
}

impl Ocserv {
    /// Nothing is read before it runs. `expected` are the backends of connections that a former
    /// process left ([`crate::core::sessions::Reducer::unconfirmed_backends`]).
    #[must_use]
    pub fn new(settings: Settings, expected: impl IntoIterator<Item = BackendId>) -> Self {
        let occtl = Occtl {
            program: PathBuf::from("/usr/bin/occtl"),
            stdbuf: PathBuf::from("/usr/bin/stdbuf"),
            socket: settings.socket,
        };
        Self {
            occtl,
            expected: settings.expected,
            left: expected.into_iter().any(|id| id == backend_id()),
            known: Known::default(),
            events: None,
            look_at: Duration::ZERO,
            backoff: Backoff::default(),
            health: Health::default(),
        }
    }

    /// Reads events, and looks if it is time to. Blocks for three answers at most.
    fn turn(&mut self, now: Now) -> Option<Report> {
        if let Some(events) = &mut self.events {
            match events.read() {
                Some(hints) => {
                    if !hints.is_empty() {
                        self.look_at = self.look_at.min(now.boot + AFTER_EVENT);
                    }
                    let known = &mut self.known;
                    hints.into_iter().for_each(|hint| known.hint(hint, now));
                }
                None => {
                    // ocserv ended, most likely: the look says so.
                    self.events = None;
                    self.look_at = now.boot;
                }
            }
        }
        (self.look_at.max(self.backoff.at()) <= now.boot).then(|| self.look(now))
    }

    fn look(&mut self, now: Now) -> Report {
        self.look_at = now.boot + LOOK_EVERY;
        let mut report = Report {
            backend: backend_id(),
            obs: Vec::new(),
            details: None,
        };
        match self.ask(now) {
            Ok((epoch, sessions)) => {
                if self.known.epoch() != Some(epoch) {
                    report.details = Some(BackendDetails {
                        version: self.occtl.version(),
                        ..BackendDetails::default()
                    });
                }
                report.obs = self.known.looked(epoch, sessions, now);
                self.left = false;
                self.backoff.worked();
                if self.health.recovered() {
                    tracing::info!(
                        message_id = %journal::BACKEND_UP,
                        "ocserv is read again"
                    );
                }
            }
            Err(error) => self.failed(&error, now, &mut report.obs),
        }
        report
    }

    /// Listens first and looks then, so that nothing is missed in between.
    fn ask(&mut self, now: Now) -> Result<(u64, Vec<Session>), OcservError> {
        if !self.occtl.socket.exists() {
            return reachable(&self.occtl.socket).and(Err(OcservError::Absent));
        }
        let asked = self.ask_occtl(now);
        if matches!(asked, Err(OcservError::Refused | OcservError::Answer)) {
            // occtl does not say why. Not tried before: ocserv logs who connects and says nothing.
            reachable(&self.occtl.socket)?;
        }
        asked
    }

    fn ask_occtl(&mut self, now: Now) -> Result<(u64, Vec<Session>), OcservError> {
        if self.events.is_none() {
            self.events = Some(self.occtl.events()?);
        }
        let status = users::status(&self.occtl.ask(&["--json", "show", "status"])?)?;
        let mut users = users::users(&self.occtl.ask(&["--json", "show", "users"])?, now)?;
        if users::any_name_unclear(&users) {
            users::complete_names(&mut users, &self.occtl.ask(&["show", "users"])?);
        }
        Ok((status.epoch, users))
    }

    fn failed(&mut self, error: &OcservError, now: Now, obs: &mut Vec<Obs>) {
        if matches!(error, OcservError::Absent) {
            self.events = None;
            let was_here = self.known.epoch();
            obs.extend(self.known.gone(now));
            if was_here.is_some() || mem::take(&mut self.left) {
                obs.push(Obs::nobody(was_here.unwrap_or_default(), now));
            } else if !self.expected && !self.health.fails() {
                return; // This host has no ocserv.
            }
        } else {
            self.backoff.failed(now.boot);
        }
        let socket = &self.occtl.socket;
        let failure = self.health.failed(error, now);
        if failure.is_news {
            if matches!(error, OcservError::Absent) {
                tracing::info!(
                    message_id = %journal::BACKEND_GONE,
                    ?socket, "ocserv is not running"
                );
            } else {
                tracing::error!(
                    message_id = %journal::BACKEND_UNREADABLE,
                    ?socket, %error, "cannot read ocserv"
                );
            }
        }
        obs.push(Obs::Unavailable {
            error: format!("{}: {error}", socket.display()),
            since: failure.since,
        });
    }

    /// Does an order, and tells what it saw before it answers. Blocks for 5 s at most.
    fn order(&mut self, order: &Order, line: &Line) -> Result<(), Closed> {
        let until = clock::now().boot + AFTER_EVENT * LOOKS_AFTER_ORDER;
        let mut asked = false;
        let result = loop {
            line.tell(vec![self.look(clock::now())])?;
            if self.health.fails() {
                break Err("ocserv cannot be read".to_owned());
            }
            if !self.known.has(&order.key) {
                break Ok(());
            }
            if clock::now().boot >= until {
                break Err("ocserv did not end it in time".to_owned());
            }
            if let (false, SessionKey::Ocserv { id, .. }) = (asked, &order.key) {
                self.known.ordered(order.key.clone(), clock::now());
                // Whether that worked, the next look shows.
                let _ = self.occtl.ask(&["disconnect", "id", &id.to_string()]);
                asked = true;
            } else {
                std::thread::sleep(AFTER_EVENT);
            }
            // The reason comes as an event.
            if let Some(report) = self.turn(clock::now()) {
                line.tell(vec![report])?;
            }
        };
        line.answer(order.id, result)
    }
}

impl Backend for Ocserv {
    fn run(mut self: Box<Self>, line: Line) {
        loop {
            let report = self.turn(clock::now());
            let reports = report.filter(|report| !report.obs.is_empty());
            if line.tell(reports.into_iter().collect()).is_err() {
                return;
            }
            let next = self.look_at.max(self.backoff.at());
            let pause = next.saturating_sub(clock::now().boot);
            let interests: Vec<_> = self.events.iter().map(Events::interest).collect();
            let ordered = line.wait(&interests, pause);
            drop(interests);
            let done = match ordered {
                Ok(Some(order)) => self.order(&order, &line),
                Ok(None) => Ok(()),
                Err(closed) => Err(closed),
            };
            if done.is_err() {
                return;
            }
        }
    }
}

/// Whether somebody listens there who may be spoken with.
fn reachable(socket: &Path) -> Result<(), OcservError> {
    match Stream::connect(&Address::Unix(socket.to_owned())) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ConnectionRefused => OcservError::Absent,
            io::ErrorKind::PermissionDenied => OcservError::Forbidden,
            _ => OcservError::Run(error),
        }),
    }
}

fn backend_id() -> BackendId {
    BackendId {
        kind: BackendKind::Ocserv,
        instance: INSTANCE.to_owned(),
    }
}
