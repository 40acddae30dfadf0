//! The version directories and the three links between them.
//!
//! A slot counts only when it is whole: its digest mark is written last. Links are read as text,
//! never followed: one that leads elsewhere is somebody else's and is left alone.

use std::fs;
use std::path::{Path, PathBuf};

use semver::Version;

use crate::journal::Slot;
use crate::layout::Layout;

/// What a link of the layout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not there.
    Absent,
    /// It leads to a slot, which may or may not be valid.
    To(Slot),
    /// Root made it lead elsewhere, or it is no link at all: not ours to judge.
    Foreign,
}

impl Link {
    /// The slot, if it leads to one.
    #[must_use]
    pub fn slot(&self) -> Option<&Slot> {
        match self {
            Self::To(slot) => Some(slot),
            Self::Absent | Self::Foreign => None,
        }
    }
}

/// The three links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// What a boot starts.
    pub stable: Link,
    /// What is on trial.
    pub experiment: Link,
    /// What was stable before.
    pub previous: Link,
}

impl Links {
    /// As they stand on disk.
    #[must_use]
    pub fn read(layout: &Layout) -> Self {
        Self {
            stable: read_link(&layout.stable()),
            experiment: read_link(&layout.experiment()),
            previous: read_link(&layout.previous()),
        }
    }
}

/// Where a slot lies.
#[must_use]
pub fn path_of(layout: &Layout, slot: &Slot) -> PathBuf {
    match slot {
        Slot::System => layout.system(),
        Slot::Version(version) => layout.version(version),
    }
}

/// What a link to the slot says: relative, so that a tree can be moved.
#[must_use]
pub fn link_text(slot: &Slot) -> PathBuf {
    match slot {
        Slot::System => PathBuf::from("system"),
        Slot::Version(version) => Path::new("versions").join(version.to_string()),
    }
}

fn read_link(path: &Path) -> Link {
    let text = match fs::read_link(path) {
        Ok(text) => text,
        Err(_) if fs::symlink_metadata(path).is_err() => return Link::Absent,
        Err(_) => return Link::Foreign,
    };
    parse_link(&text).map_or(Link::Foreign, Link::To)
}

fn parse_link(text: &Path) -> Option<Slot> {
    let text = text.to_str()?;
    if text == "system" {
        return Some(Slot::System);
    }
    let version = Version::parse(text.strip_prefix("versions/")?).ok()?;
    let slot = Slot::Version(version);
    (link_text(&slot).to_str() == Some(text)).then_some(slot)
}
