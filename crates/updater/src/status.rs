//! status.json: what the agent, the controller and everybody on the host may know. Made anew from
//! the disk each time; it decides nothing.

use vpn_node_release::handover::{self, Attempt, MAX_DETAIL_BYTES, Status};

use crate::clock::Now;
use crate::config::Config;
use crate::disk::Disk;
use crate::error::UpdateError;
use crate::hold::Hold;
use crate::journal::{self, Journal, Phase, Slot};
use crate::layout::Layout;
use crate::slots::{self, Links};
use crate::{lock, verify};

/// Writes status.json, readable by everyone.
///
/// # Errors
/// What the system refused.
pub fn write(layout: &Layout, disk: &Disk, config: &Config, now: Now) -> Result<(), UpdateError> {
    let status = read(layout, disk, config, now);
    let text = serde_json::to_string_pretty(&status).expect("a status has no map keys but strings");
    let _lock = lock::brief(layout)?;
    disk.replace(&layout.status(), text.as_bytes(), 0o644)
}

/// What is so now.
#[must_use]
pub fn read(layout: &Layout, disk: &Disk, config: &Config, now: Now) -> Status {
    let links = Links::read(layout);
    let hold = Hold::read(layout).ok();
    let trusted = verify::open(layout, disk, now, true).ok();
    let high_water = trusted
        .as_ref()
        .and_then(|trusted| verify::high_water(trusted, &config.channel).ok())
        .unwrap_or_default();
    let stable = links.stable.slot();
    let version = |slot: &Slot| slots::manifest(layout, slot).map(|m| m.version.to_string());
    let journal = journal::read(layout);
    Status {
        format: 1,
        written_ms: now.wall_ms,
        root_version: trusted.map(|trusted| trusted.root().header.version),
        channel: config.channel.clone(),
        stable: stable.map_or_else(|| "unknown".into(), ToString::to_string),
        stable_version: stable.and_then(version).unwrap_or_else(|| "unknown".into()),
        previous: links.previous.slot().and_then(version),
        experiment: links.experiment.slot().map(ToString::to_string),
        counter: high_water.counter,
        security_floor: high_water.security_floor.map(|floor| floor.to_string()),
        pinned: hold
            .as_ref()
            .and_then(|hold| hold.pinned.as_ref().map(ToString::to_string)),
        // A policy that cannot be read holds everything back.
        disabled: hold.as_ref().is_none_or(|hold| hold.disabled),
        blocked: hold.map_or_else(Vec::new, |hold| hold.blocked_for_status()),
        attempt: journal.as_ref().and_then(attempt),
    }
}

/// What the journal tells outside; `None` while nothing is known but a wish.
#[must_use]
pub fn attempt(journal: &Journal) -> Option<Attempt> {
    let phase = match journal.phase {
        Phase::Copied => return None,
        Phase::Verified => handover::Phase::Verified,
        Phase::Staged | Phase::Switching => handover::Phase::Staged,
        Phase::Probation | Phase::Committing | Phase::Reverting => handover::Phase::Probation,
        Phase::Done => journal.outcome.unwrap_or(handover::Phase::Failed),
    };
    Some(Attempt {
        id: journal.attempt.clone(),
        deployment: journal.deployment,
        version: journal.to_version.to_string(),
        from: journal
            .from_version
            .as_ref()
            .map_or_else(|| journal.from.to_string(), ToString::to_string),
        phase,
        code: journal.code.clone(),
        detail: journal.detail.as_deref().map(shorten),
        started_ms: journal.started_ms,
        changed_ms: journal.changed_ms,
        deadline_ms: journal.deadline_ms,
    })
}

/// Sentences repeat names from outside, so they may be as long as what came from there.
pub(crate) fn shorten(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_DETAIL_BYTES);
    text[..end].to_owned()
}
