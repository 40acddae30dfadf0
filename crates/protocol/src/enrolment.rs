//! Enrolment in two round trips (`docs/protocol.md`, "Enrolment").
//!
//! 1. The agent sends its registration public key and a nonce ([`HelloRequest`]).
//! 2. The controller answers with its certificate and a signed greeting ([`HelloResponse`]). The
//!    agent checks the pin and the greeting before it discloses anything.
//! 3. The agent sends its identity, signed by both its keys ([`EnrolRequest`]).
//! 4. The controller spends the token and binds the server in one transaction ([`EnrolReply`]).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::certificate::{CertificateError, ControllerCertificate};
use crate::encoding::{Digest, Nonce, length_prefixed};
use crate::envelope::{Envelope, Payload};
use crate::keys::PublicKey;
use crate::sealing::Sealed;

/// Round trip 1, there. Unsigned: it discloses a public key and a random number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloRequest {
    /// The public half of the registration key.
    pub registration_key: PublicKey,
    /// Random; the greeting repeats it, so that an old greeting is refused.
    pub client_nonce: Nonce,
}

/// Round trip 1, back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloResponse {
    /// A [`ControllerCertificate`], signed by the root key.
    pub certificate: Envelope,
    /// A [`Hello`], signed by an online key of that certificate.
    pub hello: Envelope,
}

/// The controller's greeting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The key that was asked about.
    pub registration_key: PublicKey,
    /// The agent's nonce.
    pub client_nonce: Nonce,
    /// The controller's nonce; with it the transcript is fresh for the controller too.
    pub server_nonce: Nonce,
    /// The controller's clock, in milliseconds since the Unix epoch.
    pub controller_time_ms: i64,
    /// What the controller holds of the key, so that a useless token ends here and the host
    /// keeps nothing of it.
    pub key_status: KeyStatus,
    /// The server that the key gives a new identity to; absent for a key that enrols a new one. A
    /// host that is enrolled already takes no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
}

/// What a registration key is good for, by the controller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// It can enrol one host.
    Active,
    /// It has enrolled a host. The same host may repeat its enrolment with it.
    Used {
        /// When, in milliseconds since the Unix epoch.
        at_ms: i64,
    },
    /// Its time is over.
    Expired {
        /// Since when, in milliseconds since the Unix epoch.
        at_ms: i64,
    },
    /// An operator took it back.
    Revoked,
    /// This controller never made it.
    Unknown,
}

/// Round trip 2, there: signed by the registration key **and** the identity key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The [`Hello`] that this answers, as it came: the controller recognises its own signature,
    /// so that it need not remember a nonce.
    pub hello: Envelope,
    /// [`transcript`] of both sides' keys and nonces.
    pub transcript: Digest,
    /// Names this enrolment; a repeat after a lost reply carries the same.
    pub idempotency_id: Uuid,
    /// The host's new identity.
    pub identity_key: PublicKey,
    /// What the host can do.
    pub capabilities: Vec<Capability>,
    /// Version of the agent (semver.org).
    pub version: String,
    /// Host name (gethostname(2)).
    pub hostname: String,
    /// `PRETTY_NAME` of os-release(5), or empty.
    pub os_version: String,
    /// Where the operator says the host is.
    pub location: Option<String>,
    /// [`crate::hardware::Components`] as JSON, sealed with the identity's context.
    pub hardware: Sealed,
    /// The fingerprint's hash ([`crate::hardware::Components::verification_hash`]).
    pub verification_hash: Digest,
}

/// One thing a host can do: a row of `server_capabilities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// For example `wireguard`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Version, interface, port, public key: whatever the backend tells.
    pub details: serde_json::Value,
}

/// Round trip 2, back: signed by an online key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolReply {
    /// The digest of the [`EnrolRequest`] that this answers.
    pub request_digest: Digest,
    /// The controller's clock, in milliseconds since the Unix epoch.
    pub controller_time_ms: i64,
    /// Enrolled, or why not.
    pub outcome: EnrolOutcome,
}

/// How an enrolment ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrolOutcome {
    /// The host is a server of the fleet.
    Enrolled {
        /// Its id from now on.
        server_id: String,
        /// Epoch of the identity key; 1 for a new server.
        epoch: u32,
        /// The first nonce, for the first chained request.
        nonce: Nonce,
        /// `active`, or `pending` until an operator approves it.
        status: String,
        /// The operator should know: for example that the hardware has no primary component.
        warnings: Vec<String>,
    },
    /// Nothing was bound.
    Refused {
        /// A stable code, for programs.
        code: EnrolRefusal,
        /// A sentence, for people.
        message: String,
    },
}

/// Why an enrolment was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrolRefusal {
    /// The token was used by another identity.
    TokenUsed,
    /// The token's time is over.
    TokenExpired,
    /// An operator took the token back.
    TokenRevoked,
    /// This controller never made the token.
    TokenUnknown,
    /// The greeting is too old, or another controller's: begin again.
    StaleHello,
    /// Signature, transcript, sealed hardware or a field is wrong.
    BadRequest,
}

impl Payload for Hello {
    const TYPE: &'static str = "application/vnd.vpn-node.enrol-hello.v1+json";
}
impl Payload for EnrolRequest {
    const TYPE: &'static str = "application/vnd.vpn-node.enrol-request.v1+json";
}
impl Payload for EnrolReply {
    const TYPE: &'static str = "application/vnd.vpn-node.enrol-reply.v1+json";
}

/// What both keys of the agent sign: every key and nonce that the two sides saw. An enrolment
/// that was relayed to another controller, or mixed from two, has another transcript.
#[must_use]
pub fn transcript(
    hello: &Envelope,
    root: &PublicKey,
    registration: &PublicKey,
    identity: &PublicKey,
) -> Digest {
    Digest::of(&[
        b"vpn-node enrolment v1",
        &length_prefixed(&[
            &hello.digest().0,
            root.as_bytes(),
            registration.as_bytes(),
            identity.as_bytes(),
        ]),
    ])
}

/// Why the agent does not go on after a greeting.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HelloError {
    /// The certificate or the greeting's signature does not hold.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// It answers another greeting than ours.
    #[error(
        "the controller's greeting answers another request: it is a replay, or a proxy mixed two answers up"
    )]
    OtherRequest,
}

impl HelloResponse {
    /// Step 2, the agent's side: pin, certificate, signature, freshness.
    ///
    /// # Errors
    /// [`HelloError`]; nothing has been disclosed then.
    pub fn open(
        &self,
        request: &HelloRequest,
        pin: &Digest,
    ) -> Result<(ControllerCertificate, Hello), HelloError> {
        let certificate = ControllerCertificate::open(&self.certificate, pin, 0)?;
        let hello: Hello =
            certificate.open_signed(&self.hello, 0, |hello: &Hello| hello.controller_time_ms)?;
        let ours = hello.client_nonce == request.client_nonce
            && hello.registration_key == request.registration_key;
        if ours {
            Ok((certificate, hello))
        } else {
            Err(HelloError::OtherRequest)
        }
    }
}
