//! The reducer, rule by rule.

mod anew;
mod daemons;
mod orders;

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::core::Now;

const BOOT: Uuid = Uuid::from_u128(1);
const KEY: [u8; 32] = [9; 32];

struct Rig {
    reducer: Reducer,
    ids: u8,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self::with(Vec::new());
        assert_eq!(rig.see(0, Obs::Reset { epoch: 7 }), []);
        rig
    }

    fn with(restored: Vec<KnownSession>) -> Self {
        let reducer = Reducer::new(BOOT, KEY, restored);
        Self { reducer, ids: 0 }
    }

    fn see(&mut self, at: u64, obs: Obs) -> Vec<SessionEvent> {
        let ids = &mut self.ids;
        let mut random = || {
            *ids += 1;
            [*ids; 10]
        };
        self.reducer.observe(&charon(), obs, now(at), &mut random)
    }

    /// Restarts the agent; what it keeps goes through its file format.
    fn restarted(self) -> Self {
        let kept = serde_json::to_string(&self.reducer.persistable()).unwrap();
        Self {
            ids: self.ids,
            ..Self::with(serde_json::from_str(&kept).unwrap())
        }
    }
}

fn charon() -> BackendId {
    BackendId {
        kind: BackendKind::StrongSwan,
        instance: "charon".to_owned(),
    }
}

/// Milliseconds after boot, on a host that booted at Unix time 1000 s.
fn now(at: u64) -> Now {
    let start = Now {
        boot: Duration::ZERO,
        wall_ms: 1_000_000,
    };
    start.after(Duration::from_millis(at))
}

fn session(unique_id: u64, who: &str, started: u64) -> Session {
    Session {
        key: SessionKey::Ike { unique_id },
        identity: Identity::Eap(who.into()),
        started: now(started),
        last_seen: now(started),
        endpoint: None,
        virtual_ips: Box::default(),
        rx: 10,
        tx: 20,
        rx_at_start: 0,
        tx_at_start: 0,
    }
}

fn up(unique_id: u64, who: &str, at: u64) -> Obs {
    Obs::Up(Box::new(session(unique_id, who, at)))
}

fn down(unique_id: u64, at: u64, reason: Reason, confidence: Confidence) -> Obs {
    Obs::Down {
        key: SessionKey::Ike { unique_id },
        end: End::noticed(reason, confidence, now(at).boot, now(at)),
    }
}

fn snapshot(at: u64, complete: bool, sessions: Vec<Session>) -> Obs {
    Obs::Snapshot {
        epoch: 7,
        at: now(at),
        complete,
        sessions,
    }
}

fn reasons(events: &[SessionEvent]) -> Vec<(Reason, Confidence)> {
    let ends = events.iter().filter_map(|event| match &event.what {
        What::End(end) => Some((end.reason.clone(), end.confidence)),
        _ => None,
    });
    ends.collect()
}

fn changes(events: Vec<SessionEvent>) -> Vec<Change> {
    let updates = events.into_iter().map(|event| match event.what {
        What::Update { change, .. } => change,
        other => panic!("{other:?}"),
    });
    updates.collect()
}

use Confidence::{Inferred, Observed};

#[test]
fn reauthentication_is_one_connection_and_its_bytes_add_up() {
    let mut rig = Rig::new();
    let start = rig.see(0, up(1, "ann", 0));
    assert_eq!(start[0].what, What::Start);
    let gone = down(1, 5_000, Reason::ClientDisconnect, Observed);
    assert_eq!(rig.see(5_000, gone), []);
    let back = rig.see(5_010, up(2, "ann", 5_010));
    assert_eq!(changes(back), [Change::Rekey]);
    assert_eq!(rig.reducer.tick(now(60_000)), []);
    let live: Vec<_> = rig.reducer.live().collect();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].connection_id, start[0].connection_id);
    assert_eq!((live[0].rx, live[0].tx), (20, 40));
    assert_eq!(live[0].started, now(0));
}

#[test]
fn a_client_that_is_back_too_late_is_another_connection() {
    let mut rig = Rig::new();
    let first = rig.see(0, up(1, "ann", 0));
    rig.see(5_000, down(1, 5_000, Reason::ClientDisconnect, Observed));
    assert_eq!(rig.reducer.next_deadline(), Some(now(7_000).boot));
    let ended = rig.reducer.tick(now(7_000));
    assert_eq!(reasons(&ended), [(Reason::ClientDisconnect, Observed)]);
    let second = rig.see(7_500, up(2, "ann", 7_500));
    assert_ne!(first[0].connection_id, second[0].connection_id);
}

#[test]
fn an_operators_act_is_reported_at_once_and_never_coalesced() {
    let mut rig = Rig::new();
    rig.see(0, up(1, "ann", 0));
    let ended = rig.see(100, down(1, 100, Reason::Revoked, Observed));
    assert_eq!(reasons(&ended), [(Reason::Revoked, Observed)]);
    assert_eq!(rig.see(110, up(2, "ann", 110))[0].what, What::Start);
}

#[test]
fn an_exact_reason_beats_an_inferred_one_in_either_order() {
    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    assert_eq!(rig.see(10_000, snapshot(10_000, true, vec![])), []);
    rig.see(10_100, down(1, 9_900, Reason::Timeout, Observed));
    rig.see(10_200, down(1, 10_200, Reason::ClientDisconnect, Inferred));
    let ended = rig.reducer.tick(now(12_000));
    assert_eq!(reasons(&ended), [(Reason::Timeout, Observed)]);
}

#[test]
fn only_a_complete_snapshot_ends_what_it_lacks() {
    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    rig.see(1_000, snapshot(1_000, false, vec![]));
    assert_eq!(rig.reducer.tick(now(9_000)), []);
    rig.see(10_000, snapshot(10_000, true, vec![]));
    let ended = rig.reducer.tick(now(12_000));
    assert_eq!(
        reasons(&ended),
        [(Reason::Unknown(String::new()), Inferred)]
    );
    let What::End(end) = &ended[0].what else {
        unreachable!("just matched");
    };
    assert_eq!((end.earliest, end.latest), (now(0), now(10_000)));
}

#[test]
fn a_session_that_one_snapshot_missed_goes_on() {
    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    assert_eq!(rig.see(1_000, snapshot(1_000, true, vec![])), []);
    let again = snapshot(2_000, true, vec![session(1, "ann", 0)]);
    assert_eq!(rig.see(2_000, again), []);
    assert_eq!(rig.reducer.tick(now(90_000)), []);
}

#[test]
fn roaming_and_rekeying_are_updates_but_traffic_is_none() {
    let mut rig = Rig::new();
    rig.see(0, up(1, "ann", 0));
    let patch = |port| Patch {
        key: SessionKey::Ike { unique_id: 1 },
        endpoint: Some(Endpoint {
            ip: [192, 0, 2, 1].into(),
            port: Some(port),
        }),
        virtual_ips: None,
        rx: 5000,
        tx: 6000,
        last_seen: now(1_000),
    };
    assert_eq!(
        changes(rig.see(1_000, Obs::Update(patch(1)))),
        [Change::Endpoint]
    );
    assert_eq!(changes(rig.see(1_001, Obs::Update(patch(1)))), []);
    assert_eq!(
        changes(rig.see(1_002, Obs::Update(patch(2)))),
        [Change::Endpoint]
    );
    let rekey = Obs::Rekey {
        old: SessionKey::Ike { unique_id: 1 },
        new: SessionKey::Ike { unique_id: 2 },
    };
    assert_eq!(changes(rig.see(1_003, rekey)), [Change::Rekey]);
    let ended = rig.see(2_000, down(2, 2_000, Reason::AdminKick, Observed));
    assert_eq!(ended[0].session.rx, 5000);
}

#[test]
fn a_restart_of_the_agent_neither_ends_nor_duplicates() {
    let mut rig = Rig::new();
    let started = rig.see(
        0,
        snapshot(0, true, vec![session(1, "ann", 0), session(2, "bob", 0)]),
    );
    let mut rig = rig.restarted();
    assert_eq!(
        rig.see(
            9_000,
            snapshot(9_000, false, vec![session(1, "ann", 8_000)])
        ),
        []
    );
    let events = rig.see(9_500, snapshot(9_500, true, vec![session(1, "ann", 8_000)]));
    assert_eq!(reasons(&events), [(Reason::AgentRestart, Inferred)]);
    assert_eq!(events[0].connection_id, started[1].connection_id);
    assert_eq!(events[0].session.identity, None);
    let live: Vec<_> = rig.reducer.live().collect();
    assert_eq!(live[0].connection_id, started[0].connection_id);
    assert_eq!(live[0].started, now(0));
}

#[test]
fn lower_counters_after_a_restart_are_another_session_where_keys_do_not_tell() {
    let peer = |incarnation| SessionKey::WireGuard {
        public_key: [1; 32],
        incarnation,
    };
    let mut rig = Rig::new();
    let (first, second) = (session(1, "ann", 0), session(2, "bob", 0));
    let of_peer = Session {
        key: peer(1),
        ..first
    };
    rig.see(0, snapshot(0, true, vec![of_peer.clone(), second.clone()]));
    let mut rig = rig.restarted();
    let lower = |key, session| Session {
        rx: 9,
        key,
        ..session
    };
    let again = vec![
        lower(peer(7), of_peer),
        lower(SessionKey::Ike { unique_id: 2 }, second),
    ];
    let events = rig.see(9_000, snapshot(9_000, true, again));
    assert_eq!(reasons(&events), [(Reason::AgentRestart, Inferred)]);
    assert_eq!(events[1].what, What::Start);
    assert_eq!(events.len(), 2, "the IKE SA is the one it was");
    let rx: Vec<u64> = rig.reducer.live().map(|live| live.rx).collect();
    assert!(rx.contains(&10), "bytes are never taken back");
    let more = Session {
        rx: 109,
        ..session(2, "bob", 0)
    };
    rig.see(9_100, snapshot(9_100, false, vec![more]));
    let rx: Vec<u64> = rig.reducer.live().map(|live| live.rx).collect();
    assert!(rx.contains(&110), "and what comes is counted: {rx:?}");
}

#[test]
fn another_epoch_ends_what_was_and_what_was_kept() {
    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    let ended = rig.see(1_000, Obs::Reset { epoch: 8 });
    assert_eq!(reasons(&ended), [(Reason::DaemonDown, Inferred)]);

    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    let mut rig = rig.restarted();
    let ended = rig.see(1_000, Obs::Reset { epoch: 8 });
    assert_eq!(reasons(&ended), [(Reason::DaemonDown, Inferred)]);
    assert_eq!(rig.reducer.persistable(), []);
}

#[test]
fn a_key_that_changes_before_the_first_list_after_a_restart_ends_nothing() {
    let mut rig = Rig::new();
    let begun = rig.see(0, Obs::Up(Box::new(session(1, "ann", 0))));
    let id = begun[0].connection_id;
    let mut rig = rig.restarted();
    rig.see(1_000, Obs::Reset { epoch: 7 });
    let (old, new) = (
        SessionKey::Ike { unique_id: 1 },
        SessionKey::Ike { unique_id: 2 },
    );
    assert_eq!(rig.see(1_500, Obs::Rekey { old, new }), []);
    let listed = snapshot(2_000, true, vec![session(2, "ann", 0)]);
    assert_eq!(rig.see(2_000, listed), []);
    let live: Vec<_> = rig.reducer.live().map(|live| live.connection_id).collect();
    assert_eq!(live, [id]);
}

#[test]
fn a_reboot_of_the_host_ends_everything_at_its_last_sign_of_life() {
    let mut rig = Rig::new();
    rig.see(500, snapshot(500, true, vec![session(1, "ann", 500)]));
    let kept = rig.reducer.persistable();
    let mut reducer = Reducer::new(Uuid::from_u128(2), KEY, kept);
    assert_eq!(reducer.next_deadline(), Some(Duration::ZERO));
    let after = Now {
        boot: Duration::from_secs(3),
        wall_ms: 2_000_000,
    };
    let ended = reducer.tick(after);
    let What::End(end) = &ended[0].what else {
        panic!("{ended:?}");
    };
    assert_eq!(
        (&end.reason, end.confidence),
        (&Reason::DaemonDown, Inferred)
    );
    assert_eq!((end.at.wall_ms, end.latest.wall_ms), (1_000_500, 2_000_000));
    assert_eq!(reducer.next_deadline(), None);
}

#[test]
fn a_backend_that_never_answers_again_gives_its_connections_up() {
    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    let mut rig = rig.restarted();
    assert_eq!(rig.reducer.unconfirmed_backends().count(), 1);
    assert_eq!(rig.reducer.tick(now(1_000)), []);
    let deadline = rig.reducer.next_deadline().unwrap();
    assert_eq!(deadline, now(1_000).boot + RESTORED_PATIENCE);
    let ended = rig.reducer.tick(now(1_000).after(RESTORED_PATIENCE));
    assert_eq!(reasons(&ended), [(Reason::AgentRestart, Inferred)]);
}

#[test]
fn what_is_kept_on_disk_names_nobody() {
    let mut rig = Rig::new();
    let mut secret = session(77_777_777, "ann@example.org", 0);
    secret.endpoint = Some(Endpoint {
        ip: [192, 0, 2, 99].into(),
        port: Some(4500),
    });
    rig.see(0, Obs::Up(Box::new(secret)));
    let kept = serde_json::to_string(&rig.reducer.persistable()).unwrap();
    for personal in ["ann", "192.0.2", "4500", "77777777"] {
        assert!(!kept.contains(personal), "{personal} in {kept}");
    }
}

#[test]
fn a_failing_backend_keeps_its_sessions_and_says_so() {
    let mut rig = Rig::new();
    rig.see(0, snapshot(0, true, vec![session(1, "ann", 0)]));
    let error = "no answer".to_owned();
    let since = now(1_000);
    rig.see(1_000, Obs::Unavailable { error, since });
    let id = charon();
    let status = |unavailable| BackendStatus {
        counts: Counts {
            started: 1,
            rx: 10,
            tx: 20,
            ..Counts::default()
        },
        was_up: true,
        id: &id,
        live: 1,
        unavailable,
    };
    let all: Vec<_> = rig.reducer.backends().collect();
    assert_eq!(all, [status(Some(("no answer", since)))]);
    rig.see(2_000, snapshot(2_000, true, vec![session(1, "ann", 0)]));
    let all: Vec<_> = rig.reducer.backends().collect();
    assert_eq!(all, [status(None)]);
}

#[test]
fn a_backend_that_never_told_all_it_holds_was_never_up() {
    let mut rig = Rig::new();
    rig.see(0, Obs::Reset { epoch: 7 });
    rig.see(0, snapshot(0, false, Vec::new()));
    let error = "permission denied".to_owned();
    let since = now(0);
    rig.see(0, Obs::Unavailable { error, since });
    let was_up = |rig: &Rig| rig.reducer.backends().any(|backend| backend.was_up);
    assert!(!was_up(&rig));
    rig.see(1_000, snapshot(1_000, true, Vec::new()));
    assert!(was_up(&rig));
}

#[test]
fn an_end_is_never_before_its_start_even_when_the_clock_steps_back() {
    let mut rig = Rig::new();
    rig.see(0, up(1, "ann", 9_000));
    let mut end = End::noticed(Reason::AdminKick, Observed, Duration::ZERO, now(9_500));
    end.at.wall_ms = -5;
    let key = SessionKey::Ike { unique_id: 1 };
    let ended = rig.see(9_500, Obs::Down { key, end });
    let What::End(end) = &ended[0].what else {
        panic!("{ended:?}");
    };
    for stamp in [end.earliest, end.at, end.latest] {
        assert!(stamp.wall_ms >= now(9_000).wall_ms && stamp.boot >= now(9_000).boot);
    }
}

#[test]
fn connection_ids_are_version_7_of_the_given_time() {
    let id = connection_id(now(0), [0xff; 10]);
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(id.as_u128() >> 80, 1_000_000);
    let before_1970 = Now {
        boot: Duration::ZERO,
        wall_ms: -1,
    };
    assert_eq!(connection_id(before_1970, [0; 10]).as_u128() >> 80, 0);
}
