//! The operator's commands as they are typed.

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
