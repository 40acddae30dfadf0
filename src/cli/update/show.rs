//! The screens of `vpn-node update status` and `history`. Pure but for reading the history.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vpn_node_release::handover::{Attempt, Phase, Status};

use super::Known;
use crate::cli::console::{bold, green, red, yellow};
use crate::cli::text::{bytes, instant};
use crate::core::report::{DownloadStatus, UpdateStatus};
use crate::core::{shown, shown_seconds};
use crate::host::atomic;

/// Longest history that is read: some ten thousand lines, more than the updater keeps.
const MAX_HISTORY_BYTES: usize = 4 * 1024 * 1024;
/// Lines of the history that are shown: the newest.
const MAX_HISTORY_LINES: usize = 1000;
/// Characters of a progress bar.
const BAR: u64 = 24;

/// `vpn-node update status` for people.
pub(super) fn screen(known: &Known) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}  {value}", bold(format_args!("{name:<12}")));
    };
    let update = &known.update;
    match &update.updater {
        None => row(
            "Installed",
            "nothing is known: vpn-node-updater has not run on this host, or is not installed",
        ),
        Some(status) => rows_of_updater(status, &mut row),
    }
    if known.by_agent {
        row("Agent", &agent(update));
        row("Metadata", &metadata(update));
    } else {
        row(
            "Agent",
            "does not answer, or tells only root and the group vpn-node",
        );
    }
    if let Some(download) = &update.download {
        row("Download", &progress(download));
    }
    if let Some(attempt) = update
        .updater
        .as_ref()
        .and_then(|status| status.attempt.as_ref())
    {
        row("Last update", &outcome(attempt));
    }
    text
}

fn rows_of_updater(status: &Status, row: &mut impl FnMut(&str, &str)) {
    let version = shown(&status.stable_version);
    let slot = match status.stable.as_str() {
        "system" => "as the package installed it".to_owned(),
        slot => format!("slot {}", shown(slot)),
    };
    row("Installed", &format!("{version} ({slot})"));
    if let Some(previous) = &status.previous {
        row("Previous", &shown(previous).to_string());
    }
    if let Some(experiment) = &status.experiment {
        row("On trial", &yellow(shown(experiment)));
    }
    let floor = match &status.security_floor {
        Some(floor) => format!(", nothing below {}", shown(floor)),
        None => String::new(),
    };
    let channel = shown(&status.channel);
    row(
        "Channel",
        &format!("{channel}, release {} seen{floor}", status.counter),
    );
    match status.root_version {
        Some(version) => row("Trust", &format!("root metadata version {version}")),
        None => {
            let nobody = yellow("nobody yet");
            row(
                "Trust",
                &format!("{nobody}: 'vpn-node update trust FILE' says whom"),
            );
        }
    }
    if status.disabled {
        row(
            "Held",
            &yellow("root switched updates off ('vpn-node update enable')"),
        );
    }
    if let Some(pinned) = &status.pinned {
        let text = format!("pinned to {} ('vpn-node update unpin')", shown(pinned));
        row("Held", &yellow(text));
    }
    for block in &status.blocked {
        let text = format!(
            "{} ended badly {}, last with {}; not tried before {}",
            shown(&block.version),
            if block.count == 1 {
                "once".to_owned()
            } else {
                format!("{} times", block.count)
            },
            shown(&block.code),
            instant(block.until_ms)
        );
        row("Blocked", &text);
    }
}

fn agent(update: &UpdateStatus) -> String {
    match (update.enabled, update.managed) {
        (false, _) => yellow("fetches nothing: [update] enabled is false"),
        (true, false) => "fetches nothing: no updater trusts release keys here".to_owned(),
        (true, true) => format!("fetches releases for {}", shown(&update.platform)),
    }
}

fn metadata(update: &UpdateStatus) -> String {
    let mut text = match update.metadata_age_s {
        Some(age) => format!("verified {} ago", shown_seconds(age)),
        None => "never verified yet".to_owned(),
    };
    if let Some(problem) = &update.metadata_problem {
        let _ = write!(text, "; {}", yellow(shown(problem)));
    }
    text
}

/// One line about a download: bar, bytes, rate, time left, or what is in the way.
pub(super) fn progress(download: &DownloadStatus) -> String {
    let version = shown(&download.version);
    let mut text = match download.step.as_str() {
        "downloading" if download.total > 0 => format!("{version} {}", bar(download)),
        "downloading" => format!("{version}: asks the repository"),
        "handed_over" => format!("{version} is with the updater"),
        _ => format!("{version}: nothing more to do"),
    };
    if let Some(code) = &download.code {
        let detail = shown(download.detail.as_deref().unwrap_or("no reason known"));
        let _ = write!(text, "; {}: {detail}", yellow(shown(code)));
    }
    if let Some(wait) = download.retry_in_s {
        let _ = write!(text, "; tried again in {}", shown_seconds(wait));
    }
    text
}

fn bar(download: &DownloadStatus) -> String {
    let DownloadStatus {
        bytes: here,
        total,
        bytes_per_s,
        ..
    } = *download;
    let here = here.min(total);
    let part =
        |of: u64| u64::try_from(u128::from(here) * u128::from(of) / u128::from(total.max(1)));
    let full = usize::try_from(part(BAR).unwrap_or(0)).unwrap_or(0);
    let width = usize::try_from(BAR).unwrap_or(0);
    let mut text = format!(
        "[{:<width$}] {:>3} %  {} of {}",
        "#".repeat(full),
        part(100).unwrap_or(0),
        bytes(here),
        bytes(total)
    );
    if bytes_per_s > 0 {
        let left = (total - here).div_ceil(bytes_per_s);
        let _ = write!(
            text,
            "  {}/s  {} left",
            bytes(bytes_per_s),
            shown_seconds(left)
        );
    }
    text
}

/// One line about an attempt.
pub(super) fn outcome(attempt: &Attempt) -> String {
    let (version, from) = (shown(&attempt.version), shown(&attempt.from));
    let mut text = match attempt.phase {
        Phase::Verified => format!("{version} is verified"),
        Phase::Staged => format!("{version} is unpacked beside {from}"),
        Phase::Probation => yellow(format_args!("{version} is on trial")),
        Phase::Installed => green(format_args!("{version} is installed, from {from}")),
        Phase::Refused => red(format_args!("{version} was refused, nothing changed")),
        Phase::Failed => red(format_args!(
            "{version} could not be installed, nothing changed"
        )),
        Phase::RolledBack => red(format_args!("{version} ran badly, {from} runs again")),
    };
    if let Some(deadline_ms) = attempt.deadline_ms.filter(|_| !attempt.phase.is_final()) {
        let _ = write!(text, ", judged by {}", instant(deadline_ms));
    }
    if let Some(code) = &attempt.code {
        let detail = shown(attempt.detail.as_deref().unwrap_or("no reason known"));
        let _ = write!(text, "; {}: {detail}", shown(code));
    }
    let _ = write!(text, " ({})", instant(attempt.changed_ms));
    text
}

/// A line of the updater's history. Fields of newer updaters are left out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    at_ms: i64,
    event: String,
    #[serde(default)]
    deployment: Option<u64>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    detail: Option<String>,
}

/// The newest lines, the oldest of them first. A line that a power cut tore is left out.
pub(super) fn read_history(updater_dir: &Path) -> Result<Vec<Line>, String> {
    let path = updater_dir.join("history.jsonl");
    let bytes = match atomic::read_bounded(&path, MAX_HISTORY_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let lines = bytes.split(|byte| *byte == b'\n');
    let mut lines: Vec<Line> = lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let too_many = lines.len().saturating_sub(MAX_HISTORY_LINES);
    lines.drain(..too_many);
    Ok(lines)
}

/// `vpn-node update history` for people.
pub(super) fn history(lines: &[Line]) -> String {
    if lines.is_empty() {
        return "No update was tried on this host.\n".to_owned();
    }
    let mut text = String::new();
    for line in lines {
        let _ = write!(
            text,
            "{}  {:<14}",
            instant(line.at_ms),
            shown(&line.event).to_string()
        );
        for (word, value) in [("", &line.version), ("from ", &line.from)] {
            if let Some(value) = value {
                let _ = write!(text, " {word}{}", shown(value));
            }
        }
        if let Some(deployment) = line.deployment {
            let _ = write!(text, " (deployment {deployment})");
        }
        if let Some(code) = &line.code {
            let _ = write!(text, "  {}", yellow(shown(code)));
        }
        if let Some(detail) = &line.detail {
            let _ = write!(text, ": {}", shown(detail));
        }
        text.push('\n');
    }
    text
}
