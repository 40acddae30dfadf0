//! The talk with one management interface, from its greeting on: what is asked, and what the
//! answers and notifications mean.
//!
//! Pure: bytes and the time in; what was heard, bytes to send and a deadline out. One is made for
//! each connection. It is passive: it asks for lists and notifications, and changes nothing but
//! what an order says.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

use zeroize::Zeroizing;

use super::fault::Fault;
use super::lines::Lines;
use super::log::{self, Said};
use super::protocol::{self, Message, State, StateName};
use super::status::{Table, TableParser, version_of};
use crate::core::Now;

/// A free interface greets in its next turn of the loop; one that is held by another program
/// never does. Short, since a waiting connection keeps others from waiting.
const GREETING_LIMIT: Duration = Duration::from_secs(3);

/// Longest wait for a whole answer, from when the one before it was over.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// How often clients are listed when nothing else asks for it: how late roaming is seen.
pub(super) const RECONCILE: Duration = Duration::from_secs(10);

/// Least time between two lists, however many clients come and go.
const LIST_GAP: Duration = Duration::from_millis(300);

/// Lists cost the daemon's one thread time: they may take this part of it (1 in 20).
const LIST_SHARE: u32 = 20;

/// The same while somebody waits for a session to end: orders are rare.
const ORDER_GAP: Duration = Duration::from_millis(50);
const ORDER_SHARE: u32 = 4;

/// How much is kept of the daemon's words about an order: one of its sentences. They go into the log
/// and to the controller, and its line may be [`MAX_LINE`](super::lines::MAX_LINE) long.
const MAX_WHY: usize = 128;

/// What is said once, after the greeting. `log on` without `all`: history is another life's.
const OPENING: [(&str, Ask); 6] = [
    ("state on", Ask::Setting("state on")),
    ("log on", Ask::Setting("log on")),
    ("bytecount 10", Ask::Setting("bytecount 10")),
    ("version", Ask::Version),
    ("pid", Ask::Pid),
    ("state", Ask::State),
];

/// A command whose answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Setting(&'static str),
    Version,
    Pid,
    State,
    Status(Duration),
    Kill(u64),
    Drop,
}

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// The daemon serves, in the life with this number: its process id and since when it serves.
    /// Another number means that all its clients had to go.
    Life {
        /// Never 0 or 1.
        epoch: u64,
        /// Unix seconds.
        since: i64,
    },
    /// It ends, or begins anew: its clients are gone.
    Over,
    /// Who is connected. Only after a `Life`.
    Table {
        /// The list.
        table: Table,
        /// Boot-clock instant when it was asked for.
        asked: Duration,
    },
    /// Log lines about clients.
    Said(Said<'a>),
    /// Counters of a client.
    Bytes {
        /// Client id.
        cid: u64,
        /// Bytes from it.
        rx: u64,
        /// Bytes to it.
        tx: u64,
    },
    /// `OpenVPN 2.6.14`
    Version(String),
    /// The client of an order was told to go.
    Told {
        /// Its number.
        order: u64,
    },
    /// An order was refused by the daemon, with its words.
    Refused {
        /// Its number.
        order: u64,
        /// Escaped.
        why: String,
    },
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Conversation {
    lines: Lines,
    talk: Talk,
}

#[derive(Debug)]
struct Talk {
    greeted: bool,
    /// Of the greeting, then of the answer to the first of `asked`.
    until: Duration,
    password: Option<Zeroizing<Vec<u8>>>,
    password_sent: bool,
    asked: VecDeque<Ask>,
    table: TableParser,
    pid: Option<u64>,
    state: Option<State>,
    list_at: Duration,
    listed_at: Duration,
    list_took: Duration,
    send: Vec<u8>,
}

impl Conversation {
    /// A connection was begun at `now`.
    pub(super) fn new(now: Now, password: Option<Zeroizing<Vec<u8>>>) -> Self {
        Self {
            lines: Lines::default(),
            talk: Talk {
                greeted: false,
                until: now.boot.saturating_add(GREETING_LIMIT),
                password,
                password_sent: false,
                asked: VecDeque::new(),
                table: TableParser::default(),
                pid: None,
                state: None,
                list_at: now.boot,
                listed_at: Duration::ZERO,
                list_took: Duration::ZERO,
                send: Vec::new(),
            },
        }
    }

    /// Takes what the socket gave.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        now: Now,
        hear: &mut dyn FnMut(Heard<'_>),
    ) -> Result<(), Fault> {
        let talk = &mut self.talk;
        // After each line, so that what is asked does not depend on how the bytes were cut.
        self.lines.feed(bytes, |line| {
            talk.line(line, now, hear)?;
            talk.tick(now)
        })
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Now) -> Result<(), Fault> {
        self.talk.tick(now)
    }

    /// Boot-clock instant of the next [`Self::tick`].
    pub(super) fn deadline(&self) -> Duration {
        let talk = &self.talk;
        match talk.asked.front() {
            None if talk.greeted => talk.list_at,
            _ if talk.is_listing() => talk.until,
            Some(_) => talk.until.min(talk.list_at),
            None => talk.until,
        }
    }

    /// What has to be sent now.
    pub(super) fn take_send(&mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.talk.send))
    }

    /// Lists the clients at `at`, or as soon after it as that may be while somebody waits.
    pub(super) fn list_for_order(&mut self, at: Duration, now: Now) {
        self.talk.list_after(ORDER_GAP, ORDER_SHARE, at, now);
    }

    /// Lists the clients not later than `at`.
    pub(super) fn list_by(&mut self, at: Duration) {
        self.talk.list_at = self.talk.list_at.min(at);
    }

    /// Tells a client to go. `HALT` makes it stop instead of coming back within a second.
    pub(super) fn kill(&mut self, order: u64, cid: u64, now: Now) {
        let command = format!("client-kill {cid} HALT");
        self.talk.ask(&command, Ask::Kill(order), now);
    }

    /// Takes the client at this address away at once, without a word to it. A server that serves
    /// IPv6, too, knows nobody by such an address, and refuses.
    pub(super) fn drop_client(&mut self, address: SocketAddrV4, now: Now) {
        self.talk.ask(&format!("kill {address}"), Ask::Drop, now);
    }
}

impl Talk {
    fn ask(&mut self, command: &str, ask: Ask, now: Now) {
        if self.asked.is_empty() {
            self.until = now.boot.saturating_add(REPLY_LIMIT);
        }
        self.asked.push_back(ask);
        self.send.extend_from_slice(command.as_bytes());
        self.send.push(b'\n');
    }

    fn is_listing(&self) -> bool {
        self.asked.iter().any(|ask| matches!(ask, Ask::Status(_)))
    }

    fn list_soon(&mut self, now: Now) {
        self.list_after(LIST_GAP, LIST_SHARE, now.boot, now);
    }

    fn list_after(&mut self, gap: Duration, share: u32, at: Duration, now: Now) {
        let gap = gap.max(self.list_took.saturating_mul(share));
        let soonest = self.listed_at.saturating_add(gap).max(now.boot);
        self.list_at = self.list_at.min(soonest.max(at));
    }

    fn tick(&mut self, now: Now) -> Result<(), Fault> {
        if !self.greeted {
            return match now.boot < self.until {
                true => Ok(()),
                false => Err(Fault::Taken),
            };
        }
        if let Some(ask) = self.asked.front()
            && now.boot >= self.until
        {
            return Err(Fault::Silent(ask.name()));
        }
        if now.boot >= self.list_at && !self.is_listing() {
            self.listed_at = now.boot;
            self.list_at = now.boot.saturating_add(RECONCILE);
            self.table = TableParser::default();
            self.ask("status 3", Ask::Status(now.boot), now);
        }
        Ok(())
    }

    fn line(
        &mut self,
        line: &[u8],
        now: Now,
        hear: &mut dyn FnMut(Heard<'_>),
    ) -> Result<(), Fault> {
        let message = protocol::parse(line);
        if !self.greeted {
            return self.greeting(&message, now);
        }
        match message {
            Message::Success(text) => return self.succeeded(text, now, hear),
            Message::Error(text) => return self.failed(text, now, hear),
            Message::Plain(line) => return self.answer(line, now, hear),
            Message::PasswordPrompt => return Err(Fault::Garbage("a password prompt")),
            Message::Claim(what) => return Err(Fault::Claimed(what)),
            Message::State(state) => self.enter(state, now, hear),
            Message::Log(text) => {
                if let Some(said) = log::parse(text) {
                    self.list_soon(now);
                    hear(Heard::Said(said));
                }
            }
            Message::ByteCount { cid, rx, tx } => hear(Heard::Bytes { cid, rx, tx }),
            Message::ClientsChanged => self.list_soon(now),
            Message::Greeting | Message::Other => {}
        }
        Ok(())
    }

    fn greeting(&mut self, message: &Message<'_>, now: Now) -> Result<(), Fault> {
        match message {
            Message::Greeting => {
                self.greeted = true;
                for (command, ask) in OPENING {
                    self.ask(command, ask, now);
                }
                self.until = now.boot.saturating_add(REPLY_LIMIT);
                Ok(())
            }
            Message::PasswordPrompt if self.password_sent => Err(Fault::PasswordRefused),
            Message::PasswordPrompt => {
                let password = self.password.take().ok_or(Fault::PasswordWanted)?;
                self.send.extend_from_slice(&password);
                self.send.push(b'\n');
                self.password_sent = true;
                Ok(())
            }
            Message::Success(_) if self.password_sent => Ok(()),
            Message::Error(_) if self.password_sent => Err(Fault::PasswordRefused),
            Message::Claim(what) => Err(Fault::Claimed(what)),
            Message::Success(_) | Message::Error(_) | Message::Plain(_) => {
                Err(Fault::Garbage("its greeting"))
            }
            // Notifications may come before the greeting: it is one itself.
            _ => Ok(()),
        }
    }

    fn succeeded(
        &mut self,
        text: &[u8],
        now: Now,
        hear: &mut dyn FnMut(Heard<'_>),
    ) -> Result<(), Fault> {
        match self.asked.front() {
            Some(Ask::Setting(_)) => {}
            Some(Ask::Kill(order)) => hear(Heard::Told { order: *order }),
            // Confirmed by the client's absence from a later list.
            Some(Ask::Drop) => self.list_after(ORDER_GAP, ORDER_SHARE, now.boot, now),
            Some(Ask::Pid) => {
                let pid = text
                    .strip_prefix(b"pid=")
                    .and_then(|pid| std::str::from_utf8(pid).ok()?.parse().ok());
                self.pid = Some(pid.ok_or(Fault::Garbage("pid"))?);
            }
            Some(ask) => return Err(Fault::Garbage(ask.name())),
            None => return Err(Fault::Garbage("an answer to nothing")),
        }
        self.answered(now);
        self.tell_life(hear);
        Ok(())
    }

    fn failed(
        &mut self,
        text: &[u8],
        now: Now,
        hear: &mut dyn FnMut(Heard<'_>),
    ) -> Result<(), Fault> {
        match self.asked.front() {
            // An old daemon without that notification: lists alone are enough.
            Some(Ask::Setting(_)) => {}
            // It has been told to go, and goes in its time.
            Some(Ask::Drop) => {}
            Some(Ask::Kill(order)) => {
                let kept = &text[..text.len().min(MAX_WHY)];
                let why = kept.escape_ascii().to_string();
                hear(Heard::Refused { order: *order, why });
                self.list_soon(now);
            }
            Some(ask) => return Err(Fault::Garbage(ask.name())),
            None => return Err(Fault::Garbage("an error to nothing")),
        }
        self.answered(now);
        Ok(())
    }

    /// A line of an answer of several, which ends in `END`.
    fn answer(
        &mut self,
        line: &[u8],
        now: Now,
        hear: &mut dyn FnMut(Heard<'_>),
    ) -> Result<(), Fault> {
        let over = line == b"END";
        match self.asked.front() {
            Some(Ask::Version) => {
                if let Some(title) = line.strip_prefix(b"OpenVPN Version: ")
                    && let Some(version) = version_of(title)
                {
                    hear(Heard::Version(version));
                }
            }
            Some(Ask::State) if over => self.tell_life(hear),
            Some(Ask::State) => {
                let state = protocol::state(line).ok_or(Fault::Garbage("state"))?;
                self.state = Some(state);
            }
            Some(Ask::Status(asked)) => {
                let asked = *asked;
                if self.table.line(line)? {
                    self.list_took = now.boot.saturating_sub(asked);
                    let table = std::mem::take(&mut self.table).finish()?;
                    if self.serves() {
                        hear(Heard::Table { table, asked });
                    }
                }
            }
            Some(ask) => return Err(Fault::Garbage(ask.name())),
            None => return Err(Fault::Garbage("an answer to nothing")),
        }
        if over {
            self.answered(now);
        }
        Ok(())
    }

    fn answered(&mut self, now: Now) {
        self.asked.pop_front();
        self.until = now.boot.saturating_add(REPLY_LIMIT);
    }

    /// The daemon tells that it is in another state.
    fn enter(&mut self, state: State, now: Now, hear: &mut dyn FnMut(Heard<'_>)) {
        self.state = Some(state);
        match state.name {
            StateName::Connected => {
                self.tell_life(hear);
                self.list_soon(now);
            }
            StateName::Reconnecting | StateName::Exiting => hear(Heard::Over),
            StateName::Other => {}
        }
    }

    fn serves(&self) -> bool {
        self.pid.is_some()
            && matches!(
                self.state,
                Some(State {
                    name: StateName::Connected,
                    ..
                })
            )
    }

    fn tell_life(&self, hear: &mut dyn FnMut(Heard<'_>)) {
        if let (Some(pid), Some(state)) = (self.pid, self.state)
            && state.name == StateName::Connected
        {
            // Process ids have 22 bits at most (PID_MAX_LIMIT, proc_sys_kernel(5)).
            let epoch = (state.since.unsigned_abs() << 22) | (pid & 0x3f_ffff);
            hear(Heard::Life {
                epoch: epoch.max(2),
                since: state.since,
            });
        }
    }
}

impl Ask {
    fn name(&self) -> &'static str {
        match self {
            Self::Setting(command) => command,
            Self::Version => "version",
            Self::Pid => "pid",
            Self::State => "state",
            Self::Status(_) => "status 3",
            Self::Kill(_) => "client-kill",
            Self::Drop => "kill",
        }
    }
}
