//! Devices and personal keys: which may be connected, what a device is called on the hosts, and
//! the events of a revocation.
//!
//! A connection belongs to the device that has its identity, the device to a personal key, and the
//! key to a user. A device that is revoked, or whose key is revoked or over, is refused: its
//! connections are ended, also those that begin later.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use vpn_node_protocol::connection::opaque_text;

use crate::rules::effect::NewEvent;
use crate::rules::events::EventType;

/// How long a host may take to follow a directive `disconnect`, in seconds: a host that is off the
/// net for longer is asked again when it is heard.
pub const DISCONNECT_DEADLINE_S: u32 = 120;
/// A connection that a host could not end is tried again after this time, in milliseconds. So often
/// an operator hears of it, too.
pub const DISCONNECT_AGAIN_MS: i64 = 600_000;
/// The same for one that is over by the host's word, while no record of its end has come: that may be
/// lost. Any other news of the connection has it ended at once.
pub const DISCONNECT_APPLIED_AGAIN_MS: i64 = 24 * 3600 * 1000;
/// One event tells of a refused device that is connected again and again for so long, in
/// milliseconds: a client that redials makes it a dozen times a minute.
pub const CAME_BACK_QUIET_MS: i64 = 600_000;

/// A WireGuard public key (Curve25519, RFC 7748).
const WIREGUARD_KEY_BYTES: usize = 32;
/// Base64 as `wg` writes it (RFC 4648 section 4); the padding may be left out.
const WIREGUARD_KEY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `devices.status` and `personal_keys.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderStatus {
    /// Good.
    Active,
    /// A key whose time is over.
    Expired,
    /// Refused for ever.
    Revoked,
}

/// What the stored state says of whoever holds a connection.
#[derive(Clone, Copy, Debug)]
pub struct Holder {
    /// Of the device.
    pub device: HolderStatus,
    /// Of its personal key.
    pub key: HolderStatus,
    /// When that key ends, in milliseconds since the Unix epoch: the sweep may not have been there
    /// yet.
    pub key_expires_ms: Option<i64>,
}

impl Holder {
    /// Why its connections are ended, to follow "a device"; `None` when they are not.
    #[must_use]
    pub fn refusal(&self, now_ms: i64) -> Option<&'static str> {
        if self.device != HolderStatus::Active {
            return Some("that is revoked");
        }
        match self.key {
            HolderStatus::Revoked => Some("whose personal key is revoked"),
            HolderStatus::Expired => Some("whose personal key is over"),
            HolderStatus::Active => self
                .key_expires_ms
                .is_some_and(|end_ms| end_ms <= now_ms)
                .then_some("whose personal key is over"),
        }
    }
}

/// What a VPN daemon calls a client by: `connections.client_identity_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    /// A public key, in base64.
    Wireguard,
    /// A certificate's common name.
    Certificate,
    /// An EAP identity (RFC 3748 section 5.1).
    Eap,
    /// An IKE identity (RFC 7296 section 3.5).
    Ike,
    /// A user name.
    User,
}

/// Why something is no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing.
    #[error("an identity cannot be empty")]
    Empty,
    /// No WireGuard key.
    #[error(
        "this is no WireGuard public key: expected the base64 of 32 bytes, as 'wg show' and 'wg pubkey' print it"
    )]
    NoWireguardKey,
}

impl IdentityKind {
    /// An identity as the hosts write it, so that the two can be compared.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn written(self, name: &[u8]) -> Result<String, IdentityError> {
        if name.is_empty() {
            return Err(IdentityError::Empty);
        }
        if self != Self::Wireguard {
            return Ok(opaque_text(name));
        }
        let key = WIREGUARD_KEY.decode(name.trim_ascii()).unwrap_or_default();
        if key.len() != WIREGUARD_KEY_BYTES {
            return Err(IdentityError::NoWireguardKey);
        }
        Ok(WIREGUARD_KEY.encode(key))
    }
}

/// Who is revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The device of this id.
    Device(String),
    /// The personal key of this id, and with it every device of it.
    Key(String),
}

/// The event of a revocation. `name` is the device's, or the user's.
#[must_use]
pub fn revoked(whom: &Revoked, name: &str, reason: &str, asked: usize, at_ms: i64) -> NewEvent {
    let (event_type, id, what) = match whom {
        Revoked::Device(id) => (EventType::DeviceRevoked, id, "the device"),
        Revoked::Key(id) => (EventType::PersonalKeyRevoked, id, "a personal key of"),
    };
    NewEvent {
        event_type,
        source_id: Some(id.clone()),
        description: format!(
            "an operator revoked {what} {name:?} for ever: {reason:?}; {} to be ended",
            connections(asked)
        ),
        at_ms,
    }
}

/// The event of a key whose time is over.
#[must_use]
pub fn expired(key_id: &str, user_name: &str, at_ms: i64) -> NewEvent {
    NewEvent {
        event_type: EventType::PersonalKeyExpired,
        source_id: Some(key_id.to_owned()),
        description: format!(
            "the time of a personal key of {user_name:?} is over; connections of its devices are ended"
        ),
        at_ms,
    }
}

/// The event of a refused device that is connected. `refusal` is [`Holder::refusal`]'s.
#[must_use]
pub fn came_back(
    device_id: &str,
    name: Option<&str>,
    refusal: &str,
    server_id: &str,
    at_ms: i64,
) -> NewEvent {
    let name = name.unwrap_or("without a name");
    NewEvent {
        event_type: EventType::RevokedDeviceConnected,
        source_id: Some(device_id.to_owned()),
        description: format!(
            "a device {refusal} ({name:?}) is connected to server {server_id}, which was asked to end that"
        ),
        at_ms,
    }
}

/// The event of a revocation that a host did not carry out. `detail` is the host's own sentence.
#[must_use]
pub fn not_enforced(
    server_id: &str,
    outcome: &str,
    count: usize,
    detail: Option<&str>,
    at_ms: i64,
) -> NewEvent {
    let detail = detail.map_or_else(String::new, |detail| format!(": {detail:?}"));
    NewEvent {
        event_type: EventType::RevocationNotEnforced,
        source_id: Some(server_id.to_owned()),
        description: format!(
            "the host did not carry out the end of {} of a revoked device or personal key ({outcome}){detail}",
            connections(count)
        ),
        at_ms,
    }
}

/// So many connections, in words.
fn connections(count: usize) -> String {
    match count {
        1 => "1 connection".to_owned(),
        count => format!("{count} connections"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vpn_node_protocol::limits::MAX_IDENTITY_BYTES;

    use super::*;

    #[test]
    fn who_is_revoked_or_over_is_refused_and_nobody_else() {
        use HolderStatus::{Active, Expired, Revoked};
        let holder = |device, key, key_expires_ms| Holder {
            device,
            key,
            key_expires_ms,
        };
        for (holder, refused) in [
            (holder(Active, Active, None), false),
            (holder(Active, Active, Some(101)), false),
            (holder(Active, Active, Some(100)), true),
            (holder(Active, Expired, None), true),
            (holder(Active, Revoked, Some(101)), true),
            (holder(Revoked, Active, None), true),
        ] {
            assert_eq!(holder.refusal(100).is_some(), refused, "{holder:?}");
        }
    }

    #[test]
    fn a_wireguard_key_is_32_bytes_of_base64_and_has_one_spelling() {
        let key = WIREGUARD_KEY.encode([7; 32]);
        assert_eq!(key.len(), 44);
        for spelling in [
            key.clone(),
            key.trim_end_matches('=').to_owned(),
            format!(" {key}\n"),
        ] {
            assert_eq!(
                IdentityKind::Wireguard.written(spelling.as_bytes()),
                Ok(key.clone())
            );
        }
        for bad in [
            "x",
            "alice",
            &key[..40],
            &format!("{key}AAAA"),
            &key.replace('B', "!"),
        ] {
            let refused = IdentityKind::Wireguard.written(bad.as_bytes());
            assert_eq!(refused, Err(IdentityError::NoWireguardKey), "{bad}");
        }
        // The last character's unused bits: two spellings of one key would be two identities.
        let other = format!("{}d=", &key[..42]);
        assert!(IdentityKind::Wireguard.written(other.as_bytes()).is_err());
        assert_eq!(IdentityKind::Eap.written(b""), Err(IdentityError::Empty));
    }

    #[test]
    fn events_hold_names_from_outside_escaped() {
        let hostile = "a\u{1b}[2J\n\u{202e}'; DROP TABLE devices; --";
        let device = Revoked::Device("d".into());
        for event in [
            revoked(&device, hostile, hostile, 1, 0),
            expired("k", hostile, 0),
            came_back("d", Some(hostile), "that is revoked", "s", 0),
            not_enforced("s", "failed", 2, Some(hostile), 0),
        ] {
            let bad = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!event.description.contains(bad), "{event:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_becomes_bounded_printable_text(name in prop::collection::vec(any::<u8>(), 1..3000)) {
            for kind in [IdentityKind::Certificate, IdentityKind::Eap, IdentityKind::Ike, IdentityKind::User] {
                let text = kind.written(&name).unwrap();
                prop_assert!(text.len() <= MAX_IDENTITY_BYTES);
                prop_assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
            }
            // A key or a sentence, and never a panic.
            let _ = IdentityKind::Wireguard.written(&name);
        }
    }
}
