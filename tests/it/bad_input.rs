//! What people and networks get wrong, through the programs as installed: a clear sentence, an exit
//! code, and nothing written.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use vpn_node_protocol::encoding::Hex;
use vpn_node_protocol::token::Token;

use crate::support::controller::Controller;
use crate::support::host::Host;

fn sentence(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Enrols in vain; the sentence. The host must be as before.
fn refused(host: &Host, token: &str) -> String {
    let said = sentence(&host.command(&["enroll"], token));
    assert!(
        !host.state().exists(),
        "something was written although: {said}"
    );
    said
}

#[test]
fn each_kind_of_bad_token_has_its_own_sentence_and_writes_nothing() {
    let controller = Controller::start();
    let host = Host::new("");
    let good = controller.token();
    let mut damaged = good.to_string();
    damaged.replace_range(40..41, if &good[40..41] == "A" { "B" } else { "A" });
    let used = controller.token();
    assert!(Host::new("").command(&["enroll"], &used).status.success());

    let said = [
        refused(&host, &damaged),
        refused(&host, &good[..good.len() - 9]),
        refused(&host, &controller.token_for(-5_000)),
        refused(&host, &good.replacen("vnr1.", "vnr7.", 1)),
        refused(&host, &used),
    ];
    for (said, word) in said.iter().zip([
        "damaged",
        "cut short",
        "expired on",
        "version 7",
        "used already",
    ]) {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
        assert!(!said.contains(&good[10..40]), "{said:?} repeats the token");
    }
    assert!(
        host.command(&["enroll"], &good).status.success(),
        "the good token still enrols"
    );
}

#[test]
fn another_controller_and_none_at_all_are_told_with_address_and_pin() {
    let controller = Controller::start();
    let host = Host::new("");
    let with = |change: &dyn Fn(&mut Token)| {
        let mut token = Token::parse(&controller.token()).unwrap();
        change(&mut token);
        (token.url.clone(), refused(&host, &token.to_text()))
    };

    let pin = Hex([7; 32]);
    let (url, said) = with(&|token| token.server_pin = Some(pin));
    assert!(
        said.contains(&url) && said.contains(&format!("the token pins {pin}")),
        "{said}"
    );

    let (url, said) = with(&|token| token.root_pin = pin);
    assert!(
        said.contains(&url) && said.contains(&format!("expects {pin}")),
        "{said}"
    );

    let (_, said) = with(&|token| token.url = "https://127.0.0.1:1".into());
    assert!(
        said.contains("cannot reach the controller at https://127.0.0.1:1"),
        "{said}"
    );
    assert!(said.contains("trying again"), "{said}");
}

#[test]
fn an_enrolled_host_is_not_enrolled_over() {
    let controller = Controller::start();
    let host = Host::new("");
    assert!(
        host.command(&["enroll"], &controller.token())
            .status
            .success()
    );
    let before = fs::read(host.state().join("identity.json")).unwrap();
    let said = sentence(&host.command(&["enroll"], &controller.token()));
    assert!(said.contains("enrolled already"), "{said}");
    assert_eq!(
        fs::read(host.state().join("identity.json")).unwrap(),
        before
    );
}

#[test]
fn the_token_that_has_enrolled_a_host_may_be_given_to_it_again() {
    let controller = Controller::start();
    let host = Host::new("");
    let token = controller.token();
    assert!(host.command(&["enroll"], &token).status.success());
    let files = || {
        ["identity.json", "enrollment.json", "chain.slots"]
            .map(|name| fs::read(host.state().join(name)).unwrap())
    };
    let before = files();
    let again = host.command(&["enroll"], &token);
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(
        again.status.success() && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(files() == before, "the repeated enrolment changed a file");

    // Its identity is lost, or damaged: then it is no success.
    let identity = host.state().join("identity.json");
    fs::write(&identity, b"{").unwrap();
    let fails = |host: &Host| {
        let output = host.command(&["enroll"], &token);
        assert!(!output.status.success());
        let said = sentence(&output);
        assert!(
            said.contains("registration-key create --server NAME"),
            "{said}"
        );
    };
    fails(&host);
    fs::remove_file(&identity).unwrap();
    fails(&host);
    fs::write(&identity, &before[0]).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&identity, private).unwrap();
    assert!(host.command(&["enroll"], &token).status.success());
}

#[test]
fn a_key_that_others_can_read_stops_the_daemon_and_the_sentence_has_the_cure() {
    let controller = Controller::start();
    let host = Host::new("");
    assert!(
        host.command(&["enroll"], &controller.token())
            .status
            .success()
    );
    let key = host.state().join("identity.json");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let said = sentence(&host.start_in_vain());
    assert!(said.contains(&format!("chmod 0600 {key:?}")), "{said}");
}

#[test]
fn damaged_state_stops_the_daemon_and_names_the_file() {
    let controller = Controller::start();
    let host = Host::new("");
    assert!(
        host.command(&["enroll"], &controller.token())
            .status
            .success()
    );
    for name in ["chain.slots", "enrollment.json", "identity.json"] {
        let path = host.state().join(name);
        let good = fs::read(&path).unwrap();
        // A chain file is mostly empty space: what counts is everything that it says.
        let bad: Vec<u8> = good.iter().map(|byte| !byte).collect();
        fs::write(&path, bad).unwrap();
        let said = sentence(&host.start_in_vain());
        assert!(said.contains(name), "{said}");
        fs::write(&path, good).unwrap();
    }
}

#[test]
fn two_daemons_on_one_state_directory_are_one_too_many() {
    let controller = Controller::start();
    let mut host = Host::new("");
    assert!(
        host.command(&["enroll"], &controller.token())
            .status
            .success()
    );
    host.start();
    let said = sentence(&host.start_in_vain());
    assert!(said.contains("another vpn-node-agent"), "{said}");
}
