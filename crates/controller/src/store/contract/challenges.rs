//! A challenge and its end.

use uuid::Uuid;
use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::message::Purpose;

use super::{NOW, read, server, write};
use crate::rules::Effect;
use crate::rules::effect::{NewChallenge, VerificationEnd};
use crate::store::{Store, StoreError};

pub(super) async fn a_challenge_is_queued_taken_and_closed_once(store: &dyn Store) {
    let id = server(store, 1).await;
    let challenge = |n| NewChallenge {
        id: Uuid::from_u128(n),
        value: Hex([4; 32]),
        purpose: Purpose::OnDemand,
        issued_ms: NOW,
        deadline_s: 60,
        delivered: false,
    };
    let queued = store.queue_challenge(&id, challenge(70)).await.unwrap();
    assert_eq!(queued, Uuid::from_u128(70));
    // One at a time.
    assert_eq!(
        store.queue_challenge(&id, challenge(71)).await.unwrap(),
        queued
    );
    let waiting = async |now_ms| store.servers_to_wake(now_ms, now_ms).await.unwrap();
    assert_eq!(waiting(NOW).await, std::slice::from_ref(&id));
    // As long as it may be handed out, and no longer: it would wake for nothing.
    let over = NOW + 60_000;
    assert_eq!(waiting(over).await, std::slice::from_ref(&id));
    assert!(waiting(over + 1).await.is_empty());
    assert!(
        store
            .take_directives(&id, over + 1)
            .await
            .unwrap()
            .is_empty()
    );
    let taken = store.take_directives(&id, NOW).await.unwrap();
    assert_eq!(taken.len(), 1);
    assert!(store.take_directives(&id, NOW).await.unwrap().is_empty());
    assert!(waiting(NOW).await.is_empty());
    // Handed out, and still open until it is answered.
    assert_eq!(read(store, &id).await.directives[0].id, queued);
    let close = || {
        Effect::CloseVerification(VerificationEnd {
            challenge_id: queued,
            response: Some(Hex([1; 32])),
            result: true,
            failure: None,
            detail: None,
            at_ms: NOW,
        })
    };
    let answered = Effect::DirectiveStatus {
        id: queued,
        status: "answered",
        detail: None,
    };
    write(store, &id, vec![close(), answered]).await.unwrap();
    let twice = write(store, &id, vec![close()]).await;
    assert!(matches!(twice, Err(StoreError::Conflict)), "{twice:?}");
    assert!(read(store, &id).await.directives.is_empty());
    let row = store.verification(queued).await.unwrap().unwrap();
    assert_eq!(row.verification_result, Some(true));
}
