//! One OpenVPN server as the reducer sees it: its epochs, its sessions, the orders to end one.
//!
//! Pure. It does not care which way a list came: over the management interface, which tells the
//! daemon's lives apart, or from the status file, which does not.

use std::net::SocketAddrV4;
use std::time::Duration;

use super::client::Client;
use super::conversation::{Conversation, Heard};
use super::sessions::Sessions;
use super::status::Table;
use crate::core::Now;
use crate::core::sessions::{Confidence, Obs, SessionKey};

/// The epoch of a server that only its status file has told about so far.
pub(super) const FILE_EPOCH: u64 = 1;

/// An order is given up after this time, which is less than the core waits for an answer. OpenVPN
/// lists a client that was told to go for 5 seconds more ("Delayed exit in 5 seconds",
/// src/openvpn/forward.c), and looks at its timers once a second.
pub(super) const ORDER_LIMIT: Duration = Duration::from_secs(9);

/// Time for a client to hear that it was told to go, before it is dropped. The packet leaves in the
/// daemon's next turn; a client that is dropped without it thinks that the network is away, and
/// comes back.
const HEARING: Duration = Duration::from_millis(200);

/// Whose address was read longer ago is not dropped by it.
const ADDRESS_HOLDS: Duration = Duration::from_secs(1);

/// How often an order's client is looked for.
const ORDER_LIST: Duration = Duration::from_secs(1);

/// Most orders that are under way at one server.
const MAX_ORDERS: usize = 256;

/// An order and its result: why not, in words that name no client.
pub(super) type Answer = (u64, Result<(), String>);

/// See the module's page.
#[derive(Debug)]
pub(super) struct Server {
    epoch: Option<u64>,
    /// The life of the daemon that `epoch` stands for, once the daemon has told it.
    life: Option<u64>,
    sessions: Sessions,
    orders: Vec<Pending>,
    version: Option<String>,
    heard_at: Duration,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    key: SessionKey,
    until: Duration,
    step: Step,
    refused: Option<String>,
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The session must be listed first.
    Begun,
    /// The daemon was asked to tell the client to go.
    Asked,
    /// It did. The client is dropped from this boot-clock instant on.
    Told(Duration),
    /// There is nothing more to do: it is dropped, or cannot be and goes in its time.
    Done,
}

/// What became of something that was heard.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) obs: Vec<Obs>,
    pub(super) answers: Vec<Answer>,
    /// Clients to be told to go: order and client id.
    pub(super) kills: Vec<(u64, u64)>,
    /// Where the clients are that have been told, and are dropped now.
    pub(super) drops: Vec<SocketAddrV4>,
    /// A list came over the management interface: it works.
    pub(super) listed: bool,
    /// The version became known or changed.
    pub(super) version: bool,
}

impl Server {
    /// `epoch` is the one of connections that a former process of the agent left, if any.
    pub(super) fn new(epoch: Option<u64>) -> Self {
        Self {
            epoch,
            life: None,
            sessions: Sessions::default(),
            orders: Vec::new(),
            version: None,
            heard_at: Duration::ZERO,
        }
    }

    /// In its own words, as far as known.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether it was ever read, or left connections to a former process.
    pub(super) fn is_known(&self) -> bool {
        self.epoch.is_some()
    }

    /// Takes what the management interface said.
    pub(super) fn hear(&mut self, heard: Heard<'_>, now: Now, out: &mut Outcome) {
        self.heard_at = now.boot;
        match heard {
            Heard::Life { epoch, since } => self.enter(epoch, since, now, out),
            Heard::Over => {
                let gone = self.sessions.all_gone(Confidence::Observed, now.boot, now);
                out.obs.extend(gone);
            }
            Heard::Table { table, asked } => {
                out.listed = true;
                self.obey(&table, asked, now, out);
                self.list(table, now, out);
            }
            Heard::Said(said) => self.sessions.said(&said, now),
            Heard::Bytes { cid, rx, tx } => out.obs.extend(self.sessions.bytes(cid, rx, tx, now)),
            Heard::Version(version) => self.is_of(version, out),
            Heard::Told { order } => {
                if let Some(pending) = self.pending(order) {
                    pending.step = Step::Told(now.boot.saturating_add(HEARING));
                }
            }
            Heard::Refused { order, why } => {
                if let Some(pending) = self.pending(order) {
                    pending.refused = Some(why);
                }
            }
        }
    }

    /// Takes the list of a status file.
    pub(super) fn read_file(&mut self, mut table: Table, now: Now, out: &mut Outcome) {
        self.heard_at = now.boot;
        if let Some(version) = table.version.take() {
            self.is_of(version, out);
        }
        self.list(table, now, out);
    }

    /// The daemon does not run any more, or has not said a word for too long. It was heard last
    /// when it was heard last.
    pub(super) fn is_down(&mut self, now: Now, out: &mut Outcome) {
        let gone = self
            .sessions
            .all_gone(Confidence::Inferred, self.heard_at, now);
        out.obs.extend(gone);
        // Connections of a former process are over, too.
        if let Some(epoch) = self.epoch {
            out.obs.push(Obs::nobody(epoch, now));
        }
    }

    /// Somebody shall go. False: no room for more orders.
    #[must_use]
    pub(super) fn order(&mut self, id: u64, key: SessionKey, now: Now) -> bool {
        if self.orders.len() >= MAX_ORDERS {
            return false;
        }
        self.orders.push(Pending {
            id,
            key,
            until: now.boot.saturating_add(ORDER_LIMIT),
            step: Step::Begun,
            refused: None,
        });
        true
    }

    /// Gives orders up whose time is over, and keeps the others' clients looked for.
    pub(super) fn tick(
        &mut self,
        conversation: Option<&mut Conversation>,
        now: Now,
        out: &mut Outcome,
    ) {
        let Some(conversation) = conversation else {
            let why = "the daemon's management interface is not at hand (another program holds it, \
                or there is none), and nothing else can end an OpenVPN session";
            let left = self.orders.drain(..);
            out.answers
                .extend(left.map(|pending| (pending.id, Err(why.to_owned()))));
            return;
        };
        self.orders.retain(|pending| {
            let over = now.boot >= pending.until;
            if over {
                out.answers.push((pending.id, Err(pending.failure())));
            }
            !over
        });
        for pending in &self.orders {
            match pending.step {
                Step::Begun => conversation.list_for_order(now.boot, now),
                Step::Told(at) => conversation.list_for_order(at, now),
                Step::Asked | Step::Done => {
                    conversation.list_by(now.boot.saturating_add(ORDER_LIST));
                }
            }
        }
    }

    /// When [`Self::tick`] has something to do, if ever.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.orders.iter().map(|pending| pending.until).min()
    }

    fn pending(&mut self, order: u64) -> Option<&mut Pending> {
        self.orders.iter_mut().find(|pending| pending.id == order)
    }

    /// Who is not listed any more has gone. Who is, and was not told to go yet, is told; who was,
    /// a moment ago, is dropped where it is now. The list was asked for at `asked`.
    fn obey(&mut self, table: &Table, asked: Duration, now: Now, out: &mut Outcome) {
        self.orders.retain_mut(|pending| {
            let SessionKey::OpenVpn {
                cid,
                connected_since,
            } = pending.key
            else {
                out.answers
                    .push((pending.id, Err("no such session".to_owned())));
                return false;
            };
            let is_meant =
                |client: &&Client| client.cid == Some(cid) && client.since == Some(connected_since);
            let listed = table.clients.iter().find(is_meant);
            if listed.is_none() && !table.incomplete {
                out.answers.push((pending.id, Ok(())));
                return false;
            }
            if pending.refused.is_some() {
                out.answers.push((pending.id, Err(pending.failure())));
                return false;
            }
            match pending.step {
                Step::Begun => {
                    pending.step = Step::Asked;
                    out.kills.push((pending.id, cid));
                }
                Step::Told(at)
                    if asked >= at && now.boot.saturating_sub(asked) <= ADDRESS_HOLDS =>
                {
                    pending.step = Step::Done;
                    out.drops
                        .extend(listed.and_then(|client| own_address(client, table)));
                }
                Step::Asked | Step::Told(_) | Step::Done => {}
            }
            true
        });
    }

    fn list(&mut self, table: Table, now: Now, out: &mut Outcome) {
        let epoch = *self.epoch.get_or_insert(FILE_EPOCH);
        out.obs.extend(self.sessions.list(epoch, table, now));
    }

    /// The daemon is in the life `life`. Clients of an earlier one are gone. What a status file
    /// told belongs to this life unless somebody connected before it began.
    fn enter(&mut self, life: u64, since: i64, now: Now, out: &mut Outcome) {
        if self.life == Some(life) || self.epoch == Some(life) {
            self.life = Some(life);
            return;
        }
        let first = self.life.replace(life).is_none();
        if first && self.epoch == Some(FILE_EPOCH) && !self.sessions.any_before(since) {
            return;
        }
        let gone = self
            .sessions
            .all_gone(Confidence::Inferred, Duration::ZERO, now);
        out.obs.extend(gone);
        self.epoch = Some(life);
        out.obs.push(Obs::Reset { epoch: life });
    }

    fn is_of(&mut self, version: String, out: &mut Outcome) {
        if self.version.as_ref() != Some(&version) {
            self.version = Some(version);
            out.version = true;
        }
    }
}

/// The address that is this client's alone, if `kill` understands it: of IPv4, with a port, and
/// without the protocol that servers of several write before it.
fn own_address(client: &Client, table: &Table) -> Option<SocketAddrV4> {
    let address = std::str::from_utf8(&client.real_address).ok()?;
    let address = address.parse().ok()?;
    let there = |other: &&Client| other.endpoint == client.endpoint;
    let alone = table.clients.iter().filter(there).count() == 1;
    (alone && !table.incomplete).then_some(address)
}

impl Pending {
    fn failure(&self) -> String {
        match &self.refused {
            Some(why) => format!("OpenVPN refused client-kill: {why}"),
            None if self.step != Step::Begun => format!(
                "OpenVPN was told to end the session but has it still after {} s",
                ORDER_LIMIT.as_secs()
            ),
            None => "OpenVPN did not list its clients in time".to_owned(),
        }
    }
}
