//! What a thief of keys gets: nothing without the threshold of an offline role.

use vpn_node_release::author::{public_key, sign};
use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::TopRole;

use crate::world::{Host, RELEASE, World, key};

const EVIL: &[u8] = b"an evil package";

/// The host has the world's first versions; then the thief has the repository and the online key.
fn robbed() -> (World, Host) {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.add_target(RELEASE, EVIL);
    world.targets.header.version = 2;
    (world, host)
}

/// Whatever else happened, the host believes in no package but the first.
fn only_the_first_release_is_believed(host: &Host) {
    let mut honest = World::new();
    let mut repository = host.open(crate::world::now()).unwrap();
    // The host's newer snapshot makes the honest old timestamp a rollback: nothing is installable.
    if repository.refresh(&mut honest).is_ok() {
        let info = repository.target(&mut honest, RELEASE).unwrap();
        info.check(crate::world::PACKAGE).unwrap();
        info.check(EVIL).unwrap_err();
    }
    let files = host.files();
    assert_eq!(files["targets.json"], honest.files["1.targets.json"]);
}

#[test]
fn all_online_keys_stolen_nothing_is_installable() {
    // Snapshot, timestamp and the mirror are the thief's; he signs targets with what he has.
    for signer in [key(21), key(99)] {
        let (mut world, host) = robbed();
        let bytes = sign(&world.targets, &[&signer]).unwrap().to_bytes();
        world.put("targets", 2, bytes);
        world.publish_online();
        host.refuses_after(
            &mut world,
            MetadataCode::Unsigned,
            &["timestamp.json", "snapshot.json"],
        );
        only_the_first_release_is_believed(&host);
    }
    // Nor with a delegated role of his own, which the offline targets do not delegate to.
    let (mut world, host) = robbed();
    world.targets.targets.clear();
    world.add_target("other/x.tar", EVIL);
    let bytes = sign(&world.targets, &[&key(21)]).unwrap().to_bytes();
    world.put("mine", 2, bytes);
    world.publish_online();
    let rejection = host.target(&mut world, "other/x.tar").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetUnknown);
    // Nor by other bytes at the good address.
    let mut world = World::new();
    let host = world.host();
    for package in world.packages.values_mut() {
        *package = EVIL[..9].to_owned();
    }
    let info = host.target(&mut world, RELEASE).unwrap();
    let rejection = info.download(&mut world, &mut Vec::new()).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetHash);
}

#[test]
fn online_keys_cannot_rotate_themselves_or_others() {
    let (mut world, host) = robbed();
    world.root.header.version = 2;
    let thief = public_key(&key(21));
    for role in TopRole::ALL {
        world.root.set_role(role, std::slice::from_ref(&thief), 1);
    }
    let bytes = sign(&world.root, &[&key(21)]).unwrap().to_bytes();
    world.files.insert("2.root.json".to_owned(), bytes);
    host.refuses(&mut world, MetadataCode::Unsigned);
    only_the_first_release_is_believed(&host);
}

#[test]
fn one_key_of_a_two_of_two_targets_role_signs_nothing() {
    let mut world = World::new();
    let old = world.root_keys.clone();
    world.publish_root(&old);
    let both = [public_key(&key(11)), public_key(&key(12))];
    world.root.set_role(TopRole::Targets, &both, 2);
    world.put_root();
    let whole = sign(&world.targets, &[&key(11), &key(12)]).unwrap();
    world.put("targets", 1, whole.to_bytes());
    world.publish_online();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    // The thief has one targets key, all online keys and the mirror.
    world.add_target(RELEASE, EVIL);
    world.targets.header.version = 2;
    let half = sign(&world.targets, &[&key(11)]).unwrap();
    world.put("targets", 2, half.to_bytes());
    world.publish_online();
    host.refuses_after(
        &mut world,
        MetadataCode::BelowThreshold,
        &["timestamp.json", "snapshot.json"],
    );
    // His own key in the place of the other is no second one.
    let mut two = half;
    two.sign(&key(99)).unwrap();
    world.put("targets", 2, two.to_bytes());
    world.publish_online();
    host.refuses_after(
        &mut world,
        MetadataCode::BelowThreshold,
        &["timestamp.json", "snapshot.json"],
    );
}

#[test]
fn a_revoked_targets_key_signs_nothing_any_more() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let old = world.root_keys.clone();
    world.targets_keys = vec![key(13), key(12)];
    world.publish_root(&old);
    world.add_target(RELEASE, EVIL);
    world.targets.header.version = 2;
    let bytes = sign(&world.targets, &[&key(11)]).unwrap().to_bytes();
    world.put("targets", 2, bytes);
    world.publish_online();
    host.refuses_after(
        &mut world,
        MetadataCode::Unsigned,
        &["root.json", "timestamp.json", "snapshot.json"],
    );
    // What the revoked key signed before is not believed from the cache either.
    world.files.remove("2.targets.json");
    let rejection = host.target(&mut world, RELEASE).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Missing);
}
