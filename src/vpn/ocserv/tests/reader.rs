//! The reader with child processes: an occtl of a few lines of shell.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};

use tempfile::TempDir;

use super::super::{Ocserv, Settings};
use super::*;
use crate::host::clock;
use crate::vpn::{Backend as _, Closed, Order, Orders, Word, line};

/// Prints the files that the test writes, and waits for the end of its input where it listens.
const OCCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
case "$*" in
    *--version*) echo "OpenConnect server control (occtl) version 1.1.6" ;;
    *"show events"*) cat events; exec cat > /dev/null ;;
    *"show status"*) cat status ;;
    *"--json show users"*) cat users ;;
    *"show users"*) cat table ;;
    *"disconnect id 13389"*) echo '[ ]' > users ;;
    *) exit 1 ;;
esac
"#;

struct Host {
    folder: TempDir,
    _listener: UnixListener,
}

impl Host {
    fn new(occtl: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("occtl", occtl);
        let program = folder.path().join("occtl");
        fs::set_permissions(program, fs::Permissions::from_mode(0o700)).unwrap();
        write("status", STATUS);
        write("users", USERS);
        write("events", "");
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        Self {
            folder,
            _listener: listener,
        }
    }

    fn reader(&self) -> Ocserv {
        let settings = Settings {
            socket: self.folder.path().join("socket"),
            expected: false,
        };
        let mut reader = Ocserv::new(settings, None);
        reader.occtl.program = self.folder.path().join("occtl");
        reader
    }
}

fn run(reader: Ocserv) -> (Orders, Receiver<Word>) {
    let (words, told) = channel();
    let tell = move |word| words.send(word).map_err(|_| Closed);
    let (line, orders) = line(Box::new(tell)).unwrap();
    std::thread::spawn(move || Box::new(reader).run(line));
    (orders, told)
}

#[test]
fn users_are_told_and_ended_by_order() {
    let host = Host::new(OCCTL);
    let (orders, told) = run(host.reader());
    let Word::Seen(reports) = told.recv().unwrap() else {
        panic!("no order was given");
    };
    let details = reports[0].details.as_ref().unwrap();
    assert_eq!(details.version.as_deref(), Some("1.1.6"));
    let Some(Obs::Snapshot { sessions, .. }) = reports[0].obs.last() else {
        panic!("no snapshot: {reports:?}");
    };
    let key = sessions[0].key.clone();
    let backend = backend_id();
    assert!(orders.give(Order {
        id: 9,
        backend,
        key
    }));
    let done = told.iter().find_map(|word| match word {
        Word::Done { order, result } => Some((order, result)),
        Word::Seen(_) => None,
    });
    assert_eq!(done, Some((9, Ok(()))));
    assert_eq!(
        fs::read_to_string(host.folder.path().join("users")).unwrap(),
        "[ ]\n"
    );
}

#[test]
fn names_beyond_ascii_are_read_from_the_table() {
    let host = Host::new(OCCTL);
    let write = |name: &str, text: String| fs::write(host.folder.path().join(name), text).unwrap();
    write("users", USERS.replace("erin", "m\\u00ff\\u00ffller"));
    write(
        "table",
        "   13389  müller  default    10.76.0.11\n".to_owned(),
    );
    let report = host.reader().look(clock::now());
    let sessions = report.obs.iter().find_map(|obs| match obs {
        Obs::Snapshot { sessions, .. } => Some(sessions),
        _ => None,
    });
    assert_eq!(
        sessions.unwrap()[0].identity,
        Identity::User("müller".into())
    );
}

#[test]
fn a_host_without_ocserv_never_hears_of_it() {
    let settings = Settings {
        socket: "/nonexistent/occtl.socket".into(),
        expected: false,
    };
    let mut reader = Ocserv::new(settings.clone(), None);
    assert!(reader.turn(clock::now()).unwrap().obs.is_empty());
    let mut reader = Ocserv::new(settings, Some(backend_id()));
    let seen = reader.turn(clock::now()).unwrap();
    assert!(matches!(seen.obs[0], Obs::Snapshot { epoch: 0, .. }));
    assert!(matches!(seen.obs[1], Obs::Unavailable { .. }));
}

#[test]
fn an_occtl_that_fails_or_talks_without_end_is_told() {
    let endless = "#!/bin/sh\nexec yes\n";
    for (occtl, said) in [
        ("#!/bin/sh\nexit 1\n", "occtl failed"),
        (endless, "in time"),
    ] {
        let host = Host::new(occtl);
        let seen = host.reader().turn(clock::now()).unwrap();
        let Some(Obs::Unavailable { error, .. }) = seen.obs.last() else {
            panic!("{seen:?}");
        };
        assert!(error.contains(said), "{error}");
    }
}
