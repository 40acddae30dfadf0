//! The log lines of what happens to the agent as a whole.

use uuid::Uuid;
use vpn_node_protocol::message::DirectiveOutcome;
use vpn_node_release::handover::{Attempt, Phase};

use crate::core::report::Life;
use crate::core::{journal, shown};

/// Says what happened.
pub(super) fn tell(life: &Life) {
    match life {
        Life::Verified => tracing::info!(
            message_id = %journal::VERIFIED,
            "verified: the controller vouches for this host"
        ),
        Life::Grace { left_s } => tracing::warn!(
            message_id = %journal::GRACE,
            left_s = left_s.unwrap_or(0),
            "grace: the controller is silent, and this host stays authorised for a while"
        ),
        Life::Lapsed { detail } => tracing::error!(
            message_id = %journal::LAPSED,
            error_code = "lapsed",
            "lapsed: {}", shown(detail)
        ),
        Life::Stopped { code, detail } => tracing::error!(
            message_id = %journal::HOST_STOPPED,
            error_code = code,
            "the controller stopped this host: {}", shown(detail)
        ),
        Life::ControllerSilent { code, detail } => tracing::warn!(
            message_id = %journal::CONTROLLER_SILENT,
            error_code = code,
            "no good answer from the controller; it is asked again and again: {}", shown(detail)
        ),
        Life::ControllerBack => tracing::info!(
            message_id = %journal::CONTROLLER_BACK,
            "the controller answers again"
        ),
        Life::Update(attempt) => update(attempt),
    }
}

fn update(attempt: &Attempt) {
    let version = shown(&attempt.version);
    let code = attempt.code.as_deref().unwrap_or("none");
    let detail = shown(attempt.detail.as_deref().unwrap_or("no reason is known"));
    match attempt.phase {
        Phase::Verified | Phase::Staged | Phase::Probation => tracing::info!(
            message_id = %journal::UPDATE_STAGED,
            %version, phase = ?attempt.phase, "a release is being installed"
        ),
        Phase::Installed => tracing::info!(
            message_id = %journal::UPDATE_INSTALLED,
            %version, "a release was installed"
        ),
        Phase::Refused | Phase::Failed => tracing::warn!(
            message_id = %journal::UPDATE_REFUSED,
            error_code = %shown(code),
            %version, "a release was not installed: {detail}"
        ),
        Phase::RolledBack => tracing::error!(
            message_id = %journal::UPDATE_ROLLED_BACK,
            error_code = %shown(code),
            %version, "a release ran badly and was taken back: {detail}"
        ),
    }
}

/// Says what became of a directive.
pub(super) fn directive(id: Uuid, outcome: DirectiveOutcome, detail: Option<&str>) {
    let detail = shown(detail.unwrap_or("no reason was given"));
    let code = match outcome {
        DirectiveOutcome::Applied => {
            return tracing::info!(
                message_id = %journal::DIRECTIVE_APPLIED,
                directive = %id, "a directive of the controller was carried out"
            );
        }
        DirectiveOutcome::Late => "late",
        DirectiveOutcome::Unsupported => "unsupported",
        DirectiveOutcome::Failed => "failed",
    };
    tracing::warn!(
        message_id = %journal::DIRECTIVE_FAILED,
        error_code = code,
        directive = %id, "a directive of the controller was not carried out: {detail}"
    );
}
