//! Changing an identity, and proving who holds it (`docs/protocol.md`, "Rotation" and "Replay and
//! clones").
//!
//! - [`Rotate`]: a host gives itself a new key. The old epoch ends when the new key is first used.
//! - [`Introduction`]: the host's rotations, for a controller that lost them with its memory.
//! - [`Witness`]: a fresh signature of a host that is told to be behind: what tells a copy that
//!   lives from recorded traffic.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::Digest;
use crate::envelope::{Envelope, Payload};
use crate::keys::PublicKey;
use crate::message::Body;

/// "From the next epoch on this is my key": a chained request, signed by the key in force **and**
/// by the new one, which is thereby proven to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// The host's new public key. A later rotation of the same epoch replaces it.
    pub new_key: PublicKey,
}

impl Body for Rotate {
    const TYPE: &'static str = "application/vnd.vpn-node.rotate.v1+json";
}

/// A rotation that was accepted: the request as it was sent, and the controller's signed reply.
/// Both verify by themselves, so whoever carries them adds nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// A [`Rotate`] request, signed by the old key and the new one.
    pub request: Envelope,
    /// The [`crate::message::Reply`] to it.
    pub reply: Envelope,
}

/// The rotations since the key that a controller may still remember: sent when it knows no server
/// of the newest key, which happens after it was restored from a backup. Signed by the newest key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Who speaks.
    pub server_id: String,
    /// Epoch of the key that signs.
    pub epoch: u32,
    /// Oldest first, without a hole; at most [`crate::limits::MAX_ROTATIONS`].
    pub rotations: Vec<Rotation>,
}

impl Payload for Introduction {
    const TYPE: &'static str = "application/vnd.vpn-node.introduction.v1+json";
}

/// The controller's answer to an [`Introduction`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntroductionReply {
    /// Digest of the introduction.
    pub request_digest: Digest,
    /// The controller's clock, in milliseconds since the Unix epoch.
    pub controller_time_ms: i64,
    /// Whether it knows the newest key now: the pending request may be sent again.
    pub known: bool,
}

impl Payload for IntroductionReply {
    const TYPE: &'static str = "application/vnd.vpn-node.introduction-reply.v1+json";
}

/// The answer to a refusal with [`crate::message::RefusalCode::Behind`]: recorded traffic cannot
/// sign a refusal that was made a moment ago, a living copy of the host can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Who speaks.
    pub server_id: String,
    /// Epoch of the identity key that signs.
    pub epoch: u32,
    /// The refusal, as it came.
    pub refusal: Envelope,
    /// Number of the request that was refused.
    pub seq: u64,
    /// This boot of the host.
    pub boot_id: Uuid,
    /// The host's uptime, suspend included, in milliseconds.
    pub boottime_ms: u64,
}

impl Payload for Witness {
    const TYPE: &'static str = "application/vnd.vpn-node.witness.v1+json";
}
