//! Orders to end a session: whom they reach, whom they must not, and what is said of them.

use super::hostile::{list, listed, now, opened};
use super::*;
use crate::core::sessions::SessionKey;

const BOB: [(&str, &str, u64); 1] = [("bob", "10.0.0.1:5", 1)];

/// The session that every row here is of, with this client id.
fn key(cid: u64) -> SessionKey {
    SessionKey::OpenVpn {
        cid,
        connected_since: 1_795_000_900,
    }
}

/// Bob, of client id 1, was told to go at second 1.
fn told(agent: &mut Agent, talk: &mut Conversation) {
    assert!(agent.server.order(7, key(1), now(1)));
    listed(agent, talk, &BOB, 1);
    assert_eq!(agent.kills, [(7, 1)]);
    talk.kill(7, 1, now(1));
    let taken = b"SUCCESS: client-kill command succeeded\r\n";
    agent.feed(talk, taken, now(1)).unwrap();
}

#[test]
fn an_order_is_sent_for_the_listed_session_only_and_done_when_it_is_gone() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    listed(&mut agent, &mut talk, &BOB, 0);
    assert!(agent.server.order(7, key(1), now(1)));
    // Another life's session of that number.
    let former = SessionKey::OpenVpn {
        cid: 1,
        connected_since: 1_794_000_000,
    };
    assert!(agent.server.order(8, former, now(1)));
    listed(&mut agent, &mut talk, &BOB, 1);
    assert_eq!(agent.answers, [(8, Ok(()))]);
    assert_eq!(agent.kills, [(7, 1)]);
    talk.kill(7, 1, now(1));
    assert!(talk.take_send().ends_with(b"client-kill 1 HALT\n"));
    let taken = b"SUCCESS: client-kill command succeeded\r\n";
    agent.feed(&mut talk, taken, now(1)).unwrap();
    listed(&mut agent, &mut talk, &BOB, 3);
    assert_eq!(agent.answers.len(), 1, "it is still there");
    listed(&mut agent, &mut talk, &[], 7);
    assert_eq!(agent.answers[1], (7, Ok(())));
}

#[test]
fn orders_that_are_refused_or_not_obeyed_or_cannot_be_given_fail() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    assert!(agent.server.order(1, key(1), now(0)));
    listed(&mut agent, &mut talk, &BOB, 0);
    talk.kill(1, 1, now(0));
    agent
        .feed(&mut talk, b"ERROR: client-kill command failed\r\n", now(0))
        .unwrap();
    listed(&mut agent, &mut talk, &BOB, 1);
    let why = agent.answers.remove(0).1.unwrap_err();
    assert!(why.contains("refused") && !why.contains("bob"), "{why}");

    assert!(agent.server.order(2, key(1), now(1)));
    listed(&mut agent, &mut talk, &BOB, 2);
    let mut out = Outcome::default();
    agent.server.tick(Some(&mut talk), now(2 + 8), &mut out);
    agent.take(out, now(10));
    assert!(agent.answers.remove(0).1.unwrap_err().contains("still"));

    assert!(agent.server.order(3, key(1), now(11)));
    let mut out = Outcome::default();
    agent.server.tick(None, now(11), &mut out);
    agent.take(out, now(11));
    assert!(
        agent
            .answers
            .remove(0)
            .1
            .unwrap_err()
            .contains("not at hand")
    );
}

#[test]
fn of_what_the_daemon_says_to_an_order_a_short_and_harmless_part_is_told() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    assert!(agent.server.order(1, key(1), now(0)));
    listed(&mut agent, &mut talk, &BOB, 0);
    talk.kill(1, 1, now(0));
    let line = [b"ERROR: \x1b[2J\xff", &[b'x'; 10_000][..], b"\r\n"].concat();
    agent.feed(&mut talk, &line, now(0)).unwrap();
    listed(&mut agent, &mut talk, &BOB, 1);
    let why = agent.answers.remove(0).1.unwrap_err();
    assert!(
        why.contains("refused client-kill: \\x1b[2J\\xffxxx"),
        "{why}"
    );
    assert!(why.len() < 200 && why.is_ascii(), "{why}");
}

#[test]
fn who_was_told_is_dropped_a_moment_later_where_it_is_then() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    listed(&mut agent, &mut talk, &BOB, 0);
    told(&mut agent, &mut talk);
    listed(&mut agent, &mut talk, &BOB, 1);
    assert_eq!(agent.drops, [], "it has not had the time to hear of it");
    // It is looked for when it has had it, not a second later.
    let mut out = Outcome::default();
    agent.server.tick(Some(&mut talk), now(1), &mut out);
    let soon = talk.deadline().saturating_sub(now(1).boot);
    assert_eq!(soon, Duration::from_millis(200));
    // Meanwhile it has roamed, and another client is where it was.
    let rows = [("bob", "10.0.0.9:7", 1), ("eve", "10.0.0.1:5", 2)];
    listed(&mut agent, &mut talk, &rows, 2);
    let address = "10.0.0.9:7".parse().unwrap();
    assert_eq!(agent.drops, [address]);
    talk.drop_client(address, now(2));
    assert!(talk.take_send().ends_with(b"kill 10.0.0.9:7\n"));
    let dropped = b"SUCCESS: 1 client(s) at address 10.0.0.9:7 killed\r\n";
    agent.feed(&mut talk, dropped, now(2)).unwrap();
    assert_eq!(agent.answers, [], "its absence is what counts");
    assert!(talk.deadline() <= now(2).boot + Duration::from_millis(50));
    listed(&mut agent, &mut talk, &rows[1..], 3);
    assert_eq!(agent.answers, [(7, Ok(()))]);
    assert_eq!(agent.drops.len(), 1, "once");
}

#[test]
fn nobody_is_dropped_by_an_address_that_may_be_anothers() {
    for rows in [
        // A client that still shakes hands; two with one address; IPv6; a server of several protocols.
        &[("bob", "10.0.0.1:5", 1), ("UNDEF", "10.0.0.1:5", 2)][..],
        &[
            ("bob", "10.0.0.1:5", 1),
            ("eve", "::ffff:10.0.0.1", 2),
            ("eve", "[::ffff:10.0.0.1]:5", 3),
        ],
        &[("bob", "fd78::12", 1)],
        &[("bob", "[fd78::12]:5", 1)],
        &[("bob", "10.0.0.1", 1)],
        &[("bob", "udp4:10.0.0.1:5", 1)],
        &[("bob", "10.0.0.1:5\u{b}", 1)],
        // Another session.
        &[("bob", "10.0.0.1:5", 2)],
    ] {
        let mut agent = Agent::fresh();
        let mut talk = opened(&mut agent, None);
        listed(&mut agent, &mut talk, &BOB, 0);
        told(&mut agent, &mut talk);
        listed(&mut agent, &mut talk, rows, 2);
        assert_eq!(agent.drops, [], "{rows:?}");
        // It is waited for.
        listed(&mut agent, &mut talk, &[], 6);
        assert_eq!(agent.answers, [(7, Ok(()))]);
    }
}

#[test]
fn an_old_list_drops_nobody() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    listed(&mut agent, &mut talk, &BOB, 0);
    told(&mut agent, &mut talk);
    // Asked for in time, and answered by a daemon that was busy.
    talk.list_by(now(2).boot);
    talk.tick(now(2)).unwrap();
    assert!(talk.take_send().ends_with(b"status 3\n"));
    agent.feed(&mut talk, &list(&BOB), now(4)).unwrap();
    assert_eq!(agent.drops, []);
    listed(&mut agent, &mut talk, &BOB, 5);
    assert_eq!(agent.drops.len(), 1);
}

#[test]
fn a_daemon_that_does_not_know_the_address_is_waited_for() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    listed(&mut agent, &mut talk, &BOB, 0);
    told(&mut agent, &mut talk);
    listed(&mut agent, &mut talk, &BOB, 2);
    talk.drop_client(agent.drops[0], now(2));
    let refused = b"ERROR: client at address 10.0.0.1:5 not found\r\n";
    agent.feed(&mut talk, refused, now(2)).unwrap();
    for secs in 3..7 {
        listed(&mut agent, &mut talk, &BOB, secs);
    }
    assert_eq!((agent.drops.len(), agent.answers.len()), (1, 0));
    listed(&mut agent, &mut talk, &[], 7);
    assert_eq!(agent.answers, [(7, Ok(()))]);
}
