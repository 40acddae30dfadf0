//! Never a busy loop, whatever fails and however long. The rig watches every deadline and counts
//! the commands of each second; here everything fails for an hour.

use uuid::Uuid;
use vpn_node_protocol::directive::Action;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::message::{Authorisation, Purpose};

use super::world::{World, s};

/// One hour in which `broken` does not work, then one in which it does again.
fn an_hour_without(broken: fn(&mut World, bool)) {
    for seed in 0..2 {
        let mut world = World::verified(600 + seed);
        broken(&mut world, true);
        let (attempts, polls) = (world.attempts.len(), world.polls.len());
        for _ in 0..60 {
            world.connect();
            world.run_for(s(57));
            world.disconnect_any();
            world.run_for(s(3));
        }
        let (attempts, polls) = (world.attempts.len() - attempts, world.polls.len() - polls);
        assert!(attempts < 300, "{attempts} attempts in an hour");
        assert!(polls < 300, "{polls} polls in an hour");
        broken(&mut world, false);
        world.run_for(s(600));
        assert_eq!(world.state(), Authorisation::Verified);
        world.everything_arrived();
    }
}

#[test]
fn the_network_fails_always() {
    an_hour_without(|world, broken| world.net.up = !broken);
}

#[test]
fn the_disk_fails_always() {
    an_hour_without(|world, broken| world.disk.full = broken);
}

#[test]
fn a_probe_never_answers() {
    an_hour_without(|world, broken| {
        world.probe_works = !broken;
        if broken {
            let now = world.controller_ms();
            world.controller.challenge(Purpose::OnDemand, now);
        }
    });
}

#[test]
fn the_controller_wants_to_wait_for_ever() {
    an_hour_without(|world, broken| {
        world.net.up = !broken;
        world.net.retry_after = broken.then_some(s(100_000_000));
    });
}

#[test]
fn figures_never_come() {
    let mut world = World::verified(610);
    world.sampler_works = false;
    world.connect();
    world.run_for(s(7200));
    assert_eq!(world.state(), Authorisation::Lapsed);
}

#[test]
fn a_challenge_that_runs_out_while_the_lane_is_busy_is_forgotten() {
    let mut world = World::verified(611);
    world.probe_works = false;
    let now = world.controller_ms();
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(3));
    world.net.up = false;
    world.restart();
    world.run_for(s(600));
    assert!(world.agent().challenge.is_none());
}

#[test]
fn a_challenge_that_came_during_an_exchange_runs_out_in_an_outage() {
    for seed in 0..10 {
        let mut world = World::verified(620 + seed);
        world.run_for(s(seed));
        let now = world.controller_ms();
        world.controller.challenge(Purpose::OnDemand, now);
        // Only the poll gets through.
        world.tamper = Some(Box::new(|_, _| Vec::new()));
        world.run_for(s(600));
        assert!(world.agent().challenge.is_none());
        world.tamper = None;
        world.run_for(s(200));
        assert_eq!(world.state(), Authorisation::Verified);
    }
}

#[test]
fn a_heartbeat_does_not_wait_for_a_probe_longer_than_a_challenge_may_last() {
    let mut world = World::verified(640);
    world.probe_works = false;
    let now = world.controller_ms();
    let id = Uuid::from_u128(77);
    let action = Action::Challenge {
        value: Hex([1; 32]),
        purpose: Purpose::OnDemand,
    };
    let mut directive = world.controller.directive(id, action, now);
    directive.deadline_s = u32::MAX;
    world.controller.issue(&directive);
    world.run_for(s(35));
    let heartbeats = world.controller.db.heartbeats;
    world.run_for(s(65));
    assert!(world.controller.db.heartbeats > heartbeats);
}

#[test]
fn a_poll_that_is_always_answered_at_once_is_not_a_storm() {
    let mut world = World::verified(641);
    let now = world.controller_ms();
    // A directive that is never acknowledged: signed for another server.
    let action = Action::Unknown;
    let id = Uuid::from_u128(78);
    let mut directive = world.controller.directive(id, action, now);
    directive.server_id = "server-2".to_owned();
    world.controller.issue(&directive);
    let polls = world.polls.len();
    world.run_for(s(600));
    let polls = world.polls.len() - polls;
    assert!(polls <= 301, "{polls} polls in ten minutes");
}

#[test]
fn a_way_that_swallows_every_second_answer_costs_two_attempts_a_heartbeat_not_a_storm() {
    let mut world = World::verified(642);
    let mut swallow = false;
    world.tamper = Some(Box::new(move |_, answer| {
        swallow = !swallow;
        if swallow { Vec::new() } else { answer }
    }));
    let attempts = world.attempts.len();
    world.run_for(s(3600));
    let attempts = world.attempts.len() - attempts;
    assert!((230..300).contains(&attempts), "{attempts} in an hour");
}
