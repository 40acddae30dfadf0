//! A crash between any two files, two commands at once, and a full disk.

use std::fs;
use std::path::Path;

use vpn_node_controller::releases::keeper::look;
use vpn_node_controller::releases::{ReleaseError, publish};

use crate::support::{Machine, snapshot};

/// The files that one publication writes, in its order.
const ORDER: [&str; 4] = [
    "targets/",
    "2.targets.json",
    "2.snapshot.json",
    "timestamp.json",
];

#[test]
fn after_a_crash_at_every_step_hosts_go_on_and_the_next_look_finishes() {
    for done in 0..=ORDER.len() {
        let machine = Machine::whole();
        let path = machine.add("1.5.0").unwrap().target_path();
        let before = snapshot(machine.tree.dir());
        machine.sign(&["tom"]).unwrap();
        let after = snapshot(machine.tree.dir());
        // What is there when the power goes: the new files so far, everything old, nothing removed.
        for path in after.keys().filter(|path| !before.contains_key(*path)) {
            let written = ORDER[..done]
                .iter()
                .any(|part| path.to_string_lossy().contains(part));
            if !written {
                fs::remove_file(path).unwrap();
            }
        }
        for (path, bytes) in &before {
            let is_last =
                path.ends_with("timestamp.json") && path.to_string_lossy().contains("metadata");
            let moved = path.to_string_lossy().contains("staged/targets/vpn-node") && done > 0;
            let is_replaced = is_last && done == ORDER.len();
            if !is_replaced && !moved {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
        // The signature that was there when it was published.
        let signed = after
            .iter()
            .find(|(path, _)| path.ends_with("2.targets.json"))
            .unwrap()
            .1;
        fs::write(machine.tree.dir().join("staged/targets.json"), signed).unwrap();
        let mut host = machine.host();
        host.refresh(&mut machine.fetch(), machine.now)
            .unwrap_or_else(|said| panic!("{done}: {said}"));
        look(&machine.tree, machine.now).unwrap();
        host.download(&mut machine.fetch(), &path, machine.now)
            .unwrap_or_else(|said| panic!("{done}: {said}"));
    }
}

#[test]
fn two_commands_at_once_do_not_mix() {
    let machine = Machine::whole();
    let lock = fs::File::open(machine.tree.dir().join("lock")).unwrap();
    let held = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock);
    let held = held.map_err(|(_, errno)| errno).unwrap();
    let said = machine.add("1.5.0").unwrap_err();
    assert!(said.to_string().contains("another command works"), "{said}");
    assert!(matches!(machine.sign(&["tom"]), Err(ReleaseError::Disk(_))));
    drop(held);
    machine.release("1.5.0");
}

#[test]
fn many_at_once_publish_each_once() {
    let machine = Machine::whole();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    // Whoever finds it locked is told so; nobody waits for ever, nobody tears.
                    let _ = publish::advance(&machine.tree, Some(0), machine.now);
                }
            });
        }
    });
    machine
        .host()
        .refresh(&mut machine.fetch(), machine.now)
        .unwrap();
}

/// A small file system of its own, for root alone; unmounted when it is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn at(dir: &Path) -> Option<Self> {
        use nix::mount::{MsFlags, mount};
        fs::create_dir(dir).unwrap();
        let options = Some("size=300k");
        let mounted = mount(Some("none"), dir, Some("tmpfs"), MsFlags::empty(), options);
        mounted.is_ok().then(|| Self(dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

#[test]
fn a_full_disk_changes_nothing_that_is_published() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("small");
    let Some(_mounted) = SmallDisk::at(&place) else {
        eprintln!("skipped: only root can mount a small file system");
        return;
    };
    let mut machine = Machine::empty();
    machine.tree = vpn_node_controller::releases::Tree::at(place.join("releases"));
    let online = vpn_node_controller::releases::online::create(&machine.tree)
        .unwrap()
        .0;
    machine.init(online, 1).unwrap();
    let path = machine.release("1.5.0").target_path();
    let mut refused = 0;
    // From "no room for the package" to "no room for the last file", in steps of a page.
    for filler in (0..75).map(|pages| pages * 4096) {
        fs::write(place.join("filler"), vec![0; filler]).ok();
        let before = snapshot(&machine.tree.dir().join("metadata"));
        let done = machine.add("1.6.0").and_then(|_| machine.sign(&["tom"]));
        if let Err(error) = done {
            refused += 1;
            assert!(
                error.to_string().contains("space") || error.to_string().contains("exists"),
                "{error}"
            );
            let after = snapshot(&machine.tree.dir().join("metadata"));
            for name in before.keys() {
                assert!(after.contains_key(name), "{name:?}");
            }
        }
        machine
            .host()
            .download(&mut machine.fetch(), &path, machine.now)
            .unwrap();
        fs::remove_file(place.join("filler")).unwrap();
    }
    assert!(refused > 0);
    if machine
        .tree
        .load()
        .unwrap()
        .targets
        .unwrap()
        .role
        .targets
        .len()
        == 1
    {
        let _ = machine.add("1.6.0");
        machine.sign(&["tom"]).unwrap();
    }
    let other = "vpn-node/1.6.0/linux-amd64.tar.zst";
    machine
        .host()
        .download(&mut machine.fetch(), other, machine.now)
        .unwrap();
}
