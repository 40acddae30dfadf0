//! The users that a package makes for us (`systemd/sysusers.d`), and what their units keep from them.

use std::fs;
use std::path::Path;

/// sshd lets a user in by the keys in his home, whatever his shell, and the session's service manager
/// runs what lies there: out of the unit's sandbox.
#[test]
fn no_user_of_ours_has_a_home_that_it_can_write() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/sysusers.d");
    let mut users = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // u NAME ID "words" HOME [SHELL]
            let (name, rest) = line.split_once(" - \"").expect("a user with any number");
            let after = rest.split_once('"').expect("a description").1;
            let fields: Vec<_> = after.split_whitespace().collect();
            assert_eq!(fields, ["-"], "home and shell of {name}");
            users.push(name.to_owned());
        }
    }
    users.sort();
    assert_eq!(users, ["u vpn-node", "u vpn-node-controller"]);
}

/// Outside of a sandbox runs what operators run as the controller's user, and beside the agent the
/// gate: another user namespace is what keeps a process from writing into their memory.
#[test]
fn a_unit_whose_user_has_other_processes_has_a_user_namespace_of_its_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for unit in ["vpn-node-controller.service", "vpn-node-gate.service"] {
        let text = fs::read_to_string(folder.join(unit)).unwrap();
        assert!(
            text.lines().any(|line| line == "PrivateUsers=yes"),
            "{unit}"
        );
    }
}
