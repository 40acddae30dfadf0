//! Connection records: the plaintext that is sealed on the host and opened by the controller.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encoding::Digest;
use crate::limits::MAX_IDENTITY_BYTES;

/// One event of one connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// The connection, the same in all its records (UUIDv7, RFC 9562).
    pub connection_id: Uuid,
    /// Start, update or end.
    pub event: ConnectionEvent,
    /// When it happened.
    pub at: Stamp,
    /// When the connection started, as far as is known.
    pub started: Stamp,
    /// For example `wireguard`: `connections.connection_type`.
    pub backend: String,
    /// For example `wg0`.
    pub instance: String,
    /// Who the client is, in the VPN daemon's own terms. Absent only in the end of a connection
    /// that an earlier process of the agent saw start: that start carried it.
    pub identity: Option<ClientIdentity>,
    /// Where the client comes from; absent when the daemon does not tell.
    pub client_ip: Option<IpAddr>,
    /// UDP or TCP port of the client, where known.
    pub client_port: Option<u16>,
    /// Addresses inside the VPN, with prefix lengths; at most
    /// [`crate::limits::MAX_VIRTUAL_IPS`].
    pub virtual_ips: Vec<String>,
    /// Bytes received from the client so far.
    pub rx_bytes: u64,
    /// Bytes sent to the client so far.
    pub tx_bytes: u64,
}

/// What happened to the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConnectionEvent {
    /// It is up.
    Start,
    /// The client's address or its virtual addresses changed.
    Update,
    /// It is over.
    End {
        /// A stable word: `client_disconnect`, `timeout`, `replaced`, `admin_kick`, `revoked`,
        /// `peer_removed`, `connection_reset`, `auth_failed`, `interface_down`, `daemon_down`,
        /// `agent_restart` or `unknown`.
        reason: String,
        /// Whether the daemon said so, or the agent concluded it.
        confidence: Confidence,
        /// Width of the interval in which the end lies, in milliseconds;
        /// [`ConnectionRecord::at`] is the best single answer inside it.
        uncertainty_ms: u64,
    },
}

/// How an end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// The daemon said so.
    Observed,
    /// The agent concluded it from silence or absence.
    Inferred,
}

/// Who a client is. Opaque: shown escaped, compared as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientIdentity {
    /// What `value` is: `wireguard` (public key in base64), `certificate` (common name), `eap`,
    /// `ike` (identity of RFC 7296 section 3.5), `user` (user name).
    pub kind: String,
    /// At most [`crate::limits::MAX_IDENTITY_BYTES`]; names as [`opaque_text`] writes them.
    pub value: String,
}

/// A name that somebody outside chose, as printable ASCII: the same bytes give the same text, and
/// different bytes give different texts.
///
/// Bytes that are not printable, quotes and backslashes are escaped as in a Rust byte string. What
/// would be longer than [`crate::limits::MAX_IDENTITY_BYTES`] is cut, and ends in the SHA-256 of the
/// whole name.
#[must_use]
pub fn opaque_text(name: &[u8]) -> String {
    let escaped = name.iter().map(|byte| byte.escape_ascii());
    let length = |text: &str, next: &std::ascii::EscapeDefault| text.len() + next.len();
    let mut text = String::new();
    // Where the text must end if it has to be cut: after a whole escape, or the cut could look like
    // another name.
    let mut room = 0;
    let tail_len = CUT.len() + 64;
    for next in escaped {
        if length(&text, &next) > MAX_IDENTITY_BYTES {
            text.truncate(room);
            return text + CUT + &Digest::of(&[name]).to_string();
        }
        text.extend(next.map(char::from));
        if text.len() + tail_len <= MAX_IDENTITY_BYTES {
            room = text.len();
        }
    }
    text
}

/// Begins the end of a name that was cut: a backslash before a dot is no escape.
const CUT: &str = "\\...sha256:";

/// An instant of a host, so that the controller can date it by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The boot it happened in.
    pub boot_id: Uuid,
    /// `CLOCK_BOOTTIME`, in milliseconds.
    pub boottime_ms: u64,
    /// The host's wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: i64,
    /// Controller's clock minus the host's, in milliseconds, as it was known then.
    pub offset_ms: Option<i64>,
}

impl Stamp {
    /// The instant by the controller's clock, in milliseconds since the Unix epoch: by the
    /// monotonic clock when `now` is of the same boot, else by the offset known then, else by
    /// the host's own clock.
    ///
    /// `now` is the host's reading at `controller_now_ms`.
    #[must_use]
    pub fn by_controller(&self, now: &Stamp, controller_now_ms: i64) -> i64 {
        if self.boot_id == now.boot_id {
            let ago = now.boottime_ms.saturating_sub(self.boottime_ms);
            controller_now_ms.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
        } else {
            self.wall_ms
                .saturating_add(self.offset_ms.unwrap_or(0))
                .min(controller_now_ms)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(boot: u128, boottime_ms: u64, wall_ms: i64, offset_ms: Option<i64>) -> Stamp {
        Stamp {
            boot_id: Uuid::from_u128(boot),
            boottime_ms,
            wall_ms,
            offset_ms,
        }
    }

    #[test]
    fn names_from_outside_become_bounded_printable_text_that_tells_them_apart() {
        assert_eq!(opaque_text(b"alice@example.net"), "alice@example.net");
        let hostile = b"END\r\n\x1b[31m\0,\"'\\ \xe2\x80\xae../";
        let text = opaque_text(hostile);
        assert!(
            text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
            "{text}"
        );
        assert_eq!(text, r#"END\r\n\x1b[31m\x00,\"\'\\ \xe2\x80\xae../"#);
        let long = vec![b'a'; 64 * 1024];
        let mut other = long.clone();
        *other.last_mut().unwrap() = b'b';
        assert_eq!(opaque_text(&long).len(), MAX_IDENTITY_BYTES);
        assert_ne!(opaque_text(&long), opaque_text(&other));
        assert_eq!(
            opaque_text(&[b'a'; MAX_IDENTITY_BYTES]),
            "a".repeat(MAX_IDENTITY_BYTES)
        );
        // Neither does a name that fits already, nor one that imitates a cut one, collide with it.
        let cut = opaque_text(&long);
        assert_ne!(opaque_text(cut.as_bytes()), cut);
    }

    #[test]
    fn a_wrong_wall_clock_does_not_misdate_a_record_of_this_boot() {
        let event = stamp(1, 10_000, -5, None);
        let now = stamp(1, 70_000, 99, None);
        assert_eq!(event.by_controller(&now, 1_000_000), 940_000);
    }

    #[test]
    fn a_record_of_an_earlier_boot_is_dated_by_the_offset_known_then() {
        let now = stamp(2, 5, 0, None);
        assert_eq!(
            stamp(1, 10, 500, Some(250)).by_controller(&now, 1_000_000),
            750
        );
        assert_eq!(stamp(1, 10, 500, None).by_controller(&now, 1_000_000), 500);
        // Never in the controller's future.
        assert_eq!(
            stamp(1, 10, 5_000_000, None).by_controller(&now, 1_000_000),
            1_000_000
        );
    }
}
