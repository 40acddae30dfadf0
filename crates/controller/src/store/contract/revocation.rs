//! A server is revoked.

use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::enrolment::{EnrolRefusal, KeyStatus};
use vpn_node_protocol::message::Purpose;

use super::clones::suspicion;
use super::reenrolment::key_for;
use super::{NOW, enrolled, enrolment, identity, make_key, read, refused, write};
use crate::rules::Effect;
use crate::rules::effect::{NewChallenge, NewKey, NewRotation};
use crate::rules::enrolment::key_status;
use crate::rules::state::{KeyRole, ServerStatus};
use crate::store::{Store, StoreError};

pub(super) async fn a_revoked_server_ends_with_everything_that_waits_for_it(store: &dyn Store) {
    make_key(store, "bad", NOW + 1).await;
    let id = enrolled(store.enrol(enrolment("bad", 40)).await.unwrap());
    let challenge = || NewChallenge {
        id: Uuid::from_u128(400),
        value: Hex([4; 32]),
        purpose: Purpose::OnDemand,
        issued_ms: NOW,
        deadline_s: 60,
        delivered: false,
    };
    let asked = store.queue_challenge(&id, challenge()).await.unwrap();
    let rotation = || NewRotation {
        id: Uuid::from_u128(401),
        issued_ms: NOW,
        deadline_s: 600,
        delivered: false,
    };
    store.queue_rotation(&id, rotation()).await.unwrap();
    key_for(store, "for the bad one", &id).await;
    assert_eq!(read(store, &id).await.directives.len(), 2);

    let next = NewKey {
        key: identity(42),
        epoch: 2,
        at_ms: NOW,
    };
    let stop = Effect::Quarantine(Box::new(suspicion()));
    write(store, &id, vec![Effect::NextKey(next), stop])
        .await
        .unwrap();

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
    assert!(store.unresolved_clone(&id).await.unwrap().is_none());
    let next = store.server_by_key(identity(42).id()).await.unwrap();
    assert_eq!(next.unwrap().role, KeyRole::Retired);
    let ended = store.verification(asked).await.unwrap().unwrap();
    assert_eq!(ended.verification_result, Some(false));
    assert_eq!(ended.failure_reason.as_deref(), Some("revoked"));
    // It is among those whose held request is to be answered, for a while.
    let wake = async |since_ms| store.servers_to_wake(NOW + 1, since_ms).await.unwrap();
    assert_eq!(wake(NOW + 1).await, std::slice::from_ref(&id));
    assert!(wake(NOW + 2).await.is_empty());

    let none = store.queue_challenge(&id, challenge()).await;
    assert!(matches!(none, Err(StoreError::Conflict)), "{none:?}");
    let none = store.queue_rotation(&id, rotation()).await.unwrap();
    assert_eq!(none, None);
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
