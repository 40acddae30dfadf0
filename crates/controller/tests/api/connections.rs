//! Connection records: once each, whatever is retried.

use uuid::Uuid;
use vpn_node_protocol::connection::{
    ClientIdentity, Confidence, ConnectionEvent, ConnectionRecord, Stamp,
};
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::message::{ConnectionBatch, Gap, GapReason, RefusalCode, SealedRecord};
use vpn_node_protocol::sealing::{Context, Sealed};

use crate::support::{Host, START_MS, World};

const LEDGER: Hex<16> = Hex([8; 16]);

pub(crate) fn record(host: &Host, connection: u128, event: ConnectionEvent) -> ConnectionRecord {
    // Half a minute after the host's boot clock began, by a wall clock that is years off.
    let stamp = Stamp {
        boot_id: host.boot_id,
        boottime_ms: 1_000_000,
        wall_ms: 12,
        offset_ms: None,
    };
    ConnectionRecord {
        connection_id: Uuid::from_u128(connection),
        event,
        at: stamp,
        started: stamp,
        backend: "wireguard".into(),
        instance: "wg0".into(),
        identity: Some(ClientIdentity {
            kind: "wireguard".into(),
            value: "peer \u{1b}[2J".into(),
        }),
        client_ip: Some("198.51.100.7".parse().unwrap()),
        client_port: Some(51820),
        virtual_ips: vec!["10.0.0.2/32".into()],
        rx_bytes: 10,
        tx_bytes: 20,
    }
}

pub(crate) fn seal(
    world: &World,
    host: &Host,
    seq: u64,
    record: &ConnectionRecord,
) -> SealedRecord {
    let entry = world.keys.certificate().sealing_key(world.now()).unwrap();
    let context = Context::Connection {
        server_id: &host.server_id,
        ledger_epoch: &LEDGER,
        sequence: seq,
    };
    let json = serde_json::to_vec(record).unwrap();
    let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
    SealedRecord {
        seq,
        sealed: Sealed::seal(entry, context, &json, &mut rng).unwrap(),
    }
}

pub(crate) fn batch(records: Vec<SealedRecord>) -> ConnectionBatch {
    ConnectionBatch {
        ledger_epoch: LEDGER,
        records,
        gaps: vec![],
    }
}

pub(crate) fn end() -> ConnectionEvent {
    ConnectionEvent::End {
        reason: "timeout".into(),
        confidence: Confidence::Observed,
        uncertainty_ms: 0,
    }
}

#[tokio::test]
async fn a_batch_that_is_sent_twice_counts_once() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    world.pass(30_000);
    let start = seal(&world, &host, 1, &record(&host, 7, ConnectionEvent::Start));
    let over = seal(&world, &host, 2, &record(&host, 7, end()));
    let envelope = host.sign(host.header(&world), batch(vec![start.clone()]));
    let first = world.post("/v1/messages", envelope.to_json()).await;
    assert_eq!(world.post("/v1/messages", envelope.to_json()).await, first);
    let reply = host.take(&world, &envelope, &first);
    assert_eq!(reply.connections_ack.unwrap().acked_through, 1);
    let active = world.store.list_connections(None, true, 9).await.unwrap();
    assert_eq!(active.len(), 1);
    // Dated by the host's boot clock, which its wall clock cannot spoil.
    let began = vpn_node_controller::clock::to_text(START_MS);
    assert_eq!(active[0].connection_start, began);
    // The same record in a new message, with the next one.
    let reply = host.say(&world, batch(vec![start, over])).await;
    assert_eq!(reply.connections_ack.unwrap().acked_through, 2);
    let rows = world.store.list_connections(None, false, 9).await.unwrap();
    assert_eq!((rows.len(), rows[0].status.as_str()), (1, "ended"));
    assert_eq!(world.count("connection_events").await, 2);
}

#[tokio::test]
async fn what_cannot_be_read_is_a_gap_and_does_not_wedge_the_ledger() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let good = record(&host, 7, ConnectionEvent::Start);
    // Sealed for another place, and one whose texts are too long.
    let mut moved = seal(&world, &host, 9, &good);
    moved.seq = 1;
    let mut long = good.clone();
    long.backend = "x".repeat(300);
    let records = vec![
        moved,
        seal(&world, &host, 2, &long),
        seal(&world, &host, 3, &good),
    ];
    let mut body = batch(records);
    body.gaps = vec![Gap {
        first: 4,
        last: 6,
        reason: GapReason::Torn,
    }];
    let reply = host.say(&world, body).await;
    assert_eq!(reply.connections_ack.unwrap().acked_through, 6);
    assert_eq!(
        world.query("SELECT first_seq || '-' || last_seq || ' ' || reason FROM connection_gaps ORDER BY first_seq").await,
        ["1-1 unreadable", "2-2 invalid", "4-6 torn"]
    );
    let events = world.events("connection_gap").await;
    assert!(events[0].description.starts_with("5 "), "{events:?}");
    assert_eq!(world.count("connections").await, 1);
}

#[tokio::test]
async fn another_servers_connection_is_left_alone() {
    let world = World::new().await;
    let mut one = Host::enrolled(&world, 1).await;
    let mut two = Host::enrolled(&world, 2).await;
    let start = seal(&world, &one, 1, &record(&one, 7, ConnectionEvent::Start));
    one.say(&world, batch(vec![start])).await;
    let thefts = (1..=9).map(|seq| seal(&world, &two, seq, &record(&two, 7, end())));
    let reply = two.say(&world, batch(thefts.collect())).await;
    assert_eq!(reply.connections_ack.unwrap().acked_through, 9);
    let rows = world.store.list_connections(None, true, 9).await.unwrap();
    assert_eq!(rows[0].server_id, one.server_id);
    // One event for all of them, and not at a time that the host chose.
    let events = world.events("connection_of_another_server").await;
    assert_eq!(events.len(), 1);
    assert!(
        events[0].timestamp > vpn_node_controller::clock::to_text(START_MS - 1),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_batch_out_of_order_or_bounds_is_refused_for_good() {
    let world = World::new().await;
    let host = Host::enrolled(&world, 1).await;
    let sealed = |seq| {
        seal(
            &world,
            &host,
            seq,
            &record(&host, 7, ConnectionEvent::Start),
        )
    };
    let gap = |first, last| Gap {
        first,
        last,
        reason: GapReason::Dropped,
    };
    let before = world.dump().await;
    let with_gaps = |gaps| ConnectionBatch {
        ledger_epoch: LEDGER,
        records: vec![sealed(2)],
        gaps,
    };
    for body in [
        batch(vec![sealed(2), sealed(1)]),
        batch(vec![sealed(1), sealed(1)]),
        batch(vec![sealed(0)]),
        batch(vec![sealed(u64::MAX)]),
        with_gaps(vec![gap(3, 1)]),
        with_gaps(vec![gap(1, 2)]),
        with_gaps((0..65).map(|n| gap(10 + 2 * n, 10 + 2 * n)).collect()),
    ] {
        let envelope = host.sign(host.header(&world), body);
        let (status, refusal) = host.refused(&world, &envelope).await;
        assert_eq!((status, refusal.code), (400, RefusalCode::BadRequest));
    }
    assert_eq!(world.dump().await, before);
}
