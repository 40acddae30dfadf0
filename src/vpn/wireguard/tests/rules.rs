//! What is evidence and what is not, rule by rule.

use super::*;
use crate::core::sessions::{Change, Confidence, End, Endpoint, Net, Reason, What};

fn ends(events: &[SessionEvent]) -> Vec<&End> {
    let ends = events.iter().filter_map(|event| match &event.what {
        What::End(end) => Some(end),
        _ => None,
    });
    ends.collect()
}

fn starts(events: &[SessionEvent]) -> usize {
    events
        .iter()
        .filter(|event| event.what == What::Start)
        .count()
}

#[test]
fn a_changed_handshake_starts_a_session_and_rx_alone_does_not() {
    let mut agent = Agent::fresh();
    assert_eq!(agent.poll(at(1000), true, &[peer(1, 0, 0, 0)]), []);
    assert_eq!(agent.poll(at(1005), true, &[peer(1, 0, 148, 0)]), []);
    let events = agent.poll(at(1010), true, &[peer(1, 1007, 180, 92)]);
    assert_eq!(starts(&events), 1);
    assert_eq!(events[0].session.started, at(1007));
}

#[test]
fn the_first_poll_takes_handshakes_younger_than_180_s() {
    let mut agent = Agent::fresh();
    let peers = [peer(1, 821, 1, 1), peer(2, 820, 1, 1), peer(3, 0, 0, 0)];
    let events = agent.poll(at(1000), true, &peers);
    assert_eq!(starts(&events), 1);
    assert_eq!(events[0].session.started, at(821));
}

#[test]
fn silence_ends_after_180_s_and_one_poll_at_the_last_growth_of_rx() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 999, 10, 10)]);
    agent.poll(at(1010), true, &[peer(1, 999, 20, 10)]);
    // Retries of 148 bytes to the dead client go on.
    for (secs, tx) in [(1100, 158), (1170, 306), (1179, 454)] {
        assert_eq!(agent.poll(at(secs), true, &[peer(1, 999, 20, tx)]), []);
    }
    assert_eq!(agent.reducer.live().count(), 1);
    agent.poll(at(1184), true, &[peer(1, 999, 20, 602)]);
    agent.poll(at(1189), true, &[peer(1, 999, 20, 602)]);
    assert_eq!(agent.reducer.live().count(), 0);
    let events = agent.reducer.tick(at(1192));
    let [end] = ends(&events)[..] else {
        panic!("{events:?}");
    };
    assert_eq!(end.reason, Reason::Timeout);
    assert_eq!(end.confidence, Confidence::Inferred);
    assert_eq!(
        (end.earliest, end.at, end.latest),
        (at(1010), at(1010), at(1179))
    );
}

#[test]
fn renewal_between_the_two_late_polls_keeps_the_session() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 999, 10, 10)]);
    agent.poll(at(1180), true, &[peer(1, 999, 10, 10)]);
    agent.poll(at(1185), true, &[peer(1, 1181, 20, 10)]);
    agent.poll(at(1190), true, &[peer(1, 1181, 20, 10)]);
    assert_eq!(agent.reducer.tick(at(1300)), []);
    assert_eq!(agent.reducer.live().count(), 1);
}

#[test]
fn keepalives_alone_keep_a_session_for_days() {
    let mut agent = Agent::fresh();
    let mut events = Vec::new();
    for secs in (1000..200_000).step_by(5) {
        let handshake = 1000 + (secs - 1000) / 125 * 125;
        events.extend(agent.poll(at(secs), true, &[peer(1, handshake, secs, 10)]));
    }
    assert_eq!((events.len(), starts(&events)), (1, 1));
}

#[test]
fn a_clock_step_neither_starts_nor_ends() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 999, 1, 1), peer(2, 500, 1, 1)]);
    for (secs, step_s) in [(1005, -300_000_000), (1010, 300_000_000)] {
        let mut stepped = at(secs);
        stepped.wall_ms += step_s * 1000;
        let events = agent.poll(stepped, true, &[peer(1, 999, 2, 1), peer(2, 500, 1, 1)]);
        assert_eq!(events, []);
    }
    assert_eq!(agent.reducer.live().count(), 1);
}

#[test]
fn a_handshake_from_the_future_counts_as_now_at_the_first_poll() {
    let mut agent = Agent::fresh();
    let events = agent.poll(at(1000), true, &[peer(1, 9_000, 1, 1)]);
    assert_eq!(events[0].session.started, at(1000));
}

#[test]
fn a_removed_peer_ends_in_a_clean_dump_only() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 999, 1, 1), peer(2, 998, 1, 1)]);
    assert_eq!(agent.poll(at(1005), false, &[peer(3, 1004, 1, 1)]).len(), 1);
    assert_eq!(agent.reducer.live().count(), 3);
    let peers = [peer(2, 998, 1, 1), peer(3, 1004, 1, 1)];
    let events = agent.poll(at(1010), true, &peers);
    let [end] = ends(&events)[..] else {
        panic!("{events:?}");
    };
    assert_eq!(
        (&end.reason, end.confidence),
        (&Reason::PeerRemoved, Confidence::Observed)
    );
    assert_eq!((end.earliest, end.latest), (at(1000), at(1010)));
}

#[test]
fn a_handshake_back_at_zero_or_lower_counters_are_a_new_incarnation() {
    let resets = [peer(1, 0, 0, 0), peer(1, 999, 4, 50), peer(1, 999, 50, 4)];
    for reset in resets {
        let mut agent = Agent::fresh();
        agent.poll(at(1000), true, &[peer(1, 999, 50, 50)]);
        agent.poll(at(1005), true, &[reset]);
        let events = agent.reducer.tick(at(1008));
        assert_eq!(ends(&events)[0].reason, Reason::PeerRemoved);
        let events = agent.poll(at(1020), true, &[peer(1, 1018, 100, 100)]);
        assert_eq!(starts(&events), 1);
    }
}

#[test]
fn removed_added_and_connected_again_between_two_polls_are_two_sessions() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 999, 50, 50)]);
    let events = agent.poll(at(1005), true, &[peer(1, 1003, 4, 4)]);
    assert_eq!((ends(&events).len(), starts(&events)), (1, 1));
    assert_eq!(agent.reducer.live().count(), 1);
}

#[test]
fn each_session_counts_its_own_bytes_though_the_counters_go_on() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 0, 0, 0), peer(2, 100, 700, 70)]);
    let events = agent.poll(
        at(1005),
        true,
        &[peer(1, 1003, 180, 92), peer(2, 1004, 790, 75)],
    );
    let bytes = |event: &SessionEvent| (event.session.rx, event.session.tx);
    assert_eq!(
        events.iter().map(bytes).collect::<Vec<_>>(),
        [(180, 92), (90, 5)]
    );
    for secs in [1010, 1185, 1190] {
        agent.poll(at(secs), true, &[peer(1, 1003, 500, 400)]);
    }
    assert_eq!(bytes(&agent.reducer.tick(at(1195))[0]), (500, 400));
    let again = agent.poll(at(1300), true, &[peer(1, 1299, 510, 404)]);
    assert_eq!(bytes(&again[0]), (10, 4));
    // A restarted agent goes on counting where the session began.
    let kept = agent.reducer.persistable();
    let mut agent = Agent::new(HandshakeClock::Guess, kept, Uuid::nil(), agent.ids);
    assert_eq!(agent.poll(at(1310), true, &[peer(1, 1299, 600, 500)]), []);
    let live: Vec<_> = agent.reducer.live().collect();
    assert_eq!((live[0].rx, live[0].tx), (100, 100));
}

#[test]
fn roaming_and_other_addresses_update_the_same_session() {
    let mut agent = Agent::fresh();
    let mut client = peer(1, 999, 1, 1);
    let started = agent.poll(at(1000), true, std::slice::from_ref(&client));
    client.endpoint = Some(Endpoint {
        ip: [192, 0, 2, 1].into(),
        port: Some(40001),
    });
    client.allowed_ips.push(Net {
        addr: [10, 0, 0, 2].into(),
        prefix: 32,
    });
    let events = agent.poll(at(1005), true, std::slice::from_ref(&client));
    let changes: Vec<_> = events.iter().map(|event| &event.what).collect();
    let update = |change| What::Update {
        change,
        at: at(1005),
    };
    assert_eq!(
        changes,
        [&update(Change::Endpoint), &update(Change::VirtualIps)]
    );
    assert_eq!(events[0].connection_id, started[0].connection_id);
    assert_eq!(agent.poll(at(1010), true, &[client]), []);
}

#[test]
fn an_interface_that_comes_back_needs_new_handshakes() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 999, 1, 1)]);
    let obs = agent.table.interface_down(at(1005));
    let events = agent.reduce(at(1005), obs);
    let [end] = ends(&events)[..] else {
        panic!("{events:?}");
    };
    assert_eq!(
        (&end.reason, end.confidence),
        (&Reason::InterfaceDown, Confidence::Observed)
    );
    assert_eq!(agent.poll(at(1010), true, &[peer(1, 999, 1, 1)]), []);
    assert_eq!(
        starts(&agent.poll(at(1015), true, &[peer(1, 1012, 2, 2)])),
        1
    );
}

#[test]
fn elapsed_seconds_as_boringtun_tells_them_are_understood() {
    let elapsed = |secs, nanos| PeerReading {
        handshake: Handshake { secs, nanos },
        ..peer(1, 0, 5, 5)
    };
    let mut agent = Agent::fresh();
    let mut events = agent.poll(at(1000), true, &[elapsed(20, 5)]);
    assert_eq!(
        events[0].session.started.boot,
        Duration::new(979, 999_999_995)
    );
    for secs in (1005..1100).step_by(5) {
        events.extend(agent.poll(at(secs), true, &[elapsed(secs - 981, 7)]));
    }
    // A new handshake at 1100, then silence.
    for secs in (1105..1300).step_by(5) {
        events.extend(agent.poll(at(secs), true, &[elapsed(secs - 1100, 0)]));
    }
    events.extend(agent.reducer.tick(at(1300)));
    assert_eq!((starts(&events), ends(&events).len()), (1, 1));
    assert!(ends(&events)[0].latest.boot >= at(1280).boot);
}

#[test]
fn elapsed_seconds_wander_with_slow_answers_and_are_one_handshake() {
    let poll = |agent: &mut Agent, secs, elapsed: u64| {
        let handshake = Handshake {
            secs: elapsed,
            nanos: 1,
        };
        let reading = PeerReading {
            handshake,
            ..peer(1, 0, 5, 5)
        };
        agent.poll(at(secs), true, &[reading])
    };
    let mut agent = Agent::fresh();
    // Just now, as boringtun tells it: no whole second has passed.
    let started = poll(&mut agent, 1000, 0);
    assert_eq!(
        (starts(&started), started[0].session.started.boot.as_secs()),
        (1, 999)
    );
    // A slow daemon says up to 2 s more or less. Without renewal the session ends all the same.
    for (secs, elapsed) in [
        (1060, 62),
        (1120, 118),
        (1179, 179),
        (1184, 182),
        (1189, 190),
    ] {
        assert_eq!(poll(&mut agent, secs, elapsed), []);
    }
    let ended = agent.reducer.tick(at(1195));
    assert_eq!(ends(&ended)[0].reason, Reason::Timeout);
    // The time on the wall has no part in it.
    let mut agent = Agent::fresh();
    poll(&mut agent, 1000, 5);
    let mut later = at(1005);
    later.wall_ms += 90_000_000_000;
    let handshake = Handshake { secs: 10, nanos: 1 };
    let reading = PeerReading {
        handshake,
        ..peer(1, 0, 5, 5)
    };
    assert_eq!(agent.poll(later, true, &[reading]), []);
}

#[test]
fn a_peer_that_comes_twice_in_one_answer_counts_once() {
    let mut agent = Agent::fresh();
    let split = [peer(1, 999, 9, 9), peer(1, 0, 0, 0)];
    assert_eq!(starts(&agent.poll(at(1000), true, &split)), 1);
    assert_eq!(agent.poll(at(1005), true, &split), []);
}

#[test]
fn a_restarted_agent_goes_on_without_a_word() {
    let mut agent = Agent::fresh();
    let started = agent.poll(at(1000), true, &[peer(1, 999, 9, 9), peer(2, 999, 9, 9)]);
    let kept = agent.reducer.persistable();
    let mut agent = Agent::new(HandshakeClock::Guess, kept, Uuid::nil(), agent.ids);
    // One goes on, one is silent since long before the restart.
    let events = agent.poll(at(1200), true, &[peer(1, 1150, 50, 9), peer(2, 999, 9, 9)]);
    assert_eq!(starts(&events), 0);
    assert_eq!(ends(&events)[0].reason, Reason::AgentRestart);
    assert_eq!(ends(&events)[0].confidence, Confidence::Inferred);
    let live: Vec<_> = agent.reducer.live().collect();
    assert!(
        started
            .iter()
            .any(|event| event.connection_id == live[0].connection_id)
    );
    assert_eq!(live.len(), 1);
}
