//! From a verified package to a whole slot.
//!
//! Unpacked beside the slots, every file and directory synced, the digest mark last, then renamed
//! into its place. A slot that is there already with the same content is used as it is.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use vpn_node_release::bundle::{
    DirSink, EntryPath, Limits, Manifest, Mode, Sink, TreeDigest, Verified, check_tree, unpack,
};
use vpn_node_release::code::PolicyCode;
use vpn_node_release::digest::Digest;
use vpn_node_release::version::Version;

use super::{Links, package_of};
use crate::disk::Disk;
use crate::error::{Kind, UpdateError};
use crate::journal::Slot;
use crate::layout::Layout;
use crate::preflight;

/// What a small file takes at least on most file systems, in bytes: for the estimate of the room.
const BLOCK: u64 = 4096;

/// Makes the slot of the package's version; durable on return.
///
/// # Errors
/// What is wrong with the package, no room, or another content under the same version in a slot
/// that a link leads to. No slot has changed then.
pub fn stage(layout: &Layout, disk: &Disk, package: Verified<File>) -> Result<(), UpdateError> {
    let (version, sha256) = (package.info().version.clone(), package.sha256());
    let slot = Slot::Version(version.clone());
    let place = layout.version(&version);
    if package_of(layout, &slot) == Some(sha256) && check_tree(&place).is_ok() {
        return Ok(());
    }
    let tree = unpack_beside(layout, disk, package, &version)?;
    let made = layout.staging().join(version.to_string());
    match check_tree(&place) {
        Ok((_, there)) if there == tree => {
            disk.remove_tree(&made)?;
            return record(layout, disk, &version, sha256);
        }
        Ok(_) if Links::read(layout).lead_to(&version) => {
            return Err(UpdateError::of(
                Kind::Refused,
                PolicyCode::VersionReused.as_str(),
                format!(
                    "{} is in use and has other content than this release of version {version}: \
                     publish it with a number of its own",
                    place.display()
                ),
            ));
        }
        // Damaged, half removed, or of another package and unused.
        Ok(_) | Err(_) => {
            disk.remove_file(&layout.package_of(&version))?;
            disk.remove_tree(&place)?;
        }
    }
    disk.ensure_dir(&layout.versions(), 0o755)?;
    disk.rename(&made, &place)?;
    record(layout, disk, &version, sha256)
}

fn unpack_beside(
    layout: &Layout,
    disk: &Disk,
    package: Verified<File>,
    version: &Version,
) -> Result<TreeDigest, UpdateError> {
    super::clear_staging(layout, disk)?;
    disk.create_dir(&layout.staging(), 0o700)?;
    let name = EntryPath::parse(version.to_string().as_bytes())?;
    let path = layout.staging().join(version.to_string());
    let dir = disk.change("create directory", &path, || {
        DirSink::create(&layout.staging(), &name)
    })?;
    let mut sink = Gated {
        dir,
        disk,
        path: path.clone(),
        refused: None,
    };
    let unpacked = unpack(package, &mut sink, &Limits::default());
    if let Some(refused) = sink.refused {
        return Err(refused);
    }
    let unpacked = unpacked?;
    disk.change("mark", &path, || sink.dir.mark(&unpacked.tree))?;
    Ok(unpacked.tree)
}

fn record(
    layout: &Layout,
    disk: &Disk,
    version: &Version,
    sha256: Digest,
) -> Result<(), UpdateError> {
    disk.ensure_dir(&layout.packages(), 0o755)?;
    let text = format!("{sha256}\n");
    disk.replace(&layout.package_of(version), text.as_bytes(), 0o644)
}

/// A directory that asks for room first, and lets the gate see every change.
struct Gated<'a> {
    dir: DirSink,
    disk: &'a Disk,
    path: PathBuf,
    refused: Option<UpdateError>,
}

impl Sink for Gated<'_> {
    fn begin(&mut self, manifest: &Manifest) -> io::Result<()> {
        let files = u64::try_from(manifest.files.len()).unwrap_or(u64::MAX);
        let needed = manifest
            .total_bytes()
            .saturating_add(files.saturating_mul(2 * BLOCK));
        if let Err(refused) = preflight::check_room(&[(self.path.clone(), needed)]) {
            self.refused = Some(refused);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.dir.begin(manifest)
    }

    fn directory(&mut self, path: &EntryPath) -> io::Result<()> {
        self.disk.ask("create directory", &self.path)?;
        self.dir.directory(path)
    }

    fn file(&mut self, path: &EntryPath, mode: Mode) -> io::Result<()> {
        self.disk.ask("create", &self.path)?;
        self.dir.file(path, mode)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.ask("write", &self.path)?;
        self.dir.write(bytes)
    }

    fn file_end(&mut self) -> io::Result<()> {
        self.disk.ask("sync", &self.path)?;
        self.dir.file_end()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.disk.ask("sync", &self.path)?;
        self.dir.finish()
    }
}
