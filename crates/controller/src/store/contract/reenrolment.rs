//! A token for a server that exists.

use vpn_node_protocol::connection::ConnectionEvent;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::EnrolRefusal;

use super::clones::suspicion;
use super::{
    LEDGER, NOW, enrolled, enrolment, identity, make_key, read, record, refused, step, write,
};
use crate::rules::Effect;
use crate::rules::state::{KeyRole, ServerStatus};
use crate::store::{EventFilter, NewRegistrationKey, Store};

pub(super) async fn key_for(store: &dyn Store, name: &str, server_id: &str) {
    let key = NewRegistrationKey {
        registration_key: name.to_owned(),
        created_ms: NOW,
        expires_ms: NOW + 1,
        notes: None,
        for_server_id: Some(server_id.to_owned()),
    };
    store.create_registration_key(key).await.unwrap();
}

pub(super) async fn a_server_gets_a_new_identity_and_keeps_its_connections(store: &dyn Store) {
    make_key(store, "first", NOW + 1).await;
    let id = enrolled(store.enrol(enrolment("first", 30)).await.unwrap());
    let connection = 3000;
    let ack = Effect::LedgerAck {
        ledger_epoch: LEDGER,
        through: 7,
    };
    let start = record(connection, 1, ConnectionEvent::Start);
    let stop = Effect::Quarantine(Box::new(suspicion()));
    write(store, &id, vec![step(0), start, ack, stop])
        .await
        .unwrap();
    key_for(store, "anew", &id).await;
    let stored = store.registration_key("anew").await.unwrap().unwrap();
    assert_eq!(stored.for_server_id.as_ref(), Some(&id));
    let servers = store.list_servers().await.unwrap().len();

    let end = store.enrol(enrolment("anew", 31)).await.unwrap();
    assert_eq!(enrolled(end.clone()), id);
    assert_eq!(store.list_servers().await.unwrap().len(), servers);
    let known = store.server_by_id(&id).await.unwrap().unwrap();
    assert_eq!((known.identity, known.epoch), (identity(31), 2));
    assert_eq!(known.status, ServerStatus::Active);
    assert_eq!((known.nonce, known.previous_nonce), (Hex([31; 32]), None));
    let old = store
        .server_by_key(identity(30).id())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(old.role, KeyRole::Retired);
    let snapshot = read(store, &id).await;
    assert_eq!((snapshot.chain.epoch, snapshot.chain.seq), (2, 0));
    assert_eq!(
        (snapshot.chain.last_digest, snapshot.last_reply),
        (None, None)
    );
    assert_eq!(snapshot.ledger_acked, 7);
    let connections = store.list_connections(Some(&id), true, 9).await.unwrap();
    assert_eq!(connections.len(), 1);
    let events = store.list_events(EventFilter::newest(1)).await.unwrap();
    assert_eq!(events[0].event_type, "server_reenrolled");

    // Once more the same, and nobody else.
    let mut again = enrolment("anew", 31);
    again.nonce = Hex([99; 32]);
    assert_eq!(store.enrol(again).await.unwrap(), end);
    let other = store.enrol(enrolment("anew", 32)).await.unwrap();
    assert_eq!(refused(other), EnrolRefusal::TokenUsed);
    // The identity before comes back with neither token.
    for token in ["first", "anew"] {
        let end = store.enrol(enrolment(token, 30)).await.unwrap();
        assert_eq!(refused(end), EnrolRefusal::BadRequest);
    }
    assert_eq!(
        store.list_events(EventFilter::newest(1)).await.unwrap()[0].event_id,
        events[0].event_id
    );
}
