//! An operator lets a waiting host in.

use super::{enrolled, enrolment, make_key, server};
use crate::rules::state::ServerStatus;
use crate::store::Store;

pub(super) async fn only_a_waiting_server_is_approved_and_once(store: &dyn Store) {
    make_key(store, "waits", super::NOW + 1).await;
    let mut waiting = enrolment("waits", 3);
    waiting.status = ServerStatus::Pending;
    let id = enrolled(store.enrol(waiting).await.unwrap());
    let active = server(store, 1).await;
    for (server_id, approved) in [
        (active.as_str(), false),
        ("no such server", false),
        (&id, true),
        (&id, false),
    ] {
        let done = store.approve_server(server_id, super::NOW).await.unwrap();
        assert_eq!(done, approved, "{server_id}");
    }
    let known = store.server_by_key(super::identity(3).id()).await.unwrap();
    assert_eq!(known.unwrap().status, ServerStatus::Active);
}
