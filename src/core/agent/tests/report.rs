//! The report follows the states.

use vpn_node_protocol::message::Verdict;

use super::world::{World, s};
use crate::core::report::{BackendState, VerificationState};

#[test]
fn from_the_start_through_grace_to_lapsed_and_back() {
    let mut world = World::started(80);
    let report = world.report();
    assert_eq!(report.verification.state, VerificationState::Unverified);
    let silent = "The controller has not answered since the agent started.";
    assert_eq!(report.verification.detail, silent);
    assert_eq!(report.verification.valid_for_s, None);
    assert_eq!(report.last_heartbeat.accepted, None);
    assert_eq!(report.next_heartbeat_s, Some(0));

    world.run_for(s(90));
    let report = world.report();
    assert_eq!(report.verification.state, VerificationState::Verified);
    let vouches = "The controller vouches for this host.";
    assert_eq!(report.verification.detail, vouches);
    let left = report.verification.valid_for_s.unwrap();
    assert!((1765..=1800).contains(&left), "{left}");
    assert_eq!(
        report.verification.hardware_status.as_deref(),
        Some("verified")
    );
    assert_eq!(report.last_heartbeat.accepted, Some(true));
    assert_eq!(report.last_heartbeat.last_error, None);
    assert!(report.last_heartbeat.seconds_ago.unwrap() <= 33);
    assert!(report.next_heartbeat_s.unwrap() <= 33);
    assert_eq!(report.heartbeat_interval_s, 30);
    assert_eq!(report.last_errors, []);
    assert_eq!(report.backends.len(), 1);
    assert_eq!(report.backends[0].state, BackendState::Up);

    world.net.up = false;
    world.run_for(s(300));
    let report = world.report();
    assert_eq!(report.verification.state, VerificationState::Grace);
    assert!(report.verification.detail.contains("silent now"));
    assert!(report.verification.valid_for_s.unwrap() <= 1500);
    assert!(report.verification.valid_for_s.unwrap() >= 1460);
    assert_eq!(report.last_heartbeat.accepted, Some(true), "none refused");
    let error = "the controller does not answer";
    assert_eq!(report.last_heartbeat.last_error.as_deref(), Some(error));
    assert!(report.next_heartbeat_s.unwrap() <= 120);
    assert_eq!(report.last_errors.len(), 1, "one error said once");

    world.run_for(s(1600));
    let report = world.report();
    assert_eq!(report.verification.state, VerificationState::Lapsed);
    assert!(report.verification.detail.contains("grace period"));
    assert_eq!(report.verification.valid_for_s, None);

    world.net.up = true;
    world.run_for(s(140));
    let report = world.report();
    assert_eq!(report.verification.state, VerificationState::Verified);
    assert_eq!(report.last_heartbeat.last_error, None);
    assert_eq!(report.last_heartbeat.accepted, Some(true));
}

#[test]
fn no_answer_is_no_refusal() {
    let mut world = World::verified(84);
    world.run_for(s(40));
    world.net.up = false;
    world.run_for(s(120));
    let report = world.report();
    assert_eq!(report.last_heartbeat.accepted, Some(true));
    assert!(report.last_heartbeat.last_error.is_some());
    assert_eq!(report.health().reasons, [] as [&str; 0]);
    world.run_for(s(240));
    let reasons = world.report().health().reasons;
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].contains("last answered"), "{reasons:?}");
}

#[test]
fn a_refusal_stays_one_while_no_answer_follows() {
    let mut world = World::verified(85);
    world.controller.bad_requests = u32::MAX;
    world.run_for(s(60));
    assert_eq!(world.report().last_heartbeat.accepted, Some(false));
    world.net.up = false;
    world.run_for(s(60));
    let report = world.report();
    assert_eq!(report.last_heartbeat.accepted, Some(false));
    assert!(report.health().reasons[0].contains("refuses"));
    world.net.up = true;
    world.controller.bad_requests = 0;
    world.run_for(s(140));
    assert_eq!(world.report().last_heartbeat.accepted, Some(true));
}

#[test]
fn the_time_in_a_state_counts_from_its_first_report() {
    let mut world = World::verified(81);
    assert_eq!(world.report().verification.for_s, 0);
    world.run_for(s(100));
    assert_eq!(world.report().verification.for_s, 100);
}

#[test]
fn connections_backlog_and_clock_are_shown() {
    let mut world = World::verified(82);
    world.wall_skew_ms = 5_000;
    world.run_for(s(40));
    let behind = world.report().clock_offset_ms.unwrap();
    assert!((4_900..=5_100).contains(&behind), "{behind}");
    world.net.up = false;
    world.connect();
    let gone = world.connect();
    world.run_for(s(1));
    world.disconnect(gone);
    world.run_for(s(5));
    let report = world.report();
    assert_eq!(report.connections.len(), 1);
    assert_eq!(report.backends[0].sessions, 1);
    assert_eq!(report.backlog.records, 3);
    world.net.up = true;
    world.run_for(s(200));
    assert_eq!(world.report().backlog.records, 0);
    let heartbeat = world.controller.db.last_heartbeat.clone().unwrap();
    assert_eq!(heartbeat.backends[0].active, 1);
    assert_eq!(heartbeat.backlog.records, 0);
    assert!((-5_100..=-4_900).contains(&heartbeat.clock_offset_ms.unwrap()));
}

#[test]
fn a_warning_of_the_controller_is_shown_while_it_vouches() {
    let mut world = World::verified(83);
    world.controller.reason = Some("board is another one".to_owned());
    world.run_for(s(40));
    let verification = world.report().verification;
    assert_eq!(verification.warnings, ["board is another one"]);
    world.probe_works = false;
    world.controller.db.verdict = Verdict::Mismatch;
    world.run_for(s(40));
    let verification = world.report().verification;
    assert_eq!(verification.warnings, [] as [&str; 0]);
    assert_eq!(verification.detail, "board is another one");
}
