//! Snapshot metadata (section 4.4): which versions of all targets metadata belong together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Extra, Flaw, Header, MetaFile, Role};
use crate::limits::{MAX_ROLE_NAME_BYTES, MAX_SNAPSHOT_ENTRIES};

/// Snapshot metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What every role has.
    #[serde(flatten)]
    pub header: Header,
    /// `targets.json` and `ROLE.json` of every delegated role; names as in metadata, not escaped.
    pub meta: BTreeMap<String, MetaFile>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Snapshot {
    /// A snapshot that lists the targets metadata ([`MetaFile::of`]).
    #[must_use]
    pub fn new(
        version: u64,
        issued: jiff::Timestamp,
        expires: jiff::Timestamp,
        targets: MetaFile,
    ) -> Self {
        Self {
            header: Header::new::<Self>(version, issued, expires),
            meta: BTreeMap::from([("targets.json".to_owned(), targets)]),
            extra: Extra::new(),
        }
    }

    /// What it says about the metadata of `role` (`targets` or a delegated role).
    #[must_use]
    pub fn role(&self, role: &str) -> Option<&MetaFile> {
        self.meta.get(&format!("{role}.json"))
    }
}

impl Role for Snapshot {
    const TYPE: &'static str = "snapshot";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), Flaw> {
        if self.meta.len() > MAX_SNAPSHOT_ENTRIES {
            return Err(format!("it lists more than {MAX_SNAPSHOT_ENTRIES} files").into());
        }
        // They are remembered for ever: what is not bounded here fills the high-water file.
        let longest = MAX_ROLE_NAME_BYTES + ".json".len();
        if self.meta.keys().any(|file| file.len() > longest) {
            return Err(format!("it lists a file name of more than {longest} bytes").into());
        }
        // 4.4: "It MUST list the version numbers of the top-level targets metadata".
        match self.role("targets") {
            Some(_) => Ok(()),
            None => Err("it does not list targets.json".to_owned().into()),
        }
    }
}
