//! Every bound on what comes from outside, in one place, each with its reason.
//!
//! A receiver checks the size before it parses, so a hostile peer costs a comparison.

/// An agent's signed message, as bytes of the HTTP body. A full connection batch
/// ([`MAX_BATCH_BYTES`] of sealed records) takes 16/9 of its size after two rounds of base64.
pub const MAX_REQUEST_BYTES: usize = 512 * 1024;

/// A signed reply of the controller: headers, a certificate and [`MAX_DIRECTIVES`] directives.
pub const MAX_REPLY_BYTES: usize = 256 * 1024;

/// An enrolment body: one identity, one sealed fingerprint, one echoed envelope.
pub const MAX_ENROLMENT_BYTES: usize = 64 * 1024;

/// Signatures of one envelope. Enrolment carries two; more is somebody's experiment.
pub const MAX_SIGNATURES: usize = 4;

/// Sealed connection records of one batch, counted: keeps one transaction short.
pub const MAX_BATCH_RECORDS: usize = 500;

/// Sealed connection records of one batch, bytes before any base64: a heartbeat waits behind
/// one batch at most, so a batch must cross a slow line in about a second.
pub const MAX_BATCH_BYTES: usize = 192 * 1024;

/// One sealed connection record: a start with identity and addresses is about 600 bytes.
pub const MAX_RECORD_BYTES: usize = 8 * 1024;

/// Gaps reported in one batch; the rest waits for the next one.
pub const MAX_GAPS: usize = 64;

/// Directives of one reply.
pub const MAX_DIRECTIVES: usize = 16;

/// Connections that one directive ends: 64 ids are 2.5 KB, and [`MAX_DIRECTIVES`] such directives
/// leave most of a reply free.
pub const MAX_DISCONNECTS: usize = 64;

/// Acknowledged directives of one message.
pub const MAX_DIRECTIVE_ACKS: usize = 64;

/// Backends of one heartbeat.
pub const MAX_BACKENDS: usize = 64;

/// Host name, version, location, and every other short text of a message, in bytes.
/// 255 is DNS's own bound (RFC 1035 section 2.3.4).
pub const MAX_TEXT_BYTES: usize = 255;

/// A client's name or key as its VPN daemon gave it, in bytes: X.509 common names end at 64
/// characters, EAP identities (RFC 3748) and peers' keys are shorter than this.
pub const MAX_IDENTITY_BYTES: usize = 1024;

/// Virtual addresses kept of one session; a site-to-site peer may announce thousands.
pub const MAX_VIRTUAL_IPS: usize = 32;

/// A challenge must be answered within this many seconds of its receipt.
pub const CHALLENGE_DEADLINE_S: u32 = 60;

/// The longest lease: how long a verdict stands without a word from the controller, in seconds.
pub const MAX_LEASE_S: u32 = 30 * 60;

/// How long the controller honours its own refusal in a [`crate::identity::Witness`], in
/// milliseconds: the agent answers at once.
pub const WITNESS_LIFETIME_MS: i64 = 60 * 1000;

/// Rotations of one [`crate::identity::Introduction`]: years of them, in some 80 KB.
pub const MAX_ROTATIONS: usize = 16;

/// Bytes of JSON of the rotations that an agent remembers, so that it can be introduced: 16 usual
/// ones take half of it, and with the largest request and the largest reply they still fit one copy
/// of `chain.slots`.
pub const MAX_ROTATIONS_BYTES: usize = 128 * 1024;

/// How long the controller honours its own enrolment greeting, in milliseconds.
pub const HELLO_LIFETIME_MS: i64 = 10 * 60 * 1000;

/// The longest wait of the directive request, in seconds: shorter than the idle time-out of
/// common proxies (60 s).
pub const MAX_POLL_WAIT_S: u32 = 50;

/// True when `text` fits [`MAX_TEXT_BYTES`] and holds no control character.
#[must_use]
pub fn is_short_text(text: &str) -> bool {
    text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control)
}
