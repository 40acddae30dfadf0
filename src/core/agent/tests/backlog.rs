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
fn a_backlog_drains_in_one_go_and_no_heartbeat_waits_behind_more_than_one_batch() {
    let mut world = World::verified(21);
    world.net.up = false;
    for _ in 0..3000 {
        let client = world.connect();
        world.run_for(s(3));
        world.disconnect(client);
    }
    assert!(world.disk.ledger.len() > 5900);
    // A slow line: a batch takes two seconds.
    world.net.latency = 2_000;
    world.controller.interval_s = 10;
    world.net.up = true;
    let mut longest = s(0);
    let mut last = world.t;
    let end = world.t + s(400);
    let mut heartbeats = world.controller.db.heartbeats;
    while world.t < end {
        world.run_for(std::time::Duration::from_millis(200));
        if world.controller.db.heartbeats > heartbeats {
            heartbeats = world.controller.db.heartbeats;
            longest = longest.max(world.t - last);
            last = world.t;
        }
        if world.controller.db.batches == 0 {
            (longest, last) = (s(0), world.t);
        }
    }
    // A reply (3 s), the interval with jitter (11 s), one batch and its reply (6 s), the way (3 s).
    assert!(longest <= s(3 + 11 + 6 + 3 + 1), "{longest:?}");
    world.everything_arrived();
    assert_eq!(world.controller.db.records.len(), 6000);
    assert!(world.controller.db.batches >= 12);
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
    for _ in 0..10 {
        world.connect();
    }
    world.run_for(s(90));
    assert!(world.disk.ledger.is_empty());
    // Ten from before, all of them with the controller, and the ten new ones.
    assert_eq!(world.connections().len(), 20);
}

#[test]
fn a_refused_batch_puts_no_heartbeat_off() {
    let mut world = World::verified(23);
    world.controller.hates_batches = true;
    let mut last = world.t;
    let mut heartbeats = world.controller.db.heartbeats;
    for _ in 0..1200 {
        if world.dice.chance(10) {
            world.connect();
        }
        world.run_for(s(1));
        if world.controller.db.heartbeats > heartbeats {
            heartbeats = world.controller.db.heartbeats;
            assert!(world.t - last <= s(35), "{:?}", world.t - last);
            last = world.t;
        }
    }
}

/// What days without a controller left goes out batch by batch over a slow line, while clients come and
/// go, and each heartbeat is in time. `VPN_NODE_TORTURE=usual` and `full` are longer.
#[test]
fn torture_ledger_heartbeat() {
    let records = match std::env::var("VPN_NODE_TORTURE").as_deref() {
        Ok("usual") => 200_000,
        Ok("full") => 1_000_000,
        _ => 20_000,
    };
    let mut world = World::verified(24);
    world.controller.interval_s = 10;
    world.net.latency = 2_000;
    world.run_for(s(60));
    world.net.up = false;
    let client = world.connect();
    world.run_for(s(3 * 3600));
    world.disk.fill(records);
    world.disconnect(client);
    world.net.up = true;
    let back = world.t;
    let mut heartbeats = world.controller.db.heartbeats;
    while world.controller.db.heartbeats == heartbeats {
        world.run_for(s(1));
    }
    let (mut last, mut longest, mut beats) = (world.t, s(0), 0);
    while world.disk.ledger.len() > 100 {
        world.run_for(std::time::Duration::from_millis(500));
        if world.dice.chance(50) {
            let client = world.connect();
            world.disconnect(client);
        }
        if world.controller.db.heartbeats > heartbeats {
            heartbeats = world.controller.db.heartbeats;
            longest = longest.max(world.t - last);
            last = world.t;
            beats += 1;
        }
    }
    // As above: a reply, the interval with jitter, one batch and its reply, the way.
    assert!(longest <= s(3 + 11 + 6 + 3 + 1), "{longest:?}");
    let (took, batches) = (world.t - back, world.controller.db.batches);
    world.run_for(s(120));
    world.everything_arrived();
    assert_eq!(world.controller.db.lost, 0);
    assert!(world.controller.db.records.len() >= records);
    println!(
        "{records} records drained in {} s of simulated time ({batches} batches, 4 s round trips), {beats} heartbeats of 10 s never more than {} s apart",
        took.as_secs(),
        longest.as_secs()
    );
}
