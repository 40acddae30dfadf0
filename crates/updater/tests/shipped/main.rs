//! What is installed beside the program: the units keep what they promise each other, and the
//! package's script moves no link that is not its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The directives of a unit file, in their order.
fn directives(unit: &str) -> Vec<String> {
    let path = repository().join("systemd").join(unit);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// Those from the first of this name to the next section.
fn from(all: &[String], first: &str) -> Vec<String> {
    let begin = all.iter().position(|line| line.starts_with(first)).unwrap();
    let rest = all[begin..].iter();
    rest.take_while(|line| !line.starts_with('['))
        .cloned()
        .collect()
}

fn has(unit: &str, line: &str) {
    assert!(
        directives(unit).iter().any(|l| l == line),
        "{unit} lacks {line}"
    );
}

#[test]
fn a_version_on_trial_has_exactly_the_rights_of_a_stable_one() {
    let stable = from(&directives("vpn-node-agent.service"), "User=");
    let trial = from(&directives("vpn-node-agent-exp.service"), "User=");
    assert!(stable.len() > 40, "{}", stable.len());
    assert_eq!(stable, trial);
    // What comes before differs in the slot alone, and in what a trial is.
    let commands = |unit: &str, slot: &str| -> Vec<String> {
        let all = directives(unit);
        // Nobody reloads a trial: ExecReload= is the stable unit's alone.
        let exec = all.iter().filter(|line| line.starts_with("ExecStart"));
        exec.map(|line| line.replace(slot, "SLOT")).collect()
    };
    assert_eq!(
        commands("vpn-node-agent.service", "/opt/vpn-node/stable/"),
        commands("vpn-node-agent-exp.service", "/opt/vpn-node/experiment/")
    );
}

#[test]
fn a_trial_ends_on_stable_whatever_ends_it() {
    let unit = "vpn-node-agent-exp.service";
    for line in [
        "Conflicts=vpn-node-agent.service",
        "After=vpn-node-agent.service",
        "OnFailure=vpn-node-agent.service",
        "Restart=no",
        "StartLimitIntervalSec=0",
    ] {
        has(unit, line);
    }
    assert!(!directives(unit).iter().any(|line| line == "[Install]"));
    // Killed at any moment, the updater sends home what it watched.
    has(
        "vpn-node-updater.service",
        "ExecStopPost=-/opt/vpn-node/stable/bin/vpn-node-updater recover",
    );
    has(
        "vpn-node-updater-recover.service",
        "Before=vpn-node-agent.service vpn-node-agent-exp.service vpn-node-updater.service",
    );
}

#[test]
fn all_units_of_the_updater_have_one_sandbox_without_network() {
    let first = "CapabilityBoundingSet=";
    let run = from(&directives("vpn-node-updater.service"), first);
    for unit in [
        "vpn-node-updater-recover.service",
        "vpn-node-updater-rescue.service",
    ] {
        assert_eq!(from(&directives(unit), first), run, "{unit}");
    }
    for line in [
        "PrivateNetwork=yes",
        "RestrictAddressFamilies=AF_UNIX",
        "ProtectSystem=strict",
    ] {
        assert!(run.iter().any(|l| l == line), "{line}");
    }
}

/// The names of our units of this kind, such as `.service`.
fn units(kind: &str) -> Vec<String> {
    let folder = fs::read_dir(repository().join("systemd")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(kind)).collect()
}

#[test]
fn the_right_over_the_network_is_the_readers_alone() {
    let reader = "vpn-node-wireguard.service";
    for unit in units(".service") {
        let net_admin = directives(&unit)
            .iter()
            .any(|l| l.contains("CAP_NET_ADMIN"));
        assert_eq!(net_admin, unit == reader, "{unit}");
    }
    has(reader, "CapabilityBoundingSet=CAP_NET_ADMIN");
    has(reader, "RestrictAddressFamilies=AF_NETLINK");
    has(reader, "IPAddressDeny=any");
    // A restart of the agent is one of the reader.
    has(
        reader,
        "PartOf=vpn-node-agent.service vpn-node-agent-exp.service",
    );
    // And the agent ends first.
    has(
        reader,
        "Before=vpn-node-agent.service vpn-node-agent-exp.service",
    );
    for line in [
        "ListenSequentialPacket=/run/vpn-node-wireguard/reader.sock",
        "SocketUser=vpn-node",
        "SocketMode=0600",
    ] {
        has("vpn-node-wireguard.socket", line);
    }
    for unit in ["vpn-node-agent.service", "vpn-node-agent-exp.service"] {
        has(unit, "AmbientCapabilities=");
        has(unit, "CapabilityBoundingSet=");
        // Wanted, not required: without them it starts, and says what is missing.
        has(
            unit,
            "Wants=vpn-node-hardware.service vpn-node-wireguard.socket",
        );
        has(unit, "Upholds=vpn-node-wireguard.socket");
        has(
            unit,
            "After=vpn-node-hardware.service vpn-node-wireguard.socket",
        );
    }
    has("vpn-node-hardware.service", "CapabilityBoundingSet=");
}

/// logind starts a service manager without a sandbox for any user who asks over the system bus
/// (`SetUserLinger`), and again at each boot.
#[test]
fn who_speaks_with_others_and_is_not_root_does_not_reach_the_system_bus() {
    let mut hidden = Vec::new();
    for unit in units(".service") {
        let all = directives(&unit);
        let unix = |line: &String| {
            line.starts_with("RestrictAddressFamilies=") && line.contains("AF_UNIX")
        };
        let user = |line: &String| line.starts_with("User=") && line != "User=root";
        if all.iter().any(unix) && all.iter().any(user) {
            has(&unit, "InaccessiblePaths=-/run/dbus");
            hidden.push(unit);
        }
    }
    assert_eq!(hidden.len(), 4, "{hidden:?}");
}

/// systemd gives a process all the time to stop that it asks for (`EXTEND_TIMEOUT_USEC`), if it
/// listens to it at all.
#[test]
fn nobody_waits_for_ever_for_a_service_that_will_not_stop() {
    let mut heard = 0;
    for unit in units(".service") {
        let speaks =
            |line: &String| line.starts_with("Type=notify") || line.starts_with("NotifyAccess=");
        if directives(&unit).iter().any(speaks) {
            has(&unit, "JobRunningTimeoutSec=240");
            heard += 1;
        }
    }
    assert_eq!(heard, 4);
    // Then the packages end the agent.
    for script in ["postinst", "prerm", "rpm-posttrans.sh", "rpm-preun.sh"] {
        let text = fs::read_to_string(repository().join("packaging/agent").join(script)).unwrap();
        let kills = text.contains("|| systemctl kill --signal=KILL \"$unit\" || ")
            || text.contains("systemctl kill --signal=KILL vpn-node-agent.service || ");
        assert!(kills, "{script}");
    }
}

#[test]
fn the_preset_names_exactly_what_can_be_enabled() {
    let preset = repository().join("systemd/system-preset/70-vpn-node.preset");
    let preset = fs::read_to_string(preset).unwrap();
    let lines = preset.lines().filter(|line| !line.starts_with('#'));
    let mut named: Vec<&str> = lines.map(|line| line.split_once(' ').unwrap().1).collect();
    named.sort_unstable();
    let mut installable: Vec<String> = [".service", ".socket", ".path"]
        .into_iter()
        .flat_map(units)
        .filter(|unit| directives(unit).iter().any(|line| line == "[Install]"))
        // Of another package.
        .filter(|unit| unit != "vpn-node-controller.service")
        .collect();
    installable.sort_unstable();
    assert_eq!(named, installable);
}

/// A host's tree with the package's files in place.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for folder in [
            "opt/vpn-node/system/bin",
            "opt/vpn-node/versions",
            "usr/bin",
        ] {
            fs::create_dir_all(tree.at(folder)).unwrap();
        }
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn version(&self, version: &str) {
        fs::create_dir_all(self.at("opt/vpn-node/versions").join(version)).unwrap();
    }

    /// As the package's scripts do with version `package` in place.
    fn install(&self, package: &str) {
        let manifest = format!(r#"{{"format":1,"product":"vpn-node","version":"{package}"}}"#);
        fs::write(self.at("opt/vpn-node/system/manifest.json"), manifest).unwrap();
        self.run(&["--systemd", "252", "install"]);
    }

    fn run(&self, words: &[&str]) {
        let script = repository().join("packaging/agent/links");
        let mut command = Command::new(script);
        command.arg("--root").arg(self.0.path()).args(words);
        // What somebody's environment says is nothing to a script that runs as root.
        command.env("VPN_NODE_ROOT", "/nowhere");
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.at(path)).ok()?;
        Some(target.to_str().unwrap().to_owned())
    }

    fn stable(&self) -> Option<String> {
        self.link("opt/vpn-node/stable")
    }
}

#[test]
fn a_first_installation_makes_all_links_and_a_removal_takes_them_away() {
    let tree = Tree::new();
    for _ in 0..2 {
        tree.install("1.0.0");
        assert_eq!(tree.stable().as_deref(), Some("system"));
        let program = tree.link("usr/bin/vpn-node-updater");
        assert_eq!(
            program.as_deref(),
            Some("/opt/vpn-node/stable/bin/vpn-node-updater")
        );
    }
    tree.run(&["remove"]);
    tree.run(&["remove"]);
    assert_eq!(fs::read_dir(tree.at("usr/bin")).unwrap().count(), 0);
    assert_eq!(tree.stable(), None);
    assert!(tree.at("opt/vpn-node/system/bin").exists());
}

#[test]
fn a_package_takes_over_only_what_is_older_than_itself() {
    for (package, installed, takes_over) in [
        ("1.4.0", "1.5.0", false),
        ("1.5.0", "1.5.0", false),
        ("1.6.0", "1.5.0", true),
        ("1.10.0", "1.9.0", true),
        ("2.0.0", "2.0.0-rc.1", true),
        ("2.0.0-rc.1", "2.0.0", false),
    ] {
        let tree = Tree::new();
        let managed = format!("versions/{installed}");
        tree.version(installed);
        symlink(&managed, tree.at("opt/vpn-node/stable")).unwrap();
        tree.install(package);
        let expected = if takes_over { "system" } else { &managed };
        assert_eq!(
            tree.stable().as_deref(),
            Some(expected),
            "{package} on {installed}"
        );
        let way_back = takes_over.then_some(managed);
        assert_eq!(
            tree.link("opt/vpn-node/previous"),
            way_back,
            "{package} on {installed}"
        );
    }
}

#[test]
fn a_link_to_nothing_is_mended_and_a_trial_is_not_disturbed() {
    let tree = Tree::new();
    symlink("versions/1.5.0", tree.at("opt/vpn-node/stable")).unwrap();
    tree.install("1.0.0");
    assert_eq!(
        tree.stable().as_deref(),
        Some("system"),
        "1.5.0 is not there"
    );

    let tree = Tree::new();
    symlink("/srv/elsewhere", tree.at("opt/vpn-node/stable")).unwrap();
    tree.install("1.0.0");
    assert_eq!(
        tree.stable().as_deref(),
        Some("/srv/elsewhere"),
        "an operator's link, to what may be mounted later"
    );

    let tree = Tree::new();
    tree.version("1.4.0");
    tree.version("1.5.0");
    symlink("versions/1.4.0", tree.at("opt/vpn-node/stable")).unwrap();
    symlink("versions/1.5.0", tree.at("opt/vpn-node/experiment")).unwrap();
    tree.install("1.6.0");
    assert_eq!(tree.stable().as_deref(), Some("versions/1.4.0"));
    // The updater is told that there is something to look at when the trial has ended.
    assert!(tree.at("opt/vpn-node/.package-waits").exists());
    tree.run(&["remove"]);
    assert!(!tree.at("opt/vpn-node/.package-waits").exists());
}

#[test]
fn a_drop_in_is_linked_where_systemd_is_new_enough() {
    let tree = Tree::new();
    let folder = "usr/lib/systemd/system/vpn-node-agent.service.d";
    let reload = "notify-reload.conf";
    let token = "registration-token.conf";
    fs::create_dir_all(tree.at("usr/lib/vpn-node")).unwrap();
    fs::create_dir_all(tree.at("usr/lib/systemd/system")).unwrap();
    for name in [reload, token] {
        fs::write(tree.at(&format!("usr/lib/vpn-node/{name}")), "").unwrap();
    }
    tree.install("1.0.0");
    for (systemd, linked) in [
        ("257", [true, true]),
        ("257", [true, true]),
        // It would not know how to reload.
        ("252", [false, true]),
        ("250", [false, true]),
        // It would not start the agent.
        ("249", [false, false]),
        ("253", [true, true]),
        ("247", [false, false]),
    ] {
        tree.run(&["--systemd", systemd, "install"]);
        for (name, linked) in [reload, token].into_iter().zip(linked) {
            let leads_to = tree.link(&format!("{folder}/10-{name}"));
            let expected = linked.then(|| format!("/usr/lib/vpn-node/{name}"));
            assert_eq!(leads_to, expected, "{systemd}");
        }
        assert_eq!(tree.at(folder).exists(), linked[1], "{systemd}");
    }
    tree.run(&["--systemd", "257", "install"]);
    tree.run(&["remove"]);
    assert!(!tree.at(folder).exists());
}

#[test]
fn what_somebody_else_made_stays() {
    let tree = Tree::new();
    fs::create_dir(tree.at("mine")).unwrap();
    symlink(tree.at("mine"), tree.at("opt/vpn-node/stable")).unwrap();
    fs::write(tree.at("usr/bin/vpn-node"), "mine").unwrap();
    tree.install("9.0.0");
    for words in ["install", "remove"] {
        tree.run(&["--systemd", "252", words]);
        assert_eq!(tree.stable().as_deref(), tree.at("mine").to_str());
        assert_eq!(fs::read(tree.at("usr/bin/vpn-node")).unwrap(), b"mine");
    }
}
