//! Connections as operators look at them, and as they end them.

use serde::Serialize;
use uuid::Uuid;

use super::Answer;
use super::devices::Asked;

/// Who is and was connected, what is lost, and what was asked to be ended.
pub trait ConnectionStore: Send + Sync {
    /// Connections, newest first.
    fn connections(&self, filter: ConnectionFilter) -> Answer<'_, Vec<ConnectionRow>>;
    /// Ranges of ledger records that nobody can read any more, newest first.
    fn gaps<'a>(&'a self, server_id: Option<&'a str>, limit: u32) -> Answer<'a, Vec<GapRow>>;
    /// Has a connection that is up ended, because an operator wants it. It is asked for once: a
    /// directive that is open already stands.
    fn disconnect(&self, connection_id: Uuid, now_ms: i64) -> Answer<'_, Asked>;
    /// What has become of connections that were to be ended.
    fn disconnections<'a>(&'a self, asked: &'a Asked) -> Answer<'a, Vec<DisconnectionRow>>;
    /// Every time that the end of a connection was asked for, the newest first.
    fn disconnections_of(&self, connection_id: Uuid) -> Answer<'_, Vec<DisconnectionRow>>;
    /// The VPN backends of a server.
    fn capabilities<'a>(&'a self, server_id: &'a str) -> Answer<'a, Vec<CapabilityRow>>;
}

/// Which connections are meant: those that match everything that is set.
#[derive(Clone, Debug, Default)]
pub struct ConnectionFilter {
    /// The connection of this id, or those whose id begins so.
    pub id: Option<String>,
    /// Of this server.
    pub server_id: Option<String>,
    /// Of this user.
    pub user_name: Option<String>,
    /// Of this device.
    pub device_id: Option<String>,
    /// Those that are up.
    pub active: bool,
    /// Those that are nobody's.
    pub unmapped: bool,
    /// The newest so many.
    pub limit: u32,
}

/// A row of `connections`, with the name of its device.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct ConnectionRow {
    pub connection_id: String,
    pub server_id: String,
    pub hostname: String,
    pub device_id: Option<String>,
    pub device_name: Option<String>,
    pub key_id: Option<String>,
    pub user_name: Option<String>,
    pub connection_start: String,
    pub connection_end: Option<String>,
    pub status: String,
    pub connection_type: String,
    pub client_ip: String,
    pub disconnection_reason: Option<String>,
    pub backend_instance: String,
    pub client_port: Option<i64>,
    pub client_identity_kind: Option<String>,
    pub client_identity: Option<String>,
    pub needs_mapping: bool,
    pub virtual_ips: String,
    pub rx_bytes: i64,
    pub tx_bytes: i64,
    pub end_confidence: Option<String>,
    pub end_uncertainty_ms: Option<i64>,
    pub last_event_at: String,
}

/// A row of `connection_gaps`, with the name of its host.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct GapRow {
    pub server_id: String,
    pub hostname: String,
    pub ledger_epoch: String,
    pub first_seq: i64,
    pub last_seq: i64,
    pub reason: String,
    pub reported_at: String,
}

impl GapRow {
    /// How many records are lost.
    #[must_use]
    pub fn records(&self) -> i64 {
        self.last_seq
            .saturating_sub(self.first_seq)
            .saturating_add(1)
    }
}

/// A connection that was to be ended, and what became of that.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct DisconnectionRow {
    pub connection_id: String,
    pub server_id: String,
    pub hostname: String,
    /// When the server was last heard.
    pub last_heartbeat: Option<String>,
    pub device_name: Option<String>,
    pub user_name: Option<String>,
    pub client_identity: Option<String>,
    pub status: String,
    pub connection_end: Option<String>,
    pub disconnection_reason: Option<String>,
    pub end_confidence: Option<String>,
    pub directive_id: String,
    /// `pending`, `applied`, `late`, `unsupported`, `failed` or `expired`.
    pub directive_status: String,
    pub disconnect_reason: String,
    pub issued_at: String,
    pub delivered_at: Option<String>,
    pub closed_at: Option<String>,
    pub outcome_detail: Option<String>,
}

impl DisconnectionRow {
    /// Whether nothing more will come of it: the row is over, or the host has said how it went. A
    /// host that says `applied` has its record of the end still on the way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.has_ended() || !matches!(self.directive_status.as_str(), "pending" | "applied")
    }

    /// Whether the connection is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.status == "ended"
    }

    /// Whether it is over by the word of the host at least.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.has_ended() || self.directive_status == "applied"
    }
}

/// A row of `server_capabilities`, with what the last heartbeat says of that backend.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct CapabilityRow {
    pub capability_type: String,
    pub instance: String,
    /// JSON.
    pub capability_details: serde_json::Value,
    pub enabled: bool,
    pub seen_at: Option<String>,
    /// As the host counts: live connections, and since its agent started.
    pub counts: Option<Counts>,
}

/// Connections and bytes of one backend, since the agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Connections that are up.
    pub active: u32,
    /// Connections that began.
    pub started: u64,
    /// Connections that ended.
    pub ended: u64,
    /// From clients.
    pub rx_bytes: u64,
    /// To clients.
    pub tx_bytes: u64,
    /// From clients, since the heartbeat before.
    pub rx_bytes_per_s: u64,
    /// To clients, since the heartbeat before.
    pub tx_bytes_per_s: u64,
}
