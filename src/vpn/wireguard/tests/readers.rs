//! The readers against daemons that misbehave, over real sockets.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread::{self, JoinHandle},
};

use super::{
    super::{ReadError, Settings, WireGuard, uapi::UapiError, uapi_socket},
    *,
};
use crate::{
    core::sessions::{BackendStatus, Reason, What},
    host::clock,
    vpn::{Report, health::Health},
};

/// For daemons that answer: no limit of the product's, so that a busy machine is no deadline.
const PATIENT: Duration = Duration::from_secs(60);
/// For a daemon that says nothing: each test that uses it lasts as long.
const LIMIT: Duration = Duration::from_millis(150);
/// For one that falls silent: what it has said before must have come by then.
const STALLED: Duration = Duration::from_secs(2);

/// A daemon that answers one connection with `speak`, and then closes it.
fn daemon(path: &Path, speak: impl FnOnce(&mut UnixStream) + Send + 'static) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 7];
        stream.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"get=1\n\n");
        speak(&mut stream);
    })
}

fn read(path: &Path) -> (Result<(), ReadError>, Vec<PeerReading>, Vec<u8>) {
    read_within(PATIENT, path)
}

fn read_within(limit: Duration, path: &Path) -> (Result<(), ReadError>, Vec<PeerReading>, Vec<u8>) {
    let mut buffer = vec![0; 4096];
    let mut peers = Vec::new();
    let mut sink = |peer: &PeerReading| peers.push(peer.clone());
    let result = uapi_socket::read(path, limit, false, &mut buffer, &mut sink).map(drop);
    (result, peers, buffer)
}

const TWO: &str = include_str!("../../../../tests/fixtures/wg/uapi-get-01-two-connected.txt");

#[test]
fn an_answer_is_read_whole_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let daemon = daemon(&path, |stream| {
        stream.write_all(&TWO.as_bytes()[..50]).unwrap();
        stream.write_all(&TWO.as_bytes()[50..]).unwrap();
    });
    let (result, peers, buffer) = read(&path);
    daemon.join().unwrap();
    result.unwrap();
    assert_eq!(peers.len(), 3);
    assert!(
        buffer.iter().all(|byte| *byte == 0),
        "keys stay in the buffer"
    );
}

#[test]
fn a_daemon_that_stalls_within_a_line_costs_the_deadline_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let daemon = daemon(&path, |stream| {
        stream.write_all(&TWO.as_bytes()[..700]).unwrap();
        // Until the agent hangs up.
        let _ = stream.read(&mut [0]);
    });
    let (result, peers, _) = read_within(STALLED, &path);
    daemon.join().unwrap();
    assert!(
        matches!(result, Err(ReadError::Deadline(2000))),
        "{result:?}"
    );
    assert_eq!(peers.len(), 1, "what was whole");
}

#[test]
fn a_daemon_that_never_stops_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let daemon = daemon(
        &path,
        |stream| {
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        },
    );
    let (result, ..) = read(&path);
    daemon.join().unwrap();
    assert!(
        matches!(result, Err(ReadError::Uapi(UapiError::TooLarge { .. }))),
        "{result:?}"
    );
}

#[test]
fn a_line_of_64_kib_is_refused_when_it_is_known_to_be_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let before = TWO.find("allowed_ip=10.99.0.3").unwrap();
    let daemon = daemon(&path, move |stream| {
        let line = [b"key_of_the_future=", &[b'x'; 64 << 10][..], b"\n"].concat();
        // The agent may hang up before all of it is taken.
        let _ = stream.write_all(&[&TWO.as_bytes()[..before], &line].concat());
    });
    let (result, peers, buffer) = read(&path);
    daemon.join().unwrap();
    let limit = crate::vpn::wireguard::uapi::MAX_LINE;
    let what = "bytes in one line";
    assert!(
        matches!(&result, Err(ReadError::Uapi(error)) if *error == UapiError::TooLarge { limit, what }),
        "{result:?}"
    );
    assert_eq!(peers.len(), 1);
    assert!(buffer.iter().all(|byte| *byte == 0));
}

#[test]
fn a_daemon_that_closes_early_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let daemon = daemon(&path, |stream| {
        stream.write_all(&TWO.as_bytes()[..700]).unwrap();
    });
    let (result, ..) = read(&path);
    daemon.join().unwrap();
    assert!(
        matches!(result, Err(ReadError::Uapi(UapiError::Cut(700)))),
        "{result:?}"
    );
}

#[test]
fn a_daemon_that_does_not_accept_cannot_hold_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let result = read_within(LIMIT, &path).0;
    assert!(
        matches!(result, Err(ReadError::Deadline(150))),
        "{result:?}"
    );
    drop(listener);
    assert!(matches!(read(&path).0, Err(ReadError::Gone(_))));
}

fn reduce(agent: &mut Agent, reports: Vec<Report>) -> Vec<SessionEvent> {
    let mut events = Vec::new();
    for report in reports {
        assert_eq!(report.backend, wg0());
        events.extend(agent.reduce(clock::now(), report.obs));
    }
    events
}

fn settings(dir: &Path) -> Settings {
    Settings {
        socket_dir: dir.to_owned(),
        kernel: false,
        reader: None,
        poll: Duration::from_secs(5),
    }
}

#[test]
fn a_life_of_an_interface_from_socket_to_events() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let mut wireguard = WireGuard::new(settings(dir.path()), []);
    let mut agent = Agent::fresh();
    let mut poll = |wireguard: &mut WireGuard| reduce(&mut agent, wireguard.poll(clock::now()));
    assert_eq!(poll(&mut wireguard), []);

    let secs = clock::now().wall_ms / 1000;
    let text = TWO.replace("1795310218", &secs.to_string());
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        for answer in [text.as_str(), "not WireGuard\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 7]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let started = poll(&mut wireguard);
    assert_eq!(started.len(), 2);
    assert_eq!(poll(&mut wireguard), [], "garbage ends nothing");
    server.join().unwrap();

    // Nobody listens any more: the daemon was killed.
    let ended = poll(&mut wireguard);
    assert_eq!(ended.len(), 2);
    for event in ended {
        let What::End(end) = event.what else {
            panic!("{event:?}");
        };
        assert_eq!(end.reason, Reason::InterfaceDown);
    }
    let status: Vec<BackendStatus<'_>> = agent.reducer.backends().collect();
    assert!(status[0].unavailable.unwrap().0.contains("gone"));
}

/// A daemon behind a socket of its own, which answers so often.
fn answers(path: &Path, times: usize, text: String) -> JoinHandle<()> {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 7]).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
        }
    })
}

#[test]
fn a_daemon_that_started_again_has_ended_all_sessions_and_needs_new_handshakes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let secs = clock::now().wall_ms / 1000;
    let shaken = TWO.replace("1795310218", &secs.to_string());
    let never = shaken.replace(&format!("_sec={secs}"), "_sec=0");
    let never = never
        .replace("nsec=90579966", "nsec=0")
        .replace("nsec=42389206", "nsec=0");
    let mut wireguard = WireGuard::new(settings(dir.path()), []);
    let mut agent = Agent::fresh();
    let mut life = |text: &String| {
        let daemon = answers(&path, 1, text.clone());
        let events = reduce(&mut agent, wireguard.poll(clock::now()));
        daemon.join().unwrap();
        events
    };
    assert_eq!(life(&shaken).len(), 2);
    let reasons: Vec<Reason> = life(&never)
        .into_iter()
        .filter_map(|event| match event.what {
            What::End(end) => Some(end.reason),
            _ => None,
        })
        .collect();
    assert_eq!(reasons, [Reason::InterfaceDown, Reason::InterfaceDown]);
    let again = life(&shaken);
    assert!(again.iter().all(|event| event.what == What::Start));
    assert_eq!(again.len(), 2);
}

#[test]
fn an_interface_that_vanished_while_the_agent_was_away_ends_its_connections() {
    let mut agent = Agent::fresh();
    agent.poll(at(1000), true, &[peer(1, 999, 1, 1)]);
    let kept = agent.reducer.persistable();
    let mut agent = Agent::new(HandshakeClock::Guess, kept, Uuid::nil(), 1);
    let dir = tempfile::tempdir().unwrap();
    let expected: Vec<_> = agent.reducer.unconfirmed_backends().cloned().collect();
    let mut wireguard = WireGuard::new(settings(dir.path()), expected);
    let ended = reduce(&mut agent, wireguard.poll(clock::now()));
    assert!(matches!(
        &ended[..],
        [SessionEvent {
            what: What::End(_),
            ..
        }]
    ));
    assert_eq!(agent.reducer.persistable(), []);
}

#[test]
fn the_kernel_answers_or_says_why_not() {
    let settings = Settings {
        socket_dir: "/nonexistent".into(),
        kernel: true,
        reader: None,
        poll: Duration::from_secs(5),
    };
    let mut wireguard = WireGuard::new(settings, []);
    for report in wireguard.poll(clock::now()) {
        assert!(!report.obs.is_empty());
    }
    assert!(!wireguard.discovery.iter().any(Health::fails));
}
