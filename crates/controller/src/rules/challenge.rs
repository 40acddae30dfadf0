//! Judging the answer to a challenge (`docs/protocol.md`, "Verification").

use vpn_node_protocol::hardware::{Components, HardwareStatus, Verdict as Fingerprint, compare};
use vpn_node_protocol::limits::is_short_text;
use vpn_node_protocol::message::{ChallengeAnswer, Verdict};

use crate::rules::effect::{Effect, HardwareWrite, NewEvent, StandingWrite, VerificationEnd};
use crate::rules::events::EventType;
use crate::rules::request::{OpenedAnswer, Request};
use crate::rules::state::{OpenDirective, ServerStatus, Snapshot, Want};

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
    failure: Option<&'static str>,
    detail: Option<String>,
    /// `success`, `mismatch`, `invalid` or `error`, when there is a row for the hardware log.
    log: Option<(&'static str, HardwareStatus)>,
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
    let ours = |d: &&OpenDirective| d.is_challenge() && d.id == answer.challenge_id;
    let Some(challenge) = open.iter().find(ours) else {
        // Answered before, expired, or from before a restored backup: it proves nothing, and
        // takes nothing away from a host that is verified.
        end.failure = Some("unknown_challenge");
        effects.push(Effect::StrayVerification {
            challenge: answer.value,
            purpose: answer.purpose,
            end,
        });
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
    });
    if let Some((result, status)) = judged.log {
        *hardware_status = status;
        effects.push(Effect::Hardware(Box::new(HardwareWrite {
            log_id: request.fresh.log_id,
            hardware_id: answer.verification_hash,
            raw_components: opened.components.as_ref().ok().map(to_json),
            result,
            error_details: judged.detail.clone(),
            client_ip: request.peer_ip.clone(),
            os_version: answer.os_version.clone(),
            at_ms: request.now_ms,
            status,
        })));
    }
    if judged.verdict == Verdict::Mismatch {
        effects.push(Effect::Event(NewEvent {
            event_type: EventType::HardwareMismatch,
            source_id: Some(snapshot.server_id.clone()),
            description: format!(
                "the hardware is not that of the enrolment ({}); the answer came from {}",
                judged.detail.as_deref().unwrap_or("no detail"),
                request.peer_ip
            ),
            at_ms: request.now_ms,
        }));
    }
    standing.verdict = judged.verdict;
    standing.reason = match judged.failure {
        None => judged.detail,
        Some(code) => Some(judged.detail.unwrap_or_else(|| sentence(code).to_owned())),
    };
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
    let failed = |failure, detail, log| Judged {
        verdict: Verdict::Failed,
        failure: Some(failure),
        detail,
        log,
    };
    let answer = &opened.answer;
    if challenge.is_over(request.now_ms) {
        return failed("late", None, None);
    }
    let (value, purpose) = (answer.value, answer.purpose);
    if challenge.want != (Want::Challenge { value, purpose }) {
        return failed("value_mismatch", None, None);
    }
    let components = match &opened.components {
        Ok(components) => components,
        Err(reason) => {
            let log = Some(("error", HardwareStatus::Failed));
            return failed("unsealable", Some(reason.clone()), log);
        }
    };
    if components.verification_hash() != answer.verification_hash {
        let log = Some(("invalid", HardwareStatus::Failed));
        return failed("hash_mismatch", None, log);
    }
    let enrolled: Option<Components> = snapshot
        .raw_hardware
        .as_deref()
        .and_then(|json| serde_json::from_str(json).ok());
    let Some(enrolled) = enrolled else {
        let log = Some(("error", HardwareStatus::Failed));
        return failed("no_enrolled_hardware", None, log);
    };
    let comparison = compare(&enrolled, components);
    let detail = (!comparison.changed.is_empty()).then(|| comparison.to_string());
    match comparison.verdict {
        Fingerprint::Verified | Fingerprint::VerifiedWithWarning => Judged {
            verdict: Verdict::Verified,
            failure: None,
            detail,
            log: Some(("success", HardwareStatus::Verified)),
        },
        Fingerprint::Mismatch => Judged {
            verdict: Verdict::Mismatch,
            failure: Some("hardware_mismatch"),
            detail,
            log: Some(("mismatch", HardwareStatus::Mismatch)),
        },
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
