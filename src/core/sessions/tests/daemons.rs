//! What the daemons really do, as measured: reauthentication, rekeying, a second login of the same
//! client, a restart.

use super::*;

fn openvpn() -> BackendId {
    BackendId {
        kind: BackendKind::OpenVpn,
        instance: "server".to_owned(),
    }
}

fn cid(cid: u64, connected_since: i64) -> SessionKey {
    SessionKey::OpenVpn {
        cid,
        connected_since,
    }
}

impl Rig {
    fn openvpn(&mut self, at: u64, obs: Obs) -> Vec<SessionEvent> {
        let ids = &mut self.ids;
        let mut random = || {
            *ids += 1;
            [*ids; 10]
        };
        self.reducer.observe(&openvpn(), obs, now(at), &mut random)
    }
}

fn login(key: SessionKey, at: u64) -> Session {
    Session {
        key,
        identity: Identity::Certificate {
            common_name: b"laptop".into(),
            serial: vec![1],
            sha256: None,
            username: None,
        },
        ..session(0, "", at)
    }
}

#[test]
fn a_second_login_of_the_same_name_replaces_the_first_and_is_its_own_connection() {
    let mut rig = Rig::new();
    rig.openvpn(0, Obs::Reset { epoch: 1 });
    let first = rig.openvpn(0, Obs::Up(Box::new(login(cid(0, 1000), 0))));
    let end = End::noticed(Reason::Replaced, Observed, now(9_000).boot, now(9_000));
    let key = cid(0, 1000);
    let ended = rig.openvpn(9_000, Obs::Down { key, end });
    assert_eq!(
        reasons(&ended),
        [(Reason::Replaced, Observed)],
        "nothing to wait for"
    );
    let second = rig.openvpn(9_001, Obs::Up(Box::new(login(cid(1, 1009), 9_000))));
    assert_eq!(second[0].what, What::Start);
    assert_ne!(first[0].connection_id, second[0].connection_id);
}

#[test]
fn a_reconnect_between_two_looks_is_another_connection_unless_it_was_at_once() {
    for (back_at, connections) in [(1_500, 1), (7_000, 2)] {
        let mut rig = Rig::new();
        let look = |at, session| Obs::Snapshot {
            epoch: 1,
            at: now(at),
            complete: true,
            sessions: vec![session],
        };
        rig.openvpn(0, look(0, login(cid(0, 1000), 0)));
        let again = login(cid(1, 1007), back_at);
        let mut events = rig.openvpn(10_000, look(10_000, again));
        events.extend(rig.reducer.tick(now(20_000)));
        let starts = events.iter().filter(|event| event.what == What::Start);
        assert_eq!(1 + starts.count(), connections, "{back_at}");
        assert_eq!(reasons(&events).len(), connections - 1);
    }
}

#[test]
fn a_rekey_that_nobody_heard_of_is_the_same_connection() {
    let mut rig = Rig::new();
    let first = rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    let renewed = snapshot(60_000, true, vec![session(2, "ann", 30_000)]);
    let events = rig.see(60_000, renewed);
    assert_eq!(changes(events), [Change::Rekey]);
    assert_eq!(rig.reducer.tick(now(90_000)), []);
    let live: Vec<_> = rig.reducer.live().collect();
    assert_eq!(live[0].connection_id, first[0].connection_id);
    assert_eq!(
        (live[0].rx, live[0].tx),
        (10, 20),
        "its bytes are counted once"
    );
    // What is kept knows the new key: an agent that crashes now finds it again.
    let mut rig = rig.restarted();
    let again = snapshot(99_000, true, vec![session(2, "ann", 30_000)]);
    assert_eq!(rig.see(99_000, again), []);
}

#[test]
fn interfaces_that_come_and_go_for_ever_cost_bounded_memory() {
    let mut rig = Rig::new();
    rig.see(0, up(1, "ann", 0));
    let mut random = || [0; 10];
    for n in 0..3_000 {
        let id = BackendId {
            kind: BackendKind::WireGuard,
            instance: format!("wg{n}"),
        };
        let gone = Obs::Unavailable {
            error: "it does not exist".to_owned(),
            since: now(n),
        };
        for obs in [Obs::Reset { epoch: n }, gone] {
            rig.reducer.observe(&id, obs, now(n), &mut random);
        }
    }
    assert!(rig.reducer.backends().count() <= 1024);
    assert!(
        rig.reducer
            .backends()
            .any(|backend| backend.id.instance == "wg2999")
    );
    assert_eq!(rig.reducer.live().count(), 1, "who is connected stays");
}

#[test]
fn two_devices_of_one_user_are_two_connections() {
    let mut rig = Rig::new();
    rig.see(0, up(1, "ann", 0));
    let other = rig.see(5_000, up(2, "ann", 5_000));
    assert_eq!(other[0].what, What::Start);
    rig.see(9_000, down(1, 9_000, Reason::ClientDisconnect, Observed));
    // The other one is seen again, under a look; it began well before that end.
    let look = snapshot(9_500, true, vec![session(2, "ann", 5_000)]);
    assert_eq!(rig.see(9_500, look), []);
    // One that was missed until now, too.
    let look = snapshot(
        9_600,
        true,
        vec![session(2, "ann", 5_000), session(3, "ann", 1_000)],
    );
    let missed = rig.see(9_600, look);
    assert_eq!(missed.last().unwrap().what, What::Start);
    assert_eq!(reasons(&missed), [(Reason::ClientDisconnect, Observed)]);
}

#[test]
fn keys_of_a_daemon_that_started_again_mean_something_new() {
    let mut rig = Rig::new();
    rig.see(0, up(1, "ann", 0));
    rig.see(900, down(1, 900, Reason::AdminKick, Observed));
    assert_eq!(rig.see(1_000, Obs::Reset { epoch: 8 }), []);
    let look = Obs::Snapshot {
        epoch: 8,
        at: now(1_100),
        complete: true,
        sessions: vec![session(1, "bob", 1_050)],
    };
    assert_eq!(rig.see(1_100, look)[0].what, What::Start);
}

#[test]
fn a_look_from_before_a_login_does_not_end_it() {
    let mut rig = Rig::new();
    rig.see(1_000, up(1, "ann", 1_000));
    rig.see(1_200, snapshot(900, true, vec![]));
    assert_eq!(rig.reducer.tick(now(60_000)), []);
    rig.see(61_000, snapshot(61_000, true, vec![]));
    assert_eq!(rig.reducer.tick(now(64_000)).len(), 1, "this one does");
}

#[test]
fn lower_numbers_that_come_late_take_nothing_back() {
    let mut rig = Rig::new();
    rig.see(0, up(1, "ann", 0));
    for rx in [5_000, 4_000] {
        let seen = Session {
            rx,
            ..session(1, "ann", 0)
        };
        rig.see(1_000, snapshot(1_000, true, vec![seen]));
    }
    assert_eq!(rig.reducer.live().next().unwrap().rx, 5_000);
    let counts = rig.reducer.backends().next().unwrap().counts;
    assert_eq!((counts.rx, counts.tx), (5_000, 20));
}
