//! VPN clients that come and go, and what of it must be in the controller's table at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;
use vpn_node_protocol::connection::{ConnectionEvent, ConnectionRecord};

use super::world::World;
use crate::core::agent::Event;
use crate::core::sessions::{
    BackendId, BackendKind, Confidence, End, Identity, Obs, Reason, Session, SessionKey,
};

#[derive(Default)]
pub(super) struct Vpn {
    pub(super) up: BTreeMap<u64, Session>,
    next: u64,
    /// Clients that a running agent saw.
    pub(super) seen: BTreeSet<u64>,
    pub(super) ended: BTreeSet<u64>,
    /// What the daemon does when it is told to end a session.
    pub(super) obeys: Obeys,
    /// What it was told to end, in order.
    pub(super) orders: Vec<u64>,
    /// It does not answer a starting agent.
    pub(super) unreadable: bool,
}

#[derive(Clone, Default)]
pub(super) enum Obeys {
    /// Does it, says so, and tells the end itself before that.
    #[default]
    AndTells,
    /// Does it and says so, and tells no end.
    Quietly,
    /// Takes its time.
    After(Duration),
    /// Says why not.
    Refuses(String),
    /// Says nothing.
    Never,
}

impl Vpn {
    /// The host goes down, and every client with it.
    pub(super) fn all_gone(&mut self) {
        self.ended.extend(std::mem::take(&mut self.up).into_keys());
    }
}

pub(super) fn backend() -> BackendId {
    BackendId {
        kind: BackendKind::StrongSwan,
        instance: "charon".to_owned(),
    }
}

fn name(client: u64) -> String {
    format!("client-{client}")
}

impl World {
    pub(super) fn connect(&mut self) -> u64 {
        let name = name(self.vpn.next);
        self.connect_as(Identity::Eap(name.into_bytes()))
    }

    pub(super) fn connect_as(&mut self, identity: Identity) -> u64 {
        let (client, now) = (self.vpn.next, self.now());
        self.vpn.next += 1;
        let session = Session {
            key: SessionKey::Ike { unique_id: client },
            identity,
            started: now,
            last_seen: now,
            endpoint: None,
            virtual_ips: Box::default(),
            rx: 1,
            rx_at_start: 0,
            tx_at_start: 0,
            tx: 2,
        };
        self.vpn.up.insert(client, session.clone());
        if self.agent.is_some() {
            self.vpn.seen.insert(client);
            self.tell(Event::Observed(backend(), Obs::Up(Box::new(session))));
        }
        client
    }

    pub(super) fn disconnect(&mut self, client: u64) {
        let Some(session) = self.vpn.up.remove(&client) else {
            return;
        };
        self.vpn.ended.insert(client);
        let now = self.now();
        let end = End::noticed(
            Reason::ClientDisconnect,
            Confidence::Observed,
            now.boot,
            now,
        );
        let key = session.key;
        self.tell(Event::Observed(backend(), Obs::Down { key, end }));
    }

    /// An order to end a session came; when it is answered, and how.
    pub(super) fn ordered(&mut self, key: SessionKey) -> Option<(Duration, Result<(), String>)> {
        let SessionKey::Ike { unique_id } = key else {
            unreachable!("this daemon speaks IKE");
        };
        self.vpn.orders.push(unique_id);
        let soon = Duration::from_millis(50);
        match self.vpn.obeys.clone() {
            Obeys::AndTells => {
                self.disconnect(unique_id);
                Some((soon, Ok(())))
            }
            Obeys::Quietly => {
                self.quietly_gone(unique_id);
                Some((soon, Ok(())))
            }
            Obeys::After(time) => {
                self.quietly_gone(unique_id);
                Some((time, Ok(())))
            }
            Obeys::Refuses(why) => Some((soon, Err(why))),
            Obeys::Never => None,
        }
    }

    fn quietly_gone(&mut self, client: u64) {
        if self.vpn.up.remove(&client).is_some() {
            self.vpn.ended.insert(client);
        }
    }

    /// The daemon gives the session another key.
    pub(super) fn rekey(&mut self, client: u64, key: u64) {
        let new = SessionKey::Ike { unique_id: key };
        let mut session = self.vpn.up.remove(&client).expect("it is up");
        let old = std::mem::replace(&mut session.key, new.clone());
        self.vpn.up.insert(key, session);
        self.tell(Event::Observed(backend(), Obs::Rekey { old, new }));
    }

    /// The connection of this client, and how it ended.
    pub(super) fn end_of(&self, client: u64) -> (Uuid, Vec<String>) {
        let records = || self.controller.db.records.values();
        let is_it = |record: &&ConnectionRecord| {
            let identity = record.identity.as_ref();
            identity.is_some_and(|identity| identity.value == name(client))
        };
        let id = records().find(is_it).expect("it began").connection_id;
        let reasons = records().filter(|record| record.connection_id == id);
        let reasons = reasons.filter_map(|record| match &record.event {
            ConnectionEvent::End {
                reason, confidence, ..
            } => Some(format!("{reason} {confidence:?}")),
            _ => None,
        });
        (id, reasons.collect())
    }

    pub(super) fn disconnect_any(&mut self) {
        let nth = self.dice.below(self.vpn.up.len().max(1) as u64);
        let client = self
            .vpn
            .up
            .keys()
            .nth(usize::try_from(nth).unwrap())
            .copied();
        if let Some(client) = client {
            self.disconnect(client);
        }
    }

    /// What a backend's reader does first: everything that is connected.
    pub(super) fn look_at_vpn(&mut self) {
        let now = self.now();
        self.vpn.seen.extend(self.vpn.up.keys().copied());
        let sessions = self.vpn.up.values().map(|session| Session {
            last_seen: now,
            ..session.clone()
        });
        let snapshot = Obs::Snapshot {
            epoch: 1,
            at: now,
            complete: true,
            sessions: sessions.collect(),
        };
        self.tell(Event::Observed(backend(), snapshot));
    }

    /// Every client that was seen has one connection with one start, and one end if it left; the
    /// ledger is empty, and nothing was reported lost.
    pub(super) fn everything_arrived(&self) {
        let db = &self.controller.db;
        assert_eq!(self.disk.ledger.len(), 0, "everything is acknowledged");
        assert_eq!(db.lost, 0);
        let mut clients: BTreeMap<String, Uuid> = BTreeMap::new();
        for record in db.records.values() {
            let Some(identity) = &record.identity else {
                continue;
            };
            let id = clients
                .entry(identity.value.clone())
                .or_insert(record.connection_id);
            assert_eq!(*id, record.connection_id, "one connection a client");
        }
        let connections = self.connections();
        assert_eq!(connections.len(), self.vpn.seen.len());
        for client in &self.vpn.seen {
            let id = clients.get(&name(*client)).expect("its start arrived");
            let wanted: &[&str] = match self.vpn.ended.contains(client) {
                true => &["end", "start"],
                false => &["start"],
            };
            let events: Vec<&str> = connections[id].iter().copied().collect();
            assert_eq!(events, wanted, "{}", name(*client));
        }
    }
}

pub(super) fn connections<'a>(
    records: impl Iterator<Item = &'a ConnectionRecord>,
) -> BTreeMap<Uuid, BTreeSet<&'static str>> {
    let mut table: BTreeMap<Uuid, BTreeSet<&'static str>> = BTreeMap::new();
    for record in records {
        let event = match record.event {
            ConnectionEvent::Start => "start",
            ConnectionEvent::Update => "update",
            ConnectionEvent::End { .. } => "end",
        };
        table.entry(record.connection_id).or_default().insert(event);
    }
    table
}
