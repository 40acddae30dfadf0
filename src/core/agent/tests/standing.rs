//! Copies, old backups, revoked hosts: what the agent makes of the controller's word about it.

use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::message::{Authorisation, RefusalCode};

use super::world::{World, s};
use crate::core::agent::NoRotation;

#[test]
fn revoked_and_quarantined_over_the_held_poll_lapse_at_once() {
    for revoked in [false, true] {
        let mut world = World::verified(800);
        world.run_for(s(5));
        let attempts = world.attempts.len();
        world.controller.db.revoked = revoked;
        world.controller.db.quarantined = !revoked;
        world.run_for(s(2));
        assert_eq!(world.attempts.len(), attempts, "no request was needed");
        assert_eq!(world.state(), Authorisation::Lapsed);
        let detail = world.report().verification.detail;
        assert!(detail.starts_with("refused: "), "{detail}");
        let new_server = detail.contains("move /srv/agent away");
        assert!(new_server, "{detail}");
        let takes_over = detail.find("--server NAME");
        assert_eq!(takes_over.is_none(), revoked, "{detail}");
        let dice = &mut world.dice.clone();
        let refused = world.agent().rotate(dice);
        assert!(matches!(refused, Err(NoRotation::Stopped(_))));
        let polls = world.polls.len();
        world.run_for(s(3600));
        assert_eq!(world.polls.len(), polls, "polls pause");
        world.controller.db.revoked = false;
        world.controller.db.quarantined = false;
        world.run_for(s(400));
        assert_eq!(world.state(), Authorisation::Verified);
        assert!(world.polls.len() > polls);
    }
}

#[test]
fn a_refusal_of_another_poll_stops_nobody() {
    let mut world = World::verified(801);
    world.tamper_poll = Some(Box::new(|controller, _| {
        controller.refuse(Hex([1; 32]), RefusalCode::Revoked, super::world::BEGIN_MS)
    }));
    world.run_for(s(300));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn the_answer_to_a_poll_of_the_old_key_does_not_stop_the_new_one() {
    let mut world = World::verified(802);
    world.run_for(s(10));
    // The poll of the old key is held; its answer will be that the key was replaced.
    world.tamper_poll = Some(Box::new(|controller, answer| {
        let envelope =
            vpn_node_protocol::envelope::Envelope::parse(&answer, 1 << 20).expect("a reply");
        let reply: vpn_node_protocol::message::PollReply = envelope.peek().expect("a reply");
        controller.refuse(
            reply.request_digest,
            RefusalCode::RetiredKey,
            reply.controller_time_ms,
        )
    }));
    let mut dice = world.dice.clone();
    world.agent().rotate(&mut dice).unwrap();
    // It waits for 50 seconds at most, and says nothing about the key that is in force by then.
    // The next poll is the new key's, waits as long, and hears the same: that counts.
    let mut stopped_after = None;
    for second in 0..120 {
        world.run_for(s(1));
        let stopped = world.agent().authorisation.stopped();
        if stopped.is_some_and(|why| why.contains("another identity key")) {
            stopped_after.get_or_insert(second);
        }
    }
    assert_eq!(world.agent().lane_state().epoch, 2);
    let stopped_after = stopped_after.expect("stopped by the second");
    assert!(stopped_after > 50, "{stopped_after}: stopped by the first");
}

#[test]
fn a_copy_from_before_a_rotation_is_told_so_and_stops() {
    let mut world = World::verified(803);
    let (identity, lane) = (world.disk.identity.clone(), world.disk.lane.clone());
    let mut dice = world.dice.clone();
    world.agent().rotate(&mut dice).unwrap();
    world.run_for(s(60));
    world.kill();
    world.disk.identity = identity;
    world.disk.lane = lane;
    world.forget_outstanding();
    world.start();
    world.run_for(s(5));
    assert_eq!(world.state(), Authorisation::Lapsed);
    let detail = world.report().verification.detail;
    assert!(detail.contains("copy or an old backup"), "{detail}");
    let parts = [
        "If another machine runs as this server, switch this one off",
        "new token of its own",
        "Only if this is the one right machine",
        "registration-key create --server",
        "shuts the other one out",
    ];
    let places = parts.map(|part| detail.find(part).expect(part));
    assert!(places.is_sorted(), "{detail}");
    let attempts = world.attempts.len();
    world.run_for(s(3600));
    let attempts = world.attempts.len() - attempts;
    assert!((10..=16).contains(&attempts), "{attempts} in an hour");
    assert!(world.controller.retired_uses > 0);
    assert!(!world.controller.db.quarantined, "the living host goes on");
}

#[test]
fn an_old_copy_that_lives_bears_witness_and_both_are_stopped() {
    let mut world = World::verified(804);
    world.controller.remembers = 4;
    world.run_for(s(60));
    let copy = world.disk.lane.clone();
    world.run_for(s(600));
    world.kill();
    world.disk.lane = copy;
    world.forget_outstanding();
    world.start();
    world.run_for(s(5));
    assert_eq!(world.controller.witnesses, 1);
    assert!(world.controller.db.quarantined);
    assert_eq!(world.state(), Authorisation::Lapsed);
    let polls = world.polls.len();
    world.run_for(s(3600));
    assert_eq!(world.polls.len(), polls);
    assert_eq!(world.controller.witnesses, 1, "quarantined says enough");
}

#[test]
fn an_old_copy_whose_request_is_refused_speaks_again_at_once_and_shows_itself() {
    let mut world = World::verified(806);
    world.run_for(s(60));
    // Its request was answered after the copy was made.
    let mut copy = world.disk.lane.clone();
    while copy.pending.is_none() {
        world.run_for(std::time::Duration::from_millis(1));
        copy = world.disk.lane.clone();
    }
    world.run_for(s(300));
    world.kill();
    world.disk.lane = copy;
    world.forget_outstanding();
    world.start();
    world.run_for(s(3));
    assert!(world.controller.db.quarantined);
    assert_eq!(world.state(), Authorisation::Lapsed);
}

#[test]
fn a_witness_that_is_lost_is_borne_again_with_the_next_attempt() {
    let mut world = World::verified(805);
    world.controller.remembers = 4;
    world.run_for(s(60));
    let copy = world.disk.lane.clone();
    world.run_for(s(600));
    world.kill();
    world.disk.lane = copy;
    world.forget_outstanding();
    world.start();
    while world.agent().authorisation.stopped().is_none() {
        world.run_for(std::time::Duration::from_millis(1));
    }
    // Refused just now, and the witness is on its way.
    world.net.up = false;
    world.run_for(s(60));
    assert_eq!(world.state(), Authorisation::Lapsed);
    world.net.up = true;
    world.run_for(s(700));
    assert!(world.controller.db.quarantined);
}
