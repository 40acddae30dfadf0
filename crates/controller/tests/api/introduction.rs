//! A controller that was restored from a backup, and hosts with newer keys than it knows.

use ed25519_dalek::SigningKey;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::identity::{Introduction, IntroductionReply, Rotate, Rotation};
use vpn_node_protocol::limits::MAX_ROTATIONS;
use vpn_node_protocol::message::{Message, Refusal, RefusalCode, Reply};

use crate::support::{Answered, Host, World};

async fn known(world: &World, host: &Host, what: &Introduction) -> bool {
    let answer = host.introduce(world, what).await;
    let reply: IntroductionReply = world.open_own(&answer);
    let envelope = Envelope::sign(what, &[&host.key]);
    assert_eq!(reply.request_digest, envelope.digest());
    reply.known
}

/// What an agent does: its request, once more with proof when it is asked for.
async fn goes_on(world: &World, host: &mut Host) {
    let mut header = host.header(world);
    let envelope = host.sign(header.clone(), host.heartbeat());
    let (_, refusal) = host.refused(world, &envelope).await;
    assert_eq!(refusal.code, RefusalCode::Ahead);
    header.proof = host.last_reply.clone().map(Box::new);
    let envelope = host.sign(header, host.heartbeat());
    let answer = world.post("/v1/messages", envelope.to_json()).await;
    host.take(world, &envelope, &answer);
    host.beat(world).await;
}

fn is_unknown_key(answer: &Answered) -> bool {
    let body = String::from_utf8_lossy(&answer.body);
    !answer.signed && answer.status == 401 && body.contains("unknown_key")
}

/// A world whose backup is older than this many rotations of its host.
async fn restored(rotations: u8, used: bool) -> (World, Host) {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let backup = world.back_up().await;
    for n in 0..rotations {
        host.beat(&world).await;
        host.rotate(&world, 101 + n).await;
        if used || n + 1 < rotations {
            host.beat(&world).await;
        }
    }
    (world.restore(backup).await, host)
}

#[tokio::test]
async fn a_restored_controller_takes_a_host_with_newer_keys_on_its_own_signatures() {
    for (rotations, used) in [(1, false), (1, true), (2, false), (2, true), (5, true)] {
        let (world, mut host) = restored(rotations, used).await;
        let envelope = host.sign(host.header(&world), host.heartbeat());
        let answer = world.post("/v1/messages", envelope.to_json()).await;
        assert!(is_unknown_key(&answer), "{answer:?}");
        assert!(known(&world, &host, &host.introduction()).await);
        goes_on(&world, &mut host).await;
        let case = format!("{rotations} rotations, used: {used}");
        assert_eq!(world.events("key_introduced").await.len(), 1, "{case}");
        let lost = world.events("controller_state_rollback").await;
        assert_eq!(lost.len(), 1, "{case}");
        assert!(world.events("clone_suspected").await.is_empty(), "{case}");
        let row = &world.store.list_servers().await.unwrap()[0];
        assert_eq!(row.status, "active");
        assert_eq!(row.key_epoch, i64::from(rotations) + 1);
        // Every key between is known as retired, not unknown.
        let between = "server_keys WHERE status = 'retired'";
        assert_eq!(world.count(between).await, usize::from(rotations));
    }
}

#[tokio::test]
async fn known_already_changes_nothing_and_a_retired_key_is_refused() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.rotate(&world, 101).await;
    // Next, then current.
    for _ in 0..2 {
        let before = world.dump().await;
        assert!(known(&world, &host, &host.introduction()).await);
        assert_eq!(world.dump().await, before);
        host.beat(&world).await;
    }
    let old = host.clone();
    host.rotate(&world, 102).await;
    host.beat(&world).await;
    let before = world.dump().await;
    let answer = old.introduce(&world, &old.introduction()).await;
    let refusal: Refusal = world.open_own(&answer);
    assert_eq!(refusal.code, RefusalCode::RetiredKey);
    assert_eq!(world.dump().await, before);
    assert_eq!(world.events("retired_key_used").await.len(), 1);
}

#[tokio::test]
async fn a_stopped_server_is_told_so() {
    for (status, code) in [
        ("quarantined", RefusalCode::Quarantined),
        ("revoked", RefusalCode::Revoked),
    ] {
        let (world, host) = restored(2, true).await;
        world
            .query(&format!(
                "UPDATE servers SET status = '{status}' RETURNING server_id"
            ))
            .await;
        let before = world.dump().await;
        let answer = host.introduce(&world, &host.introduction()).await;
        let refusal: Refusal = world.open_own(&answer);
        assert_eq!(refusal.code, code);
        assert_eq!(world.dump().await, before);
    }
}

/// A rotation that another signer made, or that is changed.
fn again(
    rotation: &Rotation,
    change: impl Fn(&mut Message<Rotate>),
    keys: &[&SigningKey],
) -> Envelope {
    let mut message: Message<Rotate> = rotation.request.peek().unwrap();
    change(&mut message);
    Envelope::sign(&message, keys)
}

/// The controller's own reply, for another request.
fn reply_to(world: &World, rotation: &Rotation, request: &Envelope) -> Envelope {
    let mut reply: Reply = world.keys.open_own(&rotation.reply).unwrap();
    reply.header.request_digest = request.digest();
    world.keys.sign(&reply)
}

#[tokio::test]
async fn a_forged_introduction_is_refused_and_changes_nothing() {
    let (world, host) = restored(2, true).await;
    let other = Host::enrolled(&world, 9).await;
    let (k0, k1, k2) = (
        SigningKey::from_bytes(&[1; 32]),
        SigningKey::from_bytes(&[101; 32]),
        SigningKey::from_bytes(&[102; 32]),
    );
    let thief = SigningKey::from_bytes(&[66; 32]);
    let good = host.introduction();
    let [first, second] = [&good.rotations[0], &good.rotations[1]];
    let with = |rotations: Vec<Rotation>| Introduction {
        rotations,
        ..good.clone()
    };
    let forged = |request: Envelope| Rotation {
        reply: reply_to(&world, first, &request),
        request,
    };
    let stranger_dir = tempfile::tempdir().unwrap();
    let stranger = crate::support::other_controller(stranger_dir.path());
    let opened: Reply = world.keys.open_own(&first.reply).unwrap();
    let mut other_epoch = opened.clone();
    other_epoch.header.epoch = 2;
    let mut other_server = opened.clone();
    other_server.header.server_id = other.server_id.clone();
    let with_reply = |reply: Envelope| {
        with(vec![
            Rotation {
                request: first.request.clone(),
                reply,
            },
            second.clone(),
        ])
    };
    let cases = [
        (
            "no old signature",
            with(vec![forged(again(first, |_| {}, &[&k1])), second.clone()]),
        ),
        (
            "no new signature",
            with(vec![forged(again(first, |_| {}, &[&k0])), second.clone()]),
        ),
        (
            "a rotation by a key that is not current",
            with(vec![
                forged(again(first, |_| {}, &[&thief, &k1])),
                second.clone(),
            ]),
        ),
        ("a hole", with(vec![second.clone()])),
        (
            "an epoch left out",
            with(vec![
                first.clone(),
                Rotation {
                    request: again(second, |m| m.header.epoch = 3, &[&k1, &k2]),
                    reply: second.reply.clone(),
                },
            ]),
        ),
        (
            "another server's rotation",
            with(vec![
                forged(again(
                    first,
                    |m| m.header.server_id = other.server_id.clone(),
                    &[&k0, &k1],
                )),
                second.clone(),
            ]),
        ),
        (
            "a reply that is not ours",
            with_reply(stranger.sign(&opened)),
        ),
        (
            "a reply to something else",
            with_reply(second.reply.clone()),
        ),
        (
            "a reply of another epoch",
            with_reply(world.keys.sign(&other_epoch)),
        ),
        (
            "a reply to another server",
            with_reply(world.keys.sign(&other_server)),
        ),
        (
            "another epoch at the end",
            Introduction {
                epoch: 9,
                ..good.clone()
            },
        ),
        (
            "another server's name",
            Introduction {
                server_id: other.server_id.clone(),
                ..good.clone()
            },
        ),
        (
            "a server that there is not",
            Introduction {
                server_id: "none".into(),
                ..good.clone()
            },
        ),
    ];
    let before = world.dump().await;
    for (name, case) in cases {
        assert!(!known(&world, &host, &case).await, "{name}");
        assert_eq!(world.dump().await, before, "{name}");
    }
    // Signed by another key than the newest, by none that it names, too many, none at all.
    let thief_signs = Envelope::sign(&good, &[&thief]);
    let many = with(vec![first.clone(); MAX_ROTATIONS + 1]);
    let none = with(vec![]);
    let wrong_order = with(vec![second.clone(), first.clone()]);
    let long_name = Introduction {
        server_id: "s".repeat(100_000),
        ..good.clone()
    };
    for envelope in [
        Envelope::sign(&long_name, &[&k2]),
        thief_signs,
        Envelope::sign(&good, &[&k1]),
        Envelope::sign(&many, &[&k1]),
        Envelope::sign(&none, &[&k2]),
        Envelope::sign(&wrong_order, &[&k2]),
    ] {
        let answer = world.post("/v1/introduction", envelope.to_json()).await;
        assert!(!answer.signed && answer.status >= 400, "{answer:?}");
    }
    // Flipped bits all over it.
    let bytes = Envelope::sign(&good, &[&k2]).to_json();
    for bit in (0..bytes.len() * 8).step_by(97) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let answer = world.post("/v1/introduction", flipped).await;
        assert!(!answer.signed && answer.status >= 400, "bit {bit}");
    }
    assert_eq!(world.dump().await, before);
    assert!(known(&world, &host, &good).await);
}
