//! The report follows the states.

use vpn_node_protocol::message::Verdict;

use super::world::{World, s};
use crate::core::report::{BackendState, VerificationState};

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
