//! The version directories and the three links between them.
//!
//! A slot counts only when it is whole: its digest mark is written last. Links are read as text,
//! never followed: one that leads elsewhere is somebody else's and is left alone.

mod prune;
mod stage;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vpn_node_release::bundle::{Limits, MANIFEST, Manifest, TREE_MARK, check_tree};
use vpn_node_release::digest::Digest;
use vpn_node_release::version::Version;

use crate::disk;
use crate::error::UpdateError;
use crate::journal::Slot;
use crate::layout::{Layout, agent_program};

pub use prune::{clear_staging, prune};
pub use stage::stage;

/// What a link of the layout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not there.
    Absent,
    /// It leads to a slot, which may or may not be whole.
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

    /// Whether one of them leads to this version.
    #[must_use]
    pub fn lead_to(&self, version: &Version) -> bool {
        let links = [&self.stable, &self.experiment, &self.previous];
        links
            .into_iter()
            .any(|link| link.slot() == Some(&Slot::Version(version.clone())))
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

/// All slots that a link may lead to.
#[must_use]
pub fn whole_slots(layout: &Layout) -> BTreeSet<Slot> {
    let versions = versions(layout).into_iter().map(Slot::Version);
    let slots = versions.chain([Slot::System]);
    slots.filter(|slot| is_whole(layout, slot)).collect()
}

/// Whether it was unpacked to its end (or came with the package) and still has the agent. Whether
/// it is unchanged, [`check`] tells.
#[must_use]
pub fn is_whole(layout: &Layout, slot: &Slot) -> bool {
    let path = path_of(layout, slot);
    let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let marked = match slot {
        Slot::System => true,
        // A mark that a power cut or a bad disk left empty or torn is none.
        Slot::Version(_) => digest_in(&path.join(TREE_MARK)).is_some(),
    };
    marked && is_file(&agent_program(&path))
}

/// Reads every file of an unpacked version: it is what was unpacked. The package manager's own is
/// taken as it is.
///
/// # Errors
/// What is not as it was.
pub fn check(layout: &Layout, slot: &Slot) -> Result<(), UpdateError> {
    if matches!(slot, Slot::Version(_)) {
        check_tree(&path_of(layout, slot))?;
    }
    Ok(())
}

/// The manifest of a slot; `None` when it has none that can be read.
#[must_use]
pub fn manifest(layout: &Layout, slot: &Slot) -> Option<Manifest> {
    let limits = Limits::default();
    let path = path_of(layout, slot).join(MANIFEST);
    let bytes = disk::read_bounded(&path, limits.manifest_bytes).ok()??;
    Manifest::parse(&bytes, &limits).ok()
}

/// SHA-256 of the package that a slot was unpacked from; `None` for the package manager's, or
/// when the record was lost.
#[must_use]
pub fn package_of(layout: &Layout, slot: &Slot) -> Option<Digest> {
    let Slot::Version(version) = slot else {
        return None;
    };
    digest_in(&layout.package_of(version))
}

/// The digest that is all of a small file: 64 digits and a newline.
fn digest_in(path: &Path) -> Option<Digest> {
    let bytes = disk::read_bounded(path, 65).ok()??;
    Digest::parse(std::str::from_utf8(&bytes).ok()?.trim_end()).ok()
}

/// The names in `versions/` that are versions, whole or not.
fn versions(layout: &Layout) -> Vec<Version> {
    let Ok(entries) = fs::read_dir(layout.versions()) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter_map(|name| Version::parse(&name).ok())
        .collect()
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
    Some(Slot::Version(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_of_ours_are_read_as_slots() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stable");
        assert_eq!(read_link(&path), Link::Absent);
        let read = |text: &str| {
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink(text, &path).unwrap();
            read_link(&path)
        };
        let version = Slot::Version(Version::new(1, 4, 0));
        assert_eq!(read("system"), Link::To(Slot::System));
        assert_eq!(read("versions/1.4.0"), Link::To(version));
        for foreign in [
            "versions/1.4.0/",
            "versions/../system",
            "/opt/mine",
            "versions/x",
        ] {
            assert_eq!(read(foreign), Link::Foreign, "{foreign}");
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(read_link(&path), Link::Foreign);
    }
}
