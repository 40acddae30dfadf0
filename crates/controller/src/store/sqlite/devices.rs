//! Personal keys, devices, identities: their rows.

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::map::database;
use super::{SqliteStore, holders};
use crate::clock::to_text;
use crate::rules::devices::Revoked;
use crate::rules::state::word;
use crate::store::{
    Answer, Asked, DeviceRow, DeviceStore, IdentityEnd, IdentityRow, NewDevice, NewIdentity,
    NewPersonalKey, PersonalKeyRow, Revocation, RotatedKey, StoreError, Swept,
};

/// Sorts behind every text that begins with what stands before it.
pub(super) const LAST: char = '\u{10ffff}';

impl DeviceStore for SqliteStore {
    fn create_personal_key(&self, key: NewPersonalKey) -> Answer<'_, ()> {
        Box::pin(self.write(move |conn| Box::pin(create_key(conn, key))))
    }

    fn rotate_personal_key(&self, rotated: RotatedKey) -> Answer<'_, bool> {
        Box::pin(self.write(move |conn| Box::pin(rotate_key(conn, rotated))))
    }

    fn personal_keys<'a>(&'a self, named: Option<&'a str>) -> Answer<'a, Vec<PersonalKeyRow>> {
        Box::pin(keys(&self.readers, named))
    }

    fn add_device(&self, device: NewDevice) -> Answer<'_, bool> {
        Box::pin(self.write(move |conn| Box::pin(add_device(conn, device))))
    }

    fn devices<'a>(&'a self, named: Option<&'a str>) -> Answer<'a, Vec<DeviceRow>> {
        Box::pin(devices(&self.readers, named))
    }

    fn identities<'a>(&'a self, device_id: &'a str) -> Answer<'a, Vec<IdentityRow>> {
        Box::pin(identities(&self.readers, device_id))
    }

    fn add_identity(&self, identity: NewIdentity) -> Answer<'_, IdentityEnd> {
        Box::pin(self.write(move |conn| Box::pin(add_identity(conn, identity))))
    }

    fn remove_identity(&self, identity: NewIdentity) -> Answer<'_, bool> {
        Box::pin(self.write(move |conn| Box::pin(remove_identity(conn, identity))))
    }

    fn revoke(&self, revocation: Revocation) -> Answer<'_, Option<Asked>> {
        Box::pin(self.write(move |conn| Box::pin(holders::revoke(conn, revocation))))
    }

    fn refuse_holders(&self, now_ms: i64, heard_since_ms: i64) -> Answer<'_, Swept> {
        Box::pin(
            self.write(move |conn| Box::pin(holders::refuse_all(conn, now_ms, heard_since_ms))),
        )
    }
}

async fn create_key(conn: &mut SqliteConnection, key: NewPersonalKey) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO personal_keys
             (key_id, user_name, user_email, key_hash, key_salt, creation_date, expiration_date,
              notes)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&key.key_id)
    .bind(&key.user_name)
    .bind(&key.user_email)
    .bind(&key.key_hash)
    .bind(&key.key_salt)
    .bind(to_text(key.created_ms))
    .bind(key.expires_ms.map(to_text))
    .bind(&key.notes)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

/// The old secret ends with this. A key whose time is over comes back with a new end only.
async fn rotate_key(conn: &mut SqliteConnection, key: RotatedKey) -> Result<bool, StoreError> {
    sqlx::query(
        "UPDATE personal_keys
         SET key_hash = ?2, key_salt = ?3, last_rotation_date = ?4,
             expiration_date = COALESCE(?5, expiration_date), status = 'active',
             status_reason = NULL,
             status_changed_at = CASE status WHEN 'active' THEN status_changed_at ELSE ?4 END
         WHERE key_id = ?1 AND status <> 'revoked'
           AND (?5 IS NOT NULL
                OR (status = 'active' AND (expiration_date IS NULL OR expiration_date > ?4)))",
    )
    .bind(&key.key_id)
    .bind(&key.key_hash)
    .bind(&key.key_salt)
    .bind(to_text(key.at_ms))
    .bind(key.expires_ms.map(to_text))
    .execute(conn)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(database)
}

async fn keys(pool: &SqlitePool, named: Option<&str>) -> Result<Vec<PersonalKeyRow>, StoreError> {
    sqlx::query_as(
        "SELECT k.*,
                (SELECT COUNT(*) FROM devices d WHERE d.key_id = k.key_id) AS devices,
                (SELECT COUNT(*) FROM connections c
                 WHERE c.key_id = k.key_id AND c.status = 'active') AS active_connections
         FROM personal_keys k
         WHERE ?1 IS NULL OR k.user_name = ?1 OR (k.key_id >= ?1 AND k.key_id < ?2)
         ORDER BY k.user_name, k.creation_date, k.key_id",
    )
    .bind(named)
    .bind(named.map(|named| format!("{named}{LAST}")))
    .fetch_all(pool)
    .await
    .map_err(database)
}

async fn add_device(conn: &mut SqliteConnection, device: NewDevice) -> Result<bool, StoreError> {
    sqlx::query(
        "INSERT INTO devices
             (device_id, key_id, hardware_fingerprint, device_name, platform, first_seen, last_seen)
         SELECT ?1, key_id, ?3, ?4, ?5, ?6, ?6 FROM personal_keys
         WHERE key_id = ?2 AND status = 'active'
           AND (expiration_date IS NULL OR expiration_date > ?6)",
    )
    .bind(&device.device_id)
    .bind(&device.key_id)
    .bind(&device.hardware_fingerprint)
    .bind(&device.device_name)
    .bind(&device.platform)
    .bind(to_text(device.at_ms))
    .execute(conn)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(database)
}

async fn devices(pool: &SqlitePool, named: Option<&str>) -> Result<Vec<DeviceRow>, StoreError> {
    sqlx::query_as(
        "SELECT d.*, k.user_name, k.status AS key_status,
                (SELECT COUNT(*) FROM device_identities i WHERE i.device_id = d.device_id)
                    AS identities,
                (SELECT COUNT(*) FROM connections c
                 WHERE c.device_id = d.device_id AND c.status = 'active') AS active_connections
         FROM devices d LEFT JOIN personal_keys k ON k.key_id = d.key_id
         WHERE ?1 IS NULL OR d.device_name = ?1 OR (d.device_id >= ?1 AND d.device_id < ?2)
         ORDER BY d.device_name, d.device_id",
    )
    .bind(named)
    .bind(named.map(|named| format!("{named}{LAST}")))
    .fetch_all(pool)
    .await
    .map_err(database)
}

async fn identities(pool: &SqlitePool, device_id: &str) -> Result<Vec<IdentityRow>, StoreError> {
    sqlx::query_as(
        "SELECT * FROM device_identities WHERE device_id = ? ORDER BY identity_kind, identity",
    )
    .bind(device_id)
    .fetch_all(pool)
    .await
    .map_err(database)
}

async fn add_identity(
    conn: &mut SqliteConnection,
    new: NewIdentity,
) -> Result<IdentityEnd, StoreError> {
    let holder: Option<(String, Option<String>)> = sqlx::query_as(
        "SELECT d.device_id, d.device_name
         FROM device_identities i JOIN devices d ON d.device_id = i.device_id
         WHERE i.identity_kind = ? AND i.identity = ?",
    )
    .bind(word(&new.kind))
    .bind(&new.identity)
    .fetch_optional(&mut *conn)
    .await
    .map_err(database)?;
    match holder {
        Some((device_id, _)) if device_id == new.device_id => return Ok(IdentityEnd::Already),
        Some((device_id, device_name)) => {
            return Ok(IdentityEnd::Other {
                device_id,
                device_name,
            });
        }
        None => {}
    }
    sqlx::query(
        "INSERT INTO device_identities (identity_kind, identity, device_id, created_at)
         VALUES (?, ?, ?, ?)",
    )
    .bind(word(&new.kind))
    .bind(&new.identity)
    .bind(&new.device_id)
    .bind(to_text(new.at_ms))
    .execute(&mut *conn)
    .await
    .map_err(database)?;
    let filled = holders::fill(conn, &new).await?;
    let device = Revoked::Device(new.device_id);
    let asked = holders::end_if_refused(conn, &device, new.at_ms).await?;
    Ok(IdentityEnd::Added { filled, asked })
}

async fn remove_identity(
    conn: &mut SqliteConnection,
    old: NewIdentity,
) -> Result<bool, StoreError> {
    sqlx::query(
        "DELETE FROM device_identities
         WHERE identity_kind = ? AND identity = ? AND device_id = ?",
    )
    .bind(word(&old.kind))
    .bind(&old.identity)
    .bind(&old.device_id)
    .execute(conn)
    .await
    .map(|done| done.rows_affected() == 1)
    .map_err(database)
}
