//! The ledger's way to the controller.

use super::world::{World, s};

#[test]
fn a_batch_that_the_controller_calls_bad_is_offered_again_after_five_minutes() {
    let mut world = World::verified(20);
    world.controller.hates_batches = true;
    world.connect();
    let (attempts, heartbeats) = (world.attempts.len(), world.controller.db.heartbeats);
    world.run_for(s(240));
    let heartbeats = world.controller.db.heartbeats - heartbeats;
    assert!(heartbeats >= 7, "heartbeats go on: {heartbeats}");
    let tries = world.attempts.len() - attempts;
    assert!(tries <= 12, "{tries} attempts in four minutes");
    world.controller.hates_batches = false;
    world.run_for(s(120));
    world.everything_arrived();
}

#[test]
fn a_record_that_comes_while_the_ledger_is_found_empty_does_not_stay_behind() {
    for seed in 0..30 {
        let mut world = World::verified(1000 + seed);
        world.connect();
        while world.disk.acked == 0 {
            world.run_for(std::time::Duration::from_millis(1));
        }
        world.connect();
        world.run_for(s(60));
        world.everything_arrived();
    }
}

#[test]
fn an_acknowledgement_of_another_ledger_takes_nothing_away() {
    let mut world = World::verified(22);
    for _ in 0..10 {
        world.connect();
    }
    // The controller takes the batch, and the host stops before it hears so.
    while world.controller.db.batches == 0 {
        world.run_for(std::time::Duration::from_millis(5));
    }
    world.kill();
    world.disk.lose_ledger();
    world.start();
    let old = world.controller.db.records.len();
    for _ in 0..10 {
        world.connect();
    }
    world.run_for(s(90));
    assert!(world.disk.ledger.is_empty());
    assert_eq!(world.controller.db.records.len(), old + 10, "the new ones");
}
