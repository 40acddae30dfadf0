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
