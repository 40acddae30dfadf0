//! `vpn-node gate` on a tree of its own, with a systemctl that knows two units and does nothing.

use super::*;
use crate::host::systemd::{Gating, ServiceName, Systemctl};

const SYSTEMCTL: &str = "#!/bin/sh
shift 3
[ \"$1\" = show ] || exit 0
echo Id=$3; echo LoadState=loaded; echo ActiveState=$(cat ${0%/*}/active-state)
echo FragmentPath=/lib/systemd/system/wg-quick@.service
";

/// A host whose gate and services are all in systemd's state `state`.
fn host(state: &str) -> (Host, Gating) {
    let host = Host::new();
    fs::create_dir(host.path("etc")).unwrap();
    fs::write(host.path("active-state"), state).unwrap();
    fs::write(host.path("systemctl"), SYSTEMCTL).unwrap();
    fs::set_permissions(host.path("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let gating = Gating::at(&host.path("etc"), Systemctl::at(&host.path("systemctl")));
    (host, gating)
}

/// What a command wrote, without colours.
fn said(host: &Host, run: impl FnOnce(&args::Global, &mut Console<'_>) -> Exit) -> (Exit, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let global = args::Global {
        config: Some(host.path("agent.toml")),
        ..args::Global::default()
    };
    let exit = run(&global, &mut Console::new(&mut out, &mut err));
    assert_eq!(String::from_utf8(err).unwrap(), "");
    (
        exit,
        strip_str(&String::from_utf8(out).unwrap()).to_string(),
    )
}

fn status(host: &Host, gating: &Gating, json: bool) -> (Exit, String) {
    status_of(None, host, gating, json)
}

fn status_of(only: Option<&str>, host: &Host, gating: &Gating, json: bool) -> (Exit, String) {
    let only = only.map(|unit| ServiceName::parse(unit).unwrap());
    let (exit, text) = said(host, |global, console| {
        gate::show::run(global, only, json, gating, console)
    });
    let text = text.replace(&host.folder.path().display().to_string(), "/host");
    (exit, text)
}

fn authorised() -> StatusReport {
    let mut report = healthy();
    report.authorised_until = Some(clock::now().after(Duration::from_secs(1799)));
    report
}

#[test]
fn a_service_is_gated_on_an_authorised_host() {
    let (host, gating) = host("active");
    let host = host.running(authorised(), own_user());
    let unit = ServiceName::parse("wg-quick@wg0.service").unwrap();
    let (_, text) = said(&host, |global, console| {
        gate::enable(global, &unit, &gating, console)
    });
    assert_snapshot!(text, @"wg-quick@wg0.service is gated: it runs only while this host is authorised. The gate is open.");
    let (exit, open) = status(&host, &gating, false);
    assert_eq!(exit, Exit::Ok);
    assert!(
        open.starts_with("Gate  open\n      This host is authorised; "),
        "{open}"
    );
    let json: serde_json::Value = serde_json::from_str(&status(&host, &gating, true).1).unwrap();
    assert_eq!(json["gate"]["open"], true);
    assert_eq!(json["authorisation"]["state"], "verified");
    assert_eq!(json["units"][0]["unit"], "wg-quick@wg0.service");
    assert_eq!(json["units"][0]["gated"], true);

    let (exit, other) = status_of(Some("ocserv.service"), &host, &gating, false);
    assert_eq!(exit, Exit::Failed);
    assert!(other.contains("ocserv.service is not gated: "), "{other}");
    assert!(other.starts_with("Gate  open\n"), "{other}");

    fs::remove_dir_all(host.path("etc/vpn-node-gate.service.wants")).unwrap();
    let (exit, half) = status(&host, &gating, false);
    assert_eq!(exit, Exit::Failed);
    assert!(
        half.contains("stops only") && half.contains("`vpn-node gate enable wg-"),
        "{half}"
    );

    let (_, text) = said(&host, |_, console| gate::disable(&unit, &gating, console));
    assert_snapshot!(text, @"wg-quick@wg0.service is no longer gated. It goes on running.");
    let (_, text) = said(&host, |_, console| gate::disable(&unit, &gating, console));
    assert_snapshot!(text, @"wg-quick@wg0.service was not gated.");
}

#[test]
fn a_closed_gate_says_why() {
    let (host, gating) = host("activating");
    let mut lapsed = healthy();
    lapsed.verification.state = VerificationState::Lapsed;
    lapsed.verification.detail = "This host is quarantined.\x1b[2J".into();
    let host = host.running(lapsed, own_user());
    let unit = ServiceName::parse("strongswan.service").unwrap();
    let (_, text) = said(&host, |global, console| {
        gate::enable(global, &unit, &gating, console)
    });
    assert!(
        text.contains("The gate is closed: the authorisation of this host has lapsed: "),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text:?}");
    let (exit, text) = status(&host, &gating, false);
    assert_eq!(exit, Exit::Failed);
    assert_snapshot!(text, @r"
    Gate  closed
          The authorisation of this host has lapsed: This host is quarantined.\u{1b}[2J.
    SERVICE             GATED  NOW
    strongswan.service  yes    activating
    ");
}

#[test]
fn without_gated_services_and_without_an_agent_it_says_so() {
    let (host, gating) = host("inactive");
    let (exit, text) = status(&host, &gating, false);
    assert_eq!(exit, Exit::Ok);
    assert_snapshot!(text, @r"
    Gate  closed
          No service is gated, so vpn-node-gate.service does not run.
    No service is gated. Gate one: `vpn-node gate enable UNIT`
    ");
    let json: serde_json::Value = serde_json::from_str(&status(&host, &gating, true).1).unwrap();
    assert_eq!(json["authorisation"], serde_json::Value::Null);
    assert_eq!(json["units"], serde_json::json!([]));
}

#[test]
fn a_gate_that_nobody_can_be_asked_about_is_unknown_and_not_closed() {
    let (host, gating) = host("active");
    fs::write(host.path("systemctl"), "#!/bin/sh\nexit 1\n").unwrap();
    let (exit, text) = status(&host, &gating, false);
    assert_eq!(exit, Exit::Unreachable);
    assert!(text.starts_with("Gate  unknown\n"), "{text}");
    let (exit, json) = status(&host, &gating, true);
    assert_eq!(exit, Exit::Unreachable);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["gate"]["open"], serde_json::Value::Null);
}

#[test]
fn names_that_are_no_services_are_a_wrong_command_line() {
    for name in [
        "../x.service",
        "wg-quick@wg0",
        "--now.service",
        "wg-quick@.service",
    ] {
        for command in ["enable", "disable", "status"] {
            let ran = run_args(&["gate", command, "--", name], b"", false);
            assert_eq!(ran.exit, Exit::Usage, "{name}: {}", ran.err);
        }
    }
}
