//! Timestamp metadata (section 4.6): the newest snapshot, signed again every few days.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Extra, Flaw, Header, MetaFile, Role};

const SNAPSHOT: &str = "snapshot.json";

/// Timestamp metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// What every role has.
    #[serde(flatten)]
    pub header: Header,
    /// One entry, `snapshot.json`.
    pub meta: BTreeMap<String, MetaFile>,
    /// Unknown members.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Timestamp {
    /// A timestamp that names this snapshot ([`MetaFile::of`]).
    #[must_use]
    pub fn new(
        version: u64,
        issued: jiff::Timestamp,
        expires: jiff::Timestamp,
        snapshot: MetaFile,
    ) -> Self {
        Self {
            header: Header::new::<Self>(version, issued, expires),
            meta: BTreeMap::from([(SNAPSHOT.to_owned(), snapshot)]),
            extra: Extra::new(),
        }
    }

    /// The snapshot that it names. [`Role::check`] made sure that there is one.
    #[must_use]
    pub fn snapshot(&self) -> Option<&MetaFile> {
        self.meta.get(SNAPSHOT)
    }
}

impl Role for Timestamp {
    const TYPE: &'static str = "timestamp";

    fn header(&self) -> &Header {
        &self.header
    }

    fn check(&self) -> Result<(), Flaw> {
        // 4.6: "this MUST only include a description of the snapshot.json file".
        if self.meta.len() == 1 && self.snapshot().is_some() {
            Ok(())
        } else {
            Err("it must describe snapshot.json and nothing else"
                .to_owned()
                .into())
        }
    }
}
