//! The chain of roots (5.3): each step needs the old keys, the new keys and the next number.

use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::TopRole;
use vpn_node_release::trust::{MemoryStore, install_root};

use crate::world::{World, days, key, now};

#[test]
fn a_hundred_rotations_are_followed_one_by_one() {
    let mut world = World::new();
    let host = world.host();
    for round in 0..99u8 {
        let old = world.root_keys.clone();
        world.root_keys = vec![key(100 + round % 150), old[0].clone(), old[1].clone()];
        world.publish_root(&old);
    }
    let summary = host.refresh(&mut world).unwrap();
    assert_eq!(summary.versions[&TopRole::Root], 100);
    assert_eq!(world.requests[0], "2.root.json");
    assert_eq!(world.requests[99], "101.root.json");
    assert_eq!(host.high_water().root.version, 100);
    // The host knows the hundredth: the next refresh asks for one only.
    world.requests.clear();
    host.refresh(&mut world).unwrap();
    assert_eq!(world.requests, ["101.root.json", "timestamp.json"]);
}

#[test]
fn a_root_that_only_the_old_keys_signed_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.root_keys = vec![key(4), key(5), key(6)];
    let old = [key(1), key(2)];
    world.publish_root(&old);
    world.resign("2.root.json", &[&old[0], &old[1]], |_| {});
    host.refuses(&mut world, MetadataCode::Unsigned);
}

#[test]
fn a_root_that_only_the_new_keys_signed_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.root_keys = vec![key(4), key(5), key(6)];
    world.publish_root(&[]);
    host.refuses(&mut world, MetadataCode::Unsigned);
}

#[test]
fn one_of_two_needed_root_keys_rotates_nothing() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.root_keys = vec![key(4), key(5), key(6)];
    world.publish_root(&[key(1)]);
    host.refuses(&mut world, MetadataCode::BelowThreshold);
}

#[test]
fn the_address_of_the_next_root_that_serves_a_later_one_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let old = world.root_keys.clone();
    for _ in 0..4 {
        world.publish_root(&old);
    }
    // 2.root.json is version 5, signed by everybody.
    let fifth = world.files["5.root.json"].clone();
    world.files.insert("2.root.json".to_owned(), fifth);
    host.refuses(&mut world, MetadataCode::RootGap);
}

#[test]
fn a_root_chain_with_a_gap_ends_at_the_gap() {
    let mut world = World::new();
    let host = world.host();
    let old = world.root_keys.clone();
    for _ in 0..3 {
        world.publish_root(&old);
    }
    world.files.remove("3.root.json");
    let summary = host.refresh(&mut world).unwrap();
    assert_eq!(summary.versions[&TopRole::Root], 2);
    assert!(!world.requests.contains(&"4.root.json".to_owned()));
}

#[test]
fn an_older_root_at_the_address_of_the_next_is_a_rollback() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let first = world.files["1.root.json"].clone();
    world.files.insert("2.root.json".to_owned(), first);
    host.refuses(&mut world, MetadataCode::Rollback);
}

#[test]
fn a_root_that_was_refused_does_not_stay_on_the_disk() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let old = world.root_keys.clone();
    world.publish_root(&old);
    let good = world.files["2.root.json"].clone();
    world.resign("2.root.json", &[&key(99), &key(98)], |_| {});
    host.refuses(&mut world, MetadataCode::Unsigned);
    // The next refresh begins at the old root again, and the good one is taken.
    world.files.insert("2.root.json".to_owned(), good);
    let summary = host.refresh(&mut world).unwrap();
    assert_eq!(summary.versions[&TopRole::Root], 2);
}

#[test]
fn roots_on_the_way_may_have_expired_the_last_may_not() {
    let mut world = World::new();
    let host = world.host();
    let old = world.root_keys.clone();
    world.root.header.expires = vpn_node_release::metadata::DateTime::new(days(1));
    world.publish_root(&old);
    world.root.header.expires = vpn_node_release::metadata::DateTime::new(days(900));
    world.publish_root(&old);
    // Root 1 ends after a year, root 2 after a day; root 3 is good.
    for header in [
        &mut world.targets.header,
        &mut world.snapshot.header,
        &mut world.timestamp.header,
    ] {
        header.expires = vpn_node_release::metadata::DateTime::new(days(900));
    }
    world.publish();
    assert!(host.refresh_at(&mut world, days(500)).is_ok());

    let mut world = World::new();
    let host = world.host();
    world.root.header.expires = vpn_node_release::metadata::DateTime::new(now());
    world.publish_root(&old);
    let rejection = host.refuses_after(&mut world, MetadataCode::Expired, &["root.json"]);
    assert!(rejection.what.contains("root"), "{rejection}");
}

#[test]
fn a_first_root_that_its_own_keys_did_not_sign_is_not_installed() {
    let mut world = World::new();
    world.resign("1.root.json", &[&key(1)], |_| {});
    let mut store = MemoryStore::default();
    let rejection = install_root(&mut store, &world.files["1.root.json"], false).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::BelowThreshold);
    assert_eq!(store, MemoryStore::default());
}

#[test]
fn a_root_without_keys_for_a_role_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let old = world.root_keys.clone();
    world.publish_root(&old);
    world.resign("2.root.json", &[&key(1), &key(2)], |root| {
        root["roles"].as_object_mut().unwrap().remove("snapshot");
    });
    host.refuses(&mut world, MetadataCode::Malformed);
}
