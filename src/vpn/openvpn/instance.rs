//! One server: its connection, its status file, and what is said about both. Thin.
//!
//! The management interface comes first; while it is not at hand, the status file is followed.

use std::io::{self, Read as _};
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::PollFd;
use zeroize::Zeroizing;

use super::super::health::Health;
use super::super::{Address, BackendDetails, Backoff, Stream};
use super::conversation::{Conversation, Heard};
use super::discover::Found;
use super::fault::Fault;
use super::file::{Look, StatusFile};
use super::server::{Answer, Outcome, Server};
use crate::core::Now;
use crate::core::journal;
use crate::core::sessions::{Obs, SessionKey, Stamp};
use crate::host::bounded;

/// Reads of one turn: a daemon that floods leaves the others their turn.
const READS: usize = 16;

/// Pause after what somebody must change first.
const LASTING_PAUSE: Duration = Duration::from_secs(600);

/// Longest password file: OpenVPN reads 128 bytes of a password (`USER_PASS_LEN`).
const MAX_PASSWORD: usize = 4096;

/// See the module's page.
pub(super) struct Instance {
    found: Found,
    password_file: Option<PathBuf>,
    server: Server,
    link: Option<Link>,
    /// Lists come over the link.
    works: bool,
    backoff: Backoff,
    not_before: Duration,
    file: Option<StatusFile>,
    management: Health<Fault>,
    status: Health<Fault>,
    details: Option<BackendDetails>,
}

struct Link {
    stream: Stream,
    conversation: Conversation,
}

/// What one turn brought.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) obs: Vec<Obs>,
    pub(super) answers: Vec<Answer>,
    /// When they became known or changed.
    pub(super) details: Option<BackendDetails>,
}

impl Instance {
    /// `epoch` is the one of connections that a former process left. `password_file` is the one
    /// of the agent's configuration.
    pub(super) fn new(found: Found, password_file: Option<PathBuf>, epoch: Option<u64>) -> Self {
        Self {
            file: found.config.status.clone().map(StatusFile::new),
            found,
            password_file,
            server: Server::new(epoch),
            link: None,
            works: false,
            backoff: Backoff::default(),
            not_before: Duration::ZERO,
            management: Health::default(),
            status: Health::default(),
            details: None,
        }
    }

    /// Takes over a configuration that may have changed.
    pub(super) fn is_now(&mut self, found: Found) {
        if self.found == found {
            return;
        }
        self.not_before = Duration::ZERO;
        if self.file.as_ref().map(StatusFile::path) != found.config.status.as_deref() {
            self.file = found.config.status.clone().map(StatusFile::new);
        }
        self.found = found;
    }

    /// Whether it is read now over the management interface.
    pub(super) fn works(&self) -> bool {
        self.works
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        self.link.as_ref().map(|link| link.stream.interest())
    }

    /// When the next turn is due, whatever happens.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let link = match &self.link {
            Some(link) => Some(link.conversation.deadline()),
            None => self.address().map(|_| self.connect_at()),
        };
        let file = self.file.as_ref().filter(|_| self.follows_file());
        let file = file.map(StatusFile::deadline);
        [link, file, self.server.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what can be done now.
    pub(super) fn turn(&mut self, now: Now, buffer: &mut [u8]) -> Turn {
        let mut out = Outcome::default();
        if self.link.is_none() && now.boot >= self.connect_at() {
            self.connect(now, &mut out);
        }
        if let Err(fault) = self.converse(now, buffer, &mut out) {
            self.disconnected(fault, now, &mut out);
        }
        let conversation = self.link.as_mut().map(|link| &mut link.conversation);
        self.server.tick(conversation, now, &mut out);
        if self.follows_file() {
            self.look(now, &mut out);
        }
        Turn {
            details: self.new_details(),
            obs: out.obs,
            answers: out.answers,
        }
    }

    /// The server is not configured any more.
    pub(super) fn give_up(mut self, now: Now) -> Turn {
        let mut out = Outcome::default();
        if self.server.is_known() {
            self.server.is_down(now, &mut out);
        }
        self.server.tick(None, now, &mut out);
        Turn {
            obs: out.obs,
            answers: out.answers,
            details: None,
        }
    }

    /// Somebody shall go. False: there is no room for more orders.
    #[must_use]
    pub(super) fn order(&mut self, id: u64, key: SessionKey, now: Now) -> bool {
        if let Some(link) = &mut self.link {
            link.conversation.list_for_order(now.boot, now);
        }
        self.server.order(id, key, now)
    }

    /// The management interface, unless it is another program's.
    fn address(&self) -> Option<&Address> {
        let config = &self.found.config;
        config
            .management
            .as_ref()
            .filter(|_| config.claimed.is_none())
    }

    fn connect_at(&self) -> Duration {
        self.backoff.at().max(self.not_before)
    }

    fn follows_file(&self) -> bool {
        !self.works && (self.address().is_none() || self.management.fails())
    }

    fn connect(&mut self, now: Now, out: &mut Outcome) {
        let Some(address) = self.address().cloned() else {
            if let Some(what) = self.found.config.claimed {
                let fault = Fault::Claimed(what);
                failed(&mut self.management, &self.found.name, &fault, true, now);
            }
            self.not_before = now.boot.saturating_add(LASTING_PAUSE);
            return;
        };
        let connected = self.password().and_then(|password| {
            let stream = Stream::connect(&address).map_err(|error| fault_of(&error))?;
            Ok(Link {
                stream,
                conversation: Conversation::new(now, password),
            })
        });
        match connected {
            Ok(link) => self.link = Some(link),
            Err(fault) => self.disconnected(fault, now, out),
        }
    }

    /// The agent's own password file must be readable; the server's, which is often root's, is
    /// only tried.
    fn password(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        if let Some(path) = &self.password_file {
            let unreadable = |error: io::Error| Fault::PasswordFile {
                path: path.clone(),
                why: error.to_string(),
            };
            return read_password(path).map(Some).map_err(unreadable);
        }
        let own = self.found.config.password_file.as_deref();
        Ok(own.and_then(|path| read_password(path).ok()))
    }

    fn converse(&mut self, now: Now, buffer: &mut [u8], out: &mut Outcome) -> Result<(), Fault> {
        let Some(Link {
            stream,
            conversation,
        }) = &mut self.link
        else {
            return Ok(());
        };
        let server = &mut self.server;
        let mut result = Ok(());
        for _ in 0..READS {
            let read = match stream.read(buffer) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(error) => {
                    result = Err(fault_of(&error));
                    break;
                }
            };
            let mut hear = |heard: Heard<'_>| server.hear(heard, now, out);
            conversation.feed(&buffer[..read], now, &mut hear)?;
            for (order, cid) in out.kills.drain(..) {
                conversation.kill(order, cid, now);
            }
            for address in out.drops.drain(..) {
                conversation.drop_client(address, now);
            }
            send(stream, conversation)?;
        }
        if mem::take(&mut out.listed) && result.is_ok() {
            self.works = true;
            self.backoff.worked();
            let from = "its management interface";
            recovered(&mut self.management, &self.found.name, from);
            self.status = Health::default();
        }
        result?;
        conversation.tick(now)?;
        send(stream, conversation)
    }

    fn disconnected(&mut self, fault: Fault, now: Now, out: &mut Outcome) {
        self.link = None;
        let worked = mem::take(&mut self.works);
        self.backoff.failed(now.boot);
        if fault.is_lasting() {
            self.not_before = now.boot.saturating_add(LASTING_PAUSE);
        }
        let down = matches!(fault, Fault::Down(_));
        let news = self.management.would_be_news(&fault);
        if news && down && self.server.is_known() {
            self.server.is_down(now, out);
        }
        if news && let Some(file) = &mut self.file {
            file.begin(down);
        }
        let loud = self.is_there(&fault);
        // A connection that breaks is a failure only if the next attempt fails, too.
        if worked && matches!(fault, Fault::Broken(_)) {
            tracing::debug!(instance = self.found.name, %fault, "OpenVPN closed the connection");
            return;
        }
        let since = failed(&mut self.management, &self.found.name, &fault, loud, now);
        if loud && (self.file.is_none() || !fault.is_mild()) {
            out.obs.push(Obs::Unavailable {
                error: fault.to_string(),
                since,
            });
        }
    }

    /// Looks at the status file.
    fn look(&mut self, now: Now, out: &mut Outcome) {
        let Some(file) = &mut self.file else {
            return;
        };
        match file.look(now) {
            Ok(Look::Nothing) => {}
            Ok(Look::Gone) => {
                if self.server.is_known() {
                    self.server.is_down(now, out);
                }
            }
            Ok(Look::Table(table)) => {
                recovered(&mut self.status, &self.found.name, "its status file");
                self.server.read_file(*table, now, out);
            }
            Err(fault) => {
                let loud = self.is_there(&fault);
                let since = failed(&mut self.status, &self.found.name, &fault, loud, now);
                if loud {
                    out.obs.push(Obs::Unavailable {
                        error: fault.to_string(),
                        since,
                    });
                }
            }
        }
    }

    /// Whether somebody expects this server to be readable: then a failure is said aloud.
    fn is_there(&self, fault: &Fault) -> bool {
        self.found.wanted || self.server.is_known() || !fault.is_absence()
    }

    fn new_details(&mut self) -> Option<BackendDetails> {
        if !self.server.is_known() {
            return None;
        }
        let details = BackendDetails {
            version: self.server.version().map(str::to_owned),
            interface: self.found.config.interface.clone(),
            port: self.found.config.port,
            public_key: None,
        };
        let news = self.details.as_ref() != Some(&details);
        news.then(|| self.details.insert(details).clone())
    }
}

/// Notes a failure, and says it in the log if it is news. Returns since when it fails.
fn failed(
    health: &mut Health<Fault>,
    instance: &str,
    fault: &Fault,
    loud: bool,
    now: Now,
) -> Stamp {
    let failure = health.failed(fault, now);
    if failure.is_news {
        if !loud {
            tracing::debug!(instance, %fault, "no OpenVPN server here");
        } else if fault.is_absence() {
            tracing::info!(
                message_id = %journal::BACKEND_GONE,
                instance, reason = %fault, "OpenVPN server is down"
            );
        } else if fault.is_mild() {
            tracing::warn!(
                message_id = %journal::BACKEND_PARTIAL,
                instance, reason = %fault, "OpenVPN is read from its status file"
            );
        } else {
            tracing::error!(
                message_id = %journal::BACKEND_UNREADABLE,
                instance, error = %fault, "cannot read OpenVPN"
            );
        }
    }
    failure.since
}

/// Notes that it is read, and says so in the log if that is news.
fn recovered(health: &mut Health<Fault>, instance: &str, from: &'static str) {
    if health.recovered() {
        tracing::info!(
            message_id = %journal::BACKEND_UP,
            instance, from, "OpenVPN is read again"
        );
    }
}

fn send(stream: &mut Stream, conversation: &mut Conversation) -> Result<(), Fault> {
    let bytes = conversation.take_send();
    if bytes.is_empty() {
        return Ok(());
    }
    stream.send(&bytes).map_err(|error| fault_of(&error))
}

/// The first line of a password file.
fn read_password(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; MAX_PASSWORD]);
    let mut read = 0;
    let mut file = bounded::open_regular(path)?;
    while read < MAX_PASSWORD {
        match file.read(&mut bytes[read..])? {
            0 => break,
            more => read += more,
        }
    }
    let line = bytes[..read].split(|byte| matches!(byte, b'\n' | b'\r'));
    Ok(Zeroizing::new(
        line.into_iter().next().unwrap_or_default().to_vec(),
    ))
}

fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            Fault::Down(error.to_string())
        }
        // The queue of a unix socket is full: somebody is served, and somebody waits.
        io::ErrorKind::WouldBlock => Fault::Taken,
        io::ErrorKind::PermissionDenied => Fault::Connect(error.to_string()),
        _ => Fault::Broken(error.to_string()),
    }
}
