//! Judging an enrolment before the token is spent (`docs/protocol.md`, "Enrolment", step 4).

use uuid::Uuid;
use vpn_node_protocol::encoding::{Digest, Nonce};
use vpn_node_protocol::enrolment::{EnrolRefusal, EnrolRequest, Hello, KeyStatus, transcript};
use vpn_node_protocol::hardware::Components;
use vpn_node_protocol::keys::PublicKey;
use vpn_node_protocol::limits::{HELLO_LIFETIME_MS, is_short_text};

use crate::rules::state::ServerStatus;

/// What a host can do, counted: a dozen is much.
const MAX_CAPABILITIES: usize = 64;
/// One capability's details as JSON, in bytes.
const MAX_CAPABILITY_BYTES: usize = 4096;

/// A registration key as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredKey {
    /// `active`, `used` or `revoked`.
    pub status: String,
    /// When it was used, if it was.
    pub used_ms: Option<i64>,
    /// When it ends, if it does.
    pub expires_ms: Option<i64>,
    /// The server that it gives a new identity, instead of enrolling a new one.
    pub for_server_id: Option<String>,
}

/// What a registration key is good for now.
#[must_use]
pub fn key_status(stored: Option<&StoredKey>, now_ms: i64) -> KeyStatus {
    let Some(key) = stored else {
        return KeyStatus::Unknown;
    };
    if let Some(at_ms) = key.used_ms {
        return KeyStatus::Used { at_ms };
    }
    if key.status != "active" {
        return KeyStatus::Revoked;
    }
    match key.expires_ms {
        Some(at_ms) if at_ms <= now_ms => KeyStatus::Expired { at_ms },
        _ => KeyStatus::Active,
    }
}

/// A "no" with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For programs.
    pub code: EnrolRefusal,
    /// For people.
    pub message: String,
}

impl Refused {
    /// A refusal with this sentence.
    #[must_use]
    pub fn new(code: EnrolRefusal, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Everything that the transaction needs, judged.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The registration public key in hex.
    pub registration_key: String,
    /// The host's identity.
    pub identity: PublicKey,
    /// For a new server.
    pub server_id: String,
    /// For a new server.
    pub status: ServerStatus,
    /// The first nonce of a new server.
    pub nonce: Nonce,
    /// Id of the row in the hardware verification log.
    pub log_id: Uuid,
    /// What the host said.
    pub request: EnrolRequest,
    /// Its components, opened.
    pub components: Components,
    /// Where it came from.
    pub peer_ip: String,
    /// The controller's clock.
    pub now_ms: i64,
}

/// How the transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnrolEnd {
    /// A new server, or the same one once more.
    Enrolled {
        /// Its id.
        server_id: String,
        /// Epoch of its identity key.
        epoch: u32,
        /// The nonce for its next request.
        nonce: Nonce,
        /// `servers.status`.
        status: ServerStatus,
    },
    /// Nothing was bound.
    Refused(Refused),
}

/// Checks our own greeting inside the request: age, transcript. Returns the registration key that
/// must have signed the request.
///
/// # Errors
/// [`Refused`].
pub fn check_hello(
    hello: Option<&Hello>,
    request: &EnrolRequest,
    root: &PublicKey,
    now_ms: i64,
) -> Result<PublicKey, Refused> {
    let Some(hello) = hello else {
        return Err(Refused::new(
            EnrolRefusal::StaleHello,
            "the greeting is not one of this controller: begin the enrolment again",
        ));
    };
    // Ours, so in the future only when our own clock was set back.
    let age_ms = now_ms.saturating_sub(hello.controller_time_ms);
    if age_ms.abs() > HELLO_LIFETIME_MS {
        return Err(Refused::new(
            EnrolRefusal::StaleHello,
            "the greeting is older than ten minutes: begin the enrolment again",
        ));
    }
    let expected = transcript(
        &request.hello,
        root,
        &hello.registration_key,
        &request.identity_key,
    );
    if expected != request.transcript {
        return Err(bad("the transcript is not that of this enrolment"));
    }
    if hello.registration_key == request.identity_key {
        return Err(bad("the identity key must not be the registration key"));
    }
    Ok(hello.registration_key)
}

/// Checks texts and counts.
///
/// # Errors
/// [`Refused`].
pub fn check_fields(request: &EnrolRequest) -> Result<(), Refused> {
    let texts = [
        ("version", Some(&request.version)),
        ("hostname", Some(&request.hostname)),
        ("os_version", Some(&request.os_version)),
        ("location", request.location.as_ref()),
    ];
    for (name, text) in texts {
        if !text.is_none_or(|text| is_short_text(text)) {
            return Err(bad(&format!(
                "{name} is longer than 255 bytes, or holds control characters"
            )));
        }
    }
    if request.hostname.is_empty() {
        return Err(bad("hostname is empty"));
    }
    let capability_is_bounded = |c: &vpn_node_protocol::enrolment::Capability| {
        is_short_text(&c.kind) && c.details.to_string().len() <= MAX_CAPABILITY_BYTES
    };
    if request.capabilities.len() > MAX_CAPABILITIES
        || !request.capabilities.iter().all(capability_is_bounded)
    {
        return Err(bad("there are too many capabilities, or one is too long"));
    }
    Ok(())
}

/// Checks the opened hardware against the stated hash.
///
/// # Errors
/// [`Refused`].
pub fn check_hardware(components: &Components, stated: &Digest) -> Result<(), Refused> {
    if components.verification_hash() == *stated {
        Ok(())
    } else {
        Err(bad(
            "verification_hash is not that of the sealed hardware components",
        ))
    }
}

/// What the operator should know about an enrolled host.
#[must_use]
pub fn warnings(components: &Components) -> Vec<String> {
    if components.has_primary() {
        return vec![];
    }
    vec![
        "this host shows neither a disk serial nor a product UUID: a copy of its disk on another machine cannot be told by its hardware".to_owned(),
    ]
}

/// A malformed request.
#[must_use]
pub fn bad(message: &str) -> Refused {
    Refused::new(EnrolRefusal::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_good_until_used_revoked_or_expired() {
        let key = |status: &str, used_ms, expires_ms| StoredKey {
            status: status.into(),
            used_ms,
            expires_ms,
            for_server_id: None,
        };
        let at = |key: StoredKey| key_status(Some(&key), 100);
        assert_eq!(at(key("active", None, None)), KeyStatus::Active);
        assert_eq!(at(key("active", None, Some(101))), KeyStatus::Active);
        let expired = KeyStatus::Expired { at_ms: 100 };
        assert_eq!(at(key("active", None, Some(100))), expired);
        assert_eq!(at(key("revoked", None, Some(50))), KeyStatus::Revoked);
        // Used wins over expired: the same host may come back for its lost answer.
        let used = KeyStatus::Used { at_ms: 40 };
        assert_eq!(at(key("used", Some(40), Some(50))), used);
        assert_eq!(key_status(None, 100), KeyStatus::Unknown);
    }
}
