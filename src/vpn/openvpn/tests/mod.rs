//! OpenVPN from the bytes of a daemon to the events of the reducer.

mod files;
mod hostile;
mod orders;
mod replay;
mod sockets;

use std::net::SocketAddrV4;
use std::time::Duration;

use uuid::Uuid;

use super::conversation::{Conversation, Heard};
use super::fault::Fault;
use super::server::{Answer, Outcome, Server};
use crate::core::Now;
use crate::core::sessions::{
    BackendId, BackendKind, KnownSession, Obs, Reducer, SessionEvent, What,
};

/// One server and the reducer, as the daemon wires them.
struct Agent {
    server: Server,
    reducer: Reducer,
    ids: u64,
    answers: Vec<Answer>,
    kills: Vec<(u64, u64)>,
    drops: Vec<SocketAddrV4>,
}

impl Agent {
    fn new(epoch: Option<u64>, restored: Vec<KnownSession>, ids: u64) -> Self {
        Self {
            server: Server::new(epoch),
            reducer: Reducer::new(Uuid::nil(), [1; 32], restored),
            ids,
            answers: Vec::new(),
            kills: Vec::new(),
            drops: Vec::new(),
        }
    }

    fn fresh() -> Self {
        Self::new(None, Vec::new(), 0)
    }

    /// The next process of the agent.
    fn restarted(self) -> Self {
        let restored = self.reducer.persistable();
        let epoch = restored.first().map(|known| known.epoch);
        Self::new(epoch, restored, self.ids)
    }

    /// Hands bytes of the daemon on.
    fn feed(
        &mut self,
        conversation: &mut Conversation,
        bytes: &[u8],
        now: Now,
    ) -> Result<Vec<SessionEvent>, Fault> {
        let mut out = Outcome::default();
        let server = &mut self.server;
        let mut hear = |heard: Heard<'_>| server.hear(heard, now, &mut out);
        conversation.feed(bytes, now, &mut hear)?;
        Ok(self.take(out, now))
    }

    fn take(&mut self, out: Outcome, now: Now) -> Vec<SessionEvent> {
        self.answers.extend(out.answers);
        self.kills.extend(out.kills);
        self.drops.extend(out.drops);
        self.reduce(out.obs, now)
    }

    fn reduce(&mut self, obs: Vec<Obs>, now: Now) -> Vec<SessionEvent> {
        let mut events = Vec::new();
        for obs in obs {
            let ids = &mut self.ids;
            let mut random = || {
                *ids += 1;
                let mut bytes = [0; 10];
                bytes[2..].copy_from_slice(&ids.to_be_bytes());
                bytes
            };
            let id = BackendId {
                kind: BackendKind::OpenVpn,
                instance: "server".to_owned(),
            };
            events.extend(self.reducer.observe(&id, obs, now, &mut random));
        }
        events
    }
}

/// A line an event: who, what, when in milliseconds.
fn shown(event: &SessionEvent) -> String {
    let number = &event.connection_id.to_string()[32..];
    let who = event.session.identity.as_ref();
    let who = who.map_or_else(|| "?".to_owned(), ToString::to_string);
    let endpoint = event.session.endpoint.map(|endpoint| endpoint.to_string());
    let what = match &event.what {
        What::Start => format!(
            "start at {} from {}",
            event.session.started.wall_ms,
            endpoint.unwrap_or_default()
        ),
        What::Update { change, .. } => format!("{change:?} {}", endpoint.unwrap_or_default()),
        What::End(end) => format!(
            "{} {:?} at {} within {} ms, rx {} tx {}",
            end.reason.code(),
            end.confidence,
            end.at.wall_ms,
            (end.latest.boot - end.earliest.boot).as_millis(),
            event.session.rx,
            event.session.tx
        ),
    };
    format!("{number} {who}: {what}")
}

/// The instant `wall_ms` of a host that booted at Unix second 1,795,000,000.
fn at(wall_ms: i64) -> Now {
    Now {
        boot: Duration::from_millis((wall_ms - 1_795_000_000_000).unsigned_abs()),
        wall_ms,
    }
}
