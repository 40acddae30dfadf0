//! Bad lines, and a controller that loses its memory.

use vpn_node_protocol::message::{Authorisation, Purpose};

use super::world::{World, s};

/// Plays until so many requests were accepted; clients come and go meanwhile.
fn until_accepted(world: &mut World, exchanges: u64) {
    let wanted = world.controller.db.seq + exchanges;
    while world.controller.db.seq < wanted {
        world.run_for(s(30));
        match world.dice.below(4) {
            0 => drop(world.connect()),
            1 => world.disconnect_any(),
            _ => {}
        }
    }
}

fn bad_line(seed: u64, exchanges: u64) {
    let mut world = World::verified(seed);
    world.net.loss = 300;
    world.net.doubled = 200;
    // Later than the next request, often: copies come out of order.
    world.net.copy_delay = 90_000;
    world.net.latency = 400;
    until_accepted(&mut world, exchanges);
    assert_eq!(world.controller.quarantines, [] as [&str; 0]);
    assert_eq!(world.controller.memory_losses, 0);
    assert!(
        world.controller.late_copies > exchanges / 20,
        "out of order"
    );
    // Each exchange needs two on average (0.7 * 0.7), and a repeated one is said anew.
    let attempts = world.attempts.len() as u64;
    assert!(attempts < exchanges * 3, "{attempts} for {exchanges}");
    let hours = world.t.as_secs() / 3600;
    assert!(exchanges < 220 * (hours + 1), "{exchanges} in {hours} h");
    world.net.loss = 0;
    world.run_for(s(200));
    world.everything_arrived();
}

#[test]
fn ten_thousand_exchanges_on_a_bad_line_quarantine_nobody_part_1() {
    bad_line(41, 2500);
}

#[test]
fn ten_thousand_exchanges_on_a_bad_line_quarantine_nobody_part_2() {
    bad_line(42, 2500);
}

#[test]
fn ten_thousand_exchanges_on_a_bad_line_quarantine_nobody_part_3() {
    bad_line(43, 2500);
}

#[test]
fn ten_thousand_exchanges_on_a_bad_line_quarantine_nobody_part_4() {
    bad_line(44, 2500);
}

#[test]
fn a_clone_that_speaks_is_found_with_the_next_request_of_the_other() {
    let mut world = World::verified(45);
    world.run_for(s(100));
    let copy = world.disk.lane.clone();
    world.run_for(s(100));
    world.kill();
    let original = std::mem::replace(&mut world.disk.lane, copy);
    // The copy has no pending request of the original's to hide behind.
    world.disk.lane.pending = None;
    world.disk.lane.last_reply = None;
    world.forget_outstanding();
    world.start();
    world.run_for(s(5));
    assert_eq!(world.controller.quarantines.len(), 1);
    assert_eq!(world.state(), Authorisation::Lapsed);
    drop(original);
}

#[test]
fn a_controller_that_lost_its_last_commits_is_shown_its_own_word_and_goes_on() {
    for lost in [1, 2, 3, 7] {
        let mut world = World::verified(46);
        let client = world.connect();
        world.run_for(s(40));
        let backup = world.controller.db.clone();
        while world.controller.db.seq < backup.seq + lost {
            world.run_for(std::time::Duration::from_millis(100));
        }
        world.run_for(s(1));
        world.controller.db = backup;
        world.run_for(s(60));
        assert_eq!(world.controller.quarantines, [] as [&str; 0], "{lost}");
        assert_eq!(world.controller.memory_losses, 1, "{lost}");
        assert_eq!(world.controller.aheads, 1, "{lost}: it is told once");
        assert_eq!(world.state(), Authorisation::Verified);
        world.disconnect(client);
        world.run_for(s(60));
        world.everything_arrived();
    }
}

#[test]
fn a_controller_that_restored_while_a_request_was_on_its_way_does_not_quarantine() {
    for seed in 0..20 {
        let mut world = World::verified(4600 + seed);
        world.net.loss = 300;
        for _ in 0..5 {
            let backup = world.controller.db.clone();
            world.connect();
            let pause = world.dice.below(90_000);
            world.run_for(std::time::Duration::from_millis(pause));
            world.controller.db = backup;
            world.run_for(s(30));
        }
        world.net.loss = 0;
        world.run_for(s(200));
        assert_eq!(world.controller.quarantines, [] as [&str; 0], "{seed}");
        assert_eq!(world.state(), Authorisation::Verified);
    }
}

#[test]
fn a_challenge_answer_that_meets_a_forgetful_controller_is_given_again_with_proof() {
    let mut world = World::verified(47);
    world.run_for(s(20));
    let backup = world.controller.db.clone();
    world.run_for(s(60));
    world.controller.db = backup;
    let now = world.controller_ms();
    let before = world.controller.good_answers;
    world.controller.challenge(Purpose::OnDemand, now);
    world.run_for(s(50));
    assert_eq!(world.controller.aheads, 1);
    assert_eq!(world.controller.good_answers, before + 1);
    assert_eq!(world.controller.db.unacked.len(), 0, "acknowledged");
    assert_eq!(world.controller.quarantines, [] as [&str; 0]);
}

#[test]
fn a_controller_that_is_never_convinced_is_not_asked_in_a_hurry() {
    let mut world = World::verified(48);
    world.controller.never_convinced = true;
    let before = world.attempts.len();
    world.run_for(s(3600));
    let attempts = world.attempts.len() - before;
    assert!(attempts < 200, "{attempts} attempts in an hour");
}
