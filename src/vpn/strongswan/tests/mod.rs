//! strongSwan from the bytes of charon to the events of the reducer.

mod codec;
mod fake;
mod hostile;
mod orders;
mod reader;
mod renewal;
mod replay;
mod rules;

use std::fmt::Write as _;
use std::time::Duration;

use uuid::Uuid;

use self::fake::Charon;
use super::{
    Fault, backend_id,
    conversation::{Answer, Conversation, Side},
    table::Table,
};
use crate::core::{
    Now,
    sessions::{KnownSession, Obs, Reducer, SessionEvent, What},
};

const EPOCH: u64 = 77;

/// Wall clock of the boot clock's zero, so that both read alike in tests.
const BOOT_WALL_MS: i64 = 1_795_300_000_000;

fn at(millis: u64) -> Now {
    Now {
        boot: Duration::from_millis(millis),
        wall_ms: BOOT_WALL_MS + i64::try_from(millis).unwrap(),
    }
}

/// Conversation and reducer as the daemon wires them, with a charon that answers.
struct Agent {
    talk: Conversation,
    reducer: Reducer,
    ids: u64,
    events: Vec<SessionEvent>,
    answers: Vec<Answer>,
}

impl Agent {
    fn new(now: Now, known: Vec<KnownSession>) -> Self {
        Self {
            talk: Conversation::new(EPOCH, Table::default(), now),
            reducer: Reducer::new(Uuid::nil(), [1; 32], known),
            ids: 0,
            events: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// An agent that has subscribed and listed.
    fn listening(charon: &mut Charon, now: Now) -> Self {
        let mut agent = Self::new(now, Vec::new());
        agent.serve(charon, now).unwrap();
        assert!(agent.talk.has_listed());
        agent
    }

    /// Both sides speak until nobody has anything to say.
    fn serve(&mut self, charon: &mut Charon, now: Now) -> Result<(), Fault> {
        loop {
            let mut quiet = true;
            for side in [Side::Events, Side::Commands] {
                let asked = self.talk.take_output(side);
                let said = charon.hear(side, &asked);
                quiet &= asked.is_empty() && said.is_empty();
                self.hear(side, &said, now)?;
            }
            if quiet {
                return self.tick(now);
            }
        }
    }

    fn hear(&mut self, side: Side, bytes: &[u8], now: Now) -> Result<(), Fault> {
        let mut obs = Vec::new();
        let result = self.talk.received(side, bytes, now, &mut obs);
        self.reduce(obs, now);
        result
    }

    fn tick(&mut self, now: Now) -> Result<(), Fault> {
        let mut obs = Vec::new();
        let result = self.talk.tick(now, &mut obs);
        self.reduce(obs, now);
        let events = self.reducer.tick(now);
        self.events.extend(events);
        self.answers.extend(self.talk.take_answers());
        result
    }

    fn reduce(&mut self, obs: Vec<Obs>, now: Now) {
        for obs in obs {
            let ids = &mut self.ids;
            let mut random = || {
                *ids += 1;
                let mut bytes = [0; 10];
                bytes[2..].copy_from_slice(&ids.to_be_bytes());
                bytes
            };
            let events = self.reducer.observe(&backend_id(), obs, now, &mut random);
            self.events.extend(events);
        }
    }

    /// What happened so far, and lets it be forgotten.
    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events).iter().map(story).collect()
    }
}

/// One line for one event; connections are numbered in the order of their starts.
fn story(event: &SessionEvent) -> String {
    let number = u64::from_be_bytes(event.connection_id.as_bytes()[8..].try_into().unwrap());
    let mut line = format!("#{} ", number & 0xffff);
    let secs = |now: Now| now.boot.as_secs_f64();
    match &event.what {
        What::Start => {
            let started = secs(event.session.started);
            write!(line, "start at {started:.2}").unwrap();
        }
        What::Update { change, .. } => write!(line, "{change:?}").unwrap(),
        What::End(end) => write!(
            line,
            "end {} {:?} at {:.2} within {:.2}..{:.2}",
            end.reason.code(),
            end.confidence,
            secs(end.at),
            secs(end.earliest),
            secs(end.latest)
        )
        .unwrap(),
    }
    if let Some(identity) = &event.session.identity {
        write!(line, ", {} {identity}", identity.kind()).unwrap();
    }
    if let Some(endpoint) = event.session.endpoint {
        write!(line, ", from {endpoint}").unwrap();
    }
    for net in &event.session.virtual_ips {
        write!(line, ", has {net}").unwrap();
    }
    write!(line, ", rx {} tx {}", event.session.rx, event.session.tx).unwrap();
    line
}
