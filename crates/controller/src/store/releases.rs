//! Releases: the part of the store that mirrors what is signed. The signed metadata is the truth;
//! the rows exist so that rollouts and queries can refer to them.

use serde::Serialize;

use super::Answer;

/// Releases as the database knows them.
pub trait ReleaseStore: Send + Sync {
    /// Makes the rows say what verified metadata says. A row that says something else about a
    /// release that is signed is refused (state `refused`) and never used again.
    fn mirror_releases(&self, mirror: Mirror) -> Answer<'_, MirrorEnd>;
    /// All rows that mirror signed metadata, the newest version of the list first.
    fn releases(&self) -> Answer<'_, Vec<ReleaseRow>>;
}

/// What verified metadata says.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// All signed releases.
    pub releases: Vec<ReleaseRow>,
}

/// What a mirroring came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorEnd {
    /// Target paths of rows that are new.
    pub added: Vec<String>,
    /// Target paths of rows whose release is not signed any more.
    pub revoked: Vec<String>,
    /// Target paths of rows that said other things than what is signed, and are refused now.
    pub mismatched: Vec<String>,
}

/// A row of `server_updates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct ReleaseRow {
    /// Its id; rollouts name it.
    pub update_id: String,
    /// Its version.
    pub version: String,
    /// When it was released.
    pub release_date: String,
    /// SHA-256 of the package, in hexadecimal.
    pub package_hash: String,
    /// The envelope of the targets metadata that first named it.
    pub signature: String,
    /// What is new.
    pub update_description: Option<String>,
    /// Whether it does not wait for a maintenance window.
    pub mandatory: bool,
    /// The lowest version that may run before it.
    pub min_version_required: Option<String>,
    /// Its TUF target.
    pub target_path: String,
    /// Bytes of the package.
    pub length: i64,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Its channel.
    pub channel: String,
    /// Its counter.
    pub counter: i64,
    /// The lowest version that stays allowed after it.
    pub security_floor: String,
    /// Version of the targets metadata that names it.
    pub targets_version: i64,
    /// `published`, `revoked` (not signed any more) or `refused` (the row was changed).
    pub state: String,
}

impl ReleaseRow {
    /// Whether both say the same about what never changes for a counter.
    #[must_use]
    pub fn is_same_release(&self, other: &Self) -> bool {
        let fixed = |row: &Self| {
            (
                row.version.clone(),
                row.release_date.clone(),
                row.package_hash.clone(),
                row.update_description.clone(),
                row.mandatory,
                row.min_version_required.clone(),
                row.length,
                (row.os.clone(), row.arch.clone(), row.channel.clone()),
            )
        };
        fixed(self) == fixed(other)
    }
}
