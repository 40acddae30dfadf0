//! Who is refused does not stay connected, and one connection can be ended by itself.

use uuid::Uuid;
use vpn_node_protocol::connection::ConnectionEvent;
use vpn_node_protocol::directive::DisconnectReason;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::limits::{MAX_DIRECTIVES, MAX_DISCONNECTS};
use vpn_node_protocol::message::Purpose;

use super::capabilities::heard;
use super::devices::{batch, called, device, host, key, of};
use super::{NOW, end, read, write};
use crate::clock::to_text;
use crate::rules::Effect;
use crate::rules::devices::{
    DISCONNECT_AGAIN_MS, DISCONNECT_APPLIED_AGAIN_MS, DISCONNECT_DEADLINE_S, Revoked,
};
use crate::rules::effect::NewChallenge;
use crate::rules::events::EventType;
use crate::rules::state::Want;
use crate::store::{Asked, EventFilter, NewDevice, Revocation, RotatedKey, Store, Swept};

/// After the deadline of a directive that was made at [`NOW`].
const OVER: i64 = NOW + DISCONNECT_DEADLINE_S as i64 * 1000 + 1;

/// What waits for a server: the connections of each open directive that ends some.
async fn waits(store: &dyn Store, server_id: &str) -> Vec<(Vec<u128>, DisconnectReason)> {
    let open = read(store, server_id).await.directives;
    open.into_iter()
        .filter_map(|directive| match directive.want {
            Want::Disconnect {
                connection_ids,
                reason,
            } => Some((
                connection_ids.iter().map(|id| id.as_u128()).collect(),
                reason,
            )),
            _ => None,
        })
        .collect()
}

async fn settle(store: &dyn Store, server_id: &str, status: &'static str, detail: Option<&str>) {
    let open = read(store, server_id).await.directives;
    let effects = open.iter().map(|directive| Effect::DirectiveStatus {
        id: directive.id,
        status,
        detail: detail.map(str::to_owned),
    });
    write(store, server_id, effects.collect()).await.unwrap();
}

async fn revoke(store: &dyn Store, whom: Revoked, at_ms: i64) -> Option<Asked> {
    let revocation = Revocation {
        whom,
        reason: "lost".into(),
        at_ms,
    };
    store.revoke(revocation).await.unwrap()
}

pub(super) async fn a_revoked_device_is_ended_and_ended_again(store: &dyn Store) {
    use DisconnectReason::Revoked as Why;
    let (near, far) = (host(store, 121).await, host(store, 122).await);
    key(store, "k-bob", "bob", None).await;
    store
        .add_device(device("d-bob", "k-bob", "bobs"))
        .await
        .unwrap();
    store.add_identity(called("d-bob", "bob")).await.unwrap();
    let many = MAX_DISCONNECTS as u128 + 3;
    let starts = (0..many).map(|n| of(6100 + n, n as u64 + 1, ConnectionEvent::Start, "bob"));
    batch(store, &near, NOW, starts.collect()).await;
    batch(store, &near, NOW, vec![of(6100, 900, end(), "bob")]).await;
    batch(
        store,
        &far,
        NOW,
        vec![of(6200, 1, ConnectionEvent::Start, "bob")],
    )
    .await;
    assert!(waits(store, &near).await.is_empty());
    let asked = revoke(store, Revoked::Device("d-bob".into()), NOW)
        .await
        .unwrap();
    assert_eq!(asked.connections.len() as u128, many);
    assert_eq!((asked.directives.len(), asked.not_asked.len()), (3, 0));
    let sizes: Vec<usize> = waits(store, &near)
        .await
        .iter()
        .map(|(ids, _)| ids.len())
        .collect();
    assert_eq!(sizes, [MAX_DISCONNECTS, 2]);
    assert_eq!(waits(store, &far).await, [(vec![6200], Why)]);
    assert_eq!(
        revoke(store, Revoked::Device("d-bob".into()), NOW).await,
        None
    );
    assert_eq!(
        revoke(store, Revoked::Device("none".into()), NOW).await,
        None
    );
    let row = &store.devices(Some("bobs")).await.unwrap()[0];
    assert_eq!(
        (row.status.as_str(), row.status_reason.as_deref()),
        ("revoked", Some("lost"))
    );
    // An update of one that is asked for: nothing more. One that comes back: asked for at once.
    batch(
        store,
        &far,
        NOW + 1,
        vec![of(6200, 2, ConnectionEvent::Update, "bob")],
    )
    .await;
    assert_eq!(waits(store, &far).await.len(), 1);
    let back = || {
        vec![
            of(6201, 3, ConnectionEvent::Start, "bob"),
            of(6202, 4, ConnectionEvent::Start, "bob"),
        ]
    };
    batch(store, &far, NOW + 1, back()).await;
    // The same records once more change nothing.
    batch(store, &far, NOW + 2, back()).await;
    let waiting = waits(store, &far).await;
    assert_eq!(waiting[1..], [(vec![6201, 6202], Why)]);
    // A session that was over before it was heard of needs no end.
    let short = vec![
        of(6203, 5, ConnectionEvent::Start, "bob"),
        of(6203, 6, end(), "bob"),
    ];
    batch(store, &far, NOW + 2, short).await;
    assert_eq!(waits(store, &far).await.len(), 2);
    // An operator is told once of a client that redials.
    let filter = |event_type: &str| EventFilter {
        event_type: EventType::from_word(event_type),
        source_id: Some("d-bob".into()),
        ..EventFilter::newest(99)
    };
    let events = async |event_type| store.list_events(filter(event_type)).await.unwrap();
    assert_eq!(events("revoked_device_connected").await.len(), 1);
    assert_eq!(events("device_revoked").await.len(), 1);
    // The host could not: it is said, and when there is other news of the connection, it is asked
    // again.
    settle(store, &far, "failed", Some("no such daemon")).await;
    assert!(waits(store, &far).await.is_empty());
    let rows = store
        .disconnections_of(Uuid::from_u128(6201))
        .await
        .unwrap();
    assert_eq!(rows[0].outcome_detail.as_deref(), Some("no such daemon"));
    assert!(rows[0].is_settled() && !rows[0].is_done());
    batch(
        store,
        &far,
        NOW + 3,
        vec![of(6201, 7, ConnectionEvent::Update, "bob")],
    )
    .await;
    assert_eq!(waits(store, &far).await, [(vec![6201], Why)]);
    settle(store, &far, "applied", None).await;
    assert!(waits(store, &far).await.is_empty());
    let rows = store
        .disconnections_of(Uuid::from_u128(6201))
        .await
        .unwrap();
    assert!(rows[0].is_done() && !rows[0].is_settled());
    // A host that may not speak cannot be asked.
    assert!(store.revoke_server(&near, "sold", NOW).await.unwrap());
    let asked = revoke(store, Revoked::Key("k-bob".into()), NOW)
        .await
        .unwrap();
    assert_eq!(asked.not_asked.len() as u128, many - 1);
    assert_eq!(asked.not_asked[0].status, "revoked");
}

pub(super) async fn a_key_ends_and_the_sweep_sees_to_what_was_missed(store: &dyn Store) {
    use DisconnectReason::Revoked as Why;
    let id = host(store, 123).await;
    let end_ms = NOW + 10_000;
    key(store, "k-eve", "eve", Some(end_ms)).await;
    store
        .add_device(device("d-eve", "k-eve", "eves"))
        .await
        .unwrap();
    store.add_identity(called("d-eve", "eve")).await.unwrap();
    batch(
        store,
        &id,
        NOW,
        vec![of(6300, 1, ConnectionEvent::Start, "eve")],
    )
    .await;
    heard(store, &id, NOW, vec![]).await;
    let swept = async |now_ms| store.refuse_holders(now_ms, NOW).await.unwrap();
    let none = Swept::default();
    assert_eq!(swept(end_ms - 1).await, none);
    assert_eq!(
        swept(end_ms).await,
        Swept {
            expired: 1,
            asked: 1
        }
    );
    assert_eq!(waits(store, &id).await, [(vec![6300], Why)]);
    assert_eq!(swept(end_ms + 1).await, none);
    // The host never took it: as soon as it is heard, it is asked again.
    let late = end_ms + OVER - NOW;
    assert_eq!(store.refuse_holders(late, NOW + 1).await.unwrap(), none);
    assert_eq!(swept(late).await.asked, 1);
    // It could not do it: not again at once.
    settle(store, &id, "failed", Some("busy")).await;
    assert_eq!(swept(late + 1).await, none);
    assert_eq!(swept(late + DISCONNECT_AGAIN_MS).await.asked, 1);
    // No device for such a key, and no other secret without a new end.
    assert!(
        !store
            .add_device(NewDevice {
                at_ms: end_ms,
                ..device("d-no", "k-eve", "no")
            })
            .await
            .unwrap()
    );
    let rotated = |expires_ms| RotatedKey {
        key_id: "k-eve".into(),
        key_hash: "other".into(),
        key_salt: "salt".into(),
        at_ms: late,
        expires_ms,
    };
    assert!(!store.rotate_personal_key(rotated(None)).await.unwrap());
    assert!(
        store
            .rotate_personal_key(rotated(Some(late + 1)))
            .await
            .unwrap()
    );
    let row = &store.personal_keys(Some("eve")).await.unwrap()[0];
    assert_eq!(
        (row.status.as_str(), row.key_hash.as_str()),
        ("active", "other")
    );
    assert_eq!(row.last_rotation_date, Some(to_text(late)));
    settle(store, &id, "applied", None).await;
    assert_eq!(store.refuse_holders(late, NOW).await.unwrap(), none);
    // Over again, and so is the connection by the host's word: its record may be lost, and it is not
    // asked for every ten minutes until the end of days.
    let over = Swept {
        expired: 1,
        asked: 0,
    };
    assert_eq!(swept(late + 2 * DISCONNECT_AGAIN_MS).await, over);
    assert_eq!(swept(late + 2 * DISCONNECT_APPLIED_AGAIN_MS).await.asked, 1);
    settle(store, &id, "applied", None).await;
    let revived = store.rotate_personal_key(rotated(Some(late + 1)));
    assert!(revived.await.unwrap());
    // Its time is over again, and no sweep was there yet: a start is refused all the same.
    batch(
        store,
        &id,
        late + 2,
        vec![of(6301, 2, ConnectionEvent::Start, "eve")],
    )
    .await;
    assert_eq!(waits(store, &id).await, [(vec![6301], Why)]);
    assert!(
        revoke(store, Revoked::Key("k-eve".into()), late)
            .await
            .is_some()
    );
    assert!(
        !store
            .rotate_personal_key(rotated(Some(late + 99)))
            .await
            .unwrap()
    );
}

pub(super) async fn one_connection_is_ended_once(store: &dyn Store) {
    let id = host(store, 124).await;
    batch(
        store,
        &id,
        NOW,
        vec![of(6400, 1, ConnectionEvent::Start, "eve2")],
    )
    .await;
    let connection = Uuid::from_u128(6400);
    let asked = store.disconnect(connection, NOW).await.unwrap();
    assert_eq!(asked.connections, [connection]);
    assert_eq!(store.disconnect(connection, NOW + 1).await.unwrap(), asked);
    assert_eq!(
        waits(store, &id).await,
        [(vec![6400], DisconnectReason::AdminKick)]
    );
    assert!(store.servers_to_wake(NOW, NOW).await.unwrap().contains(&id));
    assert_eq!(store.take_directives(&id, NOW).await.unwrap().len(), 1);
    let row = store.disconnections(&asked).await.unwrap().remove(0);
    assert!(row.delivered_at.is_some() && !row.is_settled());
    batch(store, &id, NOW, vec![of(6400, 2, end(), "eve2")]).await;
    let row = store.disconnections(&asked).await.unwrap().remove(0);
    assert!(row.is_settled() && row.is_done());
    assert_eq!(row.disconnection_reason.as_deref(), Some("timeout"));
    // One that is over, or that nobody knows, is nobody's to end.
    for gone in [connection, Uuid::from_u128(6499)] {
        assert_eq!(store.disconnect(gone, NOW).await.unwrap(), Asked::default());
    }
}

pub(super) async fn many_wishes_hide_no_challenge_and_wake_for_nothing_never(store: &dyn Store) {
    let id = host(store, 125).await;
    let connections = 5 * MAX_DIRECTIVES as u128;
    for n in 0..connections {
        batch(
            store,
            &id,
            NOW,
            vec![of(6500 + n, n as u64 + 1, ConnectionEvent::Start, "z")],
        )
        .await;
        store
            .disconnect(Uuid::from_u128(6500 + n), NOW)
            .await
            .unwrap();
    }
    let challenge = NewChallenge {
        id: Uuid::from_u128(6599),
        value: Hex([4; 32]),
        purpose: Purpose::OnDemand,
        issued_ms: NOW + 1,
        deadline_s: 60,
        delivered: false,
    };
    let queued = store.queue_challenge(&id, challenge).await.unwrap();
    assert!(read(store, &id).await.directives[0].id == queued);
    let mut taken = 0;
    while store.servers_to_wake(NOW, NOW).await.unwrap().contains(&id) {
        let part = store.take_directives(&id, NOW).await.unwrap().len();
        assert!(part > 0 && part <= MAX_DIRECTIVES);
        taken += part as u128;
    }
    assert_eq!(taken, connections + 1);
}
