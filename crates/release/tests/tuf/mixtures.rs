//! A mirror that answers every question with any file it has ever seen, in any state.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;
use vpn_node_release::trust::{HighWater, MemoryStore, Repository, Store as _, install_root};

use crate::world::{RELEASE, World, key, now};

/// Six eras of one repository, the content of its release another in each; the root is rotated
/// twice, the online key never (its rotation is what may lower versions).
fn eras() -> Vec<BTreeMap<String, Vec<u8>>> {
    let mut world = World::new();
    let mut eras = vec![world.files.clone()];
    for era in 1..6u8 {
        if era % 2 == 0 {
            let old = world.root_keys.clone();
            world.root_keys.rotate_left(1);
            world.root_keys[2] = key(40 + era);
            world.publish_root(&old);
        }
        world.add_target(RELEASE, format!("package {era}").as_bytes());
        world.publish();
        eras.push(world.files.clone());
    }
    eras
}

fn versions(high: &HighWater) -> [u64; 4] {
    [
        high.root.version,
        high.timestamp.as_ref().map_or(0, |mark| mark.mark.version),
        high.snapshot.as_ref().map_or(0, |mark| mark.mark.version),
        high.targets.get("targets").map_or(0, |mark| mark.version),
    ]
}

#[test]
fn a_changed_byte_anywhere_is_refused_or_changes_nothing() {
    let good = World::new();
    let mut store = MemoryStore::default();
    install_root(&mut store, &good.files["1.root.json"], false).unwrap();
    let mut refused = 0;
    let mut world = World::new();
    for (file, bytes) in &good.files {
        for at in (0..bytes.len()).step_by(5) {
            world.files.clone_from(&good.files);
            let changed = world.files.get_mut(file).unwrap();
            changed[at] = changed[at].wrapping_add(1 + u8::try_from(at % 250).unwrap());
            let mut repository = Repository::open(store.clone(), now()).unwrap();
            if repository.refresh(&mut world).is_err() {
                refused += 1;
                continue;
            }
            let info = repository.target(&mut world, RELEASE).unwrap();
            info.check(crate::world::PACKAGE).unwrap();
            assert_eq!(repository.targets(), Some(&good.targets));
        }
    }
    assert!(refused > 100, "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_mirror_mixes_versions_never_go_back_and_never_disagree(
        steps in prop::collection::vec(
            (any::<Index>(), prop::collection::vec((any::<Index>(), any::<Index>()), 0..3)),
            1..8,
        ),
    ) {
        let eras = eras();
        let every: Vec<&Vec<u8>> = eras.iter().flat_map(BTreeMap::values).collect();
        let mut store = MemoryStore::default();
        install_root(&mut store, &eras[0]["1.root.json"], false).unwrap();
        let mut before = [0; 4];
        for (era, swaps) in steps {
            let mut world = World::new();
            world.files = era.get(&eras).clone();
            let names: Vec<String> = world.files.keys().cloned().collect();
            for (name, bytes) in &swaps {
                world.files.insert(name.get(&names).clone(), (*bytes.get(&every)).clone());
            }
            let mut repository = Repository::open(&mut store, now()).unwrap();
            let done = repository.refresh(&mut world);
            if done.is_ok() {
                // All of one era: what the snapshot lists is what is there, and it is the release
                // that the targets key signed with that version.
                let high = repository.high_water();
                let listed = high.snapshot.as_ref().unwrap().listed["targets.json"];
                prop_assert_eq!(listed, high.targets["targets"].version);
                let info = repository.target(&mut world, RELEASE).unwrap();
                let content = match listed {
                    1 => "a package".to_owned(),
                    version => format!("package {}", version - 1),
                };
                prop_assert!(info.check(content.as_bytes()).is_ok());
            }
            drop(repository);
            let after = versions(&store.high_water().unwrap().unwrap().value);
            prop_assert!(
                after.iter().zip(before).all(|(after, before)| *after >= before),
                "{:?} came after {:?}", after, before
            );
            before = after;
        }
    }
}
