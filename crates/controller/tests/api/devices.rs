//! Users, their keys and their devices: as an operator makes them, and as hosts report them.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use vpn_node_protocol::connection::{ClientIdentity, ConnectionEvent, opaque_text};

use crate::connections::{batch, end, record, seal};
use crate::operator::{fails, json, run, shown};
use crate::support::{Host, World};

/// A WireGuard public key, as `wg` prints it.
pub(crate) const WIREGUARD: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

/// Words of a command, one a space.
pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// A user with a key and a device, made by an operator. Returns the key's secret.
pub(crate) async fn ada_with_a_laptop(world: &World) -> String {
    let made = json(world, &words("personal-key create --user ada --json")).await;
    let line = "device add --key ada --name laptop --platform linux --json";
    let device = json(world, &words(line)).await;
    assert_eq!(device["devices"][0]["user_name"], "ada");
    made["secret"].as_str().unwrap().to_owned()
}

/// Records in the ledger of a host: this is the first of them.
pub(crate) async fn report(
    world: &World,
    host: &mut Host,
    first_seq: u64,
    events: Vec<(u128, ConnectionEvent, ClientIdentity)>,
) {
    let seal = |(n, (connection, event, identity)): (u64, _)| {
        let mut record = record(host, connection, event);
        record.identity = Some(identity);
        seal(world, host, first_seq + n, &record)
    };
    let records = (0..).zip(events).map(seal).collect();
    let last = host.say(world, batch(records)).await;
    assert!(last.connections_ack.is_some());
}

pub(crate) fn identity(kind: &str, value: &str) -> ClientIdentity {
    ClientIdentity {
        kind: kind.into(),
        value: value.into(),
    }
}

async fn verify(world: &World, key: &str, secret: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vpn-node-controller"));
    command.arg("--data-dir").arg(&world.config.data_dir);
    command.args(["personal-key", "verify", key, "--json"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let secret = secret.to_owned();
    let verified = tokio::task::spawn_blocking(move || {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // It may have seen enough before the end.
        let _ = writeln!(stdin, "{secret}");
        drop(stdin);
        child.wait_with_output().unwrap()
    });
    verified.await.unwrap()
}

#[tokio::test]
async fn a_secret_is_shown_once_and_stands_nowhere() {
    let world = World::new().await;
    let line = "personal-key create --user ada --email ada@example.net --expires 30d --note staff";
    let made = run(&world, &words(line)).await;
    assert!(made.status.success(), "{made:?}");
    let secret = String::from_utf8(made.stdout).unwrap();
    let secret = secret.strip_suffix('\n').unwrap();
    assert!(
        secret.starts_with("vpnk_") && !secret.contains('\n'),
        "{secret}"
    );
    let told = String::from_utf8(made.stderr).unwrap();
    assert!(
        told.contains("ada") && !told.contains(&secret[5..]),
        "{told}"
    );
    let listed = shown(&world, &words("personal-key list")).await;
    let shown_json = shown(&world, &words("personal-key list --json")).await;
    let dump = world.dump().await;
    assert!(dump.contains("$argon2id$v=19$m=19456,t=2,p=1$"));
    for text in [&listed, &shown_json, &dump] {
        assert!(!text.contains(&secret[5..]), "{text}");
    }
    assert!(!listed.contains("argon2") && !shown_json.contains("argon2"));
    assert!(listed.contains("ada@example.net") && listed.contains("staff"));

    assert!(verify(&world, "ada", secret).await.status.success());
    let typo = verify(&world, "ada", &secret.replace(&secret[9..11], "..")).await;
    assert_eq!(typo.status.code(), Some(1));
    let told = String::from_utf8(typo.stderr).unwrap();
    assert!(told.contains("copy the whole string again"), "{told}");
    for bad in [String::new(), "x".repeat(100_000), "vpnk_\u{1b}[2J".into()] {
        let output = verify(&world, "ada", &bad).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(!output.stderr.contains(&0x1b));
    }

    let rotated = json(&world, &words("personal-key rotate ada --json")).await;
    let new = rotated["secret"].as_str().unwrap();
    assert_ne!(new, secret);
    let nothing = verify(&world, "ada", "").await;
    assert!(!nothing.status.success() && nothing.stdout.is_empty());
    let old = verify(&world, "ada", secret).await;
    let object: Value = serde_json::from_slice(&old.stdout).unwrap();
    assert_eq!(
        (old.status.code(), &object["valid"]),
        (Some(1), &false.into())
    );
    assert!(verify(&world, "ada", new).await.status.success());

    let revoke = words("personal-key revoke ada --reason left --json");
    let revoked = json(&world, &revoke).await;
    assert_eq!(revoked["personal_keys"][0]["status"], "revoked");
    let again = fails(&world, &revoke).await;
    assert!(again.contains("revoked already"), "{again}");
    let dead = verify(&world, "ada", new).await;
    let object: Value = serde_json::from_slice(&dead.stdout).unwrap();
    assert_eq!(
        object["reason"],
        "the secret is right, but the key is revoked"
    );
    for line in [
        "personal-key rotate ada",
        "personal-key rotate ada --expires 1d",
        "device add --key ada --name x --platform x",
    ] {
        let error = fails(&world, &words(line)).await;
        assert!(error.contains("revoked"), "{line}: {error}");
    }
}

#[tokio::test]
async fn connections_have_a_user_and_a_device_whichever_came_first() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let hers = || identity("wireguard", WIREGUARD);
    let early = vec![
        (1, ConnectionEvent::Start, hers()),
        (1, end(), hers()),
        (2, ConnectionEvent::Start, hers()),
        (3, ConnectionEvent::Start, identity("certificate", "nobody")),
    ];
    report(&world, &mut host, 1, early).await;
    let list = async |more: &str| {
        let line = format!("connections list --json{more}");
        let object = json(&world, &words(&line)).await;
        object["connections"].as_array().unwrap().clone()
    };
    assert_eq!(list(" --unmapped").await.len(), 3);
    ada_with_a_laptop(&world).await;
    // The same key without its padding is the same key.
    let line = format!(
        "device identity add laptop --wireguard {}",
        WIREGUARD.trim_end_matches('=')
    );
    let told = shown(&world, &words(&line)).await;
    assert!(told.contains("2 connections that were nobody's"), "{told}");
    report(
        &world,
        &mut host,
        5,
        vec![(4, ConnectionEvent::Start, hers())],
    )
    .await;
    assert_eq!(list(" --unmapped").await.len(), 1);
    assert_eq!(list(" --user ada").await.len(), 3);
    assert_eq!(list(" --device laptop --active").await.len(), 2);
    let text = shown(&world, &words("connections list --user ada")).await;
    assert!(text.contains("laptop") && text.contains("DEVICE"), "{text}");
    let id = list(" --device laptop").await[0]["connection_id"].clone();
    let text = shown(&world, &["connections", "show", id.as_str().unwrap()]).await;
    for part in [
        "ada",
        "laptop",
        WIREGUARD,
        "198.51.100.7 port 51820",
        "host-1",
        "10 B",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let device = json(&world, &words("device show laptop --json")).await;
    assert_eq!(device["devices"][0]["active_connections"], 2);
    assert_eq!(
        device["devices"][0]["identity_rows"][0]["identity"],
        WIREGUARD
    );

    json(
        &world,
        &words("device add --key ada --name phone --platform ios --json"),
    )
    .await;
    let line = format!("device identity add phone --wireguard {WIREGUARD}");
    let error = fails(&world, &words(&line)).await;
    assert!(
        error.contains("another device") && error.contains("laptop"),
        "{error}"
    );
    let line = format!("device identity remove laptop --wireguard {WIREGUARD}");
    shown(&world, &words(&line)).await;
    let error = fails(&world, &words(&line)).await;
    assert!(error.contains("does not have"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_a_name_is_refused_with_a_sentence() {
    let world = World::new().await;
    ada_with_a_laptop(&world).await;
    let long = "x".repeat(256);
    for (words, part) in [
        (
            vec!["personal-key", "create", "--user", "a\nb"],
            "control characters",
        ),
        (
            vec!["personal-key", "create", "--user", " "],
            "says nothing",
        ),
        (
            vec!["personal-key", "create", "--user", &long],
            "longer than 255",
        ),
        (
            vec!["personal-key", "create", "--user", "a", "--expires", "1s"],
            "between 1m and 3650d",
        ),
        (
            vec![
                "device",
                "add",
                "--key",
                "ada",
                "--name",
                "a\u{1b}[2J",
                "--platform",
                "x",
            ],
            "control characters",
        ),
        (
            vec![
                "device", "revoke", "laptop", "--reason", "x", "--wait", "1h",
            ],
            "at most 2m",
        ),
        (vec!["device", "identity", "add", "laptop"], "--wireguard"),
        (
            vec![
                "device", "identity", "add", "laptop", "--cert", "a", "--eap", "b",
            ],
            "cannot be used",
        ),
        (
            vec!["connections", "list", "--unmapped", "--user", "ada"],
            "cannot be used",
        ),
    ] {
        let output = run(&world, &words).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert!(error.contains(part), "{words:?}: {error}");
    }
    for (words, part) in [
        (
            vec![
                "device",
                "identity",
                "add",
                "laptop",
                "--wireguard",
                "alice",
            ],
            "no WireGuard public key",
        ),
        (
            vec!["device", "identity", "add", "laptop", "--eap", ""],
            "cannot be empty",
        ),
        (vec!["device", "show", "nobodys"], "no device is called"),
        (vec!["device", "show", ""], "no device is called"),
        (
            vec!["personal-key", "verify", "eve"],
            "no personal key is called",
        ),
        (vec!["connections", "show", "zz"], "no connection is called"),
        (
            vec!["connections", "disconnect", ""],
            "no connection is called",
        ),
    ] {
        let error = fails(&world, &words).await;
        assert!(error.contains(part), "{words:?}: {error}");
    }
    json(&world, &words("personal-key create --user ada --json")).await;
    let error = fails(&world, &words("device add --key ada --name x --platform x")).await;
    assert!(error.contains("2 personal keys are meant"), "{error}");
    assert_eq!(error.matches("ada, active, made 2").count(), 2, "{error}");
}

#[tokio::test]
async fn hostile_names_are_matched_by_their_bytes_and_shown_escaped() {
    let world = World::new().await;
    let mut host = Host::enrolled(&world, 1).await;
    let user = "b\u{202e}'; DROP TABLE devices; --,\"=cmd|' /C calc'!A0";
    let create = ["personal-key", "create", "--user", user, "--json"];
    json(&world, &create).await;
    let long = "y".repeat(64 * 1024);
    let names = ["a\nb\u{1b}[2J", "%s{}\\x00", "-rf /", long.as_str()];
    for (n, name) in names.iter().enumerate() {
        let device = format!("d{n}\u{202e}");
        let add = [
            "device",
            "add",
            "--key",
            user,
            "--name",
            &device,
            "--platform",
            "x",
            "--json",
        ];
        json(&world, &add).await;
        let written = opaque_text(name.as_bytes());
        let start = (
            n as u128 + 1,
            ConnectionEvent::Start,
            identity("certificate", &written),
        );
        report(&world, &mut host, n as u64 + 1, vec![start]).await;
        let identify = ["device", "identity", "add", &device, "--cert", name];
        let told = shown(&world, &identify).await;
        assert!(told.contains("1 connection that was nobody's"), "{told}");
        // Escaped once, and not once more by whoever shows it.
        assert!(told.contains(&format!(" {written} now")), "{told}");
        let device = shown(&world, &["device", "show", &device]).await;
        assert!(
            device.contains(&format!("certificate {written}\n")),
            "{device}"
        );
    }
    for line in [
        "connections list",
        "device list",
        "personal-key list",
        "events list",
    ] {
        let text = shown(&world, &words(line)).await;
        let bad = |c: char| c == '\u{202e}' || (c.is_control() && c != '\n');
        assert!(!text.contains(bad), "{line}: {text}");
        let text = shown(&world, &words(&format!("{line} --json"))).await;
        assert!(!text.contains(bad), "{line}: {text}");
    }
    let listed = json(&world, &["connections", "list", "--user", user, "--json"]).await;
    assert_eq!(listed["connections"].as_array().unwrap().len(), names.len());
}
