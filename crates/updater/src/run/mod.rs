//! The way of a release onto the host, as a story: copy, verify, judge, unpack, switch, watch,
//! keep or go back. Each step is written into the journal before it is begun; what ends it early
//! changes nothing of what runs.

pub mod rollback;
#[cfg(test)]
mod tests;
mod trial;

use std::path::Path;

use vpn_node_release::bundle::Verified;
use vpn_node_release::code::{MetadataCode, UpdaterCode};
use vpn_node_release::handover::{self, Request};
use vpn_node_release::release::target_path;
use vpn_node_release::trust::{DirFetch, Fetch, FetchError};
use vpn_node_release::version::{Platform, Version};

use crate::clock::{Clock, new_id};
use crate::disk::Disk;
use crate::error::{Kind, UpdateError, at};
use crate::history::{self, Line};
use crate::host::Host;
use crate::incoming::Incoming;
use crate::journal::{self, Journal, Origin, Phase, Slot};
use crate::layout::Layout;
use crate::recovery::apply::{end, to_rest, write};
use crate::verify::{self, Found, FromAgent, GatedReader};
use crate::{lock, offline, preflight, slots, status, trust};

/// How it ended, if not by an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody asked for anything.
    Nothing,
    /// The new version is what a boot starts.
    Installed {
        /// Which.
        version: Version,
        /// What the operator should know nevertheless.
        remark: Option<String>,
    },
}

/// Recovers, then does what the agent asks for.
///
/// # Errors
/// Why not: refused, failed or rolled back. The host runs what it ran before.
pub fn run(host: &mut Host<'_>) -> Result<Outcome, UpdateError> {
    to_rest(host)?;
    adopt_packaged(host)?;
    let Some(incoming) = Incoming::open(host.layout)? else {
        return Ok(Outcome::Nothing);
    };
    let request = match incoming.request() {
        Ok(None) => return Ok(Outcome::Nothing),
        Ok(Some(request)) => request,
        Err(error) => {
            // It has no id that an answer could name; a line of history is all.
            tell_refusal(host, &error)?;
            incoming.remove_invalid(host.disk)?;
            return Err(error);
        }
    };
    let former = journal::read(host.layout).filter(|former| former.attempt == request.id);
    if former.as_ref().is_some_and(|former| former.phase.is_over()) {
        incoming.remove_request(host.disk, &request.id)?;
        return Ok(Outcome::Nothing);
    }
    let tries = former.map_or(0, |former| former.tries) + 1;
    let installed = install_request(host, &incoming, &request, tries);
    // Answered; or the disk would not even take the question, and asking again at once, as the
    // service would, changes nothing. The agent may ask again later.
    let journal = journal::read(host.layout).filter(|journal| journal.attempt == request.id);
    if journal.is_none_or(|journal| journal.phase.is_over()) {
        incoming.remove_request(host.disk, &request.id)?;
    }
    installed
}

/// Installs from an offline file that root brought. Without `version` the newest release of this
/// platform that has its package in it.
///
/// # Errors
/// As [`run`].
pub fn apply(
    host: &mut Host<'_>,
    file: &Path,
    version: Option<Version>,
) -> Result<Outcome, UpdateError> {
    // A slip in the path is no attempt: nothing is noted of it.
    offline::open(file)?;
    to_rest(host)?;
    adopt_packaged(host)?;
    let looked = offline::lay_out(host.layout, host.disk, file).and_then(|directory| {
        let mut fetch = DirFetch::below(&directory);
        let version = newest(host.layout, host.disk, host.clock, &mut fetch, version)?;
        Ok((fetch, version))
    });
    let (mut fetch, version) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            host.disk.remove_tree(&host.layout.work())?;
            tell_refusal(host, &error)?;
            return Err(error);
        }
    };
    let id = new_id().map_err(at("read", "/proc/sys/kernel/random/uuid".as_ref()))?;
    let journal = begin(host, id, Origin::File, None, version, 1)?;
    let staged = prepare(host, &mut fetch, journal.clone());
    conclude(host, journal, staged)
}

/// The newest release for this platform whose package is in `fetch`, or the one that is named.
///
/// # Errors
/// Whatever metadata is refused for; no package of this platform.
pub fn newest(
    layout: &Layout,
    disk: &Disk,
    clock: &dyn Clock,
    fetch: &mut DirFetch,
    version: Option<Version>,
) -> Result<Version, UpdateError> {
    if let Some(version) = version {
        return Ok(version);
    }
    // Only a look: what is verified here is verified again, and kept then.
    let mut trusted = verify::open(layout, disk, clock.now(), true)?;
    trusted.refresh(fetch)?;
    let platform = Platform::here();
    let paths = trusted
        .targets()
        .into_iter()
        .flat_map(|targets| targets.targets.keys());
    let mut versions: Vec<Version> = paths
        .filter_map(|path| {
            let version = Version::parse(path.split('/').nth(1)?).ok()?;
            (target_path(&version, &platform) == *path).then_some(version)
        })
        .collect();
    versions.sort();
    for version in versions.into_iter().rev() {
        let target = trusted.target(fetch, &target_path(&version, &platform))?;
        let there = fetch.target(&target.url_path()).is_ok();
        if there {
            return Ok(version);
        }
    }
    Err(UpdateError::refused(
        UpdaterCode::IncomingMissing,
        format!("it has no package for {platform}; export it again for this platform"),
    ))
}

fn install_request(
    host: &mut Host<'_>,
    incoming: &Incoming,
    request: &Request,
    tries: u32,
) -> Result<Outcome, UpdateError> {
    let version = match wished(request) {
        Ok(version) => version,
        Err(error) => {
            tell_refusal(host, &error)?;
            incoming.remove_request(host.disk, &request.id)?;
            return Err(error);
        }
    };
    let (id, deployment) = (request.id.clone(), request.deployment);
    let journal = begin(host, id, Origin::Request, deployment, version, tries)?;
    let mut fetch = FromAgent::new(incoming);
    let staged = prepare(host, &mut fetch, journal.clone());
    // What the agent did is a better answer than what the client made of it.
    let staged = staged.map_err(|error| fetch.refused.take().unwrap_or(error));
    conclude(host, journal, staged)
}

/// A request is for a version of this platform, at the place where that must lie.
pub(crate) fn wished(request: &Request) -> Result<Version, UpdateError> {
    let invalid = |why: String| UpdateError::refused(UpdaterCode::RequestInvalid, why);
    let version = Version::parse(&request.version)
        .map_err(|error| invalid(format!("the request is not valid: {error}")))?;
    let path = target_path(&version, &Platform::here());
    if request.target != path {
        return Err(invalid(format!(
            "the request names the target {:?}, and version {version} for this host lies at {path:?}",
            request.target
        )));
    }
    Ok(version)
}

/// Opens the journal: from here on a power cut finds what was going on.
fn begin(
    host: &Host<'_>,
    attempt: String,
    origin: Origin,
    deployment: Option<u64>,
    version: Version,
    tries: u32,
) -> Result<Journal, UpdateError> {
    let from = verify::stable(host.layout)?;
    let from_version = slots::manifest(host.layout, &from).map(|manifest| manifest.version);
    let journal = Journal {
        deployment,
        tries,
        ..Journal::begin(
            attempt,
            origin,
            (from, from_version),
            (Slot::Version(version.clone()), version),
            host.clock.boot_id(),
            host.clock.now().wall_ms,
        )
    };
    write(host, &journal)?;
    Ok(journal)
}

/// What is ready to be switched to.
struct Staged {
    journal: Journal,
    /// It may migrate the agent's state, so that must be kept first.
    migrates: bool,
}

/// Verifies, judges, copies and unpacks; nothing that runs is touched.
fn prepare(
    host: &mut Host<'_>,
    fetch: &mut dyn Fetch,
    journal: Journal,
) -> Result<Staged, UpdateError> {
    let (layout, disk) = (host.layout, host.disk);
    preflight::check_package_managers(layout)?;
    let now = host.clock.now();
    let mut trusted = verify::open(layout, disk, now, false)?;
    let summary = trusted.refresh(fetch)?;
    for warning in summary.warnings {
        host.say(&warning);
    }
    let found = verify::find(&mut trusted, fetch, &journal.to_version)?;
    let permit = verify::judge(layout, host.config, now, &trusted, &found)?;

    disk.ensure_dir(&layout.work(), 0o700)?;
    preflight::check_room(&[(layout.work(), found.signed.length())])?;
    let package = copy(host, fetch, &found)?;
    verify::remember(&mut trusted, &found)?;
    let journal = advance(host, journal, Phase::Verified)?;

    slots::stage(layout, disk, package)?;
    disk.remove_tree(&layout.work())?;
    slots::check(layout, &journal.to)?;
    let journal = advance(host, journal, Phase::Staged)?;
    Ok(Staged {
        journal,
        migrates: permit.needs_snapshot,
    })
}

/// Into a file that nobody but root can reach, hashing what is written.
pub(crate) fn copy(
    host: &Host<'_>,
    fetch: &mut dyn Fetch,
    found: &Found,
) -> Result<Verified<std::fs::File>, UpdateError> {
    let (layout, disk) = (host.layout, host.disk);
    let from = fetch.target(&found.url_path).map_err(|error| match error {
        FetchError::NotFound => UpdateError::refused(
            UpdaterCode::IncomingMissing,
            format!("targets/{} is not there: download it again", found.url_path),
        ),
        other => UpdateError::of(
            Kind::Failed,
            MetadataCode::FetchFailed.as_str(),
            format!("targets/{}: {other}", found.url_path),
        ),
    })?;
    let path = layout.work().join("package");
    disk.remove_file(&path)?;
    disk.change("create", &path, || {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
    })
    .and_then(|own| {
        let mut from = GatedReader { from, disk, layout };
        Ok(found.signed.copy(&mut from, own)?)
    })
}

/// Writes the next phase, and tells it.
fn advance(host: &Host<'_>, journal: Journal, phase: Phase) -> Result<Journal, UpdateError> {
    let journal = Journal { phase, ..journal };
    write(host, &journal)?;
    tell(host);
    Ok(journal)
}

/// A status that cannot be written stops nothing.
fn tell(host: &Host<'_>) {
    let _ = status::write(host.layout, host.disk, host.config, host.clock.now());
}

/// On to the trial, or down with the reason.
fn conclude(
    host: &mut Host<'_>,
    journal: Journal,
    staged: Result<Staged, UpdateError>,
) -> Result<Outcome, UpdateError> {
    let ready = staged.and_then(|mut staged| {
        // This may take most of a minute, and whether the switch may be made is asked after it.
        staged.journal.baseline = Some(host.probation.baseline(host.supervisor));
        trial::ready(host, &staged.journal, staged.migrates)?;
        Ok(staged)
    });
    let ended = match ready {
        Ok(staged) => trial::trial(host, staged.journal, staged.migrates),
        Err(error) => {
            let cleared = host.disk.remove_tree(&host.layout.work());
            slots::clear_staging(host.layout, host.disk).and(cleared)?;
            let over = Journal {
                phase: Phase::Done,
                outcome: Some(match error.kind {
                    Kind::Refused => handover::Phase::Refused,
                    Kind::Failed | Kind::RolledBack => handover::Phase::Failed,
                }),
                code: Some(error.code.to_owned()),
                detail: Some(error.sentence.clone()),
                ..journal
            };
            end(host, &over)?;
            Err(error)
        }
    };
    tell(host);
    ended
}

/// The first start of an installed package.
fn adopt_packaged(host: &mut Host<'_>) -> Result<(), UpdateError> {
    let adopted = trust::adopt_packaged(host.layout, host.disk, host.clock.now())?;
    if let Some(root) = adopted {
        host.say(&format!(
            "trusts the package's root metadata, version {}, SHA-256 {}",
            root.version, root.sha256
        ));
    }
    Ok(())
}

/// For what never became an attempt.
fn tell_refusal(host: &mut Host<'_>, error: &UpdateError) -> Result<(), UpdateError> {
    let line = Line {
        at_ms: host.clock.now().wall_ms,
        event: "refused".into(),
        code: Some(error.code.to_owned()),
        detail: Some(error.sentence.clone()),
        ..Line::default()
    };
    let _lock = lock::brief(host.layout)?;
    history::append(host.layout, host.disk, &line)
}
