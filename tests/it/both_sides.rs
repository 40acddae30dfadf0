//! Both sides together, as installed: the controller serves, a host enrols with one pasted string,
//! and a connection is reported across a crash of the agent.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vpn_node::host::hardware::{self, Roots};
use vpn_node_protocol::hardware::ComponentName;
use vpn_node_protocol::token::Token;

use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::secrets::{all_files, contains, forms};
use crate::support::wait_for;
use crate::support::wireguard::{FakeWireGuard, Peer, unix_now_s};

/// Addresses for documentation (RFC 5737): they stand nowhere by accident.
const CLIENT_IP: &str = "198.51.100.77";
const CLIENT: &str = "198.51.100.77:51999";

fn peer(handshake_s: u64, rx_bytes: u64) -> Peer {
    Peer {
        public_key: "ab".repeat(32),
        endpoint: CLIENT.into(),
        handshake_s,
        rx_bytes,
    }
}

/// Enrols, starts the agent, and has a client connect; returns its connection id.
fn connected(controller: &Controller, host: &mut Host, token: &str) -> (FakeWireGuard, String) {
    let wireguard = FakeWireGuard::start(&host.sockets(), "wg0");
    wireguard.set(vec![peer(0, 0)]);
    let output = host.command(&["enroll"], token);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    host.start();
    wait_for("the verdict", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
    wireguard.set(vec![peer(unix_now_s(), 148)]);
    let id = wait_for("the connection's start at the controller", || {
        controller
            .connections()
            .first()
            .map(|row| row.connection_id.clone())
    });
    (wireguard, id)
}

#[test]
fn a_host_is_enrolled_verified_and_its_connection_outlives_a_killed_agent() {
    let controller = Controller::start();
    let mut host = Host::new("location = \"rack 7\"");
    let (wireguard, id) = connected(&controller, &mut host, &controller.token());

    let server = &controller.servers()[0];
    assert_eq!(
        (server.status.as_str(), server.verdict.as_str()),
        ("active", "verified")
    );
    assert_eq!(server.location.as_deref(), Some("rack 7"));
    let row = &controller.connections()[0];
    assert_eq!(
        (row.status.as_str(), row.client_ip.as_str()),
        ("active", CLIENT_IP)
    );
    assert!(
        controller
            .heartbeats()
            .iter()
            .all(|beat| beat.signature_valid)
    );

    host.kill();
    host.start();
    wireguard.set(vec![peer(unix_now_s(), 4096)]);
    wait_for("the verdict after the crash", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
    wireguard.set(Vec::new());
    let ended = wait_for("the connection's end at the controller", || {
        controller
            .connections()
            .into_iter()
            .find(|row| row.connection_end.is_some())
    });
    assert_eq!(ended.connection_id, id);
    assert_eq!(ended.disconnection_reason.as_deref(), Some("peer_removed"));
    assert_eq!(controller.connections().len(), 1, "one connection, one row");
    wait_for("an empty backlog", || {
        (host.status()["backlog"]["records"] == 0).then_some(())
    });
    assert_eq!(
        controller.servers()[0].status,
        "active",
        "a crash is no clone"
    );
    let log = fs::read(host.log()).unwrap();
    assert!(contains(&log, b"this host is enrolled"), "the log is read");
    assert!(
        !contains(&log, CLIENT_IP.as_bytes()),
        "a client's address stands in the log"
    );
}

#[test]
fn secrets_and_personal_data_stand_only_where_they_belong() {
    let controller = Controller::start();
    let mut host = Host::new("log_level = \"debug\"");
    let text = controller.token();
    let token = Token::parse(&text).unwrap();
    let (_wireguard, _) = connected(&controller, &mut host, &text);
    let proc = Path::new("/proc").join(host.pid().to_string());
    let mut places = BTreeMap::from([
        ("argv of the agent", fs::read(proc.join("cmdline")).unwrap()),
        (
            "environment of the agent",
            fs::read(proc.join("environ")).unwrap(),
        ),
        ("log of the agent", fs::read(host.log()).unwrap()),
        ("state directory of the host", all_files(&host.state())),
        ("runtime directory of the host", all_files(&host.runtime())),
        (
            "data directory of the controller",
            all_files(controller.data_dir()),
        ),
        (
            "traffic that the proxy reads",
            with_payloads(controller.seen_by_proxy()),
        ),
    ]);

    // The control: what is looked for is found where it belongs.
    let database = &places["data directory of the controller"];
    assert!(
        contains(database, CLIENT_IP.as_bytes()),
        "the controller knows its clients"
    );
    let probe = hardware::probe(&Roots::host(&host.runtime()));
    let serials: Vec<&str> = ComponentName::ALL
        .iter()
        .filter_map(|name| probe.components.get(*name).value())
        .collect();
    assert!(
        serials
            .iter()
            .any(|serial| contains(database, serial.as_bytes())),
        "and their hosts"
    );

    for (place, bytes) in &places {
        for secret in forms(&token.secret)
            .into_iter()
            .chain([text.as_bytes().to_vec()])
        {
            assert!(
                !contains(bytes, &secret),
                "the token's secret stands in the {place}"
            );
        }
    }
    places.remove("data directory of the controller");
    // Root's part of the fingerprint lives there until the next boot, for the agent alone.
    places.remove("runtime directory of the host");
    for (place, bytes) in &places {
        if *place != "log of the agent" {
            assert!(
                !contains(bytes, CLIENT_IP.as_bytes()),
                "a client's address stands in the {place}"
            );
        }
        for serial in &serials {
            assert!(
                !contains(bytes, serial.as_bytes()),
                "{serial:?} stands in the {place}"
            );
        }
    }
    assert!(
        !contains(&all_files(&host.state()), &[0xab; 32]),
        "a client's key is on the host's disk"
    );
}

/// The traffic, and every base64 text in it decoded.
fn with_payloads(mut traffic: Vec<u8>) -> Vec<u8> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte);
    let decoded: Vec<u8> = traffic
        .split(|byte| !is_base64(byte))
        .filter(|text| text.len() >= 16)
        .filter_map(|text| STANDARD.decode(text).ok())
        .flatten()
        .collect();
    assert!(
        contains(&decoded, b"\"agent_time_ms\""),
        "the proxy reads the signed payloads"
    );
    traffic.extend(decoded);
    traffic
}
