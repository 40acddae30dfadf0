//! Whoever has the controller with its online key, and every mirror, publishes nothing that a host
//! takes; and what he changes on the disk is not carried on.

use std::fs;

use ed25519_dalek::SigningKey;
use vpn_node_controller::releases::ceremony::{self, Rotation, Whose};
use vpn_node_controller::releases::transfer::import;
use vpn_node_controller::releases::{online, publish, signing, stage};
use vpn_node_release::author;
use vpn_node_release::metadata::{
    Envelope, MetaFile, Snapshot, Targets, Timestamp, VerifiedRole, unhex,
};

use crate::support::{Machine, days, snapshot};

/// The online key as a thief reads it.
fn stolen(machine: &Machine) -> SigningKey {
    let dir = machine.tree.dir().join("online-keys");
    let file = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = file
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "key"));
    let text = fs::read_to_string(file.unwrap()).unwrap();
    SigningKey::from_bytes(&unhex(text.trim()).unwrap().try_into().unwrap())
}

/// Puts a list of releases with another hash for 1.5.0 there, with everything above it signed anew
/// by the online key.
fn publish_evil(machine: &Machine, online: &SigningKey, sign_list: bool) {
    let metadata = machine.tree.dir().join("metadata");
    let bytes = fs::read(metadata.join("2.targets.json")).unwrap();
    let mut envelope = Envelope::parse(&bytes, "x").unwrap();
    let read: VerifiedRole<Targets> = envelope.unverified("x").unwrap();
    let mut targets = read.role;
    targets.header.version = 3;
    for file in targets.targets.values_mut() {
        file.hashes = vpn_node_release::metadata::Hashes::sha256_of(b"evil");
        file.length = 4;
    }
    let signatures = std::mem::take(&mut envelope.signatures);
    envelope = author::sign(&targets, &[]).unwrap();
    envelope.signatures = signatures;
    if sign_list {
        envelope.sign(online).unwrap();
    }
    let targets = envelope.to_bytes();
    let until = machine.now + days(7);
    let mut snapshot = Snapshot::new(100, machine.now, until, MetaFile::of(3, &targets));
    snapshot.header.version = 100;
    let snapshot = author::sign(&snapshot, &[online]).unwrap().to_bytes();
    let timestamp = Timestamp::new(100, machine.now, until, MetaFile::of(100, &snapshot));
    let timestamp = author::sign(&timestamp, &[online]).unwrap().to_bytes();
    fs::write(metadata.join("3.targets.json"), targets).unwrap();
    fs::write(metadata.join("100.snapshot.json"), snapshot).unwrap();
    fs::write(metadata.join("timestamp.json"), timestamp).unwrap();
}

#[test]
fn the_online_key_alone_publishes_nothing_that_a_host_takes() {
    for sign_list in [false, true] {
        let machine = Machine::whole();
        let path = machine.release("1.5.0").target_path();
        let mut host = machine.host();
        host.refresh(&mut machine.fetch(), machine.now).unwrap();
        let stolen = stolen(&machine);
        publish_evil(&machine, &stolen, sign_list);
        let said = host
            .download(&mut machine.fetch(), &path, machine.now)
            .unwrap_err();
        assert!(said.starts_with("unsigned"), "{said}");
        // And a mirror that is run well does not carry it on.
        let mirror = Machine::empty();
        use sha2::Digest as _;
        let root = vpn_node_release::metadata::hex(&sha2::Sha256::digest(machine.first_root()));
        let refused =
            import(&mirror.tree, machine.tree.dir(), Some(&root), mirror.now).unwrap_err();
        assert!(refused.to_string().contains("unsigned"), "{refused}");
        assert!(!mirror.tree.exists());
        // The rightful owner replaces the key; hosts forget what it said.
        let new = online::create(&machine.tree).unwrap().0;
        let change = Rotation {
            whose: Whose::Online,
            add: vec![new],
            remove: vec![author::public_key(&stolen).id().0],
            threshold: None,
            lifetime: days(365),
        };
        ceremony::rotate(&machine.tree, &change, machine.now).unwrap();
        machine.sign(&["anna", "ben"]).unwrap();
        host.download(&mut machine.fetch(), &path, machine.now)
            .unwrap();
    }
}

#[test]
fn an_unsigned_or_half_signed_import_changes_nothing() {
    let source = Machine::whole();
    source.release("1.5.0");
    let target = Machine::whole();
    let before = snapshot(target.tree.dir());
    // The same people, but another repository: its root is not ours.
    let refused = import(&target.tree, source.tree.dir(), None, target.now).unwrap_err();
    assert!(
        refused.to_string().contains("same_version_changed"),
        "{refused}"
    );
    let path = source.tree.dir().join("metadata/2.targets.json");
    let mut envelope = Envelope::parse(&fs::read(&path).unwrap(), "x").unwrap();
    envelope.signatures.clear();
    fs::write(&path, envelope.to_bytes()).unwrap();
    let root = "metadata/1.root.json";
    fs::copy(target.tree.dir().join(root), source.tree.dir().join(root)).unwrap();
    let refused = import(&target.tree, source.tree.dir(), None, target.now).unwrap_err();
    assert!(refused.to_string().contains("unsigned"), "{refused}");
    assert_eq!(before, snapshot(target.tree.dir()));
}

#[test]
fn what_waits_is_judged_by_its_signatures_and_not_by_its_place() {
    let machine = Machine::whole();
    machine.add("1.5.0").unwrap();
    // Somebody changes the staged package; the signer's machine finds out before it publishes.
    let staged = machine.tree.dir().join("staged/targets/vpn-node/1.5.0");
    let package = fs::read_dir(staged)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = fs::read(&package).unwrap();
    fs::write(&package, vec![1; good.len()]).unwrap();
    let before = snapshot(&machine.tree.dir().join("metadata"));
    let refused = machine.sign(&["tom"]).unwrap_err();
    assert!(refused.to_string().contains("SHA-256"), "{refused}");
    assert_eq!(before, snapshot(&machine.tree.dir().join("metadata")));
    // Put right, the signature that was given counts.
    fs::write(&package, good).unwrap();
    assert_eq!(
        publish::advance(&machine.tree, None, machine.now)
            .unwrap()
            .targets,
        Some(2)
    );
    assert!(stage::Stage::load(&machine.tree).unwrap().is_empty());
}

#[test]
fn a_list_that_is_exchanged_while_its_signer_types_is_not_signed() {
    let machine = Machine::whole();
    machine.add("1.5.0").unwrap();
    let shown = stage::Stage::load(&machine.tree).unwrap();
    machine.add("6.6.6").unwrap();
    let tom = [machine.people["tom"].clone()];
    let refused = signing::sign(&machine.tree, &shown, &tom, machine.now).unwrap_err();
    assert!(
        refused.to_string().contains("has changed since"),
        "{refused}"
    );
    let waits = stage::Stage::load(&machine.tree).unwrap();
    let published = machine.tree.load().unwrap();
    assert_eq!(waits.progress(Some(&published)).unwrap()[0].signed, 0);
}

#[test]
fn torn_trust_of_the_repository_itself_fails_closed() {
    let machine = Machine::whole();
    let trust = machine.tree.dir().join("trust");
    for copy in ["highwater.a", "highwater.b"] {
        fs::write(trust.join(copy), "torn").unwrap();
    }
    let before = snapshot(&machine.tree.dir().join("metadata"));
    machine.add("1.5.0").unwrap();
    let refused = machine.sign(&["tom"]).unwrap_err();
    assert!(refused.to_string().contains("high-water"), "{refused}");
    assert_eq!(before, snapshot(&machine.tree.dir().join("metadata")));
}
