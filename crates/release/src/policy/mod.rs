//! Which release may follow which, on one host. Pure: everything it knows is an argument.
//!
//! The candidate is genuine already (its metadata and bytes are verified); the question is whether
//! it may be installed here and now. The agent asks in order to say early what will be refused;
//! the answer that counts is the updater's, from its own facts.

#[cfg(test)]
mod history;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::code::PolicyCode;
use crate::digest::Digest;
use crate::release::{PRODUCT, ReleaseInfo, StateFormat};
use crate::version::{Platform, Version, Word};

/// A genuine release.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What is signed about it.
    pub info: &'a ReleaseInfo,
    /// SHA-256 of its package, signed too.
    pub sha256: Digest,
}

/// What the judge must know of a host.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// What this host is ([`Platform::here`]).
    pub platform: Platform,
    /// Which releases it takes.
    pub channel: Word,
    /// What a boot starts now.
    pub running: Running,
    /// What was accepted before.
    pub high_water: HighWater,
    /// Versions that ended badly here and are not tried again yet (those whose time is over are not in it).
    pub blocked: Vec<Version>,
    /// The version that root keeps this host at.
    pub pinned: Option<Version>,
    /// Root wants no updates.
    pub disabled: bool,
    /// The format of the state that is on the disk.
    pub state_on_disk: u32,
}

/// The version that a boot starts.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its number.
    pub version: Version,
    /// SHA-256 of the package it was unpacked from; absent for that of the deb or rpm.
    pub package: Option<Digest>,
    /// The counter that is signed for its number now, if it is listed.
    pub listed_counter: Option<u64>,
    /// Which state it reads and writes.
    pub state_format: StateFormat,
}

/// The newest release that was ever accepted here, in this product, channel and platform. It only
/// rises; going back to an older version after a bad one does not lower it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HighWater {
    /// Its counter; 0 when there was none yet.
    pub counter: u64,
    /// SHA-256 of its package.
    pub package: Option<Digest>,
    /// The highest security floor of all that were accepted.
    pub security_floor: Option<Version>,
}

impl HighWater {
    /// What it is once `candidate` is accepted.
    #[must_use]
    fn with(&self, candidate: Candidate<'_>) -> Self {
        let floor = &candidate.info.security_floor;
        Self {
            counter: self.counter.max(candidate.info.counter),
            package: if candidate.info.counter >= self.counter {
                Some(candidate.sha256)
            } else {
                self.package
            },
            security_floor: self.security_floor.as_ref().max(Some(floor)).cloned(),
        }
    }
}

/// It may be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Permit {
    /// Keep this, durably, before anything of the release is unpacked.
    ///
    /// Not before: a release that is refused (it wants another one first) must not bar the way to
    /// that other one.
    pub high_water: HighWater,
    /// It writes state that the running version cannot read: keep a copy of the state first, and
    /// give it back if the release goes.
    pub needs_snapshot: bool,
}

/// It may not; the text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// The stable word.
    pub code: PolicyCode,
    /// What is wrong, with which versions, and what to do.
    pub sentence: String,
}

/// Judges a genuine release for a host.
///
/// # Errors
/// The first rule that it breaks: what it is for (product, platform, channel), then what was
/// accepted before (counter, security floor), then what runs, then what root of the host said,
/// then what it needs.
pub fn judge(candidate: Candidate<'_>, host: &HostFacts) -> Result<Permit, Refusal> {
    is_for_this_host(candidate.info, host)?;
    is_no_step_back(candidate, &host.high_water)?;
    is_another(candidate, &host.running)?;
    is_no_step_behind_the_package(candidate.info, &host.running)?;
    root_allows(&candidate.info.version, host)?;
    can_follow(candidate.info, host)?;
    Ok(Permit {
        high_water: host.high_water.with(candidate),
        needs_snapshot: !host
            .running
            .state_format
            .reads(candidate.info.state_format.writes),
    })
}

fn is_for_this_host(info: &ReleaseInfo, host: &HostFacts) -> Result<(), Refusal> {
    let ReleaseInfo {
        version,
        product,
        channel,
        os,
        arch,
        ..
    } = info;
    if product != PRODUCT {
        return refuse(
            PolicyCode::WrongProduct,
            format!(
                "release {version} is of the product {product:?}, not {PRODUCT:?}: it must not have been assigned to this host"
            ),
        );
    }
    if *os != host.platform.os {
        return refuse(
            PolicyCode::WrongOs,
            format!(
                "release {version} is for the operating system {os}, and this host has {}: assign the one for {}",
                host.platform.os, host.platform
            ),
        );
    }
    if *arch != host.platform.arch {
        return refuse(
            PolicyCode::WrongArch,
            format!(
                "release {version} is for {arch} processors, and this host has {}: assign the one for {}",
                host.platform.arch, host.platform
            ),
        );
    }
    if *channel != host.channel {
        return refuse(
            PolicyCode::WrongChannel,
            format!(
                "release {version} is of the channel {channel}, and this host takes {}: assign another, or set `channel` in /etc/vpn-node/updater.toml",
                host.channel
            ),
        );
    }
    Ok(())
}

fn is_no_step_back(candidate: Candidate<'_>, known: &HighWater) -> Result<(), Refusal> {
    let ReleaseInfo {
        version, counter, ..
    } = candidate.info;
    if *counter < known.counter {
        return refuse(
            PolicyCode::CounterLower,
            format!(
                "release {version} has counter {counter}, and one with counter {} was accepted here before: to go back on purpose, publish the older content as a new release",
                known.counter
            ),
        );
    }
    if *counter == known.counter && known.package != Some(candidate.sha256) {
        return refuse(
            PolicyCode::CounterReused,
            format!(
                "release {version} has counter {counter}, which another package had that was accepted here before: each release needs a counter of its own, so ask its publisher what was signed"
            ),
        );
    }
    match &known.security_floor {
        Some(floor) if version < floor => refuse(
            PolicyCode::BelowSecurityFloor,
            format!(
                "version {version} is below {floor}, and everything below has a known security defect: assign a newer one"
            ),
        ),
        _ => Ok(()),
    }
}

fn is_another(candidate: Candidate<'_>, running: &Running) -> Result<(), Refusal> {
    let version = &candidate.info.version;
    if *version != running.version {
        return Ok(());
    }
    // What the deb or rpm brought has a version, but no package that could be compared: the same
    // number is taken for the same content.
    if running
        .package
        .is_none_or(|package| package == candidate.sha256)
    {
        return refuse(
            PolicyCode::AlreadyInstalled,
            format!("version {version} is what this host runs: nothing to do"),
        );
    }
    refuse(
        PolicyCode::VersionReused,
        format!(
            "version {version} is what this host runs, and this release has other content under the same number: publish it with a number of its own"
        ),
    )
}

/// What the deb or rpm brought was never accepted here, so the high-water mark says nothing of it:
/// a stolen controller could assign any older release that was signed once.
fn is_no_step_behind_the_package(info: &ReleaseInfo, running: &Running) -> Result<(), Refusal> {
    let (version, counter) = (&info.version, info.counter);
    let later = running.listed_counter.is_some_and(|listed| counter > listed);
    if running.package.is_some() || *version >= running.version || later {
        return Ok(());
    }
    refuse(
        PolicyCode::CounterLower,
        format!(
            "release {version} is older than {}, which the package manager installed here, and was not signed after it: to go back on purpose, publish the older content as a new release, or install the older deb or rpm",
            running.version
        ),
    )
}

fn root_allows(version: &Version, host: &HostFacts) -> Result<(), Refusal> {
    if host.disabled {
        return refuse(
            PolicyCode::UpdatesDisabled,
            format!(
                "release {version} is not installed: root has switched updates off on this host (`vpn-node update enable` switches them on)"
            ),
        );
    }
    if let Some(pinned) = host.pinned.as_ref().filter(|pinned| *pinned != version) {
        return refuse(
            PolicyCode::Pinned,
            format!(
                "release {version} is not installed: root keeps this host at {pinned} (`vpn-node update unpin` ends that)"
            ),
        );
    }
    if host.blocked.contains(version) {
        return refuse(
            PolicyCode::Blocked,
            format!(
                "release {version} is not installed: it ended badly on this host before (`vpn-node update status` says how and until when, `vpn-node update unblock {version}` allows another try)"
            ),
        );
    }
    Ok(())
}

fn can_follow(info: &ReleaseInfo, host: &HostFacts) -> Result<(), Refusal> {
    let (version, running) = (&info.version, &host.running.version);
    if let Some(needed) = info
        .min_version_required
        .as_ref()
        .filter(|needed| running < *needed)
    {
        return refuse(
            PolicyCode::MinVersionUnmet,
            format!(
                "release {version} can follow {needed} or newer, and this host runs {running}: install {needed} first"
            ),
        );
    }
    let formats = info.state_format;
    if !formats.reads(host.state_on_disk) {
        return refuse(
            PolicyCode::StateUnreadable,
            format!(
                "release {version} reads the state formats {} to {}, and this host's state has format {}: install a version between them first",
                formats.reads_min, formats.reads_max, host.state_on_disk
            ),
        );
    }
    Ok(())
}

fn refuse(code: PolicyCode, sentence: String) -> Result<(), Refusal> {
    Err(Refusal { code, sentence })
}
