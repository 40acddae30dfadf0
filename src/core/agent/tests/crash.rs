//! The host stops at every boundary between two commands and before every write.

use std::time::Duration;

use vpn_node_protocol::message::Authorisation;

use super::world::{World, s};

/// Starts, is verified, sees clients come and go, sends them in batches, hears acknowledgements.
fn play(world: &mut World) {
    world.start();
    world.run_for(s(1));
    let (a, b) = (world.connect(), world.connect());
    world.run_for(s(3));
    world.disconnect(a);
    world.run_for(s(40));
    world.connect();
    world.disconnect(b);
    world.run_for(s(35));
}

/// Plays with a stop at boundary `at`, starts again, and lets it settle.
fn stopped_at(at: u64, seed: u64, down: Duration) -> World {
    let mut world = World::new(seed);
    world.fuse.stop_at = Some(at);
    world.start();
    for step in 0..6 {
        let come = [0, 2, 0, 1, 0, 0][step];
        for _ in 0..come {
            world.connect();
        }
        if step == 2 || step == 4 {
            world.disconnect_any();
        }
        let pause = world.dice.below(30_000);
        world.run_for(Duration::from_millis(pause));
        if world.agent.is_none() {
            world.run_for(down);
            let pending = world.disk.lane.pending.clone();
            world.start();
            if let Some(pending) = pending {
                let now = world.t;
                world.obey();
                assert_eq!(world.attempts.last(), Some(&now), "due at once");
                assert_eq!(world.last_request, pending.to_json(), "the same bytes");
            }
        }
    }
    world.run_for(s(150));
    world
}

#[test]
fn a_host_that_stops_again_and_again_on_a_bad_line_is_never_quarantined() {
    for seed in 0..8 {
        let mut world = World::new(300 + seed);
        world.net.loss = 200;
        world.net.doubled = 200;
        world.net.copy_delay = 60_000;
        world.start();
        for _ in 0..60 {
            world.fuse.stop_at = Some(world.fuse.passed + 1 + world.dice.below(30));
            world.connect();
            world.run_for(s(20));
            world.disconnect_any();
            world.run_for(s(20));
            if world.agent.is_none() {
                world.fuse.stop_at = None;
                world.start();
            }
        }
        assert!(world.crashes > 20, "{}", world.crashes);
        world.net.loss = 0;
        world.run_for(s(300));
        assert_eq!(world.controller.quarantines, [] as [&str; 0]);
        assert_eq!(world.state(), Authorisation::Verified);
        assert!(world.disk.ledger.is_empty());
        assert_eq!(world.controller.db.lost, 0);
    }
}
