//! The thin reader against daemons that are played: taken, hostile, restarted, and several at once.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use super::*;
use crate::core::sessions::SessionKey;
use crate::vpn::openvpn::{OpenVpn, Places, Settings};
use crate::vpn::{Address, Backend as _, Closed, Order, Orders, Word, line};

/// What a test waits for at most; only a failure takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

struct Rig {
    folder: tempfile::TempDir,
    words: Receiver<Word>,
    orders: Orders,
}

impl Rig {
    /// Reads the sockets of these names, and the status files that the second list names.
    fn watching(folder: tempfile::TempDir, names: &[&str], files: &[&str]) -> Self {
        let path = |name: &&str| folder.path().join(name);
        let nowhere = PathBuf::from("/nonexistent");
        let settings = Settings {
            management: Some(names.iter().map(path).map(Address::Unix).collect()),
            password_file: None,
            status_files: Some(files.iter().map(path).collect()),
            places: Places {
                server_configs: nowhere.clone(),
                configs: nowhere.clone(),
                server_status: nowhere.clone(),
                status: nowhere,
            },
        };
        Self::reading(folder, settings)
    }

    fn reading(folder: tempfile::TempDir, settings: Settings) -> Self {
        let (tell, words) = channel();
        let (line, orders) =
            line(Box::new(move |word| tell.send(word).map_err(|_| Closed))).unwrap();
        thread::spawn(move || Box::new(OpenVpn::new(settings, [])).run(line));
        Self {
            folder,
            words,
            orders,
        }
    }

    /// The first observation of `instance` that `wanted` is true of.
    fn sees(&self, instance: &str, wanted: impl Fn(&Obs) -> bool) -> Obs {
        loop {
            let word = self.words.recv_timeout(PATIENCE).expect("in time");
            let Word::Seen(reports) = word else { continue };
            for report in reports {
                if report.backend.instance == instance
                    && let Some(obs) = report.obs.into_iter().find(&wanted)
                {
                    return obs;
                }
            }
        }
    }

    fn sees_clients(&self, instance: &str, count: usize) {
        self.sees(
            instance,
            |obs| matches!(obs, Obs::Snapshot { sessions, .. } if sessions.len() == count),
        );
    }

    fn sees_failure(&self, instance: &str, words: &str) {
        self.sees(
            instance,
            |obs| matches!(obs, Obs::Unavailable { error, .. } if error.contains(words)),
        );
    }
}

/// A daemon with one client, for one connection after another.
fn daemon(path: &Path) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        serve(stream);
    })
}

fn serve(mut stream: UnixStream) {
    let (mut here, mut told) = (true, false);
    let mut asked = Vec::new();
    let mut buffer = [0; 1024];
    let _ = stream.write_all(b">INFO:OpenVPN Management Interface Version 5 -- x\r\n");
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        asked.extend_from_slice(&buffer[..read]);
        while let Some(end) = asked.iter().position(|byte| *byte == b'\n') {
            let command: Vec<u8> = asked.drain(..=end).collect();
            let answer: &[u8] = match command.trim_ascii_end() {
                b"version" => b"OpenVPN Version: OpenVPN 2.6.14 x\r\nEND\r\n",
                b"pid" => b"SUCCESS: pid=5\r\n",
                b"state" => b"1795000000,CONNECTED,SUCCESS,,,,,,\r\nEND\r\n",
                b"status 3" if here => {
                    b"HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\t\
                    Bytes Received\tBytes Sent\tConnected Since (time_t)\tClient ID\r\n\
                    CLIENT_LIST\tbob\t10.0.0.1:5\t10.8.0.2\t1\t2\t1795000900\t4\r\nEND\r\n"
                }
                b"status 3" => b"HEADER\tCLIENT_LIST\tCommon Name\tReal Address\r\nEND\r\n",
                b"client-kill 4 HALT" => {
                    told = true;
                    b"SUCCESS: client-kill command succeeded\r\n"
                }
                b"kill 10.0.0.1:5" if told => {
                    here = false;
                    b"SUCCESS: 1 client(s) at address 10.0.0.1:5 killed\r\n"
                }
                b"exit" => return,
                _ => b"SUCCESS: ok\r\n",
            };
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    }
}

#[test]
fn an_order_goes_to_the_daemon_and_comes_back_done() {
    let folder = tempfile::tempdir().unwrap();
    daemon(&folder.path().join("site.sock"));
    let rig = Rig::watching(folder, &["site.sock"], &[]);
    rig.sees_clients("site", 1);
    let order = |id, instance: &str| Order {
        id,
        backend: BackendId {
            kind: BackendKind::OpenVpn,
            instance: instance.to_owned(),
        },
        key: SessionKey::OpenVpn {
            cid: 4,
            connected_since: 1_795_000_900,
        },
    };
    assert!(rig.orders.give(order(7, "site")));
    let done = loop {
        if let Word::Done { order, result } = rig.words.recv_timeout(PATIENCE).unwrap() {
            break (order, result);
        }
    };
    assert_eq!(done, (7, Ok(())));
    assert!(rig.orders.give(order(8, "nowhere")));
    let refused = loop {
        if let Word::Done { order, result } = rig.words.recv_timeout(PATIENCE).unwrap() {
            break (order, result.is_err());
        }
    };
    assert_eq!(refused, (8, true));
}

#[test]
fn a_daemon_that_is_gone_takes_its_clients_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let rig = Rig::watching(folder, &["site.sock"], &[]);
    let (stream, _) = listener.accept().unwrap();
    let copy = stream.try_clone().unwrap();
    thread::spawn(move || serve(stream));
    rig.sees_clients("site", 1);
    drop(listener);
    copy.shutdown(std::net::Shutdown::Both).unwrap();
    rig.sees("site", |obs| matches!(obs, Obs::Down { .. }));
    rig.sees_failure("site", "does not run");
    // It comes back.
    std::fs::remove_file(&path).unwrap();
    daemon(&path);
    rig.sees_clients("site", 1);
}

#[test]
fn a_taken_interface_leaves_the_status_file() {
    let folder = tempfile::tempdir().unwrap();
    // Accepts in the kernel only, as while another program is served.
    let _listener = UnixListener::bind(folder.path().join("site.sock")).unwrap();
    let file = folder.path().join("status-site.log");
    std::fs::write(
        &file,
        include_str!("../../../../tests/fixtures/openvpn/status-3.txt"),
    )
    .unwrap();
    let rig = Rig::watching(folder, &["site.sock"], &["status-site.log"]);
    rig.sees_clients("site", 1);
    assert!(rig.folder.path().exists());
}

#[test]
fn a_fifo_as_password_file_holds_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("password");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let socket = folder.path().join("site.sock");
    daemon(&socket);
    std::fs::write(
        folder.path().join("site.conf"),
        format!(
            "server 10.8.0.0 255.255.255.0\nmanagement {} unix {}\n",
            socket.display(),
            fifo.display()
        ),
    )
    .unwrap();
    let settings = |password_file| Settings {
        management: None,
        password_file,
        status_files: None,
        places: Places {
            server_configs: folder.path().to_owned(),
            configs: "/nonexistent".into(),
            server_status: folder.path().to_owned(),
            status: "/nonexistent".into(),
        },
    };
    let (own, servers) = (settings(Some(fifo.clone())), settings(None));
    // The agent's own is to be mended first.
    let rig = Rig::reading(folder, own);
    rig.sees_failure("site", "password\": it is not a regular file;");
    // The server's is only tried.
    Rig::reading(rig.folder, servers).sees_clients("site", 1);
}

#[test]
fn hostile_daemons_harm_no_other() {
    let folder = tempfile::tempdir().unwrap();
    // Floods, for ever; says garbage; asks for a password; stops in the middle of a line.
    let floods = UnixListener::bind(folder.path().join("flood.sock")).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = floods.accept() {
            let _ = stream.write_all(b">INFO:OpenVPN Management Interface Version 5\n");
            while stream.write_all(&b">LOG:1,,x\n".repeat(1000)).is_ok() {}
        }
    });
    for (name, words) in [
        ("garbage.sock", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
        ("password.sock", b"ENTER PASSWORD:"),
        ("stalled.sock", b">INFO:OpenVPN Manage"),
    ] {
        let listener = UnixListener::bind(folder.path().join(name)).unwrap();
        thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(words);
                kept.push(stream);
            }
        });
    }
    daemon(&folder.path().join("site.sock"));
    let names = [
        "flood.sock",
        "garbage.sock",
        "password.sock",
        "stalled.sock",
        "site.sock",
    ];
    let rig = Rig::watching(folder, &names, &[]);
    rig.sees_clients("site", 1);
    rig.sees_failure("stalled", "another program");
    // The flood is no answer.
    rig.sees_failure("flood", "did not answer");
}
