//! Switch, watch, keep or go back.

use vpn_node_release::code::UpdaterCode;
use vpn_node_release::handover;

use super::{Outcome, advance, tell};
use crate::error::{Kind, UpdateError};
use crate::host::Host;
use crate::journal::{self, Journal, Phase};
use crate::probation::{Ending, Trial};
use crate::recovery::apply::{to_rest, write};
use crate::slots::{self, Link, Links};
use crate::{preflight, snapshot, status, verify};

/// Runs the staged version on trial and acts on the verdict. Whatever fails in between, the end is
/// the recovery's: a whole stable version runs.
///
/// # Errors
/// It was sent away again, or the host could not do it.
pub(super) fn trial(
    host: &mut Host<'_>,
    journal: Journal,
    migrates: bool,
) -> Result<Outcome, UpdateError> {
    let tried = switch_and_watch(host, journal, migrates);
    if let Err(error) = &tried {
        give_up(host, error);
    }
    // One way for all endings, and the same as after a power cut.
    let rested = to_rest(host);
    let remark = tried?;
    rested?;
    let journal = journal::read(host.layout).ok_or_else(|| {
        UpdateError::failed(
            UpdaterCode::DiskError,
            "the journal cannot be read back; look at the disk".to_owned(),
        )
    })?;
    if journal.outcome != Some(handover::Phase::Installed) {
        return Err(ended_badly(&journal));
    }
    if let Err(error) = tidy(host) {
        host.say(&format!("old versions could not be removed: {error}"));
    }
    Ok(Outcome::Installed {
        version: journal.to_version,
        remark,
    })
}

/// Whether the switch may be made now; nothing was touched yet.
///
/// # Errors
/// Links that are not as they were at the beginning, a package manager at work, a state that must be
/// kept and cannot be.
pub(super) fn ready(host: &Host<'_>, journal: &Journal, migrates: bool) -> Result<(), UpdateError> {
    let layout = host.layout;
    if Links::read(layout).experiment != Link::Absent {
        // Recovery has removed ours: somebody made this one by hand, just now.
        return Err(UpdateError::failed(
            UpdaterCode::StartFailed,
            format!(
                "{} is there although no experiment runs; remove it",
                layout.experiment().display()
            ),
        ));
    }
    if verify::stable(layout)? != journal.from {
        return Err(UpdateError::failed(
            UpdaterCode::InstallationGone,
            "the stable version was changed while this one was being unpacked; try again",
        ));
    }
    preflight::check_package_managers(layout)?;
    if migrates {
        // Before an agent is stopped for it.
        snapshot::check(layout)?;
    }
    Ok(())
}

/// On `Ok` the journal says "committing" or "reverting".
fn switch_and_watch(
    host: &mut Host<'_>,
    journal: Journal,
    migrates: bool,
) -> Result<Option<String>, UpdateError> {
    let (layout, disk) = (host.layout, host.disk);
    let baseline = journal.baseline.clone().unwrap_or_default();
    let journal = advance(host, journal, Phase::Switching)?;
    if migrates {
        // While nobody writes: files of two instants would be no state that ever was.
        host.supervisor.stop()?;
        snapshot::take(layout, disk, &journal.to_version)?;
    }
    disk.link(&layout.experiment(), &slots::link_text(&journal.to))?;
    let mut journal = advance(host, journal, Phase::Probation)?;

    let ending = match host.supervisor.start_experiment() {
        Err(error) => Ending::Revert {
            code: UpdaterCode::StartFailed,
            detail: error.to_string(),
        },
        Ok(()) => {
            let version = journal.to_version.clone();
            let trial = Trial {
                version: &version,
                baseline: &baseline,
                migrates,
            };
            let (clock, config) = (host.clock, host.config);
            let mut note = |deadline: crate::probation::Deadline| {
                journal.deadline_ms = Some(deadline.at_ms);
                journal.detail = deadline.why;
                journal::write(layout, disk, &journal)?;
                status::write(layout, disk, config, clock.now())
            };
            host.probation.watch(trial, host.supervisor, &mut note)?
        }
    };
    let (phase, code, detail) = match ending {
        Ending::Keep { remark } => (Phase::Committing, None, remark),
        Ending::Revert { code, detail } => (Phase::Reverting, Some(code.to_string()), Some(detail)),
    };
    let remark = detail.clone().filter(|_| code.is_none());
    let journal = Journal {
        phase,
        blame: code.is_some(),
        code,
        detail,
        deadline_ms: None,
        ..journal
    };
    write(host, &journal)?;
    tell(host);
    Ok(remark)
}

/// The host failed, not the version: it goes back, and says why, as far as the disk takes it.
fn give_up(host: &mut Host<'_>, error: &UpdateError) {
    let Some(journal) = journal::read(host.layout) else {
        return;
    };
    let back = Journal {
        phase: Phase::Reverting,
        code: Some(error.code.to_owned()),
        detail: Some(error.sentence.clone()),
        ..journal
    };
    if let Err(error) = write(host, &back) {
        host.say(&format!("the journal could not be written: {error}"));
    }
}

fn ended_badly(journal: &Journal) -> UpdateError {
    let code = journal.code.as_deref().unwrap_or_default();
    let known = UpdaterCode::ALL.iter().find(|known| known.as_str() == code);
    let code = known.unwrap_or(&UpdaterCode::Interrupted).as_str();
    let detail = journal.detail.as_deref().unwrap_or("it was interrupted");
    let from = journal.from_version.as_ref();
    let from = from.map_or_else(|| journal.from.to_string(), ToString::to_string);
    UpdateError::of(
        Kind::RolledBack,
        code,
        format!(
            "version {} was sent away again, {from} runs: {detail}",
            journal.to_version
        ),
    )
}

/// Old versions, and what was kept for them.
fn tidy(host: &mut Host<'_>) -> Result<(), UpdateError> {
    slots::prune(host.layout, host.disk, host.config.keep)?;
    snapshot::prune(host.layout, host.disk)
}
