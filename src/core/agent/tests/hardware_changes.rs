//! What the agent does when its hardware changes while it runs.

use std::time::Duration;

use vpn_node_protocol::hardware::Component;
use vpn_node_protocol::message::{Authorisation, Purpose, Verdict};

use super::world::{World, s};

/// Why the last heartbeat asked for a challenge.
fn wanted(world: &World) -> Option<Purpose> {
    let last = world.controller.db.last_heartbeat.as_ref();
    last.expect("a heartbeat came").verification_wanted
}

fn swap_disk(world: &mut World, serial: &str) {
    world.hardware.disk2 = Component::from_raw(serial.as_bytes());
}

#[test]
fn the_hardware_is_looked_at_at_the_start_and_every_ten_minutes() {
    let mut world = World::started(900);
    world.obey();
    assert_eq!(world.probes, 1, "before anybody asks");
    world.run_for(s(30));
    let start = world.probes;
    assert!((1..=2).contains(&start), "{start}: one for the challenge");
    world.run_for(s(6 * 3600));
    assert_eq!(world.probes - start, 36);
    assert_eq!(world.controller.good_answers, 1, "nothing changed");
    assert_eq!(wanted(&world), None);
}

#[test]
fn a_change_is_told_at_once_and_once() {
    let mut world = World::verified(901);
    let good = world.controller.good_answers;
    world.run_for(s(120));
    swap_disk(&mut world, "ANOTHER");
    let mut asked = Vec::new();
    let mut heartbeats = world.controller.db.heartbeats;
    let mut answered_at = None;
    for _ in 0..12_000 {
        world.run_for(Duration::from_millis(100));
        if world.controller.db.heartbeats > heartbeats {
            heartbeats = world.controller.db.heartbeats;
            asked.extend(wanted(&world).map(|purpose| (world.t, purpose)));
        }
        if answered_at.is_none() && world.controller.good_answers > good {
            answered_at = Some(world.t);
        }
    }
    let [(told, Purpose::HardwareChanged)] = asked[..] else {
        panic!("{asked:?}");
    };
    let answered = answered_at.expect("the challenge was answered");
    assert!(answered - told <= s(2), "{told:?}, {answered:?}");
    assert_eq!(world.controller.good_answers, good + 1);
    assert_eq!(world.state(), Authorisation::Verified);
    let errors = world.report().last_errors;
    assert!(errors.iter().any(|e| e.text.contains("hardware")));
}

#[test]
fn a_change_during_an_outage_is_told_when_it_is_over() {
    let mut world = World::verified(902);
    let good = world.controller.good_answers;
    world.net.up = false;
    world.run_for(s(30));
    swap_disk(&mut world, "ANOTHER");
    world.run_for(s(1200));
    world.net.up = true;
    world.run_for(s(120));
    assert_eq!(world.controller.good_answers, good + 1);
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn a_host_whose_hardware_is_refused_asks_again_with_the_reason() {
    let mut world = World::verified(903);
    world.controller.db.verdict = Verdict::Mismatch;
    world.controller.deaf_to = Some(Purpose::Start);
    world.run_for(s(120));
    assert_eq!(world.state(), Authorisation::Lapsed);
    assert_eq!(wanted(&world), Some(Purpose::Start));
    let good = world.controller.good_answers;
    swap_disk(&mut world, "ANOTHER");
    world.run_for(s(660));
    assert_eq!(world.controller.good_answers, good + 1);
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn one_unlucky_look_is_looked_at_again_and_two_are_an_answer() {
    let mut world = World::verified(904);
    let good = world.controller.good_answers;
    let right = world.hardware.clone();
    // A disk that does not answer just when a challenge has it looked at.
    let now = world.controller_ms();
    let probes = world.probes;
    world.probe_takes = s(2);
    swap_disk(&mut world, "GARBLED");
    world.controller.challenge(Purpose::OnDemand, now);
    while world.probes == probes {
        world.run_for(Duration::from_millis(10));
    }
    world.hardware = right.clone();
    world.run_for(s(20));
    assert_eq!(world.controller.good_answers, good + 1);
    assert_eq!(world.controller.db.last_hardware, Some(right));
    // The same, and it stays so.
    swap_disk(&mut world, "OTHER");
    let now = world.controller_ms();
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(20));
    let last = world.controller.db.last_hardware.clone().unwrap();
    assert_eq!(last.disk2.value(), Some("OTHER"));
}

#[test]
fn a_probe_that_never_ends_holds_nothing_up_for_ever() {
    let mut world = World::new(905);
    world.probe_works = false;
    world.start();
    world.run_for(s(100));
    let heartbeats = world.controller.db.heartbeats;
    world.run_for(s(3600));
    assert!(world.controller.db.heartbeats > heartbeats + 30);
    world.probe_works = true;
    world.run_for(s(180));
    assert_eq!(world.state(), Authorisation::Verified);
}
