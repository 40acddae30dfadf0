//! The scheduler alone, on tables that are a vector, with hosts that do what a test says.

use proptest::prelude::*;
use vpn_node_protocol::update::DeploymentStatus;

use super::super::{Software, Windows, ended_badly};
use super::*;

const NOW: i64 = 1_790_000_000_000;
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

fn rollout(canary: u32, max_in_flight: u32, stop_on_failures: u8) -> Rollout {
    Rollout {
        version: "1.5.0".into(),
        state: RolloutState::Running,
        terms: Terms {
            canary,
            max_in_flight,
            windows: None,
            stop_on_failures,
            mandatory: false,
        },
        releases: vec![Release {
            update_id: "u".into(),
            platform: "linux-amd64".into(),
            version: "1.5.0".into(),
            channel: "stable".into(),
            counter: 7,
            min_version: None,
            mandatory: false,
        }],
        ended_well: 0,
        ended_badly: 0,
    }
}

fn pace() -> Pace {
    Pace::of(30)
}

fn deployment(id: i64) -> Deployment {
    Deployment {
        id,
        status: DeploymentStatus::Pending,
        told: None,
        attempts: 0,
        changed_ms: NOW,
        reported_ms: None,
        installed_ms: None,
        busy: false,
        cancelled: false,
        host: Host {
            server_id: format!("s-{id}"),
            status: ServerStatus::Active,
            version: "1.4.0".into(),
            last_heartbeat_ms: Some(NOW),
            software: Some(Software {
                platform: "linux-amd64".into(),
                managed: true,
                channel: "stable".into(),
                counter: 6,
                ..Software::default()
            }),
        },
    }
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

/// One deployment that its host was told of a minute ago, and heard of since.
fn one_in_flight(status: DeploymentStatus) -> Deployment {
    Deployment {
        status,
        told: Some(Told {
            at_ms: NOW - 60_000,
            delivered: true,
            closed_ms: Some(NOW - 50_000),
        }),
        attempts: 1,
        changed_ms: NOW - 60_000,
        reported_ms: Some(NOW - 10_000),
        ..deployment(0)
    }
}

fn decided(rollout: &Rollout, one: Deployment, now_ms: i64) -> Vec<Decision> {
    let facts = Facts {
        any_open: !one.status.is_final(),
        in_flight: one.told.iter().map(|_| one.clone()).collect(),
        waiting: match one.told {
            None => vec![one],
            Some(_) => vec![],
        },
        ..Facts::default()
    };
    decide(rollout, &facts, pace(), now_ms)
}

#[test]
fn a_directive_that_was_never_handed_out_is_taken_back() {
    let mut one = one_in_flight(DeploymentStatus::Pending);
    one.told.as_mut().unwrap().delivered = false;
    one.told.as_mut().unwrap().closed_ms = None;
    let mut rollout = rollout(0, 1, 10);
    assert_eq!(decided(&rollout, one.clone(), NOW), []);
    for state in [RolloutState::Paused, RolloutState::Halted] {
        rollout.state = state;
        assert_eq!(decided(&rollout, one.clone(), NOW), [Decision::TakeBack(0)]);
    }
    rollout.state = RolloutState::Aborted;
    let [Decision::End { status, .. }] = &decided(&rollout, one.clone(), NOW)[..] else {
        panic!("an aborted rollout gives no turns");
    };
    assert_eq!(*status, DeploymentStatus::Superseded);
    rollout.state = RolloutState::Running;
    // Silent: another host gets its place.
    let later = NOW + pace().silent_ms + 1;
    assert_eq!(decided(&rollout, one, later), [Decision::TakeBack(0)]);
}

#[test]
fn a_lost_directive_is_repeated_and_not_for_ever() {
    let rollout = rollout(0, 1, 10);
    let mut one = one_in_flight(DeploymentStatus::Pending);
    one.reported_ms = None;
    let closed_ms = one.told.unwrap().closed_ms.unwrap();
    let at = closed_ms + AGAIN_MS;
    one.host.last_heartbeat_ms = Some(at);
    assert_eq!(decided(&rollout, one.clone(), at - 1), []);
    assert_eq!(decided(&rollout, one.clone(), at), [Decision::Tell(0)]);
    let mut paused = rollout.clone();
    paused.state = RolloutState::Paused;
    assert_eq!(decided(&paused, one.clone(), at), []);
    one.attempts = MAX_ATTEMPTS;
    let [Decision::End { status, code, .. }] = decided(&rollout, one, at)[..] else {
        panic!("told for ever");
    };
    assert_eq!((status, code), (DeploymentStatus::Failed, "no_answer"));
}

#[test]
fn what_stands_still_for_a_day_has_failed_and_a_silent_host_has_not() {
    let rollout = rollout(0, 1, 10);
    let mut one = one_in_flight(DeploymentStatus::Downloading);
    let at = one.changed_ms + STUCK_MS;
    let silent = decided(&rollout, one.clone(), at);
    assert_eq!(silent, [Decision::TakeBack(0)]);
    one.host.last_heartbeat_ms = Some(at);
    one.reported_ms = Some(at);
    let [Decision::End { status, code, .. }] = decided(&rollout, one.clone(), at)[..] else {
        panic!("it may stand still for ever");
    };
    assert_eq!((status, code), (DeploymentStatus::Failed, "stuck"));
    // Bytes that come are no standstill.
    one.changed_ms = at - 1;
    assert_eq!(decided(&rollout, one, at), []);
}

#[test]
fn an_abort_takes_back_what_is_not_with_the_updater() {
    let mut rollout = rollout(0, 1, 10);
    rollout.state = RolloutState::Aborted;
    for status in [DeploymentStatus::Pending, DeploymentStatus::Downloading] {
        let one = one_in_flight(status);
        assert_eq!(decided(&rollout, one.clone(), NOW), [Decision::Cancel(0)]);
        let cancelled = Deployment {
            cancelled: true,
            ..one
        };
        assert_eq!(decided(&rollout, cancelled, NOW), []);
    }
    for status in [
        DeploymentStatus::Verified,
        DeploymentStatus::Staged,
        DeploymentStatus::Probation,
    ] {
        assert_eq!(decided(&rollout, one_in_flight(status), NOW), []);
    }
}

#[test]
fn a_revoked_host_is_superseded_and_a_quarantined_one_waits() {
    let rollout = rollout(0, 1, 10);
    let mut one = deployment(0);
    one.host.status = ServerStatus::Quarantined;
    assert_eq!(decided(&rollout, one.clone(), NOW), []);
    one.host.status = ServerStatus::Revoked;
    for told in [None, one_in_flight(DeploymentStatus::Staged).told] {
        one.told = told;
        let [Decision::End { status, code, .. }] = decided(&rollout, one.clone(), NOW)[..] else {
            panic!("a revoked host is waited for");
        };
        assert_eq!(
            (status, code),
            (DeploymentStatus::Superseded, "server_revoked")
        );
    }
}

#[test]
fn a_window_is_waited_for_unless_it_is_mandatory_or_open() {
    let zones = jiff::tz::TimeZoneDatabase::bundled();
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let (shut, open) = (at("2026-11-25T12:00:00Z"), at("2026-11-25T03:00:00Z"));
    let mut rollout = rollout(0, 1, 10);
    rollout.terms.windows = Some(Windows::parse("daily 02:00-05:00 UTC", &zones).unwrap());
    let mut one = deployment(0);
    one.host.last_heartbeat_ms = Some(shut);
    assert_eq!(
        decided(&rollout, one.clone(), shut),
        [Decision::WaitForWindow(0)]
    );
    one.status = DeploymentStatus::WaitingWindow;
    assert_eq!(decided(&rollout, one.clone(), shut), []);
    rollout.terms.mandatory = true;
    assert_eq!(decided(&rollout, one.clone(), shut), [Decision::Tell(0)]);
    rollout.terms.mandatory = false;
    one.host.last_heartbeat_ms = Some(open);
    assert_eq!(decided(&rollout, one.clone(), open), [Decision::Tell(0)]);
    one.busy = true;
    assert_eq!(decided(&rollout, one, open), []);
}

#[test]
fn a_host_that_took_itself_out_is_not_asked_and_a_release_that_is_gone_stops_it() {
    let mut rollout = rollout(0, 1, 10);
    let mut one = deployment(0);
    one.host.software.as_mut().unwrap().disabled = true;
    let [Decision::End { status, code, .. }] = decided(&rollout, one.clone(), NOW)[..] else {
        panic!("a host without updates is told");
    };
    assert_eq!(
        (status, code),
        (DeploymentStatus::Superseded, "updates_disabled")
    );
    one.host.software.as_mut().unwrap().disabled = false;
    one.host.software.as_mut().unwrap().blocked = vec!["1.5.0".into()];
    let [Decision::End { status, .. }] = decided(&rollout, one.clone(), NOW)[..] else {
        panic!("a blocked version is tried");
    };
    assert_eq!(status, DeploymentStatus::Blocked);
    rollout.releases.clear();
    let [Decision::Halt(why)] = &decided(&rollout, deployment(0), NOW)[..] else {
        panic!("a revoked release is rolled out");
    };
    assert!(why.contains("not published"), "{why}");
}

#[test]
fn failures_are_a_share_of_five_at_least() {
    for (well, badly, percent, stops) in [
        (0, 0, 0, false),
        (100, 1, 0, true),
        (0, 1, 10, true),
        (0, 1, 20, false),
        (0, 2, 20, true),
        (9, 1, 10, false),
        (8, 1, 10, true),
        (0, 1000, 100, false),
        (u64::MAX, u64::MAX, 99, false),
    ] {
        let found = too_many_failures(well, badly, percent);
        assert_eq!(found, stops, "{well} {badly} {percent}");
    }
}
