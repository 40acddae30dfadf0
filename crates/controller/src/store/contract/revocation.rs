//! A server is revoked.

use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::{EnrolRefusal, KeyStatus};
use vpn_node_protocol::message::Purpose;

use super::reenrolment::key_for;
use super::{NOW, enrolled, enrolment, make_key, read, refused};
use crate::rules::effect::NewChallenge;
use crate::rules::effect::NewRotation;
use crate::rules::enrolment::key_status;
use crate::rules::state::ServerStatus;
use crate::store::{Store, StoreError};

pub(super) async fn a_revoked_server_ends_with_everything_that_waits_for_it(store: &dyn Store) {
    make_key(store, "bad", NOW + 1).await;
    let id = enrolled(store.enrol(enrolment("bad", 40)).await.unwrap());
    let challenge = NewChallenge {
        id: Uuid::from_u128(400),
        value: Hex([4; 32]),
        purpose: Purpose::OnDemand,
        issued_ms: NOW,
        deadline_s: 60,
        delivered: false,
    };
    let challenge = store.queue_challenge(&id, challenge).await.unwrap();
    let rotation = || NewRotation {
        id: Uuid::from_u128(401),
        issued_ms: NOW,
        deadline_s: 600,
        delivered: false,
    };
    store.queue_rotation(&id, rotation()).await.unwrap();
    key_for(store, "for the bad one", &id).await;
    assert_eq!(read(store, &id).await.directives.len(), 2);

    assert!(store.revoke_server(&id, "sold", NOW + 1).await.unwrap());
    assert!(!store.revoke_server(&id, "again", NOW + 2).await.unwrap());
    assert!(!store.revoke_server("none", "x", NOW).await.unwrap());
    assert!(!store.approve_server(&id, NOW).await.unwrap());
    let servers = store.list_servers().await.unwrap();
    let row = servers.iter().find(|row| row.server_id == id).unwrap();
    assert_eq!((row.status.as_str(), row.available), ("revoked", false));
    assert_eq!(row.status_reason.as_deref(), Some("sold"));
    let since = crate::clock::to_text(NOW + 1);
    assert_eq!(row.status_changed_at.as_ref(), Some(&since));
    assert!(read(store, &id).await.directives.is_empty());
    let ended = store.verification(challenge).await.unwrap().unwrap();
    assert_eq!(ended.verification_result, Some(false));
    assert_eq!(ended.failure_reason.as_deref(), Some("revoked"));
    // It is among those whose held request is to be answered.
    let wake = store.servers_to_wake().await.unwrap();
    assert!(wake.contains(&id));

    let none = store.queue_rotation(&id, rotation()).await;
    assert!(matches!(none, Err(StoreError::Conflict)), "{none:?}");
    let stored = store.registration_key("for the bad one").await.unwrap();
    assert_eq!(key_status(stored.as_ref(), NOW), KeyStatus::Revoked);
    // A token that is made all the same gives nothing, and is not spent.
    key_for(store, "too late", &id).await;
    for token in ["for the bad one", "too late"] {
        let end = store.enrol(enrolment(token, 41)).await.unwrap();
        assert_eq!(refused(end), EnrolRefusal::TokenRevoked, "{token}");
    }
    let known = store.server_by_id(&id).await.unwrap().unwrap();
    assert_eq!((known.epoch, known.status), (1, ServerStatus::Revoked));
}
