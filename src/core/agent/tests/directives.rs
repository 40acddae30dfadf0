//! Directives: each applied once and acknowledged once, however often and whichever way it comes.

use std::time::Duration;

use uuid::Uuid;
use vpn_node_protocol::directive::Action;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::message::{Authorisation, DirectiveOutcome, Purpose};

use super::world::{World, s};

const ID: Uuid = Uuid::from_u128(500);

fn outcomes(world: &World, id: Uuid) -> Vec<DirectiveOutcome> {
    let acks = world.controller.db.acks.iter();
    acks.filter(|a| a.id == id).map(|a| a.outcome).collect()
}

#[test]
fn a_challenge_that_comes_by_poll_and_by_reply_is_answered_once() {
    for seed in 0..20 {
        let mut world = World::verified(700 + seed);
        world.run_for(s(seed * 2));
        let good = world.controller.good_answers;
        let now = world.controller_ms();
        let id = world.controller.challenge(Purpose::OnDemand, now);
        world.probe_takes = s(4);
        world.run_for(s(90));
        assert_eq!(world.controller.good_answers, good + 1);
        assert_eq!(world.controller.bad_answers, 0);
        assert_eq!(outcomes(&world, id), [DirectiveOutcome::Applied]);
    }
}

#[test]
fn a_challenge_comes_by_poll_at_once_and_with_the_next_reply_when_polls_fail() {
    let mut world = World::verified(721);
    let (good, now) = (world.controller.good_answers, world.controller_ms());
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(3));
    assert_eq!(world.controller.good_answers, good + 1, "by poll");

    world.controller.polls_work = false;
    world.run_for(s(90));
    let polls = world.polls.len();
    world.run_for(s(3600));
    let polls = world.polls.len() - polls;
    assert!((25..120).contains(&polls), "{polls} polls in an hour");
    let now = world.controller_ms();
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(45));
    assert_eq!(world.controller.good_answers, good + 2, "by reply");

    world.controller.polls_work = true;
    world.run_for(s(140));
    let now = world.controller_ms();
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(3));
    assert_eq!(world.controller.good_answers, good + 3, "by poll again");
}

#[test]
fn a_late_one_and_one_of_an_unknown_kind_are_acknowledged_as_such() {
    let mut world = World::verified(722);
    let now = world.controller_ms();
    let late = world
        .controller
        .directive(ID, Action::Unknown, now - 61_000);
    world.controller.issue(&late);
    let other = Uuid::from_u128(501);
    let unknown = world.controller.directive(other, Action::Unknown, now);
    world.controller.issue(&unknown);
    world.run_for(s(45));
    assert_eq!(outcomes(&world, ID), [DirectiveOutcome::Late]);
    assert_eq!(outcomes(&world, other), [DirectiveOutcome::Unsupported]);
}

#[test]
fn late_is_judged_by_the_reply_that_carries_it_so_a_controller_may_set_its_clock_back() {
    let mut world = World::verified(723);
    world.controller_skew_ms -= 3_000_000;
    let (good, now) = (world.controller.good_answers, world.controller_ms());
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(45));
    assert_eq!(world.controller.good_answers, good + 1);
}

#[test]
fn one_for_another_server_or_epoch_or_of_another_signer_does_nothing() {
    let mut world = World::verified(724);
    let (now, probes) = (world.controller_ms(), world.probes);
    let action = || Action::Challenge {
        value: Hex([3; 32]),
        purpose: Purpose::OnDemand,
    };
    let mut other = world.controller.directive(ID, action(), now);
    other.server_id = "server-2".to_owned();
    world.controller.issue(&other);
    let mut other = world.controller.directive(ID, action(), now);
    other.epoch = 2;
    world.controller.issue(&other);
    let forged = world.controller.directive(ID, action(), now);
    let key = ed25519_dalek::SigningKey::from_bytes(&[66; 32]);
    let forged = vpn_node_protocol::envelope::Envelope::sign(&forged, &[&key]);
    world.controller.db.unacked.push((ID, forged));
    world.run_for(s(90));
    assert_eq!(world.probes, probes);
    assert_eq!(outcomes(&world, ID), []);
    let errors = world.report().last_errors;
    assert!(errors.iter().any(|e| e.text.contains("another server")));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn only_the_newest_challenge_is_answered() {
    let mut world = World::verified(725);
    let (good, now) = (world.controller.good_answers, world.controller_ms());
    world.probe_takes = s(5);
    let probes = world.probes;
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(3));
    let now = world.controller_ms();
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(45));
    assert_eq!(world.controller.good_answers, good + 1);
    assert_eq!(world.controller.bad_answers, 0);
    assert_eq!(world.probes, probes + 1, "one look for both");
}

#[test]
fn a_probe_that_takes_longer_than_the_challenge_lives_answers_nothing() {
    let mut world = World::verified(726);
    world.probe_takes = s(70);
    let now = world.controller_ms();
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(200));
    assert_eq!(world.controller.bad_answers, 0);
}

#[test]
fn an_acknowledgement_outlives_a_refused_request() {
    let mut world = World::verified(727);
    let now = world.controller_ms();
    let unknown = world.controller.directive(ID, Action::Unknown, now);
    world.controller.issue(&unknown);
    world.controller.bad_requests = 1;
    world.run_for(s(80));
    assert_eq!(outcomes(&world, ID), [DirectiveOutcome::Unsupported]);
}

#[test]
fn a_controller_that_never_stops_issuing_does_not_fill_the_memory() {
    let mut world = World::verified(729);
    for n in 0..2_000 {
        let now = world.controller_ms();
        let id = Uuid::from_u128(20_000 + n);
        let unknown = world.controller.directive(id, Action::Unknown, now);
        world.controller.issue(&unknown);
        let (_, envelope) = world.controller.db.unacked.pop().unwrap();
        let at = world.now();
        let mut dice = world.dice.clone();
        let agent = world.agent();
        agent.directive_came(&envelope, now, at, &mut dice);
        assert!(agent.acks.len() <= 4 * vpn_node_protocol::limits::MAX_DIRECTIVE_ACKS);
    }
    assert_eq!(
        world.agent().acks.len(),
        4 * vpn_node_protocol::limits::MAX_DIRECTIVE_ACKS
    );
}

#[test]
fn a_hundred_directives_are_each_acknowledged_once() {
    let mut world = World::verified(728);
    for n in 0..100 {
        let now = world.controller_ms();
        let id = Uuid::from_u128(10_000 + n);
        let unknown = world.controller.directive(id, Action::Unknown, now);
        world.controller.issue(&unknown);
    }
    world.run_for(s(300));
    for n in 0..100 {
        let id = Uuid::from_u128(10_000 + n);
        assert_eq!(outcomes(&world, id).len(), 1, "{n}");
    }
}

#[test]
fn a_challenge_in_a_reply_from_before_the_restart_is_not_answered() {
    let mut world = World::verified(729);
    world.controller.polls_work = false;
    world.run_for(s(60));
    let now = world.controller_ms();
    world.controller.challenge(Purpose::OnDemand, now);
    let heartbeats = world.controller.db.heartbeats;
    while world.controller.db.heartbeats == heartbeats {
        world.run_for(std::time::Duration::from_millis(5));
    }
    world.kill();
    world.run_for(s(600));
    world.start();
    world.run_for(s(60));
    assert_eq!(world.controller.bad_answers, 0, "it had run out long ago");
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn the_next_directive_is_waited_for_as_soon_as_one_is_acknowledged() {
    let mut world = World::verified(723);
    world.run_for(s(60));
    let (begun, polls) = (world.t, world.polls.len());
    for _ in 0..20 {
        let (good, now) = (world.controller.good_answers, world.controller_ms());
        world.controller.challenge(Purpose::OnDemand, now);
        while world.controller.good_answers == good {
            world.run_for(Duration::from_millis(50));
        }
    }
    let (took, polls) = (world.t - begun, world.polls.len() - polls);
    // Two seconds each, if polls were always two seconds apart.
    assert!(took < s(30), "{took:?} for twenty directives");
    // One that brings it, and one that comes before its acknowledgement.
    assert!(polls <= 45, "{polls} polls for twenty directives");
}
