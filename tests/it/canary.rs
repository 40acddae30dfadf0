//! Where a token's secret and a host's identity key are, and where they are not: a whole enrolment
//! of the real programs, looked at from outside while its last answer is held back, and after it.
//!
//! Memory is read as a core dump would have it, which takes root. Without root those looks are left
//! out, and the test says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use vpn_node_controller::store::HeartbeatRow;
use vpn_node_protocol::keys::registration_key;
use vpn_node_protocol::token::Token;

use crate::support::controller::Controller;
use crate::support::host::{Host, end_by};
use crate::support::process::{ControllerProcess, program};
use crate::support::secrets::{all_files, contains_any, forms, memory};
use crate::support::wait_for;

/// The second and last round trip of an enrolment.
const LAST: &str = "/v1/enrol/complete";
/// The user "nobody" of most systems; it only must not be root.
const NOBODY: u32 = 65534;

/// A controller that serves, or why there is none.
fn controller() -> Option<ControllerProcess> {
    let Some(program) = program() else {
        eprintln!(
            "SKIPPED: vpn-node-controller is not built beside the agent, so nothing was looked at; \
             'cargo xtask test' builds it"
        );
        return None;
    };
    Some(ControllerProcess::start(program))
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root reads the memory of a process, so it was not looked at");
    }
    root
}

/// All forms of the token: its text, its secret, and the key that is derived from it.
fn token_forms(text: &str) -> Vec<Vec<u8>> {
    let secret = Token::parse(text).unwrap().secret.clone();
    let mut needles = forms(&secret);
    needles.extend(forms(registration_key(&secret).as_bytes()));
    needles.push(text.as_bytes().to_vec());
    needles
}

/// All forms of the identity key on this host's disk.
fn identity_forms(host: &Host) -> Vec<Vec<u8>> {
    let file = fs::read(host.state().join("identity.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let seed = STANDARD.decode(file["secret"].as_str().unwrap()).unwrap();
    forms(&seed.try_into().unwrap())
}

/// What everybody may see of a process.
fn outside(name: &str, pid: u32) -> Vec<(String, Vec<u8>)> {
    let proc = Path::new("/proc").join(pid.to_string());
    ["cmdline", "environ"]
        .map(|file| {
            // The environment of another user's process is closed even to a test that is not root.
            let bytes = fs::read(proc.join(file)).unwrap_or_default();
            (format!("{file} of {name}"), bytes)
        })
        .into()
}

/// Everything of the controller: files, arguments, environment, memory.
fn of_controller(controller: &ControllerProcess) -> Vec<(String, Vec<u8>)> {
    let mut places = outside("the controller", controller.pid());
    places.push((
        "files of the controller".into(),
        all_files(controller.dir()),
    ));
    if is_root() {
        let core = memory(controller.pid()).unwrap();
        assert!(core.len() > 1 << 20, "the memory is read");
        places.push(("memory of the controller".into(), core));
    }
    places
}

fn assert_nowhere(places: &[(String, Vec<u8>)], needles: &[Vec<u8>], what: &str) {
    for (place, bytes) in places {
        assert!(
            !contains_any(bytes, needles),
            "{what} stands in the {place}"
        );
    }
}

/// Core dumps are wanted by whoever starts the programs, as far as the system lets us want them.
fn want_core_dumps() {
    let (_, most) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    setrlimit(Resource::RLIMIT_CORE, most, most).unwrap();
}

/// The kernel dumped nothing, and nothing could be dumped.
fn assert_undumpable(pid: u32) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let values: Vec<&str> = core.split_ascii_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "{core}");
}

fn core_files(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("core"))
        .collect()
}

/// Where a core dump is not taken away by a pipe, `sleep` leaves one: the control.
fn a_core_dump_would_be_seen(dir: &Path) -> bool {
    let mut sleep = Command::new("sleep")
        .arg("60")
        .current_dir(dir)
        .spawn()
        .unwrap();
    let dumped = end_by(&mut sleep, Signal::SIGSEGV).core_dumped();
    for file in core_files(dir) {
        fs::remove_file(dir.join(file)).unwrap();
    }
    if !dumped {
        eprintln!("SKIPPED: this system dumps no core of any process, so ours prove nothing by it");
    }
    dumped
}

#[test]
fn a_daemon_that_enrols_by_a_credential_keeps_its_secrets_to_itself() {
    let Some(controller) = controller() else {
        return;
    };
    want_core_dumps();
    let mut host = Host::new("log_level = \"debug\"");
    a_core_dump_would_be_seen(host.dir());
    let text = controller.token();
    let credentials = host.dir().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let credential = credentials.join("registration-token");
    fs::write(&credential, text.as_bytes()).unwrap();
    fs::set_permissions(&credential, fs::Permissions::from_mode(0o400)).unwrap();
    host.set("CREDENTIALS_DIRECTORY", &credentials);
    let token = token_forms(&text);

    for signal in [Signal::SIGSEGV, Signal::SIGABRT] {
        controller.proxy().hold(LAST);
        host.start();
        wait_for("the enrolment's last answer", || {
            controller.proxy().holds_an_answer().then_some(())
        });
        let identity = identity_forms(&host);
        if is_root() {
            let core = memory(host.pid()).unwrap();
            assert!(contains_any(&core, &token), "the control: it is found");
            assert!(contains_any(&core, &identity), "the control: it is found");
        }
        let mut places = of_controller(&controller);
        places.extend(outside("the agent", host.pid()));
        places.push(("log of the agent".into(), fs::read(host.log()).unwrap()));
        places.push(("state of the agent".into(), all_files(&host.state())));
        assert_nowhere(&places, &token, "the token");
        places.retain(|(place, _)| place != "state of the agent");
        assert_nowhere(&places, &identity, "the identity key");

        assert_undumpable(host.pid());
        let ended = host.signal(signal);
        assert_eq!(ended.signal(), Some(signal as i32));
        assert!(!ended.core_dumped(), "{signal} left a core dump");
        assert_eq!(core_files(host.dir()), [""; 0]);
        controller.proxy().release();
    }

    // The same token finishes the same enrolment.
    host.start();
    wait_for("the verdict and a heartbeat", || {
        let status = host.status();
        let verified = status["verification"]["state"] == "verified";
        (verified && status["last_heartbeat"]["accepted"] == true).then_some(())
    });
    nothing_is_left(&controller, &host, &token);
}

#[test]
fn the_command_that_enrols_keeps_its_secrets_to_itself() {
    let Some(controller) = controller() else {
        return;
    };
    want_core_dumps();
    let mut host = Host::new("");
    a_core_dump_would_be_seen(host.dir());
    let text = controller.token();
    let token = token_forms(&text);
    for signal in [Signal::SIGSEGV, Signal::SIGABRT] {
        controller.proxy().hold(LAST);
        let mut command = host.begin(&["enroll"], &text);
        wait_for("the enrolment's last answer", || {
            controller.proxy().holds_an_answer().then_some(())
        });
        let identity = identity_forms(&host);
        if is_root() {
            let core = memory(command.id()).unwrap();
            assert!(contains_any(&core, &token), "the control: it is found");
        }
        let mut places = of_controller(&controller);
        places.extend(outside("the command", command.id()));
        assert_nowhere(&places, &identity, "the identity key");
        places.push(("state of the agent".into(), all_files(&host.state())));
        assert_nowhere(&places, &token, "the token");
        assert_undumpable(command.id());
        let ended = end_by(&mut command, signal);
        assert_eq!(ended.signal(), Some(signal as i32));
        assert!(!ended.core_dumped(), "{signal} left a core dump");
        assert_eq!(core_files(host.dir()), [""; 0]);
        controller.proxy().release();
    }
    let output = host.command(&["enroll"], &text);
    assert!(output.status.success(), "{output:?}");
    for output in [&output.stdout, &output.stderr] {
        assert!(!contains_any(output, &token), "the token is printed");
        assert!(!contains_any(output, &identity_forms(&host)));
    }
    host.start();
    wait_for("the verdict", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
    nothing_is_left(&controller, &host, &token);
}

/// After the enrolment: the token is nowhere, the identity key in the agent's memory and file.
fn nothing_is_left(controller: &ControllerProcess, host: &Host, token: &[Vec<u8>]) {
    let identity = identity_forms(host);
    let mut places = of_controller(controller);
    places.extend(outside("the agent", host.pid()));
    places.push(("log of the agent".into(), fs::read(host.log()).unwrap()));
    places.push(("runtime directory".into(), all_files(&host.runtime())));
    for entry in fs::read_dir(host.state()).unwrap().map(Result::unwrap) {
        if entry.file_name() != "identity.json" && entry.file_type().unwrap().is_file() {
            let name = format!("file {}", entry.path().display());
            places.push((name, fs::read(entry.path()).unwrap()));
        }
    }
    assert_nowhere(&places, &identity, "the identity key");
    if is_root() {
        let core = memory(host.pid()).unwrap();
        assert!(contains_any(&core, &identity), "the control: it signs");
        places.push(("memory of the agent".into(), core));
    }
    places.push(("state of the agent".into(), all_files(&host.state())));
    assert_nowhere(&places, token, "the token");
}

#[test]
fn another_process_of_the_same_user_reads_neither_memory_nor_environment() {
    let controller = Controller::start();
    let mut host = Host::new("");
    let as_root = nix::unistd::geteuid().is_root();
    if as_root {
        host.run_as(NOBODY);
    }
    let enrolled = host.command(&["enroll"], &controller.token());
    assert!(enrolled.status.success(), "{enrolled:?}");
    host.start();
    let as_user = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if as_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.spawn().unwrap()
    };
    let reads = |pid: u32, file: &str| {
        let cat = as_user("cat", &format!("/proc/{pid}/{file}"));
        let output = cat.wait_with_output().unwrap();
        let refused = String::from_utf8_lossy(&output.stderr).contains("Permission denied");
        assert_ne!(output.status.success(), refused, "{output:?}");
        !refused
    };
    let mut sleep = as_user("sleep", "60");
    assert!(reads(sleep.id(), "environ"), "the control");
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    for file in ["environ", "mem", "maps"] {
        assert!(!reads(host.pid(), file), "{file}");
    }
    assert!(reads(host.pid(), "cmdline"), "what is everybody's stays so");
    // And the agent itself works so, without root: its own memory is among what it measures.
    wait_for("a heartbeat with the size of the agent", || {
        let size = |row: HeartbeatRow| {
            row.system_metrics?
                .contains("agent_rss_bytes")
                .then_some(())
        };
        controller.heartbeats().into_iter().find_map(size)
    });
}
