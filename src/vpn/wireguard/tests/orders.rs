//! Ending sessions, over a real line and a real socket, of a daemon that obeys or does not.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
};

use super::{
    super::{ReadError, Settings, WireGuard, uapi, uapi_socket},
    *,
};
use crate::{
    core::sessions::{Reason, SessionKey},
    host::clock,
    vpn::{Backend as _, BackendDetails, Closed, Order, Orders, Report, Word, line},
};

/// What a daemon does when it is told to take peers out.
#[derive(Clone, Copy)]
enum Temper {
    Obeys,
    SaysYesOnly,
    Refuses,
}

/// A daemon with peers 1 to 4, all connected. Remembers what it was asked.
struct Daemon {
    path: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(dir: &Path, temper: Temper) -> Self {
        let path = dir.join("wg0.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let requests = asked.clone();
        // The same in every answer.
        let handshake_s = clock::now().wall_ms / 1000;
        let thread = thread::spawn(move || {
            let mut peers: Vec<u8> = vec![1, 2, 3, 4];
            loop {
                let (mut stream, _) = listener.accept().unwrap();
                let Some(request) = request(&mut stream) else {
                    return; // the test is over
                };
                let mut answer = String::from("errno=0\n\n");
                if request == "get=1\n\n" {
                    answer = text(&peers, handshake_s) + &answer;
                } else if matches!(temper, Temper::Obeys) {
                    peers.retain(|peer| !request.contains(&hex(*peer)));
                } else if matches!(temper, Temper::Refuses) {
                    answer = String::from("errno=1\n\n");
                }
                requests.lock().unwrap().push(request);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let thread = Some(thread);
        Self {
            path,
            asked,
            thread,
        }
    }

    /// The requests to change something.
    fn changes(&self) -> Vec<String> {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.retain(|request| request.starts_with("set"));
        asked
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(UnixStream::connect(&self.path));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn request(stream: &mut UnixStream) -> Option<String> {
    let mut request = String::new();
    while !request.ends_with("\n\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        request.push(char::from(byte[0]));
    }
    Some(request)
}

fn hex(peer: u8) -> String {
    format!("{peer:02x}").repeat(32)
}

fn text(peers: &[u8], handshake_s: i64) -> String {
    let peer = |peer: &u8| {
        format!(
            "public_key={}\nlast_handshake_time_sec={handshake_s}\nlast_handshake_time_nsec=1\n\
             rx_bytes=5\ntx_bytes=5\n",
            hex(*peer),
        )
    };
    let private = "d060f17ae7ad68df633204b985ca6352f5c1263e1a14c3231ddbe765ad89e771";
    let peers: String = peers.iter().map(peer).collect();
    format!("private_key={private}\nlisten_port=51820\n{peers}")
}

/// A reader that runs as in the agent.
struct Running {
    words: Receiver<Word>,
    orders: Option<Orders>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let settings = Settings {
            socket_dir: dir.to_owned(),
            kernel: false,
            reader: None,
            poll: Duration::from_secs(3600),
        };
        let (say, words) = channel();
        let (line, orders) =
            line(Box::new(move |word| say.send(word).map_err(|_| Closed))).unwrap();
        let reader = Box::new(WireGuard::new(settings, []));
        Self {
            words,
            orders: Some(orders),
            thread: Some(thread::spawn(move || reader.run(line))),
        }
    }

    fn seen(&self) -> Vec<Report> {
        match self.words.recv().unwrap() {
            Word::Seen(reports) => reports,
            done => panic!("{done:?}"),
        }
    }

    /// The keys of the sessions in the first look.
    fn sessions(&self) -> Vec<SessionKey> {
        let reports = self.seen();
        let all = reports.into_iter().flat_map(|report| report.obs);
        let all = all.flat_map(|obs| match obs {
            Obs::Snapshot { sessions, .. } => sessions,
            _ => Vec::new(),
        });
        all.map(|session| session.key).collect()
    }

    fn order(&self, id: u64, key: &SessionKey) {
        let order = Order {
            id,
            backend: wg0(),
            key: key.clone(),
        };
        assert!(self.orders.as_ref().unwrap().give(order));
    }

    /// What was seen until the order was answered, and the answer.
    fn done(&self, id: u64) -> (Vec<Obs>, Result<(), String>) {
        let mut seen = Vec::new();
        loop {
            match self.words.recv().unwrap() {
                Word::Seen(reports) => seen.extend(reports.into_iter().flat_map(|r| r.obs)),
                Word::Done { order, result } if order == id => return (seen, result),
                Word::Done { .. } => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn downs(seen: &[Obs]) -> Vec<(&SessionKey, &Reason)> {
    let downs = seen.iter().filter_map(|obs| match obs {
        Obs::Down { key, end } => Some((key, &end.reason)),
        _ => None,
    });
    downs.collect()
}

#[test]
fn the_request_is_the_one_that_wg_makes() {
    let request = String::from_utf8(uapi::remove_peers(&[[1; 32], [0xab; 32]])).unwrap();
    let expected = format!(
        "set=1\npublic_key={}\nremove=true\npublic_key={}\nremove=true\n\n",
        hex(1),
        hex(0xab)
    );
    assert_eq!(request, expected);
}

#[test]
fn an_order_is_done_when_the_daemon_does_not_list_the_peer_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), Temper::Obeys);
    let running = Running::start(dir.path());
    let sessions = running.sessions();
    assert_eq!(sessions.len(), 4);
    running.order(7, &sessions[1]);
    let (seen, result) = running.done(7);
    assert_eq!(result, Ok(()));
    assert_eq!(downs(&seen), [(&sessions[1], &Reason::PeerRemoved)]);
    assert_eq!(daemon.changes().len(), 1);
    // Once more: it is gone already, and nothing is asked of the daemon.
    running.order(8, &sessions[1]);
    let (seen, result) = running.done(8);
    assert_eq!((downs(&seen).len(), result), (0, Ok(())));
    assert_eq!(daemon.changes().len(), 1);
}

#[test]
fn a_later_session_of_the_same_peer_is_not_the_one_that_was_ordered_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), Temper::Obeys);
    let running = Running::start(dir.path());
    running.sessions();
    let former = SessionKey::WireGuard {
        public_key: [1; 32],
        incarnation: 0,
    };
    running.order(1, &former);
    assert_eq!(running.done(1).1, Ok(()));
    assert_eq!(daemon.changes(), [""; 0]);
}

#[test]
fn orders_that_wait_together_cost_one_removal() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), Temper::Obeys);
    let running = Running::start(dir.path());
    let sessions = running.sessions();
    // While nobody reads its words the reader goes on; orders are given before it can look.
    for (id, key) in sessions.iter().enumerate() {
        running.order(id as u64, key);
    }
    let mut ended = Vec::new();
    for id in 0..sessions.len() as u64 {
        let (seen, result) = running.done(id);
        assert_eq!(result, Ok(()));
        ended.extend(downs(&seen).into_iter().map(|(key, _)| key.clone()));
    }
    assert_eq!(ended, sessions);
    assert!(daemon.changes().len() <= sessions.len());
}

#[test]
fn a_daemon_that_only_says_yes_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = Daemon::start(dir.path(), Temper::SaysYesOnly);
    let running = Running::start(dir.path());
    let sessions = running.sessions();
    running.order(1, &sessions[0]);
    let (seen, result) = running.done(1);
    assert_eq!(downs(&seen), []);
    let why = result.unwrap_err();
    assert!(why.contains("wg0 still has the peer"), "{why}");
    assert!(!why.contains(&hex(1)), "{why}");
}

#[test]
fn a_daemon_that_refuses_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = Daemon::start(dir.path(), Temper::Refuses);
    let running = Running::start(dir.path());
    let sessions = running.sessions();
    running.order(1, &sessions[0]);
    let why = running.done(1).1.unwrap_err();
    assert!(why.contains("cannot take the peer out of wg0"), "{why}");
    assert!(why.contains("errno 1"), "{why}");
}

#[test]
fn a_daemon_that_hangs_over_a_removal_costs_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let limit = Duration::from_millis(100);
    let removed = uapi_socket::remove(&path, limit, &[[1; 32]], &mut [0; 4096]);
    assert!(
        matches!(removed, Err(ReadError::Deadline(100))),
        "{removed:?}"
    );
}

#[test]
fn a_session_of_an_interface_that_is_gone_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), Temper::Obeys);
    let running = Running::start(dir.path());
    let sessions = running.sessions();
    let path = daemon.path.clone();
    drop(daemon);
    std::fs::remove_file(path).unwrap();
    running.order(1, &sessions[0]);
    let (seen, result) = running.done(1);
    assert_eq!(result, Ok(()));
    assert_eq!(downs(&seen).len(), 4);
    assert!(
        downs(&seen)
            .iter()
            .all(|(_, reason)| **reason == Reason::InterfaceDown)
    );
}

#[test]
fn what_the_interface_offers_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = Daemon::start(dir.path(), Temper::Obeys);
    let running = Running::start(dir.path());
    let first = running.seen();
    let details = BackendDetails {
        version: None,
        interface: Some("wg0".to_owned()),
        port: Some(51820),
        public_key: Some("1fObsgWPmCwbMtgG4JpKHfAT8WhzgwJKs5CoEQ8wYgc=".to_owned()),
    };
    assert_eq!(first[0].details, Some(details));
    let gone = SessionKey::WireGuard {
        public_key: [9; 32],
        incarnation: 1,
    };
    running.order(1, &gone);
    let Word::Seen(again) = running.words.recv().unwrap() else {
        panic!("an order looks first");
    };
    assert_eq!(again[0].details, None);
}
