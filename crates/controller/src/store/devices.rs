//! Personal keys, devices and their identities: the part of the store that knows whose a connection
//! is, and who may not be connected any more.

use serde::Serialize;
use uuid::Uuid;

use super::Answer;
use crate::rules::devices::{IdentityKind, Revoked};

/// Users' keys, their devices, and what VPN daemons call those.
pub trait DeviceStore: Send + Sync {
    /// Adds a personal key.
    fn create_personal_key(&self, key: NewPersonalKey) -> Answer<'_, ()>;
    /// Gives a personal key another secret; `false` when there is none that may have one.
    fn rotate_personal_key(&self, rotated: RotatedKey) -> Answer<'_, bool>;
    /// Personal keys by user: all, or those that `named` may mean: an id, the beginning of one, or
    /// a user's name.
    fn personal_keys<'a>(&'a self, named: Option<&'a str>) -> Answer<'a, Vec<PersonalKeyRow>>;
    /// Adds a device to a personal key; `false` when that is not active.
    fn add_device(&self, device: NewDevice) -> Answer<'_, bool>;
    /// Devices by name: all, or those that `named` may mean: an id, the beginning of one, or a
    /// device's name.
    fn devices<'a>(&'a self, named: Option<&'a str>) -> Answer<'a, Vec<DeviceRow>>;
    /// What VPN daemons call a device.
    fn identities<'a>(&'a self, device_id: &'a str) -> Answer<'a, Vec<IdentityRow>>;
    /// Gives a device an identity, and all connections with it that were nobody's.
    fn add_identity(&self, identity: NewIdentity) -> Answer<'_, IdentityEnd>;
    /// Takes an identity from a device; connections that it has already stay its own. `false` when
    /// it does not have that identity.
    fn remove_identity(&self, identity: NewIdentity) -> Answer<'_, bool>;
    /// Refuses a device or a personal key for ever, and has its connections ended; `None` when
    /// there is none, or it is revoked already.
    fn revoke(&self, revocation: Revocation) -> Answer<'_, Option<Asked>>;
    /// Personal keys whose time is over by now, and connections that are up although their device
    /// or key is refused, of hosts that were heard since `heard_since_ms`: they are to be ended.
    fn refuse_holders(&self, now_ms: i64, heard_since_ms: i64) -> Answer<'_, Swept>;
}

/// A new personal key: the hash of its secret only.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct NewPersonalKey {
    pub key_id: String,
    pub user_name: String,
    pub user_email: Option<String>,
    pub key_hash: String,
    pub key_salt: String,
    pub created_ms: i64,
    pub expires_ms: Option<i64>,
    pub notes: Option<String>,
}

/// Another secret for a personal key.
#[derive(Clone, Debug)]
pub struct RotatedKey {
    /// Which.
    pub key_id: String,
    /// Of the new secret.
    pub key_hash: String,
    /// Of the new hash.
    pub key_salt: String,
    /// When.
    pub at_ms: i64,
    /// Its new end, which also revives a key whose time is over; `None` leaves the old one.
    pub expires_ms: Option<i64>,
}

/// A new device.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct NewDevice {
    pub device_id: String,
    pub key_id: String,
    pub hardware_fingerprint: String,
    pub device_name: String,
    pub platform: String,
    pub at_ms: i64,
}

/// What a VPN daemon calls a device.
#[derive(Clone, Debug)]
pub struct NewIdentity {
    /// What the text is.
    pub kind: IdentityKind,
    /// As [`IdentityKind::written`] gives it.
    pub identity: String,
    /// Whose.
    pub device_id: String,
    /// When.
    pub at_ms: i64,
}

/// What came of giving a device an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityEnd {
    /// It has it now.
    Added {
        /// So many connections were nobody's, and are the device's now.
        filled: u64,
        /// Those of them that are to be ended, because the device is refused.
        asked: Asked,
    },
    /// It had it before.
    Already,
    /// Another device has it.
    Other {
        /// Its id.
        device_id: String,
        /// Its name.
        device_name: Option<String>,
    },
}

/// An operator revokes a device or a personal key.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Who.
    pub whom: Revoked,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: i64,
}

/// Connections that hosts were asked to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The connections.
    pub connections: Vec<Uuid>,
    /// The directives that name them; one may be older.
    pub directives: Vec<Uuid>,
    /// Connections that nobody can be asked to end.
    pub not_asked: Vec<NotAsked>,
}

/// A connection whose host cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotAsked {
    /// Which.
    pub connection_id: Uuid,
    /// Its host.
    pub hostname: String,
    /// The status of its server: `quarantined` or `revoked`.
    pub status: String,
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Personal keys whose time is over.
    pub expired: usize,
    /// Connections that are to be ended.
    pub asked: usize,
}

/// A row of `personal_keys`. What stands for the secret is not printed with it.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct PersonalKeyRow {
    pub key_id: String,
    pub user_name: String,
    pub user_email: Option<String>,
    #[serde(skip)]
    pub key_hash: String,
    pub status: String,
    pub status_reason: Option<String>,
    pub status_changed_at: Option<String>,
    pub creation_date: String,
    pub expiration_date: Option<String>,
    pub last_rotation_date: Option<String>,
    pub notes: Option<String>,
    /// How many devices it has.
    pub devices: i64,
    /// How many of its connections are up.
    pub active_connections: i64,
}

/// A row of `devices`, with whose it is.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct DeviceRow {
    pub device_id: String,
    pub key_id: Option<String>,
    pub user_name: Option<String>,
    pub hardware_fingerprint: String,
    pub device_name: Option<String>,
    pub platform: String,
    pub first_seen: String,
    pub last_seen: String,
    pub status: String,
    pub status_reason: Option<String>,
    pub status_changed_at: Option<String>,
    /// Status of its personal key.
    pub key_status: Option<String>,
    /// How many identities it has.
    pub identities: i64,
    /// How many of its connections are up.
    pub active_connections: i64,
}

/// A row of `device_identities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
#[expect(missing_docs, reason = "the columns are described in the schema")]
pub struct IdentityRow {
    pub identity_kind: String,
    pub identity: String,
    pub device_id: String,
    pub created_at: String,
}
