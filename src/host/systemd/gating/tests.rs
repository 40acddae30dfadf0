//! A tree of unit files and a systemctl that writes down what it is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

const WG0: &str = "wg-quick@wg0.service";
const WG1: &str = "wg-quick@wg1.service";

/// `$1…$3` are the fixed options. It fails at the command that `fail` names, and knows the state
/// of each unit from a file of that name.
const FAKE: &str = r#"#!/bin/sh
here=${0%/*}
shift 3
echo "$*" >> "$here/said"
[ -e "$here/fail" ] && [ "$1" = "$(cat "$here/fail")" ] && { echo "no $1 today" >&2; exit 1; }
[ "$1" = show ] || exit 0
unit=$3
echo "Id=$unit"
if [ -e "$here/units/$unit" ]; then echo LoadState=loaded; cat "$here/units/$unit"; else
    echo LoadState=not-found; echo ActiveState=inactive; echo FragmentPath=; fi
"#;

struct Host {
    dir: TempDir,
}

impl Host {
    /// The gate is open, two instances of wg-quick are there and run.
    fn new() -> Self {
        let host = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(host.dir.path().join("units")).unwrap();
        fs::create_dir(host.etc()).unwrap();
        let program = host.dir.path().join("systemctl");
        fs::write(&program, FAKE).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for unit in [GATE, WG0, WG1] {
            host.state(unit, "active");
        }
        host
    }

    fn etc(&self) -> PathBuf {
        self.dir.path().join("etc")
    }

    fn state(&self, unit: &str, state: &str) {
        let text =
            format!("ActiveState={state}\nFragmentPath=/lib/systemd/system/wg-quick@.service\n");
        fs::write(self.dir.path().join("units").join(unit), text).unwrap();
    }

    fn fail_at(&self, word: &str) {
        fs::write(self.dir.path().join("fail"), word).unwrap();
    }

    fn gating(&self) -> Gating {
        Gating::at(
            &self.etc(),
            Systemctl::at(&self.dir.path().join("systemctl")),
        )
    }

    /// What systemctl was told besides questions, and forgets it.
    fn told(&self) -> Vec<String> {
        let said = self.dir.path().join("said");
        let text = fs::read_to_string(&said).unwrap_or_default();
        let _ = fs::remove_file(said);
        text.lines()
            .filter(|line| !line.starts_with("show"))
            .map(str::to_owned)
            .collect()
    }

    /// Every file, link and folder below etc.
    fn tree(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut folders = vec![self.etc()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                all.push(
                    entry
                        .path()
                        .strip_prefix(self.etc())
                        .unwrap()
                        .display()
                        .to_string(),
                );
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        all.sort();
        all
    }
}

fn unit(name: &str) -> ServiceName {
    ServiceName::parse(name).unwrap()
}

#[test]
fn a_running_service_is_bound_after_the_gate_is_open_and_again_is_no_change() {
    let host = Host::new();
    let change = host.gating().enable(&unit(WG0)).unwrap();
    assert_eq!(
        (change.nothing_to_do, change.open, change.ran),
        (false, true, true)
    );
    assert_eq!(
        host.told(),
        [
            "enable vpn-node-gate.service",
            "start --no-block vpn-node-gate.service",
            "daemon-reload"
        ]
    );
    let made = [
        "vpn-node-gate.service.wants",
        "vpn-node-gate.service.wants/wg-quick@wg0.service",
        "wg-quick@wg0.service.d",
        "wg-quick@wg0.service.d/50-vpn-node-gate.conf",
    ];
    assert_eq!(host.tree(), made);
    let drop_in = host.etc().join(made[3]);
    let text = fs::read_to_string(&drop_in).unwrap();
    assert!(text.contains("\nBindsTo=vpn-node-gate.service\nAfter=vpn-node-gate.service\n"));
    assert_eq!(
        fs::metadata(&drop_in).unwrap().permissions().mode() & 0o777,
        0o644
    );
    let target = fs::read_link(host.etc().join(made[1])).unwrap();
    assert_eq!(target, Path::new("/lib/systemd/system/wg-quick@.service"));

    let again = host.gating().enable(&unit(WG0)).unwrap();
    assert!(again.nothing_to_do);
    assert_eq!(host.tree(), made);
    assert_eq!(host.gating().units().unwrap(), [(unit(WG0), Gated::Yes)]);
}

#[test]
fn a_closed_gate_is_started_anew_so_that_it_stops_and_wants_the_service() {
    let host = Host::new();
    host.state(GATE, "activating");
    host.state(WG0, "inactive");
    let change = host.gating().enable(&unit(WG0)).unwrap();
    assert_eq!((change.open, change.ran), (false, false));
    let told = host.told();
    assert_eq!(
        told[2..],
        ["daemon-reload", "restart --no-block vpn-node-gate.service"]
    );
}

#[test]
fn disable_undoes_it_exactly_leaves_others_and_stops_the_gate_with_the_last() {
    let host = Host::new();
    let own = host.etc().join("wg-quick@wg0.service.d");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("mine.conf"), "[Service]\n").unwrap();
    let before = host.tree();
    host.gating().enable(&unit(WG0)).unwrap();
    let one = host.tree();
    host.gating().enable(&unit(WG1)).unwrap();
    host.told();

    host.gating().disable(&unit(WG1)).unwrap();
    assert_eq!(host.tree(), one);
    assert_eq!(host.told(), ["daemon-reload"]);
    host.gating().disable(&unit(WG0)).unwrap();
    assert_eq!(host.tree(), before);
    assert_eq!(
        host.told(),
        ["daemon-reload", "disable --now vpn-node-gate.service"]
    );
    assert!(host.gating().disable(&unit(WG0)).unwrap().nothing_to_do);
    assert_eq!(host.told(), [""; 0]);
}

#[test]
fn whatever_step_fails_nothing_is_left() {
    for step in ["show", "enable", "start", "daemon-reload"] {
        let host = Host::new();
        host.fail_at(step);
        let error = host.gating().enable(&unit(WG0)).unwrap_err().to_string();
        assert!(error.contains(&format!("no {step} today")), "{error}");
        assert_eq!(host.tree(), [""; 0], "{step}");
        if step != "show" {
            assert_eq!(
                host.told().last().unwrap(),
                "disable --now vpn-node-gate.service"
            );
        }
    }
    let host = Host::new();
    host.state(GATE, "activating");
    host.state(WG1, "inactive");
    host.fail_at("restart");
    host.gating().enable(&unit(WG1)).unwrap_err();
    assert_eq!(host.tree(), [""; 0]);

    let host = Host::new();
    host.gating().enable(&unit(WG0)).unwrap();
    let before = host.tree();
    host.fail_at("daemon-reload");
    host.gating().disable(&unit(WG0)).unwrap_err();
    assert_eq!(host.tree(), before);
    assert_eq!(host.gating().gated(&unit(WG0)), Gated::Yes);
}

#[test]
fn a_file_in_the_way_is_an_error_that_names_it_and_changes_nothing() {
    let host = Host::new();
    fs::write(host.etc().join("vpn-node-gate.service.wants"), "").unwrap();
    let error = host.gating().enable(&unit(WG0)).unwrap_err().to_string();
    assert!(error.contains("vpn-node-gate.service.wants"), "{error}");
    assert_eq!(host.tree(), ["vpn-node-gate.service.wants"]);
}

#[test]
fn half_of_it_is_seen_and_mended() {
    let host = Host::new();
    host.gating().enable(&unit(WG0)).unwrap();
    let link = host
        .etc()
        .join("vpn-node-gate.service.wants/wg-quick@wg0.service");
    let drop_in = host
        .etc()
        .join("wg-quick@wg0.service.d/50-vpn-node-gate.conf");
    fs::remove_file(&link).unwrap();
    assert_eq!(
        host.gating().units().unwrap(),
        [(unit(WG0), Gated::BoundOnly)]
    );
    assert!(!host.gating().enable(&unit(WG0)).unwrap().nothing_to_do);
    assert_eq!(host.gating().gated(&unit(WG0)), Gated::Yes);
    fs::remove_file(&drop_in).unwrap();
    assert_eq!(
        host.gating().units().unwrap(),
        [(unit(WG0), Gated::StartedOnly)]
    );
    host.gating().enable(&unit(WG0)).unwrap();
    // A binding that was emptied binds nothing.
    fs::write(&drop_in, "").unwrap();
    assert!(!host.gating().enable(&unit(WG0)).unwrap().nothing_to_do);
    assert!(fs::read_to_string(&drop_in).unwrap().contains("BindsTo="));
}

#[test]
fn units_that_cannot_be_gated_are_refused() {
    let host = Host::new();
    let error = |name: &str| host.gating().enable(&unit(name)).unwrap_err();
    assert!(matches!(
        error("no-such.service"),
        GatingError::NotLoaded { .. }
    ));
    assert!(matches!(error(GATE), GatingError::Ours { .. }));
    assert!(matches!(
        error("vpn-node-agent.service"),
        GatingError::Ours { .. }
    ));
    fs::remove_file(host.dir.path().join("units").join(GATE)).unwrap();
    assert!(matches!(error(WG0), GatingError::NoGate { .. }));
    assert_eq!(host.tree(), [""; 0]);
    assert_eq!(host.told(), [""; 0]);
}
