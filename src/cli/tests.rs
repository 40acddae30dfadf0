//! The command as people and monitors meet it: what it does and how it exits.

mod gate_command;
mod not_at_hand;
mod screens;

use std::cell::Cell;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anstream::adapter::strip_str;
use clap::CommandFactory;
use insta::assert_snapshot;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};

use super::*;
use crate::core::report::*;
use crate::host::clock;
use crate::status::{Limits, Policy, StatusSocket, Wish, serve};

/// 2026-03-01 12:00:00 UTC.
const NOW_MS: i64 = 1_772_366_400_000;

fn healthy() -> StatusReport {
    let mut report = StatusReport::starting("1.2.3", "gw-fra-1", 4242, Duration::ZERO);
    report.uptime_s = 11_520;
    report.enrolled = true;
    report.enrolled_since_ms = Some(NOW_MS - 86_400_000);
    report.server_id = Some("0195a1b2-0000-7000-8000-000000000001".into());
    report.controller_url = Some("https://controller.example:8443".into());
    report.identity = Some(IdentityStatus {
        epoch: 1,
        key_id: "SHA256:k3yf1ngerpr1nt".into(),
        rotated_ms: None,
        rotating: false,
    });
    report.verification = Verification {
        state: VerificationState::Verified,
        for_s: 11_500,
        detail: "The controller vouches for this host.".into(),
        valid_for_s: Some(1788),
        hardware_status: Some("verified".into()),
        warnings: Vec::new(),
        stopped: None,
    };
    report.last_heartbeat = LastHeartbeat {
        at_ms: Some(NOW_MS - 12_000),
        seconds_ago: Some(12),
        accepted: Some(true),
        last_error: None,
    };
    report.next_heartbeat_s = Some(18);
    report.clock_offset_ms = Some(-3);
    report.backends = vec![backend("wg0", 12), backend("wg-office", 1)];
    report
}

fn backend(instance: &str, sessions: u64) -> BackendStatus {
    BackendStatus {
        kind: "wireguard".into(),
        instance: instance.into(),
        state: BackendState::Up,
        was_up: true,
        error: None,
        sessions,
        activity: Activity {
            started: sessions + 3,
            ended: 3,
            rx: 12_345_678,
            tx: 3_456_789_012,
            rx_per_s: 2048,
            tx_per_s: 1_500_000,
        },
    }
}

#[test]
fn the_command_line_is_sound() {
    args::Arguments::command().debug_assert();
}

/// What one run printed, without colours.
struct Ran {
    exit: Exit,
    out: String,
    err: String,
}

fn run_args(args: &[&str], input: &[u8], interactive: bool) -> Ran {
    run_enroll(args, input, interactive, |_| {
        Err(std::io::Error::other("no enrolment in this test"))
    })
}

fn run_enroll<E: std::error::Error>(
    args: &[&str],
    mut input: &[u8],
    interactive: bool,
    enroll: impl FnOnce(EnrollRequest) -> Result<Enrolled, E>,
) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = std::iter::once("vpn-node").chain(args.iter().copied());
    let exit = run_with(
        args.map(OsString::from),
        &mut Console::new(&mut out, &mut err),
        TokenInput {
            interactive,
            reader: &mut input,
        },
        enroll,
    );
    let text = |bytes: Vec<u8>| strip_str(&String::from_utf8(bytes).unwrap()).to_string();
    Ran {
        exit,
        out: text(out),
        err: text(err),
    }
}

/// A host in a folder: configuration, state folder, and the socket's place.
struct Host {
    folder: TempDir,
    stop: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
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

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Self { folder, stop: None };
        fs::create_dir(host.path("state")).unwrap();
        fs::write(
            host.path("agent.toml"),
            format!(
                "state_dir = {:?}\nruntime_dir = {:?}\n",
                host.path("state"),
                host.path("run")
            ),
        )
        .unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn enrolled(self) -> Self {
        fs::write(self.path("state/enrollment.json"), "{}").unwrap();
        self
    }

    /// Starts an agent that says `report`.
    fn running(mut self, mut report: StatusReport, policy: Policy) -> Self {
        report.made_at = clock::now().boot;
        let socket = StatusSocket::bind(&self.path("run/status.sock")).unwrap();
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
                    served = serve(socket, reports, wishes, policy, Limits::default()) => served.unwrap(),
                    () = grant_all(&mut wished) => {}
                    _ = stopped => drop(sender),
                }
            });
        });
        self.stop = Some((stop, thread));
        self
    }

    fn run(&self, args: &[&str]) -> Ran {
        let config = self.path("agent.toml");
        let mut all = vec!["--config", config.to_str().unwrap()];
        all.extend(args);
        let ran = run_args(&all, b"", false);
        let hide = |text: String| text.replace(self.folder.path().to_str().unwrap(), "/HOST");
        Ran {
            exit: ran.exit,
            out: hide(ran.out),
            err: hide(ran.err),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.stop.take() {
            drop(stop);
            thread.join().unwrap();
        }
    }
}

fn own_user() -> Policy {
    Policy::new(nix::unistd::geteuid().as_raw(), None, Vec::new())
}

#[test]
fn not_enrolled_and_not_running_are_two_things() {
    let fresh = Host::new();
    for command in ["status", "connections", "healthcheck"] {
        let ran = fresh.run(&[command]);
        assert_eq!(ran.exit, Exit::NotEnrolled, "{command}: {}", ran.err);
    }
    assert_snapshot!("not_enrolled", fresh.run(&["status"]).err);
    let stopped = Host::new().enrolled();
    for command in ["status", "connections", "healthcheck"] {
        let ran = stopped.run(&[command]);
        assert_eq!(ran.exit, Exit::Unreachable, "{command}: {}", ran.err);
    }
    assert_snapshot!("not_running", stopped.run(&["status"]).err);
    assert_snapshot!("not_running_json", stopped.run(&["status", "--json"]).out);
}

#[test]
fn an_agent_that_waits_for_its_enrolment_has_no_connections_to_tell_of() {
    let waiting = StatusReport::starting("1.2.3", "gw-fra-1", 4242, Duration::ZERO);
    let host = Host::new().running(waiting, own_user());
    for command in ["status", "connections"] {
        let ran = host.run(&[command]);
        assert_eq!(ran.exit, Exit::NotEnrolled, "{command}: {}", ran.err);
    }
    let text = host.run(&["connections"]);
    assert!(text.out.is_empty() && text.err.contains("vpn-node enroll"));
    let json = host.run(&["connections", "--json"]);
    assert_eq!(json.exit, Exit::NotEnrolled);
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["error"]["code"], "not_enrolled");
    let quiet = Host::new().enrolled().running(healthy(), own_user());
    let ran = quiet.run(&["connections"]);
    assert_eq!(
        (ran.exit, ran.out.lines().next()),
        (Exit::Ok, Some("No connections."))
    );
}

#[test]
fn a_running_agent_is_shown_in_text_and_json() {
    let mut report = healthy();
    report.connections = Arc::new(vec![ConnectionRow {
        id: "id-1".into(),
        backend: "wireguard/wg0".into(),
        started_ms: NOW_MS,
        last_seen_ms: NOW_MS,
        rx: 1,
        tx: 2,
    }]);
    let host = Host::new().enrolled().running(report, own_user());
    let text = host.run(&["status"]);
    assert_eq!(text.exit, Exit::Ok, "{}", text.err);
    assert!(text.out.contains("gw-fra-1") && text.out.contains("verified"));
    let json = host.run(&["status", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["schema"], 1);
    assert_eq!(value["verification"]["state"], "verified");
    let json = host.run(&["connections", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["connections"][0]["rx"], 1);
    assert_eq!(value["backends"][0]["rx_per_s"], 2048);
    let table = host.run(&["connections"]);
    assert!(table.out.contains("\n1 connection\n"), "{}", table.out);
    assert!(table.out.contains("15 began, 3 ended"), "{}", table.out);
    let health = host.run(&["healthcheck"]);
    assert_eq!((health.exit, health.out.as_str()), (Exit::Ok, "healthy\n"));
}

#[test]
fn a_rotation_is_begun_once_and_why_not_is_an_error() {
    let host = Host::new().enrolled().running(healthy(), own_user());
    let begun = host.run(&["identity", "rotate"]);
    assert_eq!(begun.exit, Exit::Ok, "{}", begun.err);
    assert!(begun.out.contains("A rotation was begun"), "{}", begun.out);
    let again = host.run(&["identity", "rotate"]);
    assert_eq!(again.exit, Exit::Failed);
    assert!(again.err.contains("under way"), "{}", again.err);
    let nobody = Host::new().enrolled().run(&["identity", "rotate"]);
    assert_eq!(nobody.exit, Exit::Unreachable, "{}", nobody.err);
}

#[test]
fn the_screen_tells_of_rotations() {
    let mut report = healthy();
    let identity = report.identity.as_mut().unwrap();
    identity.rotated_ms = Some(NOW_MS);
    identity.rotating = true;
    let screen = strip_str(&status::screen(&report, NOW_MS)).to_string();
    let line = screen
        .lines()
        .find(|line| line.contains("Identity"))
        .unwrap();
    assert!(
        line.ends_with(", rotated 2026-03-01 12:00:00 UTC; a new key is on its way"),
        "{line}"
    );
}

#[test]
fn healthcheck_says_ill_and_not_enrolled() {
    let mut ill = healthy();
    ill.ledger.error = Some("disk full".into());
    let host = Host::new().enrolled().running(ill, own_user());
    let ran = host.run(&["healthcheck"]);
    assert_eq!(ran.exit, Exit::Failed);
    assert!(ran.out.starts_with("unhealthy: ") && ran.out.lines().count() == 1);

    let mut nearly_full = healthy();
    nearly_full.ledger.low_space_bytes = Some(3 << 20);
    let host = Host::new().enrolled().running(nearly_full, own_user());
    let ran = host.run(&["healthcheck"]);
    assert_eq!(ran.exit, Exit::Ok);
    assert_eq!(
        ran.out,
        "healthy; the disk of the agent's state is nearly full\n"
    );

    let fresh = StatusReport::starting("1", "gw", 1, Duration::ZERO);
    let host = Host::new().running(fresh, own_user());
    assert_eq!(host.run(&["healthcheck"]).exit, Exit::NotEnrolled);
    assert_eq!(host.run(&["status"]).exit, Exit::NotEnrolled);
}

#[test]
fn a_broken_file_that_was_named_is_an_error() {
    let host = Host::new();
    fs::write(host.path("agent.toml"), "stat_dir = 1\n").unwrap();
    let ran = host.run(&["status"]);
    assert_eq!(ran.exit, Exit::Failed);
    assert!(
        ran.err.contains("did you mean \"state_dir\"?"),
        "{}",
        ran.err
    );
    let ran = host.run(&["status", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Failed, ""));
    assert_eq!(value["schema"], 1);
    assert_eq!(value["error"]["code"], "config");
    assert_eq!(value["enrolled"], serde_json::Value::Null);
}

#[test]
fn config_check_and_show() {
    let host = Host::new();
    let good = host.run(&["config", "check"]);
    assert_eq!(good.exit, Exit::Ok);
    assert_eq!(good.out, "good: /HOST/agent.toml\n");
    let shown = host.run(&["config", "show"]);
    assert!(shown.out.contains("poll_s = 5 "), "{}", shown.out);
    let shown = host.run(&["--state-dir", "/elsewhere", "config", "show"]);
    let line = shown.out.lines().next().unwrap();
    assert!(line.starts_with("state_dir = \"/elsewhere\"") && line.ends_with("# --state-dir"));
    fs::write(host.path("agent.toml"), "[wireguard]\npol_s = 1\n").unwrap();
    let bad = host.run(&["config", "check"]);
    assert_eq!(bad.exit, Exit::Failed);
    assert_eq!(
        bad.err,
        "vpn-node: /HOST/agent.toml:2: unknown key \"pol_s\" in [wireguard]; did you mean \
         \"poll_s\"?\n"
    );
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    assert_eq!(run_args(&["frobnicate"], b"", false).exit, Exit::Usage);
    assert_eq!(run_args(&[], b"", false).exit, Exit::Usage);
    let help = run_args(&["--help"], b"", false);
    assert_eq!(help.exit, Exit::Ok);
    assert!(help.out.contains("Examples:") && help.err.is_empty());
    let hidden = run_args(&["enroll", "--help"], b"", false);
    assert!(!hidden.out.contains("--token "), "{}", hidden.out);
}

/// Enrols with a good function and gives back the token it got.
fn token_taken(args: &[&str], input: &[u8], interactive: bool) -> (Ran, Option<String>) {
    let host = Host::new();
    let config = host.path("agent.toml");
    let mut all = vec!["--config", config.to_str().unwrap(), "enroll"];
    all.extend(args);
    let taken = Cell::new(None);
    let ran = run_enroll(&all, input, interactive, |request| {
        assert_eq!(request.settings.state_dir, host.path("state"));
        taken.set(Some(request.token.as_str().to_owned()));
        Ok::<_, Infallible>(Enrolled {
            server_id: "0195a1b2".into(),
            controller_url: "https://controller.example".into(),
            key_fingerprint: "SHA256:abc\x1b[2J".into(),
            pending: true,
            warnings: Vec::new(),
        })
    });
    (ran, taken.into_inner())
}

#[test]
fn the_token_comes_from_standard_input() {
    let (ran, token) = token_taken(&[], b"  vnr1.abc \n\n", false);
    assert_eq!(token.as_deref(), Some("vnr1.abc"));
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Ok, ""));
    assert_snapshot!("enrolled", ran.out);
    // At a terminal the first line that is not empty ends it.
    let (ran, token) = token_taken(&[], b"\n vnr1.abc\n", true);
    assert_eq!(token.as_deref(), Some("vnr1.abc"));
    assert!(ran.err.starts_with("Paste the token"), "{}", ran.err);
}

#[test]
fn the_token_comes_from_a_file_and_an_open_one_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "vnr1.file\n").unwrap();
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let name = file.to_str().unwrap();
    mode(0o600);
    let (ran, token) = token_taken(&["--token-file", name], b"", false);
    assert_eq!(
        (token.as_deref(), ran.err.as_str()),
        (Some("vnr1.file"), "")
    );
    mode(0o644);
    let (ran, _) = token_taken(&["--token-file", name], b"", false);
    assert!(ran.exit == Exit::Ok && ran.err.contains("chmod 600"));
    let missing = Path::new(name).with_extension("none");
    let (ran, token) = token_taken(&["--token-file", missing.to_str().unwrap()], b"", false);
    assert_eq!((ran.exit, token), (Exit::Failed, None));
}

#[test]
fn a_token_on_the_command_line_is_refused_and_not_repeated() {
    for args in [
        &["vnr1.secret"][..],
        &["--token", "vnr1.secret"],
        &["--token=vnr1.secret"],
        &["--token-file", "vnr1.secret"],
        &["--token"],
    ] {
        let (ran, token) = token_taken(args, b"vnr1.other", false);
        assert_eq!((ran.exit, token), (Exit::Usage, None), "{args:?}");
        assert!(ran.err.contains("every user"), "{}", ran.err);
        assert!(!ran.err.contains("secret"), "{}", ran.err);
    }
    let (ran, _) = token_taken(&["something"], b"", false);
    assert_eq!(ran.exit, Exit::Usage);
}

#[test]
fn what_is_no_token_never_reaches_the_controller() {
    let long = vec![b'x'; 1_000_000];
    for input in [&b""[..], b" \n ", b"\xff\xfe", &long] {
        let (ran, token) = token_taken(&[], input, false);
        assert_eq!((ran.exit, token), (Exit::Failed, None), "{}", ran.err);
    }
    let just = vec![b'x'; 4096];
    assert_eq!(
        token_taken(&[], &just, false).1.map(|t| t.len()),
        Some(4096)
    );
}

#[test]
fn a_failed_enrolment_is_shown_escaped() {
    let host = Host::new();
    let config = host.path("agent.toml");
    let args = ["--config", config.to_str().unwrap(), "enroll"];
    let ran = run_enroll(&args, b"vnr1.x", false, |_| {
        Err(std::io::Error::other("the controller said \x1b[2J"))
    });
    assert_eq!(ran.exit, Exit::Failed);
    assert_eq!(ran.err, "vpn-node: the controller said \\u{1b}[2J\n");
}
