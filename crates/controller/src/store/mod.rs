//! The fleet's tables behind one trait.
//!
//! A write is one transaction: it reads a [`Snapshot`], lets a pure rule decide, and carries the
//! rule's [`Effect`]s out; it is acknowledged after the commit. Nothing of any database shows in
//! the trait, and nothing in it needs more than read-committed rows locked by their key, so that
//! another database can stand behind it. `contract` holds what every implementation must do.

mod connections;
mod devices;
mod events;
mod releases;
mod rollouts;
mod rows;
pub mod sqlite;

#[cfg(test)]
mod contract;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use uuid::Uuid;
use vpn_node_protocol::encoding::{Digest, Hex, Nonce};
use vpn_node_protocol::keys::PublicKey;

use crate::config::{Config, RUN_AS_OWNER};
use crate::rules::effect::{NewChallenge, NewEvent, NewRotation};
use crate::rules::enrolment::{EnrolEnd, Enrolment, StoredKey};
use crate::rules::exchange::Repeats;
use crate::rules::introduction::Introduced;
use crate::rules::state::{Kept, KeyRole, OpenDirective, ServerStatus};
use crate::rules::{Effect, Snapshot};

pub use connections::{
    CapabilityRow, ConnectionFilter, ConnectionRow, ConnectionStore, Counts, DisconnectionRow,
    GapRow,
};
pub use devices::{
    Asked, DeviceRow, DeviceStore, IdentityEnd, IdentityRow, NewDevice, NewIdentity,
    NewPersonalKey, NotAsked, PersonalKeyRow, Revocation, RotatedKey, Swept,
};
pub use events::{EventFilter, HandleEnd, Handling};
pub use releases::{Mirror, MirrorEnd, ReleaseRow, ReleaseStore};
pub use rollouts::{
    DeploymentFilter, DeploymentRow, FleetHost, GroupChange, GroupRow, NewRollout, Rolled,
    RolloutChange, RolloutRow, RolloutStore, SoftwareRow, StatusCount, Turn, Which,
};
pub use rows::{
    EventRow, HardwareLogRow, HeartbeatRow, RegistrationKeyRow, ServerRow, SuspicionRow,
    VerificationRow,
};

/// An answer of the store that is still to come.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A rule with its request: what to write, and what the caller gets back after the commit.
pub type Decide = Box<dyn FnOnce(&Snapshot) -> Decision + Send>;

/// What a rule decided.
pub struct Decision {
    /// Written in the transaction.
    pub effects: Vec<Effect>,
    /// HTTP status and signed body for the host; sent only after the commit.
    pub status: u16,
    /// See `status`.
    pub body: Vec<u8>,
    /// It was refused without any effect, and may come again and again.
    pub repeats: Option<Repeats>,
}

/// What a request needs of the stored state besides the server itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    /// How far this ledger is stored.
    pub ledger_epoch: Option<Hex<16>>,
    /// What was accepted under this number, if it is an old one.
    pub seq: Option<u64>,
    /// What the key of this id, which signed the request, is good for.
    pub signer: Option<Digest>,
    /// Whose this key is, which the host wants to have from now on.
    pub new_key: Option<PublicKey>,
    /// The fingerprint that came last.
    pub hardware: bool,
    /// This deployment, whosever it is.
    pub deployment: Option<i64>,
}

/// Whose key this is: enough to verify a request before any transaction.
#[derive(Clone, Debug)]
pub struct KnownServer {
    /// Its id.
    pub server_id: String,
    /// The identity key that was looked up.
    pub identity: PublicKey,
    /// Epoch of that key.
    pub epoch: u32,
    /// What that key is good for.
    pub role: KeyRole,
    /// Whether it may speak.
    pub status: ServerStatus,
    /// The nonce for its next request.
    pub nonce: Nonce,
    /// The nonce before.
    pub previous_nonce: Option<Nonce>,
}

/// A new registration key: the public half only.
#[derive(Clone, Debug)]
pub struct NewRegistrationKey {
    /// In hex.
    pub registration_key: String,
    /// When it was made.
    pub created_ms: i64,
    /// When it ends.
    pub expires_ms: i64,
    /// The operator's note.
    pub notes: Option<String>,
    /// The server that gets a new identity with it; `None` for a key that enrols a new server.
    pub for_server_id: Option<String>,
}

/// An operator's word on two holders of one identity.
#[derive(Clone, Debug)]
pub struct CloneResolution {
    /// Whose identity.
    pub server_id: String,
    /// The row of `clone_suspicions`.
    pub suspicion_id: i64,
    /// Who goes on: the first or the second.
    pub kept: Kept,
    /// Id of the directive `rotate` for whoever goes on.
    pub directive_id: Uuid,
    /// For how long that may be followed, in seconds.
    pub deadline_s: u32,
    /// When.
    pub now_ms: i64,
}

/// An operator expects other hardware of a host, or does not any more.
#[derive(Clone, Debug)]
pub struct RehostPermit {
    /// Until when; none takes the permit back.
    pub until_ms: Option<i64>,
    /// What is recorded with it.
    pub event: NewEvent,
    /// Asks the host at once, unless a challenge is open.
    pub challenge: Option<NewChallenge>,
}

/// Why the store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is not there.
    #[error(
        "there is no database at {0:?}: restore it from the backup of the data directory, or run 'vpn-node-controller init --url https://HOST:PORT' first if this is a new controller"
    )]
    Missing(PathBuf),
    /// The database exists, and `init` was to make it.
    #[error("{0:?} exists already")]
    Exists(PathBuf),
    /// Another user owns the database.
    #[error("the database {0:?} cannot be opened: permission denied{RUN_AS_OWNER}")]
    Denied(PathBuf),
    /// The file is no database, or a broken one.
    #[error(
        "the database {path:?} is damaged ({reason}): stop the controller, restore it from the backup of the data directory, and remove its -wal and -shm files"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The database's reason.
        reason: String,
    },
    /// The database refused.
    #[error("the database failed: {0}")]
    Database(String),
    /// A row holds what this program never writes.
    #[error("the database holds an impossible value in {0}: restore it from a backup")]
    Impossible(&'static str),
    /// Somebody else changed the same row first.
    #[error("the row was changed by another transaction at the same time")]
    Conflict,
    /// More is queued than can be written in time.
    #[error("the database cannot keep up: {0} writes wait")]
    Busy(usize),
    /// The writer has ended.
    #[error(
        "the database did not take the write: it is locked by another process, it failed, or the controller is stopping; nothing was changed, so try again"
    )]
    Closed,
}

/// The controller's memory: what is said here of servers, tokens, requests and events, and what the
/// parts say of connections, of whose they are, of releases and of rollouts.
pub trait Store: ConnectionStore + DeviceStore + ReleaseStore + RolloutStore + Send + Sync {
    /// Adds a registration key.
    fn create_registration_key(&self, key: NewRegistrationKey) -> Answer<'_, ()>;
    /// Looks a registration key up by its public half in hex.
    fn registration_key<'a>(&'a self, key: &'a str) -> Answer<'a, Option<StoredKey>>;
    /// Takes back a key that was not used; `false` when there is no such key to take back.
    fn revoke_registration_key<'a>(&'a self, key: &'a str) -> Answer<'a, bool>;
    /// Spends the token and binds the server, or finds the server that it was spent on.
    fn enrol(&self, enrolment: Enrolment) -> Answer<'_, EnrolEnd>;
    /// Makes a pending server active; `false` when there is no pending server of this id.
    fn approve_server<'a>(&'a self, server_id: &'a str, now_ms: i64) -> Answer<'a, bool>;
    /// Refuses a server for ever, and ends everything that waits for it; `false` when there is no
    /// such server, or it is revoked already.
    fn revoke_server<'a>(
        &'a self,
        server_id: &'a str,
        reason: &'a str,
        now_ms: i64,
    ) -> Answer<'a, bool>;

    /// Whose identity key has this id: one in force, a next one, or a retired one.
    fn server_by_key(&self, key_id: Digest) -> Answer<'_, Option<KnownServer>>;
    /// A server with its current key.
    fn server_by_id<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<KnownServer>>;
    /// Stores the newest key of an introduction as the server's next one; `false` when the server
    /// may not speak, its current key is another by now, or a key of the introduction is taken.
    fn introduce(&self, introduced: Introduced) -> Answer<'_, bool>;
    /// One chained request: reads, decides, writes, commits, answers.
    fn exchange(&self, server_id: String, wants: Wants, decide: Decide) -> Answer<'_, Decision>;
    /// A security event outside any exchange.
    fn record_event(&self, event: NewEvent) -> Answer<'_, ()>;
    /// A heartbeat whose signature did not hold.
    fn record_bad_heartbeat(&self, server_id: String, at_ms: i64) -> Answer<'_, ()>;

    /// Queues a challenge; the server process hands it out. Returns its id, or that of the one
    /// that is open already: a server has one at a time.
    fn queue_challenge<'a>(
        &'a self,
        server_id: &'a str,
        challenge: NewChallenge,
    ) -> Answer<'a, Uuid>;
    /// Queues the wish for a new identity key. Returns its id, or that of the one that is open
    /// already; `None` when the server is neither active nor pending.
    fn queue_rotation<'a>(
        &'a self,
        server_id: &'a str,
        rotation: NewRotation,
    ) -> Answer<'a, Option<Uuid>>;
    /// Two holders of this server's identity about whom nothing is decided, or whose decision has
    /// not taken hold: there is one such row at most.
    fn unresolved_clone<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<SuspicionRow>>;
    /// Keeps one of two holders; `false` when there is nothing to decide any more.
    fn resolve_clone(&self, decision: CloneResolution) -> Answer<'_, bool>;
    /// Servers whose held request is to be answered, because something waits to be handed out, or
    /// because they were stopped since `since_ms`: one cheap query for all of them.
    fn servers_to_wake(&self, now_ms: i64, since_ms: i64) -> Answer<'_, Vec<String>>;
    /// Takes what waits for a server, and marks it as handed out.
    fn take_directives<'a>(
        &'a self,
        server_id: &'a str,
        now_ms: i64,
    ) -> Answer<'a, Vec<OpenDirective>>;
    /// What became of a challenge.
    fn verification(&self, challenge: Uuid) -> Answer<'_, Option<VerificationRow>>;
    /// Permits other hardware, or takes the permit back; `false` when the server is neither
    /// active nor pending.
    fn permit_rehost<'a>(&'a self, server_id: &'a str, permit: RehostPermit) -> Answer<'a, bool>;
    /// The enrolled components of a server, as JSON.
    fn enrolled_hardware<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<String>>;
    /// Attempts at a server's fingerprint, newest first.
    fn list_hardware_log<'a>(
        &'a self,
        server_id: &'a str,
        limit: u32,
    ) -> Answer<'a, Vec<HardwareLogRow>>;
    /// Grace periods that are over by now and of whose end no host told. Returns how many.
    fn expire_grace(&self, now_ms: i64) -> Answer<'_, u64>;
    /// Servers that were silent since `before_ms` are no longer available. Returns how many.
    fn expire_availability(&self, before_ms: i64) -> Answer<'_, u64>;

    /// All registration keys, newest first.
    fn list_registration_keys(&self) -> Answer<'_, Vec<RegistrationKeyRow>>;
    /// All servers by name.
    fn list_servers(&self) -> Answer<'_, Vec<ServerRow>>;
    /// Connections of one server or all, newest first.
    fn list_connections<'a>(
        &'a self,
        server_id: Option<&'a str>,
        active: bool,
        limit: u32,
    ) -> Answer<'a, Vec<ConnectionRow>> {
        self.connections(ConnectionFilter {
            server_id: server_id.map(str::to_owned),
            active,
            limit,
            ..ConnectionFilter::default()
        })
    }
    /// Heartbeats, newest first.
    fn list_heartbeats<'a>(
        &'a self,
        server_id: Option<&'a str>,
        limit: u32,
    ) -> Answer<'a, Vec<HeartbeatRow>>;
    /// Security events, newest first.
    fn list_events(&self, filter: EventFilter) -> Answer<'_, Vec<EventRow>>;
    /// One security event.
    fn event(&self, event_id: i64) -> Answer<'_, Option<EventRow>>;
    /// Marks events as handled: all of them, or none.
    fn handle_events(&self, handling: Handling) -> Answer<'_, HandleEnd>;

    /// Lets the writer finish what is queued, and closes the database.
    fn close(&self) -> Answer<'_, ()>;
}

/// Makes the database of a new controller.
///
/// # Errors
/// [`StoreError`].
pub async fn create(config: &Config) -> Result<(), StoreError> {
    sqlite::SqliteStore::create(&config.database())
        .await?
        .close()
        .await
}

/// Opens the database of an existing controller.
///
/// # Errors
/// [`StoreError`].
pub async fn open(config: &Config) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(
        sqlite::SqliteStore::open(&config.database()).await?,
    ))
}
