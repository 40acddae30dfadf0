//! Adding, signing, revoking, publishing again, refreshing.

use vpn_node_controller::releases::adding::{self, Wish};
use vpn_node_controller::releases::keeper::look;
use vpn_node_controller::releases::{ReleaseError, ceremony, publish};
use vpn_node_release::metadata::TopRole;
use vpn_node_release::version::Word;

use crate::support::{Machine, days, version, wish};

#[test]
fn a_release_that_is_signed_is_what_a_host_gets() {
    let machine = Machine::whole();
    let mut host = machine.host();
    host.refresh(&mut machine.fetch(), machine.now).unwrap();
    let info = machine.add("1.5.0").unwrap();
    let path = info.target_path();
    let early = host.download(&mut machine.fetch(), &path, machine.now);
    assert!(early.unwrap_err().starts_with("target_unknown"));
    let outcome = machine.sign(&["tina"]).unwrap();
    assert_eq!((outcome.targets, outcome.live), (Some(2), true));
    assert!(outcome.waits.is_empty());
    let bytes = host
        .download(&mut machine.fetch(), &path, machine.now)
        .unwrap();
    assert_eq!(bytes, std::fs::read(machine.package("1.5.0")).unwrap());
}

#[test]
fn counters_grow_in_each_line_and_are_never_given_twice() {
    let machine = Machine::whole();
    assert_eq!(machine.release("1.5.0").counter, 1);
    assert_eq!(machine.release("1.5.1").counter, 2);
    let arm = machine.package_of("1.5.1", "linux-arm64", b"arm");
    let info = adding::add(&machine.tree, &arm, &wish(), machine.now).unwrap();
    assert_eq!(info.counter, 1);
    // Two before the signature: both are in the list, and both counters differ.
    assert_eq!(machine.add("1.5.2").unwrap().counter, 3);
    machine.sign(&["tom"]).unwrap();
    let gone = adding::revoke(
        &machine.tree,
        &version("1.5.2"),
        None,
        None,
        days(9),
        machine.now,
    );
    assert_eq!(gone.unwrap().len(), 1);
    machine.sign(&["tom"]).unwrap();
    assert_eq!(machine.release("1.5.3").counter, 4);
    machine
        .host()
        .refresh(&mut machine.fetch(), machine.now)
        .unwrap();
}

#[test]
fn a_version_has_one_content_and_what_is_no_package_is_not_added() {
    let machine = Machine::whole();
    machine.add("1.5.0").unwrap();
    let said = machine.add("1.5.0").unwrap_err().to_string();
    assert!(said.contains("'release discard'"), "{said}");
    machine.sign(&["tom"]).unwrap();
    let said = machine.add("1.5.0").unwrap_err().to_string();
    assert!(
        said.contains("exactly this content") && said.contains("republish"),
        "{said}"
    );
    let other = machine.package_of("1.5.0", "linux-amd64", b"other");
    let said = adding::add(&machine.tree, &other, &wish(), machine.now)
        .unwrap_err()
        .to_string();
    assert!(said.contains("another version"), "{said}");
    std::fs::write(&other, "no package").unwrap();
    let refused = adding::add(&machine.tree, &other, &wish(), machine.now);
    assert!(matches!(refused, Err(ReleaseError::Package(_))));
    let missing = adding::add(
        &machine.tree,
        &other.with_extension("no"),
        &wish(),
        machine.now,
    );
    assert!(missing.unwrap_err().to_string().contains("cannot be read"));
    assert!(
        machine
            .sign(&["tom"])
            .unwrap_err()
            .to_string()
            .contains("nothing waits")
    );
}

#[test]
fn the_security_floor_stays_and_never_goes_down() {
    let machine = Machine::whole();
    machine.release("1.4.0");
    let floor = |text: &str| Wish {
        security_floor: Some(version(text)),
        ..wish()
    };
    let add = |text: &str, wish: &Wish| {
        adding::add(&machine.tree, &machine.package(text), wish, machine.now)
    };
    assert!(
        add("1.5.0", &floor("1.6.0")).is_err(),
        "above its own version"
    );
    add("1.5.0", &floor("1.4.5")).unwrap();
    machine.sign(&["tom"]).unwrap();
    assert_eq!(machine.release("1.5.1").security_floor, version("1.4.5"));
    let said = add("1.5.2", &floor("1.0.0")).unwrap_err().to_string();
    assert!(said.contains("1.4.5 already"), "{said}");
    let back = adding::republish(&machine.tree, &version("1.4.0"), None, days(9), machine.now);
    assert!(
        back.unwrap_err()
            .to_string()
            .contains("below the security floor")
    );
}

#[test]
fn a_revoked_release_is_gone_and_a_floor_takes_everything_below_with_it() {
    let machine = Machine::whole();
    for text in ["1.4.0", "1.5.0", "1.5.1"] {
        machine.release(text);
    }
    let floor = version("1.5.1");
    let revoke = |text: &str, floor| {
        adding::revoke(
            &machine.tree,
            &version(text),
            None,
            floor,
            days(9),
            machine.now,
        )
    };
    assert!(
        revoke("9.9.9", None)
            .unwrap_err()
            .to_string()
            .contains("no release 9.9.9")
    );
    let nothing_left = version("2.0.0");
    let said = revoke("1.5.0", Some(&nothing_left))
        .unwrap_err()
        .to_string();
    assert!(said.contains("add the mended release first"), "{said}");
    let gone = revoke("1.5.0", Some(&floor)).unwrap();
    let mut names: Vec<String> = gone.iter().map(|info| info.version.to_string()).collect();
    names.sort();
    assert_eq!(names, ["1.4.0", "1.5.0"]);
    machine.sign(&["tom"]).unwrap();
    let mut host = machine.host();
    let get = |host: &mut crate::support::Host, text: &str| {
        host.download(
            &mut machine.fetch(),
            &format!("vpn-node/{text}/linux-amd64.tar.zst"),
            machine.now,
        )
    };
    assert!(
        get(&mut host, "1.5.0")
            .unwrap_err()
            .starts_with("target_unknown")
    );
    assert!(
        get(&mut host, "1.4.0")
            .unwrap_err()
            .starts_with("target_unknown")
    );
    get(&mut host, "1.5.1").unwrap();
    let published = machine.tree.load().unwrap();
    let left = vpn_node_controller::releases::check::releases(&published.targets.unwrap().role);
    assert_eq!(left.unwrap()[0].info().security_floor, floor);
}

#[test]
fn a_deliberate_way_back_has_older_content_and_a_higher_counter() {
    let machine = Machine::whole();
    let old = machine.release("1.4.0");
    machine.release("1.5.0");
    let again = adding::republish(&machine.tree, &version("1.4.0"), None, days(9), machine.now);
    let again = again.unwrap();
    assert_eq!((again.len(), again[0].counter), (1, 3));
    machine.sign(&["tina"]).unwrap();
    let beta = Word::parse("beta").unwrap();
    let other = adding::republish(
        &machine.tree,
        &version("1.5.0"),
        Some(&beta),
        days(9),
        machine.now,
    );
    assert_eq!(other.unwrap()[0].counter, 1, "another line");
    machine.sign(&["tina"]).unwrap();
    let mut host = machine.host();
    host.download(&mut machine.fetch(), &old.target_path(), machine.now)
        .unwrap();
}

#[test]
fn what_waits_needs_the_right_people_and_changes_take_signatures_away() {
    let mut machine = Machine::empty();
    let online = vpn_node_controller::releases::online::create(&machine.tree)
        .unwrap()
        .0;
    machine.init(online, 2).unwrap();
    machine.add("1.5.0").unwrap();
    let said = machine.sign(&["anna"]).unwrap_err().to_string();
    assert!(said.contains("may sign nothing"), "{said}");
    let outcome = machine.sign(&["tom"]).unwrap();
    assert_eq!((outcome.targets, outcome.waits[0].signed), (None, 1));
    let again = machine.sign(&["tom"]).unwrap();
    assert_eq!(again.waits[0].signed, 1, "one key counts once");
    machine.add("1.5.1").unwrap();
    let outcome = machine.sign(&["tina"]).unwrap();
    assert_eq!(
        outcome.waits[0].signed, 1,
        "the list changed, so its signatures went"
    );
    assert_eq!(machine.sign(&["tom"]).unwrap().targets, Some(2));
    machine.add("1.5.2").unwrap();
    ceremony::discard(&machine.tree).unwrap();
    assert!(matches!(
        machine.sign(&["tom"]),
        Err(ReleaseError::NothingStaged)
    ));
}

#[test]
fn the_controller_renews_in_time_and_after_a_long_sleep() {
    let mut machine = Machine::whole();
    machine.release("1.5.0");
    let before = machine.tree.load().unwrap().last_timestamp;
    assert!(
        look(&machine.tree, machine.now + days(3))
            .unwrap()
            .outcome
            .is_none()
    );
    let later = look(&machine.tree, machine.now + days(4)).unwrap();
    assert!(later.outcome.unwrap().live && later.ends.is_empty());
    assert_eq!(machine.tree.load().unwrap().last_timestamp, before + 1);
    // Asleep for half a year: hosts see an end, and then a fresh one.
    machine.now += days(180);
    let mut host = machine.host();
    let said = host.refresh(&mut machine.fetch(), machine.now).unwrap_err();
    assert!(said.starts_with("expired"), "{said}");
    assert!(look(&machine.tree, machine.now).unwrap().outcome.is_some());
    host.refresh(&mut machine.fetch(), machine.now).unwrap();
    // Nothing else is renewed by itself: people must sign, and are told in time.
    let soon = look(&machine.tree, machine.now + days(160)).unwrap();
    assert_eq!(soon.ends.len(), 2, "{:?}", soon.ends);
    assert!(soon.ends[0].contains("root"), "{:?}", soon.ends);
    assert!(
        look(&machine.tree, machine.now + days(400)).is_err(),
        "an ended root"
    );
}

#[test]
fn whatever_is_wrong_with_what_waits_hosts_get_what_is_published() {
    let machine = Machine::whole();
    let path = machine.release("1.5.0").target_path();
    let staged = machine.tree.dir().join("staged");
    let info = machine.add("1.6.0").unwrap();
    let package = staged.join(format!("targets/vpn-node/{}", info.version));
    let package = std::fs::read_dir(package)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = std::fs::read(&package).unwrap();
    std::fs::write(&package, "torn").unwrap();
    machine.sign(&["tom"]).unwrap_err();
    let later = machine.now + days(4);
    let looked = look(&machine.tree, later).unwrap();
    assert!(looked.outcome.unwrap().live);
    assert!(looked.problem.unwrap().contains("package"));
    let mut host = machine.host();
    host.download(&mut machine.fetch(), &path, later).unwrap();
    // With the package put right, the next look publishes what was signed.
    std::fs::write(&package, good).unwrap();
    assert_eq!(look(&machine.tree, later).unwrap().targets, Some(3));
    let other = info.target_path();
    host.download(&mut machine.fetch(), &other, later).unwrap();
    std::fs::write(staged.join("targets.json"), "no json").unwrap();
    let looked = look(&machine.tree, later + days(4)).unwrap();
    assert!(looked.outcome.unwrap().live && looked.problem.is_some());
    assert!(
        look(&machine.tree, later + days(4))
            .unwrap()
            .outcome
            .is_none()
    );
}

#[test]
fn root_and_list_are_renewed_by_people() {
    let mut machine = Machine::whole();
    machine.release("1.5.0");
    machine.now += days(350);
    for role in [TopRole::Root, TopRole::Targets] {
        ceremony::renew(&machine.tree, role, days(365), machine.now).unwrap();
    }
    let outcome = machine.sign(&["ben", "tom"]).unwrap();
    assert_eq!((outcome.root, outcome.targets), (None, Some(3)));
    assert_eq!(machine.sign(&["anna"]).unwrap().root, Some(2));
    machine.now += days(300);
    look(&machine.tree, machine.now).unwrap();
    let summary = machine
        .host()
        .refresh(&mut machine.fetch(), machine.now)
        .unwrap();
    assert_eq!(summary.versions[&TopRole::Root], 2);
}

#[test]
fn a_clock_that_went_back_signs_nothing() {
    let machine = Machine::whole();
    machine.release("1.5.0");
    let before = crate::support::snapshot(machine.tree.dir());
    let long_ago = "1970-01-01T00:01:00Z".parse().unwrap();
    for refused in [
        publish::advance(&machine.tree, Some(0), long_ago).map(drop),
        adding::add(&machine.tree, &machine.package("1.6.0"), &wish(), long_ago).map(drop),
        ceremony::renew(&machine.tree, TopRole::Root, days(9), long_ago),
        // The running controller says so as well, instead of finding that nothing is due.
        look(&machine.tree, long_ago).map(drop),
    ] {
        assert!(
            matches!(refused, Err(ReleaseError::ClockBehind { .. })),
            "{refused:?}"
        );
    }
    // Far ahead: everything has ended, so nothing is signed either.
    let far = "2099-01-01T00:00:00Z".parse().unwrap();
    let refused = publish::advance(&machine.tree, Some(0), far).unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");
    assert_eq!(before, crate::support::snapshot(machine.tree.dir()));
}

#[test]
fn old_versions_go_and_nothing_that_is_named() {
    let machine = Machine::whole();
    machine.release("1.5.0");
    let path = machine.release("1.5.1").target_path();
    adding::revoke(
        &machine.tree,
        &version("1.5.0"),
        None,
        None,
        days(9),
        machine.now,
    )
    .unwrap();
    machine.sign(&["tom"]).unwrap();
    for _ in 0..8 {
        ceremony::renew(&machine.tree, TopRole::Targets, days(365), machine.now).unwrap();
        machine.sign(&["tom"]).unwrap();
        machine
            .host()
            .download(&mut machine.fetch(), &path, machine.now)
            .unwrap();
    }
    let metadata = std::fs::read_dir(machine.tree.dir().join("metadata"))
        .unwrap()
        .count();
    assert_eq!(
        metadata,
        1 + 5 + 5 + 1,
        "root, five of each kind, timestamp"
    );
    assert!(!machine.tree.dir().join("targets/vpn-node/1.5.0").exists());
}

#[test]
fn versions_go_on_above_what_hosts_have_after_a_restored_backup() {
    let machine = Machine::whole();
    let mut host = machine.host();
    let backup = crate::support::snapshot(machine.tree.dir());
    for _ in 0..3 {
        publish::advance(&machine.tree, Some(0), machine.now).unwrap();
    }
    host.refresh(&mut machine.fetch(), machine.now).unwrap();
    std::fs::remove_dir_all(machine.tree.dir()).unwrap();
    for (path, bytes) in &backup {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let said = host.refresh(&mut machine.fetch(), machine.now).unwrap_err();
    assert!(said.starts_with("rollback"), "{said}");
    publish::advance(&machine.tree, Some(4), machine.now).unwrap();
    host.refresh(&mut machine.fetch(), machine.now).unwrap();
}
