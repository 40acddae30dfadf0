//! Data without end, too long, too deep, too many.

use serde_json::json;
use vpn_node_release::code::MetadataCode;
use vpn_node_release::limits;
use vpn_node_release::metadata::{MetaFile, Targets};

use crate::world::{RELEASE, World, days, key, now};

#[test]
fn metadata_without_end_is_refused_at_its_limit() {
    for (file, kept) in [
        ("2.root.json", &[][..]),
        ("timestamp.json", &[]),
        ("2.snapshot.json", &["timestamp.json"]),
        ("2.targets.json", &["timestamp.json", "snapshot.json"]),
    ] {
        let mut world = World::new();
        let host = world.host();
        host.refresh(&mut world).unwrap();
        world.publish();
        world.endless.push(file.to_owned());
        host.refuses_after(&mut world, MetadataCode::TooLarge, kept);
    }
}

#[test]
fn metadata_that_is_longer_than_was_signed_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.publish();
    world.files.get_mut("2.targets.json").unwrap().push(b' ');
    host.refuses_after(
        &mut world,
        MetadataCode::TooLarge,
        &["timestamp.json", "snapshot.json"],
    );
}

#[test]
fn a_signed_length_does_not_raise_the_limit() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.publish();
    let entry = MetaFile {
        length: Some(u64::MAX),
        hashes: None,
        ..MetaFile::of(3, b"")
    };
    world.snapshot.meta.insert("targets.json".to_owned(), entry);
    world.endless.push("3.targets.json".to_owned());
    world.publish_online();
    host.refuses_after(
        &mut world,
        MetadataCode::TooLarge,
        &["timestamp.json", "snapshot.json"],
    );
}

#[test]
fn nesting_without_end_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let deep = format!("{}{}", "[".repeat(7000), "]".repeat(7000));
    world
        .files
        .insert("timestamp.json".to_owned(), deep.into_bytes());
    host.refuses(&mut world, MetadataCode::Malformed);
}

#[test]
fn a_snapshot_that_would_fill_the_memory_of_the_host_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let many = (0..limits::MAX_SNAPSHOT_ENTRIES).map(|number| format!("r{number}.json"));
    let long = format!("{}.json", "x".repeat(limits::MAX_ROLE_NAME_BYTES + 1));
    for names in [many.collect(), vec![long]] {
        world.publish_online();
        let file = format!("{}.snapshot.json", world.snapshot.header.version);
        world.resign(&file, &[&key(21)], |snapshot| {
            for name in names {
                snapshot["meta"][name] = json!({"version": 1});
            }
        });
        let bytes = world.files[&file].clone();
        world.put_snapshot_bytes(bytes);
        world.put_timestamp();
        host.refuses_after(&mut world, MetadataCode::Malformed, &["timestamp.json"]);
    }
}

#[test]
fn the_largest_snapshot_that_is_taken_can_be_remembered() {
    let mut world = World::new();
    // Control characters take six bytes each in the high-water file.
    let name = "\u{1}".repeat(limits::MAX_ROLE_NAME_BYTES - 4);
    for number in 1..limits::MAX_SNAPSHOT_ENTRIES {
        let entry = MetaFile {
            length: None,
            hashes: None,
            ..MetaFile::of(1, b"")
        };
        let file = format!("{name}{number:04}.json");
        world.snapshot.meta.insert(file, entry);
    }
    world.publish_online();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    host.refresh(&mut world).unwrap();
    assert!((host.files()["highwater.a"].len() as u64) < limits::MAX_HIGH_WATER_BYTES / 2);
}

#[test]
fn more_delegations_than_are_searched_find_nothing() {
    let mut world = World::new();
    let empty = Targets::new(1, now(), days(90));
    for number in 0..=limits::MAX_DELEGATIONS_VISITED {
        let name = format!("role{number}");
        world.delegate(&name, &key(31), &["many/*"], false);
        world.put_delegated(&name, &empty, &key(31));
    }
    world.publish();
    let host = world.host();
    let rejection = host.target(&mut world, "many/x").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetUnknown);
    let asked = world.requests.iter().filter(|name| name.contains("role"));
    assert_eq!(asked.count(), limits::MAX_DELEGATIONS_VISITED);
}

#[test]
fn a_key_list_without_end_is_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let old = world.root_keys.clone();
    world.publish_root(&old);
    world.resign("2.root.json", &[&key(1), &key(2)], |root| {
        let some = root["keys"].as_object().unwrap().values().next().unwrap();
        let some = some.clone();
        for number in 0..limits::MAX_KEYS {
            root["keys"][format!("k{number}")] = some.clone();
        }
        root["x"] = json!(1);
    });
    host.refuses(&mut world, MetadataCode::Malformed);
}

#[test]
fn a_package_without_end_is_refused_after_its_signed_length() {
    let mut world = World::new();
    let host = world.host();
    let info = host.target(&mut world, RELEASE).unwrap();
    world.endless.push(info.url_path());
    let mut taken = Vec::new();
    let rejection = info.download(&mut world, &mut taken).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetLength);
    assert!(taken.len() as u64 <= info.length, "{}", taken.len());
}
