//! A host gives itself a new identity key.

use ed25519_dalek::SigningKey;
use vpn_node_controller::rules::effect::NewRotation;
use vpn_node_controller::rules::state::Kept;
use vpn_node_protocol::directive::Action;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::identity::Rotate;
use vpn_node_protocol::keys::registration_key;
use vpn_node_protocol::message::{DirectiveAck, DirectiveOutcome, Message, PollReply, RefusalCode};

use crate::clones::{copy_of, is_refused, status};
use crate::poll::{ask, poll};
use crate::resolving::keep;
use crate::support::{Host, World};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

#[tokio::test]
async fn the_old_key_is_dead_at_the_first_use_of_the_new_one() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let old = host.clone();
    host.rotate(&world, 101).await;
    let row = &world.store.list_servers().await.unwrap()[0];
    assert_eq!(row.key_epoch, 1);
    assert_eq!(row.identity_key_id, old.identity().id().to_string());
    assert_eq!(row.next_key_id, Some(host.identity().id().to_string()));
    // Until then both poll, and get the words of their epoch.
    let mut old_lane = old.clone();
    (old_lane.seq, old_lane.nonce) = (2, host.nonce);
    for speaker in [&old_lane, &host] {
        let reply: PollReply = world.open_own(&ask(&world, &poll(speaker, 0)).await);
        assert!(reply.directives.is_empty());
    }

    let reply = host.beat(&world).await;
    assert_eq!((reply.header.epoch, reply.header.seq), (2, 1));
    let row = &world.store.list_servers().await.unwrap()[0];
    assert_eq!((row.key_epoch, &row.next_key_id), (2, &None));
    assert_eq!(row.identity_key_id, host.identity().id().to_string());
    assert_eq!(world.events("key_rotated").await.len(), 1);
    // Of the old epoch nothing is remembered.
    assert_eq!(world.count("request_digests").await, 1);

    let before = world.dump().await;
    let next_of_old = old_lane.sign(old_lane.header(&world), old_lane.heartbeat());
    let old_rotation = host.rotations[0].request.clone();
    for envelope in [next_of_old, old_rotation] {
        let (status, refusal) = old.refused(&world, &envelope).await;
        assert_eq!((status, refusal.code), (403, RefusalCode::RetiredKey));
    }
    let answer = ask(&world, &poll(&old_lane, 0)).await;
    assert!(answer.signed && answer.status == 403);
    assert_eq!(world.dump().await, before);
    let events = world.events("retired_key_used").await;
    assert_eq!((events.len(), events[0].severity.as_str()), (1, "high"));
    // Also after a restart.
    let world = world.restart().await;
    let envelope = old_lane.sign(old_lane.header(&world), old_lane.heartbeat());
    let (_, refusal) = old.refused(&world, &envelope).await;
    assert_eq!(refusal.code, RefusalCode::RetiredKey);
    host.beat(&world).await;
}

#[tokio::test]
async fn a_lost_reply_to_a_rotation_is_given_again_to_the_byte() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let request = host.rotate_request(&world, &key(101));
    let first = world.post("/v1/messages", request.to_json()).await;
    world.pass(5000);
    let before = world.dump().await;
    let again = world.post("/v1/messages", request.to_json()).await;
    assert_eq!(again, first);
    assert_eq!(world.dump().await, before);
    host.take_rotation(&world, request, &again, key(101));
    // The same for the first request of the new epoch.
    let envelope = host.sign(host.header(&world), host.heartbeat());
    let first = world.post("/v1/messages", envelope.to_json()).await;
    let again = world.post("/v1/messages", envelope.to_json()).await;
    assert_eq!(again, first);
    host.take(&world, &envelope, &first);
    host.beat(&world).await;
    assert_eq!(world.events("key_rotated").await.len(), 1);
}

#[tokio::test]
async fn a_second_rotation_before_the_first_use_replaces_the_next_key() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let mut second = host.clone();
    host.rotate(&world, 101).await;
    let replaced = host.clone();
    // In the old epoch, on the reply to the first rotation.
    let reply = host.rotations[0].clone();
    let answered: vpn_node_protocol::message::Reply = world.keys.open_own(&reply.reply).unwrap();
    second.seq = answered.header.seq;
    (second.chain, second.nonce) = (answered.header.chain, answered.header.nonce);
    second.rotate(&world, 102).await;
    let envelope = replaced.sign(replaced.header(&world), replaced.heartbeat());
    let (_, refusal) = replaced.refused(&world, &envelope).await;
    assert_eq!(refusal.code, RefusalCode::RetiredKey);
    second.beat(&world).await;
    assert_eq!(second.epoch, 2);
    assert_eq!(world.count("server_keys WHERE status = 'retired'").await, 2);
    // And from the new epoch on.
    second.rotate(&world, 103).await;
    second.rotate(&world, 104).await;
    second.beat(&world).await;
    assert_eq!((second.epoch, second.seq), (4, 1));
}

#[tokio::test]
async fn the_same_next_key_once_more_is_no_second_key() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let mut again = host.clone();
    host.rotate(&world, 101).await;
    let answered: vpn_node_protocol::message::Reply =
        world.keys.open_own(&host.rotations[0].reply).unwrap();
    again.seq = answered.header.seq;
    (again.chain, again.nonce) = (answered.header.chain, answered.header.nonce);
    again.rotate(&world, 101).await;
    assert_eq!(world.count("server_keys").await, 2);
    again.beat(&world).await;
}

#[tokio::test]
async fn a_key_that_is_or_was_somebodys_is_refused() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let other = Host::enrolled(&world, 2).await;
    host.rotate(&world, 101).await;
    host.beat(&world).await;
    let token = world.token().await;
    let before = world.dump().await;
    for taken in [
        other.key.clone(),
        host.key.clone(),
        // Its own retired one, and a registration key.
        key(1),
        registration_key(&token.secret),
    ] {
        let request = host.rotate_request(&world, &taken);
        let (status, refusal) = host.refused(&world, &request).await;
        assert_eq!((status, refusal.code), (400, RefusalCode::BadRequest));
    }
    assert_eq!(world.dump().await, before);
    // The host goes on at the same number.
    host.beat(&world).await;
}

#[tokio::test]
async fn both_keys_sign_and_nobody_on_the_way_can_spoil_it() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let body = Rotate {
        new_key: (&key(101)).into(),
    };
    let header = host.header(&world);
    let message = Message { header, body };
    let before = world.dump().await;
    for keys in [vec![&host.key], vec![&key(101)]] {
        let envelope = Envelope::sign(&message, &keys);
        let answer = world.post("/v1/messages", envelope.to_json()).await;
        // Unsigned: somebody may have taken a signature out, and the host must not drop it.
        assert!(!answer.signed && answer.status == 401, "{answer:?}");
    }
    assert_eq!(world.dump().await, before);
    // Another order, and somebody else's signature in front.
    let other = Host::enrolled(&world, 2).await;
    let turned = Envelope::sign(&message, &[&other.key, &key(101), &host.key]);
    let answer = world.post("/v1/messages", turned.to_json()).await;
    let request = Envelope::sign(&message, &[&host.key, &key(101)]);
    assert_eq!(
        world.post("/v1/messages", request.to_json()).await,
        answer,
        "the same request, whatever the order"
    );
    let turned_again = world.post("/v1/messages", turned.to_json()).await;
    assert_eq!(turned_again, answer);
    host.take_rotation(&world, request, &answer, key(101));
    // A retired key's signature beside the host's own spoils nothing either.
    host.beat(&world).await;
    let message = Message {
        header: host.header(&world),
        body: host.heartbeat(),
    };
    let alone = Envelope::sign(&message, &[&key(1)]);
    let answer = world.post("/v1/messages", alone.to_json()).await;
    assert!(!answer.signed && answer.status == 400, "{answer:?}");
    let envelope = Envelope::sign(&message, &[&key(1), &host.key]);
    let answer = world.post("/v1/messages", envelope.to_json()).await;
    host.take(&world, &envelope, &answer);
}

#[tokio::test]
async fn a_next_key_is_not_replaced_by_itself() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.rotate(&world, 101).await;
    let before = world.dump().await;
    let request = host.rotate_request(&world, &host.key.clone());
    let (status, refusal) = host.refused(&world, &request).await;
    assert_eq!((status, refusal.code), (400, RefusalCode::BadRequest));
    assert_eq!(world.dump().await, before);
    host.beat(&world).await;
}

#[tokio::test]
async fn a_quarantined_or_revoked_server_gets_no_new_key() {
    for (status, code) in [
        ("quarantined", RefusalCode::Quarantined),
        ("revoked", RefusalCode::Revoked),
    ] {
        let world = World::new().await;
        let mut host = Host::enrolled(&world, 1).await;
        let mut rotated = Host::enrolled(&world, 2).await;
        host.beat(&world).await;
        rotated.rotate(&world, 102).await;
        world
            .query(&format!(
                "UPDATE servers SET status = '{status}' RETURNING server_id"
            ))
            .await;
        let before = world.dump().await;
        let request = host.rotate_request(&world, &key(101));
        assert_eq!(host.refused(&world, &request).await.1.code, code);
        // A key that was accepted before does not come into force now.
        let envelope = rotated.sign(rotated.header(&world), rotated.heartbeat());
        assert_eq!(rotated.refused(&world, &envelope).await.1.code, code);
        assert_eq!(world.dump().await, before);
    }
}

#[tokio::test]
async fn the_old_key_that_goes_on_after_its_rotation_is_a_second_holder() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let mut copy = host.clone();
    host.rotate(&world, 101).await;
    let answered: vpn_node_protocol::message::Reply =
        world.keys.open_own(&host.rotations[0].reply).unwrap();
    copy.seq = answered.header.seq;
    (copy.chain, copy.nonce) = (answered.header.chain, answered.header.nonce);
    copy.beat(&world).await;
    // The controller remembers the nonce of the copy's reply: it asks for a proof first.
    let mut header = host.header(&world);
    let envelope = host.sign(header.clone(), host.heartbeat());
    let (_, refusal) = host.refused(&world, &envelope).await;
    assert_eq!(refusal.code, RefusalCode::Ahead);
    header.proof = host.last_reply.clone().map(Box::new);
    let envelope = host.sign(header, host.heartbeat());
    let (_, refusal) = host.refused(&world, &envelope).await;
    assert_eq!(refusal.code, RefusalCode::Quarantined);
    assert_eq!(world.events("clone_suspected").await.len(), 1);
}

#[tokio::test]
async fn the_holder_of_the_next_key_can_be_kept() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let mut thief = copy_of(&host);
    host.rotate(&world, 101).await;
    // Whoever has the old key, and saw the reply, goes on in the old epoch.
    let answered: vpn_node_protocol::message::Reply =
        world.keys.open_own(&host.rotations[0].reply).unwrap();
    thief.seq = answered.header.seq;
    (thief.chain, thief.nonce) = (answered.header.chain, answered.header.nonce);
    thief.beat(&world).await;
    let mut header = host.header(&world);
    header.proof = host.last_reply.clone().map(Box::new);
    let pending = host.sign(header, host.heartbeat());
    let (_, refusal) = host.refused(&world, &pending).await;
    assert_eq!(refusal.code, RefusalCode::Quarantined);
    assert!(keep(&world, &host.server_id, Kept::Second).await);
    is_refused(&thief, &world, RefusalCode::Quarantined).await;
    let answer = host.send(&world, &pending).await;
    host.take(&world, &pending, &answer);
    assert_eq!(world.events("clone_resolved").await.len(), 1);
    is_refused(&thief, &world, RefusalCode::RetiredKey).await;
    host.beat(&world).await;
    assert_eq!(status(&world).await, "active");
}

#[tokio::test]
async fn another_chain_or_a_later_number_of_the_next_epoch_is_judged_as_ever() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.rotate(&world, 101).await;
    let mut header = host.header(&world);
    header.seq = 5;
    let envelope = host.sign(header.clone(), host.heartbeat());
    assert_eq!(
        host.refused(&world, &envelope).await.1.code,
        RefusalCode::Ahead
    );
    (header.seq, header.chain) = (1, Hex([9; 32]));
    let envelope = host.sign(header, host.heartbeat());
    assert_eq!(
        host.refused(&world, &envelope).await.1.code,
        RefusalCode::Quarantined
    );
}

#[tokio::test]
async fn an_operator_asks_for_a_new_key_and_heartbeats_carry_the_wish_until_it_is_used() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let wish = |n| NewRotation {
        id: uuid::Uuid::from_u128(n),
        issued_ms: world.now(),
        deadline_s: 600,
        delivered: false,
    };
    let id = world
        .store
        .queue_rotation(&host.server_id, wish(1))
        .await
        .unwrap()
        .unwrap();
    let same = world
        .store
        .queue_rotation(&host.server_id, wish(2))
        .await
        .unwrap();
    assert_eq!(same, Some(id));
    let reply = host.beat(&world).await;
    let directives = host.directives(&world, &reply.directives);
    let found = directives.iter().find(|d| d.id == id).unwrap();
    assert_eq!((&found.action, found.epoch), (&Action::Rotate, 1));
    let new_key = key(101);
    let mut header = host.header(&world);
    header.directive_acks = vec![DirectiveAck {
        id,
        outcome: DirectiveOutcome::Applied,
        detail: None,
    }];
    let body = Rotate {
        new_key: (&new_key).into(),
    };
    let request = Envelope::sign(&Message { header, body }, &[&host.key, &new_key]);
    let answer = world.post("/v1/messages", request.to_json()).await;
    host.take_rotation(&world, request, &answer, new_key);
    host.beat(&world).await;
    let status = world
        .query("SELECT status FROM directives WHERE kind = 'rotate'")
        .await;
    assert_eq!(status, ["answered"]);
}
