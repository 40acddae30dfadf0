//! From what is signed to what hosts see.
//!
//! The order on disk: packages, targets metadata, snapshot, root, timestamp. Nothing is named by a
//! published file before it is there, so a crash anywhere leaves a tree that hosts can use; the
//! next command or the running controller finishes the rest. What goes is removed last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp as Instant};
use vpn_node_release::bundle::Signed;
use vpn_node_release::limits::MAX_TARGETS_BYTES;
use vpn_node_release::metadata::{Envelope, MetaFile, Root, Targets, TopRole, VerifiedRole, name};

use super::disk::{self, DiskError, Lock, failed};
use super::error::{ReleaseError, refused};
use super::line;
use super::stage::{self, Progress, Stage};
use super::tree::{Published, SignedFile, Tree, root_name, verify_root};
use super::{check, online};

/// Old snapshots and targets metadata that stay, with their packages: a host that began a minute
/// ago finds what it was told of.
const KEPT_VERSIONS: usize = 5;
/// Clocks of two machines may differ by so much.
pub(super) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_hours(1);

/// What a command came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Version of the root that is published now and was not before.
    pub root: Option<u64>,
    /// Version of the targets metadata that is signed now and was not before.
    pub targets: Option<u64>,
    /// Whether hosts see it: there are a new snapshot and timestamp.
    pub live: bool,
    /// Whether this machine has the online key.
    pub has_online_key: bool,
    /// What still waits for signatures.
    pub waits: Vec<Progress>,
    /// A root has all its signatures, and waits for a list of releases that its keys signed.
    pub held: bool,
    /// Why something that is not needed any more could not be removed.
    pub left_over: Option<DiskError>,
}

/// What is to be published next.
#[derive(Default)]
pub(super) struct Plan {
    /// New roots, in order.
    pub(super) roots: Vec<SignedFile<Root>>,
    /// New targets metadata.
    pub(super) targets: Option<SignedFile<Targets>>,
    /// Snapshot and timestamp of a mirror, which has no online key: names and bytes.
    pub(super) mirrored: Vec<(String, Vec<u8>)>,
    /// See [`Outcome::held`].
    pub(super) held: bool,
    /// Makes a new snapshot and timestamp although none is due, with versions above this.
    pub(super) force_above: Option<u64>,
}

/// Publishes what has all its signatures, and renews snapshot and timestamp if that is due or
/// `force_above` is a version that they have to exceed.
///
/// # Errors
/// [`ReleaseError`]; hosts see what they saw before.
pub fn advance(
    tree: &Tree,
    force_above: Option<u64>,
    now: Instant,
) -> Result<Outcome, ReleaseError> {
    let lock = tree.lock()?;
    advance_locked(tree, &lock, force_above, now)
}

/// Renews snapshot and timestamp alone, whatever waits.
///
/// # Errors
/// As [`advance`].
pub fn renew(tree: &Tree, now: Instant) -> Result<Outcome, ReleaseError> {
    let lock = tree.lock()?;
    let published = tree.load()?;
    carry_out(tree, &lock, Some(&published), &Plan::default(), now)
}

pub(super) fn advance_locked(
    tree: &Tree,
    lock: &Lock,
    force_above: Option<u64>,
    now: Instant,
) -> Result<Outcome, ReleaseError> {
    let published = tree.load_optional()?;
    let mut stage = Stage::load(tree)?;
    drop_done(tree, published.as_ref(), &mut stage)?;
    let mut plan = ready(published.as_ref(), &stage)?;
    plan.force_above = force_above;
    if published.is_none() && plan.roots.is_empty() {
        return Ok(Outcome {
            waits: stage.progress(published.as_ref())?,
            held: plan.held,
            ..Outcome::default()
        });
    }
    let mut outcome = carry_out(tree, lock, published.as_ref(), &plan, now)?;
    if outcome.root.is_some() {
        stage.root = None;
    }
    if outcome.targets.is_some() {
        stage.targets = None;
    }
    outcome.waits = stage.progress(tree.load_optional()?.as_ref())?;
    Ok(outcome)
}

/// What a crash left in the stage although it is published.
fn drop_done(
    tree: &Tree,
    published: Option<&Published>,
    stage: &mut Stage,
) -> Result<(), ReleaseError> {
    let Some(published) = published else {
        return Ok(());
    };
    let is_done = |version: u64, newest: Option<u64>| newest.is_some_and(|new| version <= new);
    let root = published.root().role.header.version;
    if stage
        .root
        .as_ref()
        .is_some_and(|one| is_done(one.role.header.version, Some(root)))
    {
        disk::remove(&stage::path(tree, TopRole::Root))?;
        stage.root = None;
    }
    let targets = published
        .targets
        .as_ref()
        .map(|file| file.role.header.version);
    if stage
        .targets
        .as_ref()
        .is_some_and(|one| is_done(one.role.header.version, targets))
    {
        disk::remove(&stage::path(tree, TopRole::Targets))?;
        stage.targets = None;
    }
    Ok(())
}

/// What of the stage has all its signatures. A root that would leave hosts without targets that
/// its keys signed waits for those.
fn ready(published: Option<&Published>, stage: &Stage) -> Result<Plan, ReleaseError> {
    let progress = stage.progress(published)?;
    let complete = |role| {
        progress
            .iter()
            .any(|one| one.role == role && one.is_complete())
    };
    let mut plan = Plan::default();
    let old = published.map(|published| &published.root().role);
    if let Some(root) = stage.root.as_ref().filter(|_| complete(TopRole::Root)) {
        plan.roots = vec![verify_root(old, root.envelope.to_bytes())?];
    }
    let Some(root) = plan.roots.last().map(|root| &root.role).or(old) else {
        return Ok(plan);
    };
    if let Some(targets) = &stage.targets {
        plan.targets = verify_targets(root, &targets.envelope.to_bytes()).ok();
    }
    let current = published.and_then(|published| published.targets.as_ref());
    let current = current.filter(|file| verify_targets(root, &file.bytes).is_ok());
    if plan.targets.is_none() && current.is_none() {
        plan.held = !plan.roots.is_empty();
        plan.roots.clear();
    }
    Ok(plan)
}

/// Targets metadata that the keys of this root signed.
pub(super) fn verify_targets(
    root: &Root,
    bytes: &[u8],
) -> Result<SignedFile<Targets>, ReleaseError> {
    let verified: VerifiedRole<Targets> = Envelope::parse(bytes, "targets.json")?
        .verify(&root.signers(TopRole::Targets), "targets.json")?;
    Ok(SignedFile::new(verified, bytes.to_vec()))
}

/// Rehearses, writes, looks at it again, and removes what nothing names any more.
pub(super) fn carry_out(
    tree: &Tree,
    _lock: &Lock,
    published: Option<&Published>,
    plan: &Plan,
    now: Instant,
) -> Result<Outcome, ReleaseError> {
    let root = plan.roots.last().map(|file| &file.role);
    let root = root.or_else(|| published.map(|published| &published.root().role));
    let Some(root) = root else {
        return Err(ReleaseError::Missing(tree.dir().to_owned()));
    };
    let current = published.and_then(|published| published.targets.as_ref());
    let Some(targets) = plan.targets.as_ref().or(current) else {
        return refused(format!(
            "no targets metadata in {:?} is signed by the keys of its root: restore metadata/ from a backup",
            tree.dir()
        ));
    };
    let releases = check::releases(&targets.role)?;
    if let (Some(new), Some(old)) = (&plan.targets, current) {
        line::check_successor(&old.role, &new.role)?;
    }
    let waiting = plan
        .targets
        .as_ref()
        .map_or(Ok(vec![]), |_| find_packages(tree, &releases))?;

    let mut files = BTreeMap::new();
    for root in &plan.roots {
        files.insert(root_name(root.role.header.version), root.bytes.clone());
    }
    if let Some(targets) = &plan.targets {
        files.insert(targets_name(targets), targets.bytes.clone());
    }
    let key = online::load(tree, root)?;
    let is_due = || published.is_none_or(|published| online::is_due(published, now));
    let renew = !files.is_empty() || plan.force_above.is_some() || is_due();
    let mut last = plan.mirrored.clone();
    if let (Some(key), true, true) = (&key, renew, last.is_empty()) {
        check_clock(published, now)?;
        let entry = MetaFile::of(targets.role.header.version, &targets.bytes);
        let above = plan.force_above.unwrap_or(0);
        let after = published.map_or((0, 0), |all| (all.last_snapshot, all.last_timestamp));
        let after = (after.0.max(above), after.1.max(above));
        let fresh = online::fresh(key, after, entry, now)?;
        let snapshot = name::file_name("snapshot", Some(fresh.snapshot_version));
        last = vec![
            (snapshot, fresh.snapshot),
            ("timestamp.json".to_owned(), fresh.timestamp),
        ];
    }
    let outcome = Outcome {
        root: plan.roots.last().map(|file| file.role.header.version),
        targets: plan.targets.as_ref().map(|file| file.role.header.version),
        live: !last.is_empty(),
        has_online_key: key.is_some(),
        held: plan.held,
        ..Outcome::default()
    };
    files.extend(last.iter().cloned());
    if files.is_empty() {
        return Ok(outcome);
    }
    if outcome.live {
        check::rehearse(tree, &files, now)?;
    }
    write_all(tree, &waiting, files)?;
    if outcome.live {
        check::published(tree, now)?;
    }
    Ok(Outcome {
        left_over: tidy(tree, plan).err(),
        ..outcome
    })
}

/// The packages that are not in place yet: where each waits, and where it belongs. Each is whole.
fn find_packages(
    tree: &Tree,
    releases: &[Signed],
) -> Result<Vec<(PathBuf, PathBuf)>, ReleaseError> {
    let mut waiting = Vec::new();
    for signed in releases {
        let url_path = check::url_path(signed);
        let place = tree.targets().join(&url_path);
        let found = fs::symlink_metadata(&place);
        if found.is_ok_and(|found| found.is_file() && found.len() == signed.length()) {
            continue;
        }
        let staged = stage::package_path(tree, &url_path);
        if !staged.exists() {
            return refused(format!(
                "the package of {} for {} is missing: put {:?} there, or import a file that has it",
                signed.info().version,
                signed.info().platform(),
                staged
            ));
        }
        let (file, _) = disk::open_regular(&staged)?;
        signed.verify(file)?;
        waiting.push((staged, place));
    }
    Ok(waiting)
}

fn write_all(
    tree: &Tree,
    packages: &[(PathBuf, PathBuf)],
    mut files: BTreeMap<String, Vec<u8>>,
) -> Result<(), ReleaseError> {
    tree.create_dirs()?;
    for (from, to) in packages {
        disk::create_dirs(to.parent().unwrap_or(to), 0o755)?;
        disk::rename(from, to)?;
    }
    let timestamp = files.remove("timestamp.json");
    let (roots, others): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|(name, _)| name.ends_with(".root.json"));
    let (targets, snapshots): (Vec<_>, Vec<_>) = others
        .into_iter()
        .partition(|(name, _)| name.ends_with(".targets.json"));
    let mut roots = roots;
    roots.sort_by_key(|(name, _)| number(name));
    let last = timestamp.map(|bytes| ("timestamp.json".to_owned(), bytes));
    let order = targets
        .into_iter()
        .chain(snapshots)
        .chain(roots)
        .chain(last);
    for (name, bytes) in order {
        disk::write(&tree.metadata().join(name), &bytes, 0o644)?;
    }
    Ok(())
}

/// Nobody signs with a clock that lies behind what was signed already: hosts would take the new
/// for old, or be told that it ends too soon.
pub(super) fn check_clock(published: Option<&Published>, now: Instant) -> Result<(), ReleaseError> {
    let Some(published) = published else {
        return Ok(());
    };
    let issued = [
        published.root().role.header.issued,
        published
            .targets
            .as_ref()
            .and_then(|file| file.role.header.issued),
        published
            .timestamp
            .as_ref()
            .and_then(|file| file.role.header.issued),
    ];
    match issued.into_iter().flatten().max() {
        Some(issued) if now + CLOCK_TOLERANCE < issued.instant() => {
            Err(ReleaseError::ClockBehind {
                now: vpn_node_release::metadata::DateTime::new(now).to_string(),
                issued: issued.to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// Empties the stage of what is published, and removes old versions.
fn tidy(tree: &Tree, plan: &Plan) -> Result<(), DiskError> {
    if !plan.roots.is_empty() {
        disk::remove(&stage::path(tree, TopRole::Root))?;
    }
    if plan.targets.is_some() {
        disk::remove(&stage::path(tree, TopRole::Targets))?;
    }
    let mut named = BTreeSet::new();
    for role in ["snapshot", "targets"] {
        let versions = tree.versions(role)?;
        let kept = versions.len().saturating_sub(KEPT_VERSIONS);
        let (old, kept) = versions.split_at(kept);
        for version in old {
            disk::remove(&tree.metadata().join(name::file_name(role, Some(*version))))?;
        }
        if role == "targets" {
            for version in kept {
                named.extend(packages_of(tree, *version)?);
            }
        }
    }
    if let Ok(Some(waiting)) = Stage::load(tree).map(|stage| stage.targets) {
        named.extend(paths_of(&waiting.role));
    }
    remove_unnamed(&tree.targets(), &tree.targets(), &named)?;
    remove_unnamed(
        &tree.staged().join("targets"),
        &tree.staged().join("targets"),
        &named,
    )
}

/// The packages that a version of the targets metadata names.
fn packages_of(tree: &Tree, version: u64) -> Result<Vec<String>, DiskError> {
    let name = name::file_name("targets", Some(version));
    let Some(bytes) = tree.read(&name, MAX_TARGETS_BYTES)? else {
        return Ok(Vec::new());
    };
    let read: Result<VerifiedRole<Targets>, _> =
        Envelope::parse(&bytes, &name).and_then(|envelope| envelope.unverified(&name));
    Ok(read.map_or(Vec::new(), |file| paths_of(&file.role)))
}

fn paths_of(targets: &Targets) -> Vec<String> {
    let each = targets.targets.iter();
    each.filter_map(|(path, file)| Some(name::target_url_path(path, Some(&file.hashes.sha256()?))))
        .collect()
}

fn remove_unnamed(base: &Path, dir: &Path, named: &BTreeSet<String>) -> Result<(), DiskError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(dir, "read")(error)),
    };
    for entry in entries {
        let entry = entry.map_err(failed(dir, "read"))?;
        let path = entry.path();
        if entry.file_type().map_err(failed(&path, "read"))?.is_dir() {
            remove_unnamed(base, &path, named)?;
            // Only if it is empty.
            let _ = fs::remove_dir(&path);
            continue;
        }
        let relative = path.strip_prefix(base).ok().and_then(Path::to_str);
        if relative.is_none_or(|relative| !named.contains(relative)) {
            disk::remove(&path)?;
        }
    }
    Ok(())
}

fn targets_name(targets: &SignedFile<Targets>) -> String {
    name::file_name("targets", Some(targets.role.header.version))
}

fn number(name: &str) -> u64 {
    let digits = name
        .split('.')
        .next()
        .and_then(|digits| digits.parse().ok());
    digits.unwrap_or(0)
}
