//! The search through delegated roles (5.6.7), and names that want to be paths.

use sha2::{Digest as _, Sha256};
use vpn_node_release::author::public_key;
use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::{Delegations, Hashes, TargetFile, Targets, hex};

use crate::world::{World, days, delegated, key, now};

/// Targets metadata that knows one path.
fn knows(path: &str, content: &[u8]) -> Targets {
    let mut targets = Targets::new(1, now(), days(90));
    let file = TargetFile {
        length: content.len() as u64,
        hashes: Hashes::sha256_of(content),
        custom: None,
        extra: Default::default(),
    };
    targets.targets.insert(path.to_owned(), file);
    targets
}

/// `from` delegates to `(role, its key, paths, terminating)`.
fn delegates(from: &mut Targets, roles: &[(&str, u8, &[&str], bool)]) {
    let delegations = from.delegations.get_or_insert_with(Delegations::default);
    for (name, seed, paths, terminating) in roles {
        let key = public_key(&key(*seed));
        delegations.keys.insert(key.id(), key.clone());
        delegations
            .roles
            .push(delegated(name, &key, paths, *terminating));
    }
}

fn asked(world: &World) -> Vec<&str> {
    let delegated = |name: &&str| name.starts_with("1.") && name.len() == "1.a.json".len();
    let names = world.requests.iter().map(String::as_str);
    names.filter(delegated).map(|name| &name[2..3]).collect()
}

#[test]
fn delegations_are_searched_in_pre_order_and_the_first_that_knows_wins() {
    let mut world = World::new();
    delegates(
        &mut world.targets,
        &[
            ("a", 31, &["x/*"], false),
            ("b", 32, &["x/*"], false),
            ("e", 35, &["x/*"], false),
        ],
    );
    let mut a = Targets::new(1, now(), days(90));
    delegates(
        &mut a,
        &[("c", 33, &["x/*"], false), ("d", 34, &["*"], false)],
    );
    world.put_delegated("a", &a, &key(31));
    world.put_delegated("b", &knows("x/1", b"from b"), &key(32));
    world.put_delegated("c", &knows("x/2", b"from c"), &key(33));
    world.put_delegated("e", &knows("x/1", b"from e"), &key(35));
    world.publish();
    let host = world.host();
    let info = host.target(&mut world, "x/1").unwrap();
    assert_eq!(info.role, "b");
    info.check(&b"from b"[..]).unwrap();
    assert_eq!(asked(&world), ["a", "c", "b"]);
}

#[test]
fn a_terminating_delegation_is_the_last_that_is_asked() {
    let mut world = World::new();
    delegates(
        &mut world.targets,
        &[("a", 31, &["x/*"], true), ("b", 32, &["x/*"], false)],
    );
    let mut a = Targets::new(1, now(), days(90));
    delegates(&mut a, &[("c", 33, &["x/*"], false)]);
    world.put_delegated("a", &a, &key(31));
    world.put_delegated("b", &knows("x/1", b"from b"), &key(32));
    world.put_delegated("c", &knows("x/2", b"from c"), &key(33));
    world.publish();
    let host = world.host();
    // b knows it, but a was the last who might speak about it.
    let rejection = host.target(&mut world, "x/1").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetUnknown);
    assert_eq!(asked(&world), ["a", "c"]);
    // Those below the terminating one may still speak.
    assert_eq!(host.target(&mut world, "x/2").unwrap().role, "c");
    // And where its pattern does not match, it terminates nothing.
    world.targets.delegations.as_mut().unwrap().roles[0].paths = Some(vec!["y/*".to_owned()]);
    world.publish();
    assert_eq!(host.target(&mut world, "x/1").unwrap().role, "b");
}

#[test]
fn a_circle_of_delegations_ends() {
    let mut world = World::new();
    delegates(&mut world.targets, &[("a", 31, &["x/*"], false)]);
    let mut a = Targets::new(1, now(), days(90));
    delegates(&mut a, &[("b", 32, &["x/*"], false)]);
    let mut b = Targets::new(1, now(), days(90));
    delegates(&mut b, &[("a", 31, &["x/*"], false)]);
    world.put_delegated("a", &a, &key(31));
    world.put_delegated("b", &b, &key(32));
    world.publish();
    let rejection = world.host().target(&mut world, "x/1").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::TargetUnknown);
    assert_eq!(asked(&world), ["a", "b"]);
}

#[test]
fn a_role_does_not_speak_about_paths_that_it_was_not_given() {
    let mut world = World::new();
    delegates(&mut world.targets, &[("a", 31, &["x/*"], false)]);
    let mut a = knows("y/1", b"");
    delegates(&mut a, &[("b", 32, &["y/*", "x/y/*", "*"], false)]);
    world.put_delegated("a", &a, &key(31));
    world.put_delegated("b", &knows("y/2", b""), &key(32));
    world.publish();
    let host = world.host();
    for path in ["y/1", "y/2", "x/y/1"] {
        let rejection = host.target(&mut world, path).unwrap_err();
        assert_eq!(rejection.code, MetadataCode::TargetUnknown, "{path}");
    }
    assert!(asked(&world).is_empty());
}

#[test]
fn a_path_is_found_by_the_beginning_of_its_hash() {
    let mut world = World::new();
    let path = "vpn-node/1.6.0/linux-arm64.tar.zst";
    let digest = hex(&Sha256::digest(path));
    delegates(
        &mut world.targets,
        &[("a", 31, &[], false), ("b", 32, &[], false)],
    );
    let roles = &mut world.targets.delegations.as_mut().unwrap().roles;
    for role in roles.iter_mut() {
        role.paths = None;
    }
    let other = if digest.starts_with('0') { "1" } else { "0" };
    roles[0].path_hash_prefixes = Some(vec![other.to_owned()]);
    roles[1].path_hash_prefixes = Some(vec![other.to_owned(), digest[..3].to_owned()]);
    world.put_delegated("a", &knows(path, b"a"), &key(31));
    world.put_delegated("b", &knows(path, b"b"), &key(32));
    world.publish();
    let info = world.host().target(&mut world, path).unwrap();
    assert_eq!(info.role, "b");
    assert_eq!(asked(&world), ["b"]);
}

#[test]
fn an_older_or_changed_delegated_role_is_refused() {
    let mut world = World::new();
    delegates(&mut world.targets, &[("a", 31, &["x/*"], false)]);
    let mut a = knows("x/1", b"one");
    a.header.version = 2;
    world.put_delegated("a", &a, &key(31));
    world.publish();
    let host = world.host();
    host.target(&mut world, "x/1").unwrap();
    // The same version with other bytes.
    let mut changed = knows("x/1", b"two");
    changed.header.version = 2;
    world.put_delegated("a", &changed, &key(31));
    world.publish_online();
    let rejection = host.target(&mut world, "x/1").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::SameVersionChanged);
    // The snapshot lists an older one.
    world.put_delegated("a", &knows("x/1", b"one"), &key(31));
    world.publish_online();
    host.refuses_after(&mut world, MetadataCode::Rollback, &["timestamp.json"]);
    assert_eq!(host.high_water().targets["a"].version, 2);
}

#[test]
fn a_delegated_role_of_the_wrong_key_is_refused() {
    for signer in [key(21), key(11), key(99)] {
        let mut world = World::new();
        delegates(&mut world.targets, &[("a", 31, &["x/*"], false)]);
        world.put_delegated("a", &knows("x/1", b"one"), &signer);
        world.publish();
        let host = world.host();
        host.refresh(&mut world).unwrap();
        let before = host.files();
        let rejection = host.target(&mut world, "x/1").unwrap_err();
        assert_eq!(rejection.code, MetadataCode::Unsigned);
        assert_eq!(host.files(), before);
    }
}

#[test]
fn a_delegated_role_that_has_expired_is_refused() {
    let mut world = World::new();
    delegates(&mut world.targets, &[("a", 31, &["x/*"], false)]);
    let mut a = knows("x/1", b"one");
    a.header.expires = vpn_node_release::metadata::DateTime::new(now());
    world.put_delegated("a", &a, &key(31));
    world.publish();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    let before = host.files();
    let rejection = host.target(&mut world, "x/1").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Expired);
    assert_eq!(host.files(), before);
}

#[test]
fn a_role_that_was_verified_for_one_delegator_is_verified_again_for_another() {
    let mut world = World::new();
    delegates(
        &mut world.targets,
        &[
            ("a", 31, &["team-a/*"], false),
            ("b", 32, &["team-b/*"], false),
        ],
    );
    let mut a = Targets::new(1, now(), days(90));
    delegates(&mut a, &[("c", 33, &["team-a/*"], false)]);
    let mut b = Targets::new(1, now(), days(90));
    delegates(&mut b, &[("c", 34, &["team-b/*"], false)]);
    let mut c = knows("team-a/1", b"good");
    c.targets.extend(knows("team-b/1", b"evil").targets);
    world.put_delegated("a", &a, &key(31));
    world.put_delegated("b", &b, &key(32));
    // Signed with the key that a gave to it, not with the one of b.
    world.put_delegated("c", &c, &key(33));
    world.publish();
    let host = world.host();
    let mut repository = host.open(now()).unwrap();
    repository.refresh(&mut world).unwrap();
    repository.target(&mut world, "team-a/1").unwrap();
    let rejection = repository.target(&mut world, "team-b/1").unwrap_err();
    assert_eq!(rejection.code, MetadataCode::Unsigned);
}

#[test]
fn role_names_that_want_to_be_paths_stay_in_the_store() {
    let names = [
        "../root",
        "/etc/passwd",
        "..",
        "a/b",
        "x",
        "x.json",
        "?",
        "#",
        "root.json",
        "%2e",
    ];
    for name in names {
        let mut world = World::new();
        world.delegate(name, &key(31), &["x/*"], false);
        world.put_delegated(name, &knows("x/1", b"one"), &key(31));
        world.publish();
        let host = world.host();
        assert_eq!(host.target(&mut world, "x/1").unwrap().role, name);
        let files = host.files();
        assert_eq!(files.len(), 7, "{name}: {:?}", files.keys());
        assert_eq!(files["root.json"], world.files["1.root.json"], "{name}");
        let asked = world.requests.last().unwrap();
        assert!(!asked.contains('/') && !asked.contains('?'), "{asked}");
    }
}

#[test]
fn a_delegation_called_like_a_top_level_role_is_refused() {
    for name in ["root", "timestamp", "snapshot", "targets", ""] {
        let mut world = World::new();
        let host = world.host();
        host.refresh(&mut world).unwrap();
        world.publish();
        world.delegate("stand-in", &key(31), &["*"], false);
        world.put_targets();
        world.resign("2.targets.json", &[&key(11)], |targets| {
            targets["delegations"]["roles"][0]["name"] = name.into();
        });
        let bytes = world.files["2.targets.json"].clone();
        world.put("targets", 2, bytes);
        world.publish_online();
        host.refuses_after(
            &mut world,
            MetadataCode::Malformed,
            &["timestamp.json", "snapshot.json"],
        );
    }
}

#[test]
fn two_delegations_of_one_name_are_refused() {
    let mut world = World::new();
    let host = world.host();
    host.refresh(&mut world).unwrap();
    world.publish();
    world.delegate("a", &key(31), &["*"], false);
    world.delegate("b", &key(32), &["*"], false);
    world.put_targets();
    world.resign("2.targets.json", &[&key(11)], |targets| {
        targets["delegations"]["roles"][1]["name"] = "a".into();
    });
    let bytes = world.files["2.targets.json"].clone();
    world.put("targets", 2, bytes);
    world.publish_online();
    host.refuses_after(
        &mut world,
        MetadataCode::Malformed,
        &["timestamp.json", "snapshot.json"],
    );
}
