//! The scheduler alone: single decisions.

use vpn_node_protocol::update::DeploymentStatus;

use super::super::{Software, Windows};
use super::*;

pub(super) const NOW: i64 = 1_790_000_000_000;

pub(super) fn rollout(canary: u32, max_in_flight: u32, stop_on_failures: u8) -> Rollout {
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

pub(super) fn pace() -> Pace {
    Pace::of(30)
}

pub(super) fn deployment(id: i64) -> Deployment {
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
