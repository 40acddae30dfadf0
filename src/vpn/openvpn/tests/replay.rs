//! Recorded talks with OpenVPN 2.6.14, played through parser, conversation, sessions and reducer.
//!
//! `clients.txt` and `daemon.txt` were recorded between this code and the daemon, so every command
//! in them must be asked for again. The lines of `passive.txt` are another program's talk.

use super::*;
use crate::vpn::openvpn::protocol::{self, Message};

const CLIENTS: &str = include_str!("../../../../tests/fixtures/openvpn/clients.txt");
const DAEMON: &str = include_str!("../../../../tests/fixtures/openvpn/daemon.txt");
const CLIENT_AUTH: &str = include_str!("../../../../tests/fixtures/openvpn/client-auth.txt");

/// Plays a record: what happened, with its steps between. `pieces` is how the bytes are cut.
fn replay(record: &str, pieces: usize) -> Vec<String> {
    let mut agent = Agent::fresh();
    let mut conversation: Option<Conversation> = None;
    let mut shown_lines = Vec::new();
    let mut commands = Vec::new();
    for line in record.lines() {
        let mut parts = line.splitn(3, ' ');
        let time = parts.next().unwrap();
        let now = at((time.parse::<f64>().unwrap() * 1000.0) as i64);
        let (direction, rest) = (parts.next().unwrap(), parts.next().unwrap_or_default());
        let mut events = agent.reducer.tick(now);
        match (direction, rest) {
            ("###", "connected") => {
                conversation = Some(Conversation::new(now, None));
                commands.clear();
            }
            ("###", "EOF from daemon") => conversation = None,
            ("###", "end") => {
                let mut out = Outcome::default();
                agent.server.is_down(now, &mut out);
                events.extend(agent.take(out, now));
                events.extend(agent.reducer.tick(now.after(Duration::from_secs(60))));
            }
            ("###", step) => shown_lines.push(format!("-- {step}")),
            (">>>", command) => {
                let conversation = conversation.as_mut().unwrap();
                if let Some(cid) = command.strip_prefix("client-kill ") {
                    let cid = cid.split(' ').next().unwrap().parse().unwrap();
                    conversation.kill(1, cid, now);
                }
                conversation.tick(now).unwrap();
                let asked = String::from_utf8(conversation.take_send().to_vec()).unwrap();
                commands.extend(asked.lines().map(str::to_owned));
                if commands.first().map(String::as_str) != Some(command) {
                    // It was due a few milliseconds later than the record's clock says.
                    conversation.list_by(now.boot);
                    conversation.tick(now).unwrap();
                    let asked = String::from_utf8(conversation.take_send().to_vec()).unwrap();
                    commands.extend(asked.lines().map(str::to_owned));
                }
                assert_eq!(commands.remove(0), command, "at {time}");
            }
            ("<<<", text) => {
                let conversation = conversation.as_mut().unwrap();
                let bytes = format!("{text}\r\n").into_bytes();
                for piece in bytes.chunks(pieces) {
                    let heard = agent.feed(conversation, piece, now);
                    events.extend(heard.unwrap_or_else(|fault| panic!("{time}: {fault}")));
                }
            }
            _ => panic!("{line}"),
        }
        shown_lines.extend(events.iter().map(shown));
    }
    shown_lines
}

#[test]
fn clients_come_roam_and_go() {
    let told = replay(CLIENTS, usize::MAX);
    let expected = include_str!("../../../../tests/fixtures/openvpn/clients.expected.txt");
    assert_eq!(
        told,
        expected.lines().collect::<Vec<_>>(),
        "{}",
        told.join("\n")
    );
}

#[test]
fn the_daemon_restarts_stops_and_crashes() {
    let told = replay(DAEMON, usize::MAX);
    let expected = include_str!("../../../../tests/fixtures/openvpn/daemon.expected.txt");
    assert_eq!(
        told,
        expected.lines().collect::<Vec<_>>(),
        "{}",
        told.join("\n")
    );
}

#[test]
fn the_pieces_in_which_bytes_come_change_nothing() {
    let whole = replay(CLIENTS, usize::MAX);
    for pieces in [1, 7, 100] {
        assert_eq!(replay(CLIENTS, pieces), whole);
    }
}

/// Serves clients that the agent would have to authenticate: it leaves.
#[test]
fn an_interface_that_authenticates_clients_is_left_at_once() {
    let mut agent = Agent::fresh();
    let mut claimed = None;
    let now = at(1_795_311_366_210);
    let mut conversation = Conversation::new(now, None);
    for line in CLIENT_AUTH.lines() {
        // Only what comes without being asked for.
        let Some((_, text)) = line.split_once(" <<< >") else {
            continue;
        };
        let bytes = format!(">{text}\r\n");
        if let Err(fault) = agent.feed(&mut conversation, bytes.as_bytes(), now) {
            claimed = Some(fault);
            break;
        }
    }
    assert!(matches!(claimed, Some(Fault::Claimed(what)) if what.contains("authentication")));
}

/// Every line that the daemon printed in a day of all kinds of ends is of a known kind.
#[test]
fn lines_of_another_talk_are_understood() {
    let passive = include_str!("../../../../tests/fixtures/openvpn/passive.txt");
    let mut ends = Vec::new();
    for line in passive.lines() {
        let Some((_, text)) = line.split_once(" <<< ") else {
            continue;
        };
        if let Message::Log(message) = protocol::parse(text.as_bytes())
            && let Some(said) = crate::vpn::openvpn::log::parse(message)
        {
            use crate::vpn::openvpn::log::Said;
            ends.push(match said {
                Said::Ended { label, reason } => {
                    format!("{} {}", label.escape_ascii(), reason.code())
                }
                Said::Goodbye(label) => format!("{} goodbye", label.escape_ascii()),
                Said::Replaced(name) => format!("{} replaced", name.escape_ascii()),
                Said::Connected => continue,
            });
        }
    }
    let expected = [
        "alice@device-1/10.78.0.11:52395 goodbye",
        "alice@device-1/10.78.0.11:52395 client_disconnect",
        "alice@device-1 replaced",
        "alice@device-1 replaced",
        "alice@device-1/10.78.0.12:46122 admin_kick",
        "bob phone \\xc3\\xbc replaced",
        "bob phone \\xc3\\xbc/10.78.0.12:58889 timeout",
        "alice@device-1 replaced",
    ];
    assert_eq!(ends, expected);
}
