//! The host stops at every boundary between two commands and before every write.

use std::time::Duration;

use vpn_node_protocol::message::Authorisation;

use super::world::{World, s};

/// Starts, is verified, sees clients come and go, sends them in batches, hears acknowledgements.
/// The host stops at boundary `at`, is down for a while, and starts again.
fn stopped_at(at: Option<u64>, down: Duration) -> World {
    let mut world = World::new(31);
    world.fuse.stop_at = at;
    world.start();
    for (come, go, seconds) in [(0, 0, 1), (2, 0, 3), (0, 1, 35), (1, 1, 30), (0, 0, 65)] {
        for _ in 0..come {
            world.connect();
        }
        for _ in 0..go {
            world.disconnect_any();
        }
        world.run_for(s(seconds));
        if world.agent.is_none() {
            world.run_for(down);
            starts_again(&mut world);
            world.run_for(s(65));
        }
    }
    world
}

/// What was pending goes out first, at once and unchanged.
fn starts_again(world: &mut World) {
    let pending = world.disk.lane.pending.clone();
    world.start();
    world.obey();
    if let Some(pending) = pending {
        assert_eq!(world.attempts.last(), Some(&world.t), "due at once");
        assert_eq!(world.last_request, pending.to_json(), "the same bytes");
    }
}

#[test]
fn wherever_the_host_stops_it_is_no_clone_of_itself_and_loses_no_record() {
    let whole = stopped_at(None, s(0));
    whole.everything_arrived();
    let boundaries = whole.fuse.passed;
    assert!(boundaries > 60, "{boundaries}");
    let mut stops = 0;
    for at in 1..=boundaries {
        let down = [Duration::from_millis(5), s(20)][usize::from(at % 2 == 0)];
        let world = stopped_at(Some(at), down);
        stops += world.crashes;
        assert_eq!(world.controller.quarantines, [] as [&str; 0], "{at}");
        assert_eq!(world.controller.memory_losses, 0, "{at}");
        assert_eq!(world.controller.aheads, 0, "{at}");
        assert_eq!(world.state(), Authorisation::Verified, "{at}");
        world.everything_arrived();
    }
    assert!(stops > 50, "{stops} of {boundaries}");
}

#[test]
fn a_host_that_stops_again_and_again_on_a_bad_line_is_never_quarantined() {
    for seed in 0..4 {
        let mut world = World::new(300 + seed);
        world.net.loss = 200;
        world.net.doubled = 200;
        world.net.copy_delay = 60_000;
        world.start();
        for _ in 0..40 {
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
        assert!(world.crashes > 10, "{}", world.crashes);
        world.net.loss = 0;
        world.run_for(s(300));
        assert_eq!(world.controller.quarantines, [] as [&str; 0]);
        assert_eq!(world.state(), Authorisation::Verified);
        assert!(world.disk.ledger.is_empty());
        assert_eq!(world.controller.db.lost, 0);
    }
}
