//! The socket with real peers: honest, hostile and unprivileged.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};

use super::*;
use crate::core::report::{ConnectionRow, StatusReport, VerificationState};
use crate::host::clock;

/// A server on a thread of its own; dropping it stops it.
struct Served {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

/// The loop's side: the first rotation is begun, the next ones are under way.
async fn grant_all(wishes: &mut mpsc::Receiver<Wish>) {
    let mut begun = false;
    while let Some(Wish::RotateIdentity(answer)) = wishes.recv().await {
        let said = match std::mem::replace(&mut begun, true) {
            false => Ok(()),
            true => Err("a rotation is under way already".to_owned()),
        };
        let _ = answer.send(said);
    }
    std::future::pending().await
}

impl Served {
    fn with(report: StatusReport, policy: Policy, limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Other users must get to the socket in the test of the credentials.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("run/status.sock");
        let socket = StatusSocket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (sender, reports) = watch::channel(Arc::new(report));
                let (wishes, mut wished) = mpsc::channel(1);
                tokio::select! {
                    served = serve(socket, reports, wishes, policy, limits) => served.unwrap(),
                    () = grant_all(&mut wished) => {}
                    _ = stopped => drop(sender),
                }
            });
        });
        Self {
            path,
            stop: Some(stop),
            thread: Some(thread),
            _folder: folder,
        }
    }

    fn for_own_user(report: StatusReport) -> Self {
        Self::with(report, own_user(), Limits::default())
    }

    /// Sends raw bytes, ends the sending side, and reads all.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        read_all(&mut stream)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Reads to the end; a reset after the answer counts as its end.
fn read_all(stream: &mut UnixStream) -> String {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        all.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8(all).unwrap()
}

fn own_user() -> Policy {
    Policy::new(nix::unistd::geteuid().as_raw(), None, Vec::new())
}

fn report() -> StatusReport {
    let mut report = StatusReport::starting("1.2.3", "gw-1", 42, clock::now().boot);
    report.enrolled = true;
    report.server_id = Some("secret-id".into());
    report.connections = Arc::new(
        (0..3)
            .map(|index| ConnectionRow {
                id: format!("id-{index}"),
                backend: "wireguard/wg0".into(),
                started_ms: 1,
                last_seen_ms: 2,
                rx: 3,
                tx: 4,
            })
            .collect(),
    );
    report
}

#[test]
fn the_owner_sees_report_connections_and_health() {
    let served = Served::for_own_user(report());
    let client = Client::new(&served.path);
    let Status::Full(full) = client.status().unwrap() else {
        panic!("not the full report");
    };
    assert_eq!(full.server_id.as_deref(), Some("secret-id"));
    assert_eq!(client.connections().unwrap(), *report().connections);
    let (scope, health) = client.health().unwrap();
    assert_eq!(scope, Scope::Full);
    assert!(health.ok && health.enrolled);
}

#[test]
fn a_served_report_is_as_old_as_it_is() {
    let mut old = report();
    old.made_at = clock::now().boot.saturating_sub(Duration::from_secs(3600));
    let served = Served::for_own_user(old);
    let (_, health) = Client::new(&served.path).health().unwrap();
    assert!(
        !health.ok && health.reasons[0].contains("hangs"),
        "{health:?}"
    );
}

#[test]
fn hostile_requests_get_an_error_line_and_the_server_lives() {
    let served = Served::for_own_user(report());
    let code = |bytes: &[u8]| {
        let answer = served.raw(bytes);
        let value: serde_json::Value = serde_json::from_str(&answer).expect(&answer);
        value["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(code(b"garbage\n"), "bad_request");
    assert_eq!(code(b"\n"), "bad_request");
    assert_eq!(code(b"\0\0\0\n"), "bad_request");
    assert_eq!(code(b"\xff\xfe\n"), "bad_request");
    assert_eq!(
        code(b"{\"v\":1,\"get\":\"sta"),
        "bad_request",
        "half a line"
    );
    assert_eq!(
        code(b"{\"v\":9,\"get\":\"status\"}\n"),
        "unsupported_version"
    );
    assert_eq!(code(&[b'x'; 5000]), "too_large");
    assert_eq!(code(&vec![b'x'; 10_000_000]), "too_large");
    assert_eq!(served.raw(b""), "", "nothing asked, nothing said");
    let two = served.raw(b"{\"v\":1,\"get\":\"health\"}\n{\"v\":1,\"get\":\"status\"}\n");
    assert_eq!(two.lines().count(), 1, "one question a connection");
    assert!(Client::new(&served.path).status().is_ok());
}

#[test]
fn a_slow_writer_is_cut_off() {
    // Long enough for half a line to be there before, on a busy machine, too.
    let limits = Limits {
        deadline: Duration::from_secs(1),
        ..Limits::default()
    };
    let served = Served::with(report(), own_user(), limits);
    let mut stream = UnixStream::connect(&served.path).unwrap();
    stream.write_all(b"{\"v\":1,").unwrap();
    assert!(read_all(&mut stream).contains("\"timeout\""));
}

#[test]
fn a_crowd_is_turned_away_and_the_seats_come_back() {
    let limits = Limits {
        deadline: Duration::from_secs(60),
        ..Limits::default()
    };
    let served = Served::with(report(), own_user(), limits);
    let crowd: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(&served.path).unwrap())
        .collect();
    // The server accepts in order: those after the seats are turned away, at once.
    for mut stream in &crowd[limits.own..] {
        let mut line = [0; 256];
        let count = stream.read(&mut line).unwrap();
        assert!(String::from_utf8_lossy(&line[..count]).contains("\"busy\""));
    }
    let busy = Client::new(&served.path).status().unwrap_err();
    assert!(matches!(busy, ClientError::Refused { .. }), "{busy}");
    drop(crowd);
    let again = (0..1000).any(|_| Client::new(&served.path).status().is_ok());
    assert!(again, "the seats are free again");
}

#[test]
fn without_an_agent_the_client_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let error = Client::new(&path).status().unwrap_err();
    assert!(matches!(
        error,
        ClientError::NotRunning { refused: false, .. }
    ));
    drop(UnixListener::bind(&path).unwrap());
    let error = Client::new(&path).status().unwrap_err();
    assert!(matches!(
        error,
        ClientError::NotRunning { refused: true, .. }
    ));
    assert!(error.to_string().contains("systemctl start"), "{error}");
}

/// A fake agent that says `bytes` to one client and waits for it to leave.
fn impostor(path: &Path, bytes: Vec<u8>) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(&bytes);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    })
}

#[test]
fn a_lying_or_silent_agent_cannot_hurt_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let schema = br#"{"v":1,"scope":"full","ok":{"schema":2}}"#;
    let endless = vec![b'x'; wire::MAX_ANSWER_BYTES + 100_000];
    let lies: [&[u8]; 5] = [b"garbage\n", b"{}\n", b"\0\n", schema, &endless];
    for (index, lie) in lies.iter().enumerate() {
        let path = folder.path().join(index.to_string());
        let mut bytes = lie.to_vec();
        bytes.push(b'\n');
        let thread = impostor(&path, bytes);
        let error = Client::new(&path).status().unwrap_err();
        assert!(
            matches!(error, ClientError::Garbage { .. }),
            "{index}: {error}"
        );
        thread.join().unwrap();
    }
    let path = folder.path().join("silent");
    let thread = impostor(&path, Vec::new());
    let client = Client::new(&path).with_deadline(Duration::from_millis(30));
    let error = client.status().unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    thread.join().unwrap();
}

#[test]
fn the_socket_is_for_everyone_and_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/status.sock");
    let socket = StatusSocket::bind(&path).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o666);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
    let second = StatusSocket::bind(&path).unwrap_err();
    assert!(
        matches!(second, SocketError::AlreadyRunning { .. }),
        "{second}"
    );
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn only_a_dead_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    drop(StatusSocket::bind(&path).unwrap());

    fs::write(&path, "precious").unwrap();
    let error = StatusSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::InTheWay { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let target = folder.path().join("target");
    drop(UnixListener::bind(&target).unwrap());
    fs::remove_file(&path).unwrap();
    symlink(&target, &path).unwrap();
    let error = StatusSocket::bind(&path).unwrap_err();
    assert!(matches!(error, SocketError::InTheWay { .. }), "{error}");
    assert!(target.exists() && path.is_symlink());
}

#[test]
fn an_unsafe_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let error = StatusSocket::bind(&open.join("s")).unwrap_err();
    assert!(matches!(error, SocketError::UnsafeFolder { .. }), "{error}");
    let link = folder.path().join("link");
    symlink(folder.path(), &link).unwrap();
    let error = StatusSocket::bind(&link.join("s")).unwrap_err();
    assert!(matches!(error, SocketError::UnsafeFolder { .. }), "{error}");
}

#[test]
fn a_successors_socket_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let old = StatusSocket::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _new = StatusSocket::bind(&path).unwrap();
    drop(old);
    assert!(path.exists());
}

/// Names the socket that [`unprivileged_probe`] asks; set only by the test that starts it.
const PROBE: &str = "VPN_NODE_TEST_PROBE_SOCKET";

/// Not a test by itself: the child of the next test, run as another user.
#[test]
#[ignore = "started by an_unprivileged_peer_gets_the_summary_only"]
fn unprivileged_probe() {
    let path = PathBuf::from(std::env::var_os(PROBE).expect("started by the other test"));
    let client = Client::new(&path);
    assert!(matches!(client.status().unwrap(), Status::Public(_)));
    assert!(matches!(
        client.connections(),
        Err(ClientError::Denied { .. })
    ));
    let (scope, health) = client.health().unwrap();
    assert_eq!(scope, Scope::Public);
    assert!(!health.ok && health.reasons.is_empty());
    assert_eq!(client.authorisation().unwrap().detail, None);
}

#[test]
fn an_unprivileged_peer_gets_the_summary_only() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start a child as another user");
        return;
    }
    let mut ill = report();
    ill.ledger.error = Some("secret-path is full".into());
    let served = Served::with(
        ill,
        Policy::new(0, Some(12345), Vec::new()),
        Limits::default(),
    );
    // The test program may lie where the other user cannot go.
    let program = served.path.with_file_name("probe");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(&program)
        .args(["--exact", "status::tests::unprivileged_probe", "--ignored"])
        .current_dir("/")
        .env(PROBE, &served.path)
        .gid(65534)
        .uid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

/// Not a test by itself: takes every seat that there is for the group, and keeps them.
#[test]
#[ignore = "started by a_crowd_of_the_group_shuts_out_no_gate"]
fn crowding_probe() {
    let path = PathBuf::from(std::env::var_os(PROBE).expect("started by the other test"));
    let crowd: Vec<_> = (0..20).map(|_| UnixStream::connect(&path)).collect();
    fs::write(path.with_file_name("crowd/ready"), b"").unwrap();
    let _ = std::io::stdin().read(&mut [0]);
    drop(crowd);
}

#[test]
fn a_crowd_of_the_group_shuts_out_no_gate() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can start a child as another user");
        return;
    }
    let limits = Limits {
        deadline: Duration::from_secs(60),
        ..Limits::default()
    };
    let policy = Policy::new(0, None, vec![65534]);
    let served = Served::with(report(), policy, limits);
    let crowd = served.path.with_file_name("crowd");
    fs::create_dir(&crowd).unwrap();
    std::os::unix::fs::chown(&crowd, Some(65534), None).unwrap();
    let program = served.path.with_file_name("probe");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut child = Command::new(&program)
        .args(["--exact", "status::tests::crowding_probe", "--ignored"])
        .current_dir("/")
        .env(PROBE, &served.path)
        .gid(65534)
        .uid(65534)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !crowd.join("ready").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the crowd came");
        thread::yield_now();
    }
    let answer = Client::new(&served.path).authorisation();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(answer.is_ok(), "{answer:?}");
}

#[test]
fn the_authorisation_is_as_of_the_question() {
    let mut verified = report();
    verified.verification.state = VerificationState::Verified;
    verified.authorised_until = Some(clock::now().after(Duration::from_secs(1000)));
    let ask = |report| {
        let served = Served::for_own_user(report);
        Client::new(&served.path).authorisation().unwrap()
    };
    let answer = ask(verified.clone());
    assert_eq!(answer.state, VerificationState::Verified);
    assert!((900_000..=1_000_000).contains(&answer.valid_for_ms.unwrap()));
    assert!(answer.detail.is_some());
    verified.authorised_until = Some(clock::now());
    assert_eq!(ask(verified).state, VerificationState::Lapsed);
}

#[test]
fn a_rotation_is_begun_for_the_agents_own_user_and_said_to_be_under_way() {
    let mut report = report();
    report.enrolled = true;
    let served = Served::for_own_user(report);
    let client = Client::new(&served.path);
    assert!(client.rotate_identity().unwrap().begun);
    let again = client.rotate_identity().unwrap();
    assert!(!again.begun && again.detail.contains("under way"));
}

#[test]
fn a_host_that_is_not_enrolled_rotates_nothing() {
    let mut report = report();
    report.enrolled = false;
    let served = Served::for_own_user(report);
    let answer = Client::new(&served.path).rotate_identity().unwrap();
    assert!(!answer.begun && answer.detail.contains("not enrolled"));
}
