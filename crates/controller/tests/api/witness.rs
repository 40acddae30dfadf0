//! A host that is further behind than is remembered says that it lives.

use ed25519_dalek::SigningKey;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::identity::Witness;
use vpn_node_protocol::message::{Refusal, RefusalCode};

use crate::clones::{copy_of, is_refused, next, status};
use crate::support::{Answered, Host, World, other_controller};

/// A request of an agent, with what it does about the answer: proof or witness.
pub(crate) async fn speak(host: &mut Host, world: &World) {
    let mut envelope = next(host, world);
    let mut answer = host.send(world, &envelope).await;
    if answer.status == 409 {
        match world.open_own::<Refusal>(&answer).code {
            RefusalCode::Ahead => {
                let mut header = host.header(world);
                header.proof = host.last_reply.clone().map(Box::new);
                envelope = host.sign(header, host.heartbeat());
                answer = host.send(world, &envelope).await;
            }
            RefusalCode::Behind => {
                let witness = witness_of(host, &answer);
                host.send(world, &Envelope::sign(&witness, &[&host.key]))
                    .await;
            }
            _ => {}
        }
    }
    if answer.status == 200 {
        host.take(world, &envelope, &answer);
    }
}

fn witness_of(host: &Host, answer: &Answered) -> Witness {
    Witness {
        server_id: host.server_id.clone(),
        epoch: 1,
        refusal: Envelope::parse(&answer.body, 1 << 20).unwrap(),
        seq: host.seq + 1,
        boot_id: host.boot_id,
        boottime_ms: 7,
    }
}

/// A controller that does not remember the requests before the last 5, a host, and its copy from
/// before that.
async fn far_behind(world: &World) -> (Host, Host) {
    let mut host = Host::enrolled(world, 1).await;
    host.beat(world).await;
    let copy = copy_of(&host);
    for _ in 0..10 {
        host.beat(world).await;
    }
    world
        .query("DELETE FROM request_digests WHERE seq < 7 RETURNING digest")
        .await;
    (host, copy)
}

#[tokio::test]
async fn a_copy_of_more_requests_ago_than_are_remembered_is_found_by_its_witness() {
    let world = World::new().await;
    let (host, copy) = far_behind(&world).await;
    let before = world.dump().await;
    let request = next(&copy, &world);
    let answer = copy.send(&world, &request).await;
    let refusal: Refusal = world.open_own(&answer);
    assert_eq!((answer.status, refusal.code), (409, RefusalCode::Behind));
    // Recorded traffic gets that far, and no further.
    assert_eq!(world.dump().await, before);
    world.pass(60_000);
    let witness = Envelope::sign(&witness_of(&copy, &answer), &[&copy.key]);
    let (code, refusal) = copy.refused(&world, &witness).await;
    assert_eq!((code, refusal.code), (409, RefusalCode::Quarantined));
    assert_eq!(status(&world).await, "quarantined");
    is_refused(&host, &world, RefusalCode::Quarantined).await;
    let events = world.events("copy_witnessed").await;
    assert_eq!(events.len(), 1);
    for named in [
        copy.boot_id.to_string(),
        host.boot_id.to_string(),
        copy.address.to_string(),
        host.address.to_string(),
    ] {
        assert!(events[0].description.contains(&named), "{events:?}");
    }
    let shown = world
        .query("SELECT second_digest FROM clone_suspicions")
        .await;
    assert_eq!(shown, [request.digest().to_string()]);
    // Once more, it changes nothing.
    let before = world.dump().await;
    let (_, refusal) = copy.refused(&world, &witness).await;
    assert_eq!(refusal.code, RefusalCode::Quarantined);
    assert_eq!(world.dump().await, before);
}

#[tokio::test]
async fn a_witness_that_does_not_hold_changes_nothing() {
    let world = World::new().await;
    let (mut host, copy) = far_behind(&world).await;
    let other = Host::enrolled(&world, 2).await;
    let request = next(&copy, &world);
    let answer = copy.send(&world, &request).await;
    let good = witness_of(&copy, &answer);
    let refused: Refusal = world.open_own(&answer);
    let dir = tempfile::tempdir().unwrap();
    let foreign = other_controller(dir.path());
    let changed = |change: &dyn Fn(&mut Witness)| {
        let mut witness = good.clone();
        change(&mut witness);
        witness
    };
    let of = |refusal: &Refusal| world.keys.sign(refusal);
    let before = world.dump().await;
    for (why, witness) in [
        (
            "another controller's refusal",
            changed(&|w| w.refusal = foreign.sign(&refused)),
        ),
        (
            "another refusal",
            changed(&|w| {
                w.refusal = of(&Refusal {
                    code: RefusalCode::Ahead,
                    ..refused.clone()
                });
            }),
        ),
        (
            "a refusal that the host signed",
            changed(&|w| w.refusal = Envelope::sign(&refused, &[&copy.key])),
        ),
        (
            "a refusal from later",
            changed(&|w| {
                w.refusal = of(&Refusal {
                    controller_time_ms: refused.controller_time_ms + 1,
                    ..refused.clone()
                });
            }),
        ),
        (
            "an absurd time",
            changed(&|w| {
                w.refusal = of(&Refusal {
                    controller_time_ms: i64::MIN,
                    ..refused.clone()
                });
            }),
        ),
        ("a number that is not behind", changed(&|w| w.seq = 12)),
        ("no number", changed(&|w| w.seq = 0)),
        ("an impossible number", changed(&|w| w.seq = u64::MAX)),
    ] {
        let witness = Envelope::sign(&witness, &[&copy.key]);
        let (code, refusal) = copy.refused(&world, &witness).await;
        assert_eq!(
            (code, refusal.code),
            (400, RefusalCode::BadRequest),
            "{why}"
        );
    }
    // In another's name there is no signed answer, which a host would take for its own.
    for witness in [
        changed(&|w| w.server_id = other.server_id.clone()),
        changed(&|w| w.epoch = 2),
    ] {
        let envelope = Envelope::sign(&witness, &[&copy.key]);
        let answer = copy.send(&world, &envelope).await;
        assert_eq!((answer.status, answer.signed), (400, false), "{answer:?}");
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["error"]["code"], "another_server");
    }
    // Another host's key, and one that nobody has (any more).
    for key in [&other.key, &SigningKey::from_bytes(&[99; 32])] {
        let answer = copy.send(&world, &Envelope::sign(&good, &[key])).await;
        assert!(answer.status >= 400, "{answer:?}");
    }
    assert_eq!(world.dump().await, before);
    // A minute later it is too old, and the copy would have to ask again.
    world.pass(60_001);
    let late = Envelope::sign(&good, &[&copy.key]);
    let (_, refusal) = copy.refused(&world, &late).await;
    assert_eq!(refusal.code, RefusalCode::BadRequest);
    assert_eq!(world.dump().await, before);
    host.beat(&world).await;
}

#[tokio::test]
async fn a_witness_of_a_server_that_was_revoked_or_is_resolved_changes_nothing() {
    for made in [
        "UPDATE servers SET status = 'revoked' RETURNING status",
        "INSERT INTO clone_suspicions
             (server_id, seen_at, key_epoch, status_before, likely, reason, first_seq,
              first_peer_ip, second_seq, second_digest, second_peer_ip, second_boot_id, status,
              kept)
         SELECT server_id, '', 1, 'active', 'copy', '', 11, '', 2, chain, '', '', 'resolving',
                'first' FROM server_chains RETURNING status",
    ] {
        let world = World::new().await;
        let (_, copy) = far_behind(&world).await;
        let answer = copy.send(&world, &next(&copy, &world)).await;
        world.query(made).await;
        let before = world.dump().await;
        let witness = Envelope::sign(&witness_of(&copy, &answer), &[&copy.key]);
        let (_, refusal) = copy.refused(&world, &witness).await;
        let expected = match made.starts_with("UPDATE") {
            true => RefusalCode::Revoked,
            false => RefusalCode::Quarantined,
        };
        assert_eq!(refusal.code, expected);
        assert_eq!(world.dump().await, before);
    }
}
