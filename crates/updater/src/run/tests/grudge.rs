//! An agent's user who wants no updates any more, and no traces: what he leaves in his own
//! directory must not stand in root's way for ever, nor push root's decisions out of the history.

use vpn_node_release::release::StateFormat;

use std::time::Duration;

use super::*;
use crate::recovery::apply::to_rest;
use crate::{layout::Layout, snapshot};

/// A release whose state the running version cannot read.
fn migrating(world: &mut World) {
    world.repository.add(&Version::new(2, 0, 0), |info| {
        info.state_format = StateFormat {
            reads_min: 1,
            reads_max: 2,
            writes: 2,
        };
    });
}

/// A directory that `rmdir` does not take.
fn obstacle(path: &std::path::Path) {
    let _ = fs::remove_file(path);
    fs::create_dir(path).unwrap();
    let mut dir = fs::File::open(path).unwrap();
    for _ in 0..3 {
        nix::sys::stat::mkdirat(&dir, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
        let flags = nix::fcntl::OFlag::O_DIRECTORY;
        let below = nix::fcntl::openat(&dir, "d", flags, nix::sys::stat::Mode::empty());
        dir = below.unwrap().into();
    }
}

#[test]
fn a_directory_in_the_place_of_the_permission_bars_no_update() {
    let mut world = World::new();
    migrating(&mut world);
    obstacle(&world.layout.migration_permitted());
    obstacle(&world.layout.agent_state().join(".migration-permitted.new"));
    world.ask("2.0.0", 1);
    let first = world.run();
    // Whatever became of that one, root's way is free.
    world.with(to_rest).unwrap();
    assert_eq!(snapshot::open(&world.layout), None);
    first.unwrap();
    assert_eq!(world.stable(), "2.0.0");
    world.assert_at_rest();
}

#[test]
fn directories_in_the_place_of_the_state_stop_no_way_back() {
    let mut world = World::new();
    migrating(&mut world);
    let state = world.layout.agent_state();
    fs::write(state.join("sessions.json"), "old").unwrap();
    world.judge.ending = sick();
    world.judge.meanwhile = Some(Box::new(|layout: &Layout| {
        let state = layout.agent_state();
        obstacle(&state.join("sessions.json"));
        obstacle(&state.join(".sessions.json.new"));
        obstacle(&layout.migration_permitted());
    }));
    world.ask("2.0.0", 1);
    assert_eq!(world.run().unwrap_err().code, "crashed");
    world.assert_at_rest();
    assert_eq!(world.stable(), "1.4.0");
    let text = fs::read_to_string(state.join("sessions.json")).unwrap();
    assert_eq!(text, "old");
    world.ask("2.0.0", 2);
    assert_eq!(world.run().unwrap_err().code, "blocked");
}

#[test]
fn a_request_of_any_size_leaves_a_short_line_of_history() {
    let mut world = World::new();
    for n in 0..2 {
        world.ask("1.5.0", n);
        let path = world.layout.incoming().join("request.json");
        let text = fs::read_to_string(&path).unwrap();
        // Each of them is shown as five.
        let long = "\\u007f".repeat(9_000);
        let text = text.replace("vpn-node/1.5.0", &long);
        fs::write(&path, text).unwrap();
        assert_eq!(world.run().unwrap_err().code, "request_invalid");
    }
    let length = fs::metadata(world.layout.history()).unwrap().len();
    assert!(length < 4096, "{length} bytes");
}

#[test]
fn metadata_of_any_size_leaves_a_short_line_and_a_readable_journal() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    let key = "\\u007f".repeat(80_000);
    let signature = format!(r#"{{"keyid":"{key}","sig":"00"}}"#);
    let root = format!(
        r#"{{"signatures":[{signature}],"signed":{{"_type":"root","spec_version":"{key}"}}}}"#
    );
    fs::write(world.layout.incoming().join("metadata/2.root.json"), root).unwrap();
    let error = world.run().unwrap_err();
    let length = fs::metadata(world.layout.history()).unwrap().len();
    assert!(length < 4096, "{length} bytes of {}", error.code);
    assert!(world.journal().is_some());
}

#[test]
fn an_id_that_is_used_again_hides_no_ending_and_no_block() {
    let mut world = World::new();
    world.judge.ending = sick();
    for id in [1, 2, 1] {
        world.ask("1.5.0", id);
        assert_eq!(world.run().unwrap_err().code, "crashed");
        // The block has ended.
        world.clock.sleep(Duration::from_secs(3 * 24 * 3600));
    }
    assert_eq!(history::read(&world.layout).unwrap().len(), 3);
    let hold = crate::hold::Hold::read(&world.layout).unwrap();
    assert_eq!(hold.blocked[0].count, 3);
}
