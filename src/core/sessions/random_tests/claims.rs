//! The reducer under random observations: whatever backends claim, events stay consistent.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;
use uuid::Uuid;

use super::super::*;
use crate::core::Now;

#[derive(Clone, Debug)]
enum Step {
    Wait(u16),
    Observe(u8, Obs),
    Restart,
    Reboot,
}

fn key() -> impl Strategy<Value = SessionKey> {
    (0_u64..5).prop_map(|unique_id| SessionKey::Ike { unique_id })
}

fn stamp() -> impl Strategy<Value = Now> {
    (0_u64..100_000, any::<i32>()).prop_map(|(boot, wall)| Now {
        boot: Duration::from_millis(boot),
        wall_ms: wall.into(),
    })
}

fn session() -> impl Strategy<Value = Session> {
    let addresses = (prop::option::of(0_u8..3), 0_u8..3);
    (key(), 0_u8..3, stamp(), stamp(), 0_u64..9, addresses).prop_map(
        |(key, who, started, last_seen, rx, (endpoint, ips))| Session {
            key,
            identity: Identity::Eap(vec![who]),
            started,
            last_seen,
            endpoint: endpoint.map(|last| Endpoint {
                ip: [192, 0, 2, last].into(),
                port: None,
            }),
            virtual_ips: (0..ips)
                .map(|last| Net {
                    addr: [10, 0, 0, last].into(),
                    prefix: 32,
                })
                .collect(),
            rx,
            tx: 0,
            rx_at_start: 0,
            tx_at_start: 0,
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    let reason = prop_oneof![
        Just(Reason::ClientDisconnect),
        Just(Reason::AdminKick),
        Just(Reason::Timeout),
    ];
    let confidence = prop_oneof![Just(Confidence::Observed), Just(Confidence::Inferred)];
    (reason, confidence, stamp(), stamp(), stamp()).prop_map(
        |(reason, confidence, earliest, at, latest)| End {
            reason,
            confidence,
            earliest,
            at,
            latest,
        },
    )
}

fn obs() -> impl Strategy<Value = Obs> {
    let sessions = prop::collection::vec(session(), 0..5);
    prop_oneof![
        1 => (0_u64..2).prop_map(|epoch| Obs::Reset { epoch }),
        3 => (0_u64..2, stamp(), any::<bool>(), sessions).prop_map(
            |(epoch, at, complete, sessions)| Obs::Snapshot { epoch, at, complete, sessions }
        ),
        5 => session().prop_map(|session| Obs::Up(Box::new(session))),
        3 => session().prop_map(|session| Obs::Update(Patch {
            key: session.key,
            endpoint: session.endpoint,
            virtual_ips: Some(session.virtual_ips),
            rx: session.rx,
            tx: session.tx,
            last_seen: session.last_seen,
        })),
        2 => (key(), key()).prop_map(|(old, new)| Obs::Rekey { old, new }),
        5 => (key(), end()).prop_map(|(key, end)| Obs::Down { key, end }),
        1 => stamp().prop_map(|since| Obs::Unavailable { error: String::new(), since }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u16..4000).prop_map(Step::Wait),
        12 => (0_u8..2, obs()).prop_map(|(backend, obs)| Step::Observe(backend, obs)),
        1 => Just(Step::Restart),
        1 => Just(Step::Reboot),
    ]
}

fn backend(index: u8) -> BackendId {
    BackendId {
        kind: BackendKind::StrongSwan,
        instance: format!("charon{index}"),
    }
}

/// Start, updates, end, once each and in this order; an end never before its start.
fn check(open: &mut HashMap<Uuid, Stamp>, ended: &mut HashSet<Uuid>, event: &SessionEvent) {
    let id = event.connection_id;
    match &event.what {
        What::Start => {
            assert!(!ended.contains(&id), "a start after the end");
            let before = open.insert(id, event.session.started);
            assert_eq!(before, None, "two starts of one connection");
        }
        What::Update { .. } => assert!(open.contains_key(&id), "an update of nothing"),
        What::End(end) => {
            let started = open.remove(&id).expect("an end without a start");
            assert!(ended.insert(id));
            assert!(end.earliest.wall_ms >= started.wall_ms);
            assert!(end.earliest.wall_ms <= end.at.wall_ms && end.at.wall_ms <= end.latest.wall_ms);
            assert!(end.earliest.boot <= end.at.boot && end.at.boot <= end.latest.boot);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn events_stay_consistent_whatever_backends_claim(
        steps in prop::collection::vec(step(), 1..80)
    ) {
        let mut boot_id = Uuid::nil();
        let mut reducer = Reducer::new(boot_id, [3; 32], Vec::new());
        let mut now = Now { boot: Duration::from_secs(50), wall_ms: 0 };
        let (mut open, mut ended, mut ids) = (HashMap::new(), HashSet::new(), 0_u64);
        for step in steps {
            let mut random = || {
                ids += 1;
                let mut bytes = [0; 10];
                bytes[2..].copy_from_slice(&ids.to_be_bytes());
                bytes
            };
            let events = match step {
                Step::Wait(millis) => {
                    now = now.after(Duration::from_millis(millis.into()));
                    reducer.tick(now)
                }
                Step::Observe(index, obs) => {
                    reducer.observe(&backend(index), obs, now, &mut random)
                }
                Step::Restart => {
                    reducer = Reducer::new(boot_id, [3; 32], reducer.persistable());
                    Vec::new()
                }
                Step::Reboot => {
                    boot_id = Uuid::from_u128(boot_id.as_u128() + 1);
                    now.boot = Duration::from_secs(1);
                    reducer = Reducer::new(boot_id, [3; 32], reducer.persistable());
                    Vec::new()
                }
            };
            for event in &events {
                check(&mut open, &mut ended, event);
            }
            let kept: HashSet<Uuid> =
                reducer.persistable().iter().map(|known| known.connection_id).collect();
            prop_assert_eq!(&kept, &open.keys().copied().collect(), "kept is open");
            let counted: usize = reducer.backends().map(|backend| backend.live).sum();
            prop_assert_eq!(counted, reducer.live().count());
            let due = reducer.next_deadline().is_some_and(|due| due <= now.boot);
            prop_assert!(!due || events.is_empty(), "nothing due stays undone");
        }
    }
}
