//! A charon that stalls, floods or talks nonsense costs bounded time and memory.

use proptest::prelude::*;

use super::super::{
    ask::{ANSWER_LIMIT, LIST_LIMIT},
    limits::MAX_SESSIONS,
    packet::Kind,
};
use super::{fake::Sa, *};

#[test]
fn silence_is_a_fault_in_time() {
    let mut charon = Charon {
        mute: true,
        ..Charon::default()
    };
    let mut agent = Agent::new(at(1000), Vec::new());
    agent.serve(&mut charon, at(1000)).unwrap();
    let due = at(1000).boot + ANSWER_LIMIT;
    assert_eq!(agent.talk.deadline(), due);
    let fault = agent.tick(at(11_000)).unwrap_err();
    assert_eq!(fault, Fault::Silent("events"));
}

#[test]
fn events_that_are_not_confirmed_hold_the_list_up_without_a_busy_wait() {
    let mut charon = Charon::default();
    let mut agent = Agent::new(at(1000), Vec::new());
    loop {
        let asked = agent.talk.take_output(Side::Commands);
        if asked.is_empty() {
            break;
        }
        let said = charon.hear(Side::Commands, &asked);
        agent.hear(Side::Commands, &said, at(1000)).unwrap();
    }
    agent.tick(at(1000)).unwrap();
    assert!(!agent.talk.has_listed());
    assert_eq!(agent.talk.deadline(), at(1000).boot + ANSWER_LIMIT);
}

#[test]
fn a_list_that_never_ends_is_a_fault_in_time() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.mute = true;
    let mut now = 61_000;
    agent.serve(&mut charon, at(now)).unwrap();
    let one = fake::event("list-sa", &Sa::up(1, "a").message(&[]));
    let fault = loop {
        now += 5000;
        agent.hear(Side::Commands, &one, at(now)).unwrap();
        if let Err(fault) = agent.tick(at(now)) {
            break fault;
        }
    };
    assert_eq!(fault, Fault::Silent("list-sas"));
    assert_eq!(u128::from(now), 61_000 + LIST_LIMIT.as_millis());
}

#[test]
fn a_packet_that_stops_half_way_is_a_fault_in_time_and_a_busy_stream_is_none() {
    let mut charon = Charon::default();
    let mut agent = Agent::listening(&mut charon, at(1000));
    let event = fake::event("ike-updown", &Sa::up(1, "a").message(&[]));
    // Never complete at the end of a read, but moving.
    let (first, last) = event.split_at(9);
    let moving = [last, first].concat();
    agent.hear(Side::Events, first, at(1000)).unwrap();
    for secs in 2..40 {
        agent.hear(Side::Events, &moving, at(secs * 1000)).unwrap();
        agent.tick(at(secs * 1000)).unwrap();
    }
    assert_eq!(agent.tick(at(48_999)), Ok(()));
    assert_eq!(agent.tick(at(49_000)), Err(Fault::Silent("events")));
}

#[test]
fn what_was_not_asked_for_is_a_fault() {
    for (side, kind) in [
        (Side::Events, Kind::CmdResponse),
        (Side::Events, Kind::EventConfirm),
        (Side::Commands, Kind::CmdResponse),
        (Side::Commands, Kind::EventConfirm),
    ] {
        let mut agent = Agent::listening(&mut Charon::default(), at(1000));
        let fault = agent.hear(side, &fake::plain(kind, b""), at(2000));
        assert_eq!(fault, Err(Fault::Unasked), "{side:?} {kind:?}");
    }
}

#[test]
fn a_daemon_without_what_is_needed_is_named_and_ike_update_is_not_needed() {
    for missing in ["ike-updown", "ike-rekey", "list-sa", "list-sas", "version"] {
        let mut charon = Charon {
            ignorant_of: Some(missing),
            ..Charon::default()
        };
        let mut agent = Agent::new(at(1000), Vec::new());
        let fault = agent.serve(&mut charon, at(1000));
        assert_eq!(fault, Err(Fault::Unknown(missing)));
    }
    let mut charon = Charon {
        ignorant_of: Some("ike-update"),
        ..Charon::default()
    };
    Agent::listening(&mut charon, at(1000));
}

#[test]
fn a_client_with_very_many_child_sas_hides_nobody() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    let mut greedy = Sa::up(2, "greedy");
    greedy.children = (0..60_000).map(|id| (id, 1, 1)).collect();
    charon.sas.extend([(2, greedy), (3, Sa::up(3, "c"))]);
    agent.serve(&mut charon, at(61_000)).unwrap();
    let starts = agent
        .events
        .iter()
        .filter(|event| event.what == What::Start);
    assert_eq!(starts.count(), 3, "{:?}", agent.events);
}

#[test]
fn a_flood_of_sas_is_cut_off() {
    let mut agent = Agent::listening(&mut Charon::default(), at(1000));
    let mut obs = Vec::new();
    let template = Sa::up(0, "flood");
    let fault = (1..).find_map(|id| {
        let sa = Sa {
            id,
            ..template.clone()
        };
        let event = fake::event("ike-updown", &sa.message(&[("up", "yes")]));
        obs.clear();
        let heard = agent
            .talk
            .received(Side::Events, &event, at(1000), &mut obs);
        heard.err().map(|fault| (id, fault))
    });
    assert_eq!(fault, Some((MAX_SESSIONS as u64 + 1, Fault::TooManySas)));
}

#[test]
fn ups_and_downs_that_never_pause_are_cut_off() {
    let mut agent = Agent::listening(&mut Charon::default(), at(1000));
    let mut obs = Vec::new();
    let fault = (1..=MAX_SESSIONS as u64 + 1).find_map(|id| {
        let event = fake::event("ike-updown", &Sa::up(id, "x").deleting(None).message(&[]));
        agent
            .talk
            .received(Side::Events, &event, at(1000), &mut obs)
            .err()
    });
    assert_eq!(fault, Some(Fault::TooManySas));
    assert!(obs.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_from_charon_are_a_fault_or_nothing(
        events in prop::collection::vec(any::<u8>(), 0..300),
        commands in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut agent = Agent::listening(&mut Charon::default(), at(1000));
        let _ = agent.hear(Side::Events, &events, at(2000));
        let mut agent = Agent::new(at(1000), Vec::new());
        let _ = agent.hear(Side::Commands, &commands, at(2000));
        prop_assert_eq!(agent.reducer.live().count(), 0);
    }

    /// Whatever happens in whatever order: a connection starts once and ends once.
    #[test]
    fn every_history_gives_records_that_make_sense(
        steps in prop::collection::vec((0_u8..8, 1_u64..6, 0_u64..1500), 1..80)
    ) {
        let mut charon = Charon::default();
        let mut agent = Agent::listening(&mut charon, at(1000));
        let (mut now, mut next) = (1000, 100);
        let names = ["", "a", "b", "c", "d", "e"];
        for (what, which, wait) in steps {
            now += wait;
            let someone = charon.sas.keys().nth(which as usize % charon.sas.len().max(1)).copied();
            match (what, someone) {
                (0 | 1, _) => {
                    next += 1;
                    charon.comes(Sa::up(next, names[which as usize]));
                }
                (2, Some(id)) => charon.goes(charon.sas[&id].clone().deleting(Some("IKE_DELETE"))),
                (3, Some(id)) => charon.goes(charon.sas[&id].clone().deleting(None)),
                (4, Some(id)) => charon.goes(charon.sas[&id].clone()),
                (5, Some(id)) => {
                    next += 1;
                    charon.rekeys(id, next);
                }
                (6, Some(id)) => agent.talk.order(which, id, at(now)),
                (7, _) => now += 60_000,
                _ => {}
            }
            agent.serve(&mut charon, at(now)).unwrap();
            agent.reducer.tick(at(now)).into_iter().for_each(|event| agent.events.push(event));
        }
        agent.tick(at(now + 2000)).unwrap();
        agent.tick(at(now + 20_000)).unwrap();
        prop_assert_eq!(agent.reducer.live().count(), charon.sas.len());
        let told = agent.told();
        let count = |word: &str| told.iter().filter(|line| line.contains(word)).count();
        prop_assert_eq!(count(" start "), count(" end ") + charon.sas.len());
    }
}
