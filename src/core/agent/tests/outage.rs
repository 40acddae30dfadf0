//! The required demonstration: three days without a controller.

use std::time::Duration;

use vpn_node_protocol::message::Authorisation;

use super::world::{World, s};

const YEARS_10_MS: i64 = 10 * 365 * 86_400_000;

/// 72 hours of outage: about 20 sessions an hour come and go, the wall clock jumps by ten years,
/// the agent is stopped, killed, the host suspended and started again at random instants.
fn three_days_of_outage(seed: u64) {
    let mut world = World::verified(seed);
    world.net.up = false;
    let begin = world.t;
    let before = world.attempts.len();
    while world.t < begin + s(72 * 3600) {
        let pause = world.dice.below(120_000);
        world.run_for(Duration::from_millis(pause));
        match world.dice.below(1000) {
            0..=9 => world.restart(),
            10..=17 => {
                world.stop();
                world.start();
            }
            18..=21 => world.reboot(),
            22..=33 => world.wall_skew_ms += YEARS_10_MS,
            34..=45 => world.wall_skew_ms -= YEARS_10_MS,
            46..=53 => {
                let pause = world.dice.below(3600);
                world.suspend(s(pause));
            }
            54..=519 if world.vpn.up.len() < 12 => drop(world.connect()),
            _ => world.disconnect_any(),
        }
    }
    assert!(world.vpn.seen.len() > 1_400, "{}", world.vpn.seen.len());
    assert_ne!(world.state(), Authorisation::Verified);

    // Full jitter below two minutes: one attempt a minute on average, some more after each start.
    let attempts = (world.attempts.len() - before) as u64;
    let most = 72 * 60 * 5 / 4 + 15 * world.starts;
    assert!(attempts < most, "{attempts} attempts, bound {most}");
    assert!(attempts > 72 * 30, "it never gives up: {attempts}");

    world.net.up = true;
    let back = world.t;
    let seq = world.controller.db.seq;
    while world.controller.db.seq == seq {
        world.run_for(s(1));
    }
    let took = world.t - back;
    assert!(took <= s(120 + 15 + 1), "back after {took:?}");
    world.run_for(s(60));
    assert_eq!(world.state(), Authorisation::Verified);
    // Two quiet minutes more, for the last held ends.
    world.run_for(s(120));
    world.everything_arrived();
    assert_eq!(world.controller.quarantines, [] as [&str; 0]);
    assert_eq!(world.controller.memory_losses, 0);
}

#[test]
fn after_72_hours_of_outage_everything_arrives_once_and_grace_was_never_too_long() {
    three_days_of_outage(72);
}

#[test]
fn a_fleet_does_not_come_back_in_one_instant() {
    let mut back = Vec::new();
    for seed in 0..30 {
        let mut world = World::verified(5000 + seed);
        world.net.up = false;
        world.run_for(s(2 * 3600));
        world.net.up = true;
        let (outage_end, seq) = (world.t, world.controller.db.seq);
        while world.controller.db.seq == seq {
            world.run_for(s(1));
        }
        back.push((world.t - outage_end).as_secs());
    }
    for window in 0..13 {
        let here = back.iter().filter(|at| **at / 10 == window).count();
        assert!(here <= 12, "{here} of 30 hosts in ten seconds: {back:?}");
    }
}
