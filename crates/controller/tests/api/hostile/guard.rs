//! Whether anything was written: the hash of the whole store, and a cheap sign that it cannot have
//! changed. Also sets a store back, after what may lawfully change it.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use vpn_node_protocol::encoding::Digest;

/// Left out of the hash, because their purpose is to record what was refused: all security events,
/// and heartbeats whose signature did not hold; with them the counters of their row numbers.
const EVENTS: &str = "security_events";
const HEARTBEATS: &str = "heartbeats";
const COUNTERS: &str = "sqlite_sequence";
/// Whose rows are taken back one by one; their counters stay where they are.
const TAKEN_BACK: [&str; 2] = ["ahead_digests", "clone_suspicions"];

/// A connection of its own to the controller's database.
pub(super) struct Guard {
    connection: SqliteConnection,
    /// One query for each table, in the order of their names: all rows as text, sorted.
    queries: Vec<String>,
    set_back: String,
    /// `PRAGMA data_version`: another value says that another connection has committed a change,
    /// the same one that none has (sqlite.org/pragma.html).
    version: i64,
    hash: Digest,
    /// How often the hash was computed.
    pub(super) hashed: u64,
}

impl Guard {
    /// Takes the store as it is now for what it must stay.
    pub(super) async fn new(database: &Path) -> Self {
        let mut connection = SqliteConnectOptions::new()
            .filename(database)
            .foreign_keys(false)
            .connect()
            .await
            .unwrap();
        let copy = database.with_extension("before");
        let attach = format!("VACUUM INTO '{0}'; ATTACH '{0}' AS before", copy.display());
        sqlx::raw_sql(AssertSqlSafe(attach))
            .execute(&mut connection)
            .await
            .unwrap();
        let tables = texts(
            &mut connection,
            "SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name",
        )
        .await;
        let mut queries = vec![];
        let mut set_back = String::from("BEGIN IMMEDIATE;");
        for table in &tables {
            set_back.push_str(&format!(
                "DELETE FROM main.\"{table}\";
                 INSERT INTO main.\"{table}\" SELECT * FROM before.\"{table}\";"
            ));
            queries.extend(query(&mut connection, table).await);
        }
        set_back.push_str("COMMIT");
        let mut guard = Self {
            connection,
            queries,
            set_back,
            version: 0,
            hash: Digest::of(&[]),
            hashed: 0,
        };
        guard.version = guard.version_now().await;
        guard.hash = guard.hash_now().await;
        guard
    }

    /// SHA-256 over all rows of all tables.
    pub(super) async fn hash_now(&mut self) -> Digest {
        self.hashed += 1;
        let mut rows = String::new();
        for query in &self.queries {
            rows.push_str(query);
            for row in texts(&mut self.connection, query).await {
                rows.push('\n');
                rows.push_str(&row);
            }
        }
        Digest::of(&[rows.as_bytes()])
    }

    /// Whether the store is what it was. Without any commit since the last question it is; else
    /// the hash tells (an event may have been recorded).
    pub(super) async fn is_unchanged(&mut self) -> bool {
        let version = self.version_now().await;
        if version == self.version {
            return true;
        }
        self.version = version;
        self.is_unchanged_by_hash().await
    }

    /// The same by the hash alone, which asks nothing of `data_version`.
    pub(super) async fn is_unchanged_by_hash(&mut self) -> bool {
        self.hash_now().await == self.hash
    }

    /// What the store is now counts from now on. Returns whether it is another one than before.
    pub(super) async fn take_as_it_is(&mut self) -> bool {
        let before = self.hash;
        self.version = self.version_now().await;
        self.hash = self.hash_now().await;
        self.hash != before
    }

    /// Takes a quarantine of this server back: the status with what follows from it, and who the two
    /// holders are.
    pub(super) async fn lift_quarantine(&mut self, server_id: &str) {
        self.change_one(&format!(
            "UPDATE main.servers SET
                 (status, status_reason, status_changed_at, authorisation,
                  grace_period_enabled, grace_period_expires_at) =
                 (SELECT status, status_reason, status_changed_at, authorisation,
                         grace_period_enabled, grace_period_expires_at
                  FROM before.servers b
                  WHERE b.server_id = main.servers.server_id)
             WHERE status = 'quarantined' AND server_id = '{server_id}'"
        ))
        .await;
        self.change_one(&format!(
            "DELETE FROM main.clone_suspicions WHERE server_id = '{server_id}' AND status = 'open'"
        ))
        .await;
    }

    /// Forgets a request that was refused as ahead.
    pub(super) async fn forget_ahead(&mut self, digest: Digest) {
        self.change_one(&format!(
            "DELETE FROM main.ahead_digests WHERE digest = '{digest}'"
        ))
        .await;
    }

    async fn change_one(&mut self, sql: &str) {
        let done = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .execute(&mut self.connection)
            .await;
        assert_eq!(done.unwrap().rows_affected(), 1, "{sql}");
    }

    /// Writes everything as it was.
    pub(super) async fn set_back(&mut self) {
        sqlx::raw_sql(AssertSqlSafe(self.set_back.clone()))
            .execute(&mut self.connection)
            .await
            .unwrap();
        self.version = self.version_now().await;
        assert!(self.is_unchanged_by_hash().await, "not set back");
    }

    /// The first column of the first row.
    pub(super) async fn ask(&mut self, sql: &str) -> String {
        texts(&mut self.connection, sql).await.swap_remove(0)
    }

    async fn version_now(&mut self) -> i64 {
        sqlx::query_scalar("PRAGMA main.data_version")
            .fetch_one(&mut self.connection)
            .await
            .unwrap()
    }
}

async fn query(connection: &mut SqliteConnection, table: &str) -> Option<String> {
    let which = match table {
        EVENTS => return None,
        HEARTBEATS => "WHERE signature_valid".to_owned(),
        COUNTERS => format!(
            "WHERE name NOT IN ('{EVENTS}', '{HEARTBEATS}', '{}')",
            TAKEN_BACK.join("', '")
        ),
        _ => String::new(),
    };
    let columns = format!("SELECT 'quote(\"' || name || '\")' FROM pragma_table_info('{table}')");
    let columns = texts(connection, &columns).await.join(" || ',' || ");
    Some(format!(
        "SELECT {columns} FROM main.\"{table}\" {which} ORDER BY 1"
    ))
}

async fn texts(connection: &mut SqliteConnection, sql: &str) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
        .fetch_all(connection)
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
