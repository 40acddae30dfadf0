//! Clients that authenticate anew, with either order of the two SAs, and those that should have.

use super::{
    fake::Sa,
    rules::{ends, starts},
    *,
};

fn lives_for(seconds: &'static str, sa: Sa) -> Sa {
    Sa {
        reauth_in: Some(seconds),
        ..sa
    }
}

#[test]
fn a_client_that_makes_another_sa_before_it_ends_the_old_one_is_one_connection() {
    let mut charon = Charon::with([]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.comes(Sa::up(1, "a"));
    agent.serve(&mut charon, at(2000)).unwrap();
    charon.comes(Sa {
        children: vec![(2, 5, 5)],
        ..Sa::up(2, "a")
    });
    agent.serve(&mut charon, at(61_000)).unwrap();
    // A list in between has both.
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told).len()), (1, 0), "{told:?}");
    charon.goes(
        Sa {
            children: vec![(1, 100, 10)],
            ..Sa::up(1, "a")
        }
        .deleting(Some("IKE_DELETE")),
    );
    agent.serve(&mut charon, at(61_400)).unwrap();
    for millis in [62_000, 65_000, 122_000, 183_000] {
        agent.serve(&mut charon, at(millis)).unwrap();
        agent.tick(at(millis)).unwrap();
    }
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told).len()), (0, 0), "{told:?}");
    let live = agent.reducer.live().next().unwrap();
    assert_eq!((live.rx, live.tx), (105, 15));
    // Its end is that of the new SA.
    charon.goes(Sa::up(2, "a").deleting(Some("IKE_DELETE")));
    agent.serve(&mut charon, at(184_000)).unwrap();
    agent.tick(at(190_000)).unwrap();
    let told = agent.told();
    assert_eq!(ends(&told), ["client_disconnect"]);
    assert!(told[0].starts_with("#1 "), "{told:?}");
}

#[test]
fn two_devices_of_one_user_are_two_connections_also_behind_one_address() {
    let mut charon = Charon::with([Sa::up(1, "user")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.comes(Sa {
        port: "50123",
        ..Sa::up(2, "user")
    });
    agent.serve(&mut charon, at(2000)).unwrap();
    assert_eq!(starts(&agent.told()), 2);
    charon.goes(Sa::up(1, "user").deleting(Some("IKE_DELETE")));
    agent.serve(&mut charon, at(2500)).unwrap();
    agent.tick(at(9000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told)), (0, vec!["client_disconnect"]));
    assert_eq!(agent.reducer.live().count(), 1);
}

#[test]
fn an_sa_beside_one_that_stays_or_is_ended_by_charon_is_a_connection_of_its_own() {
    let mut charon = Charon::with([Sa::up(1, "stays")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.told();
    charon.comes(Sa::up(11, "stays"));
    agent.serve(&mut charon, at(2000)).unwrap();
    agent.tick(at(3999)).unwrap();
    assert_eq!(starts(&agent.told()), 0);
    agent.tick(at(4000)).unwrap();
    // It began when it came up, not when that was told.
    let told = agent.told();
    assert!(told[0].starts_with("#2 start at 2.00"), "{told:?}");
    // Ended by charon: the other one is told at once.
    charon.comes(Sa::up(12, "stays"));
    charon.goes(Sa::up(11, "stays").deleting(None));
    agent.serve(&mut charon, at(5000)).unwrap();
    agent.tick(at(7000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told)), (1, vec!["admin_kick"]));
    assert_eq!(agent.reducer.live().count(), 2);
}

#[test]
fn an_sa_that_is_gone_before_it_was_decided_what_it_is_was_a_connection() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.told();
    charon.comes(Sa::up(2, "a"));
    charon.goes(Sa::up(2, "a").deleting(Some("IKE_DELETE")));
    agent.serve(&mut charon, at(2000)).unwrap();
    agent.tick(at(9000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told)), (1, vec!["client_disconnect"]));
    // Nor is one lost when the connection to charon breaks.
    charon.comes(Sa::up(3, "a"));
    agent.serve(&mut charon, at(10_000)).unwrap();
    let now = at(10_100);
    let mut obs = Vec::new();
    let talk = Conversation::new(EPOCH, Table::default(), now);
    let (table, _) = std::mem::replace(&mut agent.talk, talk).into_table(&mut obs);
    assert_eq!(table.len(), 2);
    agent.reduce(obs, now);
    assert_eq!(starts(&agent.told()), 1);
}

#[test]
fn an_order_reaches_the_sa_with_which_the_client_goes_on() {
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.comes(Sa::up(2, "a"));
    agent.serve(&mut charon, at(2000)).unwrap();
    // The client deletes the old one before charon hears the order.
    charon.goes(Sa::up(1, "a").deleting(Some("IKE_DELETE")));
    agent.talk.order(7, 1, at(2010));
    agent.serve(&mut charon, at(2020)).unwrap();
    agent.serve(&mut charon, at(2300)).unwrap();
    agent.tick(at(4000)).unwrap();
    assert_eq!(agent.answers, [(7, Ok(()))]);
    assert!(charon.sas.is_empty());
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told)), (1, vec!["admin_kick"]));
}

#[test]
fn an_sa_whose_lifetime_is_over_is_not_an_administrators_kick() {
    let short = |id, name| lives_for("4", Sa::up(id, name));
    let mut charon = Charon::with([short(1, "late"), short(2, "kicked"), short(3, "rekeyed")]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.told();
    charon.goes(short(2, "kicked").deleting(None));
    charon.rekeys(3, 4);
    agent.serve(&mut charon, at(2500)).unwrap();
    charon.goes(short(1, "late").deleting(None));
    charon.goes(Sa::up(4, "rekeyed").deleting(None));
    agent.serve(&mut charon, at(8000)).unwrap();
    for millis in [9000, 10_000, 12_000] {
        agent.tick(at(millis)).unwrap();
    }
    let mut told = agent.told();
    told.retain(|line| line.contains(" end "));
    told.sort();
    assert_eq!(ends(&told), ["timeout", "admin_kick", "admin_kick"]);
    assert!(told[0].contains("Observed at 8.00"), "{told:?}");
}

#[test]
fn overdue_is_what_a_list_says_is_overdue() {
    let mut charon = Charon::with([lives_for("-3", Sa::up(1, "a"))]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.goes(Sa::up(1, "a").deleting(None));
    agent.serve(&mut charon, at(2000)).unwrap();
    agent.tick(at(3000)).unwrap();
    agent.tick(at(9000)).unwrap();
    assert_eq!(ends(&agent.told()), ["timeout"]);
}

#[test]
fn a_reauthentication_by_charon_itself_is_one_connection() {
    let mut charon = Charon::with([lives_for("3600", Sa::up(1, "gateway"))]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    let now = 3_601_000;
    charon.goes(Sa::up(1, "gateway").deleting(None));
    charon.comes(lives_for("3600", Sa::up(2, "gateway")));
    agent.serve(&mut charon, at(now)).unwrap();
    agent.tick(at(now + 9000)).unwrap();
    let told = agent.told();
    assert_eq!((starts(&told), ends(&told).len()), (1, 0), "{told:?}");
    // One that stops is stopping, whatever was overdue.
    charon.goes(lives_for("-5", Sa::up(2, "gateway")).deleting(None));
    let now = at(now + 3_600_000);
    agent.serve(&mut charon, now).unwrap();
    let mut obs = Vec::new();
    let talk = Conversation::new(EPOCH, Table::default(), now);
    let (table, _) = std::mem::replace(&mut agent.talk, talk).into_table(&mut obs);
    assert!(table.is_empty());
    agent.reduce(obs, now);
    assert_eq!(ends(&agent.told()), ["daemon_down"]);
}
