//! An agent that an attacker runs: it may put anything into its directory, at any moment.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::testing::repository::Repository;

/// Where the package of 1.5.0 lies in the agent's directory.
fn package(world: &World) -> PathBuf {
    let files = world.repository.files();
    let path = files.keys().find(|path| path.starts_with("targets/"));
    world.layout.incoming().join(path.unwrap())
}

/// The run is refused, and what runs and what is trusted stay as they are, to the byte.
fn assert_refused(mut world: World, code: &str) {
    let before = world.fingerprint();
    let error = world.run().unwrap_err();
    assert_eq!(error.code, code, "{error}");
    let trust = world.layout.trust();
    let without = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        // Good metadata may be kept even if the package behind it is not.
        files
            .into_iter()
            .filter(|(path, _)| !path.starts_with(&trust))
            .collect()
    };
    assert_eq!(without(world.fingerprint()), without(before));
    world.assert_at_rest();
    assert_eq!(world.judge.watched, 0);
    let line = history::read(&world.layout).unwrap().remove(0);
    assert_eq!(line.code.as_deref(), Some(code));
    assert!(!world.layout.incoming().join("request.json").exists());
}

#[test]
fn a_changed_package_is_refused() {
    let world = World::new();
    world.ask("1.5.0", 1);
    let path = package(&world);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_refused(world, "target_hash_mismatch");
}

#[test]
fn a_package_that_is_too_short_or_endless_is_refused() {
    let world = World::new();
    world.ask("1.5.0", 1);
    let path = package(&world);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_refused(world, "target_length_mismatch");

    let world = World::new();
    world.ask("1.5.0", 1);
    let file = fs::File::create(package(&world)).unwrap();
    // A hole: one tebibyte that costs the attacker nothing.
    file.set_len(1 << 40).unwrap();
    assert_refused(world, "target_length_mismatch");
}

#[test]
fn a_package_that_is_a_link_a_pipe_or_a_second_name_is_not_read() {
    type Place = fn(&Path, &Path);
    let places: [Place; 4] = [
        |path, aside| symlink(aside, path).unwrap(),
        |path, aside| fs::hard_link(aside, path).unwrap(),
        |path, _| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        |path, _| fs::create_dir(path).unwrap(),
    ];
    for place in places {
        let world = World::new();
        world.ask("1.5.0", 1);
        let path = package(&world);
        let aside = world.layout.root().join("aside");
        fs::rename(&path, &aside).unwrap();
        place(&path, &aside);
        assert_refused(world, "incoming_unsafe");
    }
}

#[test]
fn a_package_that_is_not_there_is_told() {
    let world = World::new();
    world.ask("1.5.0", 1);
    fs::remove_file(package(&world)).unwrap();
    assert_refused(world, "incoming_missing");
}

#[test]
fn metadata_that_is_a_link_or_huge_is_refused() {
    let world = World::new();
    world.ask("1.5.0", 1);
    let path = world.layout.incoming().join("metadata/timestamp.json");
    fs::remove_file(&path).unwrap();
    symlink("/proc/self/environ", &path).unwrap();
    assert_refused(world, "incoming_unsafe");

    let world = World::new();
    world.ask("1.5.0", 1);
    let path = world.layout.incoming().join("metadata/timestamp.json");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_refused(world, "metadata_too_large");
}

#[test]
fn a_repository_of_another_signer_is_refused() {
    let mut world = World::new();
    world.repository = Repository::of(&[66; 32]);
    world.repository.add(&Version::new(1, 5, 0), |_| ());
    world.ask("1.5.0", 1);
    assert_refused(world, "unsigned");
}

#[test]
fn a_request_that_is_no_request_is_answered_and_removed() {
    for bad in ["", "{}", "[1]", "\u{0}"] {
        let world = World::new();
        world.ask("1.5.0", 1);
        fs::write(world.layout.incoming().join("request.json"), bad).unwrap();
        assert_refused(world, "request_invalid");
    }
    for (version, target) in [
        ("1.5.0", "vpn-node/1.4.9/linux-amd64.tar.zst"),
        ("1.5.0", "vpn-node/1.5.0/plan9-mips.tar.zst"),
        ("1.5.0", "../../etc/passwd"),
        ("../1.5.0", "vpn-node/1.5.0/linux-amd64.tar.zst"),
        ("1.5.0+x", "vpn-node/1.5.0+x/linux-amd64.tar.zst"),
    ] {
        let world = World::new();
        world.ask("1.5.0", 1);
        let request = Request {
            format: 1,
            id: "6f1f0c1e-0000-4000-8000-000000000001".into(),
            deployment: None,
            version: version.into(),
            target: target.into(),
        };
        let text = serde_json::to_vec(&request).unwrap();
        fs::write(world.layout.incoming().join("request.json"), text).unwrap();
        assert_refused(world, "request_invalid");
    }
}

#[test]
fn an_answered_request_is_not_done_twice() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    world.run().unwrap();
    world.ask("1.5.0", 1);
    assert_eq!(world.run().unwrap(), Outcome::Nothing);
    assert_eq!(history::read(&world.layout).unwrap().len(), 1);
    assert!(!world.layout.incoming().join("request.json").exists());
}

/// CVE-2020-25860: what was verified must be what is installed, however fast it is exchanged.
/// `UPDATER_SWAP_ROUNDS` makes it longer.
#[test]
fn a_swap_loop_between_verification_and_installation_changes_nothing() {
    let rounds = std::env::var("UPDATER_SWAP_ROUNDS");
    let rounds: u32 = rounds.map_or(12, |text| text.parse().unwrap());
    let mut bad = Repository::of(&[66; 32]);
    bad.add(&Version::new(1, 5, 0), |info| info.counter = 99);
    let mut installed = 0;
    for round in 0..rounds {
        let mut world = World::new();
        let good = world.repository.files();
        // The attacker's package stands at the address of the good one.
        let mut evil: BTreeMap<String, Vec<u8>> = good.clone();
        let at = good
            .keys()
            .find(|path| path.starts_with("targets/"))
            .unwrap();
        let mut other = good[at].clone();
        let end = other.len() - 1;
        other[end / 2] ^= 0x55;
        evil.insert(at.clone(), other);
        evil.extend(
            bad.files()
                .into_iter()
                .filter(|(path, _)| path.starts_with("metadata/")),
        );
        world.ask("1.5.0", 1);

        let stop = Arc::new(AtomicBool::new(false));
        let swapper = {
            let (stop, incoming) = (stop.clone(), world.layout.incoming());
            let (good, evil) = (good.clone(), evil);
            std::thread::spawn(move || {
                let mut n = round;
                while !stop.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let files = if n & 4096 == 0 { &good } else { &evil };
                    for (path, bytes) in files {
                        let path = incoming.join(path);
                        if n & 8192 == 0 {
                            // In place, under the reader's hands.
                            fs::write(&path, bytes).unwrap();
                        } else {
                            let aside = path.with_extension("aside");
                            fs::write(&aside, bytes).unwrap();
                            fs::rename(&aside, &path).unwrap();
                        }
                    }
                }
            })
        };
        let ended = world.run();
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        world.assert_at_rest();
        match ended {
            Ok(_) => {
                installed += 1;
                assert_eq!(world.stable(), "1.5.0");
                let sha256 = slots::package_of(&world.layout, &World::slot("1.5.0")).unwrap();
                let package = world.repository.package_of("1.5.0");
                assert_eq!(sha256, vpn_node_release::digest::Digest::of(package));
            }
            Err(error) => {
                assert_eq!(world.stable(), "1.4.0", "{error}");
                assert!(!world.layout.version(&Version::new(1, 5, 0)).exists());
            }
        }
    }
    println!("{installed} of {rounds} rounds installed the good package");
}
