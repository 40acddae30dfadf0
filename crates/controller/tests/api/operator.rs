//! The operator's commands on servers that have been enrolled, as they are typed.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Host, World};

pub(crate) async fn run(world: &World, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vpn-node-controller"));
    command.arg("--data-dir").arg(&world.config.data_dir);
    command.args(words);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) async fn json(world: &World, words: &[&str]) -> Value {
    let output = run(world, words).await;
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) async fn fails(world: &World, words: &[&str]) -> String {
    let output = run(world, words).await;
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) async fn shown(world: &World, words: &[&str]) -> String {
    let output = run(world, words).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_token_says_whom_it_is_for() {
    let world = World::new().await;
    let host = Host::enrolled(&world, 1).await;
    let create = ["registration-key", "create", "--server", "host-1", "--json"];
    let made = json(&world, &create).await;
    assert_eq!(made["server_id"], host.server_id.as_str());
    let list = shown(&world, &["registration-key", "list"]).await;
    let whom = format!("host-1 ({})", host.server_id);
    assert!(
        list.contains(&whom) && list.contains("new server"),
        "{list}"
    );
    let listed = json(&world, &["registration-key", "list", "--json"]).await;
    let keys = listed["registration_keys"].as_array().unwrap();
    assert!(
        keys.iter()
            .any(|key| key["for_server_id"] == host.server_id.as_str())
    );
}

#[tokio::test]
async fn a_revocation_has_a_reason_and_no_way_back() {
    let world = World::new().await;
    Host::enrolled(&world, 1).await;
    let revoke = ["server", "revoke", "host-1", "--reason"];
    for bad in [" ", "sold \u{1b}[2J", &"x".repeat(256)] {
        let output = run(&world, &[&revoke[..], &[bad]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{bad:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("--reason"), "{error}");
    }
    let done = json(&world, &[&revoke[..], &["sold", "--json"]].concat()).await;
    assert_eq!(done["servers"][0]["status"], "revoked");
    let text = shown(&world, &["server", "show", "host-1"]).await;
    assert!(text.contains("sold"), "{text}");
    for words in [
        &[&revoke[..], &["again"]].concat()[..],
        &["server", "approve", "host-1"],
        &["server", "verify", "host-1"],
        &["server", "rotate-key", "host-1"],
        &["registration-key", "create", "--server", "host-1"],
    ] {
        let error = fails(&world, words).await;
        assert!(error.contains("revoked"), "{words:?}: {error}");
    }
}

#[tokio::test]
async fn a_new_key_is_asked_for_and_waited_for() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    host.beat(&world).await;
    let words = ["server", "rotate-key", "host-1", "--json"];
    let host_side = async {
        // The command is another process: its wish comes when it comes.
        while world.count("directives WHERE kind = 'rotate'").await == 0 {
            tokio::task::yield_now().await;
        }
        host.rotate(&world, 101).await;
        let row = json(&world, &["server", "show", "host-1", "--json"]).await;
        let next = host.identity().id().to_string();
        assert_eq!(row["servers"][0]["next_key_id"], next.as_str());
        host.beat(&world).await;
    };
    let (done, ()) = tokio::join!(json(&world, &words), host_side);
    let server = &done["servers"][0];
    assert_eq!(server["key_epoch"], 2);
    let id = host.identity().id().to_string();
    assert_eq!(server["identity_key_id"], id.as_str());
    let text = shown(&world, &["server", "show", "host-1"]).await;
    assert!(text.contains(&id) && text.contains("Key epoch"), "{text}");
}
