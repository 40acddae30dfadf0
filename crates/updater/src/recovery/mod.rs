//! What is to be done after a crash, a power cut, or a verdict: a pure function.
//!
//! It looks at links, journal, slots and boot, and gives steps; [`apply`] does them. The ordinary
//! run ends the same way: it writes "committing" or "reverting" and then recovers. So the way back
//! is walked at every update and not only in an emergency.
//!
//! What holds at the end, whatever was torn: `stable` leads to a whole slot if there is one,
//! there is no experiment, and the stable agent is what runs.

pub mod apply;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use vpn_node_release::code::UpdaterCode;
use vpn_node_release::handover;
use vpn_node_release::version::Version;

use crate::journal::{Journal, Origin, Phase, Slot};
use crate::slots::{Link, Links};

/// An attempt that was begun this often and never came to an end is given up.
pub const MAX_TRIES: u32 = 3;

/// All that decides.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As they stand on disk.
    pub links: Links,
    /// The newest readable copy; none if there is none.
    pub journal: Option<Journal>,
    /// The slots that are whole.
    pub valid: BTreeSet<Slot>,
    /// A snapshot that is neither restored nor settled yet, by the version that it was taken for.
    pub open_snapshot: Option<Version>,
    /// The agent still asks for the attempt of the journal.
    pub request_waits: bool,
    /// A deb or rpm came during a trial and left the links as they were.
    pub package_waits: bool,
    /// The version of that package.
    pub system_version: Option<Version>,
}

/// One thing to do. Doing it twice is doing it once.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Neither agent may run while its state is put back.
    StopBoth,
    /// Put the agent's state back as it was before the migration.
    RestoreSnapshot(Version),
    /// The snapshot was put back, or nothing was migrated: remove it and the permission.
    DropSnapshot(Version),
    /// The migration stays: keep the snapshot for a rollback by root, remove the permission.
    SettleSnapshot(Version),
    /// Let `previous` lead there.
    SetPrevious(Slot),
    /// Let `stable` lead there.
    SetStable(Slot),
    /// Remove the link `experiment`.
    RemoveExperiment,
    /// The stable agent runs, the experiment does not.
    BackToStable,
    /// The stable agent runs from where `stable` leads to now.
    Settle,
    /// Do not try this version again for a while.
    Block {
        /// Which.
        version: Version,
        /// Why.
        code: String,
        /// Counted once an attempt.
        attempt: String,
    },
    /// The package that came during a trial was looked at.
    ForgetPackage,
    /// Write this down; the attempt waits to be taken up again.
    Wait(Box<Journal>),
    /// Tell how it ended: a line of history, then the journal's last word.
    End(Box<Journal>),
}

/// The steps from these facts to rest.
#[must_use]
pub fn recover(facts: &Facts) -> Vec<Step> {
    let open = facts.journal.as_ref();
    let Some(journal) = open.filter(|journal| journal.phase != Phase::Done) else {
        return at_rest(facts);
    };
    match journal.phase {
        Phase::Committing if facts.valid.contains(&journal.to) => forward(facts, journal),
        Phase::Committing => {
            let gone = Journal {
                code: Some(UpdaterCode::InstallationGone.to_string()),
                detail: Some(
                    "the new version's directory vanished before it became the stable one".into(),
                ),
                ..journal.clone()
            };
            back(facts, &gone)
        }
        Phase::Reverting => back(facts, journal),
        Phase::Switching | Phase::Probation => interrupted_on_trial(facts, journal),
        Phase::Copied | Phase::Verified | Phase::Staged | Phase::Done => {
            interrupted_before(facts, journal)
        }
    }
}

/// No attempt is under way: an experiment has no right to be there.
fn at_rest(facts: &Facts) -> Vec<Step> {
    let mut steps = Vec::new();
    let stable = facts.links.stable.slot();
    let whole = stable.is_some_and(|slot| facts.valid.contains(slot));
    if whole && facts.links.experiment == facts.links.stable {
        // The journal was lost between the commit and its last word: it is committed.
        settle_snapshot(facts, &mut steps);
        steps.extend([Step::Settle, Step::RemoveExperiment]);
        package_takes_over(facts, &mut steps);
        return steps;
    }
    repair_stable(facts, None, &mut steps);
    if facts.links.experiment == Link::Absent {
        settle_snapshot(facts, &mut steps);
        if !steps.is_empty() {
            steps.push(Step::BackToStable);
        }
    } else {
        leave_experiment(facts, &mut steps);
    }
    package_takes_over(facts, &mut steps);
    steps
}

/// What the package's scripts do where nothing is on trial: a newer package is the stable version
/// from now on, and what was stable is the way back.
fn package_takes_over(facts: &Facts, steps: &mut Vec<Step>) {
    if !facts.package_waits {
        return;
    }
    if facts.valid.contains(&Slot::System) {
        match &facts.links.stable {
            Link::To(stable @ Slot::Version(version))
                if facts.valid.contains(stable)
                    && facts.system_version.as_ref() > Some(version) =>
            {
                steps.push(Step::SetPrevious(stable.clone()));
                steps.extend([Step::SetStable(Slot::System), Step::Settle]);
            }
            // It was interrupted behind the link; the agent may still run from the old place.
            Link::To(Slot::System) => steps.push(Step::Settle),
            Link::To(_) | Link::Absent | Link::Foreign => {}
        }
    }
    steps.push(Step::ForgetPackage);
}

/// Nothing was switched: the stable version never stopped.
fn interrupted_before(facts: &Facts, journal: &Journal) -> Vec<Step> {
    let mut steps = Vec::new();
    repair_stable(facts, Some(journal), &mut steps);
    if facts.links.experiment == Link::Absent {
        settle_snapshot(facts, &mut steps);
        if !steps.is_empty() {
            steps.push(Step::BackToStable);
        }
    } else {
        leave_experiment(facts, &mut steps);
    }
    if journal.tries >= MAX_TRIES {
        let end = ended(
            journal,
            handover::Phase::Failed,
            UpdaterCode::InterruptedTooOften,
            format!("begun {} times and never finished", journal.tries),
        );
        steps.push(Step::End(Box::new(end)));
    } else if !waits(facts, journal) {
        let end = ended(
            journal,
            handover::Phase::Failed,
            UpdaterCode::Interrupted,
            "the updater was stopped before anything was switched; ask for it again",
        );
        steps.push(Step::End(Box::new(end)));
    }
    steps
}

/// The experiment may have run, in this boot or an earlier one. It does not come back by itself.
fn interrupted_on_trial(facts: &Facts, journal: &Journal) -> Vec<Step> {
    let mut steps = Vec::new();
    repair_stable(facts, Some(journal), &mut steps);
    leave_experiment(facts, &mut steps);
    if journal.tries >= MAX_TRIES {
        let end = ended(
            journal,
            handover::Phase::RolledBack,
            UpdaterCode::InterruptedTooOften,
            format!(
                "the host went down or the updater was killed on each of {} trials",
                journal.tries
            ),
        );
        block(&end, &mut steps);
        steps.push(Step::End(Box::new(end)));
    } else if waits(facts, journal) {
        let again = Journal {
            phase: Phase::Staged,
            deadline_ms: None,
            ..journal.clone()
        };
        steps.push(Step::Wait(Box::new(again)));
    } else {
        let end = ended(
            journal,
            handover::Phase::RolledBack,
            UpdaterCode::Interrupted,
            "the host went down or the updater was killed during the trial; ask for it again",
        );
        steps.push(Step::End(Box::new(end)));
    }
    steps
}

/// Judged well: only forward.
fn forward(facts: &Facts, journal: &Journal) -> Vec<Step> {
    let to = journal.to.clone();
    let mut steps = Vec::new();
    // `from` stands in the journal: after a crash `stable` may already be the new one.
    if journal.from != to && facts.valid.contains(&journal.from) {
        steps.push(Step::SetPrevious(journal.from.clone()));
    }
    if let (Origin::Rollback, Some(version)) = (journal.origin, &facts.open_snapshot) {
        // Root goes back behind a migration: the older version gets the state that it can read.
        steps.push(Step::StopBoth);
        steps.push(Step::SetStable(to));
        steps.push(Step::RestoreSnapshot(version.clone()));
        steps.push(Step::DropSnapshot(version.clone()));
    } else {
        steps.push(Step::SetStable(to));
        settle_snapshot(facts, &mut steps);
    }
    steps.extend([Step::Settle, Step::RemoveExperiment]);
    let end = done(journal, handover::Phase::Installed);
    steps.push(Step::End(Box::new(end)));
    steps
}

/// Judged badly: only back.
fn back(facts: &Facts, journal: &Journal) -> Vec<Step> {
    let mut steps = Vec::new();
    repair_stable(facts, Some(journal), &mut steps);
    leave_experiment(facts, &mut steps);
    if journal.blame {
        block(journal, &mut steps);
    }
    let end = done(journal, handover::Phase::RolledBack);
    steps.push(Step::End(Box::new(end)));
    steps
}

/// State back if it was migrated, link away, stable agent up.
fn leave_experiment(facts: &Facts, steps: &mut Vec<Step>) {
    if let Some(version) = &facts.open_snapshot {
        // Without the link the new version was never started.
        if facts.links.experiment != Link::Absent {
            steps.push(Step::StopBoth);
            steps.push(Step::RestoreSnapshot(version.clone()));
        }
        steps.push(Step::DropSnapshot(version.clone()));
    }
    // The link goes last: as long as it is there, somebody may still run from it.
    steps.extend([Step::BackToStable, Step::RemoveExperiment]);
}

/// A link to nothing, or to half a version, is set to the best whole one.
fn repair_stable(facts: &Facts, journal: Option<&Journal>, steps: &mut Vec<Step>) {
    let whole = |slot: &Slot| facts.valid.contains(slot);
    match &facts.links.stable {
        Link::Foreign => return,
        Link::To(slot) if whole(slot) => return,
        Link::To(_) | Link::Absent => {}
    }
    let from = journal.map(|journal| &journal.from);
    let candidates = [from, facts.links.previous.slot(), Some(&Slot::System)];
    let best = candidates.into_iter().flatten().find(|slot| whole(slot));
    // None: the user has purged the package. There is nothing to start, and nothing to invent.
    steps.extend(best.cloned().map(Step::SetStable));
}

fn settle_snapshot(facts: &Facts, steps: &mut Vec<Step>) {
    steps.extend(facts.open_snapshot.clone().map(Step::SettleSnapshot));
}

fn block(journal: &Journal, steps: &mut Vec<Step>) {
    let code = journal.code.clone();
    steps.push(Step::Block {
        version: journal.to_version.clone(),
        code: code.unwrap_or_else(|| UpdaterCode::Interrupted.to_string()),
        // The agent chooses the id, and may choose an old one again.
        attempt: format!("{} {}", journal.attempt, journal.started_ms),
    });
}

fn waits(facts: &Facts, journal: &Journal) -> bool {
    journal.origin == Origin::Request && facts.request_waits
}

fn ended(
    journal: &Journal,
    outcome: handover::Phase,
    code: UpdaterCode,
    detail: impl Into<String>,
) -> Journal {
    Journal {
        code: Some(code.to_string()),
        detail: Some(detail.into()),
        ..done(journal, outcome)
    }
}

fn done(journal: &Journal, outcome: handover::Phase) -> Journal {
    Journal {
        phase: Phase::Done,
        outcome: Some(outcome),
        deadline_ms: None,
        ..journal.clone()
    }
}
