//! Answers of all kinds, good and bad, over a real socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use proptest::prelude::*;

use super::*;
use crate::clock::SystemClock;

/// Asks a server that answers once with these bytes.
fn answered(bytes: Vec<u8>) -> Result<Report, Silence> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap())
            .read_line(&mut line)
            .unwrap();
        // A client that has heard enough closes: then this fails.
        let _ = stream.write_all(&bytes);
        line
    });
    let answer = ask(&path, Some(std::process::id()), ANSWER_WITHIN, &SystemClock);
    assert_eq!(server.join().unwrap(), "{\"v\":1,\"get\":\"status\"}\n");
    answer
}

fn full(report: &str) -> Result<Report, Silence> {
    answered(format!("{{\"v\":1,\"scope\":\"full\",\"ok\":{report}}}\n").into_bytes())
}

#[test]
fn a_report_is_read_and_what_is_unknown_is_passed_over() {
    let report = full(
        r#"{"schema":1,"version":"1.5.0","running_from":"1.5.0","new":{"x":[1]},"enrolled":true,
        "age_s":2,"backends":[{"kind":"wireguard","instance":"wg0","state":"up","sessions":3,"y":1}],
        "heartbeats":{"attempted":4,"accepted":3,"last_problem":"busy","z":0},
        "last_heartbeat":{"at_ms":1,"seconds_ago":5,"accepted":true,"last_error":"429"},
        "ledger":{"gaps":0,"quarantined":0,"error":null,"writable":true}}"#
            .replace('\n', "")
            .as_str(),
    )
    .unwrap();
    assert!(report.is_version(&Version::new(1, 5, 0)) && report.ledger_works());
    assert_eq!(report.backends[0].sessions, 3);
    assert_eq!(report.contact(), Contact::Accepted);
    assert!(!report.in_touch(), "the latest attempt failed");
}

#[test]
fn answers_without_a_report_say_why() {
    let garbage = |bytes: &[u8], word: &str| match answered(bytes.to_vec()) {
        Err(Silence::Garbage(why)) => assert!(why.contains(word), "{why}"),
        other => panic!("{other:?}"),
    };
    garbage(b"\n", "not understood");
    garbage(b"{\"v\":2,\"scope\":\"full\",\"ok\":{}}\n", "protocol 2");
    garbage(b"{\"v\":1,\"scope\":\"full\"", "closed");
    garbage(
        b"{\"v\":1,\"error\":{\"code\":\"busy\",\"message\":\"x\"}}\n",
        "busy",
    );
    garbage(
        b"{\"v\":1,\"scope\":\"public\",\"ok\":{\"version\":\"1.5.0\"}}\n",
        "every user",
    );
    garbage(&vec![b' '; MAX_ANSWER_BYTES + 1], "more than");
    let nowhere = ask(
        Path::new("/nonexistent/x"),
        None,
        ANSWER_WITHIN,
        &SystemClock,
    );
    assert!(matches!(nowhere, Err(Silence::Nobody(_))), "{nowhere:?}");
}

#[test]
fn a_silent_socket_costs_the_time_that_it_is_given_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let before = SystemClock.now().boot;
    let within = Duration::from_millis(50);
    let answer = ask(&path, None, within, &SystemClock);
    assert_eq!(answer, Err(Silence::Timeout));
    assert!(SystemClock.now().boot - before < ANSWER_WITHIN);
}

#[test]
fn another_process_behind_the_socket_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let found = std::process::id();
    let answer = ask(&path, Some(found + 1), ANSWER_WITHIN, &SystemClock);
    assert_eq!(
        answer,
        Err(Silence::Other {
            wanted: found + 1,
            found
        })
    );
}

#[test]
fn the_slot_decides_over_the_programs_own_word() {
    let report = |version: &str, from: Option<&str>| Report {
        version: version.into(),
        running_from: from.map(str::to_owned),
        ..Report::default()
    };
    let wanted = Version::new(1, 5, 0);
    for (version, from, is) in [
        ("1.5.0", None, true),
        ("1.4.0", None, false),
        ("1.5.0", Some("system"), true),
        ("0.1.0", Some("1.5.0"), true),
        ("0.1.0", Some("/opt/vpn-node/versions/1.5.0"), true),
        ("1.5.0", Some("1.4.0"), false),
        ("1.5.0", Some("/opt/vpn-node/versions/11.5.0"), false),
        ("nonsense", None, false),
    ] {
        assert_eq!(
            report(version, from).is_version(&wanted),
            is,
            "{version} {from:?}"
        );
    }
}

#[test]
fn heartbeats_are_understood_with_counts_and_without() {
    let counted = |attempted, accepted, problem: Option<&str>| {
        Report {
            heartbeats: Some(Heartbeats {
                attempted,
                accepted,
                last_problem: problem.map(str::to_owned),
            }),
            ..Report::default()
        }
        .contact()
    };
    assert_eq!(counted(0, 0, None), Contact::NotTried);
    assert_eq!(counted(1, 0, None), Contact::Unreachable);
    assert_eq!(counted(1, 0, Some("busy")), Contact::Busy);
    assert_eq!(counted(1, 0, Some("refused")), Contact::Refused);
    assert_eq!(counted(5, 1, Some("unreachable")), Contact::Accepted);
    let told = |at_ms, accepted, error: Option<&str>| {
        Report {
            last_heartbeat: LastHeartbeat {
                at_ms,
                accepted,
                last_error: error.map(str::to_owned),
            },
            ..Report::default()
        }
        .contact()
    };
    assert_eq!(told(None, None, None), Contact::NotTried);
    assert_eq!(told(None, None, Some("no route")), Contact::Unreachable);
    assert_eq!(told(None, Some(false), Some("revoked")), Contact::Refused);
    assert_eq!(told(Some(1), Some(true), None), Contact::Accepted);
}

#[test]
fn memory_is_that_of_the_process() {
    let own = memory(std::process::id()).unwrap();
    assert!((1 << 19..1 << 32).contains(&own), "{own}");
    assert_eq!(memory(u32::MAX), None);
    assert_eq!(
        parse_memory("VmRSS:\t  10 kB\nVmSwap:\t 2 kB\n"),
        Some(12 * 1024)
    );
    assert_eq!(parse_memory("Name:\tx\n"), None, "a zombie has none");
}

proptest! {
    #[test]
    fn no_line_makes_the_parser_panic(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&line);
    }
}
