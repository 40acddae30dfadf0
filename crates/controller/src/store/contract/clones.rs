//! Two holders of one identity: one transaction stops both, one decision keeps one.

use uuid::Uuid;
use vpn_node_protocol::encoding::{Digest, Hex};

use super::{NOW, enrolled, enrolment, make_key, read, step, write};
use crate::rules::effect::{
    FirstHolder, Likely, NewEvent, NewRotation, NewSuspicion, SecondHolder,
};
use crate::rules::events::EventType;
use crate::rules::state::{Kept, Resolving, ServerStatus, Want};
use crate::rules::{Effect, Snapshot};
use crate::store::{CloneResolution, Decision, Store, StoreError, Wants};

pub(super) fn suspicion() -> NewSuspicion {
    NewSuspicion {
        at_ms: NOW,
        epoch: 1,
        status_before: ServerStatus::Active,
        likely: Likely::Copy,
        reason: "a sentence",
        first: FirstHolder {
            seq: 3,
            seen_ms: Some(NOW - 1),
            peer_ip: "192.0.2.9".into(),
            boot_id: Some(Uuid::from_u128(5)),
        },
        second: SecondHolder {
            seq: 2,
            digest: Hex([6; 32]),
            place: Some((Hex([7; 32]), Hex([8; 32]))),
            peer_ip: "192.0.2.8".into(),
            boot_id: Uuid::from_u128(6),
            boottime_ms: 0,
        },
    }
}

fn quarantine() -> Vec<Effect> {
    vec![
        Effect::Quarantine(Box::new(suspicion())),
        Effect::Event(NewEvent {
            event_type: EventType::CloneSuspected,
            source_id: None,
            description: "x".into(),
            at_ms: NOW,
        }),
    ]
}

async fn decision(store: &dyn Store, id: &str, kept: Kept) -> CloneResolution {
    let row = store.unresolved_clone(id).await.unwrap().unwrap();
    CloneResolution {
        server_id: id.to_owned(),
        suspicion_id: row.suspicion_id,
        kept,
        directive_id: Uuid::from_u128(900),
        deadline_s: 600,
        now_ms: NOW,
    }
}

pub(super) async fn two_holders_are_stopped_and_one_is_kept(store: &dyn Store) {
    make_key(store, "cloned", NOW + 1).await;
    let id = enrolled(store.enrol(enrolment("cloned", 4)).await.unwrap());
    write(store, &id, vec![step(0), step(1), step(2)])
        .await
        .unwrap();
    assert!(store.unresolved_clone(&id).await.unwrap().is_none());
    // Row, event and status are one: what fails leaves none of them.
    let mut fails = quarantine();
    fails.push(step(0));
    let failed = write(store, &id, fails).await;
    assert!(matches!(failed, Err(StoreError::Conflict)), "{failed:?}");
    assert!(store.unresolved_clone(&id).await.unwrap().is_none());
    assert_eq!(read(store, &id).await.status, ServerStatus::Active);
    let queued = store.queue_rotation(&id, rotation(899)).await.unwrap();
    assert_eq!(queued, Some(Uuid::from_u128(899)));
    write(store, &id, quarantine()).await.unwrap();
    assert_eq!(read(store, &id).await.status, ServerStatus::Quarantined);
    let row = store.unresolved_clone(&id).await.unwrap().unwrap();
    let shown = (row.status.as_str(), row.likely.as_str(), row.kept.clone());
    assert_eq!(shown, ("open", "copy", None));
    the_second_is_kept(store, &id).await;
    a_resolution_ends(store, &id).await;
    what_was_refused_as_ahead_is_remembered(store, &id).await;
}

fn rotation(id: u128) -> NewRotation {
    NewRotation {
        id: Uuid::from_u128(id),
        issued_ms: NOW,
        deadline_s: 600,
        delivered: false,
    }
}

async fn the_second_is_kept(store: &dyn Store, id: &str) {
    let foreign = CloneResolution {
        server_id: "another".into(),
        ..decision(store, id, Kept::First).await
    };
    assert!(!store.resolve_clone(foreign).await.unwrap());
    // Somebody has a wish for a new key from before: it is not the one that the kept holder gets.
    let before = store.take_directives(id, NOW).await.unwrap();
    assert_eq!(before[0].id, Uuid::from_u128(899));
    let second = decision(store, id, Kept::Second).await;
    let first = decision(store, id, Kept::First).await;
    assert!(store.resolve_clone(second).await.unwrap());
    assert!(!store.resolve_clone(first).await.unwrap());
    let snapshot = read(store, id).await;
    assert_eq!(snapshot.status, ServerStatus::Active);
    let chain = &snapshot.chain;
    assert_eq!((chain.seq, chain.chain), (1, Hex([7; 32])));
    assert_eq!((chain.nonce, chain.last_digest), (Hex([8; 32]), None));
    assert_eq!(snapshot.last_reply, None);
    let resolving = Resolving {
        kept: Kept::Second,
        epoch: 1,
        second_seq: 2,
        second_digest: Hex([6; 32]),
        rotation_ms: Some(NOW),
    };
    assert_eq!(snapshot.resolving, Some(resolving));
    let open: Vec<_> = snapshot
        .directives
        .iter()
        .map(|d| (d.id, &d.want))
        .collect();
    assert_eq!(open, [(Uuid::from_u128(900), &Want::Rotate)]);
    let again = store.queue_rotation(id, rotation(901));
    assert_eq!(again.await.unwrap(), Some(Uuid::from_u128(900)));
}

async fn a_resolution_ends(store: &dyn Store, id: &str) {
    let end = Effect::ResolveClones {
        kept: Kept::Second,
        at_ms: NOW,
    };
    write(store, id, vec![end.clone()]).await.unwrap();
    assert!(store.unresolved_clone(id).await.unwrap().is_none());
    assert_eq!(read(store, id).await.resolving, None);
    // What was seen of another epoch than the chain's says nothing about who holds it now.
    let other_epoch = NewSuspicion {
        epoch: 7,
        ..suspicion()
    };
    let stop = Effect::Quarantine(Box::new(other_epoch));
    write(store, id, vec![stop]).await.unwrap();
    let first = decision(store, id, Kept::First).await;
    assert!(!store.resolve_clone(first).await.unwrap());
    // There is one at most.
    assert!(write(store, id, quarantine()).await.is_err());
    write(store, id, vec![end.clone()]).await.unwrap();
    // Enrolled again instead: nothing is left to be decided either.
    write(store, id, quarantine()).await.unwrap();
    let late = decision(store, id, Kept::First).await;
    let end = Effect::ResolveClones {
        kept: Kept::Reenrolled,
        at_ms: NOW,
    };
    write(store, id, vec![end]).await.unwrap();
    assert!(!store.resolve_clone(late).await.unwrap());
    assert_eq!(read(store, id).await.status, ServerStatus::Quarantined);
}

async fn what_was_refused_as_ahead_is_remembered(store: &dyn Store, id: &str) {
    let digest = |n: u64| Digest::of(&[b"ahead", &n.to_be_bytes()]);
    let refused = |epoch, seq, n| Effect::RefusedAhead {
        epoch,
        seq,
        digest: digest(n),
    };
    for n in 0..20 {
        let twice = vec![refused(1, 50, n), refused(1, 50, n)];
        write(store, id, twice).await.unwrap();
    }
    // The newest, and only for a number that was reached.
    let remembered = async |expected: Vec<u64>| {
        let found = refused_ahead(store, id, 1).await;
        assert_eq!(found.len(), expected.len());
        assert!(expected.iter().all(|&n| found.contains(&digest(n))));
    };
    remembered((4..20).collect()).await;
    // What is further behind pushes nothing out; a later epoch is further than any number.
    write(store, id, vec![refused(1, 49, 90)]).await.unwrap();
    remembered((4..20).collect()).await;
    write(store, id, vec![refused(2, 1, 91)]).await.unwrap();
    remembered((5..20).chain([91]).collect()).await;
    let above = refused_ahead(store, id, 2).await;
    assert!(above.is_empty());
}

/// What a request of this number may have been refused as.
async fn refused_ahead(store: &dyn Store, id: &str, seq: u64) -> Vec<Digest> {
    let (send, receive) = std::sync::mpsc::channel();
    let decide = Box::new(move |snapshot: &Snapshot| {
        send.send(snapshot.refused_ahead.clone()).unwrap();
        Decision {
            effects: vec![],
            status: 200,
            body: vec![],
            repeats: None,
        }
    });
    let wants = Wants {
        seq: Some(seq),
        ..Wants::default()
    };
    let id = id.to_owned();
    store.exchange(id, wants, decide).await.unwrap();
    receive.recv().unwrap()
}
