//! Identity keys: next, current, retired; and what an introduction adds.

use super::{NOW, enrolled, enrolment, identity, make_key, read, step, write};
use crate::rules::Effect;
use crate::rules::effect::{ChainStep, NewKey};
use crate::rules::introduction::{Introduced, event};
use crate::rules::state::KeyRole;
use crate::store::{Store, StoreError};

fn new_key(n: u8, epoch: u32) -> NewKey {
    NewKey {
        key: identity(n),
        epoch,
        at_ms: NOW,
    }
}

async fn role(store: &dyn Store, n: u8) -> Option<(KeyRole, u32)> {
    let found = store.server_by_key(identity(n).id()).await.unwrap();
    found.map(|server| (server.role, server.epoch))
}

/// The first step of a new epoch.
fn first_step(from_epoch: u32, from_seq: u64, epoch: u32) -> Effect {
    let Effect::Advance(step) = step(0) else {
        unreachable!("a step is an advance");
    };
    Effect::Advance(Box::new(ChainStep {
        from_epoch,
        from_seq,
        epoch,
        ..*step
    }))
}

pub(super) async fn a_next_key_comes_into_force_with_its_first_use(store: &dyn Store) {
    make_key(store, "rotates", NOW + 1).await;
    let id = enrolled(store.enrol(enrolment("rotates", 10)).await.unwrap());
    assert_eq!(role(store, 10).await, Some((KeyRole::Current, 1)));
    write(store, &id, vec![step(0), step(1)]).await.unwrap();
    // A second rotation replaces the next key.
    for n in [11, 12] {
        write(store, &id, vec![Effect::NextKey(new_key(n, 2))])
            .await
            .unwrap();
    }
    assert_eq!(role(store, 11).await, Some((KeyRole::Retired, 2)));
    assert_eq!(role(store, 12).await, Some((KeyRole::Next, 2)));
    let by_id = store.server_by_id(&id).await.unwrap().unwrap();
    assert_eq!(by_id.identity, identity(10));
    // A retired key, another server's, and the current one are nobody's next.
    for n in [11, 1, 10] {
        let failed = write(store, &id, vec![Effect::NextKey(new_key(n, 2))]).await;
        assert!(matches!(failed, Err(StoreError::Conflict)), "{failed:?}");
    }
    // The chain moves from the epoch and number that were judged, or nothing changes.
    let in_force = Effect::KeyInForce(new_key(12, 2));
    for (epoch, seq) in [(1, 1), (2, 2)] {
        let effects = vec![first_step(epoch, seq, 2), in_force.clone()];
        let failed = write(store, &id, effects).await;
        assert!(matches!(failed, Err(StoreError::Conflict)), "{failed:?}");
    }
    assert_eq!(role(store, 10).await, Some((KeyRole::Current, 1)));
    write(store, &id, vec![first_step(1, 2, 2), in_force])
        .await
        .unwrap();
    assert_eq!(role(store, 10).await, Some((KeyRole::Retired, 1)));
    assert_eq!(role(store, 12).await, Some((KeyRole::Current, 2)));
    let chain = read(store, &id).await.chain;
    assert_eq!((chain.epoch, chain.seq), (2, 1));
    let rows = store.list_servers().await.unwrap();
    let row = rows.iter().find(|row| row.server_id == id).unwrap();
    assert_eq!(row.identity_key_id, identity(12).id().to_string());
    assert_eq!((row.key_epoch, &row.next_key_id), (2, &None));
}

pub(super) async fn an_introduction_is_stored_only_on_the_key_it_begins_at(store: &dyn Store) {
    make_key(store, "introduces", NOW + 1).await;
    let id = enrolled(store.enrol(enrolment("introduces", 20)).await.unwrap());
    let introduced = |current: u8, between: Vec<u8>, newest: u8| Introduced {
        server_id: id.clone(),
        current: identity(current),
        between: between.into_iter().map(|n| (identity(n), 2)).collect(),
        newest: (identity(newest), 3),
        event: event(&id, &(identity(newest), 3), "192.0.2.1", NOW),
    };
    for wrong in [
        introduced(21, vec![], 22),
        // A retired key of another server, and a current one.
        introduced(20, vec![11], 22),
        introduced(20, vec![21], 1),
    ] {
        assert!(!store.introduce(wrong).await.unwrap());
    }
    assert_eq!(role(store, 21).await, None);
    assert!(store.introduce(introduced(20, vec![21], 22)).await.unwrap());
    assert_eq!(role(store, 20).await, Some((KeyRole::Current, 1)));
    assert_eq!(role(store, 21).await, Some((KeyRole::Retired, 2)));
    assert_eq!(role(store, 22).await, Some((KeyRole::Next, 3)));
    // A key between that is retired by now leads nowhere.
    assert!(!store.introduce(introduced(20, vec![21], 23)).await.unwrap());
}
