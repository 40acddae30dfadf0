//! What people see, screen by screen; reviewed as snapshots.

use std::time::Duration;

use anstream::adapter::strip_str;
use insta::assert_snapshot;

use super::{NOW_MS, healthy};
use crate::cli::{connections, status};
use crate::core::report::*;

fn screen_with(change: impl FnOnce(&mut StatusReport)) -> String {
    let mut report = healthy();
    change(&mut report);
    strip_str(&status::screen(&report, NOW_MS)).to_string()
}

#[test]
fn the_screen_of_a_healthy_host() {
    assert_snapshot!(screen_with(|_| {}));
}

#[test]
fn the_screen_before_the_first_verdict() {
    assert_snapshot!(screen_with(|report| {
        report.uptime_s = 400;
        report.verification.state = VerificationState::Unverified;
        report.verification.for_s = 400;
        report.verification.detail = "No answer from the controller yet.".into();
        report.verification.valid_for_s = None;
        report.verification.hardware_status = None;
        report.clock_offset_ms = None;
        report.last_heartbeat = LastHeartbeat {
            last_error: Some("https://controller.example:8443: connection refused".into()),
            ..LastHeartbeat::default()
        };
    }));
}

#[test]
fn the_screen_in_grace() {
    assert_snapshot!(screen_with(|report| {
        report.verification.state = VerificationState::Grace;
        report.verification.detail = "The controller has been silent for 12 min.".into();
        report.verification.valid_for_s = Some(1080);
        report.last_heartbeat.seconds_ago = Some(720);
        report.last_heartbeat.last_error = Some("timeout after 10 s".into());
        report.note_error(NOW_MS - 5000, "heartbeat: timeout after 10 s");
    }));
}

#[test]
fn the_screen_when_lapsed_with_a_wrong_clock() {
    assert_snapshot!(screen_with(|report| {
        report.verification.state = VerificationState::Lapsed;
        report.verification.detail = "The controller has revoked this server.".into();
        report.verification.valid_for_s = None;
        report.verification.hardware_status = Some("mismatch".into());
        report.last_heartbeat.accepted = Some(false);
        report.clock_offset_ms = Some(-3_600_000);
    }));
}

#[test]
fn the_screen_without_backends() {
    assert_snapshot!(screen_with(|report| report.backends.clear()));
}

#[test]
fn the_screen_with_a_lost_backend_and_a_big_backlog() {
    assert_snapshot!(screen_with(|report| {
        report.backends[1].state = BackendState::Unavailable;
        report.backends[1].error = Some("No such device.".into());
        report.backlog = Backlog {
            records: 123_456,
            bytes: 50_000_000,
            oldest_s: Some(180_000),
        };
        report.ledger = LedgerStatus {
            gaps: 1,
            quarantined: 2,
            writable: true,
            error: Some("No space left on device.".into()),
            low_space_bytes: Some(3 << 20),
        };
    }));
}

#[test]
fn the_screen_of_a_host_that_is_not_enrolled() {
    let report = StatusReport::starting("1.2.3", "gw-fra-1", 4242, Duration::ZERO);
    assert_snapshot!(strip_str(&status::screen(&report, NOW_MS)).to_string());
}

#[test]
fn the_screen_for_everybody() {
    let summary = healthy().public_summary();
    assert_snapshot!(strip_str(&status::short_screen(&summary)).to_string());
}

#[test]
fn the_table_of_connections() {
    let row = |index: i64, rx| ConnectionRow {
        id: format!("0195a1b2-0000-7000-8000-00000000000{index}"),
        backend: "wireguard/wg0".into(),
        started_ms: NOW_MS - index * 4_000_000,
        last_seen_ms: NOW_MS,
        rx,
        tx: rx * 1000,
    };
    let backends = healthy().backends;
    let rows = [row(1, 900), row(9, 123_456)];
    assert_snapshot!(connections::table(&rows, &backends, NOW_MS));
    assert_eq!(connections::table(&[], &[], NOW_MS), "No connections.\n");
}

#[test]
fn hostile_names_cannot_draw_on_the_screen() {
    let evil = "\x1b[2J\nState  verified\u{202e}";
    let report = {
        let mut report = healthy();
        report.hostname = evil.into();
        report.version = evil.into();
        report.server_id = Some(evil.into());
        report.controller_url = Some(evil.into());
        report.verification.state = VerificationState::Lapsed;
        report.verification.detail = evil.into();
        report.verification.hardware_status = Some(evil.into());
        report.verification.warnings = vec![evil.into()];
        report.last_heartbeat.last_error = Some(evil.into());
        report.backends[0].kind = evil.into();
        report.backends[0].instance = evil.into();
        report.backends[0].state = BackendState::Unavailable;
        report.backends[0].error = Some(evil.into());
        report.ledger.error = Some(evil.into());
        report.identity.as_mut().unwrap().key_id = evil.into();
        report.note_error(NOW_MS, evil);
        report
    };
    let screen = status::screen(&report, NOW_MS);
    assert!(!screen.contains("\x1b[2J") && !screen.contains('\u{202e}'));
    assert!(!screen.contains("\nState"), "{screen}");
}

#[test]
fn a_configuration_that_is_not_in_force_is_a_warning() {
    let screen = screen_with(|report| {
        report.configuration.error = Some("/etc/vpn-node/agent.toml:3: unknown key".into());
        report.configuration.needs_restart = vec!["runtime_dir".into(), "state_dir\u{1b}".into()];
    });
    let screen = screen.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(screen.contains("not in force: /etc/vpn-node/agent.toml:3: unknown key. Mend it"));
    assert!(screen.contains("the next start only: runtime_dir, state_dir"));
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
}
