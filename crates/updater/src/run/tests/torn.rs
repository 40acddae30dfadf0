//! What `cargo xtask torture update` found: damage to the slots themselves, and what is left over.

use std::fs;

use vpn_node_release::bundle::TREE_MARK;

use super::*;

#[test]
fn a_slot_whose_mark_is_torn_is_no_slot_and_the_one_before_runs() {
    for damage in [&b""[..], &[0; 65], b"0123456789abcdef", &[b'0'; 200]] {
        let mut world = World::new();
        world.ask("1.5.0", 1);
        world.run().unwrap();
        assert_eq!(world.stable(), "1.5.0");
        let slot = world.layout.version(&Version::new(1, 5, 0));
        fs::write(slot.join(TREE_MARK), damage).unwrap();
        world.reboot();
        assert_eq!(world.stable(), "1.4.0", "{damage:?}");
        world.assert_at_rest();
        // Asked for again it is unpacked again.
        world.ask("1.5.0", 2);
        world.run().unwrap();
        assert_eq!(world.stable(), "1.5.0");
    }
}

#[test]
fn what_was_damaged_during_its_trial_does_not_become_stable() {
    for damaged in ["bin/vpn-node-agent", TREE_MARK] {
        let mut world = World::new();
        world.judge.meanwhile = Some(Box::new(move |layout| {
            let file = layout.version(&Version::new(1, 5, 0)).join(damaged);
            let mut bytes = fs::read(&file).unwrap();
            bytes[7] ^= 1;
            fs::write(file, bytes).unwrap();
        }));
        world.ask("1.5.0", 1);
        let error = world.run().unwrap_err();
        assert_eq!(error.code, "installation_gone", "{error}");
        assert_eq!(world.stable(), "1.4.0");
        world.assert_at_rest();
    }
}

#[test]
fn pruning_leaves_nothing_behind() {
    let mut world = World::new();
    world.config.keep = 0;
    world.repository.add(&Version::new(1, 6, 0), |_| ());
    world.repository.add(&Version::new(1, 7, 0), |_| ());
    for (version, id) in [("1.5.0", 1), ("1.6.0", 2), ("1.7.0", 3)] {
        world.ask(version, id);
        world.run().unwrap();
        assert_eq!(world.stable(), version);
        world.assert_at_rest();
    }
    assert!(!world.layout.version(&Version::new(1, 5, 0)).exists());
}
