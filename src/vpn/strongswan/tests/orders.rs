//! Orders: done is only what charon itself says is over.

use super::{fake::Sa, *};

const DONE: Result<(), String> = Ok(());

fn clients() -> Charon {
    Charon::with([Sa::up(1, "a"), Sa::up(2, "b")])
}

#[test]
fn an_ordered_session_is_terminated_and_its_end_confirmed() {
    let mut charon = clients();
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.told();
    agent.talk.order(70, 1, at(2000));
    agent.talk.order(71, 2, at(2000));
    agent.serve(&mut charon, at(2000)).unwrap();
    assert_eq!(agent.answers, [(70, DONE), (71, DONE)]);
    assert_eq!(charon.asked.last().unwrap(), "terminate");
    agent.tick(at(2300)).unwrap();
    let told = agent.told();
    assert_eq!(told.len(), 2);
    assert!(
        told.iter().all(|line| line.contains("admin_kick")),
        "{told:?}"
    );
}

/// Else the end would be known by the answer alone, and not when it was.
#[test]
fn the_end_with_its_last_bytes_is_told_before_the_answer() {
    let children = vec![(1, 10, 10), (2, 20, 20)];
    let sa = Sa {
        children,
        ..Sa::up(1, "a")
    };
    let mut charon = Charon::with([sa]);
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.told();
    agent.talk.order(70, 1, at(2000));
    agent.serve(&mut charon, at(2000)).unwrap();
    assert!(agent.answers.is_empty() && agent.told().is_empty());
    agent.tick(at(2200)).unwrap();
    assert_eq!(agent.answers, [(70, DONE)]);
    agent.tick(at(9000)).unwrap();
    assert!(agent.told()[0].ends_with("rx 30 tx 30"));
}

#[test]
fn one_that_charon_does_not_know_is_over() {
    let mut charon = clients();
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.talk.order(70, 5, at(2000));
    agent.serve(&mut charon, at(2000)).unwrap();
    assert_eq!(agent.answers, [(70, DONE)]);
    // And the list is read again at once, in case the agent knew it.
    assert_eq!(charon.asked.last().unwrap(), "list-sas");
}

#[test]
fn the_answer_alone_is_not_enough() {
    let mut charon = clients();
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.talk.order(70, 1, at(2000));
    let asked = agent.talk.take_output(Side::Commands);
    let answer = charon.hear(Side::Commands, &asked);
    agent.hear(Side::Commands, &answer, at(2001)).unwrap();
    agent.tick(at(6999)).unwrap();
    assert_eq!(agent.answers, []);
    agent.tick(at(7000)).unwrap();
    let why = "charon did not end it within 5 s".to_owned();
    assert_eq!(agent.answers, [(70, Err(why))]);
}

#[test]
fn an_order_follows_its_session_through_a_rekey() {
    let mut charon = clients();
    let mut agent = Agent::listening(&mut charon, at(1000));
    charon.rekeys(1, 3);
    agent.serve(&mut charon, at(1500)).unwrap();
    agent.talk.order(70, 1, at(2000));
    // This one is rekeyed while charon has the order already.
    agent.talk.order(71, 2, at(2000));
    charon.rekeys(2, 4);
    agent.serve(&mut charon, at(2000)).unwrap();
    agent.answers.sort_by_key(|(order, _)| *order);
    assert_eq!(agent.answers, [(70, DONE), (71, DONE)]);
    assert!(charon.sas.is_empty());
}

#[test]
fn a_broken_connection_answers_what_waits() {
    let mut charon = clients();
    let mut agent = Agent::listening(&mut charon, at(1000));
    agent.talk.order(70, 1, at(2000));
    agent.talk.order(71, 2, at(2000));
    let (_, answers) = agent.talk.into_table(&mut Vec::new());
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|(_, result)| result.is_err()));
}
