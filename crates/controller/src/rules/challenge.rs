//! Judging the answer to a challenge (`docs/protocol.md`, "Verification").

use vpn_node_protocol::hardware::{
    Comparison, Components, HardwareStatus, Verdict as Fingerprint, compare,
};
use vpn_node_protocol::limits::is_short_text;
use vpn_node_protocol::message::{ChallengeAnswer, Verdict};

use crate::rules::effect::{Effect, HardwareWrite, NewEvent, StandingWrite, VerificationEnd};
use crate::rules::events::EventType;
use crate::rules::request::{OpenedAnswer, Request};
use crate::rules::state::{OpenDirective, ServerStatus, Snapshot, Want};

/// What an operator does about other hardware, to follow a sentence.
const PERMIT: &str = "if that is right, an operator permits it with 'vpn-node-controller server permit-rehost'; if not, look for a copy of this host's disk";

/// Checks what an answer must hold.
///
/// # Errors
/// A sentence for the refusal.
pub fn check(answer: &ChallengeAnswer) -> Result<(), &'static str> {
    if is_short_text(&answer.os_version) {
        Ok(())
    } else {
        Err("os_version is too long, or holds control characters")
    }
}

/// How an answer is judged.
struct Judged {
    verdict: Verdict,
    /// A stable code when it does not verify.
    failure: Option<&'static str>,
    /// For people: what changed, or why it cannot be told.
    detail: Option<String>,
    /// The sentence of the standing.
    reason: Option<String>,
    /// For the hardware log: `success`, `mismatch`, `invalid` or `error`.
    result: &'static str,
    /// `servers.hardware_verification_status`, if it is another one now.
    status: Option<HardwareStatus>,
    /// An operator's permit is used up.
    rehosted: bool,
    event: Option<NewEvent>,
}

/// What an answer changes. `open` are the challenges that may still be answered.
pub(super) fn judge(
    snapshot: &Snapshot,
    request: &Request,
    opened: &OpenedAnswer,
    open: &[OpenDirective],
    standing: &mut StandingWrite,
    hardware_status: &mut HardwareStatus,
    effects: &mut Vec<Effect>,
) {
    let answer = &opened.answer;
    let mut end = VerificationEnd {
        challenge_id: answer.challenge_id,
        response: Some(request.digest),
        result: false,
        failure: None,
        detail: None,
        at_ms: request.now_ms,
    };
    let mut log = HardwareWrite {
        log_id: answer.challenge_id,
        hardware_id: answer.verification_hash,
        raw_components: None,
        result: "invalid",
        error_details: None,
        client_ip: Some(request.peer_ip.clone()),
        os_version: Some(answer.os_version.clone()),
        at_ms: request.now_ms,
        status: None,
    };
    let ours = |d: &&OpenDirective| d.is_challenge() && d.id == answer.challenge_id;
    let Some(challenge) = open.iter().find(ours) else {
        // Answered before, expired, or from before a restored backup: it proves nothing, and
        // takes nothing away from a host that is verified.
        let failure = "unknown_challenge";
        end.failure = Some(failure);
        effects.push(Effect::StrayVerification {
            challenge: answer.value,
            purpose: answer.purpose,
            end,
        });
        log.log_id = request.fresh.log_id;
        log.error_details = Some(failure.to_owned());
        effects.push(Effect::Hardware(Box::new(log)));
        return;
    };
    let judged = judge_open(snapshot, request, opened, challenge);
    end.result = judged.verdict == Verdict::Verified;
    end.failure = judged.failure;
    end.detail = judged.detail.clone();
    effects.push(Effect::CloseVerification(end));
    effects.push(Effect::DirectiveStatus {
        id: challenge.id,
        status: "answered",
        detail: None,
    });
    log.raw_components = opened.components.as_ref().ok().map(to_json);
    log.result = judged.result;
    log.error_details = match (judged.failure, judged.detail) {
        (Some(code), Some(detail)) => Some(format!("{code}: {detail}")),
        (code, detail) => detail.or(code.map(str::to_owned)),
    };
    log.status = judged.status;
    let components = log.raw_components.clone();
    effects.push(Effect::Hardware(Box::new(log)));
    if let Some(raw_components) = components.filter(|_| judged.rehosted) {
        effects.push(Effect::Rehost {
            hardware_id: answer.verification_hash,
            raw_components,
        });
    }
    effects.extend(judged.event.map(Effect::Event));
    *hardware_status = judged.status.unwrap_or(*hardware_status);
    standing.verdict = judged.verdict;
    standing.reason = judged.reason;
    standing.challenges_missed = 0;
    standing.available =
        snapshot.status == ServerStatus::Active && judged.verdict == Verdict::Verified;
}

fn judge_open(
    snapshot: &Snapshot,
    request: &Request,
    opened: &OpenedAnswer,
    challenge: &OpenDirective,
) -> Judged {
    let answer = &opened.answer;
    if challenge.is_over(request.now_ms) {
        return failed(snapshot, "late", None, None);
    }
    let (value, purpose) = (answer.value, answer.purpose);
    if challenge.want != (Want::Challenge { value, purpose }) {
        return failed(snapshot, "value_mismatch", None, None);
    }
    let bad = Some(HardwareStatus::Failed);
    let components = match &opened.components {
        Ok(components) => components,
        Err(reason) => return failed(snapshot, "unsealable", Some(reason), bad),
    };
    if components.verification_hash() != answer.verification_hash {
        return failed(snapshot, "hash_mismatch", None, bad);
    }
    let enrolled: Option<Components> = snapshot.raw_hardware.as_deref().and_then(from_json);
    match enrolled {
        Some(enrolled) => compared(snapshot, request, &enrolled, components),
        None if snapshot.rehost_is_permitted(request.now_ms) => {
            rehosted(snapshot, request, "nothing was enrolled")
        }
        None => failed(snapshot, "no_enrolled_hardware", None, bad),
    }
}

/// An answer that says nothing about the hardware. It takes no mismatch away.
fn failed(
    snapshot: &Snapshot,
    code: &'static str,
    detail: Option<&String>,
    status: Option<HardwareStatus>,
) -> Judged {
    let stands = snapshot.mismatch_stands();
    let reason = || detail.map_or(sentence(code), String::as_str).to_owned();
    Judged {
        verdict: if stands {
            Verdict::Mismatch
        } else {
            Verdict::Failed
        },
        failure: Some(code),
        detail: detail.cloned(),
        reason: Some(match &snapshot.verdict_reason {
            Some(before) if stands => before.clone(),
            _ => reason(),
        }),
        result: match code {
            "value_mismatch" | "hash_mismatch" => "invalid",
            _ => "error",
        },
        status: status.filter(|_| !stands),
        rehosted: false,
        event: None,
    }
}

fn compared(
    snapshot: &Snapshot,
    request: &Request,
    enrolled: &Components,
    now: &Components,
) -> Judged {
    let comparison = compare(enrolled, now);
    let changed = !comparison.changed.is_empty();
    let stands = snapshot.mismatch_stands();
    if (changed || stands) && snapshot.rehost_is_permitted(request.now_ms) {
        return rehosted(snapshot, request, &comparison.to_string());
    }
    let detail = changed.then(|| comparison.to_string());
    let is_news = is_news(snapshot, enrolled, now, &comparison);
    if comparison.verdict == Fingerprint::Mismatch {
        let what = format!("the hardware is not that of the enrolment ({comparison})");
        let from = format!("{what}; the answer came from {}", request.peer_ip);
        let told = event(snapshot, request, EventType::HardwareMismatch, from);
        return Judged {
            verdict: Verdict::Mismatch,
            failure: Some("hardware_mismatch"),
            reason: Some(format!("{comparison}; {PERMIT}")),
            detail,
            result: "mismatch",
            status: Some(HardwareStatus::Mismatch),
            rehosted: false,
            event: (is_news || !stands).then_some(told),
        };
    }
    let what = match (&detail, stands) {
        (_, true) => "the enrolled hardware is back, and the mismatch stands".to_owned(),
        (Some(detail), false) => format!("the hardware changed ({detail})"),
        (None, false) => "every component is that of the enrolment again".to_owned(),
    };
    let from = format!("{what}; the answer came from {}", request.peer_ip);
    let told = event(snapshot, request, EventType::HardwareChanged, from);
    let event = is_news.then_some(told);
    if stands {
        return Judged {
            verdict: Verdict::Mismatch,
            failure: Some("mismatch_stands"),
            reason: Some(format!(
                "the enrolled hardware is back, but this identity was seen on other hardware; {PERMIT}"
            )),
            detail,
            result: "mismatch",
            status: None,
            rehosted: false,
            event,
        };
    }
    Judged {
        verdict: Verdict::Verified,
        failure: None,
        reason: detail.clone(),
        detail,
        result: "success",
        status: Some(HardwareStatus::Verified),
        rehosted: false,
        event,
    }
}

/// An operator expects other hardware: this is the enrolled one from now on.
fn rehosted(snapshot: &Snapshot, request: &Request, comparison: &str) -> Judged {
    let what = format!(
        "the hardware from {} is the enrolled one now, as an operator permitted ({comparison})",
        request.peer_ip
    );
    let told = event(snapshot, request, EventType::RehostCompleted, what);
    Judged {
        verdict: Verdict::Verified,
        failure: None,
        detail: Some(format!("rehost permitted: {comparison}")),
        reason: None,
        result: "success",
        status: Some(HardwareStatus::Verified),
        rehosted: true,
        event: Some(told),
    }
}

/// Whether the fingerprint differs from the enrolled one in another way than the last one did: an
/// operator is told once of a change, not with every challenge.
fn is_news(
    snapshot: &Snapshot,
    enrolled: &Components,
    now: &Components,
    comparison: &Comparison,
) -> bool {
    let last: Option<Components> = snapshot.last_hardware.as_deref().and_then(from_json);
    let last = last.as_ref().unwrap_or(enrolled);
    let another = |name| last.get(name) != now.get(name);
    compare(enrolled, last).changed != comparison.changed
        || comparison.changed.iter().any(|c| another(c.component))
}

fn event(
    snapshot: &Snapshot,
    request: &Request,
    event_type: EventType,
    description: String,
) -> NewEvent {
    NewEvent {
        event_type,
        source_id: Some(snapshot.server_id.clone()),
        description,
        at_ms: request.now_ms,
    }
}

/// The sentence of a failure code that has no detail of its own.
fn sentence(code: &str) -> &'static str {
    match code {
        "late" => "the answer to the challenge came too late",
        "value_mismatch" => "the answer repeats another challenge than the one sent",
        "hash_mismatch" => "the fingerprint's hash is not that of its components",
        "no_enrolled_hardware" => "the controller holds no components of the enrolment",
        _ => "the challenge was not answered well",
    }
}

/// Components as JSON.
#[must_use]
pub fn to_json(components: &Components) -> String {
    serde_json::to_string(components).expect("components have a JSON form")
}

/// Components that were stored as JSON; none when they cannot be read any more.
#[must_use]
pub fn from_json(json: &str) -> Option<Components> {
    serde_json::from_str(json).ok()
}
