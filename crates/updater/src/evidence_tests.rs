//! Answers of all kinds, good and bad, over a real socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::clock::SystemClock;

fn host() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    fs::create_dir_all(layout.agent_state()).unwrap();
    fs::create_dir_all(layout.status_socket().parent().unwrap()).unwrap();
    (dir, layout)
}

/// Asks a server that answers once with these bytes.
fn answered(bytes: Vec<u8>) -> Result<Report, Silence> {
    let (_dir, layout) = host();
    let path = layout.status_socket();
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
    let answer = ask(
        &layout,
        Some(std::process::id()),
        ANSWER_WITHIN,
        &SystemClock,
    );
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
    let nowhere = Layout::new("/nonexistent");
    let nowhere = ask(&nowhere, None, ANSWER_WITHIN, &SystemClock);
    assert!(matches!(nowhere, Err(Silence::Nobody(_))), "{nowhere:?}");
}

#[test]
fn a_silent_socket_costs_the_time_that_it_is_given_and_no_more() {
    let (_dir, layout) = host();
    let path = layout.status_socket();
    let _silent = UnixListener::bind(&path).unwrap();
    let before = SystemClock.now().boot;
    let within = Duration::from_millis(50);
    let answer = ask(&layout, None, within, &SystemClock);
    assert_eq!(answer, Err(Silence::Timeout));
    assert!(SystemClock.now().boot - before < ANSWER_WITHIN);
}

#[test]
fn another_process_behind_the_socket_is_not_believed() {
    let (_dir, layout) = host();
    let path = layout.status_socket();
    let _listener = UnixListener::bind(&path).unwrap();
    let found = std::process::id();
    let answer = ask(&layout, Some(found + 1), ANSWER_WITHIN, &SystemClock);
    assert_eq!(
        answer,
        Err(Silence::Other {
            wanted: found + 1,
            found
        })
    );
}

/// The agent's user may put anything in its place.
#[test]
fn only_a_socket_of_the_agents_is_spoken_to() {
    let (dir, layout) = host();
    let path = layout.status_socket();
    let why = |layout: &Layout| match ask(layout, None, ANSWER_WITHIN, &SystemClock) {
        Err(Silence::Foreign(why)) => why,
        other => panic!("{other:?}"),
    };
    let other = dir.path().join("docker.sock");
    let listener = UnixListener::bind(&other).unwrap();
    listener.set_nonblocking(true).unwrap();
    symlink(&other, &path).unwrap();
    assert!(why(&layout).contains("no socket"), "a link to a socket");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert!(why(&layout).contains("no socket"), "a file");
    fs::remove_file(&path).unwrap();

    let (run, elsewhere) = (
        dir.path().join("run/vpn-node"),
        dir.path().join("elsewhere"),
    );
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&other, elsewhere.join("status.sock")).unwrap();
    fs::remove_dir(&run).unwrap();
    symlink(&elsewhere, &run).unwrap();
    assert!(why(&layout).contains("no directory"), "a linked directory");
    let heard = listener.accept().unwrap_err();
    assert_eq!(heard.kind(), ErrorKind::WouldBlock, "nobody knocked there");
}

#[test]
fn what_belongs_to_another_user_is_not_spoken_to() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can give files away");
        return;
    }
    let (_dir, layout) = host();
    let path = layout.status_socket();
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let asked = || ask(&layout, None, Duration::from_millis(50), &SystemClock);
    let (agent, stranger) = (Some(4242), Some(4243));
    chown(&path, agent, None).unwrap();
    assert!(
        matches!(asked(), Err(Silence::Foreign(_))),
        "of whom is it?"
    );
    chown(layout.agent_state(), agent, None).unwrap();
    assert_eq!(
        asked(),
        Err(Silence::Timeout),
        "the agent's own, and root answers"
    );
    listener.accept().unwrap();
    chown(&path, stranger, None).unwrap();
    assert!(matches!(asked(), Err(Silence::Foreign(_))));
    assert!(listener.accept().is_err(), "nobody knocked there");
}

/// A child of this very test listens as another user, until its input ends.
#[test]
fn a_stranger_behind_the_agents_socket_is_not_spoken_to() {
    const PLACE: &str = "UPDATER_TEST_LISTENS_AT";
    if let Some(place) = std::env::var_os(PLACE) {
        let listener = UnixListener::bind(place).unwrap();
        listener.set_nonblocking(true).unwrap();
        println!("\nlistens");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "not a word");
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("only root can be several users");
        return;
    }
    let (dir, layout) = host();
    let path = layout.status_socket();
    let stranger = Some(4243);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(path.parent().unwrap(), stranger, None).unwrap();
    let name = "evidence::tests::a_stranger_behind_the_agents_socket_is_not_spoken_to";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(PLACE, &path)
        .uid(4243)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "listens"));
    chown(path.parent().unwrap(), Some(0), None).unwrap();
    chown(&path, Some(0), None).unwrap();
    let answer = ask(&layout, None, ANSWER_WITHIN, &SystemClock);
    let words = "user 4243 answers there".to_owned();
    assert_eq!(answer, Err(Silence::Foreign(words)));
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
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
