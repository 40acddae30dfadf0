//! Everything that happens to the agent, and everything it wants done.

use std::time::Duration;

use ed25519_dalek::SigningKey;
use uuid::Uuid;
use vpn_node_protocol::certificate::SealingKeyEntry;
use vpn_node_protocol::connection::ConnectionRecord;
use vpn_node_protocol::envelope::Envelope;
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::message::{BackendDetails, ConnectionBatch, DirectiveOutcome};
use vpn_node_protocol::metrics::SystemMetrics;

use crate::core::lane::LaneState;
use crate::core::sessions::{BackendId, KnownSession, Obs, SessionKey};
use crate::core::update;

/// Something happened. Workers make these; the core alone decides what they mean.
#[derive(Debug)]
pub enum Event {
    /// The controller answered the chained request in flight, with whatever bytes.
    Answer(Vec<u8>),
    /// The chained request in flight could not be written to disk, sent, or answered.
    SendFailed(SendFailure),
    /// The same, and the reason given is that no server has the key that signed.
    UnknownKey(SendFailure),
    /// The controller answered [`Command::Introduce`].
    IntroductionAnswer(Vec<u8>),
    /// [`Command::Introduce`] failed.
    IntroductionFailed(SendFailure),
    /// The controller answered [`Command::Witness`].
    WitnessAnswer(Vec<u8>),
    /// [`Command::Witness`] failed.
    WitnessFailed(SendFailure),
    /// [`Command::StoreNextKey`] is done, or why not.
    NextKeyStored(Result<(), String>),
    /// The controller answered the directive request.
    PollAnswer(Vec<u8>),
    /// The directive request failed.
    PollFailed(SendFailure),
    /// `GET /v1/certificate` was answered.
    Certificate(Vec<u8>),
    /// `GET /v1/certificate` failed.
    CertificateFailed(SendFailure),
    /// The host's figures, as [`Command::Sample`] asked.
    Sampled(SystemMetrics),
    /// The hardware probe's answer, as [`Command::ProbeHardware`] asked.
    Hardware(Box<Components>),
    /// A VPN backend was read.
    Observed(BackendId, Obs),
    /// What became of [`Command::Disconnect`].
    Disconnected {
        /// Which one.
        order: u64,
        /// The daemon says that the session is over; or why it is not, in a sentence that names no
        /// client.
        result: Result<(), String>,
    },
    /// A VPN backend told what its server offers.
    Details(BackendId, BackendDetails),
    /// The ledger took records, lost some, or failed.
    Ledger(LedgerFacts),
    /// Something about releases.
    Update(update::Event),
    /// A piece of the ledger, as [`Command::ReadBatch`] asked; empty when nothing waits.
    Batch(ConnectionBatch),
}

/// Why an exchange with the controller failed, without a signed word from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFailure {
    /// The sentence: what failed, with which address, why, and what to do.
    pub message: String,
    /// What `Retry-After` asked for.
    pub retry_after: Option<Duration>,
    /// How far it got.
    pub problem: Problem,
}

/// What stood between a request and its acceptance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Problem {
    /// Nothing.
    #[default]
    None,
    /// No answer that can be believed.
    Unreachable,
    /// An answer that asks for patience (429, 5xx).
    Busy,
    /// A refusal.
    Refused,
}

impl Problem {
    /// The word in the status report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::Refused => "refused",
        }
    }
}

/// How the ledger is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerFacts {
    /// Records that the controller has not acknowledged.
    pub records: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Ranges that were lost and are not acknowledged yet.
    pub gaps: u64,
    /// Records lost since this agent started.
    pub lost: u64,
    /// Damaged segments that were set aside.
    pub quarantined: u64,
    /// Records in memory that the disk does not take at present.
    pub unstored: u64,
    /// Why records cannot be stored at present.
    pub error: Option<String>,
    /// Bytes that are free where the state is, in whole MiB, when they are few.
    pub low_space_bytes: Option<u64>,
}

/// Something to do. Workers do it without asking why.
#[derive(Debug)]
pub enum Command {
    /// Write the state to disk, then send the bytes: in this order.
    Send {
        /// The lane with the request in it.
        state: Box<LaneState>,
        /// The request.
        body: Vec<u8>,
    },
    /// Send the directive request.
    Poll {
        /// The request.
        body: Vec<u8>,
        /// How long the controller may hold it.
        wait: Duration,
    },
    /// Make a new identity key durable beside the one in force, and tell. It takes that one's place
    /// with the first [`Command::Send`] whose state names it.
    StoreNextKey(SigningKey),
    /// The new key will not be used: remove it.
    DropNextKey,
    /// Show the controller how the key in force came to be.
    Introduce {
        /// The request.
        body: Vec<u8>,
    },
    /// Prove to the controller that this host lives.
    Witness {
        /// The request.
        body: Vec<u8>,
    },
    /// Ask the controller for its certificate.
    FetchCertificate,
    /// Keep a newer certificate for the next start.
    StoreCertificate(Box<Envelope>),
    /// Read the host's figures.
    Sample,
    /// Look at the hardware.
    ProbeHardware,
    /// Keep the sessions for the next start and make the records durable, as
    /// `docs/architecture.md` ("What a crash cannot lose") orders it.
    Record(Box<Recording>),
    /// End one session through its VPN daemon, and tell what became of it.
    Disconnect {
        /// Names it in the answer.
        order: u64,
        /// Where.
        backend: BackendId,
        /// Which.
        key: SessionKey,
    },
    /// Something about releases.
    Update(update::Command),
    /// Say in the log what became of a directive.
    Settled {
        /// Which one.
        directive: Uuid,
        /// What.
        outcome: DirectiveOutcome,
        /// Why not; names no client.
        detail: Option<String>,
    },
    /// Read the next piece of the ledger.
    ReadBatch,
    /// The controller has stored everything up to `through`.
    Acked {
        /// Last acknowledged sequence.
        through: u64,
        /// Digest of the signed reply that says so.
        proof: [u8; 32],
    },
}

/// What must be on disk before a connection event counts as seen.
#[derive(Debug, Default)]
pub struct Recording {
    /// Keep the counters and signs of life of all sessions, too: without it a crash may lose them.
    pub whole: bool,
    /// The live sessions, without identities and addresses.
    pub sessions: Vec<KnownSession>,
    /// Connections whose start is among the records.
    pub starts: Vec<Uuid>,
    /// Connections whose end is among the records.
    pub ends: Vec<Uuid>,
    /// The records, to be sealed at once.
    pub records: Vec<ConnectionRecord>,
    /// The key to seal them to.
    pub seal_to: Option<SealingKeyEntry>,
}
