//! A request as the rules take it: verified, parsed, opened and bounded, with everything that is
//! drawn or read for it before the transaction.

use uuid::Uuid;
use vpn_node_protocol::encoding::{Digest, Nonce};
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{ChallengeAnswer, Header, Heartbeat, ReplyHeader};

use crate::rules::connections::OpenedBatch;
use crate::rules::state::Policy;

/// A verified, parsed and bounded request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who and where in the chain.
    pub header: Header,
    /// What.
    pub subject: Subject,
    /// Its digest.
    pub digest: Digest,
    /// The header of the reply in [`Header::proof`], when one of our own keys signed it for this
    /// server, in whatever epoch.
    pub proof: Option<ReplyHeader>,
    /// Where it came from.
    pub peer_ip: String,
    /// The controller's clock.
    pub now_ms: i64,
    /// What the operator set.
    pub policy: Policy,
    /// Random values for what may be made.
    pub fresh: Fresh,
}

/// What a request is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A heartbeat.
    Heartbeat(Box<Heartbeat>),
    /// The answer to a challenge.
    Answer(Box<OpenedAnswer>),
    /// A piece of a connection ledger.
    Batch(OpenedBatch),
    /// A new identity key, which has signed the request as well.
    Rotate(PublicKey),
}

/// Randomness, drawn before the transaction.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// For the next request.
    pub nonce: Nonce,
    /// Id of a challenge.
    pub challenge_id: Uuid,
    /// Value of a challenge.
    pub challenge_value: Nonce,
    /// Id of a directive `rotate`.
    pub rotation_id: Uuid,
    /// Id of a row of the hardware verification log.
    pub log_id: Uuid,
}

/// An answer whose sealed hardware was opened, or could not be.
#[derive(Clone, Debug)]
pub struct OpenedAnswer {
    /// What came.
    pub answer: ChallengeAnswer,
    /// The components, or a sentence on why there are none.
    pub components: Result<Components, String>,
}
