//! The searches.

use super::super::explorer::{Broken, Explored, explore};
use super::{Bounds, Chain, Fault};

/// One host, and everything that befalls it alone.
const ALONE: Bounds = Bounds {
    crashes: 2,
    repeats: 2,
    copies: 0,
    rollbacks: 0,
    rotations: 0,
    resolutions: 0,
    enough: 3,
    network: 2,
    memory: 1,
};

/// The same with a controller that forgets.
const RESTORED: Bounds = Bounds {
    crashes: 1,
    repeats: 1,
    rollbacks: 1,
    network: 3,
    ..ALONE
};

/// A new key.
const ROTATED: Bounds = Bounds {
    crashes: 2,
    repeats: 1,
    rotations: 1,
    enough: 2,
    ..ALONE
};

/// Two hosts with one identity, and an operator.
const COPIED: Bounds = Bounds {
    crashes: 0,
    repeats: 1,
    copies: 1,
    resolutions: 1,
    enough: 2,
    ..ALONE
};

/// Two hosts with one identity, and a controller that forgets.
const COPIED_AND_RESTORED: Bounds = Bounds {
    resolutions: 0,
    repeats: 0,
    rollbacks: 1,
    ..COPIED
};

fn search(fault: Fault, bounds: Bounds) -> Result<Explored, Broken> {
    explore(&Chain { fault, bounds })
}

fn holds(name: &str, bounds: Bounds) {
    let seen = search(Fault::None, bounds).unwrap_or_else(|broken| panic!("{name}: {broken:#?}"));
    assert!(seen.states > 500 && seen.goals > 10, "{name}: {seen:?}");
    println!("{name}: {} states, {} steps", seen.states, seen.steps);
}

#[test]
fn a_single_host_goes_on_and_is_never_suspected() {
    holds("alone", ALONE);
}

#[test]
fn a_restored_controller_suspects_nobody() {
    holds("restored", RESTORED);
}

#[test]
fn a_rotation_leaves_one_live_key_whatever_is_lost() {
    holds("rotated", ROTATED);
}

#[test]
fn a_copy_is_found_with_the_first_request_of_the_second_holder_and_can_be_resolved() {
    holds("copied", COPIED);
}

#[test]
fn a_copy_is_found_also_by_a_restored_controller() {
    holds("copied and restored", COPIED_AND_RESTORED);
}

#[test]
fn seeded_faults_of_the_chain_are_found() {
    for (fault, bounds, what) in [
        (Fault::SentBeforeDurable, ALONE, "false alarm"),
        (Fault::RetryIsAnother, ALONE, "false alarm"),
        (Fault::NoStoredReply, ALONE, "false alarm"),
        (Fault::ChainAfterEffect, ALONE, "twice"),
        (Fault::NumbersOnly, COPIED_AND_RESTORED, "nobody noticed"),
        (Fault::AheadForgotten, RESTORED, "false alarm"),
        (Fault::LastAheadOnly, RESTORED, "false alarm"),
        (Fault::KeptByPlaceOnly, COPIED, "twice"),
        (Fault::AckedWhenSent, ALONE, "does not have"),
        (Fault::BehindIsProof, ALONE, "false alarm"),
        (Fault::ResolvedWithoutRotation, COPIED, "twice"),
        (Fault::NextKeyNotDurable, ROTATED, "no good end"),
    ] {
        let broken = search(fault, bounds).expect_err(&format!("{fault:?} is not noticed"));
        assert!(broken.what.contains(what), "{fault:?}: {broken:#?}");
    }
}
