//! `vpn-node status`: one screen for people, or the report as JSON.

use std::fmt::Write as _;

use super::args::Global;
use super::console::{Console, bold, green, red, yellow};
use super::text::{bytes, columns, count, instant};
use super::{Exit, reach};
use crate::core::report::{
    BackendState, BackendStatus, ConfigurationStatus, IdentityStatus, PublicSummary, StatusReport,
    VerificationState,
};
use crate::core::{shown, shown_seconds};
use crate::host::clock;
use crate::status::Status;

/// A clock further off than this makes logs and certificates hard to believe.
const CLOCK_OFFSET_WORTH_A_WORD_MS: u64 = 60_000;

/// Records this old wait for more than a short outage.
const BACKLOG_WORTH_A_WORD_S: u64 = 3600;

/// Asks and renders.
pub(super) fn run(global: &Global, json: bool, console: &mut Console<'_>) -> Exit {
    let place = match reach::place(global, json, console) {
        Ok(place) => place,
        Err(exit) => return exit,
    };
    let status = match place.client.status() {
        Ok(status) => status,
        Err(error) => return reach::explain(&place, &error, json, console),
    };
    let (text, value, enrolled) = match &status {
        Status::Full(report) => (
            screen(report, clock::now().wall_ms),
            serde_json::to_value(report),
            report.enrolled,
        ),
        Status::Public(summary) => (
            short_screen(summary),
            serde_json::to_value(summary),
            summary.enrolled,
        ),
    };
    match value {
        Ok(value) if json => console.json(&value),
        Err(error) if json => {
            console.error(error);
            return Exit::Failed;
        }
        _ => console.out(&text),
    }
    if enrolled {
        Exit::Ok
    } else {
        Exit::NotEnrolled
    }
}

/// The whole screen, with colours.
pub(super) fn screen(report: &StatusReport, now_ms: i64) -> String {
    let mut page = Page::default();
    let title = format!(
        "vpn-node {} on {}",
        shown(&report.version),
        shown(&report.hostname)
    );
    page.line(&bold(title));
    page.row("State", &state(report, now_ms));
    page.row("Enrolled", &enrolled(report));
    if let Some(url) = &report.controller_url {
        page.row("Controller", &shown(url).to_string());
    }
    if let Some(identity) = &report.identity {
        page.row("Identity", &identity_line(identity));
    }
    if let Some(hardware) = &report.verification.hardware_status {
        page.row("Hardware", &shown(hardware).to_string());
    }
    if report.enrolled {
        page.row("Heartbeat", &heartbeat(report));
        page.row("Clock", &clock_offset(report));
    }
    page.row("Backlog", &backlog(report));
    let agent = format!("pid {}, up {}", report.pid, shown_seconds(report.uptime_s));
    page.row("Agent", &agent);
    if let Some(software) = software(report) {
        page.row("Software", &software);
    }
    page.section("Backends", &backends(report));
    page.section("Warnings", &warnings(report));
    page.section("Recent errors", &errors(report));
    page.0
}

/// What users see who are neither root nor in the group.
pub(super) fn short_screen(summary: &PublicSummary) -> String {
    let mut page = Page::default();
    page.line(&bold(format!("vpn-node {}", shown(&summary.version))));
    page.row("State", &state_word(summary.state));
    page.row("Enrolled", if summary.enrolled { "yes" } else { "no" });
    let health = if summary.healthy {
        green("healthy")
    } else {
        red("unhealthy")
    };
    page.row("Health", &health);
    page.line("");
    page.line("Run this as root or as a member of the group vpn-node to see more.");
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn row(&mut self, label: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "  {label:<12}{value}");
    }

    /// A heading with lines under it; nothing without lines.
    fn section(&mut self, heading: &str, lines: &str) {
        if !lines.is_empty() {
            let _ = write!(self.0, "\n{}\n{lines}", bold(heading));
        }
    }
}

fn state_word(state: VerificationState) -> String {
    match state {
        VerificationState::Verified => green(state.as_str()),
        VerificationState::Unverified | VerificationState::Grace => yellow(state.as_str()),
        VerificationState::Lapsed => red(state.as_str()),
    }
}

fn state(report: &StatusReport, now_ms: i64) -> String {
    if !report.enrolled {
        return yellow("not enrolled");
    }
    let verification = &report.verification;
    let mut text = state_word(verification.state);
    if let Some(left) = verification.valid_for_s {
        let left_ms = i64::try_from(left).unwrap_or(i64::MAX).saturating_mul(1000);
        let until = instant(now_ms.saturating_add(left_ms));
        let _ = write!(text, " until {until} (for {})", shown_seconds(left));
    }
    if verification.state != VerificationState::Verified {
        let _ = write!(text, ": {}", shown(&verification.detail));
    }
    text
}

fn enrolled(report: &StatusReport) -> String {
    if !report.enrolled {
        return "no".to_owned();
    }
    let mut text = match &report.server_id {
        Some(id) => format!("as server {}", shown(id)),
        None => "yes".to_owned(),
    };
    if let Some(since) = report.enrolled_since_ms {
        let _ = write!(text, " since {}", instant(since));
    }
    text
}

fn identity_line(identity: &IdentityStatus) -> String {
    let mut text = format!("key {}, epoch {}", shown(&identity.key_id), identity.epoch);
    if let Some(at) = identity.rotated_ms {
        let _ = write!(text, ", rotated {}", instant(at));
    }
    if identity.rotating {
        let _ = write!(text, "; {}", yellow("a new key is on its way"));
    }
    text
}

fn heartbeat(report: &StatusReport) -> String {
    let last = &report.last_heartbeat;
    let mut text = match (last.seconds_ago, last.accepted) {
        (Some(ago), Some(false)) => {
            format!(
                "{}, last accepted {} ago",
                red("refused"),
                shown_seconds(ago)
            )
        }
        (None, Some(false)) => red("refused"),
        (Some(ago), _) => format!("accepted {} ago", shown_seconds(ago)),
        (None, _) => yellow("none answered since the agent started"),
    };
    if let Some(next) = report.next_heartbeat_s {
        let _ = write!(text, ", next in {}", shown_seconds(next));
    }
    if let Some(error) = &last.last_error {
        let _ = write!(
            text,
            "; {}: {}",
            yellow("last attempt failed"),
            shown(error)
        );
    }
    text
}

fn clock_offset(report: &StatusReport) -> String {
    match report.clock_offset_ms {
        None => "not compared with the controller's yet".to_owned(),
        Some(offset) => {
            let side = if offset < 0 { "behind" } else { "ahead of" };
            let amount = match offset.unsigned_abs() {
                millis @ 0..1000 => format!("{millis} ms"),
                millis => shown_seconds(millis / 1000),
            };
            format!("{amount} {side} the controller's")
        }
    }
}

fn backlog(report: &StatusReport) -> String {
    let backlog = &report.backlog;
    if backlog.records == 0 {
        return "empty".to_owned();
    }
    let records = count(backlog.records, "record");
    let oldest = match backlog.oldest_s {
        Some(age) => format!(", the oldest {} old", shown_seconds(age)),
        None => String::new(),
    };
    format!("{records}, {}{oldest}", bytes(backlog.bytes))
}

/// Only where something keeps it current.
fn software(report: &StatusReport) -> Option<String> {
    let update = report.update.as_ref().filter(|update| update.managed)?;
    let mut text = match report.running_from.as_deref() {
        Some("system") => "as the package installed it".to_owned(),
        Some(slot) => format!("slot {}", shown(slot)),
        None => "started by hand".to_owned(),
    };
    if let Some(line) = update.line() {
        let _ = write!(text, "; {}", yellow(shown(&line)));
    }
    Some(text)
}

fn backends(report: &StatusReport) -> String {
    if report.backends.is_empty() {
        return "  none found\n".to_owned();
    }
    let rows = report.backends.iter().map(|backend| {
        let last = match backend.state {
            BackendState::Up => "up".to_owned(),
            BackendState::Unavailable => {
                let why = backend.error.as_deref().unwrap_or("no reason known");
                format!("unavailable: {}", shown(why))
            }
        };
        let mut row = backend_row(backend);
        row.push(last);
        row
    });
    columns(&rows.collect::<Vec<_>>(), &[2, 3, 4, 5], "  ")
}

/// Which one, how many sessions, how many began and ended, how fast.
pub(super) fn backend_row(backend: &BackendStatus) -> Vec<String> {
    let activity = &backend.activity;
    let rate = |per_s| format!("{}/s", bytes(per_s));
    vec![
        shown(&backend.kind).to_string(),
        shown(&backend.instance).to_string(),
        count(backend.sessions, "session"),
        format!("{} began, {} ended", activity.started, activity.ended),
        format!("received {}", rate(activity.rx_per_s)),
        format!("sent {}", rate(activity.tx_per_s)),
    ]
}

/// What of the configuration is not in force, each with what to do.
fn configuration(status: &ConfigurationStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(error) = &status.error {
        lines.push(format!(
            "The changed configuration is not in force: {error}{} Mend it and run `systemctl \
             reload vpn-node-agent`.",
            if error.ends_with(['.', '?', '!']) {
                ""
            } else {
                "."
            }
        ));
    }
    if !status.needs_restart.is_empty() {
        lines.push(format!(
            "Changed, and read at the next start only: {}. Run `systemctl restart \
             vpn-node-agent`.",
            status.needs_restart.join(", ")
        ));
    }
    lines
}

/// What is wrong or will be, each with what to do.
fn warnings(report: &StatusReport) -> String {
    let mut lines = report.health().reasons;
    if report.verification.state == VerificationState::Grace {
        lines.push(
            "The controller is silent and the grace period runs. Check the network and the \
             controller before it ends."
                .to_owned(),
        );
    }
    lines.extend(report.verification.warnings.iter().cloned());
    lines.extend(configuration(&report.configuration));
    if report.backends.is_empty() {
        lines.push(
            "No VPN backend is found, so no connection is recorded. Start the VPN, or check \
             [wireguard], [openvpn], [strongswan] and [ocserv] with `vpn-node config show`."
                .to_owned(),
        );
    }
    let offset = report.clock_offset_ms.unwrap_or(0).unsigned_abs();
    if offset > CLOCK_OFFSET_WORTH_A_WORD_MS {
        lines.push(
            "This host's clock is wrong (or the controller's). Check `timedatectl`; the agent \
             goes on working."
                .to_owned(),
        );
    }
    if report.backlog.oldest_s.unwrap_or(0) > BACKLOG_WORTH_A_WORD_S {
        lines.push(
            "Connection records wait for the controller for more than an hour. They are kept on \
             disk up to [ledger] max_bytes."
                .to_owned(),
        );
    }
    if report.ledger.gaps > 0 || report.ledger.quarantined > 0 {
        lines.push(format!(
            "The connection ledger has {} and {}. Check the disk (`dmesg`, `smartctl`); the \
             controller was told which records are missing.",
            count(report.ledger.gaps, "gap"),
            count(report.ledger.quarantined, "damaged segment"),
        ));
    }
    if let Some(free) = report.ledger.low_space_bytes {
        lines.push(format!(
            "The disk of the agent's state has less than {} free. Make room: when it is full, the \
             records of a long outage may find none, and no update can be installed.",
            bytes(free + (1 << 20)),
        ));
    }
    lines.extend(report.update_warnings());
    let line = |text: &String| format!("  {} {}\n", yellow("!"), shown(text));
    lines.iter().map(line).collect()
}

fn errors(report: &StatusReport) -> String {
    let line = |note: &crate::core::report::ErrorNote| {
        format!("  {}  {}\n", instant(note.at_ms), shown(&note.text))
    };
    report.last_errors.iter().map(line).collect()
}
