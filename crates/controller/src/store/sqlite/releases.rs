//! Releases: rows that mirror signed metadata.

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::SqliteStore;
use super::map::database;
use crate::store::{Answer, Mirror, MirrorEnd, ReleaseRow, ReleaseStore, StoreError};

const ALL: &str = "SELECT update_id, version, release_date, package_hash, signature,
        update_description, mandatory, min_version_required, target_path, length, os, arch,
        channel, counter, security_floor, targets_version, state
    FROM server_updates WHERE target_path IS NOT NULL AND length IS NOT NULL AND os IS NOT NULL
        AND arch IS NOT NULL AND channel IS NOT NULL AND counter IS NOT NULL
        AND security_floor IS NOT NULL AND targets_version IS NOT NULL
    ORDER BY targets_version DESC, counter DESC, target_path";

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<ReleaseRow>, StoreError> {
    sqlx::query_as(ALL).fetch_all(pool).await.map_err(database)
}

/// One transaction: nobody sees half of a new list.
pub(super) async fn mirror(
    conn: &mut SqliteConnection,
    mirror: Mirror,
) -> Result<MirrorEnd, StoreError> {
    let rows: Vec<ReleaseRow> = sqlx::query_as(ALL)
        .fetch_all(&mut *conn)
        .await
        .map_err(database)?;
    let mut end = MirrorEnd::default();
    for signed in &mirror.releases {
        let mut known = Vec::new();
        for row in &rows {
            if is_of(row, signed) {
                known.push(row);
            }
        }
        if known.is_empty() {
            insert(conn, signed).await?;
            end.added.push(signed.target_path.clone());
        }
        for row in known {
            // The floor alone may rise with a later list of releases.
            let floor_fits = row.security_floor == signed.security_floor
                || row.targets_version < signed.targets_version;
            if !row.is_same_release(signed) || !floor_fits {
                if row.state != "refused" {
                    set_state(conn, row, "refused").await?;
                    end.mismatched.push(row.target_path.clone());
                }
            } else if row.state != "refused" {
                update(conn, row, signed).await?;
            }
        }
    }
    for row in &rows {
        let is_signed = mirror.releases.iter().any(|signed| is_of(row, signed));
        if !is_signed && row.state == "published" {
            set_state(conn, row, "revoked").await?;
            end.revoked.push(row.target_path.clone());
        }
    }
    Ok(end)
}

/// A counter of a line has one release for ever.
fn is_of(row: &ReleaseRow, signed: &ReleaseRow) -> bool {
    row.target_path == signed.target_path && row.counter == signed.counter
}

async fn insert(conn: &mut SqliteConnection, row: &ReleaseRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO server_updates
             (update_id, version, release_date, package_hash, signature, update_description,
              mandatory, min_version_required, target_path, length, os, arch, channel, counter,
              security_floor, targets_version, state)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'published')",
    )
    .bind(&row.update_id)
    .bind(&row.version)
    .bind(&row.release_date)
    .bind(&row.package_hash)
    .bind(&row.signature)
    .bind(&row.update_description)
    .bind(row.mandatory)
    .bind(&row.min_version_required)
    .bind(&row.target_path)
    .bind(row.length)
    .bind(&row.os)
    .bind(&row.arch)
    .bind(&row.channel)
    .bind(row.counter)
    .bind(&row.security_floor)
    .bind(row.targets_version)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

async fn update(
    conn: &mut SqliteConnection,
    row: &ReleaseRow,
    signed: &ReleaseRow,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE server_updates SET security_floor = ?, targets_version = ?, state = 'published'
         WHERE update_id = ?",
    )
    .bind(&signed.security_floor)
    .bind(signed.targets_version)
    .bind(&row.update_id)
    .execute(conn)
    .await
    .map(drop)
    .map_err(database)
}

async fn set_state(
    conn: &mut SqliteConnection,
    row: &ReleaseRow,
    state: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE server_updates SET state = ? WHERE update_id = ?")
        .bind(state)
        .bind(&row.update_id)
        .execute(conn)
        .await
        .map(drop)
        .map_err(database)
}

impl ReleaseStore for SqliteStore {
    fn mirror_releases(&self, mirror: Mirror) -> Answer<'_, MirrorEnd> {
        Box::pin(self.write(move |conn| Box::pin(self::mirror(conn, mirror))))
    }

    fn releases(&self) -> Answer<'_, Vec<ReleaseRow>> {
        Box::pin(all(&self.readers))
    }
}
