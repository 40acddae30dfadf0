//! Copies and restored snapshots of a host: who is found, and who is never taken for one.

use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::message::{ConnectionBatch, Poll, RefusalCode};

use crate::support::{Host, World};

/// A whole copy on another machine.
pub(crate) fn copy_of(host: &Host) -> Host {
    Host {
        boot_id: Uuid::from_u128(0xc0b1_0000_0000_0000_0000_0000_0000_0001),
        address: [198, 51, 100, 9].into(),
        ..host.clone()
    }
}

/// The next heartbeat of a host, signed.
pub(crate) fn next(host: &Host, world: &World) -> Envelope {
    host.sign(host.header(world), host.heartbeat())
}

/// A host's next heartbeat is refused with this code.
pub(crate) async fn is_refused(host: &Host, world: &World, code: RefusalCode) {
    let (_, refusal) = host.refused(world, &next(host, world)).await;
    assert_eq!(refusal.code, code, "{}", refusal.message);
}

/// The server's status.
pub(crate) async fn status(world: &World) -> String {
    world.query("SELECT status FROM servers").await.remove(0)
}

/// One suspicion, of these two, and nobody speaks any more.
async fn both_are_stopped(world: &World, first: &Host, second: &Host) {
    assert_eq!(status(world).await, "quarantined");
    for host in [first, second] {
        is_refused(host, world, RefusalCode::Quarantined).await;
    }
    assert_eq!(world.count("clone_suspicions").await, 1);
    let found = world
        .store
        .unresolved_clone(&first.server_id)
        .await
        .unwrap()
        .unwrap();
    let shown = (
        found.first_peer_ip.clone(),
        found.first_boot_id.clone().unwrap(),
        found.second_peer_ip.clone(),
        found.second_boot_id.clone(),
    );
    let expected = (
        first.address.to_string(),
        first.boot_id.to_string(),
        second.address.to_string(),
        second.boot_id.to_string(),
    );
    assert_eq!(shown, expected);
    let servers = world.store.list_servers().await.unwrap();
    assert!(!servers[0].available);
}

#[tokio::test]
async fn a_copied_host_is_found_with_the_first_heartbeat_of_whoever_speaks_second() {
    for copy_first in [false, true] {
        let world = World::new().await;
        let mut host = Host::enrolled(&world, 1).await;
        host.beat(&world).await;
        let copy = copy_of(&host);
        world.pass(30_000);
        let (mut first, second) = if copy_first {
            (copy, host)
        } else {
            (host, copy)
        };
        first.beat(&world).await;
        is_refused(&second, &world, RefusalCode::Quarantined).await;
        both_are_stopped(&world, &first, &second).await;
        let events = world.events("clone_suspected").await;
        assert_eq!(events.len(), 1);
        for named in [&first, &second] {
            let text = &events[0].description;
            assert!(text.contains(&named.boot_id.to_string()), "{text}");
            assert!(text.contains(&named.address.to_string()), "{text}");
        }
        // A poll gets nothing either.
        let poll = Poll {
            server_id: first.server_id.clone(),
            epoch: 1,
            nonce: first.nonce,
            boot_id: first.boot_id,
            request_id: Uuid::from_u128(1),
            wait_s: 0,
        };
        let poll = Envelope::sign(&poll, &[&first.key]);
        assert_eq!(world.post("/v1/poll", poll.to_json()).await.status, 409);
        let likely = world.query("SELECT likely FROM clone_suspicions").await;
        assert_eq!(likely, ["copy"]);
    }
}

#[tokio::test]
async fn the_same_pending_request_of_both_is_answered_alike_and_the_next_ones_are_found() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let pending = next(&host, &world);
    let mut copy = copy_of(&host);
    let answer = copy.send(&world, &pending).await;
    assert_eq!(host.send(&world, &pending).await, answer);
    copy.take(&world, &pending, &answer);
    host.take(&world, &pending, &answer);
    assert_eq!(status(&world).await, "active");
    world.pass(30_000);
    host.beat(&world).await;
    is_refused(&copy, &world, RefusalCode::Quarantined).await;
    both_are_stopped(&world, &host, &copy).await;
}

#[tokio::test]
async fn a_host_that_is_set_back_is_found() {
    for back in [1, 100] {
        let world = World::new().await;
        let mut host = Host::enrolled(&world, 1).await;
        host.beat(&world).await;
        let mut old = host.clone();
        for _ in 0..back {
            world.pass(1000);
            host.beat(&world).await;
        }
        // Off for a while, and up again from the old disk.
        world.pass(600_000);
        old.boot_id = Uuid::from_u128(0x01d);
        is_refused(&old, &world, RefusalCode::Quarantined).await;
        both_are_stopped(&world, &host, &old).await;
        let likely = world.query("SELECT likely FROM clone_suspicions").await;
        assert_eq!(likely, ["restored_snapshot"], "{back}");
    }
}

#[tokio::test]
async fn recorded_traffic_alone_stops_nobody_at_any_point_of_a_run() {
    let mut world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let mut recorded: Vec<Envelope> = vec![];
    let mut backups = vec![];
    for step in 0..14 {
        world.pass(1000);
        if step == 2 || step == 7 {
            backups.push(world.back_up_as(&format!("backup-{step}.db")).await);
        }
        // Twice the controller loses its memory; the second time that of the first loss is kept.
        if step == 5 || step == 11 {
            world = world.restore(backups.remove(0)).await;
        }
        let envelope = if step % 3 == 0 {
            let nothing = ConnectionBatch {
                ledger_epoch: Hex([8; 16]),
                records: vec![],
                gaps: vec![],
            };
            host.sign(host.header(&world), nothing)
        } else {
            next(&host, &world)
        };
        recorded.push(envelope.clone());
        let mut answer = host.send(&world, &envelope).await;
        let mut sent = envelope;
        if answer.status == 409 {
            let mut header = host.header(&world);
            header.proof = host.last_reply.clone().map(Box::new);
            sent = host.sign(header, host.heartbeat());
            recorded.push(sent.clone());
            answer = host.send(&world, &sent).await;
        }
        host.take(&world, &sent, &answer);
        for old in &recorded {
            let mut attacker = host.clone();
            attacker.address = [203, 0, 113, 66].into();
            attacker.send(&world, old).await;
            assert_eq!(status(&world).await, "active", "step {step}");
        }
    }
    assert_eq!(world.events("controller_state_rollback").await.len(), 2);
    assert_eq!(world.count("clone_suspicions").await, 0);
    host.beat(&world).await;
}

#[tokio::test]
async fn a_late_copy_of_a_request_that_was_refused_as_ahead_stops_nobody() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let backup = world.back_up().await;
    host.beat(&world).await;
    host.beat(&world).await;
    let world = world.restore(backup).await;
    let refused = next(&host, &world);
    assert_eq!(
        host.refused(&world, &refused).await.1.code,
        RefusalCode::Ahead
    );
    let mut header = host.header(&world);
    header.proof = host.last_reply.clone().map(Box::new);
    let proven = host.sign(header, host.heartbeat());
    let answer = host.send(&world, &proven).await;
    host.take(&world, &proven, &answer);
    // At the same number, and further on.
    for _ in 0..3 {
        let (status, refusal) = host.refused(&world, &refused).await;
        assert_eq!((status, refusal.code), (400, RefusalCode::BadRequest));
        host.beat(&world).await;
    }
    // What was refused so is remembered in a bounded number.
    for n in 0..40 {
        let mut header = host.header(&world);
        header.seq += 5;
        header.agent_time_ms = n;
        let ahead = host.sign(header, host.heartbeat());
        assert_eq!(
            host.refused(&world, &ahead).await.1.code,
            RefusalCode::Ahead
        );
    }
    assert_eq!(world.count("ahead_digests").await, 16);
    host.beat(&world).await;
}

#[tokio::test]
async fn recorded_requests_do_not_push_out_what_a_restored_controller_must_remember() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let backup = world.back_up().await;
    let mut recorded = vec![];
    for _ in 0..30 {
        let request = next(&host, &world);
        let answer = host.send(&world, &request).await;
        host.take(&world, &request, &answer);
        recorded.push(request);
    }
    let world = world.restore(backup).await;
    let refused = next(&host, &world);
    host.refused(&world, &refused).await;
    // Somebody on the way holds the proof back, and sends what he has recorded.
    for request in &recorded[1..] {
        let (_, refusal) = host.refused(&world, request).await;
        assert_eq!(refusal.code, RefusalCode::Ahead);
    }
    let mut header = host.header(&world);
    header.proof = host.last_reply.clone().map(Box::new);
    let proven = host.sign(header, host.heartbeat());
    let answer = host.send(&world, &proven).await;
    host.take(&world, &proven, &answer);
    let (status, refusal) = host.refused(&world, &refused).await;
    assert_eq!((status, refusal.code), (400, RefusalCode::BadRequest));
    host.beat(&world).await;
}

#[tokio::test]
async fn a_copy_is_found_although_the_controller_loses_its_memory_at_the_same_time() {
    for copy_first in [false, true] {
        let world = World::new().await;
        let mut host = Host::enrolled(&world, 1).await;
        host.beat(&world).await;
        let backup = world.back_up().await;
        for _ in 0..3 {
            host.beat(&world).await;
        }
        let mut copy = copy_of(&host);
        for _ in 0..5 {
            host.beat(&world).await;
        }
        let world = world.restore(backup).await;
        let mut speakers = [&mut host, &mut copy];
        if copy_first {
            speakers.reverse();
        }
        // Each does what an agent does.
        for _ in 0..3 {
            for speaker in &mut speakers {
                crate::witness::speak(speaker, &world).await;
            }
        }
        assert_eq!(status(&world).await, "quarantined", "{copy_first}");
        let [first, second] = speakers;
        for holder in [&*first, &*second] {
            is_refused(holder, &world, RefusalCode::Quarantined).await;
        }
        let row = world
            .store
            .unresolved_clone(&host.server_id)
            .await
            .unwrap()
            .unwrap();
        let mut addresses = [row.first_peer_ip, row.second_peer_ip];
        addresses.sort();
        assert_eq!(addresses, ["192.0.2.1", "198.51.100.9"]);
    }
}
