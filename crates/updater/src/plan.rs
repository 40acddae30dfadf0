//! What an update would do here, without doing it: every check of the run, all of their answers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use serde::Serialize;
use vpn_node_release::bundle::{Limits, inspect};
use vpn_node_release::trust::{DirFetch, Fetch};
use vpn_node_release::version::Version;

use crate::error::UpdateError;
use crate::host::Host;
use crate::incoming::Incoming;
use crate::preflight::{self, Room};
use crate::probation::Baseline;
use crate::run::{newest, rollback, wished};
use crate::slots::{self, Links};
use crate::supervisor::ProcessState;
use crate::verify::{self, Found, FromAgent, Trusted};
use crate::{offline, snapshot};

/// What would happen, and what stands against it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Plan {
    /// 1.
    pub schema: u32,
    /// Nothing stands against it.
    pub possible: bool,
    /// What stands against it, the first thing that a run would meet first.
    pub problems: Vec<Problem>,
    /// What a boot starts now: a version, or `system`.
    pub from: Option<String>,
    /// The version in it.
    pub from_version: Option<String>,
    /// The release, if its signatures hold.
    pub release: Option<Release>,
    /// What is trusted after looking at what came in.
    pub signatures: Option<Signatures>,
    /// Room on the file systems.
    pub space: Vec<Space>,
    /// Live connections that the change of the agent's process must not lose.
    pub sessions: u64,
    /// VPN daemons that must be up afterwards.
    pub backends: Vec<String>,
    /// The version that `rollback` would lead to afterwards.
    pub rollback_target: Option<String>,
    /// The agent's state is kept first, since the old version could not read what the new writes.
    pub keeps_state: bool,
}

/// A reason why not.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// The stable word.
    pub code: String,
    /// The sentence.
    pub message: String,
}

/// A genuine release.
#[derive(Clone, Debug, Serialize)]
pub struct Release {
    /// Its version.
    pub version: String,
    /// Its place in the order of releases.
    pub counter: u64,
    /// For whom.
    pub channel: String,
    /// What is new.
    pub description: String,
    /// When it was made (RFC 3339).
    pub released: String,
    /// It overrides maintenance windows.
    pub mandatory: bool,
    /// Nothing below it may be installed afterwards.
    pub security_floor: String,
    /// SHA-256 of its package.
    pub sha256: String,
    /// Bytes of its package.
    pub package_bytes: u64,
    /// Bytes that it takes unpacked; absent when the package is not there or not whole.
    pub unpacked_bytes: Option<u64>,
    /// The role that signed for it.
    pub role: String,
}

/// Whose signatures held.
#[derive(Clone, Debug, Serialize)]
pub struct Signatures {
    /// Versions of the four roles.
    pub versions: BTreeMap<String, u64>,
    /// When they expire (RFC 3339).
    pub expires: BTreeMap<String, String>,
}

/// Room on one file system.
#[derive(Clone, Debug, Serialize)]
pub struct Space {
    /// A directory on it.
    pub path: String,
    /// Bytes that are needed, with what must stay free.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
}

/// Plans what the offline `file` would bring, or without one what the agent asks for.
///
/// # Errors
/// Only when nothing can be said at all: there is nothing to plan, or no place to look at it.
pub fn plan(
    host: &mut Host<'_>,
    file: Option<&Path>,
    version: Option<Version>,
) -> Result<Option<Plan>, UpdateError> {
    let planned = match file {
        Some(file) => of_file(host, file, version).map(Some),
        None => of_request(host),
    };
    host.disk.remove_tree(&host.layout.work())?;
    planned
}

fn of_file(
    host: &mut Host<'_>,
    file: &Path,
    version: Option<Version>,
) -> Result<Plan, UpdateError> {
    let directory = offline::lay_out(host.layout, host.disk, file)?;
    let mut fetch = DirFetch::below(&directory);
    match newest(host.layout, host.disk, host.clock, &mut fetch, version) {
        Ok(version) => Ok(judge(host, &mut fetch, &version)),
        Err(error) => Ok(finish(host, Plan::default(), vec![error])),
    }
}

fn of_request(host: &mut Host<'_>) -> Result<Option<Plan>, UpdateError> {
    let Some(incoming) = Incoming::open(host.layout)? else {
        return Ok(None);
    };
    let Some(request) = incoming.request()? else {
        return Ok(None);
    };
    host.disk.ensure_dir(&host.layout.work(), 0o700)?;
    Ok(Some(match wished(&request) {
        Ok(version) => judge(host, &mut FromAgent::new(&incoming), &version),
        Err(error) => finish(host, Plan::default(), vec![error]),
    }))
}

/// Every check, none of which stops the others that do not depend on it.
fn judge(host: &mut Host<'_>, fetch: &mut dyn Fetch, version: &Version) -> Plan {
    let mut problems = Vec::new();
    let mut plan = Plan::default();
    problems.extend(preflight::check_package_managers(host.layout).err());
    let now = host.clock.now();
    let looked = verify::open(host.layout, host.disk, now, true).and_then(|mut trusted| {
        let summary = trusted.refresh(fetch)?;
        let named = |role: &vpn_node_release::metadata::TopRole| role.as_str().to_owned();
        plan.signatures = Some(Signatures {
            versions: summary
                .versions
                .iter()
                .map(|(role, n)| (named(role), *n))
                .collect(),
            expires: summary
                .expires
                .iter()
                .map(|(role, at)| (named(role), at.to_string()))
                .collect(),
        });
        let found = verify::find(&mut trusted, fetch, version)?;
        Ok((trusted, found))
    });
    match looked {
        Ok((trusted, found)) => release(host, fetch, &trusted, &found, &mut plan, &mut problems),
        Err(error) => problems.push(error),
    }
    finish(host, plan, problems)
}

fn release(
    host: &Host<'_>,
    fetch: &mut dyn Fetch,
    trusted: &Trusted,
    found: &Found,
    plan: &mut Plan,
    problems: &mut Vec<UpdateError>,
) {
    let now = host.clock.now();
    match verify::judge(host.layout, host.config, now, trusted, found) {
        Ok(permit) => plan.keeps_state = permit.needs_snapshot,
        Err(refusal) => problems.push(refusal),
    }
    let unpacked = unpacked_bytes(host, fetch, found);
    let mut wanted = vec![(host.layout.work(), found.signed.length())];
    if let Ok(bytes) = &unpacked {
        wanted.push((host.layout.opt(), *bytes));
    }
    if plan.keeps_state {
        match snapshot::needed(host.layout) {
            Ok(bytes) => wanted.push((host.layout.state(), bytes)),
            Err(error) => problems.push(error),
        }
    }
    match preflight::room(&wanted) {
        Ok(rooms) => plan.space = rooms.iter().map(space).collect(),
        Err(error) => problems.push(error),
    }
    problems.extend(preflight::check_room(&wanted).err());
    let info = found.signed.info();
    plan.release = Some(Release {
        version: info.version.to_string(),
        counter: info.counter,
        channel: info.channel.to_string(),
        description: info.description.clone(),
        released: info.released.to_string(),
        mandatory: info.mandatory,
        security_floor: info.security_floor.to_string(),
        sha256: found.signed.sha256().to_string(),
        package_bytes: found.signed.length(),
        unpacked_bytes: unpacked.as_ref().ok().copied(),
        role: found.role.clone(),
    });
    problems.extend(unpacked.err());
}

/// Copies and reads the whole package: its hash holds, and it can be unpacked.
fn unpacked_bytes(
    host: &Host<'_>,
    fetch: &mut dyn Fetch,
    found: &Found,
) -> Result<u64, UpdateError> {
    let path = host.layout.work().join("package");
    crate::run::copy(host, fetch, found)?;
    let package = File::open(&path).map_err(crate::error::at("open", &path))?;
    let inspected = inspect(package, &Limits::default());
    let _ = fs::remove_file(&path);
    Ok(inspected?.manifest.total_bytes())
}

/// What is so whatever the release is.
fn finish(host: &mut Host<'_>, plan: Plan, mut problems: Vec<UpdateError>) -> Plan {
    let from = verify::stable(host.layout);
    let version = |slot| slots::manifest(host.layout, slot).map(|m| m.version.to_string());
    // Without an agent there is nobody to wait for.
    let baseline = match host.supervisor.stable_state() {
        Ok(ProcessState::Running { .. }) => host.probation.baseline(host.supervisor),
        _ => Baseline::default(),
    };
    problems.extend(snapshot::state_format(host.layout).err());
    let from_version = from.as_ref().ok().and_then(version);
    let rollback_target = match &plan.release {
        // After it, one would go back to what runs now.
        Some(_) => from_version.clone(),
        None => rollback::target(host.layout)
            .ok()
            .as_ref()
            .and_then(version),
    };
    let links = Links::read(host.layout);
    let plan = Plan {
        schema: 1,
        from: links.stable.slot().map(ToString::to_string),
        from_version,
        sessions: baseline.sessions(),
        backends: baseline
            .up
            .iter()
            .map(|backend| format!("{} {}", backend.kind, backend.instance))
            .collect(),
        rollback_target,
        ..plan
    };
    problems.extend(from.err());
    // The same refusal may come from two checks.
    let mut told: Vec<Problem> = Vec::new();
    for problem in problems {
        if !told.iter().any(|other| other.code == problem.code) {
            told.push(Problem {
                code: problem.code.to_owned(),
                message: problem.sentence,
            });
        }
    }
    Plan {
        possible: told.is_empty() && plan.release.is_some(),
        problems: told,
        ..plan
    }
}

fn space(room: &Room) -> Space {
    Space {
        path: room.path.display().to_string(),
        needed: room.needed,
        free: room.free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn a_plan_says_everything_and_changes_nothing() {
        let mut world = World::new();
        let file = world.layout.root().join("offline");
        world.repository.export_to(&file);
        let before = world.fingerprint();
        let planned = world
            .with(|host| plan(host, Some(&file), None))
            .unwrap()
            .unwrap();
        assert!(planned.possible, "{:?}", planned.problems);
        assert_eq!(planned.from_version.as_deref(), Some("1.4.0"));
        assert_eq!(planned.rollback_target.as_deref(), Some("1.4.0"));
        let release = planned.release.unwrap();
        assert_eq!((release.version.as_str(), release.counter), ("1.5.0", 1));
        assert!(release.unpacked_bytes.unwrap() > 70_000);
        assert_eq!(planned.signatures.unwrap().versions["timestamp"], 1);
        assert!(!planned.space.is_empty());
        assert_eq!(world.fingerprint(), before);
        assert!(!world.layout.work().exists());

        world.ask("1.5.0", 1);
        let planned = world.with(|host| plan(host, None, None)).unwrap().unwrap();
        assert!(planned.possible, "{:?}", planned.problems);
        assert_eq!(world.fingerprint(), before);
        assert!(world.layout.incoming().join("request.json").exists());
        world.run().unwrap();
        assert!(world.with(|host| plan(host, None, None)).unwrap().is_none());
    }

    #[test]
    fn a_plan_names_all_that_stands_against_it() {
        let mut world = World::new();
        world.repository.add(&Version::new(2, 0, 0), |info| {
            info.min_version_required = Some(Version::new(1, 5, 0));
        });
        let file = world.layout.root().join("offline");
        world.repository.export_to(&file);
        let lock = world.layout.package_manager_locks()[0].clone();
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        fs::write(world.layout.state_format(), "x").unwrap();
        let planned = world
            .with(|host| plan(host, Some(&file), None))
            .unwrap()
            .unwrap();
        assert!(!planned.possible);
        let codes: Vec<_> = planned.problems.iter().map(|p| p.code.as_str()).collect();
        assert_eq!(codes, ["disk_error"]);
        fs::remove_file(world.layout.state_format()).unwrap();
        let planned = world
            .with(|host| plan(host, Some(&file), None))
            .unwrap()
            .unwrap();
        let codes: Vec<_> = planned.problems.iter().map(|p| p.code.as_str()).collect();
        assert_eq!(codes, ["min_version_unmet"]);
    }
}
