//! The agent as systemd sees it: what it tells, how it reloads, how it stops.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::wireguard::{FakeWireGuard, Peer, unix_now_s};
use crate::support::{read, wait_for};

/// The socket of the service manager.
struct Manager {
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Manager {
    fn of(host: &mut Host) -> Self {
        let path = host.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        host.set("NOTIFY_SOCKET", path);
        Self {
            socket,
            said: Vec::new(),
        }
    }

    /// Everything that the agent has told so far.
    fn said(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let said = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.said.push(said);
        }
        &self.said
    }

    fn count(&mut self, start: &str) -> usize {
        let said = self.said().iter();
        said.filter(|said| said.starts_with(start)).count()
    }
}

fn verified(controller: &Controller, host: &mut Host) {
    let output = host.command(&["enroll"], &controller.token());
    assert!(output.status.success(), "{output:?}");
    host.start();
    wait_for("the verdict", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
}

/// The status as the command shows it where the configuration is not usable.
fn status(host: &Host) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_vpn-node"))
        .arg("--socket")
        .arg(host.runtime().join("status.sock"))
        .args(["status", "--json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn send(host: &Host, signal: Signal) {
    kill(Pid::from_raw(host.pid().cast_signed()), signal).unwrap();
}

/// Sends SIGHUP and waits until the agent is done with it.
fn reload(host: &Host, manager: &mut Manager) {
    let before = (
        manager.count("RELOADING=1\nMONOTONIC_USEC="),
        manager.count("READY=1"),
    );
    send(host, Signal::SIGHUP);
    wait_for("the end of the reload", || {
        (manager.count("READY=1") > before.1).then_some(())
    });
    assert_eq!(manager.count("RELOADING=1\nMONOTONIC_USEC="), before.0 + 1);
}

fn peer(handshake_s: u64, rx_bytes: u64) -> Peer {
    Peer {
        public_key: "cd".repeat(32),
        endpoint: "198.51.100.78:51999".into(),
        handshake_s,
        rx_bytes,
    }
}

#[test]
fn a_reload_applies_what_changed_and_disturbs_nothing() {
    let controller = Controller::start();
    let mut host = Host::new("location = \"rack 7\"");
    let wireguard = FakeWireGuard::start(&host.sockets(), "wg0");
    let mut manager = Manager::of(&mut host);
    verified(&controller, &mut host);
    wireguard.set(vec![peer(unix_now_s(), 148)]);
    let live = |host: &Host| {
        let output = host.command(&["connections", "--json"], "");
        let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let id = all["connections"][0]["id"].as_str()?;
        Some(id.to_owned())
    };
    let id = wait_for("the connection", || live(&host));
    let pid = host.pid();

    // Another place, other timing of the reader, more in the log.
    let text = read(&host.config());
    let changed = text
        .replace("rack 7", "rack 8")
        .replace("poll_s = 1", "poll_s = 2");
    fs::write(host.config(), format!("log_level = \"debug\"\n{changed}")).unwrap();
    reload(&host, &mut manager);
    wait_for("the new place at the controller", || {
        (controller.servers()[0].location.as_deref() == Some("rack 8")).then_some(())
    });
    wait_for("the connection, still the same one", || {
        (live(&host)? == id).then_some(())
    });
    let log = read(&host.log());
    assert!(log.contains("DEBUG"), "{log}");
    assert!(
        log.contains("log_level, location, [wireguard] poll_s"),
        "{log}"
    );

    // A mistake changes nothing, and is said.
    fs::write(host.config(), format!("{changed}\nlocaton = 1\n")).unwrap();
    reload(&host, &mut manager);
    let refused = |status: &serde_json::Value| {
        let error = status["configuration"]["error"].as_str()?;
        error.contains("locaton").then_some(())
    };
    wait_for("the refusal in the status", || refused(&status(&host)));
    assert!(read(&host.log()).contains("config_invalid"));
    assert_eq!(status(&host)["verification"]["state"], "verified");

    // Mended, but for what only a restart reads.
    let moved = changed.replace("/run\"", "/other\"");
    assert_ne!(moved, changed);
    fs::write(host.config(), &moved).unwrap();
    reload(&host, &mut manager);
    fs::write(host.config(), &changed).unwrap();
    wait_for("the word about a restart", || {
        let status = host.status();
        let keys = &status["configuration"]["needs_restart"];
        (keys == &serde_json::json!(["runtime_dir"])).then_some(())
    });

    // Switched off, its connections wait; switched on again, they are the same.
    let off = changed.replace("[wireguard]", "[wireguard]\nenabled = false");
    fs::write(host.config(), off).unwrap();
    reload(&host, &mut manager);
    wait_for("no connection", || live(&host).is_none().then_some(()));
    fs::write(host.config(), &changed).unwrap();
    reload(&host, &mut manager);
    wait_for("the connection, found again", || {
        (live(&host)? == id).then_some(())
    });
    assert_eq!(host.pid(), pid);
    assert_eq!(controller.connections().len(), 1);
    assert_eq!(controller.connections()[0].status, "active");
    assert_eq!(host.status()["pid"], pid);
}

#[test]
fn a_stop_says_so_and_ends_with_a_last_heartbeat() {
    let controller = Controller::start();
    let mut host = Host::new("");
    let mut manager = Manager::of(&mut host);
    host.set("WATCHDOG_USEC", "2000000");
    verified(&controller, &mut host);
    wait_for("the watchdog's food", || {
        (manager.count("WATCHDOG=1") > 0).then_some(())
    });
    let before = controller.heartbeats().len();
    let status = host.signal_once(Signal::SIGTERM);
    assert!(status.success(), "{status}");
    assert!(controller.heartbeats().len() > before);
    let said = manager.said().concat();
    assert!(
        said.contains("STOPPING=1") && said.contains("EXTEND_TIMEOUT_USEC="),
        "{said}"
    );
    let log = read(&host.log());
    let (stopping, stopped) = (log.find(" stopping"), log.find(" stopped"));
    assert!(stopping.is_some() && stopping < stopped, "{log}");
}

#[test]
fn a_host_that_waits_for_a_token_reloads_and_stops() {
    let mut host = Host::new("");
    let mut manager = Manager::of(&mut host);
    host.start();
    let text = read(&host.config());
    fs::write(host.config(), format!("log_level = \"debug\"\n{text}")).unwrap();
    reload(&host, &mut manager);
    assert!(read(&host.log()).contains("log_level"));
    fs::write(host.config(), "no toml").unwrap();
    reload(&host, &mut manager);
    assert!(read(&host.log()).contains("config_invalid"));
    fs::write(host.config(), text).unwrap();
    assert!(host.signal_once(Signal::SIGTERM).success());
}

#[test]
fn a_second_signal_ends_a_stop_that_waits_for_the_controller() {
    let controller = Controller::start();
    let mut host = Host::new("");
    let mut manager = Manager::of(&mut host);
    verified(&controller, &mut host);
    // From now on no answer reaches the host: the last heartbeat would wait for seconds.
    controller.hold("/v1/messages");
    wait_for("a request whose answer is held", || {
        controller.holds_an_answer().then_some(())
    });
    send(&host, Signal::SIGTERM);
    wait_for("the beginning of the stop", || {
        (manager.count("STOPPING=1") == 1).then_some(())
    });
    let status = host.signal_once(Signal::SIGTERM);
    assert!(status.success(), "{status}");
    let log = read(&host.log());
    assert!(
        log.contains("a second time") && log.contains(" stopped"),
        "{log}"
    );
}
