//! An operator keeps one of two holders.

use std::process::{Command, Output};
use std::sync::atomic::Ordering;

use uuid::Uuid;
use vpn_node_controller::clock;
use vpn_node_controller::rules::clones;
use vpn_node_controller::rules::effect::NewRotation;
use vpn_node_controller::rules::state::Kept;
use vpn_node_controller::store::{CloneResolution, Decision, Wants};
use vpn_node_protocol::connection::ConnectionEvent;
use vpn_node_protocol::directive::Action;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::message::{
    Authorisation, DirectiveAck, DirectiveOutcome, Poll, RefusalCode, Reply, Verdict,
};

use crate::clones::{copy_of, is_refused, next, status};
use crate::connections::{batch, end, record, seal};
use crate::support::{Host, World};

/// The directives of a reply by what they want.
fn wants(host: &Host, world: &World, reply: &Reply) -> Vec<&'static str> {
    let directives = host.directives(world, &reply.directives);
    directives
        .iter()
        .map(|directive| match directive.action {
            Action::Challenge { .. } => "challenge",
            Action::Rotate => "rotate",
            Action::Disconnect { .. } => "disconnect",
            Action::Update { .. } => "update",
            Action::CancelUpdate { .. } => "cancel_update",
            Action::Unknown => "unknown",
        })
        .collect()
}

/// What `server resolve-clone --keep` does with the store.
pub(crate) async fn keep(world: &World, server_id: &str, kept: Kept) -> bool {
    let row = world.store.unresolved_clone(server_id).await.unwrap();
    let decision = CloneResolution {
        server_id: server_id.to_owned(),
        suspicion_id: row.unwrap().suspicion_id,
        kept,
        directive_id: clock::uuid_v7(world.now()),
        deadline_s: 600,
        now_ms: world.now(),
    };
    world.store.resolve_clone(decision).await.unwrap()
}

/// What the first use of the kept holder's new key does.
async fn new_key_is_used(world: &World, server_id: &str) {
    let now_ms = world.now();
    let decide = Box::new(move |snapshot: &_| Decision {
        effects: clones::resolved(snapshot, now_ms),
        status: 200,
        body: vec![],
        repeats: None,
    });
    let id = server_id.to_owned();
    let done = world.store.exchange(id, Wants::default(), decide).await;
    done.unwrap();
}

/// A host and its copy, made after `shared` of the host's records were stored; both have gone on,
/// the host through three more requests with three records, and both are stopped.
async fn quarantined(world: &World) -> (Host, Host, Vec<Envelope>) {
    let mut host = Host::enrolled(world, 1).await;
    let shared = seal(world, &host, 1, &record(&host, 1, ConnectionEvent::Start));
    host.say(world, batch(vec![shared])).await;
    let copy = copy_of(&host);
    let mut recorded = vec![];
    for n in 2..=4 {
        world.pass(1000);
        let connection = record(&host, u128::from(n), ConnectionEvent::Start);
        let sealed = seal(world, &host, n, &connection);
        let envelope = host.sign(host.header(world), batch(vec![sealed]));
        let answer = host.send(world, &envelope).await;
        host.take(world, &envelope, &answer);
        recorded.push(envelope);
    }
    world.pass(1000);
    host.beat(world).await;
    is_refused(&copy, world, RefusalCode::Quarantined).await;
    assert_eq!(status(world).await, "quarantined");
    (host, copy, recorded)
}

#[tokio::test]
async fn the_first_goes_on_and_the_second_changes_nothing() {
    let world = World::new().await;
    let (mut host, copy, recorded) = quarantined(&world).await;
    let pending = next(&host, &world);
    let of_the_copy = next(&copy, &world);
    assert_eq!(
        host.refused(&world, &pending).await.1.code,
        RefusalCode::Quarantined
    );
    assert!(keep(&world, &host.server_id, Kept::First).await);
    assert!(!keep(&world, &host.server_id, Kept::Second).await);
    assert_eq!(status(&world).await, "active");
    // The very request that was refused is accepted now.
    world.pass(200_000);
    let before = world.dump().await;
    for old in recorded.iter().chain([&of_the_copy]) {
        copy.refused(&world, old).await;
    }
    assert_eq!(world.dump().await, before);
    let answer = host.send(&world, &pending).await;
    let reply = host.take(&world, &pending, &answer);
    assert_eq!(reply.standing.verdict, Verdict::Unverified);
    assert_eq!(wants(&host, &world, &reply), ["rotate", "challenge"]);
    // With a batch as well, until it is acknowledged; no record is lost.
    let five = seal(&world, &host, 5, &record(&host, 1, end()));
    let reply = host.say(&world, batch(vec![five])).await;
    assert_eq!(wants(&host, &world, &reply), ["rotate"]);
    assert_eq!(reply.connections_ack.unwrap().acked_through, 5);
    assert_eq!(world.count("connection_gaps").await, 0);
    // The other one, whatever it tries.
    let before = world.dump().await;
    let (_, refusal) = copy.refused(&world, &of_the_copy).await;
    assert_eq!(refusal.code, RefusalCode::Quarantined);
    let mut header = copy.header(&world);
    header.proof = copy.last_reply.clone().map(Box::new);
    let proven = copy.sign(header, copy.heartbeat());
    assert_eq!(
        copy.refused(&world, &proven).await.1.code,
        RefusalCode::Quarantined
    );
    assert_eq!(world.dump().await, before);
    assert_eq!(world.events("other_holder_refused").await.len(), 1);
    assert_eq!(world.events("clone_suspected").await.len(), 1);
    host.beat(&world).await;
    new_key_is_used(&world, &host.server_id).await;
    assert_eq!(world.events("clone_resolved").await.len(), 1);
    let row = world.query("SELECT kept || status FROM clone_suspicions");
    assert_eq!(row.await, ["firstresolved"]);
}

#[tokio::test]
async fn the_second_goes_on_where_it_stands_and_the_first_changes_nothing() {
    let world = World::new().await;
    let (host, mut copy, recorded) = quarantined(&world).await;
    // The copy's own pending request, as it was refused.
    let pending = next(&copy, &world);
    assert!(keep(&world, &host.server_id, Kept::Second).await);
    world.pass(200_000);
    let before = world.dump().await;
    // What the first has sent, and what it can prove with our own replies.
    let mut header = host.header(&world);
    header.proof = host.last_reply.clone().map(Box::new);
    let proven = host.sign(header, host.heartbeat());
    let fresh = next(&host, &world);
    let all: Vec<&Envelope> = recorded.iter().chain([&proven, &fresh]).collect();
    for old in &all {
        host.refused(&world, old).await;
    }
    assert_eq!(world.dump().await, before);
    // Another request of that number is not the one that was seen.
    let mut forged = copy.header(&world);
    forged.agent_time_ms = 1;
    let forged = copy.sign(forged, copy.heartbeat());
    assert_eq!(
        copy.refused(&world, &forged).await.1.code,
        RefusalCode::Quarantined
    );
    assert_eq!(world.dump().await, before);
    world.now_ms.fetch_sub(200_000, Ordering::Relaxed);
    let again = next(&copy, &world);
    assert_eq!(again.digest(), pending.digest());
    let answer = copy.send(&world, &again).await;
    let reply = copy.take(&world, &again, &answer);
    assert_eq!(wants(&copy, &world, &reply), ["rotate", "challenge"]);
    // Its ledger stands at 2, and these are other records than the first's.
    let records = vec![
        seal(&world, &copy, 2, &record(&copy, 20, ConnectionEvent::Start)),
        seal(&world, &copy, 3, &record(&copy, 1, end())),
    ];
    let reply = copy.say(&world, batch(records)).await;
    assert_eq!(reply.connections_ack.unwrap().acked_through, 3);
    assert_eq!(world.count("connection_gaps").await, 0);
    let twenty = Uuid::from_u128(20).to_string();
    let stored = format!("connections WHERE connection_id = '{twenty}'");
    assert_eq!(world.count(&stored).await, 1);
    assert_eq!(world.count("connections WHERE status = 'ended'").await, 1);
    // Those of the first stay as they were.
    assert_eq!(world.count("connections").await, 5);
    let later = seal(&world, &copy, 4, &record(&copy, 20, end()));
    let reply = copy.say(&world, batch(vec![later])).await;
    assert_eq!(reply.connections_ack.unwrap().acked_through, 4);
    // The first still changes nothing, at any later point.
    for _ in 0..8 {
        let before = world.dump().await;
        for old in &all {
            host.refused(&world, old).await;
        }
        assert_eq!(world.dump().await, before);
        copy.beat(&world).await;
    }
    new_key_is_used(&world, &host.server_id).await;
    let row = world.query("SELECT kept || status FROM clone_suspicions");
    assert_eq!(row.await, ["secondresolved"]);
}

#[tokio::test]
async fn one_that_was_found_by_its_witness_can_be_kept() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let mut old = copy_of(&host);
    for _ in 0..5 {
        host.beat(&world).await;
    }
    let forget = "DELETE FROM request_digests RETURNING digest";
    world.query(forget).await;
    crate::witness::speak(&mut old, &world).await;
    assert_eq!(status(&world).await, "quarantined");
    assert!(keep(&world, &host.server_id, Kept::Second).await);
    is_refused(&host, &world, RefusalCode::Quarantined).await;
    assert_eq!(
        world.post("/v1/poll", poll(&host, &world)).await.status,
        409
    );
    let reply = old.beat(&world).await;
    assert_eq!(wants(&old, &world, &reply), ["rotate", "challenge"]);
    old.beat(&world).await;
    is_refused(&host, &world, RefusalCode::Quarantined).await;
}

#[tokio::test]
async fn a_second_copy_is_found_again_after_the_first_was_resolved() {
    let world = World::new().await;
    let (mut host, _, _) = quarantined(&world).await;
    keep(&world, &host.server_id, Kept::First).await;
    host.beat(&world).await;
    new_key_is_used(&world, &host.server_id).await;
    let copy = copy_of(&host);
    host.beat(&world).await;
    is_refused(&copy, &world, RefusalCode::Quarantined).await;
    assert_eq!(status(&world).await, "quarantined");
    assert_eq!(world.count("clone_suspicions").await, 2);
    assert!(keep(&world, &host.server_id, Kept::First).await);
    host.beat(&world).await;
}

#[tokio::test]
async fn the_kept_one_is_asked_for_a_new_key_until_it_has_one() {
    let world = World::new().await;
    let (mut host, _, _) = quarantined(&world).await;
    keep(&world, &host.server_id, Kept::First).await;
    // It comes only after the directive's time.
    world.pass(3_600_000);
    let reply = host.beat(&world).await;
    assert_eq!(wants(&host, &world, &reply), ["challenge", "rotate"]);
    let rotate = host.directives(&world, &reply.directives).remove(1);
    let mut header = host.header(&world);
    header.directive_acks = vec![DirectiveAck {
        id: rotate.id,
        outcome: DirectiveOutcome::Unsupported,
        detail: None,
    }];
    let envelope = host.sign(header, host.heartbeat());
    let answer = host.send(&world, &envelope).await;
    // Not again at once.
    let reply = host.take(&world, &envelope, &answer);
    assert_eq!(wants(&host, &world, &reply), ["challenge"]);
    world.pass(600_001);
    let reply = host.beat(&world).await;
    assert!(wants(&host, &world, &reply).contains(&"rotate"));
}

fn wish(id: Uuid, issued_ms: i64) -> NewRotation {
    NewRotation {
        id,
        issued_ms,
        deadline_s: 600,
        delivered: false,
    }
}

#[tokio::test]
async fn a_directive_goes_out_with_every_reply_and_a_challenge_only_with_heartbeats() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let (id, now_ms) = (Uuid::from_u128(5), world.now());
    for asked in [id, Uuid::from_u128(6)] {
        let queued = world
            .store
            .queue_rotation(&host.server_id, wish(asked, now_ms));
        assert_eq!(queued.await.unwrap(), Some(id));
    }
    for seq in 1..=2 {
        let connection = record(&host, seq, ConnectionEvent::Start);
        let sealed = seal(&world, &host, u64::try_from(seq).unwrap(), &connection);
        let reply = host.say(&world, batch(vec![sealed])).await;
        assert_eq!(wants(&host, &world, &reply), ["rotate"]);
    }
    let mut header = host.header(&world);
    header.directive_acks = vec![DirectiveAck {
        id,
        outcome: DirectiveOutcome::Applied,
        detail: None,
    }];
    let envelope = host.sign(header, batch(vec![]));
    let answer = host.send(&world, &envelope).await;
    let reply = host.take(&world, &envelope, &answer);
    assert!(reply.directives.is_empty());
    // One whose time is over stays away as well.
    let late = Uuid::from_u128(7);
    let queued = world
        .store
        .queue_rotation(&host.server_id, wish(late, now_ms - 700_000));
    queued.await.unwrap();
    assert!(host.say(&world, batch(vec![])).await.directives.is_empty());
    assert!(
        world
            .store
            .queue_rotation("nobody", wish(late, now_ms))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_resolution_approves_nobody_and_permits_no_other_hardware() {
    let world = World::with(|config| config.auto_approve = false).await;
    let (mut host, _, _) = quarantined(&world).await;
    world
        .query("UPDATE servers SET verdict = 'mismatch', verdict_reason = 'disk1' RETURNING status")
        .await;
    keep(&world, &host.server_id, Kept::First).await;
    assert_eq!(status(&world).await, "pending");
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Pending);
    assert!(
        world
            .store
            .approve_server(&host.server_id, world.now())
            .await
            .unwrap()
    );
    host.authorisation = Authorisation::Lapsed;
    let reply = host.beat(&world).await;
    assert_eq!(reply.standing.verdict, Verdict::Mismatch);
    assert_eq!(reply.standing.reason.as_deref(), Some("disk1"));
}

fn poll(of: &Host, world: &World) -> Vec<u8> {
    let poll = Poll {
        server_id: of.server_id.clone(),
        epoch: 1,
        nonce: of.nonce,
        boot_id: of.boot_id,
        request_id: clock::uuid_v7(world.now()),
        wait_s: 0,
    };
    Envelope::sign(&poll, &[&of.key]).to_json()
}

#[tokio::test]
async fn a_poll_with_a_nonce_from_before_the_decision_gets_nothing() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let copy = copy_of(&host);
    host.beat(&world).await;
    is_refused(&copy, &world, RefusalCode::Quarantined).await;
    keep(&world, &host.server_id, Kept::First).await;
    assert_eq!(
        world.post("/v1/poll", poll(&copy, &world)).await.status,
        409
    );
    assert_eq!(
        world.post("/v1/poll", poll(&host, &world)).await.status,
        200
    );
}

/// The operator's command on the world's own database.
pub(crate) fn resolve_clone(world: &World, words: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vpn-node-controller"));
    command.arg("--data-dir").arg(&world.config.data_dir);
    let words = format!("server resolve-clone {words}");
    command.args(words.split_whitespace()).output().unwrap()
}

pub(crate) fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(both).unwrap()
}

#[tokio::test]
async fn the_command_shows_both_and_keeps_the_one_that_is_named() {
    for (named, kept) in [
        ("first", "first"),
        ("second", "second"),
        ("192.0.2.1", "first"),
        ("198.51.100.9", "second"),
        ("::ffff:198.51.100.9", "second"),
        ("00000000-0000-0000-0000-000000000001", "first"),
        ("C0B1", "second"),
    ] {
        let world = World::new().await;
        let (host, ..) = quarantined(&world).await;
        let shown = resolve_clone(&world, "host-1");
        let page = text(&shown);
        assert!(shown.status.success(), "{page}");
        for part in [
            "first",
            "second",
            "192.0.2.1",
            "198.51.100.9",
            "c0b10000",
            "It looks like: copy",
            "--keep",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let json = resolve_clone(&world, "host-1 --json");
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        let row = &json["clone_suspicions"][0];
        assert_eq!(
            (&row["status"], &row["kept"]),
            (&"open".into(), &serde_json::Value::Null)
        );
        let done = resolve_clone(&world, &format!("host-1 --keep {named}"));
        assert!(done.status.success(), "{}", text(&done));
        assert!(text(&done).contains(&format!("The {kept} holder")));
        let json = resolve_clone(&world, "host-1 --json");
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        let row = &json["clone_suspicions"][0];
        assert_eq!(
            (&row["status"], &row["kept"]),
            (&"resolving".into(), &kept.into())
        );
        // A decision stands.
        let again = resolve_clone(&world, "host-1 --keep second");
        assert_eq!(again.status.code(), Some(1));
        assert!(text(&again).contains("is kept already"), "{}", text(&again));
        new_key_is_used(&world, &host.server_id).await;
        let none = resolve_clone(&world, "host-1");
        assert_eq!(none.status.code(), Some(1));
        assert!(
            text(&none).contains("is active: no two holders"),
            "{}",
            text(&none)
        );
    }
}

#[tokio::test]
async fn a_name_that_means_both_or_none_is_refused_with_a_sentence() {
    let world = World::new().await;
    let none = resolve_clone(&world, "host-1 --keep first");
    assert!(
        text(&none).contains("no server is called"),
        "{}",
        text(&none)
    );
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    // The same machine, set back to a snapshot of its memory.
    let old = host.clone();
    world.pass(30_000);
    host.beat(&world).await;
    world.now_ms.fetch_sub(30_000, Ordering::Relaxed);
    is_refused(&old, &world, RefusalCode::Quarantined).await;
    let page = text(&resolve_clone(&world, "host-1"));
    assert!(page.contains("It looks like: restored snapshot"), "{page}");
    assert!(page.contains("snapshot of its memory"), "{page}");
    for (named, sentence) in [
        ("192.0.2.1", "both holders have the address"),
        ("0000", "both holders have a boot id that begins with"),
        ("192.0.2.7", "neither holder is"),
        ("ffff", "neither holder is"),
        ("third", "neither holder is"),
    ] {
        let done = resolve_clone(&world, &format!("host-1 --keep {named}"));
        assert_eq!(done.status.code(), Some(1));
        let page = text(&done);
        assert!(page.contains(sentence), "{page}");
    }
    assert_eq!(status(&world).await, "quarantined");
    assert!(
        resolve_clone(&world, "host-1 --keep second")
            .status
            .success()
    );
}
