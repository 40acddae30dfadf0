//! Replay, retry, clones, and a controller that lost its memory.

use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::message::{RefusalCode, Verdict};

use crate::support::{Host, World};

#[tokio::test]
async fn an_identical_retry_gets_the_same_bytes_and_happens_once() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let envelope = host.sign(host.header(&world), host.heartbeat());
    let first = world.post("/v1/messages", envelope.to_json()).await;
    world.pass(5000);
    let before = world.dump().await;
    let again = world.post("/v1/messages", envelope.to_json()).await;
    assert_eq!(again, first);
    assert_eq!(world.dump().await, before);
    assert_eq!(world.count("heartbeats").await, 2);
    host.take(&world, &envelope, &first);
    host.beat(&world).await;
}

#[tokio::test]
async fn two_holders_of_one_identity_are_both_stopped() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let mut copy = host.clone();
    copy.boot_id = Uuid::from_u128(0xc0);
    host.beat(&world).await;
    // The copy's first request finds it out.
    let envelope = copy.sign(copy.header(&world), copy.heartbeat());
    let (status, refusal) = copy.refused(&world, &envelope).await;
    assert_eq!((status, refusal.code), (409, RefusalCode::Quarantined));
    // The original is stopped as well, by message and by poll.
    let envelope = host.sign(host.header(&world), host.heartbeat());
    let (_, refusal) = host.refused(&world, &envelope).await;
    assert_eq!(refusal.code, RefusalCode::Quarantined);
    let servers = world.store.list_servers().await.unwrap();
    assert_eq!(
        (servers[0].status.as_str(), servers[0].available),
        ("quarantined", false)
    );
    let events = world.events("clone_suspected").await;
    assert_eq!(events.len(), 1);
    for named in [
        copy.boot_id.to_string(),
        host.boot_id.to_string(),
        "192.0.2.1".to_owned(),
    ] {
        assert!(events[0].description.contains(&named), "{events:?}");
    }
}

#[tokio::test]
async fn recorded_traffic_that_is_sent_again_stops_nobody() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let mut recorded = vec![];
    for _ in 0..3 {
        let envelope = host.sign(host.header(&world), host.heartbeat());
        let answer = world.post("/v1/messages", envelope.to_json()).await;
        host.take(&world, &envelope, &answer);
        recorded.push(envelope);
    }
    let before = world.dump().await;
    for envelope in recorded.iter().take(2).cycle().take(20) {
        let (status, refusal) = host.refused(&world, envelope).await;
        assert_eq!((status, refusal.code), (400, RefusalCode::BadRequest));
    }
    assert_eq!(world.dump().await, before);
    // Older than what is remembered.
    world
        .query("DELETE FROM request_digests WHERE seq = 1 RETURNING digest")
        .await;
    let before = world.dump().await;
    let (status, refusal) = host.refused(&world, &recorded[0]).await;
    assert_eq!((status, refusal.code), (409, RefusalCode::Behind));
    assert_eq!(world.dump().await, before);
    assert_eq!(world.events("replayed_request").await.len(), 1);
    host.beat(&world).await;
}

#[tokio::test]
async fn a_restored_controller_quarantines_nobody() {
    let world = World::new().await;
    let mut hosts = vec![];
    for seed in 1..=5 {
        hosts.push(Host::enrolled(&world, seed).await);
    }
    for host in &mut hosts {
        host.beat(&world).await;
    }
    let backup = world.back_up().await;
    // Each host goes on by another number of requests; the last one has one in flight.
    for (n, host) in hosts.iter_mut().enumerate() {
        for _ in 0..n {
            host.beat(&world).await;
        }
    }
    let world = world.restore(backup).await;
    for (n, host) in hosts.iter_mut().enumerate() {
        let mut header = host.header(&world);
        let envelope = host.sign(header.clone(), host.heartbeat());
        if n > 0 {
            let before = world.dump().await;
            let (status, refusal) = host.refused(&world, &envelope).await;
            assert_eq!((status, refusal.code), (409, RefusalCode::Ahead));
            assert_eq!(
                world.dump().await,
                before,
                "a request without proof changed something"
            );
            // A proof that is not the reply before proves nothing.
            header.proof = Some(Box::new(world.keys.sign(&refusal)));
            let envelope = host.sign(header.clone(), host.heartbeat());
            let (_, refusal) = host.refused(&world, &envelope).await;
            assert_eq!(refusal.code, RefusalCode::Ahead);
            header.proof = host.last_reply.clone().map(Box::new);
        }
        let envelope = host.sign(header, host.heartbeat());
        let answer = world.post("/v1/messages", envelope.to_json()).await;
        host.take(&world, &envelope, &answer);
        host.beat(&world).await;
    }
    assert_eq!(world.events("controller_state_rollback").await.len(), 4);
    assert_eq!(world.count("servers WHERE status = 'active'").await, 5);
}

#[tokio::test]
async fn every_flipped_bit_of_a_heartbeat_is_refused_and_changes_nothing() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let bytes = host.sign(host.header(&world), host.heartbeat()).to_json();
    let before = world.dump().await;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let answer = world.post("/v1/messages", flipped).await;
        assert!(
            !answer.signed && answer.status >= 400,
            "bit {bit}: {answer:?}"
        );
    }
    assert_eq!(world.dump().await, before);
    // Recorded, but not once for each of them.
    assert_eq!(world.events("bad_signature").await.len(), 1);
    assert_eq!(world.count("heartbeats WHERE NOT signature_valid").await, 1);
    // The next one tells how many were left out.
    world.pass(61_000);
    let mut flipped = bytes.clone();
    // Inside the payload, to another letter of base64.
    let at = (20..)
        .find(|&at| (flipped[at] ^ 1).is_ascii_alphanumeric())
        .unwrap();
    flipped[at] ^= 1;
    world.post("/v1/messages", flipped).await;
    let newest = &world.events("bad_signature").await[0];
    assert!(newest.description.contains("more like it"), "{newest:?}");
    // And the true one still counts.
    let answer = world.post("/v1/messages", bytes).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_message_for_another_server_or_of_another_kind_changes_nothing() {
    let world = World::new().await;
    let host = Host::enrolled(&world, 1).await;
    let other = Host::enrolled(&world, 2).await;
    let before = world.dump().await;
    let mut header = host.header(&world);
    header.server_id = other.server_id.clone();
    let foreign = host.sign(header, host.heartbeat());
    let mut header = host.header(&world);
    header.epoch = 2;
    let of_no_epoch = host.sign(header, host.heartbeat());
    // Another's signature on a message of ours: a signed refusal would be a word to us.
    let stolen = other.sign(host.header(&world), host.heartbeat());
    for envelope in [foreign, of_no_epoch, stolen] {
        let answer = world.post("/v1/messages", envelope.to_json()).await;
        assert!(!answer.signed && answer.status == 400, "{answer:?}");
    }
    // Bounds.
    let mut heartbeat = host.heartbeat();
    heartbeat.version = "1".repeat(256);
    let envelope = host.sign(host.header(&world), heartbeat);
    let (status, refusal) = host.refused(&world, &envelope).await;
    assert_eq!((status, refusal.code), (400, RefusalCode::BadRequest));
    // A reply of the controller, sent back to it.
    let reply = world.keys.sign(&refusal);
    assert_eq!(
        world.post("/v1/messages", reply.to_json()).await.status,
        401
    );
    let mut header = host.header(&world);
    header.seq = u64::MAX;
    let envelope = host.sign(header, host.heartbeat());
    assert_eq!(
        host.refused(&world, &envelope).await.1.code,
        RefusalCode::BadRequest
    );
    assert_eq!(world.dump().await, before);
}

#[tokio::test]
async fn a_host_that_waits_for_approval_is_told_so_and_challenged_once_let_in() {
    let world = World::with(|config| config.auto_approve = false).await;
    let mut host = Host::enrolled(&world, 1).await;
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Pending);
    assert_eq!((reply.standing.lease_s, reply.directives.len()), (0, 0));
    // Once approved, it is challenged like any other.
    assert!(
        world
            .store
            .approve_server(&host.server_id, world.now())
            .await
            .unwrap()
    );
    assert_eq!(world.events("server_approved").await.len(), 1);
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Unverified);
    assert_eq!(host.directives(&world, &reply.directives).len(), 1);
}

#[tokio::test]
async fn a_revoked_server_is_refused_whatever_it_sends() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let envelope = host.sign(host.header(&world), host.heartbeat());
    let answer = world.post("/v1/messages", envelope.to_json()).await;
    host.take(&world, &envelope, &answer);
    world
        .query("UPDATE servers SET status = 'revoked' RETURNING server_id")
        .await;
    // A replay of what was accepted, and something new.
    let (status, refusal) = host.refused(&world, &envelope).await;
    assert_eq!((status, refusal.code), (403, RefusalCode::Revoked));
    let mut header = host.header(&world);
    header.nonce = Hex([0; 32]);
    let envelope = host.sign(header, host.heartbeat());
    assert_eq!(
        host.refused(&world, &envelope).await.1.code,
        RefusalCode::Revoked
    );
}
