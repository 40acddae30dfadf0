//! What people are told who are not root, or whose agent does not start.

use nix::unistd::{Uid, geteuid, setfsuid};

use super::*;
use crate::config;

/// What `explain` says of an agent that is not there, when nobody named the file that has `text`.
fn told(text: &str, json: bool) -> (Exit, String, String) {
    let host = Host::new();
    fs::write(host.path("agent.toml"), text).unwrap();
    let global = args::Global {
        socket: Some(host.path("run/status.sock")),
        state_dir: Some(host.path("state")),
        ..args::Global::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut console = Console::new(&mut out, &mut err);
    let loaded = config::load(Some(&host.path("agent.toml")));
    let place = reach::place_by(loaded, &global, json, &mut console).unwrap();
    let error = place.client.status().unwrap_err();
    let exit = reach::explain(&place, &error, json, &mut console);
    let text = |bytes: Vec<u8>| {
        let text = strip_str(&String::from_utf8(bytes).unwrap()).to_string();
        text.replace(host.folder.path().to_str().unwrap(), "/HOST")
    };
    (exit, text(out), text(err))
}

#[test]
fn a_typo_in_the_settings_is_said_before_anybody_starts_the_agent_in_vain() {
    let typo = "[wireguard]\npol_s = 3\n";
    let (exit, out, err) = told(typo, false);
    assert_eq!((exit, out.as_str()), (Exit::Unreachable, ""));
    assert_eq!(
        err,
        "vpn-node: warning: the settings have a mistake, so the default places are asked: \
         /HOST/agent.toml:2: unknown key \"pol_s\" in [wireguard]; did you mean \"poll_s\"?\n\
         vpn-node: vpn-node-agent does not answer on /HOST/run/status.sock, and it does not start \
         while its settings have a mistake (the warning says where). Mend that until `vpn-node \
         config check` says good, then run `systemctl start vpn-node-agent`.\n"
    );
    let (exit, out, _) = told(typo, true);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(exit, Exit::Unreachable);
    assert_eq!(value["error"]["code"], "config");
    let message = value["error"]["message"].as_str().unwrap();
    assert!(message.contains("agent.toml:2: unknown key"), "{message}");
    assert_eq!(value["enrolled"], serde_json::Value::Null);
    // Good settings are not in the way of a start.
    let (exit, _, err) = told("", false);
    assert_eq!(exit, Exit::NotEnrolled);
    assert!(!err.contains("settings"), "{err}");
}

#[test]
fn a_ca_file_that_stops_the_start_is_said_by_check_and_by_status() {
    let host = Host::new();
    let ca_file = host.path("ca.pem");
    let settings = format!("[controller]\nca_file = {ca_file:?}\n");
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            fs::write(&ca_file, content).unwrap();
        }
        fs::write(host.path("agent.toml"), &settings).unwrap();
        let ran = host.run(&["config", "check"]);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Failed, ""));
        assert!(ran.err.contains("cannot use the CA file"), "{}", ran.err);
        let (exit, _, err) = told(&settings, false);
        assert_eq!(exit, Exit::Unreachable);
        assert!(
            err.contains("does not start") && err.contains("ca.pem"),
            "{err}"
        );
    }
    let ca = rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()]).unwrap();
    fs::write(&ca_file, ca.cert.pem()).unwrap();
    assert_eq!(host.run(&["config", "check"]).exit, Exit::Ok);
    assert_eq!(told(&settings, false).0, Exit::NotEnrolled);
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(host.folder.path(), mode(0o755)).unwrap();
    fs::set_permissions(&ca_file, mode(0)).unwrap();
    let ran = as_nobody(|| host.run(&["config", "check"]));
    assert_eq!(ran.exit, Exit::Failed);
    assert!(ran.err.contains("may not read the CA file"), "{}", ran.err);
}

/// Runs `act` as a user who owns nothing of the host, where this is root.
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let acts = scope.spawn(|| {
            if geteuid().is_root() {
                // Of this thread alone; the capabilities over files go with it (credentials(7)).
                setfsuid(Uid::from_raw(65_534));
            }
            act()
        });
        acts.join().unwrap()
    })
}

#[test]
fn settings_that_a_user_may_not_read_are_no_matter_to_him() {
    let host = Host::new();
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(host.folder.path(), mode(0o755)).unwrap();
    fs::write(host.path("agent.toml"), "typo = 1\n").unwrap();
    fs::set_permissions(host.path("agent.toml"), mode(0)).unwrap();
    let file = host.path("agent.toml");
    let socket = host.path("run/status.sock");
    let err = as_nobody(|| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::new(&mut out, &mut err);
        let global = args::Global {
            socket: Some(socket),
            ..args::Global::default()
        };
        let loaded = config::load(Some(&file));
        let place = reach::place_by(loaded, &global, false, &mut console).unwrap();
        let error = place.client.status().unwrap_err();
        reach::explain(&place, &error, false, &mut console);
        String::from_utf8(err).unwrap()
    });
    assert!(!err.contains("agent.toml"), "{err}");
    assert!(!err.contains("settings"), "{err}");
}

#[test]
fn who_may_not_enrol_is_told_so_before_the_token_is_read() {
    let mode = |mode| fs::Permissions::from_mode(mode);
    // The state directory; the place where it would be made; the settings.
    for (closed, state) in [
        ("state", "state"),
        ("state", "state/deeper/still"),
        ("agent.toml", "state"),
    ] {
        let host = Host::new();
        fs::set_permissions(host.folder.path(), mode(0o755)).unwrap();
        fs::set_permissions(host.path("state"), mode(0o500)).unwrap();
        if closed == "agent.toml" {
            fs::set_permissions(host.path("agent.toml"), mode(0)).unwrap();
        }
        let (config, state) = (host.path("agent.toml"), host.path(state));
        let ran = as_nobody(|| {
            let args = [
                "--config",
                config.to_str().unwrap(),
                "--state-dir",
                state.to_str().unwrap(),
                "enroll",
            ];
            run_args(&args, b"vnr1.abc", true)
        });
        assert_eq!(ran.exit, Exit::Failed, "{}", ran.err);
        let path = host.path(closed);
        let wanted = format!(
            "vpn-node: This user may not enrol this host: {} is not open to it. Run `sudo vpn-node \
             enroll`. No token was read; the one that you have is good still.\n",
            path.display()
        );
        assert_eq!(ran.err, wanted, "no prompt, no token");
        fs::set_permissions(host.path("state"), mode(0o700)).unwrap();
    }
}
