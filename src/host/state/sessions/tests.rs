//! Snapshot and log together: what was kept is there after any cut, and never anything else.

use proptest::prelude::*;

use super::*;
use crate::core::sessions::{BackendId, BackendKind};

fn session(id: u128, rx: u64) -> KnownSession {
    KnownSession {
        connection_id: Uuid::from_u128(id),
        backend: BackendId {
            kind: BackendKind::WireGuard,
            instance: "wg0".into(),
        },
        epoch: 1,
        boot_id: Uuid::nil(),
        key_hash: serde_json::from_str(&format!("\"{id:064x}\"")).unwrap(),
        started_boot_ns: 1,
        started_wall_ms: 1,
        seen_boot_ns: rx,
        seen_wall_ms: 1,
        rx,
        tx: 0,
        rx_at_start: 0,
        tx_at_start: 0,
        earlier_rx: 0,
        earlier_tx: 0,
    }
}

fn sessions(ids: impl IntoIterator<Item = u128>) -> Sessions {
    by_id(ids.into_iter().map(|id| session(id, 0)).collect())
}

fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    (dir, state)
}

fn kept(state: &StateDir) -> (Vec<u128>, BTreeSet<Uuid>) {
    let known = state.sessions().unwrap();
    let ids = known.sessions.iter().map(|s| s.connection_id.as_u128());
    (ids.collect(), known.unrecorded)
}

#[test]
fn changes_come_and_go_without_a_snapshot_each() {
    let (dir, state) = state();
    let mut file = state.sessions_file(KeptSessions::default());
    let none = BTreeSet::new();
    file.keep(sessions(0..3), &none, false).unwrap();
    let snapshot = std::fs::read(dir.path().join(SNAPSHOT)).unwrap();
    let fresh = BTreeSet::from([Uuid::from_u128(7)]);
    file.keep(sessions([1, 2, 7]), &fresh, false).unwrap();
    assert_eq!(kept(&state), (vec![1, 2, 7], fresh));
    file.keep(sessions([2, 7]), &none, false).unwrap();
    assert_eq!(kept(&state), (vec![2, 7], none));
    assert_eq!(std::fs::read(dir.path().join(SNAPSHOT)).unwrap(), snapshot);
}

#[test]
fn counters_wait_for_the_next_snapshot_and_all_else_does_not() {
    let (_dir, state) = state();
    let mut file = state.sessions_file(KeptSessions::default());
    let none = BTreeSet::new();
    file.keep(sessions([1]), &none, false).unwrap();
    let counted = by_id(vec![session(1, 50)]);
    file.keep(counted.clone(), &none, false).unwrap();
    assert_eq!(state.sessions().unwrap().sessions[0].rx, 0);
    file.keep(counted, &none, true).unwrap();
    assert_eq!(state.sessions().unwrap().sessions[0].rx, 50);
    let mut reconnected = session(1, 0);
    reconnected.earlier_rx = 50;
    file.keep(by_id(vec![reconnected.clone()]), &none, false)
        .unwrap();
    assert_eq!(state.sessions().unwrap().sessions, [reconnected]);
}

#[test]
fn a_full_log_is_begun_anew_and_old_entries_in_it_do_not_count() {
    let (_dir, state) = state();
    let mut file = state.sessions_file(KeptSessions::default());
    let none = BTreeSet::new();
    for n in 0..6000 {
        file.keep(sessions([n, n + 1]), &none, false).unwrap();
    }
    assert!(file.generation > 2, "{}", file.generation);
    assert_eq!(kept(&state).0, [5999, 6000]);
    // The next process takes it from there.
    let known = state.sessions().unwrap();
    let mut next = state.sessions_file(known);
    next.keep(sessions([6000]), &none, false).unwrap();
    assert_eq!(kept(&state).0, [6000]);
}

#[test]
fn a_log_without_its_snapshot_or_of_another_one_is_not_read() {
    let (dir, state) = state();
    let mut file = state.sessions_file(KeptSessions::default());
    let none = BTreeSet::new();
    file.keep(sessions([1]), &none, false).unwrap();
    let old = std::fs::read(dir.path().join(SNAPSHOT)).unwrap();
    file.keep(sessions([1, 2]), &none, true).unwrap();
    file.keep(sessions([1, 2, 3]), &none, false).unwrap();
    std::fs::write(dir.path().join(SNAPSHOT), old).unwrap();
    assert_eq!(kept(&state).0, [1]);
    std::fs::remove_file(dir.path().join(SNAPSHOT)).unwrap();
    assert_eq!(kept(&state).0, [] as [u128; 0]);
}

#[test]
fn without_a_log_each_change_is_a_snapshot() {
    let (dir, state) = state();
    // A directory in its place.
    std::fs::create_dir(dir.path().join(LOG)).unwrap();
    let mut file = state.sessions_file(KeptSessions::default());
    file.keep(sessions([1]), &BTreeSet::new(), false).unwrap();
    file.keep(sessions([1, 2]), &BTreeSet::new(), false)
        .unwrap();
    assert_eq!((file.generation, file.log.is_none()), (2, true));
    std::fs::remove_dir(dir.path().join(LOG)).unwrap();
    assert_eq!(kept(&state).0, [1, 2]);
}

fn change(id: u128) -> Change {
    Change {
        kept: vec![session(id, 0)],
        gone: vec![],
        unrecorded: BTreeSet::new(),
    }
}

#[test]
fn a_log_cut_or_changed_anywhere_keeps_the_entries_before() {
    let entries: Vec<Vec<u8>> = (0..4).map(|id| encode(5, &change(id))).collect();
    let whole = entries.concat();
    let ends = |at: usize| {
        let mut end = 0;
        let before = entries.iter().take_while(|entry| {
            end += entry.len();
            end <= at
        });
        before.count()
    };
    for at in 0..whole.len() {
        assert_eq!(changes(&whole[..at], 5).count(), ends(at), "cut at {at}");
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(changes(&flipped, 5).count(), ends(at), "flipped at {at}");
    }
    assert_eq!(changes(&whole, 4).count(), 0);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = changes(&bytes, 0).count();
    }
}
