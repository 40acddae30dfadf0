//! State that a new version migrates, and the way back behind that.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::snapshot;
use vpn_node_release::release::StateFormat;

/// A release that reads formats 1 and 2 and writes 2.
fn migrating() -> StateFormat {
    StateFormat {
        reads_min: 1,
        reads_max: 2,
        writes: 2,
    }
}

#[test]
fn a_version_that_migrates_and_fails_gives_the_state_back() {
    let mut world = World::new();
    let state = world.layout.agent_state();
    fs::write(state.join("state-format"), "1\n").unwrap();
    fs::write(state.join("sessions.json"), "old").unwrap();
    fs::write(state.join("chain.slots"), "lane 7").unwrap();
    world.repository.add(&Version::new(2, 0, 0), |info| {
        info.state_format = migrating()
    });
    let permitted = Rc::new(Cell::new(false));
    let seen = permitted.clone();
    world.judge.ending = sick();
    world.judge.meanwhile = Some(Box::new(move |layout| {
        let text = fs::read_to_string(layout.migration_permitted()).unwrap();
        seen.set(text == "2.0.0\n");
        let state = layout.agent_state();
        fs::write(state.join("state-format"), "2\n").unwrap();
        fs::write(state.join("sessions.json"), "new").unwrap();
        fs::write(state.join("chain.slots"), "lane 8").unwrap();
    }));
    world.ask("2.0.0", 1);
    world.run().unwrap_err();
    world.assert_at_rest();
    assert_eq!(world.judge.migrates, [true]);
    let stops = world.processes.borrow().stops;
    assert_eq!(stops, 2, "to keep the state, and to put it back");
    assert!(permitted.get());
    let text = |name: &str| fs::read_to_string(state.join(name)).unwrap();
    assert_eq!(text("state-format"), "1\n");
    assert_eq!(text("sessions.json"), "old");
    assert_eq!(text("chain.slots"), "lane 8", "the lane never goes back");
    assert!(!world.layout.migration_permitted().exists());
    assert_eq!(snapshot::open(&world.layout), None);
}

#[test]
fn a_state_that_cannot_be_kept_is_not_migrated_and_the_old_agent_runs_on() {
    let mut world = World::new();
    fs::write(world.layout.agent_state().join("sessions.json"), "old").unwrap();
    // Which shows when the agent has been stopped for it.
    fs::write(world.layout.snapshots(), "no directory").unwrap();
    world.repository.add(&Version::new(2, 0, 0), |info| {
        info.state_format = migrating()
    });
    world.ask("2.0.0", 1);
    world.run().unwrap_err();
    assert!(world.processes.borrow().stops > 0);
    assert_eq!(world.judge.watched, 0);
    world.assert_at_rest();
    assert_eq!(snapshot::open(&world.layout), None);
    assert!(!world.layout.migration_permitted().exists());
}

#[test]
fn a_state_that_is_too_large_to_be_kept_is_refused_before_the_agent_is_stopped() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        let file = fs::File::create(world.layout.agent_state().join(name)).unwrap();
        file.set_len(60 << 20).unwrap();
    }
    world.repository.add(&Version::new(2, 0, 0), |info| {
        info.state_format = migrating()
    });
    world.ask("2.0.0", 1);
    let planned = world.with(|host| crate::plan::plan(host, None, None));
    let planned = planned.unwrap().unwrap();
    assert_eq!(planned.problems[0].code, "snapshot_failed");
    let error = world.run().unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Failed, "snapshot_failed"));
    assert_eq!(world.processes.borrow().stops, 0);
    world.assert_at_rest();
}

#[test]
fn a_migration_that_makes_a_directory_of_a_file_is_taken_back_too() {
    let mut world = World::new();
    let state = world.layout.agent_state();
    fs::write(state.join("sessions.json"), "old").unwrap();
    world.repository.add(&Version::new(2, 0, 0), |info| {
        info.state_format = migrating()
    });
    world.judge.ending = sick();
    world.judge.meanwhile = Some(Box::new(|layout| {
        let path = layout.agent_state().join("sessions.json");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("1"), "new").unwrap();
        fs::remove_file(layout.migration_permitted()).unwrap();
        fs::create_dir(layout.migration_permitted()).unwrap();
    }));
    world.ask("2.0.0", 1);
    world.run().unwrap_err();
    world.assert_at_rest();
    let text = fs::read_to_string(state.join("sessions.json")).unwrap();
    assert_eq!(text, "old");
    assert_eq!(snapshot::open(&world.layout), None);
}

#[test]
fn a_rollback_behind_a_migration_gives_the_state_of_then() {
    let mut world = World::new();
    let state = world.layout.agent_state();
    fs::write(state.join("sessions.json"), "old").unwrap();
    world.repository.add(&Version::new(2, 0, 0), |info| {
        info.state_format = migrating()
    });
    world.judge.meanwhile = Some(Box::new(|layout| {
        fs::write(layout.state_format(), "2\n").unwrap();
        fs::write(layout.agent_state().join("sessions.json"), "new").unwrap();
    }));
    world.ask("2.0.0", 1);
    world.run().unwrap();
    assert!(snapshot::is_kept(&world.layout, &Version::new(2, 0, 0)));
    world.with(rollback::rollback).unwrap();
    world.assert_at_rest();
    assert_eq!(world.stable(), "1.4.0");
    assert_eq!(
        fs::read_to_string(state.join("sessions.json")).unwrap(),
        "old"
    );
    // The way forward again is through another snapshot.
    assert!(!snapshot::is_kept(&world.layout, &Version::new(2, 0, 0)));
}
