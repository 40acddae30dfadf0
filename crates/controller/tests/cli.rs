//! The operator's commands as they are typed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

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

#[test]
fn the_documentation_has_every_security_event() {
    let page = include_str!("../../../docs/controller.md");
    let mut found = 0;
    for folder in ["api", "rules", "store/sqlite"] {
        let folder = format!("{}/src/{folder}", env!("CARGO_MANIFEST_DIR"));
        for file in fs::read_dir(folder).unwrap() {
            let code = fs::read_to_string(file.unwrap().path()).unwrap();
            let code = code.split("#[cfg(test)]").next().unwrap();
            for event in event_types(code) {
                assert!(page.contains(&format!("`{event}`")), "{event}");
                found += 1;
            }
        }
    }
    assert!(found >= 17, "{found}");
}

/// The string literals that stand before a severity, or in a field `event_type`.
fn event_types(code: &str) -> Vec<&str> {
    let pieces: Vec<&str> = code.split('"').collect();
    let is_event = |around: &[&str]| {
        let after = around[2].trim_start_matches(',').trim_start();
        around[0].ends_with("event_type: ") || after.starts_with("Severity::")
    };
    pieces
        .windows(3)
        .filter(|around| is_event(around))
        .map(|around| around[1])
        .collect()
}
