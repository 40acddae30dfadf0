//! Sealing beside the changes of an identity: what was sealed stays sealed, and what cannot be is
//! said.

use std::fs;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;
use vpn_node::host::hardware::{self, Roots};
use vpn_node::host::sealing::{self, SealWith, SystemdCreds};
use vpn_node::host::state::StateDir;
use vpn_node::remote::{Options, enrol as remote};
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::token::Token;

use super::{connected, enrol, epoch, server, verified, verified_host};
use crate::sealing::machine;
use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::secrets::{all_files, contains_any, forms};
use crate::support::wait_for;

/// A verified host, stopped and sealed; none without systemd-creds.
fn sealed_host(controller: &Controller) -> Option<(Host, PathBuf)> {
    let mut host = verified_host(controller);
    host.kill();
    let machine = machine(host.dir(), "machine")?;
    seal(&host, &machine);
    Some((host, machine))
}

fn seal(host: &Host, machine: &Path) {
    let creds = SystemdCreds::find(&[machine]).unwrap();
    sealing::seal(&StateDir::new(host.state()), &creds, SealWith::Host).unwrap();
}

/// As the unit does it.
fn start(host: &mut Host, machine: &Path) {
    let state = StateDir::new(host.state());
    sealing::unseal_for_start(&state, &host.runtime(), &[machine]).unwrap();
    host.start();
}

/// The format of a file of the identity.
fn format(host: &Host, name: &str) -> Option<u64> {
    let text = fs::read_to_string(host.state().join(name)).ok()?;
    let file: serde_json::Value = serde_json::from_str(&text).unwrap();
    file["version"].as_u64()
}

fn opened(host: &Host, machine: &Path) -> SigningKey {
    let state = sealing::with_kek(StateDir::new(host.state()), &[machine]).unwrap();
    state.identity_store().read().unwrap().unwrap().key
}

#[test]
fn a_sealed_host_rotates_sealed() {
    let controller = Controller::start();
    let Some((mut host, machine)) = sealed_host(&controller) else {
        return;
    };
    let old = opened(&host, &machine);
    assert_eq!(format(&host, "identity.json"), Some(2));
    start(&mut host, &machine);
    verified(&host);
    let (_wireguard, id) = connected(&controller, &host);
    assert!(host.command(&["identity", "rotate"], "").status.success());
    wait_for("the next epoch", || {
        (epoch(&host) == Some(2) && server(&controller).key_epoch == 2).then_some(())
    });
    host.kill();
    let new = opened(&host, &machine);
    assert_eq!(
        PublicKey::from(&new).id().to_string(),
        server(&controller).identity_key_id
    );
    assert_eq!(format(&host, "identity.json"), Some(2));
    assert!(host.state().join("identity.sealed").exists());
    for key in [old, new] {
        let files = all_files(&host.state());
        assert!(
            !contains_any(&files, &forms(key.as_bytes())),
            "no plain key"
        );
    }
    start(&mut host, &machine);
    verified(&host);
    let rows = controller.connections();
    assert_eq!((rows.len(), rows[0].connection_id.clone()), (1, id));
}

#[test]
fn a_rotation_that_waits_is_sealed_and_unsealed_with_the_key_in_force_and_goes_on() {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    host.kill();
    let Some(machine) = machine(host.dir(), "machine") else {
        return;
    };
    let state = StateDir::new(host.state());
    let creds = SystemdCreds::find(&[&machine]).unwrap();
    let next = SigningKey::from_bytes(&[0x5a; 32]);
    state.store_next_key(&next, &mut UnwrapErr(SysRng)).unwrap();
    for _ in 0..2 {
        seal(&host, &machine);
        assert_eq!(format(&host, "identity.next.json"), Some(2));
        let files = all_files(&host.state());
        assert!(
            !contains_any(&files, &forms(next.as_bytes())),
            "no plain key"
        );
        sealing::unseal(&state, &creds).unwrap();
        assert_eq!(format(&host, "identity.json"), Some(1));
        assert_eq!(format(&host, "identity.next.json"), Some(1));
        assert!(!host.state().join("identity.sealed").exists());
    }
    // Sealed or not, the rotation goes on to the key that waited.
    seal(&host, &machine);
    start(&mut host, &machine);
    let id = PublicKey::from(&next).id().to_string();
    wait_for("the key that waited", || {
        (server(&controller).identity_key_id == id).then_some(())
    });
    verified(&host);
    host.kill();
    assert_eq!(opened(&host, &machine), next);
}

#[test]
fn a_change_in_force_is_finished_before_it_is_sealed_or_unsealed() {
    let controller = Controller::start();
    let mut host = verified_host(&controller);
    host.kill();
    let Some(machine) = machine(host.dir(), "machine") else {
        return;
    };
    let creds = SystemdCreds::find(&[&machine]).unwrap();
    for unseals in [false, true] {
        // As if the power had failed with the new lane on disk, and neither file in its place.
        let before = host.dir().join(format!("before-{unseals}"));
        super::copy(&host.state(), &before);
        match unseals {
            true => start(&mut host, &machine),
            false => host.start(),
        }
        verified(&host);
        let to = epoch(&host).unwrap() + 1;
        assert!(host.command(&["identity", "rotate"], "").status.success());
        wait_for("the next epoch", || {
            (epoch(&host) == Some(to)).then_some(())
        });
        wait_for("its first use", || {
            (server(&controller).key_epoch == i64::try_from(to).unwrap()).then_some(())
        });
        host.kill();
        let place = |name: &str| host.state().join(name);
        fs::rename(place("identity.json"), place("identity.next.json")).unwrap();
        for name in ["identity.json", "enrollment.json"] {
            fs::copy(before.join(name), place(name)).unwrap();
        }
        let state = StateDir::new(host.state());
        match unseals {
            true => sealing::unseal(&state, &creds).unwrap(),
            false => seal(&host, &machine),
        }
        assert!(!place("identity.next.json").exists());
        let key = PublicKey::from(&opened(&host, &machine));
        assert_eq!(key.id().to_string(), server(&controller).identity_key_id);
        assert_eq!(
            format(&host, "identity.json"),
            Some(if unseals { 1 } else { 2 })
        );
    }
    host.start();
    verified(&host);
}

#[test]
fn a_sealed_host_that_is_enrolled_anew_is_sealed_or_says_that_it_is_not() {
    let controller = Controller::start();
    let Some((mut host, machine)) = sealed_host(&controller) else {
        return;
    };
    let server_id = server(&controller).server_id;
    let rng = &mut UnwrapErr(SysRng);

    // Cut off before anything is in force, by who could not open the seal: the old one stays.
    let state = StateDir::new(host.state());
    let nobodys = PublicKey::from(&SigningKey::from_bytes(&[1; 32]));
    state.begin_reenrolment(nobodys, rng).unwrap();
    assert!(host.state().join("identity.sealed").exists());
    start(&mut host, &machine);
    verified(&host);
    assert_eq!(
        format(&host, "identity.next.json"),
        Some(2),
        "nor in plain for long"
    );
    host.kill();

    // By root, who can open the seal: sealed under the same key.
    let state = sealing::with_kek(state, &[&machine]).unwrap();
    let token = Token::parse(&controller.token_for_server(&server_id)).unwrap();
    let options = Options {
        urls: Vec::new(),
        server_pin: None,
        ca_file: None,
        proxy: None,
    };
    let facts = remote::Host {
        hostname: "host".into(),
        os_version: String::new(),
        location: None,
        components: hardware::probe(&Roots::host(&host.runtime())).components,
        capabilities: Vec::new(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(remote::enrol(&token, options, &facts, &state, rng));
    assert_eq!(done.unwrap().enrolment.epoch, 2);
    assert_eq!(format(&host, "identity.json"), Some(2));
    start(&mut host, &machine);
    verified(&host);
    host.kill();

    // By the command, which knows only the machine's own systemd-creds: in plain, and said.
    let output = enrol(&host, &controller.token_for_server(&server_id));
    for part in [
        "was sealed, and the new one is in plain",
        "vpn-node identity seal",
    ] {
        assert!(output.contains(part), "{part}: {output}");
    }
    assert_eq!(format(&host, "identity.json"), Some(1));
    assert!(!host.state().join("identity.sealed").exists());
    host.start();
    verified(&host);
    assert_eq!(server(&controller).key_epoch, 3);
    host.kill();
    seal(&host, &machine);
    start(&mut host, &machine);
    verified(&host);
}
