//! Devices get their connections, whichever come first; names from outside are stored as they are.

use uuid::Uuid;
use vpn_node_protocol::connection::{ClientIdentity, ConnectionEvent, opaque_text};

use super::{LEDGER, NOW, end, enrolled, enrolment, make_key, record, write};
use crate::clock::to_text;
use crate::rules::Effect;
use crate::rules::connections::LostRange;
use crate::rules::devices::IdentityKind;
use crate::store::{
    Asked, ConnectionFilter, ConnectionRow, IdentityEnd, NewDevice, NewIdentity, NewPersonalKey,
    Store,
};

pub(super) async fn host(store: &dyn Store, n: u8) -> String {
    let token = format!("devices {n}");
    make_key(store, &token, NOW + 1).await;
    enrolled(store.enrol(enrolment(&token, n)).await.unwrap())
}

pub(super) async fn key(store: &dyn Store, key_id: &str, user_name: &str, expires_ms: Option<i64>) {
    let key = NewPersonalKey {
        key_id: key_id.into(),
        user_name: user_name.into(),
        user_email: None,
        key_hash: "hash".into(),
        key_salt: "salt".into(),
        created_ms: NOW,
        expires_ms,
        notes: None,
    };
    store.create_personal_key(key).await.unwrap();
}

pub(super) fn device(device_id: &str, key_id: &str, name: &str) -> NewDevice {
    NewDevice {
        device_id: device_id.into(),
        key_id: key_id.into(),
        hardware_fingerprint: String::new(),
        device_name: name.into(),
        platform: "linux".into(),
        at_ms: NOW,
    }
}

pub(super) fn called(device_id: &str, identity: &str) -> NewIdentity {
    NewIdentity {
        kind: IdentityKind::Certificate,
        identity: identity.into(),
        device_id: device_id.into(),
        at_ms: NOW,
    }
}

/// A record of a connection of whoever has this certificate.
pub(super) fn of(connection: u128, seq: u64, event: ConnectionEvent, name: &str) -> Effect {
    let Effect::Connection(mut row) = record(connection, seq, event) else {
        unreachable!()
    };
    row.record.identity = Some(ClientIdentity {
        kind: "certificate".into(),
        value: name.into(),
    });
    Effect::Connection(row)
}

/// A batch as the rules hand it on.
pub(super) async fn batch(
    store: &dyn Store,
    server_id: &str,
    at_ms: i64,
    mut records: Vec<Effect>,
) {
    records.push(Effect::Holders { at_ms });
    write(store, server_id, records).await.unwrap();
}

async fn one(store: &dyn Store, connection: u128) -> ConnectionRow {
    let filter = ConnectionFilter {
        id: Some(Uuid::from_u128(connection).to_string()),
        limit: 9,
        ..ConnectionFilter::default()
    };
    store.connections(filter).await.unwrap().remove(0)
}

pub(super) async fn a_connection_is_its_devices_whichever_comes_first(store: &dyn Store) {
    let id = host(store, 120).await;
    key(store, "k-ada", "ada", None).await;
    assert!(
        store
            .add_device(device("d-lap", "k-ada", "laptop"))
            .await
            .unwrap()
    );
    assert!(
        !store
            .add_device(device("d-x", "no key", "x"))
            .await
            .unwrap()
    );
    let filter = |unmapped, user: Option<&str>| ConnectionFilter {
        server_id: Some(id.clone()),
        user_name: user.map(str::to_owned),
        unmapped,
        limit: 99,
        ..ConnectionFilter::default()
    };
    let count = async |filter| store.connections(filter).await.unwrap().len();
    // Before anybody knows whose it is; one of them is over already.
    let early = vec![
        of(6001, 1, ConnectionEvent::Start, "ada@lap"),
        of(6001, 2, end(), "ada@lap"),
        of(6002, 3, ConnectionEvent::Start, "ada@lap"),
        of(6003, 4, ConnectionEvent::Start, "ada@phone"),
    ];
    batch(store, &id, NOW, early).await;
    assert_eq!(count(filter(true, None)).await, 3);
    let done = store
        .add_identity(called("d-lap", "ada@lap"))
        .await
        .unwrap();
    let asked = Asked::default();
    assert_eq!(done, IdentityEnd::Added { filled: 2, asked });
    assert_eq!(count(filter(true, None)).await, 1);
    assert_eq!(count(filter(false, Some("ada"))).await, 2);
    let row = one(store, 6001).await;
    assert_eq!(row.device_id.as_deref(), Some("d-lap"));
    assert_eq!(row.device_name.as_deref(), Some("laptop"));
    assert_eq!(
        (row.key_id.as_deref(), row.needs_mapping),
        (Some("k-ada"), false)
    );
    // Afterwards: with the record itself.
    batch(
        store,
        &id,
        NOW,
        vec![of(6004, 5, ConnectionEvent::Start, "ada@lap")],
    )
    .await;
    assert_eq!(one(store, 6004).await.user_name.as_deref(), Some("ada"));
    let row = &store.devices(Some("laptop")).await.unwrap()[0];
    assert_eq!(row.last_seen, to_text(NOW + 5));
    assert_eq!((row.identities, row.active_connections), (1, 2));
    // An identity is one device's.
    assert!(
        store
            .add_device(device("d-pho", "k-ada", "phone"))
            .await
            .unwrap()
    );
    let again = store
        .add_identity(called("d-lap", "ada@lap"))
        .await
        .unwrap();
    assert_eq!(again, IdentityEnd::Already);
    let other = store
        .add_identity(called("d-pho", "ada@lap"))
        .await
        .unwrap();
    let whose = IdentityEnd::Other {
        device_id: "d-lap".into(),
        device_name: Some("laptop".into()),
    };
    assert_eq!(other, whose);
    assert!(
        !store
            .remove_identity(called("d-pho", "ada@lap"))
            .await
            .unwrap()
    );
    assert!(
        store
            .remove_identity(called("d-lap", "ada@lap"))
            .await
            .unwrap()
    );
    // What it has stays its own; what comes later is nobody's, or whoever's has it then.
    batch(
        store,
        &id,
        NOW,
        vec![of(6005, 6, ConnectionEvent::Start, "ada@lap")],
    )
    .await;
    assert!(one(store, 6005).await.needs_mapping);
    let moved = store
        .add_identity(called("d-pho", "ada@lap"))
        .await
        .unwrap();
    assert!(
        matches!(moved, IdentityEnd::Added { filled: 1, .. }),
        "{moved:?}"
    );
    assert_eq!(one(store, 6004).await.device_id.as_deref(), Some("d-lap"));
    assert_eq!(one(store, 6005).await.device_id.as_deref(), Some("d-pho"));
}

pub(super) async fn hostile_names_are_stored_as_they_are(store: &dyn Store) {
    let id = host(store, 126).await;
    let hostile = [
        "a\nb\u{1b}[2J\u{202e}",
        "'; DROP TABLE devices; --",
        "=cmd|' /C calc'!A0,\"x\"",
        "nul\0inside",
        "%s%n{}\\x00",
        &"x".repeat(64 * 1024),
    ];
    for (n, name) in hostile.iter().enumerate() {
        let (key_id, device_id) = (format!("k-h{n}"), format!("d-h{n}"));
        key(store, &key_id, name, None).await;
        store
            .add_device(device(&device_id, &key_id, name))
            .await
            .unwrap();
        let identity = opaque_text(name.as_bytes());
        store
            .add_identity(called(&device_id, &identity))
            .await
            .unwrap();
        let connection = 6600 + n as u128;
        let start = of(connection, n as u64 + 1, ConnectionEvent::Start, &identity);
        batch(store, &id, NOW, vec![start]).await;
        let row = one(store, connection).await;
        assert_eq!(row.user_name.as_deref(), Some(*name));
        assert_eq!(row.client_identity, Some(identity));
        assert_eq!(store.devices(Some(name)).await.unwrap().len(), 1);
        assert_eq!(
            store.personal_keys(Some(name)).await.unwrap()[0].key_id,
            key_id
        );
    }
}

pub(super) async fn gaps_are_listed(store: &dyn Store) {
    let id = host(store, 128).await;
    let range = LostRange {
        first: 3,
        last: 9,
        reason: "dropped",
    };
    let lost = Effect::Lost {
        ledger_epoch: LEDGER,
        range,
    };
    write(store, &id, vec![lost]).await.unwrap();
    let rows = store.gaps(Some(&id), 9).await.unwrap();
    assert_eq!((rows.len(), rows[0].first_seq, rows[0].last_seq), (1, 3, 9));
    assert_eq!(
        (rows[0].reason.as_str(), rows[0].hostname.as_str()),
        ("dropped", "host-128")
    );
    assert!(store.gaps(None, 9).await.unwrap().len() > 1);
}
