//! The conversation with charon: two sockets, one for events and one for commands.
//!
//! Pure: bytes and the time in; observations, answers, bytes and a deadline out. It subscribes
//! first and lists then, so that no SA is missed in between, and lists again every
//! [`LIST_EVERY`]. Whatever is no VICI, or no answer in time, is a [`Fault`]: drop it and connect
//! again; the [`Table`] lives on.

use std::{collections::VecDeque, time::Duration};

use super::{
    Fault,
    ask::{ANSWER_LIMIT, Ask, Asked, register},
    message::Section,
    packet::{Framer, Kind, Packet},
    sa::{self, Child, IkeSa},
    table::Table,
};
use crate::core::{Now, sessions::Obs};

/// Time between two lists of all SAs: counters move, and what events missed is found.
pub const LIST_EVERY: Duration = Duration::from_secs(60);

/// An order is answered within this, done or not.
pub const ORDER_LIMIT: Duration = Duration::from_secs(5);

/// What is subscribed to, and whether it can be missed: `ike-update` is younger than the rest, and
/// the next list tells a new address too.
const EVENTS: [(&str, bool); 5] = [
    ("ike-updown", true),
    ("ike-rekey", true),
    ("child-updown", true),
    ("child-rekey", true),
    ("ike-update", false),
];

/// Longest version that is kept.
const MAX_VERSION: usize = 64;

/// One of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Says what happens.
    Events,
    /// Answers.
    Commands,
}

/// What became of an order: [`crate::vpn::Line::answer`].
pub type Answer = (u64, Result<(), String>);

/// See the module's page.
#[derive(Debug)]
pub struct Conversation {
    epoch: u64,
    table: Table,
    events: Wire,
    commands: Wire,
    /// How many of [`EVENTS`] were answered.
    subscribed: usize,
    asked: Option<Asked>,
    stage: Stage,
    version: Option<String>,
    list_at: Duration,
    has_listed: bool,
    orders: VecDeque<Pending>,
    answers: Vec<Answer>,
}

#[derive(Debug, Default)]
struct Wire {
    framer: Framer,
    out: Vec<u8>,
    /// Since when a packet is incomplete, or an answer is waited for.
    waits_since: Option<Duration>,
}

/// What the commands' socket is used for: first this, then that, then lists and orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Register,
    Version,
    Ready,
}

#[derive(Debug)]
struct Pending {
    order: u64,
    id: u64,
    until: Duration,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Queued,
    Sent,
    /// Charon says that it is done; its `ike-updown` is still to come.
    Done,
}

impl Conversation {
    /// With the charon of this `epoch`, whose SAs are in `table` as far as known.
    #[must_use]
    pub fn new(epoch: u64, table: Table, now: Now) -> Self {
        let mut new = Self {
            epoch,
            table,
            events: Wire::default(),
            commands: Wire::default(),
            subscribed: 0,
            asked: None,
            stage: Stage::Register,
            version: None,
            list_at: now.boot,
            has_listed: false,
            orders: VecDeque::new(),
            answers: Vec::new(),
        };
        for (event, _) in EVENTS {
            new.events.out.extend(register(event));
        }
        new.events.waits_since = Some(now.boot);
        new.ask_next(now);
        new
    }

    /// Bytes came.
    ///
    /// # Errors
    /// This connection is useless; [`Self::into_table`] is not.
    pub fn received(
        &mut self,
        side: Side,
        bytes: &[u8],
        now: Now,
        obs: &mut Vec<Obs>,
    ) -> Result<(), Fault> {
        let mut framer = std::mem::take(&mut self.wire(side).framer);
        let mut moves = false;
        framer.feed(bytes, &mut |packet| {
            moves = true;
            match side {
                Side::Events => self.event_packet(packet, now, obs),
                Side::Commands => self.command_packet(packet, now, obs),
            }
        })?;
        let waits = framer.is_partial() || side == Side::Events && self.subscribed < EVENTS.len();
        let wire = self.wire(side);
        wire.framer = framer;
        let since = wire.waits_since.filter(|_| !moves).unwrap_or(now.boot);
        wire.waits_since = waits.then_some(since);
        self.ask_next(now);
        Ok(())
    }

    /// Does what is due at [`Self::deadline`].
    ///
    /// # Errors
    /// As [`Self::received`].
    pub fn tick(&mut self, now: Now, obs: &mut Vec<Obs>) -> Result<(), Fault> {
        self.table.tick(now, obs);
        self.finish_done();
        for (wire, what) in [(&self.events, "events"), (&self.commands, "commands")] {
            if wire.overdue().is_some_and(|at| at <= now.boot) {
                return Err(Fault::Silent(what));
            }
        }
        if let Some(asked) = self.asked
            && asked.until() <= now.boot
        {
            return Err(Fault::Silent(asked.what.command()));
        }
        let answers = &mut self.answers;
        self.orders.retain(|pending| {
            let late = pending.until <= now.boot;
            if late {
                let why = format!("charon did not end it within {} s", ORDER_LIMIT.as_secs());
                answers.push((pending.order, Err(why)));
            }
            !late
        });
        self.ask_next(now);
        Ok(())
    }

    /// When to call [`Self::tick`] at the latest, on the boot clock.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        // Not before everything is subscribed to: a list that is due waits for charon then.
        let may_list = self.asked.is_none() && self.subscribed == EVENTS.len();
        let list_at = may_list.then_some(self.list_at);
        let orders = self.orders.iter().map(|pending| pending.until).min();
        [
            self.table.deadline(),
            self.events.overdue(),
            self.commands.overdue(),
            self.asked.map(Asked::until),
            list_at,
            orders,
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.list_at)
    }

    /// End the session `id`.
    pub fn order(&mut self, order: u64, id: u64, now: Now) {
        self.orders.push_back(Pending {
            order,
            id: self.table.current(id),
            until: now.boot + ORDER_LIMIT,
            step: Step::Queued,
        });
        self.ask_next(now);
    }

    /// What is to be sent.
    pub fn take_output(&mut self, side: Side) -> Vec<u8> {
        std::mem::take(&mut self.wire(side).out)
    }

    /// What became of orders.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// strongSwan's version, once.
    pub fn take_version(&mut self) -> Option<String> {
        self.version.take()
    }

    /// Whether a whole list was read: it works.
    #[must_use]
    pub fn has_listed(&self) -> bool {
        self.has_listed
    }

    /// The connection is over: what is left of it, and the orders that nobody does any more.
    #[must_use]
    pub fn into_table(mut self, obs: &mut Vec<Obs>) -> (Table, Vec<Answer>) {
        self.table.disconnected(obs);
        let why = || Err("the connection to charon broke before it was done".to_owned());
        let undone = self.orders.iter().map(|pending| (pending.order, why()));
        self.answers.extend(undone);
        (self.table, self.answers)
    }

    fn event_packet(
        &mut self,
        packet: Packet<'_>,
        now: Now,
        obs: &mut Vec<Obs>,
    ) -> Result<(), Fault> {
        match packet.kind {
            Kind::EventConfirm | Kind::EventUnknown => {
                let (event, needed) = *EVENTS.get(self.subscribed).ok_or(Fault::Unasked)?;
                if needed && packet.kind == Kind::EventUnknown {
                    return Err(Fault::Unknown(event));
                }
                if self.subscribed == 0 {
                    // From here on keys have a meaning.
                    obs.push(Obs::Reset { epoch: self.epoch });
                }
                self.subscribed += 1;
                Ok(())
            }
            Kind::Event => self.event(packet.name, &packet.beginning()?, now, obs),
            _ => Err(Fault::Unasked),
        }
    }

    fn event(
        &mut self,
        name: &[u8],
        message: &Section<'_>,
        now: Now,
        obs: &mut Vec<Obs>,
    ) -> Result<(), Fault> {
        // The only section at the top is the SA, under its connection's name.
        let Some((_, section)) = message.sections().next() else {
            return Ok(());
        };
        match name {
            b"ike-updown" => {
                let sa = IkeSa::read(section)?;
                if message.value("up") == Some(b"yes") {
                    return self.table.up(sa, now, obs);
                }
                if let Some(next) = self.table.down(&sa, now, obs)? {
                    self.order_anew(sa.unique_id, next);
                }
                if self.orders.iter().any(|pending| pending.id == sa.unique_id) {
                    self.table.ordered(sa.unique_id);
                }
                Ok(())
            }
            b"ike-rekey" => {
                let id = |which| {
                    let section = section.section(which).ok_or(Fault::Missing(which))?;
                    sa::unique_id(section)
                };
                let (old, new) = (id("old")?, id("new")?);
                self.table.rekey(old, new, obs)?;
                self.order_anew(old, new);
                Ok(())
            }
            b"ike-update" => {
                let id = sa::unique_id(section)?;
                self.table.moved(id, sa::endpoint(message), now, obs);
                Ok(())
            }
            b"child-updown" | b"child-rekey" => {
                let id = sa::unique_id(section)?;
                let children: Vec<Child> = children(section);
                self.table.count(id, &children, obs);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn command_packet(
        &mut self,
        packet: Packet<'_>,
        now: Now,
        obs: &mut Vec<Obs>,
    ) -> Result<(), Fault> {
        let asked = self.asked.ok_or(Fault::Unasked)?;
        match (packet.kind, asked.what) {
            (Kind::EventConfirm, Ask::Register) => self.stage = Stage::Version,
            (Kind::Event, Ask::List) if packet.name == b"list-sa" => {
                let message = packet.beginning()?;
                let section = message.sections().next().map(|(_, section)| section);
                return match section {
                    Some(section) => self.table.listed(IkeSa::read(section)?, now),
                    None => Ok(()),
                };
            }
            (Kind::CmdResponse, Ask::List) => {
                self.has_listed = true;
                self.list_at = now.boot + LIST_EVERY;
                self.table.list_ends(self.epoch, asked.at, obs);
            }
            (Kind::CmdResponse, Ask::Version) => {
                let message = Section::parse(packet.message)?;
                let version = message.value("version").unwrap_or_default();
                let short = &version[..version.len().min(MAX_VERSION)];
                self.version = Some(short.escape_ascii().to_string());
                self.stage = Stage::Ready;
            }
            (Kind::CmdResponse, Ask::Terminate { order, id }) => {
                self.terminated(order, id, &Section::parse(packet.message)?, now);
            }
            (Kind::CmdUnknown | Kind::EventUnknown, what) => {
                return Err(Fault::Unknown(what.command()));
            }
            _ => return Err(Fault::Unasked),
        }
        self.asked = None;
        self.ask_next(now);
        Ok(())
    }

    /// The session that was `old` is `new`: what was ordered for it is not done.
    fn order_anew(&mut self, old: u64, new: u64) {
        for pending in &mut self.orders {
            if pending.id == old {
                pending.id = new;
                pending.step = Step::Queued;
            }
        }
    }

    /// The answer to `terminate`. An order is done only when charon also said that the SA is down,
    /// and that was told: [`Self::finish_done`].
    fn terminated(&mut self, order: u64, id: u64, message: &Section<'_>, now: Now) {
        let up = self.table.has(id);
        let mut orders = self.orders.iter_mut();
        let Some(pending) = orders.find(|pending| pending.order == order) else {
            return; // Answered: it took too long.
        };
        if pending.id != id {
            return; // Rekeyed meanwhile: the next one in the queue again.
        }
        let succeeded = message.value("success") == Some(b"yes");
        if !succeeded && message.number("matches").unwrap_or(0) > 0 {
            return self.finish(order, Err("charon could not end it".to_owned()));
        }
        pending.step = Step::Done;
        self.table.ordered(id);
        if !succeeded {
            // Charon does not know it, so it is over. What became of it, the list says.
            self.list_at = now.boot;
            if up {
                self.finish(order, Ok(()));
            }
        }
    }

    /// The orders that charon called done, and whose SAs it told to be down.
    fn finish_done(&mut self) {
        let (table, answers) = (&self.table, &mut self.answers);
        self.orders.retain(|pending| {
            let told = !table.has(pending.id) && !table.is_leaving(pending.id);
            let over = pending.step == Step::Done && told;
            if over {
                answers.push((pending.order, Ok(())));
            }
            !over
        });
    }

    fn finish(&mut self, order: u64, result: Result<(), String>) {
        self.orders.retain(|pending| pending.order != order);
        self.answers.push((order, result));
    }

    /// Charon deals with the commands of one connection one by one.
    fn ask_next(&mut self, now: Now) {
        if self.asked.is_some() {
            return;
        }
        let queued = |pending: &&mut Pending| pending.step == Step::Queued;
        let what = match self.stage {
            Stage::Register => Ask::Register,
            Stage::Version => Ask::Version,
            Stage::Ready => {
                if let Some(pending) = self.orders.iter_mut().find(queued) {
                    pending.step = Step::Sent;
                    Ask::Terminate {
                        order: pending.order,
                        id: pending.id,
                    }
                } else if self.list_at <= now.boot && self.subscribed == EVENTS.len() {
                    self.table.list_begins();
                    Ask::List
                } else {
                    return;
                }
            }
        };
        self.commands.out.extend(what.request());
        self.asked = Some(Asked { what, at: now });
    }

    fn wire(&mut self, side: Side) -> &mut Wire {
        match side {
            Side::Events => &mut self.events,
            Side::Commands => &mut self.commands,
        }
    }
}

impl Wire {
    fn overdue(&self) -> Option<Duration> {
        self.waits_since.map(|since| since + ANSWER_LIMIT)
    }
}

/// The CHILD SAs of an event: one a section, or (rekeyed) `old` and `new` in one.
fn children(section: &Section<'_>) -> Vec<Child> {
    let Some(children) = section.section("child-sas") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (_, child) in children.sections() {
        match Child::read(child) {
            Some(child) => found.push(child),
            None => found.extend(child.sections().filter_map(|(_, child)| Child::read(child))),
        }
    }
    found
}
