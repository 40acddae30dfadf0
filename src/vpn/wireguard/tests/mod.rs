//! WireGuard from the bytes of a daemon to the events of the reducer.

mod orders;
mod parsers;
mod reader;
mod reader_version;
mod readers;
mod real;
mod replay;
mod rules;
mod world;

use std::time::Duration;

use uuid::Uuid;

use super::{
    peers::{HandshakeClock, PeerTable},
    reading::{Handshake, PeerReading},
};
use crate::core::{
    Now,
    sessions::{BackendId, BackendKind, KnownSession, Obs, Reducer, SessionEvent},
};

/// Table and reducer of one interface, as the daemon wires them.
struct Agent {
    table: PeerTable,
    reducer: Reducer,
    ids: u64,
}

impl Agent {
    fn new(clock: HandshakeClock, restored: Vec<KnownSession>, boot_id: Uuid, ids: u64) -> Self {
        Self {
            table: PeerTable::new(clock),
            reducer: Reducer::new(boot_id, [1; 32], restored),
            ids,
        }
    }

    fn fresh() -> Self {
        Self::new(HandshakeClock::Guess, Vec::new(), Uuid::nil(), 0)
    }

    fn poll(&mut self, now: Now, complete: bool, peers: &[PeerReading]) -> Vec<SessionEvent> {
        let mut round = self.table.begin(now);
        for peer in peers {
            round.see(peer);
        }
        let obs = round.finish(1, complete);
        self.reduce(now, obs)
    }

    fn reduce(&mut self, now: Now, obs: Vec<Obs>) -> Vec<SessionEvent> {
        let mut events = Vec::new();
        for obs in obs {
            let ids = &mut self.ids;
            let mut random = || {
                *ids += 1;
                let mut bytes = [0; 10];
                bytes[2..].copy_from_slice(&ids.to_be_bytes());
                bytes
            };
            events.extend(self.reducer.observe(&wg0(), obs, now, &mut random));
        }
        events
    }
}

fn wg0() -> BackendId {
    BackendId {
        kind: BackendKind::WireGuard,
        instance: "wg0".to_owned(),
    }
}

/// Seconds after boot, on a host that booted at Unix time 1.7e9.
fn at(secs: u64) -> Now {
    let start = Now {
        boot: Duration::ZERO,
        wall_ms: 1_700_000_000_000,
    };
    start.after(Duration::from_secs(secs))
}

/// A peer whose last handshake was `handshake` seconds after boot; 0 is never.
fn peer(key: u8, handshake: u64, rx: u64, tx: u64) -> PeerReading {
    PeerReading {
        public_key: [key; 32],
        handshake: Handshake {
            secs: if handshake == 0 {
                0
            } else {
                1_700_000_000 + handshake
            },
            nanos: 0,
        },
        rx,
        tx,
        ..PeerReading::default()
    }
}
