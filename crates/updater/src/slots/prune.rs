//! Removing old versions: only ours, only whole ones, never one that any link leads to.

use std::collections::BTreeSet;
use std::fs;

use vpn_node_release::version::Version;

use super::{Links, is_whole, parse_link, versions};
use crate::disk::Disk;
use crate::error::UpdateError;
use crate::journal::Slot;
use crate::layout::Layout;

/// Removes unused versions but the `keep` newest of them, and what was kept for removed ones.
/// Gives what was removed.
///
/// # Errors
/// What the system refused; the next run goes on.
pub fn prune(layout: &Layout, disk: &Disk, keep: u32) -> Result<Vec<Version>, UpdateError> {
    clear_staging(layout, disk)?;
    let linked = linked(layout);
    let mut unused: Vec<Version> = versions(layout)
        .into_iter()
        .filter(|version| !linked.contains(version))
        // Without our mark it is not ours, whatever its name is.
        .filter(|version| is_whole(layout, &Slot::Version(version.clone())))
        .collect();
    unused.sort();
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    unused.truncate(unused.len().saturating_sub(keep));
    for version in &unused {
        remove(layout, disk, version)?;
    }
    clear_staging(layout, disk)?;
    forget_removed(layout, disk)?;
    Ok(unused)
}

/// Removes what a run that was cut left beside the slots.
///
/// # Errors
/// What the system refused.
pub fn clear_staging(layout: &Layout, disk: &Disk) -> Result<(), UpdateError> {
    disk.remove_tree(&layout.staging())
}

/// Moved away first: a slot is whole or gone, never half there.
fn remove(layout: &Layout, disk: &Disk, version: &Version) -> Result<(), UpdateError> {
    disk.ensure_dir(&layout.staging(), 0o700)?;
    let away = layout.staging().join(format!("{version}.old"));
    disk.rename(&layout.version(version), &away)?;
    disk.remove_tree(&away)
}

/// Every version that any link beside the slots leads to, ours or root's own.
fn linked(layout: &Layout) -> BTreeSet<Version> {
    let links = Links::read(layout);
    let own = [links.stable, links.experiment, links.previous];
    let mut slots: Vec<Slot> = own.iter().filter_map(|link| link.slot().cloned()).collect();
    let entries = fs::read_dir(layout.opt()).into_iter().flatten().flatten();
    for entry in entries {
        let Ok(text) = fs::read_link(entry.path()) else {
            continue;
        };
        slots.extend(parse_link(&text));
        // Written in another way, it still may lead into a slot.
        let place = fs::canonicalize(entry.path()).ok();
        let versions = fs::canonicalize(layout.versions()).ok();
        let below = place.zip(versions).and_then(|(place, versions)| {
            let name = place.strip_prefix(versions).ok()?.iter().next()?.to_str()?;
            Version::parse(name).ok()
        });
        slots.extend(below.map(Slot::Version));
    }
    let version = |slot| match slot {
        Slot::Version(version) => Some(version),
        Slot::System => None,
    };
    slots.into_iter().filter_map(version).collect()
}

fn forget_removed(layout: &Layout, disk: &Disk) -> Result<(), UpdateError> {
    for entry in fs::read_dir(layout.packages())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| Version::parse(name).ok());
        if version.is_some_and(|version| !layout.version(&version).exists()) {
            disk.remove_file(&entry.path())?;
        }
    }
    Ok(())
}
