//! Rotation: by the host's command and by the controller's directive, with connections open, cut
//! off anywhere, and with a thief who has the key of before.

use std::fs;
use std::time::Duration;

use vpn_node::host::state::StateDir;
use vpn_node_controller::clock;
use vpn_node_controller::rules::effect::NewRotation;

use super::{
    another_heartbeat, connected, copy, detail, epoch, events, lapsed, server, verified,
    verified_host,
};
use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::secrets::{all_files, contains_any, forms};
use crate::support::wait_for;
use crate::support::wireguard::unix_now_s;

/// Waits until both sides have the key of this epoch in force.
fn rotated(controller: &Controller, host: &Host, to: u64) {
    wait_for("the next epoch", || {
        let there = server(controller).key_epoch;
        (epoch(host) == Some(to) && there == i64::try_from(to).unwrap()).then_some(())
    });
}

fn secret(host: &Host) -> Vec<Vec<u8>> {
    let state = StateDir::new(host.state());
    let identity = state.identity_store().read().unwrap().unwrap();
    forms(identity.key.as_bytes())
}

#[test]
fn a_rotated_host_goes_on_and_a_copy_from_before_is_refused_for_ever() {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    let (wireguard, id) = connected(&controller, &host);
    let mut thief = Host::new("");
    copy(&host.state(), &thief.state());
    let old_secret = secret(&host);
    let before = server(&controller);

    let begun = host.command(&["identity", "rotate"], "");
    assert!(begun.status.success(), "{begun:?}");
    rotated(&controller, &host, 2);
    let status = host.status();
    let rotated_ms = status["identity"]["rotated_ms"].as_i64().unwrap();
    assert!(rotated_ms / 1000 + 60 > i64::try_from(unix_now_s()).unwrap());
    let after = server(&controller);
    assert_ne!(after.identity_key_id, before.identity_key_id);
    assert_eq!(status["identity"]["key_id"], after.identity_key_id);
    assert_eq!(status["verification"]["state"], "verified", "no pause");
    another_heartbeat(&controller);
    assert!(
        !contains_any(&all_files(&host.state()), &old_secret),
        "the old key is on the disk"
    );
    assert!(
        contains_any(&all_files(&thief.state()), &old_secret),
        "the control"
    );

    // As `server rotate-key` does.
    let now_ms = clock::system()();
    let rotation = NewRotation {
        id: clock::uuid_v7(now_ms),
        issued_ms: now_ms,
        deadline_s: 600,
        delivered: false,
    };
    let queued =
        controller.ask(async |store| store.queue_rotation(&before.server_id, rotation).await);
    queued.unwrap();
    rotated(&controller, &host, 3);
    another_heartbeat(&controller);

    host.kill();
    host.start();
    verified(&host);
    assert_eq!(epoch(&host), Some(3));
    wireguard.set(Vec::new());
    let ended = wait_for("the connection's end at the controller", || {
        let rows = controller.connections();
        rows.into_iter().find(|row| row.connection_end.is_some())
    });
    assert_eq!(ended.connection_id, id, "over two rotations and a restart");
    assert_eq!(controller.connections().len(), 1);
    assert_eq!(events(&controller, "key_rotated").len(), 2);

    assert!(events(&controller, "retired_key_used").is_empty());
    thief.start();
    let why = lapsed(&thief);
    for part in [
        "another identity key",
        "switch this one off",
        "--server NAME",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(thief.command(&["healthcheck"], "").status.code(), Some(1));
    let event = wait_for("the event", || {
        events(&controller, "retired_key_used").pop()
    });
    assert_eq!(event.severity, "high");
    another_heartbeat(&controller);
    let status = host.status();
    assert_eq!(
        status["verification"]["state"],
        "verified",
        "{}",
        detail(&status)
    );
    assert_eq!(server(&controller).status, "active");
}

#[test]
fn a_rotation_that_is_cut_off_leaves_one_key_and_no_doubt() {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    // From before the key is on the disk until after it is in force.
    for wait_ms in [0, 3, 10, 30, 100, 300] {
        let begun = host.command(&["identity", "rotate"], "");
        assert!(begun.status.success(), "{begun:?}");
        std::thread::sleep(Duration::from_millis(wait_ms));
        host.kill();
        host.start();
        verified(&host);
        // What was begun goes on by itself; what was not begun on the disk is forgotten.
        wait_for("one key", || {
            let waits = fs::exists(host.state().join("identity.next.json")).unwrap();
            let server = server(&controller);
            let agreed = epoch(&host) == u64::try_from(server.key_epoch).ok();
            (!waits && agreed && server.next_key_id.is_none()).then_some(())
        });
        let identity = StateDir::new(host.state()).identity_store().read();
        let public = vpn_node_protocol::keys::PublicKey::from(&identity.unwrap().unwrap().key);
        let server = server(&controller);
        assert_eq!(public.id().to_string(), server.identity_key_id);
        assert_eq!(server.status, "active", "after {wait_ms} ms");
    }
    assert!(server(&controller).key_epoch > 1, "some came through");
    assert!(events(&controller, "clone_suspected").is_empty());
    assert!(events(&controller, "retired_key_used").is_empty());
}
