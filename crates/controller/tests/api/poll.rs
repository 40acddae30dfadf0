//! The long-lived directive request.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use vpn_node_controller::api;
use vpn_node_controller::rules::effect::NewChallenge;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::message::{Poll, PollReply, Purpose};

use crate::support::{Answered, Host, World};

pub(crate) fn poll(host: &Host, wait_s: u32) -> Envelope {
    let poll = Poll {
        server_id: host.server_id.clone(),
        epoch: host.epoch,
        nonce: host.nonce,
        boot_id: host.boot_id,
        request_id: Uuid::from_bytes(vpn_node_controller::clock::random()),
        wait_s,
    };
    Envelope::sign(&poll, &[&host.key])
}

pub(crate) async fn ask(world: &World, envelope: &Envelope) -> Answered {
    world.post("/v1/poll", envelope.to_json()).await
}

pub(crate) fn on_demand(world: &World) -> NewChallenge {
    NewChallenge {
        id: Uuid::from_u128(5),
        value: Hex([6; 32]),
        purpose: Purpose::OnDemand,
        issued_ms: world.now(),
        deadline_s: 60,
        delivered: false,
    }
}

#[tokio::test]
async fn a_directive_of_another_process_reaches_a_held_poll_within_a_second() {
    let world = Arc::new(World::new().await);
    tokio::spawn(api::watch_directives(Arc::clone(&world.app)));
    let mut host = Host::enrolled(&world, 1).await;
    let envelope = poll(&host, 50);
    let held = {
        let (world, envelope) = (world.clone(), envelope.clone());
        tokio::spawn(async move { ask(&world, &envelope).await })
    };
    // Through a connection of its own, as the operator's command has.
    let operator = vpn_node_controller::store::open(&world.config)
        .await
        .unwrap();
    let queued = operator
        .queue_challenge(&host.server_id, on_demand(&world))
        .await
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(5), held)
        .await
        .unwrap()
        .unwrap();
    let reply: PollReply = world.open_own(&answer);
    assert_eq!(reply.request_digest, envelope.digest());
    let by_poll = host.directives(&world, &reply.directives);
    assert_eq!(by_poll[0].id, queued);
    // Until it is acknowledged, heartbeats carry the same one.
    let reply = host.beat(&world).await;
    assert_eq!(host.directives(&world, &reply.directives), by_poll);
    // And the next poll does not spin on it.
    let empty: PollReply = world.open_own(&ask(&world, &poll(&host, 0)).await);
    assert!(empty.directives.is_empty());
}

#[tokio::test]
async fn a_newer_poll_ends_the_older_one() {
    let world = Arc::new(World::new().await);
    let host = Host::enrolled(&world, 1).await;
    let older = {
        let (world, envelope) = (world.clone(), poll(&host, 50));
        tokio::spawn(async move { ask(&world, &envelope).await })
    };
    // Until the older one is held, the newer one ends at once; then it ends the older.
    while !older.is_finished() {
        assert_eq!(ask(&world, &poll(&host, 0)).await.status, 200);
        tokio::task::yield_now().await;
    }
    let reply: PollReply = world.open_own(&older.await.unwrap());
    assert!(reply.directives.is_empty());
}

#[tokio::test]
async fn a_recorded_poll_takes_no_directive_away() {
    let world = Arc::new(World::new().await);
    tokio::spawn(api::watch_directives(Arc::clone(&world.app)));
    let host = Host::enrolled(&world, 1).await;
    let recorded = poll(&host, 0);
    assert_eq!(ask(&world, &recorded).await.status, 200);
    let held = {
        let (world, envelope) = (world.clone(), poll(&host, 50));
        tokio::spawn(async move { ask(&world, &envelope).await })
    };
    for _ in 0..20 {
        let answer = ask(&world, &recorded).await;
        assert!(!answer.signed && answer.status == 409);
        tokio::task::yield_now().await;
    }
    assert_eq!(world.events("replayed_poll").await.len(), 1);
    world
        .store
        .queue_challenge(&host.server_id, on_demand(&world))
        .await
        .unwrap();
    let reply: PollReply = world.open_own(&held.await.unwrap());
    assert_eq!(reply.directives.len(), 1);
}

#[tokio::test]
async fn only_the_last_two_nonces_and_ones_own_key_poll() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let oldest = poll(&host, 0);
    host.beat(&world).await;
    let older = poll(&host, 0);
    host.beat(&world).await;
    assert_eq!(ask(&world, &poll(&host, 0)).await.status, 200);
    assert_eq!(ask(&world, &older).await.status, 200);
    let stale = ask(&world, &oldest).await;
    assert!(!stale.signed && stale.status == 409);
    let mut thief = host.clone();
    thief.key = ed25519_dalek::SigningKey::from_bytes(&[99; 32]);
    assert_eq!(ask(&world, &poll(&thief, 0)).await.status, 401);
}
