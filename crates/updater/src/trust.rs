//! Whom this host believes: the first root metadata, which root of the host puts here by hand or
//! the package brings along. Never from the agent, never from the controller.

use std::fs;
use std::path::Path;

use vpn_node_release::code::UpdaterCode;
use vpn_node_release::digest::Digest;
use vpn_node_release::limits::MAX_ROOT_BYTES;
use vpn_node_release::trust::{Store, install_root};

use crate::clock::Now;
use crate::disk::{self, Disk};
use crate::error::UpdateError;
use crate::history::{self, Line};
use crate::layout::{Layout, packaged_root};
use crate::lock;
use crate::verify::Kept;

/// What became trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Version of the root metadata.
    pub version: u64,
    /// SHA-256 of the file, to be compared with what its publisher says.
    pub sha256: Digest,
    /// It was trusted already.
    pub already: bool,
}

/// Makes the file the trusted root metadata.
///
/// # Errors
/// It is not signed by its own keys or is not the one that `sha256` names (`trust_invalid`), or
/// another one is trusted and `replace` is false (`trust_exists`).
pub fn install(
    layout: &Layout,
    disk: &Disk,
    now: Now,
    file: &Path,
    sha256: Option<Digest>,
    replace: bool,
) -> Result<Installed, UpdateError> {
    let Some(bytes) = disk::read_bounded(file, MAX_ROOT_BYTES)? else {
        return Err(UpdateError::failed(
            UpdaterCode::DiskError,
            format!(
                "{} is not there; name the root metadata file",
                file.display()
            ),
        ));
    };
    let found = Digest::of(&bytes);
    if let Some(expected) = sha256.filter(|expected| *expected != found) {
        return Err(UpdateError::refused(
            UpdaterCode::TrustInvalid,
            format!(
                "{} has the SHA-256 {found}, and {expected} was expected: it is not the file that \
                 its publisher means",
                file.display()
            ),
        ));
    }
    let mut store = Kept::open(layout, disk, false)?;
    let known = store.load("root.json").ok().flatten();
    if known.as_deref() == Some(bytes.as_slice()) && !replace {
        let root = install_root(
            &mut vpn_node_release::trust::MemoryStore::default(),
            &bytes,
            true,
        );
        return Ok(Installed {
            version: root?,
            sha256: found,
            already: true,
        });
    }
    if known.is_some() && !replace {
        return Err(UpdateError::refused(
            UpdaterCode::TrustExists,
            "this host trusts other root metadata already. A new version of the same root needs \
             nothing: it comes with the releases. To trust another publisher, or after the store \
             was damaged, say --replace",
        ));
    }
    let version = install_root(&mut store, &bytes, replace).map_err(|rejection| {
        // What is wrong with the file is told with its name; the store's own faults are not its.
        let of_file = rejection.what == "root.json";
        let error = UpdateError::from(rejection);
        if !of_file {
            return error;
        }
        let sentence = format!(
            "{} cannot be trusted ({}); name the root metadata (root.json) that the publisher of \
             the releases gave you",
            file.display(),
            error.sentence
        );
        UpdateError { sentence, ..error }
    })?;
    let event = if known.is_some() {
        "trust_replaced"
    } else {
        "trusted"
    };
    let line = Line {
        at_ms: now.wall_ms,
        event: event.into(),
        detail: Some(format!("root metadata version {version}, SHA-256 {found}")),
        ..Line::default()
    };
    let _lock = lock::brief(layout)?;
    history::append(layout, disk, &line)?;
    Ok(Installed {
        version,
        sha256: found,
        already: false,
    })
}

/// On a host that never trusted anybody: what the package brought along, if it did. The package
/// manager put it there as root, as it did this program.
///
/// # Errors
/// The file is there and is no root metadata.
pub fn adopt_packaged(
    layout: &Layout,
    disk: &Disk,
    now: Now,
) -> Result<Option<Installed>, UpdateError> {
    let store = Kept::open(layout, disk, false)?;
    let fresh = matches!(store.high_water(), Ok(None)) && !was_trusted(layout)?;
    let file = packaged_root(&layout.system());
    if !fresh || fs::symlink_metadata(&file).is_err() {
        return Ok(None);
    }
    install(layout, disk, now, &file, None, false).map(Some)
}

/// Whether this host trusted somebody before. If its trust store is gone nevertheless, it was lost,
/// and with it what may never come back: only root begins anew.
fn was_trusted(layout: &Layout) -> Result<bool, UpdateError> {
    let is_it = |line: &Line| matches!(line.event.as_str(), "trusted" | "trust_replaced");
    Ok(layout.packages().exists() || history::read(layout)?.iter().any(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::testing::World;
    use crate::testing::repository::Repository;

    #[test]
    fn trust_comes_once_and_another_only_on_purpose() {
        let world = World::new();
        let (layout, disk) = (&world.layout, &Disk::default());
        let now = world.clock.now();
        let file = layout.root().join("root.json");
        let ours = world.repository.root();
        std::fs::remove_dir_all(layout.trust()).unwrap();
        std::fs::write(&file, &ours).unwrap();
        let put = |sha256, replace| install(layout, disk, now, &file, sha256, replace);

        let wrong = put(Some(Digest::of(b"other")), false).unwrap_err();
        assert_eq!(wrong.code, "trust_invalid");
        let first = put(Some(Digest::of(&ours)), false).unwrap();
        assert_eq!((first.version, first.already), (1, false));
        assert!(put(None, false).unwrap().already);

        std::fs::write(&file, Repository::of(&[9; 32]).root()).unwrap();
        assert_eq!(put(None, false).unwrap_err().code, "trust_exists");
        put(None, true).unwrap();
        let events: Vec<_> = history::read(layout).unwrap();
        let events: Vec<_> = events.iter().map(|line| line.event.as_str()).collect();
        assert_eq!(events, ["trusted", "trust_replaced"]);

        std::fs::write(&file, b"{}").unwrap();
        put(None, true).unwrap_err();
    }

    #[test]
    fn what_the_package_brings_is_trusted_once() {
        let world = World::new();
        let (layout, disk) = (&world.layout, &Disk::default());
        let now = world.clock.now();
        let adopt = || adopt_packaged(layout, disk, now).unwrap();
        let file = packaged_root(&layout.system());
        std::fs::write(&file, Repository::of(&[9; 32]).root()).unwrap();
        assert_eq!(adopt(), None, "another one is trusted already");
        std::fs::remove_dir_all(layout.trust()).unwrap();
        assert_eq!(adopt().unwrap().version, 1);
        assert_eq!(adopt(), None);
        std::fs::remove_dir_all(layout.trust()).unwrap();
        assert_eq!(adopt(), None, "lost is not new");
    }
}
