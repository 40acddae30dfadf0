//! What is a session, what goes on, and what a list may end: one rule a test.

use super::{fake::Sa, *};

pub(super) fn starts(told: &[String]) -> usize {
    told.iter().filter(|line| line.contains(" start ")).count()
}

pub(super) fn ends(told: &[String]) -> Vec<&str> {
    let end = |line: &&String| line.contains(" end ");
    let reason = |line| str::split_whitespace(line).nth(2).unwrap();
    told.iter().filter(end).map(|line| reason(line)).collect()
}

#[test]
fn half_open_superseded_and_our_own_sas_are_no_sessions() {
    let states = ["CREATED", "CONNECTING", "REKEYED", "DELETING", "PASSIVE"];
    let mut sas: Vec<Sa> = Vec::new();
    for (id, state) in (1..).zip(states) {
        let sa = Sa {
            state,
            ..Sa::up(id, "half")
        };
        sas.push(sa);
    }
    // On the last one this host got the virtual address: it is the client there.
    sas.push(Sa {
        local_vip: true,
        ..Sa::up(9, "upstream")
    });
    let mut charon = Charon::with(sas);
    let mut agent = Agent::listening(&mut charon, at(1000));
    assert!(agent.told().is_empty());
    charon.comes(Sa {
        local_vip: true,
        ..Sa::up(10, "upstream")
    });
    charon.comes(Sa::up(11, "client"));
    agent.serve(&mut charon, at(2000)).unwrap();
    let told = agent.told();
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("ike client"), "{told:?}");
}

#[test]
fn one_that_is_up_already_began_when_it_was_established() {
    let mut charon = Charon::with([Sa {
        established: 40,
        ..Sa::up(1, "a")
    }]);
    let mut agent = Agent::listening(&mut charon, at(100_000));
    assert!(agent.told()[0].starts_with("#1 start at 60.00"));
}

#[test]
fn bytes_of_rekeyed_child_sas_stay_counted() {
    let mut charon = Charon::with([Sa {
        children: vec![(1, 500, 50)],
        ..Sa::up(7, "a")
    }]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    // Rekeyed: the old one is listed a last time, with what it counted until then.
    let both = Sa {
        children: vec![(1, 600, 60), (2, 0, 0)],
        ..Sa::up(7, "a")
    };
    charon.happens("child-rekey", &both.message(&[]));
    charon.sas.insert(7, both);
    agent.serve(&mut charon, at(61_000)).unwrap();
    charon.sas.get_mut(&7).unwrap().children = vec![(2, 10, 1)];
    agent.serve(&mut charon, at(121_000)).unwrap();
    let live = agent.reducer.live().next().unwrap();
    assert_eq!((live.rx, live.tx), (610, 61));
    // It is rekeyed itself, and another CHILD SA counts on under its new id.
    charon.rekeys(7, 8);
    charon.sas.get_mut(&8).unwrap().children = vec![(3, 5, 5)];
    agent.serve(&mut charon, at(181_000)).unwrap();
    let live = agent.reducer.live().next().unwrap();
    assert_eq!((live.rx, live.tx), (615, 66));
    // The last counts come after the SA is down, and are not lost.
    let last = Sa {
        children: vec![(3, 25, 5)],
        ..Sa::up(8, "a")
    };
    charon.goes(last.deleting(Some("IKE_DELETE")));
    agent.serve(&mut charon, at(182_000)).unwrap();
    agent.tick(at(190_000)).unwrap();
    let told = agent.told();
    assert_eq!(starts(&told), 1);
    let end = told.last().unwrap();
    assert!(end.contains("client_disconnect"), "{told:?}");
    assert!(end.ends_with("rx 635 tx 66"), "{told:?}");
}

#[test]
fn what_came_up_after_a_list_was_asked_for_is_not_ended_by_it() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    // Charon has made its list, and before the agent reads it another SA comes and one goes.
    agent.tick(at(61_000)).unwrap();
    let asked = agent.talk.take_output(Side::Commands);
    let list = charon.hear(Side::Commands, &asked);
    charon.comes(Sa::up(2, "b"));
    charon.goes(Sa::up(1, "a").deleting(Some("IKE_DELETE")));
    let happened = charon.hear(Side::Events, b"");
    agent.hear(Side::Events, &happened, at(61_001)).unwrap();
    agent.hear(Side::Commands, &list, at(61_002)).unwrap();
    agent.tick(at(70_000)).unwrap();
    let told = agent.told();
    assert_eq!(starts(&told), 2);
    assert_eq!(ends(&told), ["client_disconnect"]);
    assert!(
        told.iter()
            .all(|line| !line.contains("end") || line.starts_with("#1"))
    );
}

#[test]
fn a_list_that_comes_before_its_events_makes_and_ends_nothing_twice() {
    let mut charon = Charon::with([Sa::up(1, "a"), Sa::up(2, "b")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.comes(Sa::up(3, "c"));
    charon.rekeys(1, 4);
    charon.goes(Sa::up(2, "b").deleting(Some("IKE_DELETE")));
    // The list knows all that; the events are still on their way.
    let happened = charon.hear(Side::Events, b"");
    agent.serve(&mut charon, at(61_000)).unwrap();
    agent.hear(Side::Events, &happened, at(61_005)).unwrap();
    agent.tick(at(61_300)).unwrap();
    agent.tick(at(70_000)).unwrap();
    let told = agent.told();
    assert_eq!(starts(&told), 3, "{told:?}");
    assert_eq!(ends(&told), ["client_disconnect"], "{told:?}");
    assert_eq!(agent.reducer.live().count(), 2);
}

#[test]
fn what_events_missed_the_next_list_finds() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.sas.clear();
    charon.sas.insert(5, Sa::up(5, "b"));
    agent.serve(&mut charon, at(61_000)).unwrap();
    agent.tick(at(64_000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told)), (2, vec!["unknown"]));
}

#[test]
fn one_that_is_being_deleted_is_up_until_charon_says_why_not() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    // An administrator's request that the client does not answer.
    charon.sas.insert(1, Sa::up(1, "a").deleting(None));
    agent.serve(&mut charon, at(61_000)).unwrap();
    agent.tick(at(70_000)).unwrap();
    assert_eq!(ends(&agent.told()), Vec::<&str>::new());
    charon.goes(Sa::up(1, "a").deleting(None));
    agent.serve(&mut charon, at(71_000)).unwrap();
    agent.tick(at(75_000)).unwrap();
    assert_eq!(ends(&agent.told()), ["admin_kick"]);
}

#[test]
fn reasons_are_as_charon_tells_them() {
    let sa = |id| Sa::up(id, ["", "a", "b", "c", "d"][id as usize]);
    let mut charon = Charon::with((1..5).map(sa));
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.goes(sa(1).deleting(Some("IKE_DELETE")));
    charon.goes(sa(2).deleting(None));
    charon.goes(Sa {
        active: Some("IKE_DPD"),
        ..sa(3)
    });
    charon.goes(sa(4));
    agent.serve(&mut charon, at(2000)).unwrap();
    for millis in [2200, 3000, 5000] {
        agent.tick(at(millis)).unwrap();
    }
    let mut reasons = agent.told();
    reasons.retain(|line| line.contains(" end "));
    reasons.sort();
    let reasons = ends(&reasons);
    assert_eq!(
        reasons,
        ["client_disconnect", "admin_kick", "timeout", "unknown"]
    );
}

#[test]
fn a_charon_that_stops_deletes_all_and_closes() {
    let sas = || (1..200).map(|id| Sa::up(id, "many"));
    let mut charon = Charon::with(sas());
    let mut agent = Agent::listening(&mut charon, at(1000));
    // It takes seconds: no gap is as long as the wait for a better reason.
    for (step, sa) in (0..).zip(sas()) {
        charon.goes(sa.deleting(None));
        agent.serve(&mut charon, at(2000 + step * 20)).unwrap();
    }
    let now = at(6100);
    let mut obs = Vec::new();
    let talk = Conversation::new(EPOCH, Table::default(), now);
    let (table, _) = std::mem::replace(&mut agent.talk, talk).into_table(&mut obs);
    assert!(table.is_empty());
    agent.reduce(obs, now);
    let told = agent.told();
    assert_eq!(ends(&told), vec!["daemon_down"; 199]);
}

#[test]
fn a_reauthentication_goes_on_and_a_replacement_does_not() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.goes(Sa::up(1, "a").deleting(Some("IKE_DELETE")));
    charon.comes(Sa::up(2, "a"));
    agent.serve(&mut charon, at(2000)).unwrap();
    agent.tick(at(9000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told).len()), (1, 0));
    // The same identity from elsewhere; charon drops the old one without a word to anybody.
    charon.goes(Sa::up(2, "a"));
    charon.comes(Sa {
        host: "192.0.2.9",
        ..Sa::up(3, "a")
    });
    agent.serve(&mut charon, at(10_000)).unwrap();
    agent.tick(at(19_000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told)), (1, vec!["replaced"]));
}

#[test]
fn one_that_gives_way_while_a_request_is_under_way_did_not_time_out() {
    let mut charon = Charon::with([Sa::up(1, "a"), Sa::up(2, "b")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.told();
    for sa in [Sa::up(1, "a"), Sa::up(2, "b")] {
        charon.goes(Sa {
            active: Some("IKE_MOBIKE"),
            ..sa
        });
    }
    charon.comes(Sa::up(3, "a"));
    agent.serve(&mut charon, at(2000)).unwrap();
    for millis in [2200, 4500, 9000] {
        agent.tick(at(millis)).unwrap();
    }
    let told = agent.told();
    assert_eq!(
        (starts(&told), ends(&told)),
        (1, vec!["replaced", "timeout"])
    );
}

#[test]
fn a_restart_of_the_agent_changes_nothing() {
    let mut charon = Charon::with([Sa {
        children: vec![(1, 9, 9)],
        ..Sa::up(1, "a")
    }]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    assert_eq!(starts(&agent.told()), 1);
    let known = agent.reducer.persistable();
    let mut agent = Agent::new(at(20_000), known);
    agent.serve(&mut charon, at(20_000)).unwrap();
    charon.goes(Sa::up(1, "a").deleting(Some("IKE_DELETE")));
    agent.serve(&mut charon, at(21_000)).unwrap();
    agent.tick(at(30_000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told)), (0, vec!["client_disconnect"]));
}

#[test]
fn an_end_in_the_first_list_is_that_of_the_connection_a_former_process_left() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let agent = Agent::listening(&mut charon, at(1000));
    let known = agent.reducer.persistable();
    let mut agent = Agent::new(at(20_000), known);
    let subscribe = agent.talk.take_output(Side::Events);
    let confirmed = charon.hear(Side::Events, &subscribe);
    charon.goes(Sa::up(1, "a").deleting(Some("IKE_DELETE")));
    let gone = charon.hear(Side::Events, b"");
    agent.hear(Side::Events, &confirmed, at(20_001)).unwrap();
    agent.hear(Side::Events, &gone, at(20_002)).unwrap();
    agent.tick(at(21_000)).unwrap();
    assert_eq!(ends(&agent.told()), ["client_disconnect"]);
}
