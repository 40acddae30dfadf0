//! Copies of a host and old backups of one: both holders stop, an operator keeps one of them, and
//! the other never speaks again.

use std::fs;
use std::time::{Duration, Instant};

use vpn_node_controller::clock;
use vpn_node_controller::rules::lifecycle::ROTATE_DEADLINE_S;
use vpn_node_controller::rules::state::Kept;
use vpn_node_controller::store::{CloneResolution, SuspicionRow};

use super::{another_heartbeat, copy, detail, epoch, events, lapsed, server, verified_host};
use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::{in_time, wait_at_most, wait_for};

/// A quarantined host asks once in 67 seconds, give or take a tenth (`docs/protocol.md`); and then
/// it rotates and is challenged. Twice: on a busy machine one question may come to nothing.
const LONGEST_WAIT: Duration = Duration::from_secs(2 * 74 + 10);
/// The heartbeat interval of these tests, the scheduling of a busy machine, and twice the start of
/// a command that asks for the status.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Two running holders of one identity, both stopped.
fn both_stopped() -> (Controller, Host, Host, SuspicionRow) {
    in_time(AT_ONCE, two_holders)
}

/// The same, and how long it took at most until one of them was stopped.
fn two_holders() -> ((Controller, Host, Host, SuspicionRow), Duration) {
    let controller = Controller::start();
    let first = verified_host(&controller);
    let mut second = Host::new("");
    copy(&first.state(), &second.state());
    // The original lives on, so the copy is an old one.
    another_heartbeat(&controller);
    second.start();
    let (why, took) = timed(|| lapsed(&first));
    assert!(why.contains("two holders"), "{why}");
    let (why, took_second) = timed(|| lapsed(&second));
    assert!(why.contains("two holders"), "{why}");
    let took = took.max(took_second);
    let row = server(&controller);
    assert_eq!((row.status.as_str(), row.available), ("quarantined", false));
    let suspicion = unresolved(&controller).unwrap();
    assert_eq!(suspicion.likely, "copy");
    assert_eq!(suspicion.first_peer_ip, "127.0.0.1");
    assert_eq!(suspicion.second_peer_ip, "127.0.0.1");
    // One machine, so one boot; the numbers tell the two apart.
    assert_eq!(
        suspicion.first_boot_id.as_ref(),
        Some(&suspicion.second_boot_id)
    );
    let events = events(&controller, "clone_suspected");
    assert_eq!(events.len(), 1);
    for part in [&suspicion.first_seq.to_string(), &suspicion.second_boot_id] {
        assert!(events[0].description.contains(part), "{events:?}");
    }
    ((controller, first, second, suspicion), took)
}

#[expect(clippy::disallowed_methods, reason = "real programs, a real clock")]
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    (what(), begin.elapsed())
}

fn unresolved(controller: &Controller) -> Option<SuspicionRow> {
    let server_id = server(controller).server_id;
    let found = controller.ask(async |store| store.unresolved_clone(&server_id).await);
    found.unwrap()
}

/// As `server resolve-clone --keep` does.
fn keep(controller: &Controller, suspicion: &SuspicionRow, kept: Kept) {
    let now_ms = clock::system()();
    let decision = CloneResolution {
        server_id: suspicion.server_id.clone(),
        suspicion_id: suspicion.suspicion_id,
        kept,
        directive_id: clock::uuid_v7(now_ms),
        deadline_s: ROTATE_DEADLINE_S,
        now_ms,
    };
    let done = controller.ask(async |store| store.resolve_clone(decision).await);
    assert!(done.unwrap());
}

/// The kept one comes back by itself, with a new key; the other one never does.
fn resolved(controller: &Controller, kept: &Host, other: &mut Host) {
    let pid = kept.pid();
    let old_key = server(controller).identity_key_id;
    let (_, took) = timed(|| {
        wait_at_most(LONGEST_WAIT, "the kept host", || {
            let is_verified = kept.status()["verification"]["state"] == "verified";
            // The controller changes over with the first request of the new key.
            let is_there = server(controller).key_epoch == 2;
            (is_verified && is_there && epoch(kept) == Some(2)).then_some(())
        })
    });
    eprintln!("the kept host was verified again after {took:?}");
    assert_eq!(kept.pid(), pid, "without a restart");
    let row = server(controller);
    assert_eq!((row.status.as_str(), row.key_epoch), ("active", 2));
    assert_ne!(row.identity_key_id, old_key);
    assert!(unresolved(controller).is_none());
    assert_eq!(events(controller, "clone_resolved").len(), 1);

    for _ in 0..2 {
        other.kill();
        other.start();
        let why = wait_for("the word on the other one", || {
            let status = other.status();
            (status["verification"]["state"] == "lapsed").then(|| detail(&status))
        });
        assert!(why.contains("another identity key"), "{why}");
    }
    another_heartbeat(controller);
    assert_eq!(kept.status()["verification"]["state"], "verified");
    assert_eq!(server(controller).status, "active");
}

#[test]
fn a_running_copy_stops_both_and_the_first_is_kept() {
    let (controller, first, mut second, suspicion) = both_stopped();
    keep(&controller, &suspicion, Kept::First);
    resolved(&controller, &first, &mut second);
}

#[test]
fn a_running_copy_stops_both_and_the_second_is_kept() {
    let (controller, mut first, second, suspicion) = both_stopped();
    keep(&controller, &suspicion, Kept::Second);
    resolved(&controller, &second, &mut first);
}

#[test]
fn an_older_state_of_the_same_host_is_stopped_at_its_first_request() {
    in_time(AT_ONCE, || ((), set_back()));
}

/// A host whose disk is set back: how long it took from its start until it was stopped.
fn set_back() -> Duration {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    let backup = host.dir().join("backup");
    copy(&host.state(), &backup);
    for _ in 0..3 {
        another_heartbeat(&controller);
    }
    host.kill();
    fs::remove_dir_all(host.state()).unwrap();
    fs::rename(&backup, host.state()).unwrap();
    let before = controller.heartbeats().len();
    host.start();
    let (why, took) = timed(|| lapsed(&host));
    assert!(why.contains("two holders"), "{why}");
    assert_eq!(controller.heartbeats().len(), before, "nothing was taken");
    let events = events(&controller, "clone_suspected");
    assert_eq!(events.len(), 1);
    let suspicion = unresolved(&controller).unwrap();
    // Heard a moment ago: two machines. After two heartbeat intervals of silence, in the same
    // boot, nobody can tell (`docs/protocol.md`, "Quarantine").
    let expected = match suspicion.likely.as_str() {
        "copy" => "copied disk",
        "unknown" => "copied or set back",
        other => panic!("{other}"),
    };
    assert!(suspicion.reason.contains(expected), "{suspicion:?}");
    assert!(events[0].description.contains(expected), "{events:?}");
    assert!(suspicion.second_seq <= suspicion.first_seq);
    took
}
