//! Metadata that is good but of another time: rollback, freeze, mix and match, the same version
//! with other bytes, jumps forward, a clock that is wrong.

use vpn_node_release::author::sign;
use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::{DateTime, TopRole};

use crate::world::{RELEASE, World, days, key, now};

const ABOVE_SNAPSHOT: [&str; 1] = ["timestamp.json"];
const ABOVE_TARGETS: [&str; 2] = ["timestamp.json", "snapshot.json"];

/// A host that has seen version 5 of targets, snapshot and timestamp.
fn at_five() -> (World, crate::world::Host) {
    let mut world = World::new();
    for _ in 0..4 {
        world.publish();
    }
    let host = world.host();
    host.refresh(&mut world).unwrap();
    (world, host)
}

#[test]
fn an_older_timestamp_is_refused_and_not_kept() {
    let (mut world, host) = at_five();
    world.timestamp.header.version = 4;
    world.put_timestamp();
    host.refuses(&mut world, MetadataCode::Rollback);
}

#[test]
fn a_newer_timestamp_that_names_an_older_snapshot_is_refused() {
    let (mut world, host) = at_five();
    world.snapshot.header.version = 4;
    world.put_snapshot();
    world.timestamp.header.version = 6;
    world.put_timestamp();
    host.refuses(&mut world, MetadataCode::Rollback);
}

#[test]
fn a_newer_snapshot_that_lists_older_targets_is_refused() {
    let (mut world, host) = at_five();
    world.targets.header.version = 4;
    world.put_targets();
    world.publish_online();
    host.refuses_after(&mut world, MetadataCode::Rollback, &ABOVE_SNAPSHOT);
}

#[test]
fn an_older_timestamp_is_refused_even_if_the_cached_one_is_torn_or_gone() {
    for torn in [None, Some(&b""[..]), Some(b"{\"signatures\": [")] {
        let (mut world, host) = at_five();
        match torn {
            None => std::fs::remove_file(host.path("timestamp.json")).unwrap(),
            Some(bytes) => std::fs::write(host.path("timestamp.json"), bytes).unwrap(),
        }
        world.timestamp.header.version = 4;
        world.put_timestamp();
        host.refuses(&mut world, MetadataCode::Rollback);
        // And the right one mends the cache.
        world.timestamp.header.version = 5;
        world.put_timestamp();
        host.refresh(&mut world).unwrap();
        assert_eq!(
            host.files()["timestamp.json"],
            world.files["timestamp.json"]
        );
    }
}

#[test]
fn targets_metadata_that_is_gone_from_the_snapshot_is_refused() {
    let mut world = World::new();
    let role = vpn_node_release::metadata::Targets::new(1, now(), days(90));
    world.put_delegated("project", &role, &key(31));
    world.publish_online();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.snapshot.meta.remove("project.json");
    world.publish_online();
    host.refuses_after(&mut world, MetadataCode::RoleRemoved, &ABOVE_SNAPSHOT);
}

#[test]
fn the_same_version_of_a_timestamp_with_other_content_is_not_taken() {
    let (mut world, host) = at_five();
    let before = host.files();
    world.timestamp.header.expires = DateTime::new(days(900));
    world.put_timestamp();
    // 5.4.3.1: the same version is nothing new, and no error. It is said, and not believed.
    let summary = host.refresh(&mut world).unwrap();
    assert_eq!(summary.expires[&TopRole::Timestamp], DateTime::new(days(7)));
    assert!(summary.warnings[0].contains("other content"));
    assert_eq!(host.files(), before);
    // Without the cached one there is nothing to go on with: refused.
    std::fs::remove_file(host.path("timestamp.json")).unwrap();
    host.refuses(&mut world, MetadataCode::SameVersionChanged);
}

#[test]
fn the_same_version_of_a_snapshot_with_other_content_is_refused() {
    let (mut world, host) = at_five();
    world.snapshot.header.expires = DateTime::new(days(900));
    world.put_snapshot();
    world.timestamp.header.version += 1;
    world.put_timestamp();
    host.refuses_after(
        &mut world,
        MetadataCode::SameVersionChanged,
        &ABOVE_SNAPSHOT,
    );
}

#[test]
fn the_same_version_of_targets_with_other_content_is_refused() {
    let (mut world, host) = at_five();
    world.add_target(RELEASE, b"another package");
    world.put_targets();
    world.publish_online();
    host.refuses_after(&mut world, MetadataCode::SameVersionChanged, &ABOVE_TARGETS);
}

#[test]
fn the_same_content_with_one_more_signature_is_the_same_version() {
    let (mut world, host) = at_five();
    let both = [&world.targets_keys[0], &world.targets_keys[1]];
    let bytes = sign(&world.targets, &both).unwrap().to_bytes();
    world.put("targets", 5, bytes);
    world.publish_online();
    host.refresh(&mut world).unwrap();
    assert_eq!(host.files()["targets.json"], world.files["5.targets.json"]);
}

#[test]
fn an_expired_timestamp_snapshot_or_targets_is_refused() {
    for (role, kept) in [
        ("timestamp", &[][..]),
        ("snapshot", &ABOVE_SNAPSHOT),
        ("targets", &ABOVE_TARGETS),
    ] {
        let (mut world, host) = at_five();
        let header = match role {
            "timestamp" => &mut world.timestamp.header,
            "snapshot" => &mut world.snapshot.header,
            _ => &mut world.targets.header,
        };
        header.expires = DateTime::new(now());
        world.publish();
        let rejection = host.refuses_after(&mut world, MetadataCode::Expired, kept);
        assert!(rejection.what.contains(role), "{rejection}");
    }
}

#[test]
fn a_repository_that_is_frozen_is_noticed_when_its_metadata_expires() {
    let (mut world, host) = at_five();
    let summary = host.refresh_at(&mut world, days(6)).unwrap();
    // Dropped requests look the same as no news: how old the news is, is reported.
    assert_eq!(summary.issued, Some(DateTime::new(now())));
    assert_eq!(summary.expires[&TopRole::Timestamp], DateTime::new(days(7)));
    let before = host.files();
    let rejection = host.refresh_at(&mut world, days(7)).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Expired);
    assert!(rejection.sentence.contains("withholds"), "{rejection}");
    assert_eq!(host.files(), before);
}

#[test]
fn files_of_two_eras_are_not_mixed() {
    // At every address the file of another era, signed and in date.
    for (role, kept) in [
        ("snapshot", &ABOVE_SNAPSHOT[..]),
        ("targets", &ABOVE_TARGETS),
    ] {
        let (mut world, host) = at_five();
        world.publish();
        let bytes = world.files[&format!("5.{role}.json")].clone();
        world.files.insert(format!("6.{role}.json"), bytes);
        host.refuses_after(&mut world, MetadataCode::HashMismatch, kept);
    }
}

#[test]
fn without_hashes_the_version_must_be_the_one_that_is_named() {
    for (role, kept) in [
        ("snapshot", &ABOVE_SNAPSHOT[..]),
        ("targets", &ABOVE_TARGETS),
    ] {
        let (mut world, host) = at_five();
        world.publish();
        let strip = |meta: &mut vpn_node_release::metadata::MetaFile| {
            meta.hashes = None;
            meta.length = None;
        };
        world.snapshot.meta.values_mut().for_each(strip);
        world.put_snapshot();
        world.timestamp.meta.values_mut().for_each(strip);
        world.put_timestamp();
        let bytes = world.files[&format!("5.{role}.json")].clone();
        world.files.insert(format!("6.{role}.json"), bytes);
        host.refuses_after(&mut world, MetadataCode::VersionMismatch, kept);
    }
}

#[test]
fn a_bundle_with_a_file_missing_is_refused() {
    for (file, kept) in [
        ("timestamp.json", &[][..]),
        ("6.snapshot.json", &ABOVE_SNAPSHOT),
        ("6.targets.json", &ABOVE_TARGETS),
    ] {
        let (mut world, host) = at_five();
        world.publish();
        world.files.remove(file).unwrap();
        let rejection = host.refuses_after(&mut world, MetadataCode::Missing, kept);
        assert!(!rejection.is_outage());
    }
}

#[test]
fn a_jump_forward_is_healed_by_new_online_keys_and_by_nothing_else() {
    // The thief of the online key makes all versions jump.
    let (mut world, host) = at_five();
    let honest = world.snapshot.clone();
    world.snapshot.header.version = 1_000_000;
    world.put_snapshot();
    world.timestamp.header.version = 2_000_000;
    world.put_timestamp();
    host.refresh(&mut world).unwrap();
    // The honest next versions are refused from now on.
    world.snapshot = honest;
    world.timestamp.header.version = 5;
    world.publish();
    host.refuses(&mut world, MetadataCode::Rollback);
    // A root that keeps the keys does not help.
    let old = world.root_keys.clone();
    world.publish_root(&old);
    host.refuses_after(&mut world, MetadataCode::Rollback, &["root.json"]);
    // A root that rotates them does (5.3.11).
    world.online = key(22);
    world.publish_root(&old);
    world.put_snapshot();
    world.put_timestamp();
    let summary = host.refresh(&mut world).unwrap();
    assert_eq!(summary.versions[&TopRole::Snapshot], 6);
    assert_eq!(summary.versions[&TopRole::Timestamp], 6);
}

#[test]
fn a_rotation_that_was_rotated_back_while_the_host_was_away_counts() {
    let (mut world, host) = at_five();
    let old = world.root_keys.clone();
    let online = world.online.clone();
    world.online = key(22);
    world.publish_root(&old);
    world.online = online;
    world.publish_root(&old);
    world.timestamp.header.version = 1;
    world.put_timestamp();
    let summary = host.refresh(&mut world).unwrap();
    assert_eq!(summary.versions[&TopRole::Timestamp], 1);
}

#[test]
fn a_new_targets_key_lowers_no_version() {
    let (mut world, host) = at_five();
    let old = world.root_keys.clone();
    world.targets_keys = vec![key(13), key(14)];
    world.publish_root(&old);
    world.targets.header.version = 4;
    world.put_targets();
    world.publish_online();
    host.refuses_after(
        &mut world,
        MetadataCode::Rollback,
        &["root.json", "timestamp.json"],
    );
}

#[test]
fn a_clock_in_2099_locks_nobody_out() {
    let (mut world, host) = at_five();
    let before = host.files();
    let far = "2099-01-01T00:00:00Z".parse().unwrap();
    let rejection = host.refresh_at(&mut world, far).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Expired);
    assert_eq!(host.files(), before, "a bad reading leaves nothing behind");
    host.refresh(&mut world).unwrap();
}

#[test]
fn a_clock_in_1970_does_not_make_expired_metadata_fresh() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    // A release of day 100 was seen; everything else has expired by then.
    world.targets.header.issued = Some(DateTime::new(days(100)));
    world.targets.header.expires = DateTime::new(days(200));
    world.publish();
    host.refresh(&mut world).unwrap();
    let epoch = jiff::Timestamp::UNIX_EPOCH;
    let rejection = host.refresh_at(&mut world, epoch).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Expired);
    // The build date and the controller's time do the same before anything was verified.
    let fresh = World::new().host();
    let late = vpn_node_release::trust::not_before(epoch, &[days(8), now()]);
    assert_eq!(late, days(8));
    let rejection = fresh.refresh_at(&mut world, late).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Expired);
}

#[test]
fn a_thief_who_says_that_it_is_2099_is_healed_by_a_rotation() {
    let (mut world, host) = at_five();
    world.timestamp.header.issued = Some(DateTime::new("2099-01-01T00:00:00Z".parse().unwrap()));
    world.timestamp.header.expires = DateTime::new("2099-02-01T00:00:00Z".parse().unwrap());
    world.timestamp.header.version = 6;
    world.put_timestamp();
    host.refresh(&mut world).unwrap();
    host.refuses(&mut world, MetadataCode::Expired);
    let old = world.root_keys.clone();
    world.online = key(22);
    world.publish_root(&old);
    world.timestamp.header.issued = Some(DateTime::new(now()));
    world.timestamp.header.expires = DateTime::new(days(7));
    world.publish();
    host.refresh(&mut world).unwrap();
}

#[test]
fn metadata_that_expires_before_it_was_issued_is_refused() {
    let (mut world, host) = at_five();
    world.timestamp.header.issued = Some(DateTime::new(days(8)));
    world.timestamp.header.version = 6;
    world.put_timestamp();
    host.refuses(&mut world, MetadataCode::Malformed);
}
