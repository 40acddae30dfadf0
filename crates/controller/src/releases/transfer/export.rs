//! `release export`: everything that a host or another repository needs of one version.

use std::path::Path;

use vpn_node_release::bundle::Signed;
use vpn_node_release::metadata::name;
use vpn_node_release::offline::Writer;
use vpn_node_release::version::{Platform, Version};

use crate::releases::check;
use crate::releases::disk::{self, Temporary, failed};
use crate::releases::error::{ReleaseError, refused};
use crate::releases::tree::{Published, Tree, root_name};

/// Writes one file: all roots, the other metadata, and the packages of `version` (for one platform
/// or all); without a version the metadata alone. Returns what it has packages of. An existing file
/// is not overwritten.
///
/// # Errors
/// [`ReleaseError`]: nothing signed, no such release, a package that is missing or damaged.
pub fn export(
    tree: &Tree,
    version: Option<&Version>,
    platform: Option<&Platform>,
    to: &Path,
) -> Result<Vec<Signed>, ReleaseError> {
    let published = tree.load()?;
    let Some(targets) = &published.targets else {
        return refused(
            "there is no signed list of releases yet: finish 'release init' with 'release sign'",
        );
    };
    let mut packages = check::releases(&targets.role)?;
    packages.retain(|signed| {
        let info = signed.info();
        version == Some(&info.version)
            && platform.is_none_or(|platform| *platform == info.platform())
    });
    if let Some(version) = version.filter(|_| packages.is_empty()) {
        return refused(format!(
            "there is no signed release {version} of that platform: see 'release list'"
        ));
    }
    disk::refuse_existing(to)?;
    let own = Temporary::beside(to, 0o644)?;
    let mut writer = Writer::new(&own.file);
    let mut metadata = |name: &str, bytes: &[u8]| {
        writer.file(&format!("metadata/{name}"), bytes.len() as u64, bytes)
    };
    for root in &published.roots {
        metadata(&root_name(root.role.header.version), &root.bytes)?;
    }
    let version = targets.role.header.version;
    metadata(&name::file_name("targets", Some(version)), &targets.bytes)?;
    if let (Some(snapshot), Some(timestamp)) = (&published.snapshot, &published.timestamp) {
        let version = snapshot.role.header.version;
        metadata(&name::file_name("snapshot", Some(version)), &snapshot.bytes)?;
        metadata("timestamp.json", &timestamp.bytes)?;
    }
    for signed in &packages {
        let url_path = check::url_path(signed);
        let (file, _) = disk::open_regular(&tree.targets().join(&url_path))?;
        // A damaged package is found here and not on a host far away.
        signed.verify(&file)?;
        writer.file(&format!("targets/{url_path}"), signed.length(), &file)?;
    }
    writer.finish()?;
    disk::refuse_existing(to)?;
    own.keep(to).map_err(|error| match error {
        disk::DiskError::File { source, .. } => failed(to, "written")(source),
        other => other,
    })?;
    Ok(packages)
}

/// Reads every package of the signed list. Returns how many there are.
///
/// # Errors
/// [`ReleaseError`] for the first that is missing or damaged.
pub fn check_packages(tree: &Tree, published: &Published) -> Result<usize, ReleaseError> {
    let targets = published.targets.as_ref();
    let packages = targets.map_or(Ok(vec![]), |file| check::releases(&file.role))?;
    for signed in &packages {
        let (file, _) = disk::open_regular(&tree.targets().join(check::url_path(signed)))?;
        signed.verify(file)?;
    }
    Ok(packages.len())
}
