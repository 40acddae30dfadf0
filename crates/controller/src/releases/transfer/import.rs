//! `release import`: roots, the list of releases and packages that were signed elsewhere.
//!
//! The signatures of people decide. Snapshot and timestamp of the import count only on a mirror,
//! which has no online key; where the online key is, new ones are made.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use jiff::Timestamp as Instant;
use vpn_node_release::code::MetadataCode;
use vpn_node_release::limits::{
    MAX_ROOT_BYTES, MAX_ROOTS_PER_REFRESH, MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
};
use vpn_node_release::metadata::{
    Envelope, Rejection, Root, Snapshot, Targets, Timestamp, VerifiedRole, hex, name,
};
use vpn_node_release::offline;

use crate::releases::disk::{self, Lock, failed};
use crate::releases::error::{ReleaseError, refused};
use crate::releases::publish::{Outcome, Plan, carry_out, verify_targets};
use crate::releases::tree::{Published, SignedFile, Tree, root_name, verify_root, versions_in};
use crate::releases::{check, line, online, stage};

/// What an import came to.
#[derive(Debug)]
pub struct Imported {
    /// What is published now.
    pub outcome: Outcome,
    /// How many packages came with it.
    pub packages: usize,
}

/// Takes over what `from` (an offline file, or a directory with `metadata/` and `targets/`) has
/// more than this repository. `first_root` is the SHA-256 of `1.root.json`, needed when nothing is
/// trusted here yet.
///
/// # Errors
/// [`ReleaseError`]; nothing that is published has changed.
pub fn import(
    tree: &Tree,
    from: &Path,
    first_root: Option<&str>,
    now: Instant,
) -> Result<Imported, ReleaseError> {
    tree.create_dirs()?;
    let lock = tree.lock()?;
    let incoming = tree.incoming();
    clear(&incoming)?;
    let taken = bring(from, &incoming).and_then(|()| take(tree, &lock, first_root, now));
    let cleared = clear(&incoming);
    let imported = taken?;
    cleared?;
    Ok(imported)
}

/// A copy that nobody changes while it is looked at.
fn bring(from: &Path, incoming: &Path) -> Result<(), ReleaseError> {
    disk::create_dirs(&incoming.join("metadata"), 0o700)?;
    disk::create_dirs(&incoming.join("targets"), 0o700)?;
    if from.is_dir() {
        return bring_dir(from, incoming);
    }
    let (file, _) = disk::open_regular(from)?;
    let file = io::BufReader::with_capacity(128 * 1024, file);
    offline::read(file, |path, content| {
        let to = incoming.join(path.as_str());
        fs::create_dir_all(to.parent().unwrap_or(incoming))?;
        io::copy(content, &mut File::create_new(to)?).map(drop)
    })?;
    Ok(())
}

/// Metadata alone: packages are copied one by one when it is known which are wanted.
fn bring_dir(from: &Path, incoming: &Path) -> Result<(), ReleaseError> {
    let metadata = from.join("metadata");
    let mut names: Vec<String> = (1..=u64::from(MAX_ROOTS_PER_REFRESH))
        .map(root_name)
        .collect();
    names.retain(|name| metadata.join(name).exists());
    for role in ["targets", "snapshot"] {
        let newest = versions_in(&metadata, role)?.into_iter().rev().take(8);
        names.extend(newest.map(|version| name::file_name(role, Some(version))));
    }
    names.push("timestamp.json".to_owned());
    for name in names {
        if let Some(bytes) = disk::read_optional(&metadata.join(&name), MAX_TARGETS_BYTES)? {
            let to = incoming.join("metadata").join(name);
            fs::write(&to, bytes).map_err(failed(&to, "written"))?;
        }
    }
    let link = incoming.join("from");
    std::os::unix::fs::symlink(
        std::path::absolute(from.join("targets")).map_err(failed(from, "read"))?,
        &link,
    )
    .map_err(failed(&link, "written"))?;
    Ok(())
}

fn take(
    tree: &Tree,
    lock: &Lock,
    first_root: Option<&str>,
    now: Instant,
) -> Result<Imported, ReleaseError> {
    let metadata = tree.incoming().join("metadata");
    let published = tree.load_optional()?;
    let roots = new_roots(&metadata, published.as_ref(), first_root)?;
    let old = published.as_ref().map(|published| &published.root().role);
    let Some(root) = roots.last().map(|root| &root.role).or(old).cloned() else {
        return refused("the import has no 1.root.json: make it with 'release export'");
    };
    let targets = new_targets(&metadata, published.as_ref(), &root)?;
    let mut plan = Plan {
        roots,
        targets,
        ..Plan::default()
    };
    let mut packages = 0;
    if let Some(targets) = &plan.targets {
        if let Some(old) = published
            .as_ref()
            .and_then(|published| published.targets.as_ref())
        {
            line::check_successor(&old.role, &targets.role)?;
        }
        packages = stage_packages(tree, &targets.role)?;
    }
    if online::load(tree, &root)?.is_none() {
        plan.mirrored = mirrored(&metadata, published.as_ref(), &root)?;
    }
    if plan.roots.is_empty() && plan.targets.is_none() && plan.mirrored.is_empty() {
        return refused("the import has nothing that is not here already");
    }
    let outcome = carry_out(tree, lock, published.as_ref(), &plan, now)?;
    Ok(Imported { outcome, packages })
}

/// The roots after ours. Those that both have must be the same: else it is another repository.
fn new_roots(
    metadata: &Path,
    published: Option<&Published>,
    first_root: Option<&str>,
) -> Result<Vec<SignedFile<Root>>, ReleaseError> {
    let ours = published.map_or(&[][..], |published| &published.roots[..]);
    let mut new: Vec<SignedFile<Root>> = Vec::new();
    for version in 1..=u64::from(MAX_ROOTS_PER_REFRESH) {
        let name = root_name(version);
        let bytes = disk::read_optional(&metadata.join(&name), MAX_ROOT_BYTES)?;
        let Some(bytes) = bytes else {
            break;
        };
        if let Some(known) = ours.get(usize::try_from(version - 1).unwrap_or(usize::MAX)) {
            let read: VerifiedRole<Root> = Envelope::parse(&bytes, &name)?.unverified(&name)?;
            if read.digest != known.digest {
                return Err(rejected(
                    MetadataCode::SameVersionChanged,
                    &name,
                    "the import is of another repository: its root is not ours",
                ));
            }
            continue;
        }
        if version == 1 {
            check_fingerprint(&bytes, first_root)?;
        }
        let last = new.last().or(ours.last()).map(|root| &root.role);
        let next = verify_root(last, bytes)?;
        new.push(next);
    }
    Ok(new)
}

/// Nothing is trusted here yet, so a person says what is to be.
fn check_fingerprint(bytes: &[u8], first_root: Option<&str>) -> Result<(), ReleaseError> {
    let found = fingerprint(bytes);
    match first_root {
        Some(told) if told.eq_ignore_ascii_case(&found) => Ok(()),
        Some(_) => refused(format!(
            "the first root of the import has the SHA-256 {found}, and not the one that was given: it is of another repository"
        )),
        None => refused(format!(
            "nothing is trusted in this repository yet, and the first root of the import has the SHA-256 {found}: compare it with what 'release init' said, and give it with --root-sha256"
        )),
    }
}

/// The SHA-256 of a root file, for people to compare and for `vpn-node update trust`.
#[must_use]
fn fingerprint(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(bytes))
}

/// The highest list of releases, if it is newer than ours.
fn new_targets(
    metadata: &Path,
    published: Option<&Published>,
    root: &Root,
) -> Result<Option<SignedFile<Targets>>, ReleaseError> {
    let ours = published.and_then(|published| published.targets.as_ref());
    let Some(version) = versions_in(metadata, "targets")?.pop() else {
        return Ok(None);
    };
    let name = name::file_name("targets", Some(version));
    let bytes = disk::read_bounded(&metadata.join(&name), MAX_TARGETS_BYTES)?;
    let new = verify_targets(root, &bytes)?;
    let new_version = new.role.header.version;
    if new_version != version {
        return Err(rejected(
            MetadataCode::VersionMismatch,
            &name,
            &format!("it is version {new_version}"),
        ));
    }
    match ours {
        Some(ours) if new_version < ours.role.header.version => Err(rejected(
            MetadataCode::Rollback,
            &name,
            &format!(
                "version {} of the list of releases is published here already: make a newer export",
                ours.role.header.version
            ),
        )),
        Some(ours) if new_version == ours.role.header.version => {
            if new.digest == ours.digest {
                return Ok(None);
            }
            Err(rejected(
                MetadataCode::SameVersionChanged,
                &name,
                "this version is published here with other content: two people made a release at the same time; one of them must make his again",
            ))
        }
        _ => Ok(Some(new)),
    }
}

/// Copies the packages that are not in place yet, each verified. Returns how many.
fn stage_packages(tree: &Tree, targets: &Targets) -> Result<usize, ReleaseError> {
    let mut count = 0;
    for signed in check::releases(targets)? {
        let url_path = check::url_path(&signed);
        let (place, staged) = (
            tree.targets().join(&url_path),
            stage::package_path(tree, &url_path),
        );
        if place.exists() || staged.exists() {
            continue;
        }
        let incoming = tree.incoming();
        let places = [
            incoming.join("targets").join(&url_path),
            incoming.join("from").join(&url_path),
        ];
        let Some(from) = places.iter().find(|path| path.exists()) else {
            return Err(rejected(
                MetadataCode::Missing,
                &url_path,
                "neither the import nor this repository has this package: export that version too, and import both, the older first",
            ));
        };
        let (mut file, _) = disk::open_regular(from)?;
        disk::create_dirs(staged.parent().unwrap_or(&staged), 0o755)?;
        let own = disk::Temporary::beside(&staged, 0o644)?;
        let copy = own.file.try_clone().map_err(failed(&staged, "written"))?;
        signed.copy(&mut file, copy)?;
        own.keep(&staged)?;
        count += 1;
    }
    Ok(count)
}

/// Snapshot and timestamp as they came, newer than ours: for a repository without the online key.
fn mirrored(
    metadata: &Path,
    published: Option<&Published>,
    root: &Root,
) -> Result<Vec<(String, Vec<u8>)>, ReleaseError> {
    use vpn_node_release::metadata::TopRole;
    let timestamp_path = metadata.join("timestamp.json");
    let Some(timestamp) = disk::read_optional(&timestamp_path, MAX_TIMESTAMP_BYTES)? else {
        // From a machine of signers to another one.
        return Ok(Vec::new());
    };
    let role: VerifiedRole<Timestamp> = Envelope::parse(&timestamp, "timestamp.json")?
        .verify(&root.signers(TopRole::Timestamp), "timestamp.json")?;
    let known = published.and_then(|published| published.timestamp.as_ref());
    if known.is_some_and(|known| known.role.header.version >= role.role.header.version) {
        return Ok(Vec::new());
    }
    let version = role.role.snapshot().map_or(0, |meta| meta.version);
    let name = name::file_name("snapshot", Some(version));
    let snapshot = disk::read_bounded(&metadata.join(&name), MAX_SNAPSHOT_BYTES)?;
    let _: VerifiedRole<Snapshot> =
        Envelope::parse(&snapshot, &name)?.verify(&root.signers(TopRole::Snapshot), &name)?;
    Ok(vec![
        (name, snapshot),
        ("timestamp.json".to_owned(), timestamp),
    ])
}

fn clear(incoming: &Path) -> Result<(), ReleaseError> {
    match fs::remove_dir_all(incoming) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(incoming, "removed")(error).into())
        }
        _ => Ok(()),
    }
}

fn rejected(code: MetadataCode, what: &str, sentence: &str) -> ReleaseError {
    Rejection::new(code, what, sentence).into()
}
