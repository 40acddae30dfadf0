//! What a decision writes. The store carries effects out, in order, in one transaction.

use serde::Serialize;
use uuid::Uuid;
use vpn_node_protocol::directive::DisconnectReason;
use vpn_node_protocol::encoding::{Digest, Hex, Nonce};
use vpn_node_protocol::hardware::HardwareStatus;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::message::{Authorisation, BackendReport, Purpose, Verdict};

use crate::rules::boot::Boot;
use crate::rules::connections::{ConnectionWrite, LostRange};
use crate::rules::events::EventType;
use crate::rules::rollout::report::{DeploymentWrite, SoftwareWrite};
use crate::rules::state::{Kept, ServerStatus};

/// One change of the stored state of the server that the decision is about.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The chain moves: compare-and-set on the number that the decision was made on.
    Advance(Box<ChainStep>),
    /// A heartbeat was accepted.
    Heartbeat(Box<HeartbeatWrite>),
    /// The controller's word changes.
    Standing(StandingWrite),
    /// A rotation was accepted: this is the server's next key, and the only next one.
    NextKey(NewKey),
    /// The next key was used for the first time: it is the current one, and the one before is
    /// retired.
    KeyInForce(NewKey),
    /// Two holders of one identity: status `quarantined`, not available, and a row that says who
    /// they are.
    Quarantine(Box<NewSuspicion>),
    /// The new key of the kept holder is in use, or the server was enrolled again.
    ResolveClones {
        /// Who goes on.
        kept: Kept,
        /// When.
        at_ms: i64,
    },
    /// A request was refused as ahead.
    RefusedAhead {
        /// Epoch of the key that signed it.
        epoch: u32,
        /// Its number.
        seq: u64,
        /// Its digest.
        digest: Digest,
    },
    /// A new challenge: a directive and its row of `server_verifications`.
    OpenChallenge(NewChallenge),
    /// A new directive `rotate`.
    OpenRotation(NewRotation),
    /// Directives were handed out.
    Delivered(Vec<Uuid>),
    /// A directive is dealt with, or its time is over.
    DirectiveStatus {
        /// Which.
        id: Uuid,
        /// `answered`, `applied`, `late`, `unsupported`, `failed` or `expired`.
        status: &'static str,
        /// The host's sentence about it.
        detail: Option<String>,
    },
    /// A challenge ends: exactly once.
    CloseVerification(VerificationEnd),
    /// An answer to no open challenge: a row by itself.
    StrayVerification {
        /// What it answered.
        challenge: Nonce,
        /// Why, as it said.
        purpose: Purpose,
        /// How it ended.
        end: VerificationEnd,
    },
    /// A row of the hardware verification log, and the server's hardware columns.
    Hardware(Box<HardwareWrite>),
    /// An operator's permit is used up: these components are the enrolled ones now.
    Rehost {
        /// Their hash.
        hardware_id: Digest,
        /// As JSON.
        raw_components: String,
    },
    /// A connection record, applied once.
    Connection(Box<ConnectionWrite>),
    /// After the connection records: whose they are, as far as that is known, and the end of those
    /// that are up and whose device or personal key is refused.
    Holders {
        /// When.
        at_ms: i64,
    },
    /// Ledger sequences that nobody can read any more.
    Lost {
        /// The ledger.
        ledger_epoch: Hex<16>,
        /// Which, and why.
        range: LostRange,
    },
    /// How far a ledger is stored now.
    LedgerAck {
        /// The ledger.
        ledger_epoch: Hex<16>,
        /// Through this sequence.
        through: u64,
    },
    /// What the host last said of its software.
    Software(Box<SoftwareWrite>),
    /// A deployment moves on, if it is still where it may move from.
    Deployment(Box<DeploymentWrite>),
    /// A row of `security_events`.
    Event(NewEvent),
    /// The same, unless there is one of this type and source already.
    QuietEvent {
        /// The row.
        event: NewEvent,
        /// Within this time, in milliseconds.
        quiet_ms: i64,
    },
}

/// A key that changes its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// The public key.
    pub key: PublicKey,
    /// Its epoch.
    pub epoch: u32,
    /// When.
    pub at_ms: i64,
}

/// One step of a request chain.
#[derive(Clone, Debug)]
pub struct ChainStep {
    /// The epoch it starts from; the store refuses when it is not that any more.
    pub from_epoch: u32,
    /// The number it starts from; the same.
    pub from_seq: u64,
    /// The epoch of the accepted request: with a new one, the digests of the old one are
    /// forgotten.
    pub epoch: u32,
    /// The number of the accepted request.
    pub seq: u64,
    /// The value for the next request.
    pub chain: Digest,
    /// The nonce for the next request.
    pub nonce: Nonce,
    /// Digest of the accepted request.
    pub digest: Digest,
    /// The signed reply, byte for byte.
    pub reply: Vec<u8>,
    /// Boot of the host.
    pub boot: Boot,
    /// When the host made the request, by our clock.
    pub made_ms: i64,
    /// Where the request came from.
    pub peer_ip: String,
}

/// What a heartbeat leaves.
#[derive(Clone, Debug)]
pub struct HeartbeatWrite {
    /// When it came.
    pub received_ms: i64,
    /// Sum over the backends.
    pub active_connections: u64,
    /// `heartbeats.current_location`, `servers.location`.
    pub location: Option<String>,
    /// `heartbeats.system_metrics`: the body as JSON.
    pub body: String,
    /// `server_capabilities`: every backend that the host tells of.
    pub backends: Vec<BackendReport>,
    /// `servers.version`.
    pub version: String,
    /// Where it came from.
    pub peer_ip: String,
    /// Verified, active and alive.
    pub available: bool,
    /// What the agent says of its standing.
    pub authorisation: Authorisation,
    /// When a grace period that it reports ends, by the controller's reckoning.
    pub grace_expires_ms: Option<i64>,
    /// Whether this heartbeat is the first that tells of a grace period.
    pub grace_began: bool,
}

/// The controller's word on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingWrite {
    /// The word.
    pub verdict: Verdict,
    /// A sentence.
    pub reason: Option<String>,
    /// Challenges in a row without an answer.
    pub challenges_missed: u32,
    /// Whether the host may be offered to users.
    pub available: bool,
}

/// A challenge to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChallenge {
    /// Its directive's id.
    pub id: Uuid,
    /// 32 random bytes.
    pub value: Nonce,
    /// Why.
    pub purpose: Purpose,
    /// When it was made.
    pub issued_ms: i64,
    /// For how long it may be answered, in seconds.
    pub deadline_s: u32,
    /// Whether it goes out with the reply of this very transaction.
    pub delivered: bool,
}

/// A directive `rotate` to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRotation {
    /// Its id.
    pub id: Uuid,
    /// When it was made.
    pub issued_ms: i64,
    /// For how long it may be followed, in seconds.
    pub deadline_s: u32,
    /// Whether it goes out with the reply of this very transaction.
    pub delivered: bool,
}

/// A directive `disconnect` to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDisconnect {
    /// Its id.
    pub id: Uuid,
    /// At least one, at most [`vpn_node_protocol::limits::MAX_DISCONNECTS`].
    pub connection_ids: Vec<Uuid>,
    /// What their ends will say.
    pub reason: DisconnectReason,
    /// When it was made.
    pub issued_ms: i64,
}

/// A row of `clone_suspicions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSuspicion {
    /// When the second holder was seen.
    pub at_ms: i64,
    /// Epoch of the key that both have.
    pub epoch: u32,
    /// The server's status before.
    pub status_before: ServerStatus,
    /// What it looks like.
    pub likely: Likely,
    /// The same for people, with what to do.
    pub reason: &'static str,
    /// Whose request was accepted last.
    pub first: FirstHolder,
    /// Whose request came then.
    pub second: SecondHolder,
}

/// The holder whose request was accepted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstHolder {
    /// Number of that request.
    pub seq: u64,
    /// When its last heartbeat came.
    pub seen_ms: Option<i64>,
    /// Where its last request came from.
    pub peer_ip: String,
    /// The boot that it was in.
    pub boot_id: Option<Uuid>,
}

/// The holder whose request does not follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondHolder {
    /// Number of its request.
    pub seq: u64,
    /// Digest of its request, which it repeats until it is accepted.
    pub digest: Digest,
    /// The chain value and the nonce that its request builds on; a witness does not tell them.
    pub place: Option<(Digest, Nonce)>,
    /// Where it came from.
    pub peer_ip: String,
    /// The boot that it is in.
    pub boot_id: Uuid,
    /// Its uptime, suspend included, in milliseconds.
    pub boottime_ms: u64,
}

/// What two holders of one identity look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Likely {
    /// Two machines.
    Copy,
    /// One machine that was set back.
    RestoredSnapshot,
    /// Nothing speaks for either.
    Unknown,
}

/// How a challenge ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationEnd {
    /// The challenge's directive id.
    pub challenge_id: Uuid,
    /// Digest of the answer, when there was one.
    pub response: Option<Digest>,
    /// Whether it verified the host.
    pub result: bool,
    /// A stable code when it did not.
    pub failure: Option<&'static str>,
    /// For people.
    pub detail: Option<String>,
    /// When.
    pub at_ms: i64,
}

/// One attempt at a fingerprint, whatever came of it.
#[derive(Clone, Debug)]
pub struct HardwareWrite {
    /// Id of the log row: that of the challenge, where there was one.
    pub log_id: Uuid,
    /// The hash that the host stated; that of the enrolment where it stated none.
    pub hardware_id: Digest,
    /// The components as JSON, when they could be opened.
    pub raw_components: Option<String>,
    /// `success`, `mismatch`, `invalid` or `error`.
    pub result: &'static str,
    /// What was wrong: a stable code, what changed, or both.
    pub error_details: Option<String>,
    /// Where the answer came from, when one came.
    pub client_ip: Option<String>,
    /// The host's operating system, when it said.
    pub os_version: Option<String>,
    /// When.
    pub at_ms: i64,
    /// `servers.hardware_verification_status`; none leaves the server's row as it is.
    pub status: Option<HardwareStatus>,
}

/// A row of `security_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened; its severity and component follow from it.
    pub event_type: EventType,
    /// Whom it is about: a server id, a registration key or an address.
    pub source_id: Option<String>,
    /// A sentence. Values from outside are escaped in it.
    pub description: String,
    /// When.
    pub at_ms: i64,
}
