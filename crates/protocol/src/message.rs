//! What an enrolled agent and its controller exchange: chained requests and signed replies.
//!
//! Every request carries a [`Header`], every reply a [`ReplyHeader`]; the bodies differ by kind.
//! The directive request ([`Poll`]) is signed but not chained: it may wait for a minute, and
//! must not hold up a heartbeat.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::{Digest, Hex, Nonce};
use crate::envelope::{Envelope, Payload};
use crate::hardware::HardwareStatus;
use crate::metrics::SystemMetrics;
use crate::sealing::Sealed;
use crate::update::UpdateReport;

/// What every chained request says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Who speaks.
    pub server_id: String,
    /// Epoch of the identity key that signs.
    pub epoch: u32,
    /// Number of this request; the first of an epoch is 1.
    pub seq: u64,
    /// The chain value of the reply before ([`crate::chain`]).
    pub chain: Digest,
    /// The nonce of the reply before.
    pub nonce: Nonce,
    /// This boot of the host (`/proc/sys/kernel/random/boot_id`, random(4)).
    pub boot_id: Uuid,
    /// The agent's wall clock, in milliseconds since the Unix epoch. Advisory.
    pub agent_time_ms: i64,
    /// `CLOCK_BOOTTIME`, in milliseconds: dates records of this boot whatever the wall clock says.
    pub boottime_ms: u64,
    /// Directives dealt with since the reply before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directive_acks: Vec<DirectiveAck>,
    /// The reply before, whole, when the controller has said that it does not know that far
    /// ([`RefusalCode::Ahead`]): the proof that it was the controller that lost memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Box<Envelope>>,
}

/// What became of a directive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectiveAck {
    /// The directive.
    pub id: Uuid,
    /// Its end.
    pub outcome: DirectiveOutcome,
    /// For people: what could not be done, and why. A short text ([`crate::limits::is_short_text`])
    /// that names no client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a directive ended on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectiveOutcome {
    /// Done; for a challenge: its answer is on the way, or was sent.
    Applied,
    /// Its deadline was over when it came.
    Late,
    /// This agent does not know that kind.
    Unsupported,
    /// It was tried and could not be done; [`DirectiveAck::detail`] says why.
    Failed,
}

/// A chained request: header, then what it is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message<B> {
    /// Who, where in the chain, when.
    pub header: Header,
    /// What.
    pub body: B,
}

/// Something a chained request can be about.
pub trait Body {
    /// The payload type of the message.
    const TYPE: &'static str;
}

impl<B: Body + Serialize + serde::de::DeserializeOwned> Payload for Message<B> {
    const TYPE: &'static str = B::TYPE;
}

/// "I am alive, and this is how I am."
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Version of the agent (semver.org).
    pub version: String,
    /// How long the agent has run, in seconds.
    pub uptime_s: u64,
    /// Each VPN backend and its live sessions.
    pub backends: Vec<BackendReport>,
    /// The host's figures.
    pub metrics: SystemMetrics,
    /// Controller's clock minus agent's clock, in milliseconds, once a reply has told it.
    pub clock_offset_ms: Option<i64>,
    /// Connection records that wait for the controller.
    pub backlog: BacklogReport,
    /// Where the operator says the host is.
    pub location: Option<String>,
    /// What the agent makes of its own standing.
    pub authorisation: Authorisation,
    /// Set when the agent asks to be challenged, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification_wanted: Option<Purpose>,
    /// Its software; absent from agents that do not update themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateReport>,
}

/// One VPN backend of a host. Counts of connections and bytes are sums: they name no client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendReport {
    /// For example `wireguard`.
    pub kind: String,
    /// For example `wg0`.
    pub instance: String,
    /// Whether the agent can read it.
    pub up: bool,
    /// Live sessions.
    pub active: u32,
    /// Connections that began since the agent started.
    pub started: u64,
    /// Connections that ended since the agent started.
    pub ended: u64,
    /// Bytes from all its clients since the agent started.
    pub rx_bytes: u64,
    /// Bytes to all its clients since the agent started.
    pub tx_bytes: u64,
    /// Bytes a second from all its clients since the heartbeat before.
    pub rx_bytes_per_s: u64,
    /// Bytes a second to all its clients since the heartbeat before.
    pub tx_bytes_per_s: u64,
    /// What the host offers there; absent when the daemon tells nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<BackendDetails>,
}

/// What one VPN backend offers: the server's own facts, `server_capabilities.capability_details`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendDetails {
    /// Version of the VPN software, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its network interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// UDP or TCP port that clients come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The server's own public key (WireGuard: base64).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
}

/// How much the ledger holds that the controller has not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BacklogReport {
    /// Records.
    pub records: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Records that were lost since the ledger began (and are reported as gaps).
    pub lost: u64,
    /// Records that the disk does not take at present: in memory, neither stored nor given up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unstored: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The agent's own view of its standing (`docs/protocol.md`, "Authorisation").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authorisation {
    /// Not verified since this agent started.
    #[default]
    Unverified,
    /// Verified, and the controller answers.
    Verified,
    /// Verified, but the controller has been silent.
    Grace,
    /// Silent for too long, or told to stop.
    Lapsed,
}

/// Why a host is challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The agent started.
    Start,
    /// It was time again.
    Periodic,
    /// An operator asked.
    OnDemand,
    /// The hardware probe gave another answer than before.
    HardwareChanged,
}

impl Purpose {
    /// The stable text, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Periodic => "periodic",
            Self::OnDemand => "on_demand",
            Self::HardwareChanged => "hardware_changed",
        }
    }
}

/// The answer to a challenge ([`crate::directive::Action::Challenge`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengeAnswer {
    /// The challenge's directive id.
    pub challenge_id: Uuid,
    /// Its random value, repeated under the agent's signature.
    pub value: Nonce,
    /// Its purpose, repeated.
    pub purpose: Purpose,
    /// [`crate::hardware::Components`] as JSON, sealed with the identity's context.
    pub hardware: Sealed,
    /// Their hash.
    pub verification_hash: Digest,
    /// `PRETTY_NAME` of os-release(5), or empty.
    pub os_version: String,
}

/// A piece of the connection ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionBatch {
    /// Which ledger: a new one starts a new epoch.
    pub ledger_epoch: Hex<16>,
    /// Records in ascending order of their sequence.
    pub records: Vec<SealedRecord>,
    /// Sequences that this ledger lost, in ascending order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

/// One sealed record ([`crate::connection::ConnectionRecord`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedRecord {
    /// Its place in the ledger.
    pub seq: u64,
    /// Its bytes.
    pub sealed: Sealed,
}

/// Sequences that are lost: reported, never silent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// First lost sequence.
    pub first: u64,
    /// Last lost sequence.
    pub last: u64,
    /// Why.
    pub reason: GapReason,
}

/// Why ledger records were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// A write that a power failure cut off, or damage to the very last records: on disk the two
    /// look the same.
    Torn,
    /// The disk gave back other bytes than were written.
    Damaged,
    /// A file of the ledger is not there any more.
    Missing,
    /// The quota was full, and the oldest records gave way to new ones.
    Dropped,
    /// The disk took no records for so long that they were given up.
    Refused,
}

impl Body for Heartbeat {
    const TYPE: &'static str = "application/vnd.vpn-node.heartbeat.v1+json";
}
impl Body for ChallengeAnswer {
    const TYPE: &'static str = "application/vnd.vpn-node.challenge-answer.v1+json";
}
impl Body for ConnectionBatch {
    const TYPE: &'static str = "application/vnd.vpn-node.connections.v1+json";
}

/// The controller's signed answer to a chained request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// To what, and what comes next.
    pub header: ReplyHeader,
    /// How the host stands with the controller.
    pub standing: Standing,
    /// Seconds to the next heartbeat.
    pub heartbeat_interval_s: u32,
    /// Signed [`crate::directive::Directive`]s.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directives: Vec<Envelope>,
    /// For a connection batch: what is safe with the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_ack: Option<ConnectionsAck>,
}

/// What every reply says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyHeader {
    /// To whom.
    pub server_id: String,
    /// Epoch of the identity key.
    pub epoch: u32,
    /// Digest of the request that this answers.
    pub request_digest: Digest,
    /// Its number.
    pub seq: u64,
    /// The chain value for the next request.
    pub chain: Digest,
    /// The nonce for the next request.
    pub nonce: Nonce,
    /// The controller's clock, in milliseconds since the Unix epoch.
    pub controller_time_ms: i64,
}

/// How a host stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The controller's word.
    pub verdict: Verdict,
    /// How long `verified` holds without another word, in seconds; at most
    /// [`crate::limits::MAX_LEASE_S`]. A duration, so that no clock can lengthen it.
    pub lease_s: u32,
    /// What the last fingerprint gave.
    pub hardware_status: HardwareStatus,
    /// A sentence for people, when there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The controller's word on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No answered challenge yet since the agent started.
    Unverified,
    /// The last challenge was answered well.
    Verified,
    /// The last challenge was answered badly, or not in time.
    Failed,
    /// Primary hardware changed; an operator must permit the rehost.
    Mismatch,
    /// Enrolled, but an operator has not approved it.
    Pending,
}

/// What the controller has stored for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsAck {
    /// Which ledger.
    pub ledger_epoch: Hex<16>,
    /// Every record or gap up to and with this sequence.
    pub acked_through: u64,
}

impl Payload for Reply {
    const TYPE: &'static str = "application/vnd.vpn-node.reply.v1+json";
}

/// The controller's signed "no" to a request of a known host. The chain has not moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Digest of the request that this answers.
    pub request_digest: Digest,
    /// The controller's clock, in milliseconds since the Unix epoch.
    pub controller_time_ms: i64,
    /// A stable code, for programs.
    pub code: RefusalCode,
    /// A sentence, for people.
    pub message: String,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request is further than the controller remembers: send it again with
    /// [`Header::proof`].
    Ahead,
    /// Two holders of one identity, or a restored snapshot: an operator must resolve it.
    Quarantined,
    /// The request is older than the controller remembers, so it may be recorded traffic: a host
    /// that lives proves it with a [`crate::identity::Witness`].
    Behind,
    /// The key that signed was replaced: by a rotation, or by a new enrolment of the server.
    RetiredKey,
    /// The server was revoked, for ever.
    Revoked,
    /// The body does not hold what its kind must: the same request will never be accepted.
    BadRequest,
}

impl Payload for Refusal {
    const TYPE: &'static str = "application/vnd.vpn-node.refusal.v1+json";
}

/// The long-lived directive request: the controller answers when it has something to say, or
/// after `wait_s`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// Who asks.
    pub server_id: String,
    /// Epoch of the identity key that signs.
    pub epoch: u32,
    /// The nonce of the last reply. The controller takes the last two, so that a recorded
    /// request is worth nothing soon after.
    pub nonce: Nonce,
    /// This boot of the host.
    pub boot_id: Uuid,
    /// Makes each request's digest its own.
    pub request_id: Uuid,
    /// How long to hold the request, in seconds; at most [`crate::limits::MAX_POLL_WAIT_S`].
    pub wait_s: u32,
}

impl Payload for Poll {
    const TYPE: &'static str = "application/vnd.vpn-node.poll.v1+json";
}

/// The answer to a [`Poll`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollReply {
    /// Digest of the request that this answers.
    pub request_digest: Digest,
    /// The controller's clock, in milliseconds since the Unix epoch.
    pub controller_time_ms: i64,
    /// Signed [`crate::directive::Directive`]s; none when the wait was over.
    pub directives: Vec<Envelope>,
}

impl Payload for PollReply {
    const TYPE: &'static str = "application/vnd.vpn-node.poll-reply.v1+json";
}
