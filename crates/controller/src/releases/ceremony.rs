//! Who signs: the first root, and every change of its keys or of its time.

use jiff::{SignedDuration, Timestamp as Instant};
use vpn_node_release::metadata::{Header, Key, Root, Targets, TopRole};

use super::adding::next_targets;
use super::disk;
use super::error::{ReleaseError, refused};
use super::key_file::short_id;
use super::publish::{check_clock, verify_targets};
use super::stage::Stage;
use super::tree::{Published, Tree};

/// Which keys the first root names.
#[derive(Clone, Debug)]
pub struct Plan {
    /// They say who signs.
    pub root: Vec<Key>,
    /// How many of them it takes.
    pub root_threshold: u32,
    /// They say which releases there are.
    pub targets: Vec<Key>,
    /// How many of them it takes.
    pub targets_threshold: u32,
    /// It says what is the newest; the controller has it.
    pub online: Key,
    /// How long the first root is good.
    pub root_lifetime: SignedDuration,
    /// How long the first targets metadata is good.
    pub targets_lifetime: SignedDuration,
}

/// Whose keys are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of the root.
    Root,
    /// Those of the targets.
    Targets,
    /// The one of snapshot and timestamp.
    Online,
}

/// A change of keys.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Whose.
    pub whose: Whose,
    /// New ones.
    pub add: Vec<Key>,
    /// Ids, or beginnings of ids, of those that go.
    pub remove: Vec<String>,
    /// Another threshold.
    pub threshold: Option<u32>,
    /// How long the new root is good, and targets metadata if it must be signed again.
    pub lifetime: SignedDuration,
}

/// Stages the first root and an empty list of releases. People sign both.
///
/// # Errors
/// [`ReleaseError::Exists`], a threshold that cannot be met, a key in two roles.
pub fn init(tree: &Tree, plan: &Plan, now: Instant) -> Result<(), ReleaseError> {
    if tree.exists() || !Stage::load(tree)?.is_empty() {
        return Err(ReleaseError::Exists(tree.dir().to_owned()));
    }
    tree.create_dirs()?;
    let _lock = tree.lock()?;
    let mut root = Root::new(1, now, now + plan.root_lifetime);
    root.set_role(TopRole::Root, &plan.root, plan.root_threshold);
    root.set_role(TopRole::Targets, &plan.targets, plan.targets_threshold);
    for role in [TopRole::Snapshot, TopRole::Timestamp] {
        root.set_role(role, std::slice::from_ref(&plan.online), 1);
    }
    check_keys(&root)?;
    Stage::put(tree, &Targets::new(1, now, now + plan.targets_lifetime))?;
    Stage::put(tree, &root)
}

/// Stages a root with other keys, and the list of releases once more if its signatures would not
/// count any more.
///
/// # Errors
/// [`ReleaseError`]: an unknown key, a threshold that cannot be met.
pub fn rotate(tree: &Tree, rotation: &Rotation, now: Instant) -> Result<(), ReleaseError> {
    let _lock = tree.lock()?;
    let published = tree.load()?;
    let mut root = next_root(tree, &published, rotation.lifetime, now)?;
    let roles: &[TopRole] = match rotation.whose {
        Whose::Root => &[TopRole::Root],
        Whose::Targets => &[TopRole::Targets],
        Whose::Online => &[TopRole::Snapshot, TopRole::Timestamp],
    };
    for role in roles {
        let signers = root.signers(*role);
        let threshold = rotation.threshold.unwrap_or(signers.threshold);
        let mut keys: Vec<Key> = signers.keys.values().map(|key| (*key).clone()).collect();
        for id in &rotation.remove {
            let is_meant = |key: &Key| id.len() >= 6 && key.id().0.starts_with(id.as_str());
            let Some(at) = keys.iter().position(is_meant) else {
                return refused(format!(
                    "no key of {} has an id that begins with \"{}\": see 'release show'; at least six digits",
                    role.as_str(),
                    id.escape_debug()
                ));
            };
            keys.remove(at);
        }
        for key in &rotation.add {
            if keys.contains(key) {
                return refused(format!(
                    "key {} is one of {} already",
                    short_id(key),
                    role.as_str()
                ));
            }
            keys.push(key.clone());
        }
        root.set_role(*role, &keys, threshold);
    }
    check_keys(&root)?;
    let current = published.targets.as_ref();
    let still_counts = current.is_some_and(|file| verify_targets(&root, &file.bytes).is_ok());
    if !still_counts || Stage::load(tree)?.targets.is_some() {
        let targets = next_targets(tree, &published, rotation.lifetime, now)?;
        Stage::put(tree, &targets)?;
    }
    Stage::put(tree, &root)
}

/// Stages the root or the list of releases with the same content and a later end.
///
/// # Errors
/// [`ReleaseError`].
pub fn renew(
    tree: &Tree,
    role: TopRole,
    lifetime: SignedDuration,
    now: Instant,
) -> Result<(), ReleaseError> {
    let _lock = tree.lock()?;
    let published = tree.load()?;
    if role == TopRole::Root {
        let root = next_root(tree, &published, lifetime, now)?;
        return Stage::put(tree, &root);
    }
    check_clock(Some(&published), now)?;
    let targets = next_targets(tree, &published, lifetime, now)?;
    Stage::put(tree, &targets)
}

/// Forgets what waits. What is published stays.
///
/// # Errors
/// [`ReleaseError::Disk`].
pub fn discard(tree: &Tree) -> Result<(), ReleaseError> {
    let _lock = tree.lock()?;
    for role in [TopRole::Root, TopRole::Targets] {
        disk::remove(&super::stage::path(tree, role))?;
    }
    Ok(())
}

/// The root that is published or waits, as the next version.
fn next_root(
    tree: &Tree,
    published: &Published,
    lifetime: SignedDuration,
    now: Instant,
) -> Result<Root, ReleaseError> {
    check_clock(Some(published), now)?;
    let current = &published.root().role;
    let waiting = Stage::load(tree)?.root.map(|waiting| waiting.role);
    let mut next = waiting.unwrap_or_else(|| current.clone());
    next.header = Header::new::<Root>(current.header.version + 1, now, now + lifetime);
    Ok(next)
}

/// Each role has enough different keys, and no key has two kinds of work: one that signs by itself
/// must not be able to say what there is to sign.
fn check_keys(root: &Root) -> Result<(), ReleaseError> {
    for role in TopRole::ALL {
        let signers = root.signers(role);
        let count = signers.keys.len();
        if signers.threshold == 0 || (signers.threshold as usize) > count {
            return refused(format!(
                "{} would need {} signatures of {count} keys: choose a threshold from 1 to {count}",
                role.as_str(),
                signers.threshold
            ));
        }
    }
    let online = root.signers(TopRole::Timestamp);
    for role in [TopRole::Root, TopRole::Targets] {
        let signers = root.signers(role);
        if let Some(key) = signers
            .keys
            .values()
            .find(|key| online.keys.values().any(|one| one == *key))
        {
            return refused(format!(
                "key {} would be an online key and one of {}: whoever takes the controller could publish anything",
                short_id(key),
                role.as_str()
            ));
        }
    }
    Ok(())
}
