//! Daemons that flood, stall or lie, and clients that are called like log lines.

use proptest::prelude::*;

use super::*;
use crate::core::sessions::Reason;
use crate::vpn::openvpn::file;

const GREETING: &[u8] = b">INFO:OpenVPN Management Interface Version 5 -- type 'help'\r\n";
const OPENING: &[u8] =
    b"SUCCESS: a\r\nSUCCESS: b\r\nSUCCESS: c\r\nOpenVPN Version: OpenVPN 2.6.14 x\r\n\
    END\r\nSUCCESS: pid=77\r\n1795000000,CONNECTED,SUCCESS,10.8.0.1,,,,,\r\nEND\r\n";
const HEADER: &str = "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\t\
    Virtual IPv6 Address\tBytes Received\tBytes Sent\tConnected Since\tConnected Since (time_t)\t\
    Username\tClient ID\n";

pub(super) fn now(secs: u64) -> Now {
    at(1_795_001_000_000).after(Duration::from_secs(secs))
}

/// A talk that has come to its first list.
pub(super) fn opened(agent: &mut Agent, password: Option<&[u8]>) -> Conversation {
    let password = password.map(|text| zeroize::Zeroizing::new(text.to_vec()));
    let mut conversation = Conversation::new(now(0), password);
    agent.feed(&mut conversation, GREETING, now(0)).unwrap();
    agent.feed(&mut conversation, OPENING, now(0)).unwrap();
    conversation
}

/// The rows `CN`, address, client id as the answer to `status 3`.
pub(super) fn list(rows: &[(&str, &str, u64)]) -> Vec<u8> {
    let rows: String = rows
        .iter()
        .map(|(name, address, cid)| {
            format!(
                "CLIENT_LIST\t{name}\t{address}\t10.8.0.2\t\t1\t2\tx\t1795000900\tUNDEF\t{cid}\n"
            )
        })
        .collect();
    format!("TIME\tx\t1795001000\n{HEADER}{rows}END\n").into_bytes()
}

/// Lists these rows `secs` after the beginning.
pub(super) fn listed(
    agent: &mut Agent,
    conversation: &mut Conversation,
    rows: &[(&str, &str, u64)],
    secs: u64,
) -> Vec<String> {
    let asked = |talk: &mut Conversation| {
        talk.tick(now(secs)).unwrap();
        talk.take_send().ends_with(b"status 3\n")
    };
    if !asked(conversation) {
        conversation.list_by(now(secs).boot);
        assert!(asked(conversation));
    }
    let events = agent.feed(conversation, &list(rows), now(secs)).unwrap();
    events.iter().map(shown).collect()
}

fn log(agent: &mut Agent, conversation: &mut Conversation, message: &str, secs: u64) {
    let line = format!(">LOG:1795001000,,{message}\r\n");
    assert_eq!(
        agent.feed(conversation, line.as_bytes(), now(secs)),
        Ok(Vec::new())
    );
}

/// Two seconds later, when held ends are told.
fn settled(agent: &mut Agent, secs: u64) -> Vec<String> {
    let events = agent.reducer.tick(now(secs + 3));
    events.iter().map(shown).collect()
}

#[test]
fn a_forged_name_ends_nobody_and_gives_nobody_a_reason() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    let forged = "bob/10.0.0.1:5 SIGTERM[soft,] received, client-instance exiting";
    let rows = [("bob", "10.0.0.1:5", 1), (forged, "6.6.6.6:6", 2)];
    listed(&mut agent, &mut talk, &rows, 0);
    for line in [
        format!("{forged}/6.6.6.6:6 Data Channel: cipher 'AES-256-GCM'"),
        format!("6.6.6.6:6 VERIFY OK: depth=0, CN={forged}"),
        format!("{forged}/6.6.6.6:6 SIGTERM[soft,] received, client-instance exiting"),
    ] {
        log(&mut agent, &mut talk, &line, 1);
    }
    assert_eq!(
        listed(&mut agent, &mut talk, &rows, 2),
        Vec::<String>::new(),
        "listed, so up"
    );
    listed(&mut agent, &mut talk, &rows[1..], 4);
    let ends = settled(&mut agent, 4);
    assert!(ends[0].contains("bob: unknown Inferred"), "{ends:?}");
}

#[test]
fn an_end_after_roaming_is_found_by_the_name_if_one_alone_has_it() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    let rows = [
        ("bob", "10.0.0.1:5", 1),
        ("eve", "10.0.0.2:5", 2),
        ("eve", "10.0.0.3:5", 3),
    ];
    listed(&mut agent, &mut talk, &rows, 0);
    let end = "SIGUSR1[soft,connection-reset] received, client-instance restarting";
    log(&mut agent, &mut talk, &format!("bob/10.0.0.9:9 {end}"), 1);
    log(&mut agent, &mut talk, &format!("eve/10.0.0.9:9 {end}"), 1);
    listed(&mut agent, &mut talk, &[], 2);
    let mut ends = settled(&mut agent, 2);
    ends.sort_by_key(|line| line[5..].to_owned());
    assert!(
        ends[0].contains("bob: connection_reset Observed"),
        "{ends:?}"
    );
    assert!(ends[1].contains("eve: unknown Inferred"), "{ends:?}");
}

#[test]
fn clients_that_share_a_label_get_a_reason_only_if_all_of_them_went() {
    let same = [("bob", "fd78::12", 1), ("bob", "fd78::12", 2)];
    let end = "bob/fd78::12 SIGTERM[soft,] received, client-instance exiting";
    for (told, reasons) in [(1, "unknown"), (2, "admin_kick")] {
        let mut agent = Agent::fresh();
        let mut talk = opened(&mut agent, None);
        listed(&mut agent, &mut talk, &same, 0);
        (0..told).for_each(|_| log(&mut agent, &mut talk, end, 1));
        let mut ends = listed(&mut agent, &mut talk, &[], 2);
        ends.extend(settled(&mut agent, 2));
        assert_eq!(ends.len(), 2);
        assert!(ends.iter().all(|line| line.contains(reasons)), "{ends:?}");
    }
}

#[test]
fn a_restart_of_the_agent_changes_nothing_and_one_of_the_daemon_ends_all() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    let row = [("bob", "10.0.0.1:5", 1)];
    assert_eq!(listed(&mut agent, &mut talk, &row, 0).len(), 1);
    let mut agent = agent.restarted();
    let mut talk = opened(&mut agent, None);
    assert_eq!(listed(&mut agent, &mut talk, &row, 0), Vec::<String>::new());
    let again = b">STATE:1795000999,CONNECTED,SUCCESS,10.8.0.1,,,,,\r\n";
    let ends = agent.feed(&mut talk, again, now(1)).unwrap();
    assert!(shown(&ends[0]).contains("bob: daemon_down Inferred"));
    assert_eq!(
        listed(&mut agent, &mut talk, &row, 2).len(),
        1,
        "a new session"
    );
}

#[test]
fn the_file_and_the_interface_tell_of_the_same_sessions() {
    let row = [("bob", "10.0.0.1:5", 1)];
    let table = || file::parse(&list(&row)).unwrap().unwrap();
    let mut out = Outcome::default();
    // The file first, over a restart of the agent, then the interface.
    let mut agent = Agent::fresh();
    agent.server.read_file(table(), now(0), &mut out);
    assert_eq!(agent.take(std::mem::take(&mut out), now(0)).len(), 1);
    let mut agent = agent.restarted();
    let mut talk = opened(&mut agent, None);
    assert_eq!(listed(&mut agent, &mut talk, &row, 1), Vec::<String>::new());
    // Then the file again.
    agent.server.read_file(table(), now(20), &mut out);
    assert_eq!(agent.take(out, now(20)), []);
}

#[test]
fn faults_end_the_talk() {
    let fault = |bytes: &[u8]| {
        let mut agent = Agent::fresh();
        let mut talk = opened(&mut agent, None);
        agent.feed(&mut talk, bytes, now(0)).unwrap_err()
    };
    assert_eq!(
        fault(b"ENTER PASSWORD:"),
        Fault::Garbage("a password prompt")
    );
    assert_eq!(fault(b"SUCCESS: what?\r\n"), Fault::Garbage("status 3"));
    assert_eq!(fault(b"OpenVPN STATISTICS\r\nEND\r\n"), Fault::NoServer);
    assert_eq!(fault(&[b'x'; 20_000]), Fault::LongLine);
    assert!(matches!(
        fault(b">HOLD:Waiting for hold release:0\r\n"),
        Fault::Claimed(_)
    ));
    let many: Vec<u8> = HEADER
        .bytes()
        .chain(b"CLIENT_LIST\tx\ty\t\t\t1\t2\t\t3\t\t4\n".repeat(20_000))
        .collect();
    assert_eq!(fault(&many), Fault::TooMuch);
}

#[test]
fn passwords_are_given_once_and_only_when_configured() {
    let prompt = |password: Option<&[u8]>| {
        let password = password.map(|text| zeroize::Zeroizing::new(text.to_vec()));
        let mut talk = Conversation::new(now(0), password);
        let result = talk.feed(b"ENTER PASSWORD:", now(0), &mut |_| {});
        (talk, result)
    };
    assert_eq!(prompt(None).1, Err(Fault::PasswordWanted));
    let (mut talk, result) = prompt(Some(b"sekret"));
    assert_eq!((result, &talk.take_send()[..]), (Ok(()), &b"sekret\n"[..]));
    let mut wrong = prompt(Some(b"sekret")).0;
    let again = wrong.feed(b"ENTER PASSWORD:", now(0), &mut |_| {});
    assert_eq!(again, Err(Fault::PasswordRefused));
    let right = [b"SUCCESS: password is correct\r\n", GREETING].concat();
    assert_eq!(talk.feed(&right, now(0), &mut |_| {}), Ok(()));
    assert!(talk.take_send().starts_with(b"state on\n"));
}

#[test]
fn daemons_that_say_nothing_are_left() {
    let mut talk = Conversation::new(now(0), None);
    assert_eq!(talk.tick(now(2)), Ok(()));
    assert_eq!(talk.tick(now(3)), Err(Fault::Taken));
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    // A list that never ends, however busily it goes on.
    for secs in 0..10 {
        agent
            .feed(&mut talk, b"GLOBAL_STATS\tx\t1\n", now(secs))
            .unwrap();
    }
    assert_eq!(talk.tick(now(10)), Err(Fault::Silent("status 3")));
}

#[test]
fn a_flood_of_notifications_asks_for_few_lists() {
    let mut agent = Agent::fresh();
    let mut talk = opened(&mut agent, None);
    agent.feed(&mut talk, &list(&[]), now(0)).unwrap();
    talk.take_send();
    let mut asked = 0;
    for millis in 0..10_000 {
        let now = now(0).after(Duration::from_millis(millis));
        agent
            .feed(&mut talk, b">CLIENT:ESTABLISHED,1\r\n", now)
            .unwrap();
        if talk.take_send().starts_with(b"status 3") {
            asked += 1;
            agent.feed(&mut talk, &list(&[]), now).unwrap();
        }
    }
    assert!((20..=40).contains(&asked), "{asked} lists in 10 s");
}

/// Lines like a daemon's, and garbage.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(b"SUCCESS: pid=5\r\n".to_vec()),
        Just(b"END\r\n".to_vec()),
        Just(b">STATE:1795000500,CONNECTED,SUCCESS,,,,,,\r\n".to_vec()),
        Just(b">STATE:1795000500,EXITING,x\r\n".to_vec()),
        Just(HEADER.as_bytes().to_vec()),
        Just(b"ENTER PASSWORD:".to_vec()),
        Just(
            b">LOG:1,,bob/10.0.0.1:5 SIGTERM[soft,] received, client-instance exiting\r\n".to_vec()
        ),
        Just(b">BYTECOUNT_CLI:1,5,6\r\n".to_vec()),
        Just(list(&[("bob", "10.0.0.1:5", 1)])),
        Just(list(&[])),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec(line, 0..40).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_mean_the_same(
        bytes in anything(),
        cuts in proptest::collection::vec(1usize..50, 1..40),
    ) {
        let play = |pieces: &mut dyn Iterator<Item = usize>| {
            let mut agent = Agent::fresh();
            let mut talk = opened(&mut agent, Some(b"x"));
            let mut events = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(pieces.next().unwrap_or(rest.len()).min(rest.len()));
                rest = after;
                match agent.feed(&mut talk, piece, now(1)) {
                    Ok(more) => events.extend(more),
                    Err(fault) => return (Vec::new(), Some(fault)),
                }
            }
            (events, None)
        };
        let whole = play(&mut std::iter::empty());
        let cut = play(&mut cuts.iter().copied().cycle());
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn any_status_file_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = [HEADER.as_bytes(), b"CLIENT_LIST\t", &bytes[..], b"\nEND\n"].concat();
        let _ = file::parse(&text);
        let _ = file::parse(&text.iter().map(|b| if *b == b'\t' { b',' } else { *b }).collect::<Vec<_>>());
        let _ = file::parse(&bytes);
        let _ = crate::vpn::openvpn::config::parse(&bytes, std::path::Path::new("/"));
        let said = crate::vpn::openvpn::log::parse(&bytes);
        if let Some(crate::vpn::openvpn::log::Said::Ended { reason: Reason::Unknown(text), .. }) = said {
            prop_assert!(text.is_ascii());
        }
    }
}
