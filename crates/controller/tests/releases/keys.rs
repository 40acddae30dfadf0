//! Rotation of every kind of key, as hosts see it.

use ed25519_dalek::SigningKey;
use vpn_node_controller::releases::ceremony::{self, Plan, Rotation, Whose};
use vpn_node_controller::releases::{ReleaseError, online};
use vpn_node_release::author::public_key;
use vpn_node_release::metadata::{Key, TopRole};

use crate::support::{Machine, days};

fn rotation(whose: Whose, add: Vec<Key>, remove: &[&Key]) -> Rotation {
    Rotation {
        whose,
        add,
        remove: remove
            .iter()
            .map(|key| key.id().0[..12].to_owned())
            .collect(),
        threshold: None,
        lifetime: days(365),
    }
}

#[test]
fn a_root_key_is_replaced_by_two_of_the_old_and_two_of_the_new() {
    let mut machine = Machine::whole();
    machine.release("1.5.0");
    let mut host = machine.host();
    let dora = SigningKey::from_bytes(&[6; 32]);
    let anna = machine.keys(&["anna"]).remove(0);
    let change = rotation(Whose::Root, vec![public_key(&dora)], &[&anna]);
    ceremony::rotate(&machine.tree, &change, machine.now).unwrap();
    machine.people.insert("dora", dora);
    // One of the old who stays and the new one: the old root asks for two of its own.
    let outcome = machine.sign(&["ben", "dora"]).unwrap();
    assert_eq!(outcome.root, None);
    assert_eq!((outcome.waits[0].signed, outcome.waits[0].needed), (1, 2));
    assert_eq!(machine.sign(&["anna"]).unwrap().root, Some(2));
    let summary = host.refresh(&mut machine.fetch(), machine.now).unwrap();
    assert_eq!(summary.versions[&TopRole::Root], 2);
    ceremony::renew(&machine.tree, TopRole::Root, days(365), machine.now).unwrap();
    let said = machine.sign(&["anna"]).unwrap_err();
    assert!(matches!(said, ReleaseError::NotASigner { .. }), "{said}");
}

#[test]
fn a_removed_targets_key_takes_its_signature_away_and_the_list_is_signed_again() {
    let machine = Machine::whole();
    let path = machine.release("1.5.0").target_path();
    let mut host = machine.host();
    host.refresh(&mut machine.fetch(), machine.now).unwrap();
    let tom = machine.keys(&["tom"]).remove(0);
    ceremony::rotate(
        &machine.tree,
        &rotation(Whose::Targets, vec![], &[&tom]),
        machine.now,
    )
    .unwrap();
    let outcome = machine.sign(&["anna", "ben"]).unwrap();
    assert!(outcome.held && outcome.root.is_none(), "{outcome:?}");
    // Until then hosts go on with what they have.
    host.download(&mut machine.fetch(), &path, machine.now)
        .unwrap();
    assert!(machine.sign(&["tom"]).is_err());
    let outcome = machine.sign(&["tina"]).unwrap();
    assert_eq!((outcome.root, outcome.targets), (Some(2), Some(3)));
    host.download(&mut machine.fetch(), &path, machine.now)
        .unwrap();
}

#[test]
fn a_stolen_online_key_is_replaced_and_its_versions_do_not_lock_hosts_out() {
    let machine = Machine::whole();
    let path = machine.release("1.5.0").target_path();
    let mut host = machine.host();
    // The thief went on to very high versions, and the host has seen them.
    vpn_node_controller::releases::publish::advance(&machine.tree, Some(1 << 50), machine.now)
        .unwrap();
    host.refresh(&mut machine.fetch(), machine.now).unwrap();
    let old = machine
        .tree
        .load()
        .unwrap()
        .root()
        .role
        .signers(TopRole::Timestamp)
        .keys
        .values()
        .next()
        .map(|key| (*key).clone())
        .unwrap();
    let new = online::create(&machine.tree).unwrap().0;
    let change = rotation(Whose::Online, vec![new], &[&old]);
    ceremony::rotate(&machine.tree, &change, machine.now).unwrap();
    let outcome = machine.sign(&["anna", "ben"]).unwrap();
    assert_eq!(outcome.root, Some(2));
    let published = machine.tree.load().unwrap();
    assert!(
        published.last_timestamp < 1000,
        "{}",
        published.last_timestamp
    );
    host.download(&mut machine.fetch(), &path, machine.now)
        .unwrap();
}

#[test]
fn thresholds_that_cannot_be_met_and_keys_with_two_kinds_of_work_are_refused() {
    let machine = Machine::whole();
    let refused = |change: &Rotation| {
        let said = ceremony::rotate(&machine.tree, change, machine.now);
        said.unwrap_err().to_string()
    };
    let many = Rotation {
        threshold: Some(4),
        ..rotation(Whose::Root, vec![], &[])
    };
    assert!(refused(&many).contains("4 signatures of 3 keys"));
    let none = Rotation {
        threshold: Some(0),
        ..many.clone()
    };
    assert!(refused(&none).contains("threshold from 1 to 3"));
    let anna = machine.keys(&["anna"]);
    assert!(refused(&rotation(Whose::Root, anna.clone(), &[])).contains("already"));
    let unknown = public_key(&SigningKey::from_bytes(&[9; 32]));
    assert!(refused(&rotation(Whose::Root, vec![], &[&unknown])).contains("no key of root"));
    let online = rotation(Whose::Online, anna.clone(), &[]);
    assert!(refused(&online).contains("whoever takes the controller"));
    let mut fresh = Machine::empty();
    fresh.people = machine.people.clone();
    let plan = Plan {
        root: anna,
        root_threshold: 2,
        targets: machine.keys(&["tom"]),
        targets_threshold: 1,
        online: unknown,
        root_lifetime: days(9),
        targets_lifetime: days(9),
    };
    let said = ceremony::init(&fresh.tree, &plan, fresh.now).unwrap_err();
    assert!(
        said.to_string().contains("2 signatures of 1 keys"),
        "{said}"
    );
    assert!(matches!(
        ceremony::init(&machine.tree, &plan, machine.now),
        Err(ReleaseError::Exists(_))
    ));
}
