//! The controller's table of releases, made to say what verified metadata says.

use vpn_node_release::bundle::Signed;

use super::check;
use super::error::ReleaseError;
use super::tree::{Published, Tree};
use crate::clock;
use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;
use crate::store::{Mirror, MirrorEnd, ReleaseRow, Store, StoreError};

/// Why the table does not follow.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The repository.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads what is published, verifies it, and makes the table follow, with an event for each kind of
/// change.
///
/// # Errors
/// [`MirrorError`]; the table is as it was.
pub async fn mirror(store: &dyn Store, tree: &Tree, now_ms: i64) -> Result<MirrorEnd, MirrorError> {
    let Some(published) = tree.load_optional()? else {
        return Ok(MirrorEnd::default());
    };
    let releases = rows(&published, now_ms)?;
    let end = store.mirror_releases(Mirror { releases }).await?;
    let event = |event_type, description| NewEvent {
        event_type,
        source_id: None,
        description,
        at_ms: now_ms,
    };
    if !end.mismatched.is_empty() {
        let what = format!("refused: {}", end.mismatched.join(", "));
        store
            .record_event(event(EventType::ReleaseRowMismatch, what))
            .await?;
    }
    if !end.added.is_empty() || !end.revoked.is_empty() {
        let mut parts = Vec::new();
        for (word, paths) in [
            ("published", &end.added),
            ("not signed any more", &end.revoked),
        ] {
            if !paths.is_empty() {
                parts.push(format!("{word}: {}", paths.join(", ")));
            }
        }
        let what = parts.join("; ");
        store
            .record_event(event(EventType::ReleasePublished, what))
            .await?;
    }
    Ok(end)
}

fn rows(published: &Published, now_ms: i64) -> Result<Vec<ReleaseRow>, ReleaseError> {
    let Some(targets) = &published.targets else {
        return Ok(Vec::new());
    };
    let envelope = String::from_utf8_lossy(&targets.bytes);
    let version = number(targets.role.header.version);
    let releases = check::releases(&targets.role)?;
    Ok(releases
        .iter()
        .map(|signed| row(signed, &envelope, version, now_ms))
        .collect())
}

fn row(signed: &Signed, envelope: &str, targets_version: i64, now_ms: i64) -> ReleaseRow {
    let info = signed.info();
    ReleaseRow {
        update_id: clock::uuid_v7(now_ms).to_string(),
        version: info.version.to_string(),
        release_date: clock::to_text(info.released.as_millisecond()),
        package_hash: signed.sha256().to_string(),
        signature: envelope.to_owned(),
        update_description: Some(info.description.clone()),
        mandatory: info.mandatory,
        min_version_required: info.min_version_required.as_ref().map(ToString::to_string),
        target_path: info.target_path(),
        length: number(signed.length()),
        os: info.os.to_string(),
        arch: info.arch.to_string(),
        channel: info.channel.to_string(),
        counter: number(info.counter),
        security_floor: info.security_floor.to_string(),
        targets_version,
        state: "published".to_owned(),
    }
}

/// All of these are below 2^53.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
