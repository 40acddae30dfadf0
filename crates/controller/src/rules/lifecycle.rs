//! What becomes of a server besides its requests: revoked, or given a new identity.

use vpn_node_protocol::encoding::Digest;
use vpn_node_protocol::hardware::{Components, compare};

use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;
use crate::rules::state::ServerStatus;

/// For how long a host may follow the wish for a new key, in seconds: one that is off the net for
/// longer is asked again.
pub const ROTATE_DEADLINE_S: u32 = 600;

/// The status of a server that was enrolled again; `None` when it may not be.
#[must_use]
pub fn status_reenrolled(before: ServerStatus) -> Option<ServerStatus> {
    match before {
        ServerStatus::Revoked => None,
        // A new identity is no operator's approval.
        ServerStatus::Pending => Some(ServerStatus::Pending),
        ServerStatus::Active | ServerStatus::Quarantined => Some(ServerStatus::Active),
    }
}

/// The event of a re-enrolment. `enrolled` are the components until now, if they can be read.
#[must_use]
pub fn reenrolled(
    server_id: &str,
    key_id: &Digest,
    epoch: u32,
    enrolled: Option<&Components>,
    components: &Components,
    peer_ip: &str,
    now_ms: i64,
) -> NewEvent {
    let hardware = match enrolled.map(|enrolled| compare(enrolled, components)) {
        None => "the hardware before is not known".to_owned(),
        Some(comparison) if comparison.changed.is_empty() => "the hardware is the same".to_owned(),
        Some(comparison) => format!("the hardware is another: {comparison}"),
    };
    NewEvent {
        event_type: EventType::ServerReenrolled,
        source_id: Some(server_id.to_owned()),
        description: format!(
            "a host was given this server's identity anew from {peer_ip}: key {key_id} of epoch {epoch}; {hardware}"
        ),
        at_ms: now_ms,
    }
}

/// The event of an approval.
#[must_use]
pub fn approved(server_id: &str, now_ms: i64) -> NewEvent {
    NewEvent {
        event_type: EventType::ServerApproved,
        source_id: Some(server_id.to_owned()),
        description: "an operator let the waiting server in".to_owned(),
        at_ms: now_ms,
    }
}

/// The event of a revocation.
#[must_use]
pub fn revoked(server_id: &str, reason: &str, now_ms: i64) -> NewEvent {
    NewEvent {
        event_type: EventType::ServerRevoked,
        source_id: Some(server_id.to_owned()),
        description: format!("an operator revoked the server for ever: {reason:?}"),
        at_ms: now_ms,
    }
}
