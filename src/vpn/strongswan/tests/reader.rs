//! The reader with real sockets: a charon that is not there, comes, dies, and comes again.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::{Settings, StrongSwan, backend_id};
use super::{fake::Sa, *};
use crate::core::sessions::{BackendId, Confidence, Reason, SessionKey};
use crate::vpn::{Order, Report};

struct Host {
    folder: TempDir,
    reader: StrongSwan,
    listener: Option<UnixListener>,
    sockets: Vec<(Side, UnixStream)>,
    answers: Vec<Answer>,
}

impl Host {
    fn new(expected: bool, left: Option<BackendId>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let vici = folder.path().join("charon.vici");
        let settings = Settings { vici, expected };
        Self {
            folder,
            reader: StrongSwan::new(settings, left),
            listener: None,
            sockets: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("charon.vici")
    }

    fn start(&mut self) {
        let _ = std::fs::remove_file(self.path());
        let listener = UnixListener::bind(self.path()).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.listener = Some(listener);
    }

    /// As after kill -9: nobody behind the socket file any more.
    fn crash(&mut self) {
        self.sockets.clear();
        self.listener = None;
    }

    fn turn(&mut self, now: Now) -> Report {
        let mut seen = Report {
            backend: backend_id(),
            obs: Vec::new(),
            details: None,
        };
        self.reader.turn(now, &mut seen, &mut self.answers);
        seen
    }

    /// Lets both speak until they are quiet, and tells what was seen.
    fn serve(&mut self, charon: &mut Charon, now: Now) -> Report {
        let mut all = self.turn(now);
        loop {
            while let Some(Ok((socket, _))) = self.listener.as_ref().map(UnixListener::accept) {
                socket.set_nonblocking(true).unwrap();
                // The events' socket is opened first.
                let side = if self.sockets.is_empty() {
                    Side::Events
                } else {
                    Side::Commands
                };
                self.sockets.push((side, socket));
            }
            let mut quiet = true;
            for (side, socket) in &mut self.sockets {
                let mut buffer = [0; 4096];
                let read = match socket.read(&mut buffer) {
                    Ok(read) => read,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(error) => panic!("{error}"),
                };
                let said = charon.hear(*side, &buffer[..read]);
                quiet &= read == 0 && said.is_empty();
                socket.write_all(&said).unwrap();
            }
            let seen = self.turn(now);
            all.obs.extend(seen.obs);
            all.details = all.details.or(seen.details);
            if quiet {
                return all;
            }
        }
    }
}

/// The kinds of observations, in short.
fn words(report: &Report) -> Vec<String> {
    let word = |obs: &Obs| match obs {
        Obs::Reset { .. } => "reset".to_owned(),
        Obs::Snapshot {
            epoch, sessions, ..
        } => {
            let life = if *epoch == 0 { "none" } else { "some" };
            format!("{life} {}", sessions.len())
        }
        Obs::Up(_) => "up".to_owned(),
        Obs::Update(_) => "update".to_owned(),
        Obs::Rekey { .. } => "rekey".to_owned(),
        Obs::Down { end, .. } => {
            assert_eq!(end.confidence, Confidence::Observed);
            format!("down {} at {}", end.reason.code(), end.at.boot.as_millis())
        }
        Obs::Unavailable { error, .. } => error.split(": ").nth(1).unwrap().to_owned(),
    };
    report.obs.iter().map(word).collect()
}

#[test]
fn a_host_without_strongswan_never_hears_of_it() {
    let mut host = Host::new(false, None);
    for secs in [0, 5, 10] {
        assert!(words(&host.turn(at(secs * 1000))).is_empty());
    }
    assert_eq!(host.reader.deadline(), at(15_000).boot);
}

#[test]
fn one_that_is_configured_or_left_connections_is_missed() {
    let mut host = Host::new(true, None);
    assert_eq!(words(&host.turn(at(0))), ["charon does not run"]);
    let mut host = Host::new(false, Some(backend_id()));
    assert_eq!(words(&host.turn(at(0))), ["none 0", "charon does not run"]);
}

#[test]
fn it_comes_dies_and_comes_again() {
    let mut host = Host::new(false, None);
    host.start();
    let mut charon = Charon::with([Sa::up(1, "a")]);
    let seen = host.serve(&mut charon, at(1000));
    assert_eq!(words(&seen), ["reset", "some 1"]);
    let details = seen.details.unwrap();
    assert_eq!(
        (details.version.as_deref(), details.port),
        (Some("5.9.8"), Some(500))
    );
    charon.comes(Sa::up(2, "b"));
    assert_eq!(words(&host.serve(&mut charon, at(2000))), ["up"]);

    host.crash();
    assert!(words(&host.turn(at(3000))).is_empty());
    let gone = [
        "down daemon_down at 3000",
        "down daemon_down at 3000",
        "some 0",
    ];
    let seen = words(&host.turn(at(4000)));
    assert_eq!(seen[..3], gone);
    assert_eq!(seen[3], "charon does not run");

    host.start();
    let mut charon = Charon::with([Sa::up(1, "a")]);
    assert!(words(&host.turn(at(8000))).is_empty(), "too early");
    let seen = host.serve(&mut charon, at(9000));
    assert_eq!(words(&seen), ["reset", "some 1"]);
}

#[test]
fn a_restart_between_two_looks_ends_what_was_up() {
    let mut host = Host::new(false, None);
    host.start();
    host.serve(&mut Charon::with([Sa::up(1, "a")]), at(1000));
    host.crash();
    host.start();
    let mut seen = words(&host.turn(at(3000)));
    seen.extend(words(&host.serve(&mut Charon::default(), at(4000))));
    assert_eq!(seen, ["down daemon_down at 3000", "reset", "some 0"]);
}

#[test]
fn a_closed_connection_to_the_same_charon_ends_nothing() {
    let mut host = Host::new(false, None);
    host.start();
    let mut charon = Charon::with([Sa::up(1, "a")]);
    host.serve(&mut charon, at(1000));
    host.sockets.clear();
    charon.framers = Default::default();
    let mut seen = words(&host.turn(at(3000)));
    seen.extend(words(&host.serve(&mut charon, at(4000))));
    assert_eq!(seen, ["reset", "some 1"]);
}

#[test]
fn nonsense_is_told_and_tried_again_later_and_later() {
    let mut host = Host::new(false, None);
    host.start();
    let mut seen = Vec::new();
    let mut times = Vec::new();
    for secs in 0..40 {
        seen.extend(words(&host.turn(at(secs * 1000))));
        while let Some(Ok((mut socket, _))) = host.listener.as_ref().map(UnixListener::accept) {
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
            times.push(secs);
            host.sockets.push((Side::Events, socket));
        }
    }
    times.dedup();
    // It fails a second after each attempt here, and waits 1, 2, 4, 8, 16 s then.
    assert_eq!(times, [0, 2, 5, 10, 19, 36]);
    let what = "charon announced a packet of 1213486160 bytes, which is no VICI (of a packet the first 524288 bytes are read)";
    assert!(seen.iter().all(|seen| seen == what), "{seen:?}");
}

#[test]
fn orders_reach_charon_or_are_refused() {
    let mut host = Host::new(false, None);
    let order = |id, key| Order {
        id,
        backend: backend_id(),
        key,
    };
    let mine = order(7, SessionKey::Ike { unique_id: 1 });
    let (id, refused) = host.reader.order(&mine, at(0)).unwrap();
    assert_eq!(
        (id, refused),
        (7, Err("charon cannot be reached".to_owned()))
    );
    host.start();
    let mut charon = Charon::with([Sa::up(1, "a")]);
    host.serve(&mut charon, at(1000));
    assert_eq!(host.reader.order(&mine, at(2000)), None);
    let seen = host.serve(&mut charon, at(2000));
    assert_eq!(host.answers, [(7, Ok(()))]);
    let reasons = seen.obs.iter().filter_map(|obs| match obs {
        Obs::Down { end, .. } => Some(end.reason.clone()),
        _ => None,
    });
    assert_eq!(reasons.collect::<Vec<_>>(), [Reason::AdminKick]);
    let others = order(8, SessionKey::Ocserv { id: 1, since: 1 });
    assert!(host.reader.order(&others, at(3000)).unwrap().1.is_err());
}
