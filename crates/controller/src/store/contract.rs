//! What every store must do, whatever database stands behind it.

mod approval;
mod capabilities;
mod challenges;
mod clones;
mod concurrent;
mod devices;
mod disconnects;
mod events;
mod hardware;
mod keys;
pub(crate) mod racers;
mod reenrolment;
mod releases;
mod revocation;
mod rollouts;

use ed25519_dalek::SigningKey;
use uuid::Uuid;
use vpn_node_protocol::certificate::{SealingKeyEntry, Validity};
use vpn_node_protocol::connection::{
    ClientIdentity, Confidence, ConnectionEvent, ConnectionRecord, Stamp,
};
use vpn_node_protocol::encoding::{Base64, Digest, Hex};
use vpn_node_protocol::enrolment::{EnrolRefusal, EnrolRequest, Hello, KeyStatus};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::sealing::{Context, Sealed, SealingSecret};

use crate::rules::Effect;
use crate::rules::boot::Boot;
use crate::rules::connections::{ConnectionWrite, LostRange};
use crate::rules::effect::{ChainStep, NewEvent};
use crate::rules::enrolment::{EnrolEnd, Enrolment, key_status};
use crate::rules::events::EventType;
use crate::rules::state::ServerStatus;
use crate::store::{Decision, EventFilter, NewRegistrationKey, Store, StoreError, Wants};

const NOW: i64 = 1_790_000_000_000;
const LEDGER: Hex<16> = Hex([3; 16]);

/// Runs everything on an empty store.
pub(crate) async fn all(store: &dyn Store) {
    keys_are_good_until_spent_revoked_or_expired(store).await;
    a_token_binds_one_identity(store).await;
    a_chain_moves_once_and_failures_leave_nothing(store).await;
    concurrent::concurrent_exchanges_are_one_after_the_other(store).await;
    records_are_applied_once_and_only_to_ones_own(store).await;
    challenges::a_challenge_is_queued_taken_and_closed_once(store).await;
    approval::only_a_waiting_server_is_approved_and_once(store).await;
    events::every_filter_counts_and_the_newest_come_first(store).await;
    events::events_are_handled_once_and_all_or_none(store).await;
    keys::a_next_key_comes_into_force_with_its_first_use(store).await;
    keys::an_introduction_is_stored_only_on_the_key_it_begins_at(store).await;
    reenrolment::a_server_gets_a_new_identity_and_keeps_its_connections(store).await;
    revocation::a_revoked_server_ends_with_everything_that_waits_for_it(store).await;
    clones::two_holders_are_stopped_and_one_is_kept(store).await;
    hardware::a_permit_is_given_used_up_and_taken_back(store).await;
    devices::a_connection_is_its_devices_whichever_comes_first(store).await;
    disconnects::a_revoked_device_is_ended_and_ended_again(store).await;
    disconnects::a_key_ends_and_the_sweep_sees_to_what_was_missed(store).await;
    disconnects::one_connection_is_ended_once(store).await;
    disconnects::many_wishes_hide_no_challenge_and_wake_for_nothing_never(store).await;
    devices::hostile_names_are_stored_as_they_are(store).await;
    capabilities::backends_come_go_and_do_not_pile_up(store).await;
    devices::gaps_are_listed(store).await;
    releases::rows_follow_what_is_signed(store).await;
    rollouts::publish(store).await;
    rollouts::groups_hold_each_host_once(store).await;
    rollouts::a_rollout_goes_from_its_canary_to_its_end(store).await;
    rollouts::what_ended_stays_and_counts_once(store).await;
    rollouts::a_newer_rollout_and_an_abort_take_back_what_they_can(store).await;
}

/// What a later process finds.
pub(crate) async fn after_restart(store: &dyn Store) {
    let server = store
        .server_by_key(identity(1).id())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(server.status, ServerStatus::Active);
    assert_eq!(
        server.previous_nonce.is_some(),
        server.nonce != Hex([1; 32])
    );
    let connections = store.list_connections(None, false, 9).await.unwrap();
    assert!(!connections.is_empty());
}

fn identity(n: u8) -> vpn_node_protocol::keys::PublicKey {
    (&SigningKey::from_bytes(&[n; 32])).into()
}

async fn make_key(store: &dyn Store, name: &str, expires_ms: i64) {
    let key = NewRegistrationKey {
        registration_key: name.to_owned(),
        created_ms: NOW,
        expires_ms,
        notes: None,
        for_server_id: None,
    };
    store.create_registration_key(key).await.unwrap();
}

fn enrolment(key: &str, n: u8) -> Enrolment {
    let identity = identity(n);
    let secret = SealingSecret::from_bytes(&[9; 32]);
    let entry = SealingKeyEntry {
        id: secret.id(),
        key: Base64(secret.public().to_vec()),
        validity: Validity {
            not_before_ms: 0,
            not_after_ms: 1,
        },
    };
    let mut rng = rand_core::UnwrapErr(getrandom::SysRng);
    let id = identity.id();
    let context = Context::Hardware { identity: &id };
    let components = Components::default();
    let hello = Hello {
        registration_key: identity,
        client_nonce: Hex([0; 32]),
        server_nonce: Hex([0; 32]),
        controller_time_ms: NOW,
        key_status: KeyStatus::Active,
        server_id: None,
    };
    Enrolment {
        registration_key: key.to_owned(),
        identity,
        server_id: Uuid::from_u128(u128::from(n)).to_string(),
        status: ServerStatus::Active,
        nonce: Hex([n; 32]),
        log_id: Uuid::from_bytes(crate::clock::random()),
        request: EnrolRequest {
            hello: Envelope::sign(&hello, &[&SigningKey::from_bytes(&[n; 32])]),
            transcript: Hex([0; 32]),
            idempotency_id: Uuid::from_u128(1),
            identity_key: identity,
            capabilities: vec![vpn_node_protocol::enrolment::Capability {
                kind: "wireguard".into(),
                details: serde_json::json!({"interface": "wg0"}),
            }],
            version: "0.1.0".into(),
            hostname: format!("host-{n}"),
            os_version: String::new(),
            location: None,
            hardware: Sealed::seal(&entry, context, b"{}", &mut rng).unwrap(),
            verification_hash: components.verification_hash(),
        },
        components,
        peer_ip: "192.0.2.1".into(),
        now_ms: NOW,
    }
}

fn enrolled(end: EnrolEnd) -> String {
    match end {
        EnrolEnd::Enrolled { server_id, .. } => server_id,
        EnrolEnd::Refused(refused) => panic!("refused: {refused:?}"),
    }
}

fn refused(end: EnrolEnd) -> EnrolRefusal {
    match end {
        EnrolEnd::Refused(refused) => refused.code,
        EnrolEnd::Enrolled { server_id, .. } => panic!("enrolled {server_id}"),
    }
}

async fn keys_are_good_until_spent_revoked_or_expired(store: &dyn Store) {
    make_key(store, "good", NOW + 1).await;
    make_key(store, "revoked", NOW + 1).await;
    make_key(store, "expired", NOW).await;
    assert!(store.revoke_registration_key("revoked").await.unwrap());
    assert!(!store.revoke_registration_key("revoked").await.unwrap());
    assert!(!store.revoke_registration_key("none").await.unwrap());
    let mut found = vec![];
    for key in ["good", "revoked", "expired", "none"] {
        let stored = store.registration_key(key).await.unwrap();
        found.push(key_status(stored.as_ref(), NOW));
    }
    let expired = KeyStatus::Expired { at_ms: NOW };
    assert_eq!(
        found,
        [
            KeyStatus::Active,
            KeyStatus::Revoked,
            expired,
            KeyStatus::Unknown
        ]
    );
    for (key, code) in [
        ("revoked", EnrolRefusal::TokenRevoked),
        ("expired", EnrolRefusal::TokenExpired),
        ("none", EnrolRefusal::TokenUnknown),
    ] {
        let end = store.enrol(enrolment(key, 99)).await.unwrap();
        assert_eq!(refused(end), code, "{key}");
    }
    assert!(store.list_servers().await.unwrap().is_empty());
    let twice = NewRegistrationKey {
        registration_key: "good".into(),
        created_ms: NOW,
        expires_ms: NOW,
        notes: None,
        for_server_id: None,
    };
    assert!(store.create_registration_key(twice).await.is_err());
}

async fn a_token_binds_one_identity(store: &dyn Store) {
    let first = store.enrol(enrolment("good", 1)).await.unwrap();
    // Once more, even after the token's end: the same server and the same nonce.
    let mut again = enrolment("good", 1);
    again.server_id = "another".into();
    again.nonce = Hex([200; 32]);
    again.now_ms = NOW + 1_000_000;
    assert_eq!(store.enrol(again).await.unwrap(), first);
    let other = store.enrol(enrolment("good", 2)).await.unwrap();
    assert_eq!(refused(other), EnrolRefusal::TokenUsed);
    make_key(store, "second", NOW + 1).await;
    let same_identity = store.enrol(enrolment("second", 1)).await.unwrap();
    assert_eq!(refused(same_identity), EnrolRefusal::BadRequest);
    let stored = store.registration_key("second").await.unwrap();
    assert_eq!(key_status(stored.as_ref(), NOW), KeyStatus::Active);
    let second = store.enrol(enrolment("second", 2)).await.unwrap();
    assert_ne!(enrolled(second), enrolled(first));
    let servers = store.list_servers().await.unwrap();
    let shown: Vec<_> = servers
        .iter()
        .map(|row| row.identity_key_id.as_str())
        .collect();
    assert_eq!(
        shown,
        [identity(1).id().to_string(), identity(2).id().to_string()]
    );
}

fn step(from_seq: u64) -> Effect {
    Effect::Advance(Box::new(ChainStep {
        from_epoch: 1,
        from_seq,
        epoch: 1,
        seq: from_seq + 1,
        chain: Digest::of(&[&from_seq.to_be_bytes()]),
        nonce: Digest::of(&[b"nonce", &from_seq.to_be_bytes()]),
        digest: Hex([7; 32]),
        reply: vec![1, 2, 3],
        boot: Boot {
            id: Uuid::from_u128(5),
            at_ms: NOW,
        },
        made_ms: NOW,
        peer_ip: "192.0.2.9".into(),
    }))
}

async fn write(store: &dyn Store, server_id: &str, effects: Vec<Effect>) -> Result<(), StoreError> {
    let decide = Box::new(move |_: &_| Decision {
        repeats: None,
        effects,
        status: 200,
        body: vec![],
    });
    let id = server_id.to_owned();
    store.exchange(id, Wants::default(), decide).await.map(drop)
}

async fn read(store: &dyn Store, server_id: &str) -> crate::rules::Snapshot {
    let (send, receive) = std::sync::mpsc::channel();
    let decide = Box::new(move |snapshot: &crate::rules::Snapshot| {
        send.send(snapshot.clone()).unwrap();
        Decision {
            repeats: None,
            effects: vec![],
            status: 200,
            body: vec![],
        }
    });
    let wants = Wants {
        ledger_epoch: Some(LEDGER),
        ..Wants::default()
    };
    store
        .exchange(server_id.to_owned(), wants, decide)
        .await
        .unwrap();
    receive.recv().unwrap()
}

async fn server(store: &dyn Store, n: u8) -> String {
    let found = store.server_by_key(identity(n).id()).await.unwrap();
    found.unwrap().server_id
}

async fn a_chain_moves_once_and_failures_leave_nothing(store: &dyn Store) {
    let id = server(store, 1).await;
    write(store, &id, vec![step(0)]).await.unwrap();
    let event = |event_type| {
        Effect::Event(NewEvent {
            event_type,
            source_id: None,
            description: "x".into(),
            at_ms: NOW,
        })
    };
    // The same step again: nothing of the transaction stays, the event before it neither.
    let failed = write(store, &id, vec![event(EventType::StalePoll), step(0)]).await;
    assert!(matches!(failed, Err(StoreError::Conflict)), "{failed:?}");
    write(store, &id, vec![event(EventType::UnknownKey), step(1)])
        .await
        .unwrap();
    let events = store.list_events(EventFilter::newest(100)).await.unwrap();
    let has = |name: &str| events.iter().any(|e| e.event_type == name);
    assert!(has("unknown_key") && !has("stale_poll"));
    let snapshot = read(store, &id).await;
    assert_eq!(snapshot.chain.seq, 2);
    assert_eq!(snapshot.last_reply.as_deref(), Some(&[1, 2, 3][..]));
    assert_eq!(snapshot.peer_ip, "192.0.2.9");
    let known = store
        .server_by_key(identity(1).id())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(known.nonce, snapshot.chain.nonce);
    let before = Digest::of(&[b"nonce", &0u64.to_be_bytes()]);
    assert_eq!(known.previous_nonce, Some(before));
    assert!(write(store, "no such server", vec![]).await.is_err());
}

fn record(connection: u128, seq: u64, event: ConnectionEvent) -> Effect {
    let stamp = Stamp {
        boot_id: Uuid::from_u128(5),
        boottime_ms: 0,
        wall_ms: NOW,
        offset_ms: None,
    };
    let is_start = event == ConnectionEvent::Start;
    Effect::Connection(Box::new(ConnectionWrite {
        ledger_epoch: LEDGER,
        seq,
        event: match event {
            ConnectionEvent::Start => "start",
            ConnectionEvent::Update => "update",
            ConnectionEvent::End { .. } => "end",
        },
        record: ConnectionRecord {
            connection_id: Uuid::from_u128(connection),
            event,
            at: stamp,
            started: stamp,
            backend: "wireguard".into(),
            instance: "wg0".into(),
            identity: is_start.then(|| ClientIdentity {
                kind: "wireguard".into(),
                value: "key".into(),
            }),
            client_ip: is_start.then(|| "198.51.100.7".parse().unwrap()),
            client_port: Some(1000),
            virtual_ips: vec!["10.0.0.2/32".into()],
            rx_bytes: seq,
            tx_bytes: 0,
        },
        started_ms: NOW,
        at_ms: NOW + i64::try_from(seq).unwrap(),
    }))
}

fn end() -> ConnectionEvent {
    ConnectionEvent::End {
        reason: "timeout".into(),
        confidence: Confidence::Inferred,
        uncertainty_ms: 5000,
    }
}

async fn records_are_applied_once_and_only_to_ones_own(store: &dyn Store) {
    let (mine, other) = (server(store, 1).await, server(store, 2).await);
    let lost = Effect::Lost {
        ledger_epoch: LEDGER,
        range: LostRange {
            first: 3,
            last: 4,
            reason: "torn",
        },
    };
    let ack = Effect::LedgerAck {
        ledger_epoch: LEDGER,
        through: 5,
    };
    let batch = || {
        vec![
            record(1, 1, ConnectionEvent::Start),
            record(1, 2, end()),
            lost.clone(),
            // Its start was lost.
            record(2, 5, end()),
            ack.clone(),
        ]
    };
    write(store, &mine, batch()).await.unwrap();
    let rows = || store.list_connections(Some(&mine), false, 10);
    let before = serde_json::to_value(rows().await.unwrap()).unwrap();
    write(store, &mine, batch()).await.unwrap();
    assert_eq!(serde_json::to_value(rows().await.unwrap()).unwrap(), before);
    assert_eq!(read(store, &mine).await.ledger_acked, 5);
    let found = rows().await.unwrap();
    assert_eq!(found.len(), 2);
    let one = found
        .iter()
        .find(|row| row.connection_id == Uuid::from_u128(1).to_string())
        .unwrap();
    assert_eq!(one.status, "ended");
    assert_eq!(one.disconnection_reason.as_deref(), Some("timeout"));
    // The end did not say who and from where; the start had.
    assert_eq!(one.client_identity.as_deref(), Some("key"));
    assert_eq!((one.client_ip.as_str(), one.rx_bytes), ("198.51.100.7", 2));
    assert!(one.needs_mapping);
    // A start that comes after its end does not bring the connection back.
    write(store, &mine, vec![record(2, 6, ConnectionEvent::Start)])
        .await
        .unwrap();
    assert!(
        store
            .list_connections(None, true, 10)
            .await
            .unwrap()
            .is_empty()
    );
    // Another server cannot touch it.
    let theft = vec![record(1, 1, ConnectionEvent::Update)];
    write(store, &other, theft).await.unwrap();
    assert!(
        store
            .list_connections(Some(&other), false, 10)
            .await
            .unwrap()
            .is_empty()
    );
    let events = store.list_events(EventFilter::newest(1)).await.unwrap();
    assert_eq!(events[0].event_type, "connection_of_another_server");
}
