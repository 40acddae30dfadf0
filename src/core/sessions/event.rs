//! What the reducer tells the rest of the agent, which records it and sends it on.

use uuid::Uuid;

use super::{
    obs::End,
    types::{BackendId, Endpoint, Identity, Net, Session, Stamp},
};

/// A connection began, changed or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEvent {
    /// UUIDv7; one for the whole life of a connection, also across restarts of the agent.
    pub connection_id: Uuid,
    /// Where it is connected.
    pub backend: BackendId,
    /// The connection as it is after this event.
    pub session: SessionRecord,
    /// What happened.
    pub what: What,
}

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It began at `session.started`.
    Start,
    /// It goes on, but not as before. Growing counters alone are no update.
    Update {
        /// What changed.
        change: Change,
        /// When it was seen.
        at: Stamp,
    },
    /// It ended; `end.at` is never before `session.started`.
    End(End),
}

/// The kind of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The outer address changed: the client roams.
    Endpoint,
    /// The inner addresses changed.
    VirtualIps,
    /// The daemon gave it another key: an IKE rekey, or a client that was back at once.
    Rekey,
}

/// The facts of a connection that go into its record. Personal data: seal before storing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Who. None only in the end of a connection that a former process of the agent saw: its
    /// start carried the identity, and none is kept on disk.
    pub identity: Option<Identity>,
    /// Outer address; none before first contact, or as for `identity`.
    pub endpoint: Option<Endpoint>,
    /// Inner addresses.
    pub virtual_ips: Box<[Net]>,
    /// When it began.
    pub started: Stamp,
    /// Last sign of life.
    pub last_seen: Stamp,
    /// Bytes from the client over the whole connection, coalesced reconnects included.
    pub rx: u64,
    /// Bytes to the client, likewise.
    pub tx: u64,
}

impl SessionRecord {
    /// The record of a live session, with the bytes of what was coalesced into it.
    pub(super) fn of(session: &Session, earlier_rx: u64, earlier_tx: u64) -> Self {
        Self {
            identity: Some(session.identity.clone()),
            endpoint: session.endpoint,
            virtual_ips: session.virtual_ips.clone(),
            started: session.started,
            last_seen: session.last_seen,
            rx: earlier_rx.saturating_add(session.received()),
            tx: earlier_tx.saturating_add(session.sent()),
        }
    }
}
