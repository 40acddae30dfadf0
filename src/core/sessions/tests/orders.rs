//! Sessions that the controller has ended.

use std::collections::BTreeSet;

use super::*;

impl Rig {
    fn intend(&mut self, at: u64, id: Uuid, reason: Reason) -> Intended {
        self.reducer.intend(&BTreeSet::from([id]), &reason, now(at))
    }

    fn confirmed(&mut self, at: u64, id: Uuid, unique_id: u64) -> Confirmed {
        let key = SessionKey::Ike { unique_id };
        self.reducer.confirmed(id, &key, now(at))
    }
}

/// A host with one client, and the id of its connection.
fn with_ann() -> (Rig, Uuid) {
    let mut rig = Rig::new();
    let started = rig.see(0, up(1, "ann", 0));
    (rig, started[0].connection_id)
}

#[test]
fn an_order_beats_whatever_the_daemon_says_of_the_end() {
    let said = [
        (Reason::ClientDisconnect, Observed),
        (Reason::Unknown("killed".to_owned()), Inferred),
        (Reason::AdminKick, Observed),
    ];
    for (reason, confidence) in said {
        let (mut rig, id) = with_ann();
        let found = rig.intend(1_000, id, Reason::Revoked);
        assert_eq!(found.up, [(id, charon(), SessionKey::Ike { unique_id: 1 })]);
        let ended = rig.see(1_010, down(1, 1_010, reason, confidence));
        assert_eq!(reasons(&ended), [(Reason::Revoked, Observed)], "at once");
        assert_eq!(rig.confirmed(1_020, id, 1), Confirmed::Over(None));
        assert_eq!(rig.reducer.tick(now(60_000)), []);
    }
}

#[test]
fn the_daemons_yes_ends_a_session_and_what_it_says_later_is_no_second_end() {
    let (mut rig, id) = with_ann();
    rig.intend(1_000, id, Reason::AdminKick);
    let Confirmed::Over(Some(event)) = rig.confirmed(1_050, id, 1) else {
        panic!("it was up");
    };
    assert_eq!(
        reasons(std::slice::from_ref(&event)),
        [(Reason::AdminKick, Observed)]
    );
    let What::End(end) = &event.what else {
        unreachable!("just matched");
    };
    assert_eq!(
        (end.earliest, end.at, end.latest),
        (now(0), now(1_050), now(1_050))
    );
    let late = down(1, 1_050, Reason::ClientDisconnect, Observed);
    assert_eq!(rig.see(1_060, late), []);
    // Looked at before it was ended, and while the daemon was tidying up.
    for looked in [900, 1_040, 2_900] {
        let look = snapshot(looked, true, vec![session(1, "ann", 0)]);
        assert_eq!(rig.see(2_950, look), [], "{looked}");
    }
    // The daemon did not do what it said: it is a connection, and nobody may miss it.
    let again = rig.see(9_000, snapshot(9_000, true, vec![session(1, "ann", 0)]));
    assert_eq!(again[0].what, What::Start);
    assert_ne!(again[0].connection_id, id);
}

#[test]
fn a_comeback_after_an_order_is_another_connection() {
    let (mut rig, id) = with_ann();
    rig.intend(1_000, id, Reason::Revoked);
    rig.see(1_010, down(1, 1_010, Reason::ClientDisconnect, Observed));
    let back = rig.see(1_020, up(2, "ann", 1_020));
    assert_eq!(back[0].what, What::Start);
    assert_ne!(back[0].connection_id, id);
}

#[test]
fn an_end_that_waits_for_a_comeback_waits_no_longer() {
    let (mut rig, id) = with_ann();
    rig.see(1_000, down(1, 1_000, Reason::ClientDisconnect, Observed));
    let found = rig.intend(1_100, id, Reason::Revoked);
    assert_eq!(found.up, [], "the daemon itself said that it is over");
    assert_eq!(
        reasons(&found.events),
        [(Reason::ClientDisconnect, Observed)],
        "before the order"
    );
    assert_eq!(rig.see(1_200, up(2, "ann", 1_200))[0].what, What::Start);

    // Concluded from a look: only the daemon can say that it is so.
    let (mut rig, id) = with_ann();
    rig.see(1_000, snapshot(1_000, true, vec![]));
    let found = rig.intend(1_100, id, Reason::Revoked);
    assert_eq!(found.up, [(id, charon(), SessionKey::Ike { unique_id: 1 })]);
    assert_eq!(
        reasons(&found.events),
        [(Reason::Unknown(String::new()), Inferred)]
    );
    assert_eq!(rig.confirmed(1_200, id, 1), Confirmed::Over(None));
}

#[test]
fn an_order_that_failed_is_forgotten() {
    let (mut rig, id) = with_ann();
    rig.intend(1_000, id, Reason::Revoked);
    assert!(rig.reducer.forget_intent(id), "still up");
    assert!(!rig.reducer.forget_intent(id));
    rig.see(5_000, down(1, 5_000, Reason::Timeout, Observed));
    let ended = rig.reducer.tick(now(9_000));
    assert_eq!(reasons(&ended), [(Reason::Timeout, Observed)]);
}

#[test]
fn an_order_follows_the_session_to_its_new_key_and_over_the_end_of_its_daemon() {
    let (mut rig, id) = with_ann();
    rig.intend(1_000, id, Reason::Revoked);
    let (old, new) = (
        SessionKey::Ike { unique_id: 1 },
        SessionKey::Ike { unique_id: 2 },
    );
    rig.see(
        1_010,
        Obs::Rekey {
            old,
            new: new.clone(),
        },
    );
    assert_eq!(rig.confirmed(1_020, id, 1), Confirmed::Renamed(new));
    let look = snapshot(1_005, true, vec![session(1, "ann", 0)]);
    assert_eq!(rig.see(1_030, look), [], "from before it was renamed");
    let ended = rig.see(1_040, Obs::Reset { epoch: 8 });
    assert_eq!(reasons(&ended), [(Reason::Revoked, Observed)]);
    assert!(!rig.reducer.forget_intent(id));
}

#[test]
fn what_a_former_process_left_can_be_ended_when_it_is_found_again() {
    let (rig, id) = with_ann();
    let mut rig = rig.restarted();
    let found = rig.intend(1_000, id, Reason::Revoked);
    assert!(found.unconfirmed && found.up.is_empty());
    rig.see(2_000, snapshot(2_000, true, vec![session(1, "ann", 0)]));
    let found = rig.intend(2_100, id, Reason::Revoked);
    assert!(!found.unconfirmed && found.up.len() == 1);
    let unknown = rig.intend(2_200, Uuid::from_u128(5), Reason::Revoked);
    assert_eq!(unknown, Intended::default(), "over, or never there");
}

#[test]
fn an_agent_that_stops_tells_the_ends_that_it_was_told() {
    let (mut rig, _) = with_ann();
    rig.see(10, up(2, "bob", 10));
    rig.see(1_000, down(1, 1_000, Reason::Timeout, Observed));
    rig.see(1_100, snapshot(1_100, true, vec![]));
    let told = rig.reducer.finish();
    assert_eq!(reasons(&told), [(Reason::Timeout, Observed)]);
    assert_eq!(
        rig.reducer.persistable().len(),
        1,
        "the next process looks at bob again"
    );
}
