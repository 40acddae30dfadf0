//! Rows as the operator's commands show them: field names are column names.

use serde::Serialize;

/// A row of `registration_keys`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct RegistrationKeyRow {
    pub registration_key: String,
    pub creation_date: String,
    pub expiration_date: Option<String>,
    pub used: bool,
    pub used_by_server_id: Option<String>,
    pub used_date: Option<String>,
    pub notes: Option<String>,
    pub status: String,
    pub for_server_id: Option<String>,
}

/// A row of `servers`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct ServerRow {
    pub server_id: String,
    pub hostname: String,
    pub public_ip: String,
    pub public_key: String,
    pub version: String,
    pub location: Option<String>,
    pub registration_date: String,
    pub last_heartbeat: Option<String>,
    pub status: String,
    pub status_reason: Option<String>,
    pub status_changed_at: Option<String>,
    pub available: bool,
    pub registered_with_key: Option<String>,
    pub verification_hash: String,
    pub identity_key_id: String,
    pub key_epoch: i64,
    pub next_key_id: Option<String>,
    pub os_version: Option<String>,
    pub verdict: String,
    pub verdict_reason: Option<String>,
    pub authorisation: String,
    pub hardware_verification_status: String,
    pub last_hardware_verification_at: Option<String>,
    pub grace_period_enabled: bool,
    pub grace_period_expires_at: Option<String>,
    pub grace_period_usage_count: i64,
    pub rehost_permitted_until: Option<String>,
    pub active_connections: i64,
    /// The host's clock minus the controller's in milliseconds, by its last heartbeat.
    pub clock_offset_ms: Option<i64>,
}

/// A row of `heartbeats`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct HeartbeatRow {
    pub heartbeat_id: i64,
    pub server_id: String,
    pub received_time: String,
    pub signature_valid: bool,
    pub active_connections: i64,
    pub current_location: Option<String>,
    pub system_metrics: Option<String>,
}

/// A row of `security_events`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct EventRow {
    pub event_id: i64,
    pub timestamp: String,
    pub event_type: String,
    pub severity: String,
    pub component: String,
    pub source_id: Option<String>,
    pub description: String,
    pub handled: bool,
    pub handled_by: Option<String>,
    pub handling_notes: Option<String>,
    pub user_name: Option<String>,
    pub handled_at: Option<String>,
    pub handled_by_user: Option<String>,
}

/// A row of `hardware_verification_log`. Serial numbers are not printed with it.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct HardwareLogRow {
    pub id: String,
    pub server_id: String,
    pub hardware_id: String,
    #[serde(skip)]
    pub raw_components: Option<String>,
    pub verification_result: Option<String>,
    pub error_details: Option<String>,
    pub client_ip: Option<String>,
    pub os_version: Option<String>,
    pub verified_at: Option<String>,
    pub created_at: Option<String>,
}

/// A row of `server_verifications`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct VerificationRow {
    pub verification_id: i64,
    pub server_id: String,
    pub verification_time: String,
    pub challenge_id: String,
    pub purpose: String,
    pub verification_result: Option<bool>,
    pub verification_method: String,
    pub failure_reason: Option<String>,
    pub detail: Option<String>,
}

/// A row of `clone_suspicions`.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct SuspicionRow {
    pub suspicion_id: i64,
    pub server_id: String,
    pub seen_at: String,
    pub likely: String,
    pub reason: String,
    pub first_seq: i64,
    pub first_seen_at: Option<String>,
    pub first_peer_ip: String,
    pub first_boot_id: Option<String>,
    pub second_seq: i64,
    pub second_peer_ip: String,
    pub second_boot_id: String,
    pub status: String,
    pub kept: Option<String>,
    pub resolved_at: Option<String>,
}
