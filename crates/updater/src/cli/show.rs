//! Text for people, JSON for programs.

use std::fmt::Write;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use vpn_node_release::code::UpdaterCode;
use vpn_node_release::handover::{Attempt, MAX_FILE_BYTES, Phase, Status};

use super::say;
use crate::config::Config;
use crate::disk;
use crate::error::{Kind, UpdateError};
use crate::history;
use crate::layout::Layout;
use crate::plan::{Plan, Problem};

/// What `status` shows.
#[derive(serde::Serialize)]
struct Shown {
    #[serde(flatten)]
    status: Status,
    /// Why `run` would do nothing now: a mistake in updater.toml.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// status.json, which everyone may read, and whether updater.toml can be read.
pub(super) fn status(layout: &Layout, json: bool) -> Result<(), UpdateError> {
    let path = layout.status();
    let Some(bytes) = disk::read_bounded(&path, MAX_FILE_BYTES)? else {
        return Err(UpdateError::failed(
            UpdaterCode::DiskError,
            format!(
                "{} is not there: no updater ran on this host yet ('recover' writes it)",
                path.display()
            ),
        ));
    };
    let status: Status = serde_json::from_slice(&bytes).map_err(|error| {
        UpdateError::failed(
            UpdaterCode::DiskError,
            format!(
                "{} is damaged ({error}); 'recover' writes it anew",
                path.display()
            ),
        )
    })?;
    // A user from whom the file is kept knows nothing of it, and the updater, root, reads it.
    let kept_from_him = access(&layout.config(), AccessFlags::R_OK) == Err(Errno::EACCES);
    let mistake = Config::read(layout).err().filter(|_| !kept_from_him);
    let problem = mistake.map(|error| Problem {
        code: error.code.to_owned(),
        message: error.sentence,
    });
    let shown = Shown { status, problem };
    if json {
        say(as_json(&shown).trim_end());
    } else {
        say(status_text(&shown).trim_end());
    }
    Ok(())
}

/// history.jsonl.
pub(super) fn history(layout: &Layout, json: bool) -> Result<(), UpdateError> {
    let lines = history::read(layout)?;
    if lines.is_empty() && !json {
        say("no update was tried yet, and root changed nothing");
    }
    for line in lines {
        if json {
            say(&serde_json::to_string(&line).expect("string keys"));
            continue;
        }
        let mut text = format!("{}  {}", time(line.at_ms), line.event);
        if let Some(version) = &line.version {
            let _ = write!(text, " {version}");
        }
        if let Some(from) = &line.from {
            let _ = write!(text, " from {from}");
        }
        if let Some(code) = &line.code {
            let _ = write!(text, " [{code}]");
        }
        if let Some(detail) = &line.detail {
            let _ = write!(text, ": {}", plain(detail));
        }
        say(&text);
    }
    Ok(())
}

/// The plan; an error when it is not possible, so that scripts see it.
pub(super) fn plan(plan: Option<&Plan>, json: bool) -> Result<(), UpdateError> {
    let Some(plan) = plan else {
        if json {
            say("null");
        } else {
            say("the agent asks for nothing; name a file with --offline");
        }
        return Ok(());
    };
    if json {
        say(as_json(plan).trim_end());
    } else {
        say(plan_text(plan).trim_end());
    }
    if plan.possible {
        return Ok(());
    }
    Err(UpdateError::of(
        Kind::Refused,
        UpdaterCode::NotPossible.as_str(),
        "it would not be installed now",
    ))
}

fn as_json(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("string keys");
    text.push('\n');
    text
}

fn status_text(shown: &Shown) -> String {
    let status = &shown.status;
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    row(
        "installed",
        &format!("{} ({})", status.stable_version, status.stable),
    );
    row("previous", status.previous.as_deref().unwrap_or("none"));
    if let Some(experiment) = &status.experiment {
        row("on trial", experiment);
    }
    row("channel", &status.channel);
    match status.root_version {
        Some(version) => row("trust", &format!("root metadata version {version}")),
        None => row("trust", "nobody yet: 'trust FILE' says whom"),
    }
    row("highest seen", &format!("release {}", status.counter));
    if let Some(floor) = &status.security_floor {
        row("floor", &format!("nothing below {floor}"));
    }
    if status.disabled {
        row("updates", "off ('enable' switches them on)");
    }
    if let Some(pinned) = &status.pinned {
        row("pinned", pinned);
    }
    for blocked in &status.blocked {
        let times = if blocked.count == 1 { "once" } else { "again" };
        row(
            "blocked",
            &format!(
                "{} until {}: it ended badly {times} ({})",
                blocked.version,
                time(blocked.until_ms),
                blocked.code
            ),
        );
    }
    if let Some(attempt) = &status.attempt {
        row("last update", &attempt_text(attempt));
        if let Some(detail) = &attempt.detail {
            row("", &plain(detail));
        }
    }
    if let Some(problem) = &shown.problem {
        row("problem", &problem_text(problem));
    }
    text
}

fn problem_text(problem: &Problem) -> String {
    format!("{} [{}]", plain(&problem.message), problem.code)
}

fn attempt_text(attempt: &Attempt) -> String {
    let word = match attempt.phase {
        Phase::Verified => "is being unpacked",
        Phase::Staged => "is about to be tried",
        Phase::Probation => "is on trial",
        Phase::Installed => "installed",
        Phase::Refused => "refused",
        Phase::Failed => "failed",
        Phase::RolledBack => "sent away again",
    };
    let mut text = format!("{} from {}: {word}", attempt.version, attempt.from);
    if let Some(code) = &attempt.code {
        let _ = write!(text, " [{code}]");
    }
    match attempt.deadline_ms {
        Some(deadline) if attempt.phase == Phase::Probation => {
            let _ = write!(text, ", judged at {}", time(deadline));
        }
        _ => {
            let _ = write!(text, ", {}", time(attempt.changed_ms));
        }
    }
    text
}

fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14}{value}");
    };
    let unknown = || "unknown".to_owned();
    let from = plan.from_version.clone().unwrap_or_else(unknown);
    let place = plan.from.clone().unwrap_or_else(unknown);
    row("runs now", &format!("{from} ({place})"));
    if let Some(release) = &plan.release {
        row(
            "release",
            &format!("{}, {}", release.version, plain(&release.description)),
        );
        row("made", &release.released);
        row(
            "package",
            &format!(
                "{} bytes, SHA-256 {}",
                release.package_bytes, release.sha256
            ),
        );
        if let Some(bytes) = release.unpacked_bytes {
            row("unpacked", &format!("{bytes} bytes"));
        }
        row(
            "signed by",
            &format!("role {}, release {}", plain(&release.role), release.counter),
        );
    }
    if let Some(signatures) = &plan.signatures {
        for (role, expires) in &signatures.expires {
            let version = signatures.versions.get(role).copied().unwrap_or_default();
            row(role, &format!("version {version}, expires {expires}"));
        }
    }
    for space in &plan.space {
        row(
            "space",
            &format!(
                "{}: {} bytes free, {} needed",
                space.path, space.free, space.needed
            ),
        );
    }
    row("connections", &plan.sessions.to_string());
    for backend in &plan.backends {
        row("must be up", &plain(backend));
    }
    if plan.keeps_state {
        row(
            "state",
            "is kept first, since the version that runs could not read what follows",
        );
    }
    row(
        "way back",
        plan.rollback_target.as_deref().unwrap_or("none"),
    );
    if plan.possible {
        row("possible", "yes");
    }
    for problem in &plan.problems {
        row("why not", &problem_text(problem));
    }
    text
}

/// What came from outside, on one line.
fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

fn time(ms: i64) -> String {
    let at = Timestamp::from_millisecond(ms);
    at.map_or_else(|_| format!("{ms} ms"), |at| format!("{at:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_well_and_shows_no_control_characters() {
        let status = Status {
            stable: "system".into(),
            stable_version: "1.4.0".into(),
            channel: "stable".into(),
            attempt: Some(Attempt {
                id: "x".into(),
                deployment: None,
                version: "1.5.0".into(),
                from: "1.4.0".into(),
                phase: Phase::RolledBack,
                code: Some("crashed".into()),
                detail: Some("it said \u{1b}[31mno\n".into()),
                started_ms: 0,
                changed_ms: 1_795_000_000_000,
                deadline_ms: None,
            }),
            ..Status::default()
        };
        let text = status_text(&Shown {
            status,
            problem: None,
        });
        assert!(text.contains("installed     1.4.0 (system)\n"), "{text}");
        assert!(text.contains("nobody yet"), "{text}");
        assert!(
            text.contains("1.5.0 from 1.4.0: sent away again [crashed], 2026-11-18T"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
