//! What a heartbeat says of updates: the host's software, and how its deployment fares.
//!
//! A host is believed about itself and nothing else. A deployment that is not its own, that it was
//! never told of, or that leads to another version, and sizes that no honest agent has, change
//! nothing but leave an event. A deployment moves forward only, and once it has ended it stays so.

use vpn_node_protocol::limits::is_short_text;
use vpn_node_protocol::message::{DirectiveAck, DirectiveOutcome, Heartbeat};
use vpn_node_protocol::update::{DeploymentReport, DeploymentStatus, MAX_BLOCKED, UpdateReport};
use vpn_node_release::handover::MAX_DETAIL_BYTES;

use super::ended_badly;
use crate::rules::effect::{Effect, NewEvent};
use crate::rules::events::EventType;
use crate::rules::request::{Request, Subject};
use crate::rules::state::{OpenDirective, Snapshot, Want};

/// Longest code that is kept, in bytes: those of `docs/releases.md` are shorter.
const MAX_CODE_BYTES: usize = 64;
/// Codes of the agent that mean more than a refusal (`docs/releases.md`).
const UNKNOWN_DEPLOYMENT: &str = "unknown_deployment";
const SUPERSEDED: &str = "superseded";
/// A host whose newest metadata is older than this, in seconds, gets no news: the timestamp role
/// expires after seven days.
pub const STALE_S: u64 = 7 * 24 * 3600;
/// One event in so long tells of a host's impossible reports, in milliseconds.
pub const IGNORED_QUIET_MS: i64 = 600_000;
/// One event in so long tells of a host without news, in milliseconds.
pub const STALE_QUIET_MS: i64 = 24 * 3600 * 1000;

/// What the tables say of the deployment that a heartbeat names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownDeployment {
    /// Whose it is.
    pub server_id: String,
    /// Where it leads to.
    pub version: String,
    /// How far it is.
    pub status: DeploymentStatus,
    /// Whether its host was ever told of it.
    pub told: bool,
}

/// `server_software`: the report without its deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftwareWrite {
    /// What was said.
    pub report: UpdateReport,
    /// When.
    pub at_ms: i64,
}

/// A deployment moves on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentWrite {
    /// The row.
    pub id: i64,
    /// Whether it may move from where it is.
    pub from: From,
    /// To here; it may be the same.
    pub status: DeploymentStatus,
    /// Bytes that have arrived, bytes in all, bytes a second; none leaves them as they are.
    pub progress: Option<[u64; 3]>,
    /// Why not, as a word and as a sentence: bounded and printable.
    pub failure: Option<(String, String)>,
    /// The version before.
    pub previous_version: Option<String>,
    /// When.
    pub at_ms: i64,
    /// Whether the host itself said it.
    pub said: bool,
    /// Recorded when the row moves.
    pub event: Option<NewEvent>,
}

/// From where a deployment may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From this status.
    Exactly(DeploymentStatus),
    /// From wherever it has not ended.
    Open,
    /// As long as the host has not handed it to its updater.
    Early,
}

/// Which deployment a heartbeat names, if that can be one: what [`Snapshot::deployment`] is to hold.
#[must_use]
pub fn named(heartbeat: &Heartbeat) -> Option<i64> {
    let deployment = heartbeat.update.as_ref()?.deployment.as_ref()?;
    i64::try_from(deployment.id).ok()
}

/// What the heartbeat's words about updates do.
pub(in crate::rules) fn judge(
    snapshot: &Snapshot,
    heartbeat: &Heartbeat,
    now_ms: i64,
    effects: &mut Vec<Effect>,
) {
    let Some(report) = &heartbeat.update else {
        return;
    };
    let id = &snapshot.server_id;
    if let Err(why) = check(report) {
        effects.push(ignored(id, why, now_ms));
        return;
    }
    if let Some(age_s) = report.metadata_age_s.filter(|age_s| *age_s > STALE_S) {
        effects.push(stale(id, age_s, now_ms));
    }
    effects.push(Effect::Software(Box::new(SoftwareWrite {
        report: UpdateReport {
            deployment: None,
            ..report.clone()
        },
        at_ms: now_ms,
    })));
    if let Some(told) = &report.deployment {
        match moved(snapshot, told, now_ms) {
            Ok(write) => effects.extend(write.map(|write| Effect::Deployment(Box::new(write)))),
            Err(why) => effects.push(ignored(id, why, now_ms)),
        }
    }
}

/// What the host's word on a directive means for its deployment. How an update that was taken up
/// goes is told by reports; what was not taken up is told here alone.
pub(in crate::rules) fn acknowledged(
    snapshot: &Snapshot,
    request: &Request,
    directive: &OpenDirective,
    ack: &DirectiveAck,
) -> Option<Effect> {
    let (code, detail) = split(ack.detail.as_deref().unwrap_or_default());
    let (id, from, status, code, detail) = match (&directive.want, ack.outcome) {
        (Want::CancelUpdate { deployment_id: id }, DirectiveOutcome::Applied) => {
            let why = "an operator took it back";
            (
                *id,
                From::Early,
                DeploymentStatus::Superseded,
                "cancelled",
                why,
            )
        }
        // It forgot it, or never took it up.
        (Want::CancelUpdate { deployment_id: id }, DirectiveOutcome::Failed)
            if code == Some(UNKNOWN_DEPLOYMENT) =>
        {
            (
                *id,
                From::Early,
                DeploymentStatus::Superseded,
                UNKNOWN_DEPLOYMENT,
                detail,
            )
        }
        (
            Want::Update {
                deployment_id: id, ..
            },
            DirectiveOutcome::Unsupported,
        ) => {
            let why = "the agent on the host does not know updates";
            (
                *id,
                From::Open,
                DeploymentStatus::Failed,
                "agent_too_old",
                why,
            )
        }
        (
            Want::Update {
                deployment_id: id, ..
            },
            DirectiveOutcome::Failed,
        ) => {
            let status = match code {
                Some(SUPERSEDED) => DeploymentStatus::Superseded,
                _ => DeploymentStatus::Refused,
            };
            (
                *id,
                From::Open,
                status,
                code.unwrap_or("not_taken_up"),
                detail,
            )
        }
        _ => return None,
    };
    if says_its_end(request, id) {
        return None;
    }
    let (code, detail) = (
        printable(code, MAX_CODE_BYTES),
        printable(detail, MAX_DETAIL_BYTES),
    );
    let event = match &directive.want {
        Want::Update { version, .. } if ended_badly(status) => {
            let why = format!(": {code}: {detail}");
            let id = &snapshot.server_id;
            Some(bad_end(id, version, status, &why, request.now_ms))
        }
        _ => None,
    };
    Some(Effect::Deployment(Box::new(DeploymentWrite {
        id,
        from,
        status,
        progress: None,
        failure: Some((code, detail)),
        previous_version: None,
        at_ms: request.now_ms,
        said: true,
        event,
    })))
}

/// `code: sentence`, as agents write the detail of what they did not take up.
fn split(detail: &str) -> (Option<&str>, &str) {
    let is_code = |text: &str| {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        !text.is_empty() && text.len() <= MAX_CODE_BYTES && text.bytes().all(word)
    };
    match detail.split_once(": ") {
        Some((code, rest)) if is_code(code) => (Some(code), rest),
        _ => (None, detail),
    }
}

/// Whether the same message tells how the deployment ended, which says more.
fn says_its_end(request: &Request, deployment_id: i64) -> bool {
    let Subject::Heartbeat(heartbeat) = &request.subject else {
        return false;
    };
    let update = heartbeat.update.as_ref();
    let told = update.and_then(|update| update.deployment.as_ref());
    named(heartbeat) == Some(deployment_id) && told.is_some_and(|told| told.status.is_final())
}

/// Checks the sizes of a report.
fn check(report: &UpdateReport) -> Result<(), &'static str> {
    let texts = [Some(&report.platform), Some(&report.channel)];
    let optional = [report.previous.as_ref(), report.pinned.as_ref()];
    let deployment = report.deployment.as_ref();
    let versions = [
        deployment.map(|one| &one.version),
        deployment.and_then(|one| one.previous_version.as_ref()),
    ];
    let mut all = texts.into_iter().chain(optional).chain(versions).flatten();
    if !all.all(|text| is_short_text(text)) {
        return Err("a platform, channel or version is too long, or holds control characters");
    }
    if report.blocked.len() > MAX_BLOCKED || !report.blocked.iter().all(|one| is_short_text(one)) {
        return Err("it names too many blocked versions, or an impossible one");
    }
    let sizes = |one: &DeploymentReport| [one.bytes, one.total, one.bytes_per_s];
    let numbers = deployment.map(sizes).into_iter().flatten();
    if numbers
        .chain([report.counter])
        .any(|n| i64::try_from(n).is_err())
    {
        return Err("a number is impossible");
    }
    Ok(())
}

/// What a report does to the deployment that it names.
fn moved(
    snapshot: &Snapshot,
    report: &DeploymentReport,
    now_ms: i64,
) -> Result<Option<DeploymentWrite>, &'static str> {
    let id = i64::try_from(report.id).map_err(|_| "it speaks of a deployment that nobody knows")?;
    let known = snapshot.deployment.as_ref();
    let known = known.ok_or("it speaks of a deployment that nobody knows")?;
    if known.server_id != snapshot.server_id {
        return Err("it speaks of a deployment of another host");
    }
    if known.version != report.version {
        return Err("it names another version than its deployment leads to");
    }
    if known.status.is_final() {
        return Ok(None);
    }
    if !known.told {
        return Err("it speaks of a deployment that it was never told of");
    }
    let failure = failure(report);
    Ok(Some(DeploymentWrite {
        id,
        from: From::Exactly(known.status),
        // An older status comes late, and the newer one stays.
        status: known.status.max(report.status),
        progress: (report.status >= known.status).then_some([
            report.bytes,
            report.total,
            report.bytes_per_s,
        ]),
        event: event(snapshot, report, failure.as_ref(), now_ms),
        // Also of a download that is tried again: a changed package must not wait in silence.
        failure,
        previous_version: report.previous_version.clone(),
        at_ms: now_ms,
        said: true,
    }))
}

/// Code and sentence, bounded and printable.
fn failure(report: &DeploymentReport) -> Option<(String, String)> {
    if report.status == DeploymentStatus::Installed {
        return None;
    }
    let code = report.code.as_deref()?;
    let detail = report.detail.as_deref().unwrap_or_default();
    Some((
        printable(code, MAX_CODE_BYTES),
        printable(detail, MAX_DETAIL_BYTES),
    ))
}

/// A text from outside: escaped, and cut after so many bytes.
#[must_use]
pub fn printable(text: &str, most: usize) -> String {
    let mut kept = String::new();
    for c in text.chars() {
        let escaped: String = match c {
            '\'' | '"' => c.into(),
            c => c.escape_debug().collect(),
        };
        if kept.len() + escaped.len() > most {
            kept.push('…');
            break;
        }
        kept.push_str(&escaped);
    }
    kept
}

fn event(
    snapshot: &Snapshot,
    report: &DeploymentReport,
    failure: Option<&(String, String)>,
    at_ms: i64,
) -> Option<NewEvent> {
    let why = failure.map_or_else(String::new, |(code, detail)| format!(": {code}: {detail}"));
    ended_badly(report.status).then(|| {
        let version = printable(&report.version, MAX_CODE_BYTES);
        bad_end(&snapshot.server_id, &version, report.status, &why, at_ms)
    })
}

/// The event of a deployment that ended badly. `why` is empty, or ": " and a printable text.
#[must_use]
pub fn bad_end(
    server_id: &str,
    version: &str,
    status: DeploymentStatus,
    why: &str,
    at_ms: i64,
) -> NewEvent {
    let (event_type, what) = match status {
        DeploymentStatus::RolledBack => (
            EventType::UpdateRolledBack,
            "ran badly, and the host went back to what it had",
        ),
        DeploymentStatus::Refused => (EventType::UpdateFailed, "was refused by the host"),
        DeploymentStatus::Blocked => (EventType::UpdateFailed, "is blocked on the host"),
        _ => (EventType::UpdateFailed, "could not be installed"),
    };
    NewEvent {
        event_type,
        source_id: Some(server_id.to_owned()),
        description: format!("release {version} {what}{why}"),
        at_ms,
    }
}

fn ignored(server_id: &str, why: &str, at_ms: i64) -> Effect {
    Effect::QuietEvent {
        event: NewEvent {
            event_type: EventType::UpdateReportIgnored,
            source_id: Some(server_id.to_owned()),
            description: format!("what the host says of updates was ignored: {why}"),
            at_ms,
        },
        quiet_ms: IGNORED_QUIET_MS,
    }
}

fn stale(server_id: &str, age_s: u64, at_ms: i64) -> Effect {
    Effect::QuietEvent {
        event: NewEvent {
            event_type: EventType::HostMetadataStale,
            source_id: Some(server_id.to_owned()),
            description: format!(
                "the host has had no fresh release metadata for {} days",
                age_s / (24 * 3600)
            ),
            at_ms,
        },
        quiet_ms: STALE_QUIET_MS,
    }
}

#[cfg(test)]
mod tests;
