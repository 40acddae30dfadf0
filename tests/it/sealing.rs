//! A sealed identity in the real programs: the agent starts with what this machine unseals, goes on
//! as the same host, and does not start without it.
//!
//! Sealed by the real systemd-creds with a host key of the test's own, through a script in its
//! place: the machine's own host key is not touched. Without the program the test says so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use vpn_node::host::sealing::{self, KEK_FILE, PROGRAM_DIRS, SealWith, SystemdCreds};
use vpn_node::host::state::StateDir;

use crate::support::controller::Controller;
use crate::support::host::Host;
use crate::support::secrets::{all_files, contains_any, forms};
use crate::support::{read, wait_for};

/// A directory with a systemd-creds whose host key is the test's own.
pub(crate) fn machine(dir: &Path, name: &str) -> Option<PathBuf> {
    if SystemdCreds::find(&PROGRAM_DIRS.map(Path::new)).is_err() {
        eprintln!("SKIPPED: systemd-creds is not installed, so nothing was sealed");
        return None;
    }
    let machine = dir.join(name);
    fs::create_dir(&machine).unwrap();
    let program = machine.join("systemd-creds");
    let key = machine.join("credential.secret");
    let text = format!(
        "#!/bin/sh\nexport SYSTEMD_CREDENTIAL_SECRET={key:?}\nexec /usr/bin/systemd-creds \"$@\"\n"
    );
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Some(machine)
}

fn verified(host: &Host) {
    wait_for("the verdict", || {
        (host.status()["verification"]["state"] == "verified").then_some(())
    });
}

#[test]
fn a_sealed_host_goes_on_as_the_same_one_and_its_copy_does_not_start() {
    let mut host = Host::new("");
    let (Some(here), Some(there)) = (machine(host.dir(), "here"), machine(host.dir(), "there"))
    else {
        return;
    };
    let controller = Controller::start();
    let enrolled = host.command(&["enroll"], &controller.token());
    assert!(enrolled.status.success(), "{enrolled:?}");
    host.start();
    verified(&host);
    let identity_status = |host: &Host| -> serde_json::Value {
        let output = host.command(&["identity", "status", "--json"], "");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let plain = identity_status(&host);
    assert_eq!(
        (&plain["sealed"], &plain["epoch"]),
        (&false.into(), &1.into())
    );
    assert_eq!(plain["key_id"], controller.servers()[0].identity_key_id);
    // The command refuses beside a running agent (and without root).
    let refused = host.command(&["identity", "seal"], "");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    host.kill();

    let state = StateDir::new(host.state());
    let enrolment = state.enrolment().unwrap().unwrap();
    let key = state.identity(&enrolment).unwrap().key;
    let creds = SystemdCreds::find(&[&here]).unwrap();
    sealing::seal(&state, &creds, SealWith::Host).unwrap();
    let files = all_files(&host.state());
    assert!(
        !contains_any(&files, &forms(key.as_bytes())),
        "no plain key"
    );
    let sealed = identity_status(&host);
    assert_eq!(
        (&sealed["sealed"], &sealed["sealed_with"], &sealed["key_id"]),
        (&true.into(), &"host".into(), &plain["key_id"])
    );

    // Nobody has unsealed it.
    let output = host.start_in_vain();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stdout);
    for part in [
        "is sealed",
        "another machine",
        "registration-key create --server",
        "vpn-node enroll",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // A machine with another host key.
    let error = sealing::unseal_for_start(&state, &host.runtime(), &[&there]);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("cannot be unsealed")
    );
    assert!(!host.runtime().join(KEK_FILE).exists());

    // As the unit does it before each start.
    sealing::unseal_for_start(&state, &host.runtime(), &[&here]).unwrap();
    host.start();
    assert!(
        !host.runtime().join(KEK_FILE).exists(),
        "taken away at once"
    );
    verified(&host);
    assert_eq!(controller.servers()[0].status, "active", "the same host");
    assert_eq!(controller.servers().len(), 1);
    host.kill();
    // What another user could have read is not used, and the log says which file it is.
    sealing::unseal_for_start(&state, &host.runtime(), &[&here]).unwrap();
    let kek = host.runtime().join(KEK_FILE);
    fs::set_permissions(&kek, fs::Permissions::from_mode(0o444)).unwrap();
    let output = host.start_in_vain();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("others may read it"), "{said}");
    assert!(!read(&host.log()).contains("panicked"));
}

#[test]
fn unsealing_is_nothing_to_a_host_in_plain() {
    let host = Host::new("");
    let controller = Controller::start();
    let status = host.command(&["identity", "status", "--json"], "");
    assert_eq!(status.status.code(), Some(4));
    let said: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(said["error"]["code"], "not_enrolled");
    for _ in ["before it is enrolled", "and after"] {
        let output = host.start_with(&["--unseal-identity"]);
        assert!(output.status.success(), "{output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
        assert!(!host.runtime().join(KEK_FILE).exists());
        host.command(&["enroll"], &controller.token());
    }
}
