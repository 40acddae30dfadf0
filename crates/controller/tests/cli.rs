//! The operator's commands as they are typed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use vpn_node_controller::config::Config;
use vpn_node_controller::rules::effect::NewEvent;
use vpn_node_controller::rules::events::EventType;
use vpn_node_controller::{clock, store};
use vpn_node_protocol::token::Token;

struct Controller {
    dir: tempfile::TempDir,
}

impl Controller {
    fn new() -> Self {
        let controller = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        assert_ok(&controller.run("init --url https://127.0.0.1:8443"));
        controller
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self, words: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vpn-node-controller"))
            .arg("--data-dir")
            .arg(self.data())
            .args(words.split(' '))
            .output()
            .unwrap()
    }
}

impl Controller {
    /// The sentence of a command that must fail.
    fn fails(&self, words: &str) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{words}");
        text(&output.stderr).to_owned()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn assert_ok(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_token_can_be_redirected_into_a_file() {
    let controller = Controller::new();
    let made = controller.run("registration-key create --expires 2h");
    assert_ok(&made);
    let token = text(&made.stdout).strip_suffix('\n').unwrap();
    Token::parse(token).unwrap();
    let guidance = text(&made.stderr);
    assert!(guidance.contains("vpn-node enroll"), "{guidance}");
    assert!(!guidance.contains(token));
}

#[test]
fn what_is_lost_or_damaged_is_restored_from_the_backup() {
    let controller = Controller::new();
    let files = ["certificate.json", "keys/tls.key", "controller.db"];
    for file in files {
        let path = controller.data().join(file);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let error = controller.fails("registration-key create");
        assert!(error.contains(file), "{error}");
        assert!(error.contains("backup"), "{error}");
        fs::write(&path, kept).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_ok(&controller.run("server list"));
    fs::write(
        controller.data().join("controller.db"),
        "nonsense".repeat(999),
    )
    .unwrap();
    let error = controller.fails("server list");
    assert!(
        error.contains("controller.db") && error.contains("backup"),
        "{error}"
    );
}

#[test]
fn a_wrong_setting_is_named_with_its_file() {
    let controller = Controller::new();
    let settings = controller.data().join("controller.toml");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("lease_s = 1800", "lease_s = 0")).unwrap();
    let error = controller.fails("server list");
    assert!(
        error.contains("controller.toml") && error.contains("lease_s"),
        "{error}"
    );
}

#[test]
fn what_others_may_write_is_refused_until_it_is_mended() {
    let controller = Controller::new();
    let mode = |path: &PathBuf, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let settings = controller.data().join("controller.toml");
    mode(&settings, 0o666);
    for words in ["server list", "serve", "release list"] {
        let error = controller.fails(words);
        assert!(
            error.contains("controller.toml") && error.contains("chmod o-w"),
            "{error}"
        );
    }
    mode(&settings, 0o644);
    for writable in [0o777, 0o770, 0o702] {
        mode(&controller.data(), writable);
        for words in ["server list", "serve", "registration-key create"] {
            let error = controller.fails(words);
            let cure = format!("chmod 700 {}", controller.data().display());
            assert!(error.contains(&cure), "{error}");
        }
    }
    mode(&controller.data(), 0o755);
    assert_ok(&controller.run("server list"));
}

#[test]
fn a_certificate_that_no_host_accepts_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("tls.pem"), dir.path().join("tls.key"));
    let write = |authority: bool, names: &str| {
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([names.to_owned()]).unwrap();
        if authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let controller = Controller {
        dir: tempfile::tempdir().unwrap(),
    };
    let init = format!(
        "init --url https://c.example:8443 --tls-cert {} --tls-key {}",
        cert.display(),
        key.display()
    );
    write(true, "c.example");
    let error = controller.fails(&init);
    assert!(
        error.contains("tls.pem") && error.contains("basicConstraints=critical,CA:FALSE"),
        "{error}"
    );
    assert!(!controller.data().exists());

    write(false, "c.example");
    let of_another = fs::read(&key).unwrap();
    write(false, "c.example");
    let own = fs::read(&key).unwrap();
    fs::write(&key, of_another).unwrap();
    let error = controller.fails(&init);
    assert!(
        error.contains("tls.key") && error.contains("is not the key of"),
        "{error}"
    );
    fs::write(&key, "nonsense").unwrap();
    let error = controller.fails(&init);
    assert!(
        error.contains("tls.key") && error.contains("it is not PEM"),
        "{error}"
    );
    fs::write(&key, own).unwrap();
    let made = controller.run(&init);
    assert_ok(&made);
    assert_eq!(text(&made.stderr), "");
    // What was good at `init` may have been replaced since.
    write(true, "c.example");
    let error = controller.fails("serve");
    assert!(error.contains("CA:TRUE"), "{error}");
}

#[test]
fn a_certificate_with_other_names_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("tls.pem"), dir.path().join("tls.key"));
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["other.example".to_owned()]).unwrap();
    fs::write(&cert, params.self_signed(&pair).unwrap().pem()).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let controller = Controller {
        dir: tempfile::tempdir().unwrap(),
    };
    let made = controller.run(&format!(
        "init --url https://c.example:8443 --tls-cert {} --tls-key {}",
        cert.display(),
        key.display()
    ));
    assert_ok(&made);
    let note = text(&made.stderr);
    assert!(
        note.contains("other.example") && note.contains("c.example:8443"),
        "{note}"
    );
}

#[test]
fn a_second_revocation_says_that_it_is_done() {
    let controller = Controller::new();
    let made = controller.run("registration-key create --json");
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let revoke = format!(
        "registration-key revoke {}",
        made["registration_key"].as_str().unwrap()
    );
    assert_ok(&controller.run(&revoke));
    let error = controller.fails(&revoke);
    assert!(error.contains("is revoked already"), "{error}");
}

/// Events as the server would record them.
fn record(controller: &Controller, events: &[(EventType, &str)]) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = Config::load(&controller.data().join("controller.toml")).unwrap();
        let store = store::open(&config).await.unwrap();
        for (event_type, description) in events {
            let event = NewEvent {
                event_type: *event_type,
                source_id: Some("192.0.2.1".to_owned()),
                description: (*description).to_owned(),
                at_ms: clock::now_ms(),
            };
            store.record_event(event).await.unwrap();
        }
        store.close().await.unwrap();
    });
}

fn events(output: &Output) -> Vec<serde_json::Value> {
    assert_ok(output);
    assert!(!text(&output.stdout).contains(['\u{9b}', '\u{202e}', '\u{1b}']));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["schema"], 1);
    object["events"].as_array().unwrap().clone()
}

#[test]
fn an_event_is_found_understood_and_dealt_with_once() {
    let controller = Controller::new();
    let hostile = "from \u{9b}2J\u{202e}x";
    record(
        &controller,
        &[
            (EventType::CloneSuspected, hostile),
            (EventType::UnknownKey, "x"),
        ],
    );
    let found = events(&controller.run("events list --severity high --since 1h --json"));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["event_type"], "clone_suspected");
    assert_eq!(found[0]["description"], hostile);
    let id = found[0]["event_id"].as_i64().unwrap();
    let shown = controller.run(&format!("events show {id}"));
    assert_ok(&shown);
    for part in [
        EventType::CloneSuspected.meaning(),
        EventType::CloneSuspected.what_to_do(),
        "\\u{9b}2J\\u{202e}x",
    ] {
        assert!(text(&shown.stdout).contains(part), "{part}");
    }
    let full = events(&controller.run(&format!("events show {id} --json")));
    assert_eq!(full[0]["meaning"], EventType::CloneSuspected.meaning());
    // One that is unknown spoils all.
    let other = id + 1;
    let error = controller.fails(&format!("events handle {other} 99 --note x"));
    assert!(error.contains("no event 99"), "{error}");
    let unhandled = || events(&controller.run("events list --unhandled --json")).len();
    assert_eq!(unhandled(), 2);
    let done = events(&controller.run(&format!("events handle {id} {id} --note moved --json")));
    assert_eq!(done.len(), 1);
    assert_eq!(
        (&done[0]["handled"], &done[0]["handling_notes"]),
        (&true.into(), &"moved".into())
    );
    assert!(done[0]["handled_at"].is_string());
    assert!(!done[0]["handled_by_user"].as_str().unwrap().is_empty());
    let error = controller.fails(&format!("events handle {other} {id} --note x"));
    assert!(error.contains("already handled"), "{error}");
    assert_eq!(unhandled(), 1);
    assert_ok(&controller.run(&format!("events handle {other} --note x")));
    let none = controller.run("events list --unhandled");
    assert_eq!(text(&none.stdout), "There are no such security events.\n");
}

#[test]
fn what_is_no_event_type_severity_or_note_is_a_wrong_argument() {
    let controller = Controller::new();
    for words in [
        "events list --type clone_suspecte",
        "events list --severity critical",
        "events list --since yesterday",
        "events handle --note x",
        "events handle 1 --note \u{1b}[2J",
        "events show x",
    ] {
        assert_eq!(controller.run(words).status.code(), Some(2), "{words}");
    }
    let error = controller.fails("events show 1");
    assert!(error.contains("no event 1"), "{error}");
}
