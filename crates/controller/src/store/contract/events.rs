//! Security events are found by what they are, and dealt with once.

use super::NOW;
use crate::rules::effect::NewEvent;
use crate::rules::events::{EventType, Severity};
use crate::store::{EventFilter, EventRow, HandleEnd, Handling, Store};

/// Whom the events of this file are about, so that others' do not count.
const SOURCE: &str = "contract events";

async fn record(store: &dyn Store, event_type: EventType, at_ms: i64) {
    let event = NewEvent {
        event_type,
        source_id: Some(SOURCE.to_owned()),
        description: "x".to_owned(),
        at_ms,
    };
    store.record_event(event).await.unwrap();
}

fn ours() -> EventFilter {
    EventFilter {
        source_id: Some(SOURCE.to_owned()),
        ..EventFilter::newest(100)
    }
}

async fn words(store: &dyn Store, filter: EventFilter) -> Vec<String> {
    let rows = store.list_events(filter).await.unwrap();
    rows.into_iter().map(|row| row.event_type).collect()
}

pub(super) async fn every_filter_counts_and_the_newest_come_first(store: &dyn Store) {
    use EventType::{CloneSuspected, StalePoll, UnknownKey};
    record(store, CloneSuspected, NOW).await;
    record(store, UnknownKey, NOW + 1).await;
    record(store, StalePoll, NOW + 2).await;
    let all = ["stale_poll", "unknown_key", "clone_suspected"];
    assert_eq!(words(store, ours()).await, all);
    let mut filter = ours();
    filter.limit = 2;
    assert_eq!(words(store, filter).await, all[..2]);
    let mut filter = ours();
    filter.event_type = Some(UnknownKey);
    assert_eq!(words(store, filter.clone()).await, ["unknown_key"]);
    filter.severity = Some(Severity::High);
    assert_eq!(words(store, filter).await, [] as [&str; 0]);
    let mut filter = ours();
    filter.severity = Some(Severity::High);
    assert_eq!(words(store, filter).await, ["clone_suspected"]);
    let mut filter = ours();
    filter.since_ms = Some(NOW + 1);
    assert_eq!(words(store, filter).await, all[..2]);
    let row = &store.list_events(ours()).await.unwrap()[2];
    assert_eq!((&*row.severity, &*row.component), ("high", "chain"));
    assert!(!row.handled);
    let same = store.event(row.event_id).await.unwrap().unwrap();
    assert_eq!(same.event_type, "clone_suspected");
    assert!(store.event(i64::MAX).await.unwrap().is_none());
}

fn handling(ids: &[i64]) -> Handling {
    Handling {
        event_ids: ids.iter().copied().collect(),
        note: "looked at it".to_owned(),
        by_user: "ada".to_owned(),
        at_ms: NOW + 9,
    }
}

pub(super) async fn events_are_handled_once_and_all_or_none(store: &dyn Store) {
    let rows = store.list_events(ours()).await.unwrap();
    let ids: Vec<i64> = rows.iter().map(|row| row.event_id).collect();
    let unhandled = async || {
        let mut filter = ours();
        filter.unhandled = true;
        store.list_events(filter).await.unwrap().len()
    };
    assert_eq!(unhandled().await, 3);
    let end = store.handle_events(handling(&[ids[0], i64::MAX])).await;
    assert_eq!(end.unwrap(), HandleEnd::Unknown(vec![i64::MAX]));
    assert_eq!(unhandled().await, 3);
    let end = store.handle_events(handling(&ids[..2])).await;
    assert_eq!(end.unwrap(), HandleEnd::Handled);
    assert_eq!(unhandled().await, 1);
    // Once more, together with one that is not handled yet: that one stays so.
    let end = store.handle_events(handling(&ids[1..])).await;
    assert_eq!(end.unwrap(), HandleEnd::Already(vec![ids[1]]));
    assert_eq!(unhandled().await, 1);
    let row: EventRow = store.event(ids[0]).await.unwrap().unwrap();
    assert!(row.handled);
    assert_eq!(row.handling_notes.as_deref(), Some("looked at it"));
    assert_eq!(row.handled_by_user.as_deref(), Some("ada"));
    assert_eq!(row.handled_by, None);
    assert_eq!(row.handled_at, Some(crate::clock::to_text(NOW + 9)));
}
