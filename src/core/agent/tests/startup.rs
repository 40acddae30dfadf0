//! Start-up and standing: who vouches for a host, and when nobody does any more.

use vpn_node_protocol::message::{Authorisation, Verdict};

use super::dice::Dice;
use super::world::{World, s};
use crate::core::report::VerificationState;

#[test]
fn the_first_heartbeat_is_due_at_once_and_a_challenge_verifies_the_host() {
    let mut world = World::started(1);
    world.obey();
    assert_eq!(world.attempts, [world.t]);
    assert_eq!(world.state(), Authorisation::Unverified);
    world.run_for(s(2));
    assert_eq!(world.state(), Authorisation::Verified);
    assert_eq!(world.controller.good_answers, 1);
    world.run_for(s(3600));
    assert_eq!(world.controller.good_answers, 1, "one challenge is enough");
    let heartbeats = world.controller.db.heartbeats;
    assert!((115..=135).contains(&heartbeats), "{heartbeats}");
}

#[test]
fn a_restarted_agent_is_unverified_until_its_own_challenge_was_judged() {
    let mut world = World::verified(2);
    world.restart();
    world.obey();
    assert_eq!(world.state(), Authorisation::Unverified);
    world.run_for(s(5));
    assert_eq!(world.state(), Authorisation::Verified);
    assert_eq!(world.controller.good_answers, 2);
}

#[test]
fn a_verified_from_before_the_restart_does_not_verify() {
    let mut world = World::verified(3);
    // The controller takes a heartbeat, and the host stops before it hears so.
    let heartbeats = world.controller.db.heartbeats;
    while world.controller.db.heartbeats == heartbeats {
        world.run_for(std::time::Duration::from_millis(10));
    }
    world.kill();
    assert_eq!(world.controller.db.verdict, Verdict::Verified);
    world.probe_works = false;
    world.start();
    let before = world.disk.lane.seq;
    world.run_for(s(50));
    assert!(world.disk.lane.seq > before, "the old reply came");
    assert_eq!(world.state(), Authorisation::Unverified);
    world.probe_works = true;
    world.run_for(s(120));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn the_lease_runs_from_the_sending_not_from_the_answer() {
    let mut world = World::verified(4);
    world.net.latency = 8_000;
    world.run_for(s(120));
    let attempts = world.attempts.len();
    while world.attempts.len() == attempts {
        world.run_for(std::time::Duration::from_millis(100));
    }
    let sent = *world.attempts.last().unwrap();
    world.run_until(sent + s(14));
    let left = world.report().verification.valid_for_s.unwrap();
    assert!(left <= 1800 - 13, "{left}");
}

#[test]
fn grace_ends_after_the_lease_although_the_wall_clock_is_set_back() {
    let mut world = World::verified(5);
    world.net.up = false;
    world.run_for(s(60));
    world.wall_skew_ms -= 10 * 365 * 86_400_000;
    world.run_for(s(1500));
    assert_eq!(world.state(), Authorisation::Grace);
    world.run_for(s(300));
    assert_eq!(world.state(), Authorisation::Lapsed);
    world.net.up = true;
    world.run_for(s(120 + 20));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn a_suspended_host_wakes_up_lapsed_and_is_back_with_its_next_heartbeat() {
    let mut world = World::verified(6);
    world.suspend(s(3 * 3600));
    assert_eq!(world.state(), Authorisation::Lapsed);
    world.run_for(s(30));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn a_host_that_waits_for_approval_says_so_and_is_verified_after_it() {
    let mut world = World::new(7);
    world.controller.db.approved = false;
    world.start();
    world.run_for(s(600));
    assert_eq!(world.state(), Authorisation::Unverified);
    let detail = world.report().verification.detail;
    assert_eq!(
        detail,
        "Enrolled; an operator has not approved this host yet."
    );
    world.controller.db.approved = true;
    world.run_for(s(120));
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn a_quarantined_host_lapses_at_once_asks_slowly_and_comes_back() {
    for revoked in [false, true] {
        let mut world = World::verified(8);
        world.controller.db.revoked = revoked;
        world.controller.db.quarantined = !revoked;
        world.run_for(s(40));
        assert_eq!(world.state(), Authorisation::Lapsed);
        world.connect();
        let (attempts, polls) = (world.attempts.len(), world.polls.len());
        world.run_for(s(3600));
        let (attempts, polls) = (world.attempts.len() - attempts, world.polls.len() - polls);
        // An operator who resolves a quarantine waits for the host; nobody takes a revocation back.
        let expected = if revoked { 10..=16 } else { 48..=60 };
        assert!(expected.contains(&attempts), "{attempts} in an hour");
        assert!(polls <= 1, "{polls} polls");
        let report = world.report();
        assert_eq!(report.verification.state, VerificationState::Lapsed);
        assert!(report.verification.detail.starts_with("refused: "));

        world.controller.db.quarantined = false;
        world.controller.db.revoked = false;
        world.run_for(s(if revoked { 400 } else { 80 }));
        assert_eq!(world.state(), Authorisation::Verified);
        world.run_for(s(60));
        world.everything_arrived();
        let polls = world.polls.len();
        world.run_for(s(120));
        assert!(world.polls.len() > polls, "directives are waited for again");
    }
}

#[test]
fn a_request_whose_answer_was_lost_before_a_quarantine_is_still_the_same_after_it() {
    let mut world = World::verified(9);
    world.net.loss = 0;
    let taken = world.controller.db.seq;
    // The controller takes the next request, and nothing that it says is understood.
    world.tamper = Some(Box::new(|_, _| b"lost on the way".to_vec()));
    while world.controller.db.seq == taken {
        world.run_for(s(1));
    }
    world.controller.db.quarantined = true;
    world.tamper = None;
    world.run_for(s(200));
    assert_eq!(world.state(), Authorisation::Lapsed);
    world.controller.db.quarantined = false;
    world.run_for(s(400));
    assert_eq!(world.controller.quarantines, [] as [&str; 0]);
    assert_eq!(world.state(), Authorisation::Verified);
}

#[test]
fn another_verdict_after_verified_is_a_lapse_and_only_verified_ends_it() {
    for verdict in [
        Verdict::Failed,
        Verdict::Mismatch,
        Verdict::Pending,
        Verdict::Unverified,
    ] {
        let mut world = World::verified(9);
        world.probe_works = false;
        world.controller.db.verdict = verdict;
        world.controller.reason = Some("disk1 is another one".to_owned());
        world.run_for(s(40));
        assert_eq!(world.state(), Authorisation::Lapsed, "{verdict:?}");
        assert_eq!(world.report().verification.valid_for_s, None);
        let detail = world.report().verification.detail;
        assert!(!detail.contains("silent"), "{verdict:?}: {detail}");
        world.probe_works = true;
        world.run_for(s(180));
        assert_eq!(world.state(), Authorisation::Verified, "{verdict:?}");
    }
}

/// An agent that stops says once more how it is, if somebody listens.
#[test]
fn the_last_word_is_a_heartbeat_that_nobody_waits_long_for() {
    let mut world = World::verified(4711);
    let now = world.now();
    let mut dice = Dice::new(1);
    let agent = world.agent();
    assert!(!agent.is_speaking(now), "nothing is due");
    agent.last_word(now, &mut dice);
    assert!(agent.is_speaking(now));
    let heartbeats = world.controller.db.heartbeats;
    world.run_for(s(1));
    assert_eq!(world.controller.db.heartbeats, heartbeats + 1);
    let now = world.now();
    assert!(!world.agent().is_speaking(now), "it was heard");
    // Nobody there: what failed is repeated by the next start.
    world.net.up = false;
    world.run_for(s(120));
    let now = world.now();
    let agent = world.agent();
    agent.last_word(now, &mut dice);
    assert!(!agent.is_speaking(now));
}
