//! Power cuts, full and read-only disks, torn files: at every single change on disk.

use nix::errno::Errno;

use super::*;
use crate::recovery::apply::to_rest;
use crate::slots::Links;

/// More changes than any run makes.
const MANY: usize = 1000;

/// What a cut run must have become after the power came back and the agent asked on.
fn assert_healed(world: &mut World, at: usize) {
    world.assert_at_rest();
    let journal = world.journal();
    assert!(
        journal.is_none_or(|journal| journal.phase <= Phase::Staged || journal.phase.is_over()),
        "change {at}: {:?}",
        world.journal()
    );
    let again = world.run();
    world.assert_at_rest();
    if world.layout.incoming().join("request.json").exists() {
        panic!("change {at}: the request is still there after {again:?}");
    }
    assert_eq!(world.stable(), "1.5.0", "change {at}: {again:?}");
    assert_eq!(
        history::read(&world.layout).unwrap().len(),
        1,
        "change {at}"
    );
}

#[test]
fn a_power_cut_at_any_change_leaves_one_version_that_works() {
    for at in 1..MANY {
        let mut world = World::new();
        world.ask("1.5.0", 1);
        world.breaker.die_at(at);
        let ended = world.run();
        if !world.breaker.broke() {
            assert!(ended.is_ok());
            assert!(at > 80, "a run makes more changes than {at}");
            return;
        }
        world.reboot();
        assert_healed(&mut world, at);
    }
    panic!("a run makes more than {MANY} changes");
}

#[test]
fn a_power_cut_on_the_way_back_leaves_the_old_version() {
    for at in 1..MANY {
        let mut world = World::new();
        world.judge.ending = sick();
        let breaker = world.breaker.clone();
        // Only the changes after the verdict.
        world.judge.meanwhile = Some(Box::new(move |_| breaker.die_at(at)));
        world.ask("1.5.0", 1);
        let ended = world.run().unwrap_err();
        if !world.breaker.broke() {
            assert_eq!(ended.code, "crashed");
            return;
        }
        world.judge.meanwhile = None;
        // And once more, during the recovery.
        world.breaker.die_at(at % 9 + 1);
        let _ = world.with(to_rest);
        world.reboot();
        world.assert_at_rest();
        let _ = world.run();
        world.assert_at_rest();
        assert_eq!(world.stable(), "1.4.0", "change {at}");
        assert!(!Links::read(&world.layout).lead_to(&Version::new(1, 5, 0)));
    }
    panic!("the way back makes more than {MANY} changes");
}

#[test]
fn three_reboots_during_the_trial_block_the_version() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    for reboots in 1..=3 {
        let breaker = world.breaker.clone();
        world.judge.meanwhile = Some(Box::new(move |_| breaker.die_at(1)));
        world.run().unwrap_err();
        world.reboot();
        world.assert_at_rest();
        assert_eq!(world.stable(), "1.4.0");
        assert_eq!(world.journal().unwrap().phase.is_over(), reboots == 3);
    }
    world.judge.meanwhile = None;
    assert_eq!(world.run().unwrap(), Outcome::Nothing);
    assert_eq!(world.judge.watched, 3);
    let line = history::read(&world.layout).unwrap().remove(0);
    assert_eq!(line.code.as_deref(), Some("interrupted_too_often"));
    world.ask("1.5.0", 2);
    assert_eq!(world.run().unwrap_err().code, "blocked");
}

#[test]
fn a_disk_that_is_full_at_any_step_changes_nothing_that_runs() {
    full_or_read_only(Errno::ENOSPC, "no_space", 5);
}

#[test]
fn a_disk_that_turns_read_only_at_any_step_changes_nothing_that_runs() {
    full_or_read_only(Errno::EROFS, "read_only", 11);
}

/// Breaks at every `stride`-th change; `UPDATER_EVERY_STEP=1` leaves none out.
fn full_or_read_only(errno: Errno, code: &str, stride: usize) {
    let mut told = 0;
    let every = std::env::var_os("UPDATER_EVERY_STEP").is_some();
    let stride = if every { 1 } else { stride };
    for at in (1..MANY).step_by(stride) {
        let mut world = World::new();
        world.ask("1.5.0", 1);
        world.breaker.fail_at(at, errno);
        let ended = world.run();
        let broke = world.breaker.broke();
        assert!(world.processes.borrow().stable.is_some(), "change {at}");
        assert_eq!(world.processes.borrow().experiment, None, "change {at}");
        world.stable();
        world.breaker.mend();
        if !broke {
            assert!(told > at / stride / 2, "{told} of {at} said {code}");
            return;
        }
        told += usize::from(ended.is_err_and(|error| error.code == code));
        // Room again: the next start heals, and the agent may ask again.
        let _ = world.run();
        world.assert_at_rest();
        world.ask("1.5.0", 2);
        let again = world.run();
        assert_eq!(world.stable(), "1.5.0", "change {at}: {again:?}");
        world.assert_at_rest();
    }
    panic!("a run makes more than {MANY} changes");
}

#[test]
fn a_torn_side_file_blocks_no_recovery() {
    let names = [
        "journal.a",
        "journal.b",
        "history.jsonl",
        "status.json",
        "policy.json",
        "packages/1.4.0",
        "lock",
        "trust/highwater.a",
        "trust/timestamp.json",
    ];
    for name in names {
        for content in [&b""[..], b"\0\0\0\0", b"{\"format\":", b"\xff\xfe"] {
            let mut world = World::new();
            world.ask("1.5.0", 1);
            let breaker = world.breaker.clone();
            world.judge.meanwhile = Some(Box::new(move |_| breaker.die_at(1)));
            world.run().unwrap_err();
            let path = world.layout.state().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            world.reboot();
            world.assert_at_rest();
            assert_eq!(world.stable(), "1.4.0", "{name}");
        }
    }
}

#[test]
fn both_journals_torn_during_the_trial_end_on_stable() {
    let mut world = World::new();
    world.ask("1.5.0", 1);
    let breaker = world.breaker.clone();
    world.judge.meanwhile = Some(Box::new(move |_| breaker.die_at(1)));
    world.run().unwrap_err();
    for path in world.layout.journal() {
        fs::write(path, "torn").unwrap();
    }
    assert_ne!(world.links().experiment, Link::Absent);
    world.reboot();
    world.assert_at_rest();
    assert_eq!(world.stable(), "1.4.0");
}

#[test]
fn a_lost_high_water_mark_lets_nothing_in() {
    let mut world = World::new();
    for name in ["highwater.a", "highwater.b"] {
        fs::write(world.layout.trust().join(name), "torn").unwrap();
    }
    world.ask("1.5.0", 1);
    let before = world.fingerprint();
    let error = world.run().unwrap_err();
    assert_eq!(error.code, "trust_store_unreadable");
    assert_eq!(world.fingerprint(), before);
    world.assert_at_rest();
}

#[test]
fn a_torn_policy_holds_everything_back() {
    let mut world = World::new();
    fs::write(world.layout.policy(), "{\"format\":1,\"pin").unwrap();
    world.ask("1.5.0", 1);
    assert_eq!(world.run().unwrap_err().code, "policy_unreadable");
    world.assert_at_rest();
}
