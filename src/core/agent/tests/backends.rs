//! What heartbeats and status say of the VPN backends.

use vpn_node_protocol::limits::MAX_BACKENDS;
use vpn_node_protocol::message::{BackendDetails, BackendReport};

use super::vpn::backend;
use super::world::{World, s};
use crate::core::agent::Event;
use crate::core::report::BackendState;
use crate::core::sessions::{BackendId, BackendKind, Obs, Patch, SessionKey};

fn reported(world: &World) -> Vec<BackendReport> {
    let heartbeat = world.controller.db.last_heartbeat.as_ref();
    heartbeat.expect("one came").backends.clone()
}

fn traffic(world: &mut World, client: u64, rx: u64, tx: u64) {
    let patch = Patch {
        key: SessionKey::Ike { unique_id: client },
        endpoint: None,
        virtual_ips: None,
        rx,
        tx,
        last_seen: world.now(),
    };
    world.tell(Event::Observed(backend(), Obs::Update(patch)));
}

#[test]
fn counts_go_on_and_rates_are_of_the_time_since_the_heartbeat_before() {
    let mut world = World::verified(950);
    let (first, second) = (world.connect(), world.connect());
    world.run_for(s(35));
    let before = reported(&world)[0].clone();
    assert_eq!((before.active, before.started, before.ended), (2, 2, 0));
    assert_eq!(
        (before.rx_bytes, before.tx_bytes),
        (2, 4),
        "one byte in, two out, each"
    );
    traffic(&mut world, first, 300_001, 600_002);
    world.disconnect(second);
    let heartbeats = world.controller.db.heartbeats;
    while world.controller.db.heartbeats == heartbeats {
        world.run_for(s(1));
    }
    let after = reported(&world)[0].clone();
    assert_eq!((after.active, after.started, after.ended), (1, 2, 1));
    assert_eq!((after.rx_bytes, after.tx_bytes), (300_002, 600_004));
    // A heartbeat comes every 27 to 33 seconds.
    assert!(
        (9_000..=11_200).contains(&after.rx_bytes_per_s),
        "{after:?}"
    );
    assert!(
        (18_000..=22_400).contains(&after.tx_bytes_per_s),
        "{after:?}"
    );
    let status = world.report().backends[0].clone();
    assert_eq!((status.activity.started, status.activity.rx), (2, 300_002));
    world.run_for(s(70));
    assert_eq!(reported(&world)[0].rx_bytes_per_s, 0);
    world.report();
    world.run_for(s(31));
    assert_eq!(world.report().backends[0].activity.rx_per_s, 0);
}

#[test]
fn details_are_reported_bounded_and_on_one_line() {
    let mut world = World::verified(951);
    let details = BackendDetails {
        version: Some(format!("5.9\x1b[2J\n{}", "\u{202e}".repeat(30_000))),
        interface: Some("eth0".to_owned()),
        port: Some(500),
        public_key: None,
    };
    world.tell(Event::Details(backend(), details));
    for n in 0..5000 {
        let id = BackendId {
            instance: format!("other-{n}"),
            ..backend()
        };
        world.tell(Event::Details(id, BackendDetails::default()));
    }
    world.run_for(s(35));
    let reported = reported(&world);
    assert_eq!(reported.len(), 1, "details alone make no backend");
    let details = reported[0].details.clone().unwrap();
    let version = details.version.unwrap();
    assert!(
        version.starts_with("5.9\\u{1b}[2J\\n") && version.len() <= 255,
        "{version}"
    );
    assert_eq!(
        (details.interface.as_deref(), details.port),
        (Some("eth0"), Some(500))
    );
}

#[test]
fn a_backend_that_never_answered_is_down_and_gives_way_to_those_that_are_up() {
    let mut world = World::verified(952);
    for n in 0..2 * MAX_BACKENDS {
        let id = BackendId {
            kind: BackendKind::OpenVpn,
            instance: format!("server-{n}"),
        };
        let since = world.now();
        let error = "connection refused".to_owned();
        let obs = match n {
            // Said before anything else of it: not a word of a backend that can be read.
            0 => Obs::Rekey {
                old: SessionKey::Ike { unique_id: 1 },
                new: SessionKey::Ike { unique_id: 2 },
            },
            n if n > MAX_BACKENDS => Obs::Snapshot {
                epoch: 1,
                at: since,
                complete: true,
                sessions: Vec::new(),
            },
            _ => Obs::Unavailable { error, since },
        };
        world.tell(Event::Observed(id, obs));
    }
    world.run_for(s(35));
    let reported = reported(&world);
    assert_eq!(reported.len(), MAX_BACKENDS);
    assert!(reported.iter().all(|backend| backend.up));
    let status = world.report();
    let never = &status.backends[1];
    assert_eq!(
        (never.state, never.was_up),
        (BackendState::Unavailable, false)
    );
    assert_eq!(status.health().reasons, [] as [&str; 0]);
}
