//! A token that gives a server which exists a new identity.

use vpn_node_protocol::enrolment::{EnrolOutcome, EnrolRefusal, Hello, KeyStatus};
use vpn_node_protocol::hardware::Component;
use vpn_node_protocol::message::{RefusalCode, Verdict};

use crate::support::{Host, World, complete};

async fn anew(world: &World, server_id: &str, seed: u8) -> Host {
    Host::new(&world.token_for(Some(server_id)).await, seed)
}

fn code(outcome: &EnrolOutcome) -> EnrolRefusal {
    match outcome {
        EnrolOutcome::Refused { code, .. } => *code,
        EnrolOutcome::Enrolled { .. } => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn a_quarantined_server_comes_back_under_its_own_id() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let mut copy = host.clone();
    host.rotate(&world, 101).await;
    copy.nonce = host.nonce;
    let envelope = copy.sign(copy.header(&world), copy.heartbeat());
    let (_, refusal) = copy.refused(&world, &envelope).await;
    assert_eq!(refusal.code, RefusalCode::Quarantined);
    let open = world.query("SELECT status FROM clone_suspicions").await;
    assert_eq!(open, ["open"]);

    let mut new = anew(&world, &host.server_id, 3).await;
    new.hardware.disk1 = Component::from_raw(b"ANOTHER-DISK");
    let hello: Hello = new.hello(&world).await.hello.peek().unwrap();
    assert_eq!(hello.server_id.as_ref(), Some(&host.server_id));
    assert_eq!(hello.key_status, KeyStatus::Active);
    let (bytes, outcome) = new.enrol(&world).await;
    new.take_enrolment(outcome.clone());
    assert_eq!(new.server_id, host.server_id);
    // Above the epoch of the next key that was never used.
    assert_eq!(new.epoch, 3);
    assert_eq!(world.count("servers").await, 1);
    let row = &world.store.list_servers().await.unwrap()[0];
    assert_eq!(row.status, "active");
    assert_eq!(
        row.verification_hash,
        new.hardware.verification_hash().to_string()
    );
    let resolved = world
        .query("SELECT status || ' ' || kept FROM clone_suspicions")
        .await;
    assert_eq!(resolved, ["resolved reenrolled"]);
    let events = world.events("server_reenrolled").await;
    assert_eq!((events.len(), events[0].severity.as_str()), (1, "medium"));
    assert!(events[0].description.contains("disk1"), "{events:?}");

    // Both holders of before are out, for ever, and the new one is verified on its new hardware.
    for old in [&copy, &host] {
        let envelope = old.sign(old.header(&world), old.heartbeat());
        let (_, refusal) = old.refused(&world, &envelope).await;
        assert_eq!(refusal.code, RefusalCode::RetiredKey);
    }
    let reply = new.beat(&world).await;
    assert_eq!((reply.header.epoch, reply.header.seq), (3, 1));
    assert_eq!(reply.standing.verdict, Verdict::Unverified);
    assert_eq!(new.directives(&world, &reply.directives).len(), 1);

    // A lost answer is given again, also after the token's end.
    world.pass(48 * 3600 * 1000);
    let EnrolOutcome::Enrolled {
        server_id, epoch, ..
    } = complete(&world, bytes).await
    else {
        // The greeting is old by now: a new one.
        let (_, again) = new.enrol(&world).await;
        let EnrolOutcome::Enrolled {
            server_id, epoch, ..
        } = again
        else {
            panic!("{again:?}");
        };
        assert_eq!((server_id, epoch), (new.server_id.clone(), 3));
        return;
    };
    assert_eq!((server_id, epoch), (new.server_id, 3));
}

#[tokio::test]
async fn the_token_is_good_for_one_identity() {
    let world = World::new().await;
    let host = Host::enrolled(&world, 1).await;
    let token = world.token_for(Some(&host.server_id)).await;
    let new = Host::new(&token, 3);
    let (bytes, first) = new.enrol(&world).await;
    let before = world.dump().await;
    assert_eq!(complete(&world, bytes).await, first);
    assert_eq!(new.enrol(&world).await.1, first);
    assert_eq!(world.dump().await, before);
    let (_, outcome) = Host::new(&token, 4).enrol(&world).await;
    assert_eq!(code(&outcome), EnrolRefusal::TokenUsed);
    assert_eq!(world.dump().await, before);
    let events = world.events("registration_key_reuse").await;
    assert_eq!((events.len(), events[0].severity.as_str()), (1, "high"));
    assert_eq!(world.events("server_reenrolled").await.len(), 1);
}

#[tokio::test]
async fn an_identity_that_was_used_before_is_not_new() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let other = Host::enrolled(&world, 2).await;
    host.rotate(&world, 101).await;
    host.beat(&world).await;
    // Its own retired key, its current one, another server's, a next one.
    let mut rotating = Host::enrolled(&world, 5).await;
    rotating.rotate(&world, 105).await;
    let before = world.count("server_keys").await;
    for (seed, why) in [
        (1, "was replaced by a newer one"),
        (101, "another token"),
        (2, "another token"),
        (105, "the next key of a server that rotates"),
    ] {
        let again = anew(&world, &other.server_id, seed).await;
        let (_, outcome) = again.enrol(&world).await;
        assert_eq!(code(&outcome), EnrolRefusal::BadRequest);
        assert!(format!("{outcome:?}").contains(why), "{outcome:?}");
    }
    assert_eq!(world.count("server_keys").await, before);
    assert_eq!(world.count("registration_keys WHERE used").await, 3);
}

#[tokio::test]
async fn a_waiting_server_still_waits_and_a_revoked_one_stays_revoked() {
    let world = World::with(|config| config.auto_approve = false).await;
    let host = Host::enrolled(&world, 1).await;
    let mut new = anew(&world, &host.server_id, 3).await;
    let (_, outcome) = new.enrol(&world).await;
    new.take_enrolment(outcome);
    let reply = new.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Pending);

    let unused = anew(&world, &host.server_id, 4).await;
    let revoked = world
        .store
        .revoke_server(&host.server_id, "stolen", world.now());
    assert!(revoked.await.unwrap());
    let hello: Hello = unused.hello(&world).await.hello.peek().unwrap();
    assert_eq!(hello.key_status, KeyStatus::Revoked);
    let before = world.dump().await;
    assert_eq!(
        code(&unused.enrol(&world).await.1),
        EnrolRefusal::TokenRevoked
    );
    assert_eq!(world.dump().await, before);
}

#[tokio::test]
async fn neither_lease_nor_grace_nor_refusals_outlive_the_identity() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let made = world
        .query("SELECT COALESCE(made_at, 'none') FROM server_chains")
        .await;
    assert_ne!(made, ["none"]);
    for given in [
        "UPDATE servers SET grace_period_enabled = TRUE, grace_period_expires_at = '2030'
         RETURNING server_id",
        "INSERT INTO ahead_digests (server_id, digest) SELECT server_id, 'x' FROM servers
         RETURNING server_id",
    ] {
        world.query(given).await;
    }
    let (_, outcome) = anew(&world, &host.server_id, 3).await.enrol(&world).await;
    assert!(matches!(outcome, EnrolOutcome::Enrolled { .. }));
    assert_eq!(world.count("ahead_digests").await, 0);
    let left = world
        .query(
            "SELECT grace_period_enabled || COALESCE(grace_period_expires_at, ' none')
                 || COALESCE(made_at, ' none')
             FROM servers JOIN server_chains USING (server_id)",
        )
        .await;
    assert_eq!(left, ["0 none none"]);
}
