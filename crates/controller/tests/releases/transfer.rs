//! From the machine of the signers to the controller, and to a mirror.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use vpn_node_controller::releases::stage::Stage;
use vpn_node_controller::releases::transfer::{Imported, export, import};
use vpn_node_controller::releases::{ReleaseError, ceremony, online, signing};
use vpn_node_release::metadata::{TopRole, hex};

use crate::support::{Machine, days, snapshot, version};

/// Two machines: people sign with two keys on the one, the other has the online key.
fn pair() -> (Machine, Machine) {
    let controller = Machine::empty();
    let online = online::create(&controller.tree).unwrap().0;
    let mut signers = Machine::empty();
    let outcome = signers.init(online, 2).unwrap();
    assert!(outcome.root == Some(1) && !outcome.live && !outcome.has_online_key);
    (signers, controller)
}

fn carry(from: &Machine, text: Option<&str>, to: &Machine) -> Result<Imported, ReleaseError> {
    let file = exported(from, text);
    let root = hex(&Sha256::digest(from.first_root()));
    import(&to.tree, &file, Some(&root), to.now)
}

fn exported(from: &Machine, text: Option<&str>) -> PathBuf {
    let count = fs::read_dir(from.dir.path()).unwrap().count();
    let file = from.dir.path().join(format!("export-{count}.tar"));
    export(&from.tree, text.map(version).as_ref(), None, &file).unwrap();
    file
}

#[test]
fn two_people_sign_offline_and_a_host_gets_it_from_the_controller() {
    let (signers, controller) = pair();
    let info = signers.add("1.5.0").unwrap();
    assert_eq!(signers.sign(&["tom"]).unwrap().targets, None);
    let early = export(
        &signers.tree,
        Some(&version("1.5.0")),
        None,
        &signers.dir.path().join("e"),
    );
    assert!(early.unwrap_err().to_string().contains("no signed release"));
    assert_eq!(signers.sign(&["tina"]).unwrap().targets, Some(2));
    let imported = carry(&signers, Some("1.5.0"), &controller).unwrap();
    assert_eq!((imported.packages, imported.outcome.live), (1, true));
    let mut host = controller.host();
    let bytes = host.download(&mut controller.fetch(), &info.target_path(), controller.now);
    assert_eq!(bytes.unwrap(), fs::read(signers.package("1.5.0")).unwrap());
    // The next one goes on top, and a directory is as good as a file.
    signers.add("1.5.1").unwrap();
    signers.sign(&["tom", "tina"]).unwrap();
    let again = import(&controller.tree, signers.tree.dir(), None, controller.now).unwrap();
    assert_eq!((again.packages, again.outcome.targets), (1, Some(3)));
    host.refresh(&mut controller.fetch(), controller.now)
        .unwrap();
    let nothing = import(&controller.tree, signers.tree.dir(), None, controller.now);
    assert!(
        nothing
            .unwrap_err()
            .to_string()
            .contains("nothing that is not here")
    );
}

#[test]
fn a_rotation_is_carried_as_metadata_alone() {
    let (signers, controller) = pair();
    carry(&signers, None, &controller).unwrap();
    let mut host = controller.host();
    host.refresh(&mut controller.fetch(), controller.now)
        .unwrap();
    ceremony::renew(&signers.tree, TopRole::Root, days(700), signers.now).unwrap();
    signers.sign(&["anna", "ben"]).unwrap();
    let imported = carry(&signers, None, &controller).unwrap();
    assert_eq!(
        (imported.outcome.root, imported.outcome.targets),
        (Some(2), None)
    );
    let summary = host
        .refresh(&mut controller.fetch(), controller.now)
        .unwrap();
    assert_eq!(summary.versions[&TopRole::Root], 2);
}

#[test]
fn a_mirror_takes_what_the_controller_exports_and_a_host_takes_it_from_there() {
    let (signers, controller) = pair();
    let info = signers.add("1.5.0").unwrap();
    signers.sign(&["tom", "tina"]).unwrap();
    carry(&signers, Some("1.5.0"), &controller).unwrap();
    let mirror = Machine::empty();
    let imported = carry(&controller, Some("1.5.0"), &mirror).unwrap();
    assert!(imported.outcome.live && !imported.outcome.has_online_key);
    let mut host = mirror.host();
    host.download(&mut mirror.fetch(), &info.target_path(), mirror.now)
        .unwrap();
    for name in ["1.root.json", "timestamp.json"] {
        let of =
            |machine: &Machine| fs::read(machine.tree.dir().join("metadata").join(name)).unwrap();
        assert_eq!(of(&controller), of(&mirror));
    }
}

#[test]
fn nothing_is_taken_over_without_a_first_root_that_a_person_knows() {
    let (signers, controller) = pair();
    let file = exported(&signers, None);
    let said = import(&controller.tree, &file, None, controller.now)
        .unwrap_err()
        .to_string();
    let digest = hex(&Sha256::digest(signers.first_root()));
    assert!(
        said.contains(&digest) && said.contains("--root-sha256"),
        "{said}"
    );
    let other = "00".repeat(32);
    let said = import(&controller.tree, &file, Some(&other), controller.now).unwrap_err();
    assert!(said.to_string().contains("another repository"), "{said}");
    assert!(!controller.tree.exists());
}

#[test]
fn an_older_list_is_no_way_back() {
    let (signers, controller) = pair();
    let older = exported(&signers, None);
    signers.add("1.5.0").unwrap();
    signers.sign(&["tom", "tina"]).unwrap();
    carry(&signers, Some("1.5.0"), &controller).unwrap();
    let before = snapshot(controller.tree.dir());
    let refused = import(&controller.tree, &older, None, controller.now).unwrap_err();
    assert!(refused.to_string().contains("rollback"), "{refused}");
    assert_eq!(before, snapshot(controller.tree.dir()));
}

#[test]
fn an_import_without_its_package_or_with_another_one_is_refused() {
    let (signers, controller) = pair();
    carry(&signers, None, &controller).unwrap();
    signers.add("1.5.0").unwrap();
    signers.sign(&["tom", "tina"]).unwrap();
    let before = snapshot(controller.tree.dir());
    let refused = carry(&signers, None, &controller).unwrap_err();
    assert!(
        refused.to_string().contains("metadata_missing"),
        "{refused}"
    );
    // Another file under the right name.
    let package = signers.tree.dir().join("targets/vpn-node/1.5.0");
    let package = fs::read_dir(package)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::write(
        &package,
        vec![0; fs::metadata(&package).unwrap().len() as usize],
    )
    .unwrap();
    let refused = import(&controller.tree, signers.tree.dir(), None, controller.now).unwrap_err();
    assert!(refused.to_string().contains("SHA-256"), "{refused}");
    let refused = export(
        &signers.tree,
        Some(&version("1.5.0")),
        None,
        &signers.dir.path().join("x"),
    );
    assert!(refused.is_err(), "a damaged package is not carried on");
    assert_eq!(before, snapshot(controller.tree.dir()));
}

#[test]
fn two_lists_of_the_same_version_are_told_apart() {
    let (signers, controller) = pair();
    carry(&signers, None, &controller).unwrap();
    let other = Machine::empty();
    carry(&signers, None, &other).unwrap();
    for (machine, text) in [(&signers, "1.5.0"), (&other, "1.6.0")] {
        machine.add(text).unwrap();
    }
    signers.sign(&["tom", "tina"]).unwrap();
    carry(&signers, Some("1.5.0"), &controller).unwrap();
    let keys = ["tom", "tina"].map(|name| signers.people[name].clone());
    let shown = Stage::load(&other.tree).unwrap();
    signing::sign(&other.tree, &shown, &keys, other.now).unwrap();
    let refused = carry(&other, Some("1.6.0"), &controller).unwrap_err();
    assert!(
        refused.to_string().contains("same_version_changed"),
        "{refused}"
    );
}
