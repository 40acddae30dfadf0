//! Doing the steps that [`super::recover`] gives, on a real host.

use vpn_node_release::handover;

use super::{Facts, Step, recover};
use crate::error::UpdateError;
use crate::history::{self, Line};
use crate::hold::Hold;
use crate::host::Host;
use crate::incoming::Incoming;
use crate::journal::{self, Journal, Phase, Slot};
use crate::slots::{self, Links};
use crate::{lock, snapshot, status};

/// Brings the host to rest: an experiment that has no right to be there goes, a commit or a way
/// back that was begun is finished.
///
/// # Errors
/// What could not be done; the stable agent was started all the same, and the next call goes on.
pub fn to_rest(host: &mut Host<'_>) -> Result<(), UpdateError> {
    let done = steps(host);
    if done.is_err() {
        // Whatever is broken here, the host must not be without its agent.
        if let Err(error) = host.supervisor.back_to_stable() {
            host.say(&format!("the stable agent could not be started: {error}"));
        }
    }
    let told = status::write(host.layout, host.disk, host.config, host.clock.now());
    if let Err(error) = told {
        host.say(&format!("the status could not be written: {error}"));
    }
    done
}

fn steps(host: &mut Host<'_>) -> Result<(), UpdateError> {
    for step in recover(&facts(host)) {
        apply(host, &step)?;
    }
    host.disk.remove_tree(&host.layout.work())?;
    slots::clear_staging(host.layout, host.disk)
}

fn facts(host: &Host<'_>) -> Facts {
    let journal = journal::read(host.layout);
    let waits = Incoming::open(host.layout)
        .ok()
        .flatten()
        .and_then(|incoming| incoming.request().ok().flatten());
    let mut valid = slots::whole_slots(host.layout);
    // From now on every boot starts it: every byte is looked at once more.
    let committed = journal.as_ref().filter(|j| j.phase == Phase::Committing);
    if let Some(to) = committed.map(|journal| &journal.to)
        && slots::check(host.layout, to).is_err()
    {
        valid.remove(to);
    }
    Facts {
        links: Links::read(host.layout),
        valid,
        open_snapshot: snapshot::open(host.layout),
        request_waits: journal
            .as_ref()
            .zip(waits)
            .is_some_and(|(journal, request)| journal.attempt == request.id),
        package_waits: host.layout.package_waits().exists(),
        system_version: slots::manifest(host.layout, &Slot::System).map(|found| found.version),
        journal,
    }
}

fn apply(host: &mut Host<'_>, step: &Step) -> Result<(), UpdateError> {
    let (layout, disk) = (host.layout, host.disk);
    match step {
        Step::StopBoth => host.supervisor.stop().map_err(Into::into),
        Step::RestoreSnapshot(version) => snapshot::restore(layout, disk, version),
        Step::DropSnapshot(version) => snapshot::drop_open(layout, disk, version),
        Step::SettleSnapshot(version) => snapshot::settle(layout, disk, version),
        Step::SetPrevious(slot) => disk.link(&layout.previous(), &slots::link_text(slot)),
        Step::SetStable(slot) => disk.link(&layout.stable(), &slots::link_text(slot)),
        Step::RemoveExperiment => disk.remove_file(&layout.experiment()),
        // What cannot be stopped or started is tried again by the next recovery: the steps after
        // these, which say that it is over, wait for it.
        Step::BackToStable => host.supervisor.back_to_stable().map_err(Into::into),
        Step::ForgetPackage => disk.remove_file(&layout.package_waits()),
        Step::Settle => host.supervisor.settle().map_err(Into::into),
        Step::Block {
            version,
            code,
            attempt,
        } => {
            let _lock = lock::brief(layout)?;
            match Hold::read(layout) {
                Ok(mut hold) => {
                    hold.block(version, code, attempt, host.clock.now().wall_ms);
                    hold.write(layout, disk)
                }
                // It holds everything back as long as it is so: the way back must not wait for it.
                Err(error) => {
                    host.say(&format!("{version} could not be blocked: {error}"));
                    Ok(())
                }
            }
        }
        Step::Wait(journal) => write(host, journal),
        Step::End(journal) => end(host, journal),
    }
}

/// Tells how an attempt ended: history first, since the journal is what says that it was told.
///
/// # Errors
/// What the system refused.
pub fn end(host: &mut Host<'_>, journal: &Journal) -> Result<(), UpdateError> {
    let now_ms = host.clock.now().wall_ms;
    let event = match journal.outcome {
        Some(handover::Phase::Installed) => "installed",
        Some(handover::Phase::Refused) => "refused",
        Some(handover::Phase::RolledBack) => "rolled_back",
        _ => "failed",
    };
    let line = Line {
        at_ms: now_ms,
        event: event.into(),
        attempt: Some(journal.attempt.clone()),
        deployment: journal.deployment,
        from: journal.from_version.as_ref().map(ToString::to_string),
        version: Some(journal.to_version.to_string()),
        code: journal.code.clone(),
        detail: journal.detail.clone(),
    };
    {
        let _lock = lock::brief(host.layout)?;
        history::append(host.layout, host.disk, &line)?;
    }
    write(host, journal)
}

/// Writes the journal with the time of now.
///
/// # Errors
/// What the system refused.
pub fn write(host: &Host<'_>, journal: &Journal) -> Result<(), UpdateError> {
    let journal = Journal {
        boot_id: host.clock.boot_id(),
        changed_ms: host.clock.now().wall_ms,
        ..journal.clone()
    };
    journal::write(host.layout, host.disk, &journal)
}
