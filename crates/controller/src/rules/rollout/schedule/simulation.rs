//! The scheduler on tables that are a vector, with hosts that do what a test says.

use proptest::prelude::*;
use vpn_node_protocol::update::DeploymentStatus;

use super::super::ended_badly;
use super::tests::{NOW, deployment, pace, rollout};
use super::*;

const TICK_MS: i64 = 30_000;

/// What a host does with a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Installs,
    Refuses,
    RollsBack,
    /// Its agent forgets the first directive.
    Forgets,
    /// It is off the net every other hour.
    Comes,
}

struct Sim {
    rollout: Rollout,
    rows: Vec<Deployment>,
    does: Vec<Does>,
    /// Since when the host has the directive.
    has: Vec<Option<i64>>,
    now_ms: i64,
}

impl Sim {
    fn new(rollout: Rollout, does: Vec<Does>) -> Self {
        Self {
            rows: (0..does.len() as i64).map(deployment).collect(),
            has: vec![None; does.len()],
            rollout,
            does,
            now_ms: NOW,
        }
    }

    /// What the store reads.
    fn facts(&self) -> Facts {
        let open = |one: &&Deployment| !one.status.is_final();
        let told = |one: &&Deployment| one.told.is_some();
        let rows = || self.rows.iter();
        let counts = |one: &&Deployment| {
            one.status != DeploymentStatus::Superseded && !ended_badly(one.status)
        };
        let canary = self.rollout.terms.canary as usize;
        Facts {
            in_flight: rows().filter(open).filter(told).cloned().collect(),
            canaries: rows().filter(counts).take(canary).cloned().collect(),
            waiting: rows()
                .filter(open)
                .filter(|one| !told(one))
                .cloned()
                .collect(),
            any_open: rows().any(|one| !one.status.is_final()),
        }
    }

    fn in_flight(&self) -> usize {
        self.facts().in_flight.len()
    }

    /// One step: decides, and does what the store does.
    fn step(&mut self) -> Vec<Decision> {
        let decisions = decide(&self.rollout, &self.facts(), pace(), self.now_ms);
        for decision in &decisions {
            let now_ms = self.now_ms;
            match decision {
                Decision::Tell(id) => {
                    let row = &mut self.rows[*id as usize];
                    row.told = Some(Told {
                        at_ms: now_ms,
                        delivered: false,
                        closed_ms: None,
                    });
                    row.attempts += 1;
                    row.changed_ms = now_ms;
                }
                Decision::WaitForWindow(id) => {
                    self.rows[*id as usize].status = DeploymentStatus::WaitingWindow;
                }
                Decision::TakeBack(id) => self.rows[*id as usize].told = None,
                Decision::Cancel(id) => self.rows[*id as usize].cancelled = true,
                Decision::End { id, status, .. } => self.end(*id as usize, *status),
                Decision::Halt(_) => self.rollout.state = RolloutState::Halted,
                Decision::Complete => self.rollout.state = RolloutState::Completed,
            }
        }
        decisions
    }

    fn end(&mut self, n: usize, status: DeploymentStatus) {
        let row = &mut self.rows[n];
        row.status = status;
        row.changed_ms = self.now_ms;
        if status == DeploymentStatus::Installed {
            row.installed_ms = Some(self.now_ms);
            self.rollout.ended_well += 1;
        } else if ended_badly(status) {
            self.rollout.ended_badly += 1;
        }
    }

    /// Half a minute passes, and hosts are heard.
    fn hosts(&mut self) {
        self.now_ms += TICK_MS;
        for n in 0..self.rows.len() {
            let hour = self.now_ms / 3_600_000;
            if self.does[n] == Does::Comes && (hour + n as i64) % 2 == 0 {
                continue;
            }
            let now_ms = self.now_ms;
            let row = &mut self.rows[n];
            row.host.last_heartbeat_ms = Some(now_ms);
            let Some(told) = &mut row.told else { continue };
            if row.status.is_final() {
                continue;
            }
            told.delivered = true;
            told.closed_ms.get_or_insert(now_ms);
            if self.does[n] == Does::Forgets && row.attempts < 2 {
                continue;
            }
            row.reported_ms = Some(now_ms);
            let since = *self.has[n].get_or_insert(now_ms);
            let (status, over) = match self.does[n] {
                Does::Refuses => (DeploymentStatus::Refused, 0),
                Does::RollsBack => (DeploymentStatus::RolledBack, 150_000),
                _ => (DeploymentStatus::Installed, 150_000),
            };
            if now_ms - since >= over {
                self.end(n, status);
            } else if row.status != DeploymentStatus::Downloading {
                row.status = DeploymentStatus::Downloading;
                row.changed_ms = now_ms;
            }
        }
    }

    fn told(decisions: &[Decision]) -> Vec<i64> {
        let told = |decision: &Decision| match decision {
            Decision::Tell(id) => Some(*id),
            _ => None,
        };
        decisions.iter().filter_map(told).collect()
    }
}

fn does() -> impl Strategy<Value = Does> {
    prop::sample::select(vec![
        Does::Installs,
        Does::Installs,
        Does::Installs,
        Does::Refuses,
        Does::RollsBack,
        Does::Forgets,
        Does::Comes,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn limits_hold_canaries_are_alone_and_every_host_comes_to_an_end(
        does in prop::collection::vec(does(), 1..60),
        canary in 0u32..5,
        max_in_flight in 1u32..8,
        percent in prop::sample::select(vec![0u8, 5, 20, 50, 100]),
        resumes in any::<bool>(),
    ) {
        let mut sim = Sim::new(rollout(canary, max_in_flight, percent), does);
        for _ in 0..20_000 {
            let canaries_before = canaries(&sim.facts(), pace());
            let first: Vec<i64> = sim.facts().canaries.iter().map(|one| one.id).collect();
            let state = sim.rollout.state;
            let decisions = sim.step();
            let told = Sim::told(&decisions);
            prop_assert!(sim.in_flight() <= max_in_flight as usize);
            if canaries_before == Canaries::Alone {
                prop_assert!(told.iter().all(|id| first.contains(id)), "{told:?} {first:?}");
            }
            let halts = decisions.iter().any(|one| matches!(one, Decision::Halt(_)));
            if state != RolloutState::Running || halts {
                prop_assert!(told.is_empty(), "{state:?}: {decisions:?}");
            }
            let (well, badly) = (sim.rollout.ended_well, sim.rollout.ended_badly);
            if !told.is_empty() {
                prop_assert!(!too_many_failures(well, badly, percent));
            }
            if sim.rollout.state == RolloutState::Halted {
                if !resumes {
                    break;
                }
                sim.rollout.state = RolloutState::Running;
                (sim.rollout.ended_well, sim.rollout.ended_badly) = (0, 0);
            }
            if sim.rollout.state == RolloutState::Completed {
                break;
            }
            sim.hosts();
        }
        if resumes {
            prop_assert_eq!(sim.rollout.state, RolloutState::Completed);
            for (row, does) in sim.rows.iter().zip(&sim.does) {
                let end = match does {
                    Does::Refuses => DeploymentStatus::Refused,
                    Does::RollsBack => DeploymentStatus::RolledBack,
                    _ => DeploymentStatus::Installed,
                };
                prop_assert_eq!(row.status, end);
            }
        }
    }
}

#[test]
fn a_thousand_hosts_are_told_a_few_at_a_time_and_a_bad_release_stops_early() {
    let mut sim = Sim::new(rollout(3, 25, 10), vec![Does::Installs; 1000]);
    let mut most = 0;
    while sim.rollout.state == RolloutState::Running {
        sim.step();
        most = most.max(sim.in_flight());
        sim.hosts();
    }
    assert_eq!((sim.rollout.state, most), (RolloutState::Completed, 25));
    assert_eq!(sim.rollout.ended_well, 1000);
    // Good on the canaries, bad on two of five others.
    let does = (0..1000).map(|n| match n {
        0..3 => Does::Installs,
        n if n % 5 < 2 => Does::RollsBack,
        _ => Does::Installs,
    });
    let mut sim = Sim::new(rollout(3, 25, 10), does.collect());
    while sim.rollout.state == RolloutState::Running {
        sim.step();
        sim.hosts();
    }
    assert_eq!(sim.rollout.state, RolloutState::Halted);
    let told = sim.rows.iter().filter(|row| row.attempts > 0).count();
    assert!(told <= 3 + 25, "{told} hosts were told");
}
