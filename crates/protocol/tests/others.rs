//! Others agree with us: a DSSE library that is not ours verifies what we sign and refuses what
//! was changed, and a program that was written from `docs/protocol.md` recomputes our vectors.
//!
//! Runs `tests/python/*.py` with the Python of `VPN_NODE_TEST_PYTHON`, which has
//! securesystemslib and cryptography; `cargo xtask test` makes it and sets the variable. Without
//! the variable nothing is checked here, and the test says so.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use uuid::Uuid;
use vpn_node_protocol::chain;
use vpn_node_protocol::encoding::{Base64, Hex};
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Authorisation, BacklogReport, Header, Heartbeat, Message};
use vpn_node_protocol::metrics::SystemMetrics;

const PYTHON: &str = "VPN_NODE_TEST_PYTHON";

fn python() -> Option<OsString> {
    let python = std::env::var_os(PYTHON);
    if python.is_none() {
        eprintln!(
            "SKIPPED: {PYTHON} is not set, so no second implementation was asked; \
             'cargo xtask test' sets it"
        );
    }
    python
}

/// Runs the script on an envelope, in a directory of the test's own.
fn verify(python: &OsString, name: &str, envelope: &Value, key: &PublicKey) -> Output {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dsse_library");
    std::fs::create_dir_all(&directory).unwrap();
    let file = directory.join(format!("{name}.json"));
    std::fs::write(&file, envelope.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python/verify_dsse.py");
    Command::new(python)
        .arg(script)
        .arg(file)
        .arg(json!(key).as_str().unwrap())
        .output()
        .unwrap_or_else(|error| panic!("{PYTHON}={}: {error}", python.display()))
}

/// The exit status must be the script's own, with its sentence: not that of a missing package.
fn assert_says(output: &Output, status: i32, sentence: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.code() == Some(status) && said.contains(sentence),
        "{output:?}"
    );
}

fn heartbeat() -> Message<Heartbeat> {
    let identity = PublicKey::from(&SigningKey::from_bytes(&[3; 32]));
    Message {
        header: Header {
            server_id: "srv-1".into(),
            epoch: 1,
            seq: 1,
            chain: chain::start("srv-1", 1, &identity),
            nonce: Hex([9; 32]),
            boot_id: Uuid::from_u128(1),
            agent_time_ms: 1_790_000_000_000,
            boottime_ms: 1,
            directive_acks: Vec::new(),
            proof: None,
        },
        body: Heartbeat {
            version: "0.1.0".into(),
            uptime_s: 1,
            backends: Vec::new(),
            metrics: SystemMetrics::default(),
            clock_offset_ms: None,
            backlog: BacklogReport::default(),
            location: Some("caf\u{e9} \u{1f511}".into()),
            authorisation: Authorisation::Unverified,
            verification_wanted: None,
            update: None,
        },
    }
}

#[test]
fn a_heartbeat_verifies_elsewhere_and_a_changed_one_does_not() {
    let Some(python) = python() else { return };
    let identity = SigningKey::from_bytes(&[3; 32]);
    let key = PublicKey::from(&identity);
    let signed = serde_json::to_value(Envelope::sign(&heartbeat(), &[&identity])).unwrap();
    assert_says(
        &verify(&python, "good", &signed, &key),
        0,
        "is signed by key",
    );

    for field in ["/payload", "/signatures/0/sig"] {
        let mut flipped = signed.clone();
        let value = flipped.pointer_mut(field).unwrap();
        let mut bytes: Base64 = serde_json::from_value(value.clone()).unwrap();
        bytes.0[20] ^= 1;
        *value = json!(bytes);
        assert_says(
            &verify(&python, "flipped", &flipped, &key),
            1,
            "is NOT signed by key",
        );
    }
    let mut retyped = signed.clone();
    retyped["payloadType"] = "application/vnd.vpn-node.heartbeat.v2+json".into();
    assert_says(
        &verify(&python, "retyped", &retyped, &key),
        1,
        "is NOT signed by key",
    );
    let other = PublicKey::from(&SigningKey::from_bytes(&[4; 32]));
    assert_says(
        &verify(&python, "other_key", &signed, &other),
        1,
        "is NOT signed by key",
    );
    let broken = json!({"payload": "e30="});
    assert_says(
        &verify(&python, "broken", &broken, &key),
        1,
        "does not hold a DSSE envelope",
    );
}

#[test]
fn every_example_verifies_elsewhere_with_each_of_its_keys() {
    let Some(python) = python() else { return };
    let file: Value = serde_json::from_str(include_str!("../vectors/messages.json")).unwrap();
    for (number, case) in file["messages"].as_array().unwrap().iter().enumerate() {
        for signer in case["signed_by"].as_array().unwrap() {
            let key = &file["keys"][signer.as_str().unwrap()]["public"];
            let key: PublicKey = serde_json::from_value(key.clone()).unwrap();
            let output = verify(
                &python,
                &format!("message-{number}"),
                &case["envelope"],
                &key,
            );
            assert_says(&output, 0, case["type"].as_str().unwrap());
        }
    }
}

#[test]
fn the_vectors_recompute_elsewhere() {
    let Some(python) = python() else { return };
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(&python)
        .arg(package.join("../../tests/python/recompute_vectors.py"))
        .arg(package.join("vectors"))
        .output()
        .unwrap();
    assert_says(&output, 0, "every value agrees");
}
