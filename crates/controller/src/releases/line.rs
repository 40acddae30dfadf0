//! Release counters, and the lowest version that is still safe. Both belong to a line: a channel on
//! a platform. The highest counter that a line ever used stands in the signed targets metadata, so
//! that a counter is not given twice even if its release was revoked.

use std::collections::BTreeMap;

use serde_json::Value;
use vpn_node_release::bundle::Signed;
use vpn_node_release::metadata::Targets;
use vpn_node_release::release::ReleaseInfo;
use vpn_node_release::version::{Platform, Version, Word};

use super::check;
use super::error::{ReleaseError, refused};

/// The member of targets metadata that keeps the counters: ours, hosts do not read it.
const MEMBER: &str = "x-vpn-node-counters";

/// The highest counter of every line.
pub(super) type Counters = BTreeMap<String, u64>;

/// A channel on a platform: `stable/linux-amd64`.
#[must_use]
pub fn name(channel: &Word, platform: &Platform) -> String {
    format!("{channel}/{platform}")
}

/// The line of a release.
#[must_use]
pub fn of(info: &ReleaseInfo) -> String {
    name(&info.channel, &info.platform())
}

/// The counters that were ever used, with those of the releases that are there.
pub(super) fn counters(targets: &Targets) -> Result<Counters, ReleaseError> {
    let mut counters = Counters::new();
    if let Some(Value::Object(kept)) = targets.extra.get(MEMBER) {
        for (line, counter) in kept {
            if let Some(counter) = counter.as_u64() {
                counters.insert(line.clone(), counter);
            }
        }
    }
    for signed in check::releases(targets)? {
        let highest = counters.entry(of(signed.info())).or_default();
        *highest = (*highest).max(signed.info().counter);
    }
    Ok(counters)
}

/// Writes the counters down, before anything is removed.
pub(super) fn remember(targets: &mut Targets) -> Result<(), ReleaseError> {
    let counters = counters(targets)?;
    let counters = counters
        .into_iter()
        .map(|(line, counter)| (line, counter.into()));
    let member = Value::Object(counters.collect());
    targets.extra.insert(MEMBER.to_owned(), member);
    Ok(())
}

/// The highest security floor of a line.
pub(super) fn floor(releases: &[Signed], line: &str) -> Option<Version> {
    let floors = releases.iter().filter(|signed| of(signed.info()) == line);
    floors
        .map(|signed| signed.info().security_floor.clone())
        .max()
}

/// Whether `new` may follow `old`: no line goes back, and no counter has two contents.
pub(super) fn check_successor(old: &Targets, new: &Targets) -> Result<(), ReleaseError> {
    let (before, after) = (counters(old)?, counters(new)?);
    for (line, counter) in &before {
        if after.get(line).is_none_or(|now| now < counter) {
            return refused(format!(
                "the release counter of {line} would go back from {counter}: hosts would refuse it; make the release again from what is published"
            ));
        }
    }
    let (old, new) = (check::releases(old)?, check::releases(new)?);
    for release in &new {
        let (info, line) = (release.info(), of(release.info()));
        let clash = old.iter().find(|one| {
            of(one.info()) == line
                && one.info().counter == info.counter
                && one.sha256() != release.sha256()
        });
        if clash.is_some() {
            return refused(format!(
                "counter {} of {line} is that of another package already: hosts would refuse it",
                info.counter
            ));
        }
    }
    Ok(())
}
