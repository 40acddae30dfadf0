//! The life of an identity in the real programs: rotation, re-enrolment, revocation and copies.
//!
//! All hosts of a test are one machine, so they have one boot id and one address. What tells two
//! holders apart here is what they say in the chain.

mod clones;
mod reenrolment;
mod revocation;
mod rotation;
mod sealing;

use std::path::Path;
use std::process::{Command, Output};

use vpn_node_controller::store::{EventFilter, EventRow, ServerRow};

use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::wait_for;
use crate::support::wireguard::{FakeWireGuard, Peer, unix_now_s};

/// A host that is enrolled and verified.
fn verified_host(controller: &Controller) -> Host {
    let mut host = Host::new("");
    enrol(&host, &controller.token());
    host.start();
    verified(&host);
    host
}

fn enrol(host: &Host, token: &str) -> String {
    let output = host.command(&["enroll"], token);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// Enrols in vain; what was said.
fn refused(host: &Host, token: &str) -> String {
    let output = host.command(&["enroll"], token);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    said(&output)
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn verified(host: &Host) {
    wait_for("the verdict", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
}

/// Waits until the host has lapsed; why, as its status says.
fn lapsed(host: &Host) -> String {
    wait_for("the end of the authorisation", || {
        let status = host.status();
        (status["verification"]["state"] == "lapsed").then(|| detail(&status))
    })
}

fn detail(status: &serde_json::Value) -> String {
    status["verification"]["detail"].as_str().unwrap().into()
}

fn epoch(host: &Host) -> Option<u64> {
    host.status()["identity"]["epoch"].as_u64()
}

/// The only server.
fn server(controller: &Controller) -> ServerRow {
    let mut servers = controller.servers();
    assert_eq!(servers.len(), 1);
    servers.remove(0)
}

/// The newest events of a type, newest first.
fn events(controller: &Controller, event_type: &str) -> Vec<EventRow> {
    let all = controller.ask(async |store| store.list_events(EventFilter::newest(200)).await);
    let all = all.unwrap().into_iter();
    all.filter(|row| row.event_type == event_type).collect()
}

/// Copies a state directory as it is, as a thief or a backup does; once more if a file of it was
/// replaced meanwhile.
fn copy(from: &Path, to: &Path) {
    wait_for("a copy of the whole directory", || {
        let _ = std::fs::remove_dir_all(to);
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
        done.unwrap().success().then_some(())
    });
}

/// One client that is connected since now.
fn client(n: u8) -> Peer {
    Peer {
        public_key: format!("{n:02x}").repeat(32),
        endpoint: format!("198.51.100.{n}:51999"),
        handshake_s: unix_now_s(),
        rx_bytes: 148,
    }
}

/// A WireGuard daemon with one client, whose connection has come to the controller; its id.
fn connected(controller: &Controller, host: &Host) -> (FakeWireGuard, String) {
    let wireguard = FakeWireGuard::start(&host.sockets(), "wg0");
    wireguard.set(vec![client(1)]);
    let id = wait_for("the connection's start at the controller", || {
        let first = controller.connections().into_iter().next();
        first.map(|row| row.connection_id)
    });
    (wireguard, id)
}

/// The host says how many heartbeats it got through: waits for another one.
fn another_heartbeat(controller: &Controller) {
    let newest = |controller: &Controller| controller.heartbeats()[0].heartbeat_id;
    let before = newest(controller);
    wait_for("another heartbeat", || {
        (newest(controller) > before).then_some(())
    });
}
