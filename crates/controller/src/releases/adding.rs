//! Which releases there are to be: adding one, revoking one, publishing one again. Each stages the
//! next targets metadata; people sign it afterwards.

use std::fs::File;
use std::path::Path;

use jiff::{SignedDuration, Timestamp as Instant};
use vpn_node_release::bundle::{Limits, Manifest, inspect};
use vpn_node_release::copy::{self, Hashed};
use vpn_node_release::metadata::{Extra, Hashes, Header, TargetFile, Targets};
use vpn_node_release::release::ReleaseInfo;
use vpn_node_release::version::{Platform, Version, Word};

use super::disk::{self, Temporary, failed};
use super::error::{ReleaseError, refused};
use super::publish::check_clock;
use super::stage::{self, Stage};
use super::tree::{Published, Tree};
use super::{check, line};

/// What its publisher says about a release, beside what the package says itself.
#[derive(Clone, Debug)]
pub struct Wish {
    /// For whom.
    pub channel: Word,
    /// No version below this one may be installed any more; `None`: as before.
    pub security_floor: Option<Version>,
    /// The lowest version that may run before it.
    pub min_version: Option<Version>,
    /// It does not wait for a maintenance window.
    pub mandatory: bool,
    /// What is new.
    pub description: String,
    /// How long the targets metadata is good.
    pub lifetime: SignedDuration,
}

/// Stages the release of a package. Returns what will be signed about it.
///
/// # Errors
/// [`ReleaseError`]: not a package, a version that exists already, a floor that goes down.
pub fn add(
    tree: &Tree,
    package: &Path,
    wish: &Wish,
    now: Instant,
) -> Result<ReleaseInfo, ReleaseError> {
    let _lock = tree.lock()?;
    let published = tree.load()?;
    check_clock(Some(&published), now)?;
    let mut targets = next_targets(tree, &published, wish.lifetime, now)?;
    let (copied, own) = copy_in(tree, package)?;
    let manifest = look_into(&own)?;
    let releases = check::releases(&targets)?;
    let platform = Platform {
        os: manifest.os.clone(),
        arch: manifest.arch.clone(),
    };
    let line = line::name(&wish.channel, &platform);
    let counter = line::counters(&targets)?.get(&line).copied().unwrap_or(0) + 1;
    let before = line::floor(&releases, &line);
    let floor = wish.security_floor.clone().or_else(|| before.clone());
    let floor = floor.unwrap_or_else(|| Version::new(0, 0, 0));
    if let Some(before) = before.filter(|before| floor < *before) {
        return refused(format!(
            "the security floor of {line} is {before} already: hosts keep the highest, so it cannot go down to {floor}"
        ));
    }
    let info = ReleaseInfo {
        product: manifest.product.clone(),
        version: manifest.version.clone(),
        channel: wish.channel.clone(),
        os: manifest.os.clone(),
        arch: manifest.arch.clone(),
        counter,
        security_floor: floor,
        min_version_required: wish.min_version.clone(),
        mandatory: wish.mandatory,
        description: wish.description.clone(),
        released: Instant::from_second(now.as_second()).unwrap_or(now),
        state_format: manifest.state_format,
    };
    let path = info.target_path();
    if let Some(known) = releases.iter().find(|one| one.info().target_path() == path) {
        let published = published.targets.as_ref();
        let waits = !published.is_some_and(|list| list.role.targets.contains_key(&path));
        let what = if waits {
            "staged, and waits for its signatures: 'release sign', or 'release discard' to begin anew"
        } else if known.sha256() == copied.digest {
            "with exactly this content: see 'release republish'"
        } else {
            "with other content: a version has one content for ever, so give it another version"
        };
        return refused(format!(
            "release {} for {platform} exists already, {what}",
            info.version
        ));
    }
    targets
        .targets
        .insert(path.clone(), target_file(&info, copied)?);
    line::remember(&mut targets)?;
    let signed = check::signed(&path, &targets.targets[&path])?;
    let place = stage::package_path(tree, &check::url_path(&signed));
    disk::create_dirs(place.parent().unwrap_or(&place), 0o755)?;
    own.keep(&place)?;
    Stage::put(tree, &targets)?;
    Ok(info)
}

/// Stages targets metadata without a version, for one platform or all; with a floor, also without
/// everything below it, and with that floor in what remains. Returns what goes.
///
/// # Errors
/// [`ReleaseError`]: no such release, nothing would remain above the floor in a line.
pub fn revoke(
    tree: &Tree,
    version: &Version,
    platform: Option<&Platform>,
    floor: Option<&Version>,
    lifetime: SignedDuration,
    now: Instant,
) -> Result<Vec<ReleaseInfo>, ReleaseError> {
    let _lock = tree.lock()?;
    let published = tree.load()?;
    check_clock(Some(&published), now)?;
    let mut targets = next_targets(tree, &published, lifetime, now)?;
    line::remember(&mut targets)?;
    let mut gone = Vec::new();
    for signed in check::releases(&targets)? {
        let info = signed.info();
        let of_platform = platform.is_none_or(|platform| *platform == info.platform());
        let is_meant = info.version == *version && of_platform;
        let is_below = of_platform && floor.is_some_and(|floor| info.version < *floor);
        let path = info.target_path();
        if is_meant || is_below {
            targets.targets.remove(&path);
            gone.push(info.clone());
        } else if let Some(floor) =
            floor.filter(|floor| of_platform && info.security_floor < **floor)
        {
            let mut info = info.clone();
            info.security_floor = floor.clone();
            let hashed = Hashed {
                length: signed.length(),
                digest: signed.sha256(),
            };
            targets.targets.insert(path, target_file(&info, hashed)?);
        }
    }
    if !gone.iter().any(|info| info.version == *version) {
        return no_such_release(version);
    }
    let remaining = check::releases(&targets)?;
    if let Some(floor) = floor
        && let Some(info) = gone
            .iter()
            .find(|info| line::floor(&remaining, &line::of(info)).is_none())
    {
        return refused(format!(
            "no release of {} remains that could tell hosts of the floor {floor}: add the mended release first, with --security-floor",
            line::of(info)
        ));
    }
    Stage::put(tree, &targets)?;
    Ok(gone)
}

/// Stages a release that exists once more, with the next counter: a deliberate way back to it, or
/// the way to another channel. Returns what will be signed.
///
/// # Errors
/// [`ReleaseError`]: no such release, below the security floor.
pub fn republish(
    tree: &Tree,
    version: &Version,
    channel: Option<&Word>,
    lifetime: SignedDuration,
    now: Instant,
) -> Result<Vec<ReleaseInfo>, ReleaseError> {
    let _lock = tree.lock()?;
    let published = tree.load()?;
    check_clock(Some(&published), now)?;
    let mut targets = next_targets(tree, &published, lifetime, now)?;
    line::remember(&mut targets)?;
    let releases = check::releases(&targets)?;
    let mut counters = line::counters(&targets)?;
    let mut again = Vec::new();
    for signed in releases.iter().filter(|one| one.info().version == *version) {
        let mut info = signed.info().clone();
        info.channel = channel.cloned().unwrap_or(info.channel);
        let line = line::of(&info);
        info.security_floor = info
            .security_floor
            .max(line::floor(&releases, &line).unwrap_or(Version::new(0, 0, 0)));
        if info.security_floor > info.version {
            return refused(format!(
                "release {version} is below the security floor {} of {line}: no host may go back to it",
                info.security_floor
            ));
        }
        let counter = counters.entry(line).or_default();
        *counter += 1;
        info.counter = *counter;
        // An older version is what asks for it: the way back must be open.
        info.min_version_required = None;
        let hashed = Hashed {
            length: signed.length(),
            digest: signed.sha256(),
        };
        targets
            .targets
            .insert(info.target_path(), target_file(&info, hashed)?);
        again.push(info);
    }
    if again.is_empty() {
        return no_such_release(version);
    }
    line::remember(&mut targets)?;
    Stage::put(tree, &targets)?;
    Ok(again)
}

/// The targets metadata that is published or waits, as the next version. Whatever was signed of a
/// waiting one has to be signed again.
pub(super) fn next_targets(
    tree: &Tree,
    published: &Published,
    lifetime: SignedDuration,
    now: Instant,
) -> Result<Targets, ReleaseError> {
    let current = published.targets.as_ref().map(|file| file.role.clone());
    let version = current.as_ref().map_or(1, |role| role.header.version + 1);
    let waiting = Stage::load(tree)?.targets.map(|waiting| waiting.role);
    let Some(mut next) = waiting.or(current) else {
        return refused(
            "there is no signed list of releases yet: finish 'release init' with 'release sign'",
        );
    };
    next.header = Header::new::<Targets>(version, now, now + lifetime);
    Ok(next)
}

/// A copy that only we write, with its length and hash.
fn copy_in(tree: &Tree, package: &Path) -> Result<(Hashed, Temporary), ReleaseError> {
    tree.create_dirs()?;
    let (mut from, _) = disk::open_regular(package)?;
    let own = Temporary::beside(&tree.staged().join("targets").join("package"), 0o644)?;
    let most = Limits::default().package_bytes;
    let hashed = copy::copy(&mut from, &mut &own.file, most).map_err(failed(package, "copied"))?;
    Ok((hashed, own))
}

fn look_into(own: &Temporary) -> Result<Manifest, ReleaseError> {
    use std::io::Seek as _;
    let mut file: &File = &own.file;
    file.rewind()
        .map_err(failed(Path::new("the copy"), "read"))?;
    Ok(inspect(file, &Limits::default())?.manifest)
}

fn target_file(info: &ReleaseInfo, hashed: Hashed) -> Result<TargetFile, ReleaseError> {
    let custom = info.to_custom();
    let custom = custom.map_err(|error| ReleaseError::Refused(error.to_string()))?;
    Ok(TargetFile {
        length: hashed.length,
        hashes: Hashes::from_sha256(&hashed.digest.to_string()),
        custom: Some(custom),
        extra: Extra::new(),
    })
}

fn no_such_release<T>(version: &Version) -> Result<T, ReleaseError> {
    refused(format!("there is no release {version}: see 'release list'"))
}
