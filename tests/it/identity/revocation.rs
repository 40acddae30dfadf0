//! Revocation: at once, for ever, and the way back as a new server.

use std::fs;
use std::time::{Duration, Instant};

use vpn_node_controller::clock;

use super::{another_heartbeat, enrol, events, lapsed, refused, said, verified, verified_host};
use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::{in_time, wait_for};

/// From an operator's revocation until the host knows.
const PROMISED: Duration = Duration::from_secs(2);

#[test]
fn a_revoked_host_stops_within_two_seconds_and_for_ever() {
    let (mut controller, mut host, server_id, why) = in_time(PROMISED, revoked);
    assert!(why.contains("revoked"), "{why}");
    let health = host.command(&["healthcheck"], "");
    assert_eq!(health.status.code(), Some(1));
    assert!(said(&health).contains("revoked"), "{}", said(&health));
    assert_eq!(events(&controller, "server_revoked").len(), 1);

    for restarts_controller in [false, true] {
        host.kill();
        if restarts_controller {
            controller.stop();
            controller.start_again();
        }
        host.start();
        let why = wait_for("the refusal", || {
            let status = host.status();
            let detail = super::detail(&status);
            detail.contains("revoked").then_some(status)
        });
        assert_eq!(why["verification"]["state"], "lapsed");
    }
    let why = refused(&host, &controller.token());
    assert!(why.contains("is enrolled already"), "{why}");
    assert!(why.contains("was revoked"), "{why}");
    assert!(why.contains("enrol with a new token, and start"), "{why}");
    host.kill();

    // The way back: another server on the same machine.
    fs::rename(host.state(), host.dir().join("state.revoked")).unwrap();
    enrol(&host, &controller.token());
    host.start();
    verified(&host);
    let servers = controller.servers();
    assert_eq!(servers.len(), 2);
    for server in servers {
        let status = match server.server_id == server_id {
            true => "revoked",
            false => "active",
        };
        assert_eq!(server.status, status);
    }
}

/// A verified host whose server is revoked, and what it says about that; how long that took.
#[expect(clippy::disallowed_methods, reason = "real programs, a real clock")]
fn revoked() -> ((Controller, Host, String, String), Duration) {
    let controller = Controller::start();
    let host = verified_host(&controller);
    // With a request held: its answer is the fastest way to the host.
    another_heartbeat(&controller);
    let server_id = controller.servers()[0].server_id.clone();
    let begin = Instant::now();
    let revoked = controller.ask(async |store| {
        store
            .revoke_server(&server_id, "sold", clock::system()())
            .await
    });
    assert!(revoked.unwrap());
    let why = lapsed(&host);
    ((controller, host, server_id, why), begin.elapsed())
}
