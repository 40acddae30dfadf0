//! Readers that start anew, or end, while the agent runs.

use super::*;

#[test]
fn connections_outlive_a_reader_that_starts_anew() {
    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "a", 0)]));
    assert_eq!(rig.reducer.epochs().collect::<Vec<_>>(), [(&charon(), 7)]);
    rig.reducer.reader_restarts(BackendKind::StrongSwan);
    let backends = |rig: &Rig| rig.reducer.backends().count();
    assert_eq!(backends(&rig), 1, "it has a connection");
    assert_eq!(rig.see(5, snapshot(5, true, vec![session(1, "a", 5)])), []);
    assert_eq!(rig.reducer.live().count(), 1);
    // What ended meanwhile has ended.
    rig.reducer.reader_restarts(BackendKind::StrongSwan);
    rig.see(10, snapshot(10, true, vec![]));
    assert_eq!(backends(&rig), 1, "its reader sees it");
    rig.reducer.reader_restarts(BackendKind::StrongSwan);
    rig.reducer.reader_restarts(BackendKind::OpenVpn);
    assert_eq!(backends(&rig), 0, "nobody has seen it, and it has nothing");
    rig.see(15, snapshot(15, true, vec![]));
    assert_eq!(backends(&rig), 1);
}

#[test]
fn connections_wait_for_a_reader_that_was_switched_off() {
    let mut rig = Rig::new();
    let started = rig.see(0, snapshot(0, true, vec![session(1, "a", 0)]));
    let id = started[0].connection_id;
    rig.see(0, up(2, "b", 0));
    let told = down(2, 1, Reason::ClientDisconnect, Confidence::Observed);
    let mut ends = rig.see(1, told);
    ends.extend(rig.reducer.reader_ends(BackendKind::StrongSwan, now(2)));
    assert_eq!(ends.len(), 1, "what the daemon told is not lost: {ends:?}");
    assert_eq!(rig.reducer.live().count(), 0);
    assert_eq!(rig.reducer.backends().count(), 0);
    assert_eq!(rig.reducer.persistable().len(), 1, "a restart knows it");
    // Switched on again: found, and nothing happened.
    assert_eq!(rig.see(9, snapshot(9, true, vec![session(1, "a", 9)])), []);
    assert_eq!(rig.reducer.live().next().unwrap().connection_id, id);
    // Off for good: an end that was concluded.
    rig.reducer.reader_ends(BackendKind::StrongSwan, now(10));
    let patience = u64::try_from(RESTORED_PATIENCE.as_millis()).unwrap();
    assert_eq!(rig.reducer.tick(now(9 + patience)), []);
    let ends = rig.reducer.tick(now(10 + patience));
    assert_eq!(
        reasons(&ends),
        [(Reason::AgentRestart, Confidence::Inferred)]
    );
    assert_eq!(rig.reducer.persistable(), []);
}
