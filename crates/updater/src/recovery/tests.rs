//! Recovery on a model of a host: every crash, every torn file, any number of times.

use proptest::prelude::*;
use vpn_node_release::version::Version;

use super::*;
use crate::journal::tests::journal;

/// What a disk and the process table hold, without either.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    links: Links,
    journal: Option<Journal>,
    valid: BTreeSet<Slot>,
    open_snapshot: Option<Version>,
    request_waits: bool,
    package_waits: bool,
    system_version: Version,
    /// The new version has migrated the agent's state.
    migrated: bool,
    /// What runs as the agent; none after a power cut, until someone starts it.
    runs: Option<Runs>,
    blocked: Vec<(Version, String)>,
    history: Vec<(String, handover::Phase)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Runs {
    Stable(Option<Slot>),
    Experiment,
}

fn old() -> Slot {
    Slot::System
}

fn new() -> Slot {
    Slot::Version(Version::new(1, 5, 0))
}

impl Model {
    /// A host that runs the package's version and has 1.5.0 unpacked.
    fn new() -> Self {
        Self {
            links: Links {
                stable: Link::To(old()),
                experiment: Link::Absent,
                previous: Link::Absent,
            },
            journal: None,
            valid: [old(), new()].into(),
            open_snapshot: None,
            request_waits: true,
            package_waits: false,
            system_version: Version::new(1, 4, 0),
            migrated: false,
            runs: Some(Runs::Stable(Some(old()))),
            blocked: Vec::new(),
            history: Vec::new(),
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            links: self.links.clone(),
            journal: self.journal.clone(),
            valid: self.valid.clone(),
            open_snapshot: self.open_snapshot.clone(),
            request_waits: self.request_waits,
            package_waits: self.package_waits,
            system_version: Some(self.system_version.clone()),
        }
    }

    fn start_stable(&mut self) {
        self.runs = Some(Runs::Stable(self.links.stable.slot().cloned()));
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::StopBoth => self.runs = None,
            Step::RestoreSnapshot(version) => {
                assert_eq!(self.open_snapshot.as_ref(), Some(version));
                assert_eq!(self.runs, None, "nobody runs while its state is put back");
                self.migrated = false;
            }
            Step::DropSnapshot(_) | Step::SettleSnapshot(_) => self.open_snapshot = None,
            Step::SetPrevious(slot) => self.links.previous = Link::To(slot.clone()),
            Step::SetStable(slot) => {
                assert!(
                    self.valid.contains(slot),
                    "stable never leads to half a version"
                );
                self.links.stable = Link::To(slot.clone());
            }
            Step::RemoveExperiment => self.links.experiment = Link::Absent,
            Step::ForgetPackage => self.package_waits = false,
            Step::BackToStable | Step::Settle => self.start_stable(),
            Step::Block {
                version, attempt, ..
            } => {
                let block = (version.clone(), attempt.clone());
                if !self.blocked.contains(&block) {
                    self.blocked.push(block);
                }
            }
            Step::Wait(journal) => self.journal = Some((**journal).clone()),
            Step::End(journal) => {
                let line = (journal.attempt.clone(), journal.outcome.unwrap());
                if !self.history.contains(&line) {
                    self.history.push(line);
                }
                self.journal = Some((**journal).clone());
            }
        }
    }

    /// Everything that a run writes, in its order, up to the verdict.
    fn run(&mut self, steps: usize, migrates: bool, verdict: Phase) {
        let script: [&dyn Fn(&mut Self); 9] = [
            &|m| m.journal = Some(journal(Phase::Copied)),
            &|m| m.journal = Some(journal(Phase::Verified)),
            &|m| m.journal = Some(journal(Phase::Staged)),
            &|m| m.journal = Some(journal(Phase::Switching)),
            &|m| m.open_snapshot = migrates.then(|| Version::new(1, 5, 0)),
            &|m| m.links.experiment = Link::To(new()),
            &|m| m.journal = Some(journal(Phase::Probation)),
            &|m| {
                m.runs = Some(Runs::Experiment);
                m.migrated = migrates;
            },
            &|m| {
                let blame = verdict == Phase::Reverting;
                m.journal = Some(Journal {
                    blame,
                    ..journal(verdict)
                });
            },
        ];
        for step in &script[..steps.min(script.len())] {
            step(self);
        }
    }

    /// Recovers, dying after each number of steps that `deaths` names, then to the end.
    fn recover(&mut self, deaths: &[usize], power_cut: bool) {
        for death in deaths {
            let steps = recover(&self.facts());
            for step in steps.iter().take(*death) {
                self.apply(step);
            }
            if power_cut {
                self.power_cut();
            }
        }
        for step in recover(&self.facts()) {
            self.apply(&step);
        }
    }

    /// Nothing runs any more; the boot starts what `stable` leads to.
    fn power_cut(&mut self) {
        self.start_stable();
    }

    fn assert_at_rest(&self) {
        let stable = self.links.stable.slot().expect("stable leads to a slot");
        assert!(self.valid.contains(stable), "a boot finds a whole version");
        assert_eq!(
            self.links.experiment,
            Link::Absent,
            "no experiment survives"
        );
        assert_eq!(self.open_snapshot, None);
        if let Some(journal) = &self.journal {
            assert!(matches!(
                journal.phase,
                Phase::Copied | Phase::Verified | Phase::Staged | Phase::Done
            ));
        }
        // A version that reads only the new format came with the commit, and the other way round.
        assert!(!self.migrated || *stable == new(), "{self:?}");
        let mut again = self.clone();
        again.recover(&[], false);
        assert_eq!(&again, self, "a second recovery changes nothing");
    }
}

proptest! {
    #[test]
    fn a_run_cut_anywhere_ends_on_a_whole_version_without_an_experiment(
        steps in 0..10_usize,
        migrates: bool,
        verdict in prop_oneof![Just(Phase::Committing), Just(Phase::Reverting)],
        deaths in proptest::collection::vec(0..12_usize, 0..4),
        power_cut: bool,
        waits: bool,
    ) {
        let mut model = Model { request_waits: waits, ..Model::new() };
        model.run(steps, migrates, verdict);
        if power_cut {
            model.power_cut();
        }
        model.recover(&deaths, power_cut);
        model.assert_at_rest();
        let committed = steps == 9 && verdict == Phase::Committing;
        let expected = if committed { new() } else { old() };
        prop_assert_eq!(model.links.stable.slot(), Some(&expected));
        prop_assert_eq!(model.runs.clone(), Some(Runs::Stable(Some(expected))));
        prop_assert_eq!(model.links.previous.slot().cloned(), committed.then(old));
        prop_assert_eq!(model.blocked.len(), usize::from(steps == 9 && !committed));
        prop_assert!(model.history.len() <= 1);
    }

    #[test]
    fn a_lost_journal_never_leaves_an_experiment(
        steps in 0..10_usize,
        migrates: bool,
        verdict in prop_oneof![Just(Phase::Committing), Just(Phase::Reverting)],
        before_loss in 0..12_usize,
        deaths in proptest::collection::vec(0..12_usize, 0..4),
        power_cut: bool,
    ) {
        let mut model = Model::new();
        model.run(steps, migrates, verdict);
        model.recover_partly(before_loss);
        model.journal = None;
        model.recover(&deaths, power_cut);
        model.assert_at_rest();
        let stable = model.links.stable.slot().cloned();
        prop_assert_eq!(model.runs, Some(Runs::Stable(stable)), "nobody runs on trial");
    }

    #[test]
    fn any_links_and_any_journal_end_on_a_whole_version_if_there_is_one(
        stable in link(), experiment in link(), previous in link(),
        phase in proptest::option::of(phase()),
        tries in 0..5_u32,
        valid in proptest::collection::btree_set(slot(), 0..4),
        deaths in proptest::collection::vec(0..12_usize, 0..3),
        waits: bool,
    ) {
        let mut model = Model::new();
        model.links = Links { stable, experiment, previous };
        model.journal = phase.map(|phase| Journal { tries, ..journal(phase) });
        model.valid = valid;
        model.request_waits = waits;
        model.recover(&deaths, true);
        prop_assert_eq!(&model.links.experiment, &Link::Absent);
        if model.valid.contains(&Slot::System) && model.links.stable != Link::Foreign {
            model.assert_at_rest();
        }
    }
}

impl Model {
    fn recover_partly(&mut self, steps: usize) {
        for step in recover(&self.facts()).iter().take(steps) {
            self.apply(step);
        }
    }
}

fn slot() -> impl Strategy<Value = Slot> {
    prop_oneof![
        Just(Slot::System),
        (4..7_u64).prop_map(|minor| Slot::Version(Version::new(1, minor, 0))),
    ]
}

fn link() -> impl Strategy<Value = Link> {
    prop_oneof![
        Just(Link::Absent),
        Just(Link::Foreign),
        slot().prop_map(Link::To)
    ]
}

fn phase() -> impl Strategy<Value = Phase> {
    proptest::sample::select(vec![
        Phase::Copied,
        Phase::Verified,
        Phase::Staged,
        Phase::Switching,
        Phase::Probation,
        Phase::Committing,
        Phase::Reverting,
        Phase::Done,
    ])
}

#[test]
fn a_reboot_during_the_trial_counts_and_the_third_one_blocks() {
    for (tries, ended) in [(1, false), (2, false), (3, true)] {
        let mut model = Model::new();
        model.run(8, false, Phase::Committing);
        model.journal.as_mut().unwrap().tries = tries;
        model.power_cut();
        model.recover(&[], true);
        model.assert_at_rest();
        let journal = model.journal.unwrap();
        assert_eq!(journal.phase == Phase::Done, ended);
        assert_eq!(model.blocked.len(), usize::from(ended));
        if ended {
            assert_eq!(journal.code.as_deref(), Some("interrupted_too_often"));
            assert_eq!(model.history[0].1, handover::Phase::RolledBack);
        }
    }
}

#[test]
fn an_attempt_of_root_is_not_taken_up_again_by_itself() {
    for (phase, told) in [
        (Phase::Verified, handover::Phase::Failed),
        (Phase::Probation, handover::Phase::RolledBack),
    ] {
        let mut model = Model::new();
        model.journal = Some(Journal {
            origin: Origin::File,
            ..journal(phase)
        });
        model.recover(&[], true);
        assert_eq!(model.history[0].1, told);
        assert_eq!(model.journal.unwrap().code.as_deref(), Some("interrupted"));
        assert!(model.blocked.is_empty());
    }
}

#[test]
fn a_new_version_that_vanishes_before_the_commit_leaves_the_old_one() {
    let mut model = Model::new();
    model.run(9, false, Phase::Committing);
    model.valid.remove(&new());
    model.recover(&[], true);
    model.assert_at_rest();
    assert_eq!(model.links.stable, Link::To(old()));
    assert_eq!(
        model.journal.unwrap().code.as_deref(),
        Some("installation_gone")
    );
}

#[test]
fn a_purged_installation_is_not_brought_back() {
    let mut model = Model::new();
    model.run(8, false, Phase::Committing);
    model.valid.clear();
    model.links.stable = Link::Absent;
    let steps = recover(&model.facts());
    assert!(!steps.iter().any(|step| matches!(step, Step::SetStable(_))));
    assert!(steps.contains(&Step::RemoveExperiment));
}

/// A host whose stable version is 1.4.0 from `versions/`, with 1.5.0 judged, while a package came.
fn package_came(package: Version, verdict: Phase) -> Model {
    let stable = Slot::Version(Version::new(1, 4, 0));
    let mut model = Model::new();
    model.links.stable = Link::To(stable.clone());
    model.valid.insert(stable.clone());
    model.run(9, false, verdict);
    model.journal.as_mut().unwrap().from = stable;
    model.system_version = package;
    model.package_waits = true;
    model
}

#[test]
fn a_package_that_came_during_a_trial_takes_over_when_it_is_the_newest() {
    let (system, tried) = (Slot::System, new());
    let stable = Slot::Version(Version::new(1, 4, 0));
    for (package, verdict, expected, previous) in [
        (Version::new(1, 6, 0), Phase::Committing, &system, &tried),
        (Version::new(1, 6, 0), Phase::Reverting, &system, &stable),
        (Version::new(1, 5, 0), Phase::Committing, &tried, &stable),
        (Version::new(1, 5, 0), Phase::Reverting, &system, &stable),
    ] {
        for deaths in [&[][..], &[1, 2], &[4, 2, 1], &[12, 3]] {
            let mut model = package_came(package.clone(), verdict);
            // The trial's own end, and what ExecStopPost= of the updater or the next boot does.
            model.recover(deaths, false);
            model.recover(deaths, false);
            model.assert_at_rest();
            assert_eq!(
                model.links.stable.slot(),
                Some(expected),
                "{package} {verdict:?}"
            );
            assert_eq!(
                model.links.previous.slot(),
                Some(previous),
                "{package} {verdict:?}"
            );
            assert_eq!(model.runs, Some(Runs::Stable(Some(expected.clone()))));
            assert!(!model.package_waits);
        }
    }
}

#[test]
fn going_back_to_an_older_version_than_the_package_stays() {
    let mut model = package_came(Version::new(1, 6, 0), Phase::Done);
    model.package_waits = false;
    model.recover(&[], true);
    let stable = Slot::Version(Version::new(1, 4, 0));
    assert_eq!(model.links.stable, Link::To(stable), "nobody asked for it");
}

#[test]
fn root_going_back_behind_a_migration_gets_the_state_of_then() {
    let mut model = Model::new();
    model.links.stable = Link::To(new());
    model.links.previous = Link::To(old());
    model.migrated = true;
    model.open_snapshot = Some(Version::new(1, 5, 0));
    model.journal = Some(Journal {
        origin: Origin::Rollback,
        from: new(),
        to: old(),
        to_version: Version::new(1, 4, 0),
        ..journal(Phase::Committing)
    });
    for deaths in [&[][..], &[2], &[3, 4], &[1, 5, 6]] {
        let mut model = model.clone();
        model.recover(deaths, false);
        model.assert_at_rest();
        assert!(!model.migrated);
        assert_eq!(model.links.stable, Link::To(old()));
        assert_eq!(model.links.previous, Link::To(new()));
        assert_eq!(model.history[0].1, handover::Phase::Installed);
    }
}
