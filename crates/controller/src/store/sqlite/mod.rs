//! SQLite: one file, write-ahead log, one writer, a pool of readers.
//!
//! All writes of this process go through one task that commits them in groups
//! (`writer`); the operator's commands are other processes on the same file, and wait for
//! its lock for at most five seconds.

mod capabilities;
mod clones;
mod connections;
mod devices;
mod directives;
mod disconnects;
mod effects;
mod enrol;
mod events;
mod exchange;
mod hardware;
mod holders;
mod keys;
mod lifecycle;
mod lists;
mod map;
mod reenrol;
mod releases;
mod rollouts;
mod writer;

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use uuid::Uuid;
use vpn_node_protocol::encoding::Digest;

use crate::rules::effect::{NewChallenge, NewEvent, NewRotation};
use crate::rules::enrolment::{EnrolEnd, Enrolment, StoredKey};
use crate::rules::introduction::Introduced;
use crate::rules::state::OpenDirective;
use crate::store::{
    Answer, CloneResolution, Decide, Decision, EventFilter, EventRow, HandleEnd, Handling,
    HardwareLogRow, HeartbeatRow, KnownServer, NewRegistrationKey, RegistrationKeyRow,
    RehostPermit, ServerRow, Store, StoreError, SuspicionRow, VerificationRow, Wants,
};

use map::database;
use writer::Writer;

/// "Database disk image is malformed" (sqlite.org/rescode.html).
const SQLITE_CORRUPT: &str = "11";
/// "File is not a database".
const SQLITE_NOTADB: &str = "26";
/// How long a process waits for another one's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Readers at once: look-ups by key, and lists.
const READERS: u32 = 4;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// The store in one file.
pub struct SqliteStore {
    readers: SqlitePool,
    writer: Writer,
}

impl SqliteStore {
    /// Makes a new database file, which only its owner can read.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Database`].
    pub async fn create(path: &Path) -> Result<Self, StoreError> {
        if path.exists() {
            return Err(StoreError::Exists(path.to_owned()));
        }
        // SQLite gives its -wal and -shm files the mode of the database.
        crate::keys::create_private(path, b"")
            .map_err(|error| StoreError::Database(error.to_string()))?;
        Self::open(path).await
    }

    /// Opens a database and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Denied`], [`StoreError::Damaged`],
    /// [`StoreError::Database`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // Asked beforehand, because SQLite says only that it cannot open the file.
        match access(path, AccessFlags::R_OK | AccessFlags::W_OK) {
            Err(Errno::ENOENT) => return Err(StoreError::Missing(path.to_owned())),
            Err(Errno::EACCES) => return Err(StoreError::Denied(path.to_owned())),
            _ => {}
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged record is on the disk: the host forgets it then.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_lazy_with(options.clone());
        let mut connection = sqlx::ConnectOptions::connect(&options)
            .await
            .map_err(|error| opening(path, error))?;
        MIGRATIONS
            .run(&mut connection)
            .await
            .map_err(|error| match error {
                MigrateError::Execute(error) => opening(path, error),
                other => StoreError::Database(other.to_string()),
            })?;
        Ok(Self {
            readers,
            writer: Writer::start(connection),
        })
    }

    /// Runs one write in the next group.
    async fn write<T, F>(&self, run: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> Answer<'c, T> + Send + 'static,
    {
        self.writer.write(run).await
    }
}

/// An error of the first access, which finds a file that is no database.
fn opening(path: &Path, error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some(SQLITE_CORRUPT | SQLITE_NOTADB) => StoreError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        },
        _ => database(error),
    }
}

impl Store for SqliteStore {
    fn create_registration_key(&self, key: NewRegistrationKey) -> Answer<'_, ()> {
        Box::pin(self.write(move |conn| Box::pin(enrol::create_key(conn, key))))
    }

    fn registration_key<'a>(&'a self, key: &'a str) -> Answer<'a, Option<StoredKey>> {
        Box::pin(enrol::find_key(&self.readers, key))
    }

    fn revoke_registration_key<'a>(&'a self, key: &'a str) -> Answer<'a, bool> {
        let key = key.to_owned();
        Box::pin(self.write(move |conn| Box::pin(enrol::revoke_key(conn, key))))
    }

    fn enrol(&self, enrolment: Enrolment) -> Answer<'_, EnrolEnd> {
        Box::pin(self.write(move |conn| Box::pin(enrol::enrol(conn, enrolment))))
    }

    fn approve_server<'a>(&'a self, server_id: &'a str, now_ms: i64) -> Answer<'a, bool> {
        let server_id = server_id.to_owned();
        Box::pin(self.write(move |conn| Box::pin(lifecycle::approve(conn, server_id, now_ms))))
    }

    fn revoke_server<'a>(
        &'a self,
        server_id: &'a str,
        reason: &'a str,
        now_ms: i64,
    ) -> Answer<'a, bool> {
        let (server_id, reason) = (server_id.to_owned(), reason.to_owned());
        Box::pin(
            self.write(move |conn| Box::pin(lifecycle::revoke(conn, server_id, reason, now_ms))),
        )
    }

    fn server_by_key(&self, key_id: Digest) -> Answer<'_, Option<KnownServer>> {
        Box::pin(keys::find_server(&self.readers, key_id))
    }

    fn server_by_id<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<KnownServer>> {
        Box::pin(keys::find_current(&self.readers, server_id))
    }

    fn introduce(&self, introduced: Introduced) -> Answer<'_, bool> {
        Box::pin(self.write(move |conn| Box::pin(keys::introduce(conn, introduced))))
    }

    fn exchange(&self, server_id: String, wants: Wants, decide: Decide) -> Answer<'_, Decision> {
        Box::pin(self.write(move |conn| {
            Box::pin(async move {
                let snapshot = exchange::load(conn, &server_id, wants).await?;
                let mut decision = decide(&snapshot);
                let effects = std::mem::take(&mut decision.effects);
                effects::apply(conn, &server_id, effects).await?;
                Ok(decision)
            })
        }))
    }

    fn record_event(&self, event: NewEvent) -> Answer<'_, ()> {
        Box::pin(
            self.write(move |conn| Box::pin(async move { events::record(conn, &event).await })),
        )
    }

    fn record_bad_heartbeat(&self, server_id: String, at_ms: i64) -> Answer<'_, ()> {
        Box::pin(self.write(move |conn| Box::pin(effects::bad_heartbeat(conn, server_id, at_ms))))
    }

    fn queue_challenge<'a>(
        &'a self,
        server_id: &'a str,
        challenge: NewChallenge,
    ) -> Answer<'a, Uuid> {
        let server_id = server_id.to_owned();
        Box::pin(self.write(move |conn| Box::pin(directives::queue(conn, server_id, challenge))))
    }

    fn queue_rotation<'a>(
        &'a self,
        server_id: &'a str,
        rotation: NewRotation,
    ) -> Answer<'a, Option<Uuid>> {
        let server_id = server_id.to_owned();
        Box::pin(self.write(move |conn| {
            Box::pin(async move { directives::queue_rotation(conn, &server_id, rotation).await })
        }))
    }

    fn unresolved_clone<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<SuspicionRow>> {
        Box::pin(clones::unresolved(&self.readers, server_id))
    }

    fn resolve_clone(&self, decision: CloneResolution) -> Answer<'_, bool> {
        Box::pin(self.write(move |conn| Box::pin(clones::resolve(conn, decision))))
    }

    fn servers_to_wake(&self, now_ms: i64, since_ms: i64) -> Answer<'_, Vec<String>> {
        Box::pin(directives::waiting(&self.readers, now_ms, since_ms))
    }

    fn take_directives<'a>(
        &'a self,
        server_id: &'a str,
        now_ms: i64,
    ) -> Answer<'a, Vec<OpenDirective>> {
        let server_id = server_id.to_owned();
        Box::pin(self.write(move |conn| Box::pin(directives::take(conn, server_id, now_ms))))
    }

    fn verification(&self, challenge: Uuid) -> Answer<'_, Option<VerificationRow>> {
        Box::pin(directives::verification(&self.readers, challenge))
    }

    fn permit_rehost<'a>(&'a self, server_id: &'a str, permit: RehostPermit) -> Answer<'a, bool> {
        let server_id = server_id.to_owned();
        Box::pin(self.write(move |conn| Box::pin(hardware::permit(conn, server_id, permit))))
    }

    fn enrolled_hardware<'a>(&'a self, server_id: &'a str) -> Answer<'a, Option<String>> {
        Box::pin(hardware::enrolled(&self.readers, server_id))
    }

    fn list_hardware_log<'a>(
        &'a self,
        server_id: &'a str,
        limit: u32,
    ) -> Answer<'a, Vec<HardwareLogRow>> {
        Box::pin(hardware::log(&self.readers, server_id, limit))
    }

    fn expire_grace(&self, now_ms: i64) -> Answer<'_, u64> {
        Box::pin(self.write(move |conn| Box::pin(hardware::expire_grace(conn, now_ms))))
    }

    fn expire_availability(&self, before_ms: i64) -> Answer<'_, u64> {
        Box::pin(self.write(move |conn| Box::pin(effects::expire_availability(conn, before_ms))))
    }

    fn list_registration_keys(&self) -> Answer<'_, Vec<RegistrationKeyRow>> {
        Box::pin(lists::registration_keys(&self.readers))
    }

    fn list_servers(&self) -> Answer<'_, Vec<ServerRow>> {
        Box::pin(lists::servers(&self.readers))
    }

    fn list_heartbeats<'a>(
        &'a self,
        server_id: Option<&'a str>,
        limit: u32,
    ) -> Answer<'a, Vec<HeartbeatRow>> {
        Box::pin(lists::heartbeats(&self.readers, server_id, limit))
    }

    fn list_events(&self, filter: EventFilter) -> Answer<'_, Vec<EventRow>> {
        Box::pin(events::list(&self.readers, filter))
    }

    fn event(&self, event_id: i64) -> Answer<'_, Option<EventRow>> {
        Box::pin(events::one(&self.readers, event_id))
    }

    fn handle_events(&self, handling: Handling) -> Answer<'_, HandleEnd> {
        Box::pin(self.write(move |conn| Box::pin(events::handle(conn, handling))))
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.writer.close().await;
            self.readers.close().await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    #[tokio::test]
    async fn fulfils_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let store = SqliteStore::create(&path).await.unwrap();
        contract::all(&store).await;
        store.close().await.unwrap();
        // What was acknowledged is there after a restart.
        let again = SqliteStore::open(&path).await.unwrap();
        contract::after_restart(&again).await;
    }

    #[tokio::test]
    async fn one_of_a_thousand_racers_wins_also_between_two_processes() {
        let dir = tempfile::tempdir().unwrap();
        let alone = SqliteStore::create(&dir.path().join("alone.db")).await;
        contract::racers::one_of_a_thousand_wins(&[&alone.unwrap()]).await;
        let path = dir.path().join("shared.db");
        let one = SqliteStore::create(&path).await.unwrap();
        // As another process has it: a handle with a writer of its own.
        let other = SqliteStore::open(&path).await.unwrap();
        contract::racers::one_of_a_thousand_wins(&[&one, &other]).await;
    }

    #[tokio::test]
    async fn a_missing_database_is_not_made_by_accident() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.db");
        let Err(error) = SqliteStore::open(&path).await else {
            panic!("opened a database that is not there");
        };
        assert!(error.to_string().contains("init"), "{error}");
        assert!(!path.exists());
    }
}
