//! Signatures that are missing, too few, of the wrong key, counted twice, or over something else.

use serde_json::{Value, json};
use vpn_node_release::author::public_key;
use vpn_node_release::code::MetadataCode;
use vpn_node_release::metadata::{Envelope, KeyId};
use vpn_node_release::trust::{MemoryStore, install_root};

use crate::world::{World, key};

/// The file of each role in its second version, and what a refresh keeps before it comes to it.
fn second_versions() -> (World, [(&'static str, &'static [&'static str]); 4]) {
    let mut world = World::new();
    let old = world.root_keys.clone();
    world.publish_root(&old);
    world.publish();
    let roles: [(&str, &[&str]); 4] = [
        ("2.root.json", &[]),
        ("timestamp.json", &["root.json"]),
        ("2.snapshot.json", &["root.json", "timestamp.json"]),
        (
            "2.targets.json",
            &["root.json", "snapshot.json", "timestamp.json"],
        ),
    ];
    (world, roles)
}

/// For each role: its file is changed by `change`, the rest is good (the hashes above it too).
fn each_role(change: impl Fn(&mut World, &str), code: MetadataCode) {
    for index in 0..4 {
        let (mut world, roles) = second_versions();
        let host = World::new().host();
        let (file, kept) = roles[index];
        host.refresh(&mut World::new()).unwrap();
        change(&mut world, file);
        follow_hashes(&mut world, file);
        let rejection = host.refuses_after(&mut world, code, kept);
        assert!(rejection.to_string().contains("json"), "{rejection}");
    }
}

/// The roles above `file` take its new hash: only the role itself is bad.
fn follow_hashes(world: &mut World, file: &str) {
    match file {
        "2.targets.json" => {
            let bytes = world.files[file].clone();
            world.put("targets", 2, bytes);
            world.put_snapshot();
            world.put_timestamp();
        }
        "2.snapshot.json" => {
            let bytes = world.files[file].clone();
            world.put_snapshot_bytes(bytes);
            world.put_timestamp();
        }
        _ => {}
    }
}

#[test]
fn metadata_without_signatures_is_refused() {
    each_role(
        |world, file| world.tamper(file, |value| value["signatures"] = json!([])),
        MetadataCode::Unsigned,
    );
}

#[test]
fn metadata_of_an_unknown_key_is_refused() {
    each_role(
        |world, file| world.resign(file, &[&key(99)], |_| {}),
        MetadataCode::Unsigned,
    );
}

#[test]
fn a_role_signed_with_the_key_of_another_role_is_refused() {
    each_role(
        |world, file| {
            let wrong = if file.contains("targets") { 21 } else { 11 };
            world.resign(file, &[&key(wrong)], |_| {});
        },
        MetadataCode::Unsigned,
    );
}

#[test]
fn an_unknown_key_that_uses_a_trusted_key_id_is_refused() {
    each_role(
        |world, file| {
            let trusted = public_key(&match file {
                "2.root.json" => key(1),
                "2.targets.json" => key(11),
                _ => key(21),
            });
            world.resign(file, &[&key(99)], |_| {});
            world.tamper(file, |value| {
                value["signatures"][0]["keyid"] = json!(trusted.id());
            });
        },
        MetadataCode::Unsigned,
    );
}

#[test]
fn content_that_was_changed_after_signing_is_refused() {
    each_role(
        |world, file| {
            world.tamper(file, |value| {
                value["signed"]["expires"] = json!("2099-01-01T00:00:00Z");
            });
        },
        MetadataCode::Unsigned,
    );
}

#[test]
fn a_member_beside_the_signed_part_proves_nothing() {
    // The signed part is good and old; the new content stands beside it.
    let host = World::new().host();
    let mut world = World::new();
    host.refresh(&mut world).unwrap();
    world.targets.header.version = 9;
    world.tamper("timestamp.json", |value| {
        value["payload"] = json!({"version": 9});
    });
    let summary = host.refresh(&mut world).unwrap();
    assert!(summary.versions.values().all(|&version| version == 1));
}

#[test]
fn an_all_zero_signature_is_refused() {
    each_role(
        |world, file| {
            world.tamper(file, |value| {
                for signature in value["signatures"].as_array_mut().unwrap() {
                    signature["sig"] = json!("00".repeat(64));
                }
            });
        },
        MetadataCode::Unsigned,
    );
}

#[test]
fn signatures_that_are_no_signatures_are_refused_and_do_not_panic() {
    for sig in ["", "0", "zz", "00", &"ff".repeat(64), &"00".repeat(65), "é"] {
        each_role(
            |world, file| {
                world.tamper(file, |value| {
                    for signature in value["signatures"].as_array_mut().unwrap() {
                        signature["sig"] = json!(sig);
                    }
                });
            },
            MetadataCode::Unsigned,
        );
    }
}

#[test]
fn a_bad_signature_beside_enough_good_ones_spoils_nothing() {
    let host = World::new().host();
    let mut world = World::new();
    world.tamper("timestamp.json", |value| {
        let signatures = value["signatures"].as_array_mut().unwrap();
        signatures.insert(0, json!({"keyid": "someone", "sig": ""}));
    });
    host.refresh(&mut world).unwrap();
}

#[test]
fn fewer_keys_than_the_threshold_are_refused() {
    let (mut world, _) = second_versions();
    let host = World::new().host();
    host.refresh(&mut World::new()).unwrap();
    world.resign("2.root.json", &[&key(1)], |_| {});
    host.refuses(&mut world, MetadataCode::BelowThreshold);
}

#[test]
fn a_key_id_that_signs_twice_is_refused() {
    each_role(
        |world, file| {
            world.tamper(file, |value| {
                let signatures = value["signatures"].as_array_mut().unwrap();
                signatures.push(signatures[0].clone());
            });
        },
        MetadataCode::DuplicateSignature,
    );
}

#[test]
fn one_key_under_two_ids_counts_once() {
    let host = World::new().host();
    let mut world = World::new();
    host.refresh(&mut world).unwrap();
    // The root gives targets 2 of 2, but both ids are the same key: once more in capitals, with a
    // member that changes its id.
    let one = public_key(&key(11));
    let mut other = one.clone();
    other.keyval.public = other.keyval.public.to_uppercase();
    other.extra.insert("x".to_owned(), 1.into());
    let old = world.root_keys.clone();
    world.publish_root(&old);
    world.root.set_role(
        vpn_node_release::metadata::TopRole::Targets,
        &[one, other.clone()],
        2,
    );
    world.put_root();
    world.publish();
    world.tamper("2.targets.json", |value| {
        let mut again = value["signatures"][0].clone();
        again["keyid"] = json!(other.id());
        value["signatures"].as_array_mut().unwrap().push(again);
    });
    let bytes = world.files["2.targets.json"].clone();
    world.put("targets", 2, bytes);
    world.put_snapshot();
    world.put_timestamp();
    host.refuses_after(
        &mut world,
        MetadataCode::BelowThreshold,
        &["root.json", "timestamp.json", "snapshot.json"],
    );
}

#[test]
fn a_key_id_that_a_role_lists_twice_counts_once() {
    let mut world = World::new();
    let mut store = MemoryStore::default();
    let signer = key(1);
    world.resign("1.root.json", &[&signer], |root| {
        let id = json!(public_key(&signer).id());
        root["roles"]["root"] = json!({"keyids": [id, id], "threshold": 2});
    });
    let rejection = install_root(&mut store, &world.files["1.root.json"], false).unwrap_err();
    assert_eq!(rejection.code, MetadataCode::BelowThreshold);
    assert_eq!(store, MemoryStore::default());
}

#[test]
fn a_threshold_of_zero_or_less_is_refused() {
    for threshold in [0, -1, i64::MIN] {
        for role in ["root", "timestamp", "snapshot", "targets"] {
            let host = World::new().host();
            let (mut world, _) = second_versions();
            host.refresh(&mut World::new()).unwrap();
            world.resign("2.root.json", &[&key(1), &key(2)], |root| {
                root["roles"][role]["threshold"] = json!(threshold);
            });
            host.refuses(&mut world, MetadataCode::BadThreshold);
        }
    }
}

#[test]
fn a_threshold_that_nobody_can_meet_is_refused() {
    let host = World::new().host();
    let (mut world, _) = second_versions();
    host.refresh(&mut World::new()).unwrap();
    world.resign("2.root.json", &[&key(1), &key(2)], |root| {
        root["roles"]["timestamp"]["threshold"] = json!(u64::from(u32::MAX));
    });
    host.refuses_after(&mut world, MetadataCode::BelowThreshold, &["root.json"]);
}

#[test]
fn more_signatures_than_anybody_needs_are_refused_unread() {
    each_role(
        |world, file| {
            world.tamper(file, |value| {
                let signatures = value["signatures"].as_array_mut().unwrap();
                for number in 0..100 {
                    signatures.push(json!({"keyid": format!("k{number}"), "sig": "00"}));
                }
            });
        },
        MetadataCode::TooManySignatures,
    );
}

#[test]
fn metadata_of_another_type_is_refused() {
    // The timestamp's key is the snapshot's too: a snapshot is no timestamp all the same.
    let host = World::new().host();
    let mut world = World::new();
    host.refresh(&mut world).unwrap();
    world.snapshot.header.version = 2;
    world.put_snapshot();
    let snapshot = world.files["2.snapshot.json"].clone();
    world.files.insert("timestamp.json".to_owned(), snapshot);
    host.refuses(&mut world, MetadataCode::WrongType);
}

#[test]
fn another_major_version_of_the_specification_is_refused() {
    let host = World::new().host();
    let (mut world, _) = second_versions();
    host.refresh(&mut World::new()).unwrap();
    for spec in ["2.0.0", "", "1x", "01.0"] {
        world.resign("2.root.json", &[&key(1), &key(2)], |root| {
            root["spec_version"] = json!(spec);
        });
        host.refuses(&mut world, MetadataCode::UnsupportedSpec);
    }
}

#[test]
fn malformed_metadata_is_refused_and_never_panics() {
    let (good, roles) = second_versions();
    let host = World::new().host();
    host.refresh(&mut World::new()).unwrap();
    for (file, _) in roles {
        let bytes = good.files[file].clone();
        // Every beginning of the file, and every byte of it replaced once.
        for cut in (0..bytes.len()).step_by(7) {
            let _ = Envelope::parse(&bytes[..cut], file);
            let mut changed = bytes.clone();
            changed[cut] = changed[cut].wrapping_add(1);
            let _ = Envelope::parse(&changed, file);
        }
    }
    let truncated = good.files["timestamp.json"][..100].to_owned();
    for bad in [
        &b""[..],
        b"null",
        b"[]",
        b"{}",
        br#"{"signatures":{},"signed":{}}"#,
        br#"{"signatures":[],"signed":null}"#,
        br#"{"signatures":[{"keyid":1,"sig":""}],"signed":{}}"#,
        br#"{"signatures":[],"signatures":[],"signed":{}}"#,
        b"\xff\xfe",
        &truncated,
    ] {
        let mut world = World::new();
        world
            .files
            .insert("timestamp.json".to_owned(), bad.to_owned());
        let host = World::new().host();
        let rejection = host.refresh(&mut world).unwrap_err();
        let codes = [MetadataCode::Malformed, MetadataCode::Unsigned];
        assert!(codes.contains(&rejection.code), "{rejection}");
    }
    let mut world = World::new();
    world.timestamp.header.version = 2;
    world.put_timestamp();
    let duplicate = String::from_utf8(world.files["timestamp.json"].clone())
        .unwrap()
        .replace("\"version\": 2", "\"version\": 2, \"version\": 3");
    world
        .files
        .insert("timestamp.json".to_owned(), duplicate.into_bytes());
    host.refuses(&mut world, MetadataCode::Malformed);
}

#[test]
fn numbers_that_readers_disagree_about_are_refused() {
    let host = World::new().host();
    let (mut world, _) = second_versions();
    host.refresh(&mut World::new()).unwrap();
    for version in [
        json!(0),
        json!(-1),
        json!("2"),
        json!(u64::MAX),
        Value::Null,
    ] {
        world.resign("2.root.json", &[&key(1), &key(2)], |root| {
            root["version"] = version.clone();
        });
        host.refuses(&mut world, MetadataCode::Malformed);
    }
}

#[test]
fn a_foreign_key_id_is_only_a_word() {
    // Some repositories name their keys; the id has no meaning, the material has.
    let mut world = World::new();
    let signers = [key(1), key(2)];
    world.resign("1.root.json", &[&signers[0], &signers[1]], |root| {
        let text = root.to_string();
        let id = public_key(&key(21)).id();
        *root = serde_json::from_str(&text.replace(&id.0, "our online key")).unwrap();
    });
    for file in ["timestamp.json", "1.snapshot.json"] {
        world.tamper(file, |value| {
            value["signatures"][0]["keyid"] = json!(KeyId("our online key".to_owned()));
        });
    }
    let bytes = world.files["1.snapshot.json"].clone();
    world.put_snapshot_bytes(bytes);
    world.put_timestamp();
    world.tamper("timestamp.json", |value| {
        value["signatures"][0]["keyid"] = json!("our online key");
    });
    world.host().refresh(&mut world).unwrap();
}
