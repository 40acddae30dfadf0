//! What happens to hosts in ordinary life.

use std::os::unix::fs::symlink;

use super::*;
use crate::clock::Now;
use crate::hold::Hold;
use crate::probation::Ending;

/// Refused with nothing unpacked and nothing tried.
fn assert_refused(world: &mut World, version: &str, code: &str) {
    let before = world.stable();
    world.ask(version, 1);
    let error = world.run().unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::Refused, code), "{error}");
    world.assert_at_rest();
    assert_eq!(world.stable(), before);
    assert_eq!(world.judge.watched, 0);
    let journal = world.journal().unwrap();
    assert_eq!(journal.outcome, Some(handover::Phase::Refused));
}

#[test]
fn a_release_that_needs_a_newer_version_first_is_refused() {
    let mut world = World::new();
    world.repository.add(&Version::new(2, 0, 0), |info| {
        info.min_version_required = Some(Version::new(1, 5, 0));
    });
    assert_refused(&mut world, "2.0.0", "min_version_unmet");
    // The refusal barred no way: the version in between still goes in, then this one.
    for (version, id) in [("1.5.0", 2), ("2.0.0", 3)] {
        world.ask(version, id);
        world.run().unwrap();
        assert_eq!(world.stable(), version);
    }
}

#[test]
fn the_version_that_runs_is_not_installed_again() {
    let mut world = World::new();
    world.repository.add(&Version::new(1, 4, 0), |_| ());
    assert_refused(&mut world, "1.4.0", "already_installed");
}

#[test]
fn a_pin_and_an_opt_out_of_root_hold() {
    let hold = |world: &World, change: &dyn Fn(&mut Hold)| {
        let mut hold = Hold::read(&world.layout).unwrap();
        change(&mut hold);
        hold.write(&world.layout, &crate::disk::Disk::default())
            .unwrap();
    };
    let mut world = World::new();
    hold(&world, &|hold| hold.disabled = true);
    assert_refused(&mut world, "1.5.0", "updates_disabled");
    let mut world = World::new();
    hold(&world, &|hold| hold.pinned = Some(Version::new(1, 4, 0)));
    assert_refused(&mut world, "1.5.0", "pinned");
}

#[test]
fn a_block_ends_by_itself_or_by_root() {
    let mut world = World::new();
    world.judge.ending = Ending::Revert {
        code: UpdaterCode::NeverHeartbeats,
        detail: "no attempt in 60 s".into(),
    };
    world.ask("1.5.0", 1);
    assert_eq!(world.run().unwrap_err().code, "never_heartbeats");
    world.judge.ending = Ending::Keep { remark: None };
    world.ask("1.5.0", 2);
    assert_eq!(world.run().unwrap_err().code, "blocked");
    let now = world.clock.now.get();
    let day = std::time::Duration::from_secs(86_400);
    world.clock.now.set(Now {
        wall_ms: now.wall_ms + 86_400_000,
        boot: now.boot + day,
    });
    world.ask("1.5.0", 3);
    world.run().unwrap();
    assert_eq!(world.stable(), "1.5.0");
}

#[test]
fn a_clock_of_1970_or_2099_locks_nobody_out() {
    let mut world = World::new();
    let right = world.clock.now.get();
    let set = |world: &World, wall_ms| world.clock.now.set(Now { wall_ms, ..right });
    // Later than all metadata: it looks expired, and nothing of that sticks.
    set(&world, 4_070_908_800_000);
    world.ask("1.5.0", 1);
    assert_eq!(world.run().unwrap_err().code, "expired");
    // Earlier than everything: what is signed cannot lie in the future.
    set(&world, 0);
    world.ask("1.5.0", 2);
    world.run().unwrap();
    assert_eq!(world.stable(), "1.5.0");
    world.assert_at_rest();
}

#[test]
fn a_host_that_was_off_past_the_deadline_tries_again_and_installs() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    let breaker = world.breaker.clone();
    world.judge.meanwhile = Some(Box::new(move |_| breaker.die_at(1)));
    world.run().unwrap_err();
    world.judge.meanwhile = None;
    let now = world.clock.now.get();
    world.clock.now.set(Now {
        wall_ms: now.wall_ms + 3 * 86_400_000,
        boot: std::time::Duration::from_secs(20),
    });
    world.reboot();
    world.assert_at_rest();
    assert_eq!(world.stable(), "1.4.0");
    world.run().unwrap();
    assert_eq!(world.stable(), "1.5.0");
}

#[test]
fn a_newer_request_takes_the_place_of_one_that_was_interrupted() {
    let mut world = World::new();
    world.repository.add(&Version::new(1, 6, 0), |_| ());
    world.ask("1.5.0", 1);
    let breaker = world.breaker.clone();
    world.judge.meanwhile = Some(Box::new(move |_| breaker.die_at(1)));
    world.run().unwrap_err();
    world.judge.meanwhile = None;
    world.ask("1.6.0", 2);
    world.reboot();
    world.run().unwrap();
    assert_eq!(world.stable(), "1.6.0");
    let lines = history::read(&world.layout).unwrap();
    let told: Vec<_> = lines
        .iter()
        .map(|line| (line.version.as_deref().unwrap(), line.event.as_str()))
        .collect();
    assert_eq!(told, [("1.5.0", "rolled_back"), ("1.6.0", "installed")]);
}

#[test]
fn an_experiment_that_somebody_started_by_hand_ends_first() {
    let mut world = World::new();
    symlink("system", world.layout.experiment()).unwrap();
    world.processes.borrow_mut().experiment = Some(world.layout.system());
    world.processes.borrow_mut().stable = None;
    world.ask("1.5.0", 1);
    world.run().unwrap();
    world.assert_at_rest();
    assert_eq!(world.stable(), "1.5.0");
}

#[test]
fn an_experiment_that_cannot_be_started_is_sent_away() {
    let mut world = World::new();
    world.processes.borrow_mut().broken = true;
    world.ask("1.5.0", 1);
    let error = world.run().unwrap_err();
    assert_eq!((error.kind, error.code), (Kind::RolledBack, "start_failed"));
    world.assert_at_rest();
    assert_eq!(world.stable(), "1.4.0");
}

#[test]
fn dpkg_that_begins_while_it_is_unpacked_stops_the_switch() {
    let world = World::new();
    let path = world.layout.package_manager_locks()[0].clone();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::create(&path).unwrap();
    let mut world = world;
    world.ask("1.5.0", 1);
    // A lock of an open file: it conflicts with those of this very process too.
    let lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as nix::libc::c_short,
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    let error = world.run().unwrap_err();
    assert_eq!(
        (error.kind, error.code),
        (Kind::Failed, "package_manager_busy")
    );
    world.assert_at_rest();
    drop(file);
    world.ask("1.5.0", 2);
    world.run().unwrap();
}

#[test]
fn a_package_that_is_purged_during_the_trial_is_not_brought_back() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    world.judge.meanwhile = Some(Box::new(|layout| {
        fs::remove_dir_all(layout.opt()).unwrap();
    }));
    let _ = world.run();
    world.reboot_without_stable();
    assert!(!world.layout.stable().exists());
    assert!(!world.layout.system().exists());
    // Installed again, it is a host like any other.
    let package = crate::testing::repository::package(
        &Version::new(1, 4, 0),
        crate::testing::repository::FORMAT,
    );
    fs::create_dir_all(world.layout.opt()).unwrap();
    let version = Version::new(1, 4, 0);
    crate::testing::repository::unpack_to(&world.layout.opt(), "system", &package, &version);
    world.judge.meanwhile = None;
    world.reboot();
    world.assert_at_rest();
    world.ask("1.5.0", 2);
    world.run().unwrap();
    assert_eq!(world.stable(), "1.5.0");
}

#[test]
fn a_package_that_is_removed_during_the_trial_leaves_what_its_links_left() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    // `apt remove`: system/ and the link to it go; what the updater unpacked stays.
    world.judge.meanwhile = Some(Box::new(|layout| {
        fs::remove_dir_all(layout.system()).unwrap();
        fs::remove_file(layout.stable()).unwrap();
    }));
    world.run().unwrap();
    assert_eq!(world.stable(), "1.5.0");
    assert_eq!(world.links().previous, Link::Absent);
}

#[test]
fn cleaning_up_spares_the_live_the_previous_and_the_unknown() {
    let mut world = World::new();
    world.config.keep = 0;
    let stranger = world.layout.versions().join("1.0.0");
    fs::create_dir_all(stranger.join("bin")).unwrap();
    fs::write(stranger.join("bin/vpn-node-agent"), "mine").unwrap();
    for minor in 6..9 {
        world.repository.add(&Version::new(1, minor, 0), |_| ());
    }
    for (version, id) in [("1.5.0", 1), ("1.6.0", 2), ("1.7.0", 3)] {
        world.ask(version, id);
        world.run().unwrap();
        if version == "1.5.0" {
            symlink(
                "../opt/vpn-node/versions/1.5.0",
                world.layout.root().join("x"),
            )
            .unwrap();
            symlink("./versions/1.5.0/bin", world.layout.opt().join("mine")).unwrap();
        }
    }
    // 1.8.0 fails: its slot serves nobody.
    world.judge.ending = sick();
    world.ask("1.8.0", 4);
    world.run().unwrap_err();
    world.judge.ending = Ending::Keep { remark: None };
    let there =
        |world: &World, version: &str| world.layout.version(&version.parse().unwrap()).exists();
    assert!(stranger.exists(), "without our mark it is not ours");
    assert!(there(&world, "1.5.0"), "a link of root's own leads into it");
    assert!(there(&world, "1.6.0") && there(&world, "1.7.0"));
    fs::remove_file(world.layout.opt().join("mine")).unwrap();
    world.repository.add(&Version::new(1, 9, 0), |_| ());
    world.ask("1.9.0", 5);
    world.run().unwrap();
    assert!(!there(&world, "1.5.0") && !there(&world, "1.6.0") && !there(&world, "1.8.0"));
    assert!(there(&world, "1.7.0") && there(&world, "1.9.0") && stranger.exists());
    let records = fs::read_dir(world.layout.packages()).unwrap().count();
    assert_eq!(records, 2);
}

#[test]
fn a_slot_that_is_there_already_is_used_again_if_it_is_whole() {
    let mut world = World::new();
    world.judge.ending = sick();
    world.ask("1.5.0", 1);
    world.run().unwrap_err();
    let slot = world.layout.version(&Version::new(1, 5, 0));
    let inode =
        |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let first = inode(&slot.join("bin/vpn-node-agent"));
    let mut hold = Hold::read(&world.layout).unwrap();
    hold.unblock(&Version::new(1, 5, 0));
    hold.write(&world.layout, &crate::disk::Disk::default())
        .unwrap();

    world.ask("1.5.0", 2);
    world.run().unwrap_err();
    assert_eq!(inode(&slot.join("bin/vpn-node-agent")), first);

    // Changed by a hand or a disk: made anew.
    fs::write(slot.join("bin/vpn-node-agent"), "other").unwrap();
    let mut hold = Hold::read(&world.layout).unwrap();
    hold.unblock(&Version::new(1, 5, 0));
    hold.write(&world.layout, &crate::disk::Disk::default())
        .unwrap();
    world.judge.ending = Ending::Keep { remark: None };
    world.ask("1.5.0", 3);
    world.run().unwrap();
    assert_eq!(world.stable(), "1.5.0");
}

#[test]
fn a_package_that_is_installed_while_the_baseline_is_taken_is_not_undone() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    world.run().unwrap();
    world.repository.add(&Version::new(1, 6, 0), |_| ());
    world.judge.before = Some(Box::new(|layout| {
        fs::remove_file(layout.stable()).unwrap();
        symlink("system", layout.stable()).unwrap();
    }));
    world.ask("1.6.0", 2);
    let error = world.run().unwrap_err();
    assert_eq!(error.code, "installation_gone");
    assert_eq!(world.judge.watched, 1, "1.6.0 was not started");
    assert_eq!(world.links().stable, Link::To(Slot::System));
    assert_eq!(world.links().experiment, Link::Absent);
}

#[test]
fn a_version_that_cannot_read_the_state_is_refused() {
    let mut world = World::new();
    fs::write(world.layout.state_format(), "3\n").unwrap();
    assert_refused(&mut world, "1.5.0", "state_unreadable");
}

#[test]
fn a_file_of_root_is_installed_like_a_request() {
    let mut world = World::new();
    let file = world.layout.root().join("offline");
    world.repository.add(&Version::new(1, 6, 0), |_| ());
    world.repository.export_to(&file);
    let outcome = world.with(|host| apply(host, &file, None)).unwrap();
    let version = Version::new(1, 6, 0);
    assert_eq!(
        outcome,
        Outcome::Installed {
            version,
            remark: None
        }
    );
    world.assert_at_rest();
    let older = Version::new(1, 5, 0);
    let error = world
        .with(|host| apply(host, &file, Some(older)))
        .unwrap_err();
    assert_eq!(error.code, "counter_lower");
    world.assert_at_rest();
}

#[test]
fn an_experiment_that_cannot_be_stopped_keeps_its_journal_until_it_is() {
    let mut world = World::new();
    world.judge.ending = sick();
    let processes = world.processes.clone();
    world.judge.meanwhile = Some(Box::new(move |_| processes.borrow_mut().stuck = true));
    world.ask("1.5.0", 1);
    world.run().unwrap_err();
    assert_eq!(world.journal().unwrap().phase, Phase::Reverting);
    assert_ne!(world.links().experiment, Link::Absent);
    assert!(history::read(&world.layout).unwrap().is_empty());

    world.processes.borrow_mut().stuck = false;
    assert_eq!(world.run().unwrap(), Outcome::Nothing);
    world.assert_at_rest();
    assert_eq!(history::read(&world.layout).unwrap().len(), 1);
    world.ask("1.5.0", 2);
    assert_eq!(world.run().unwrap_err().code, "blocked");
}

#[test]
fn a_request_that_comes_while_another_ends_is_not_lost() {
    let mut world = World::new();
    world.repository.add(&Version::new(1, 6, 0), |_| ());
    world.ask("1.5.0", 1);
    let path = world.layout.incoming().join("request.json");
    let first = fs::read(&path).unwrap();
    world.ask("1.6.0", 2);
    let second = fs::read(&path).unwrap();
    fs::write(&path, first).unwrap();
    world.judge.meanwhile = Some(Box::new(move |layout| {
        fs::write(layout.incoming().join("request.json"), &second).unwrap();
    }));
    world.run().unwrap();
    assert_eq!(world.stable(), "1.5.0");
    world.judge.meanwhile = None;
    world.run().unwrap();
    assert_eq!(world.stable(), "1.6.0");
    assert!(!path.exists());
}
