//! When a host is challenged, and what becomes of a challenge that it does not answer.

use vpn_node_protocol::message::{Heartbeat, Purpose, Verdict};

use crate::rules::effect::{Effect, HardwareWrite, StandingWrite, VerificationEnd};
use crate::rules::request::Request;
use crate::rules::state::{OpenDirective, Snapshot};

/// One challenge may be lost to an outage; the second one in a row is an answer.
const MISSED_BEFORE_FAILED: u32 = 2;

/// A host on other hardware asks for a challenge with every heartbeat, and no answer but a
/// permitted one helps it: so often it is looked at nevertheless, because what it is made of may
/// change. As often as an agent looks at its hardware by itself.
const MISMATCH_AGAIN_MS: i64 = 600_000;

/// Why a host is to be challenged now, if it is.
pub(super) fn due(
    snapshot: &Snapshot,
    request: &Request,
    heartbeat: &Heartbeat,
    standing: &StandingWrite,
) -> Option<Purpose> {
    let now_ms = request.now_ms;
    let asked = heartbeat.verification_wanted.or_else(|| {
        // Also without a restart: a resolved quarantine leaves a host unverified.
        let waits = standing.verdict == Verdict::Unverified;
        (waits || standing.challenges_missed > 0).then_some(Purpose::Start)
    });
    if snapshot.mismatch_stands() {
        let again = is_over(snapshot.last_challenge_ms, MISMATCH_AGAIN_MS, now_ms);
        let worth = again || snapshot.rehost_is_permitted(now_ms);
        return asked.filter(|purpose| worth || *purpose == Purpose::HardwareChanged);
    }
    asked.or_else(|| {
        let interval_ms = i64::from(request.policy.verification_interval_s) * 1000;
        let over = is_over(snapshot.verified_ms, interval_ms, now_ms);
        (standing.verdict == Verdict::Verified && over).then_some(Purpose::Periodic)
    })
}

/// Whether `span_ms` have passed since; an instant in the future is one of a clock that was set
/// back, and counts as long ago.
fn is_over(since_ms: Option<i64>, span_ms: i64, now_ms: i64) -> bool {
    since_ms.is_none_or(|ms| !(0..span_ms).contains(&now_ms.saturating_sub(ms)))
}

/// A challenge ends without an answer. What never reached the host says nothing about it. Other
/// directives that end so leave only their own status.
pub(super) fn missed(
    snapshot: &Snapshot,
    request: &Request,
    directive: &OpenDirective,
    failure: &'static str,
    standing: &mut StandingWrite,
    effects: &mut Vec<Effect>,
) {
    if !directive.is_challenge() {
        return;
    }
    let failure = if directive.delivered {
        failure
    } else {
        "not_delivered"
    };
    effects.push(Effect::CloseVerification(VerificationEnd {
        challenge_id: directive.id,
        response: None,
        result: false,
        failure: Some(failure),
        detail: None,
        at_ms: request.now_ms,
    }));
    effects.push(Effect::Hardware(Box::new(HardwareWrite {
        log_id: directive.id,
        hardware_id: snapshot.hardware_id,
        raw_components: None,
        result: "error",
        error_details: Some(failure.to_owned()),
        client_ip: None,
        os_version: None,
        at_ms: request.now_ms,
        status: None,
    })));
    if !directive.delivered {
        return;
    }
    standing.challenges_missed = standing.challenges_missed.saturating_add(1);
    if standing.challenges_missed >= MISSED_BEFORE_FAILED && !snapshot.mismatch_stands() {
        standing.verdict = Verdict::Failed;
        standing.reason = Some("the host did not answer its challenges".to_owned());
        standing.available = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_over_when_it_has_passed_and_when_the_clock_went_back() {
        assert!(is_over(None, 10, 0));
        assert!(!is_over(Some(100), 10, 100));
        assert!(!is_over(Some(100), 10, 109));
        assert!(is_over(Some(100), 10, 110));
        assert!(is_over(Some(100), 10, 99));
        assert!(is_over(Some(i64::MIN), 10, i64::MAX));
    }
}
