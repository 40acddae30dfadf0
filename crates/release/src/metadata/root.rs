//! Root metadata (section 4.3): which keys sign for the four roles.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::key::Signers;
use super::{Extra, Flaw, Header, Key, KeyId, Role, RoleKeys};
use crate::code::MetadataCode;
use crate::limits::MAX_KEYS;

/// One of the four top-level roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopRole {
    /// Says who signs for all of them.
    Root,
    /// Says which snapshot is the newest; expires soon.
    Timestamp,
    /// Says which versions of all targets metadata belong together.
    Snapshot,
    /// Says which packages exist.
    Targets,
}

impl TopRole {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Root, Self::Timestamp, Self::Snapshot, Self::Targets];

    /// Its name in metadata and file names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Timestamp => "timestamp",
            Self::Snapshot => "snapshot",
            Self::Targets => "targets",
        }
    }
}

/// Root metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What every role has.
    #[serde(flatten)]
    pub header: Header,
    /// Whether files are asked for with their version (or hash) before their name. Ours are.
    #[serde(default)]
    pub consistent_snapshot: bool,
    /// All public keys, by id.
    pub keys: BTreeMap<KeyId, Key>,
    /// Who signs for what. Names beyond [`TopRole`] are kept.
    pub roles: BTreeMap<String, RoleKeys>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Root {
    /// A root without keys: [`Self::set_role`] gives each of the four roles its own.
    #[must_use]
    pub fn new(version: u64, issued: jiff::Timestamp, expires: jiff::Timestamp) -> Self {
        Self {
            header: Header::new::<Self>(version, issued, expires),
            consistent_snapshot: true,
            keys: BTreeMap::new(),
            roles: BTreeMap::new(),
            extra: Extra::new(),
        }
    }

    /// From now on `threshold` of `keys` sign for `role`, and nobody else. Keys that no role uses
    /// any more go.
    pub fn set_role(&mut self, role: TopRole, keys: &[Key], threshold: u32) {
        self.roles
            .insert(role.as_str().to_owned(), RoleKeys::new(keys, threshold));
        self.keys
            .extend(keys.iter().map(|key| (key.id(), key.clone())));
        let roles = &self.roles;
        self.keys
            .retain(|id, _| roles.values().any(|role| role.keyids.contains(id)));
    }

    /// Who signs for `role`. A role that is not there has no keys and cannot be signed.
    #[must_use]
    pub fn signers(&self, role: TopRole) -> Signers<'_> {
        match self.roles.get(role.as_str()) {
            Some(keys) => Signers::new(&keys.keyids, keys.threshold, &self.keys),
            None => Signers::new(&[], 1, &self.keys),
        }
    }
}

impl Role for Root {
    const TYPE: &'static str = "root";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), Flaw> {
        if self.keys.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys").into());
        }
        for role in TopRole::ALL {
            // 4.3: "A role for each of root, snapshot, timestamp, and targets MUST be specified".
            let Some(keys) = self.roles.get(role.as_str()) else {
                return Err(format!("no keys for the role {}", role.as_str()).into());
            };
            check_role_keys(role.as_str(), keys)?;
        }
        Ok(())
    }
}

/// What holds for the keys of any role.
pub(super) fn check_role_keys(role: &str, keys: &RoleKeys) -> Result<(), Flaw> {
    // 4.3: "THRESHOLD must be a positive integer number of keys (>=1)".
    if keys.threshold == 0 {
        return Err(Flaw {
            code: MetadataCode::BadThreshold,
            text: format!(
                "the threshold of {} is not positive: nobody would have to sign",
                role.escape_debug()
            ),
        });
    }
    if keys.keyids.len() > MAX_KEYS {
        return Err(format!("more than {MAX_KEYS} keys for {}", role.escape_debug()).into());
    }
    Ok(())
}
