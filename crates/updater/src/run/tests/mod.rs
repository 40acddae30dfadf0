//! Whole updates on a host in a temporary directory.

mod broken;
mod downgrade;
mod grudge;
mod hostile;
mod life;
mod migration;
mod torn;

use std::fs;

use vpn_node_release::handover;

use super::*;
use crate::slots::Link;
use crate::testing::{World, sick};

#[test]
fn a_release_is_installed_and_the_old_version_is_the_previous() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    let outcome = world.run().unwrap();
    let version = Version::new(1, 5, 0);
    assert_eq!(
        outcome,
        Outcome::Installed {
            version,
            remark: None
        }
    );
    world.assert_at_rest();
    assert_eq!(world.stable(), "1.5.0");
    assert_eq!(world.links().previous, Link::To(Slot::System));
    assert!(!world.layout.incoming().join("request.json").exists());
    let text = fs::read(world.layout.status()).unwrap();
    let status: handover::Status = serde_json::from_slice(&text).unwrap();
    assert_eq!(status.stable_version, "1.5.0");
    assert_eq!(status.previous.as_deref(), Some("1.4.0"));
    assert_eq!((status.counter, status.root_version), (1, Some(1)));
    let attempt = status.attempt.unwrap();
    assert_eq!(attempt.phase, handover::Phase::Installed);
    assert_eq!(
        (attempt.from.as_str(), attempt.deployment),
        ("1.4.0", Some(7))
    );
    let history = history::read(&world.layout).unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].event, "installed");
    assert_eq!(world.run().unwrap(), Outcome::Nothing);
}

#[test]
fn a_sick_version_is_sent_away_and_blocked() {
    let mut world = World::new();
    world.judge.ending = sick();
    let before = world.stable();
    world.ask("1.5.0", 1);
    let error = world.run().unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::RolledBack, "crashed"));
    world.assert_at_rest();
    assert_eq!(world.stable(), before);
    let status = status::read(
        &world.layout,
        &crate::disk::Disk::default(),
        &world.config,
        crate::clock::Clock::now(&world.clock),
    );
    assert_eq!(status.blocked[0].version, "1.5.0");
    assert_eq!(
        status.counter, 1,
        "going back never lowers the high-water mark"
    );
    assert_eq!(status.attempt.unwrap().phase, handover::Phase::RolledBack);

    world.ask("1.5.0", 2);
    let error = world.run().unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Refused, "blocked"));
    assert_eq!(world.judge.watched, 1);
}

#[test]
fn root_goes_back_and_forth_between_two_versions() {
    let mut world = World::new();
    assert_eq!(
        world.with(rollback::rollback).unwrap_err().code,
        "no_previous"
    );
    world.ask("1.5.0", 1);
    world.run().unwrap();
    for expected in ["1.4.0", "1.5.0", "1.4.0"] {
        world.with(rollback::rollback).unwrap();
        world.assert_at_rest();
        assert_eq!(world.stable(), expected);
    }
}
