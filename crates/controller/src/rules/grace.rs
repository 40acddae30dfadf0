//! What a heartbeat tells of the grace period that a host had while it heard nothing from us.
//!
//! The host alone knows what it did in the silence, and can only say so afterwards: with the first
//! heartbeat that it makes after the one that was under way. A restarted agent knows nothing of it,
//! and a host that we stopped (quarantine, revocation, another verdict) had no grace at all.

use vpn_node_protocol::message::{Authorisation, Verdict};

use crate::rules::state::{Policy, Snapshot};

/// The columns `grace_period_*` of a server, after a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grace {
    /// When the grace period ends in which the host is.
    pub(super) expires_ms: Option<i64>,
    /// The heartbeat is the first that tells of it.
    pub(super) began: bool,
}

impl Grace {
    /// What a host says that is in the state `now`.
    pub(super) fn of(snapshot: &Snapshot, now: Authorisation, policy: Policy) -> Self {
        let before = snapshot.authorisation;
        match now {
            Authorisation::Grace => Self {
                // The lease runs from the sending of the last request that was answered well.
                expires_ms: snapshot
                    .made_ms
                    .or(snapshot.last_heartbeat_ms)
                    .map(|ms| ms.saturating_add(i64::from(policy.lease_s) * 1000)),
                began: before != Authorisation::Grace,
            },
            // Silence outlasted the lease: the whole grace period was used up. Not when our own
            // word ended it, nor when it was told before.
            Authorisation::Lapsed => Self {
                expires_ms: None,
                began: snapshot.verdict == Verdict::Verified
                    && !matches!(before, Authorisation::Grace | Authorisation::Lapsed),
            },
            Authorisation::Unverified | Authorisation::Verified => Self::default(),
        }
    }
}
