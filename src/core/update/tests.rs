//! The machine alone, told anything in any order.

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;
use vpn_node_release::handover::{Attempt, Phase, Status};
use vpn_node_release::version::Platform;

use super::*;
use crate::core::Now;

/// What can happen.
#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    Assign {
        deployment: u64,
        version: u64,
        issued: i64,
        lasts: u64,
    },
    Cancel(u64),
    Want(u64),
    Updater {
        managed: bool,
        phase: Option<usize>,
        ours: bool,
    },
    NoUpdater,
    Worker {
        back: u64,
        ends: Option<bool>,
    },
    Heartbeat(bool),
    Restart,
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4000_u64).prop_map(Op::Wait),
        2 => (1..4_u64, 5..8_u64, 0..9_i64, 1..8000_u64)
            .prop_map(|(deployment, version, issued, lasts)| Op::Assign { deployment, version, issued, lasts }),
        1 => (1..4_u64).prop_map(Op::Cancel),
        1 => (5..8_u64).prop_map(Op::Want),
        3 => (any::<bool>(), proptest::option::of(0..7_usize), any::<bool>())
            .prop_map(|(managed, phase, ours)| Op::Updater { managed, phase, ours }),
        1 => Just(Op::NoUpdater),
        4 => (0..2_u64, proptest::option::of(any::<bool>()))
            .prop_map(|(back, ends)| Op::Worker { back, ends }),
        3 => any::<bool>().prop_map(Op::Heartbeat),
        1 => Just(Op::Restart),
    ]
}

const PHASES: [Phase; 7] = [
    Phase::Verified,
    Phase::Staged,
    Phase::Probation,
    Phase::Installed,
    Phase::Refused,
    Phase::Failed,
    Phase::RolledBack,
];

/// Everything is the largest or the smallest that it can be, now and then.
struct Zero;

impl rand_core::TryRng for Zero {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::MAX)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::MAX)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.fill(1);
        Ok(())
    }
}

struct Play {
    machine: Updates,
    now: Now,
    kept: Kept,
    /// The worker's run, and whether it may still speak.
    run: u64,
    works: bool,
    request: u128,
}

impl Play {
    fn setup(kept: Kept) -> Setup {
        Setup {
            enabled: true,
            platform: Platform::parse("linux-amd64").unwrap(),
            kept,
        }
    }

    fn obey(&mut self) {
        let mut commands = 0;
        while let Some(command) = self.machine.next_command() {
            commands += 1;
            assert!(commands < 20, "too much at once: {command:?}");
            match command {
                Command::Keep(kept) => {
                    assert_ne!(self.kept, *kept, "written without a change");
                    self.kept = *kept;
                }
                Command::Fetch { run, order, .. } => {
                    assert!(!self.works, "two at once");
                    assert!(run > self.run);
                    let job = self
                        .kept
                        .job
                        .as_ref()
                        .expect("on disk before it is fetched");
                    assert_eq!((&job.order, job.step), (&order, Step::Downloading));
                    (self.run, self.works) = (run, true);
                }
                Command::Check { run, .. } => {
                    assert!(!self.works && run > self.run);
                    (self.run, self.works) = (run, true);
                }
                Command::Stop => self.works = false,
                Command::Look | Command::Clean => {}
            }
        }
    }

    fn perform(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Wait(seconds) => {
                let end = now.after(Duration::from_secs(seconds));
                for _ in 0..4000 {
                    let due = self.machine.next_deadline();
                    if due > end.boot {
                        break;
                    }
                    self.now = self.now.after(due.saturating_sub(self.now.boot));
                    self.machine.handle_timeout(self.now);
                    self.obey();
                    assert!(
                        self.machine.next_deadline() > self.now.boot,
                        "a deadline that stays"
                    );
                }
                self.now = end;
            }
            Op::Assign {
                deployment,
                version,
                issued,
                lasts,
            } => {
                self.request += 1;
                let version = format!("1.{version}.0");
                let order = Order {
                    deployment: Some(deployment),
                    target: format!("vpn-node/{version}/linux-amd64.tar.zst"),
                    version,
                    repository: None,
                };
                let (directive, request) =
                    (Uuid::from_u128(self.request), Uuid::from_u128(self.request));
                let lasts = Duration::from_secs(lasts);
                let answer =
                    self.machine
                        .assigned(directive, issued, order.clone(), lasts, request, now);
                if answer == Some(Ok(())) {
                    self.obey();
                    let job = self
                        .kept
                        .job
                        .as_ref()
                        .expect("on disk before it is acknowledged");
                    assert_eq!(job.order, order);
                }
            }
            Op::Cancel(deployment) => drop(self.machine.cancelled(deployment, now)),
            Op::Want(version) => {
                self.request += 1;
                let request = Uuid::from_u128(self.request);
                let lasts = Duration::from_secs(3600);
                drop(
                    self.machine
                        .wanted(&format!("1.{version}.0"), lasts, request, now),
                );
            }
            Op::NoUpdater => self.machine.handle(Event::Software(None), now, &mut Zero),
            Op::Updater {
                managed,
                phase,
                ours,
            } => {
                let ours = self
                    .kept
                    .job
                    .as_ref()
                    .filter(|_| ours)
                    .map(|job| job.request.clone());
                let attempt = phase.map(|phase| Attempt {
                    id: ours.unwrap_or_default(),
                    deployment: None,
                    version: "1.5.0".to_owned(),
                    from: "1.4.0".to_owned(),
                    phase: PHASES[phase],
                    code: None,
                    detail: None,
                    started_ms: 0,
                    changed_ms: 0,
                    deadline_ms: None,
                });
                let status = Status {
                    root_version: managed.then_some(1),
                    stable_version: "1.4.0".to_owned(),
                    attempt,
                    ..Status::default()
                };
                self.machine
                    .handle(Event::Software(Some(Box::new(status))), now, &mut Zero);
            }
            Op::Worker { back, ends } => {
                // Also words of runs that were stopped.
                let run = self.run.saturating_sub(back);
                let event = match ends {
                    None => Event::Fresh { run },
                    Some(good) => {
                        self.works &= back > 0;
                        let failure = Failure {
                            code: "too_slow",
                            detail: String::new(),
                            retry: Some(Duration::ZERO),
                        };
                        Event::Ended {
                            run,
                            result: if good { Ok(()) } else { Err(failure) },
                        }
                    }
                };
                self.machine.handle(event, now, &mut Zero);
            }
            Op::Heartbeat(taken) => {
                let report = self.machine.report(now);
                self.machine.heartbeat_goes(report.is_some());
                if let Some(report) = report {
                    assert_eq!(
                        report.deployment.map(|d| d.id),
                        self.machine.told.as_ref().map(|t| t.id)
                    );
                }
                self.machine.heartbeat_ended(taken);
            }
            Op::Restart => {
                self.works = false;
                self.run = 0;
                self.machine = Updates::new(Self::setup(self.kept.clone()), now);
            }
        }
        self.obey();
    }
}

proptest! {
    #[test]
    fn whatever_comes_one_release_is_worked_on_and_nothing_waits_for_ever(ops in proptest::collection::vec(ops(), 1..60)) {
        let now = Now { boot: Duration::from_secs(10), wall_ms: 1_767_225_600_000 };
        let mut play = Play {
            machine: Updates::new(Play::setup(Kept::default()), now),
            now,
            kept: Kept::default(),
            run: 0,
            works: false,
            request: 0,
        };
        for op in ops {
            play.perform(op);
        }
        // An assignment that was taken up ends: by its deadline, or by the updater's silence.
        play.perform(Op::NoUpdater);
        play.perform(Op::Worker { back: 0, ends: Some(false) });
        play.perform(Op::Wait(8000 + 3600 + 1800));
        let step = play.kept.job.as_ref().map(|job| job.step);
        prop_assert!(step.is_none() || step == Some(Step::Done), "{:?}", play.kept.job);
        prop_assert!(play.kept.told.as_ref().is_none_or(|told| told.status.is_final()));
    }
}

fn managed(machine: &mut Updates, now: Now) {
    let status = Status {
        root_version: Some(1),
        stable: "1.4.0".to_owned(),
        stable_version: "1.4.0".to_owned(),
        ..Status::default()
    };
    machine.handle(Event::Software(Some(Box::new(status))), now, &mut Zero);
}

/// The run of the fetch that was begun.
fn fetching(machine: &mut Updates) -> u64 {
    let commands = std::iter::from_fn(|| machine.next_command());
    let runs = commands.filter_map(|command| match command {
        Command::Fetch { run, .. } => Some(run),
        _ => None,
    });
    runs.last().expect("it is fetched")
}

#[test]
fn nothing_is_said_of_an_updater_that_was_not_looked_at() {
    let now = Now {
        boot: Duration::from_secs(10),
        wall_ms: 1_767_225_600_000,
    };
    let mut machine = Updates::new(Play::setup(Kept::default()), now);
    let report = machine.report(now);
    assert!(report.is_none(), "a rollout would leave the host out");
    machine.heartbeat_goes(false);
    machine.heartbeat_ended(true);
    assert_eq!(machine.tell_at(), None);
    managed(&mut machine, now);
    assert!(machine.report(now).unwrap().managed);
    assert!(machine.tell_at().is_some(), "and the report is sent after");
    machine.heartbeat_goes(true);
    managed(&mut machine, now);
    assert_eq!(machine.tell_at(), None);
}

#[test]
fn root_hears_at_once_that_a_version_is_not_published_and_an_assignment_waits_for_it() {
    let now = Now {
        boot: Duration::from_secs(10),
        wall_ms: 1_767_225_600_000,
    };
    let unknown = |run| Event::Ended {
        run,
        result: Err(Failure {
            code: "target_unknown",
            detail: "no release 5.5.5 is published".to_owned(),
            retry: Some(Duration::ZERO),
        }),
    };
    let (id, hour) = (Uuid::from_u128(1), Duration::from_secs(3600));
    let mut machine = Updates::new(Play::setup(Kept::default()), now);
    managed(&mut machine, now);
    machine.wanted("5.5.5", hour, id, now).unwrap();
    let run = fetching(&mut machine);
    machine.handle(unknown(run), now, &mut Zero);
    let download = machine.status_report(now).download.unwrap();
    assert_eq!(
        (download.step.as_str(), download.retry_in_s),
        ("done", None)
    );
    assert_eq!(download.code.as_deref(), Some("target_unknown"));

    let order = Order {
        deployment: Some(7),
        target: "vpn-node/5.5.5/linux-amd64.tar.zst".to_owned(),
        version: "5.5.5".to_owned(),
        repository: None,
    };
    let answer = machine.assigned(id, 1, order, hour, id, now);
    assert_eq!(answer, Some(Ok(())));
    let run = fetching(&mut machine);
    machine.handle(unknown(run), now, &mut Zero);
    let download = machine.status_report(now).download.unwrap();
    assert_eq!(download.step, "downloading");
    assert!(download.retry_in_s.is_some(), "a mirror may be late");
}
