//! The nouns: backend, session, its key, its identity, and why it ended.

use std::{fmt, net::IpAddr, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vpn_node_protocol::connection::opaque_text;

use crate::core::Now;

/// An instant on both clocks. `boot` orders and measures; `wall_ms` is what people read.
///
/// `boot` of zero means "before this boot of the host": instants of another boot do not compare.
pub type Stamp = Now;

/// The stamp of the boot-clock instant `boot`, with the wall clock as it reads at `now`.
#[must_use]
pub fn stamp_of(boot: Duration, now: Now) -> Stamp {
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    Now {
        boot,
        wall_ms: now
            .wall_ms
            .saturating_sub(millis(now.boot))
            .saturating_add(millis(boot)),
    }
}

/// A UUIDv7 (RFC 9562 §5.7) of the given wall time and 10 random bytes.
///
/// A wall clock before 1970 counts as 1970: the random part alone keeps ids unique.
#[must_use]
pub fn connection_id(now: Now, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(now.wall_ms).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// Which VPN software a backend reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Kernel WireGuard and every userspace daemon that speaks its UAPI.
    WireGuard,
    /// OpenVPN through its management interface.
    OpenVpn,
    /// strongSwan through VICI.
    StrongSwan,
    /// ocserv through occtl.
    Ocserv,
}

impl BackendKind {
    /// The name in records and on screens.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WireGuard => "wireguard",
            Self::OpenVpn => "openvpn",
            Self::StrongSwan => "strongswan",
            Self::Ocserv => "ocserv",
        }
    }

    /// Whether a session may get another key while it lasts: an IKE SA does, with each rekey and
    /// each reauthentication.
    pub(super) fn renames_sessions(self) -> bool {
        matches!(self, Self::StrongSwan)
    }

    /// Why sessions end when a new epoch shows that what held them is gone: for WireGuard that
    /// is the interface, for the others the daemon.
    #[must_use]
    pub fn gone_reason(self) -> Reason {
        match self {
            Self::WireGuard => Reason::InterfaceDown,
            Self::OpenVpn | Self::StrongSwan | Self::Ocserv => Reason::DaemonDown,
        }
    }
}

/// One VPN server on this host: the software and which one of it (an interface, a config name).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BackendId {
    /// The software.
    pub kind: BackendKind,
    /// Its instance on this host, such as `wg0`. Printable ASCII; the backends see to that.
    pub instance: String,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            self.kind.as_str(),
            self.instance.escape_default()
        )
    }
}

/// What a backend calls one session, within one epoch of its daemon.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionKey {
    /// The peer, and a count that grows with each session the agent saw on this interface.
    WireGuard {
        /// The peer's public key (Curve25519, 32 bytes).
        public_key: [u8; 32],
        /// Tells two sessions of one peer apart; meaningful in this agent process only.
        incarnation: u32,
    },
    /// A client id may come again after a restart; together with its start it does not.
    OpenVpn {
        /// `CID` of the management interface.
        cid: u64,
        /// `time_t` of the connection, Unix seconds.
        connected_since: i64,
    },
    /// ocserv numbers its sessions from 1 on when it starts.
    Ocserv {
        /// `ID` of occtl.
        id: u64,
        /// When it connected, Unix seconds.
        since: i64,
    },
    /// The `uniqueid` of an IKE SA.
    Ike {
        /// Unique within one run of charon; a rekey changes it ([`super::Obs::Rekey`]).
        unique_id: u64,
    },
}

impl SessionKey {
    /// Whether no other session of the same life of the daemon has these durable bytes. A WireGuard
    /// peer has the same ones in each of its sessions.
    pub(super) fn is_unique_in_epoch(&self) -> bool {
        !matches!(self, Self::WireGuard { .. })
    }

    /// The part that a restarted agent finds again. A WireGuard peer has one session at a time,
    /// so its incarnation, which restarts with the agent, stays out.
    pub(super) fn durable_bytes(&self) -> Vec<u8> {
        match self {
            Self::WireGuard { public_key, .. } => [b"w".as_slice(), public_key].concat(),
            Self::OpenVpn {
                cid,
                connected_since,
            } => [
                b"o".as_slice(),
                &cid.to_be_bytes(),
                &connected_since.to_be_bytes(),
            ]
            .concat(),
            Self::Ocserv { id, since } => {
                [b"c".as_slice(), &id.to_be_bytes(), &since.to_be_bytes()].concat()
            }
            Self::Ike { unique_id } => [b"i".as_slice(), &unique_id.to_be_bytes()].concat(),
        }
    }
}

impl fmt::Debug for SessionKey {
    /// Peer keys stay out of logs: two bytes are enough to tell sessions apart while debugging.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WireGuard {
                public_key: [a, b, ..],
                incarnation,
            } => {
                write!(f, "wg:{a:02x}{b:02x}…#{incarnation}")
            }
            Self::OpenVpn {
                cid,
                connected_since,
            } => write!(f, "openvpn:{cid}@{connected_since}"),
            Self::Ocserv { id, since } => write!(f, "ocserv:{id}@{since}"),
            Self::Ike { unique_id } => write!(f, "ike:{unique_id}"),
        }
    }
}

/// Who is on the other end, as the daemon authenticated it. Personal data: sealed when recorded.
///
/// The names are what a client chose or a CA signed: opaque bytes, shown escaped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// WireGuard: the peer's public key.
    PeerKey([u8; 32]),
    /// TLS: the certificate, and the user name if one was asked for.
    Certificate {
        /// Common name.
        common_name: Vec<u8>,
        /// Serial number.
        serial: Vec<u8>,
        /// SHA-256 of the certificate, if the daemon tells.
        sha256: Option<[u8; 32]>,
        /// User name, if authenticated.
        username: Option<Vec<u8>>,
    },
    /// IKEv2 EAP identity.
    Eap(Vec<u8>),
    /// IKE identity (RFC 7296 §3.5).
    IkeId(Vec<u8>),
    /// A user name, where the client showed no certificate.
    User(Vec<u8>),
}

impl Identity {
    /// What kind of name it is, as in records: `wireguard`, `certificate`, `eap`, `ike` or `user`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PeerKey(_) => "wireguard",
            Self::Certificate { .. } => "certificate",
            Self::Eap(_) => "eap",
            Self::IkeId(_) => "ike",
            Self::User(_) => "user",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerKey(key) => f.write_str(&STANDARD.encode(key)),
            Self::Certificate { common_name, .. } => f.write_str(&opaque_text(common_name)),
            Self::Eap(name) | Self::IkeId(name) | Self::User(name) => {
                f.write_str(&opaque_text(name))
            }
        }
    }
}

impl fmt::Debug for Identity {
    /// Names nobody: identities reach records, never logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerKey(_) => "PeerKey(…)",
            Self::Certificate { .. } => "Certificate(…)",
            Self::Eap(_) => "Eap(…)",
            Self::IkeId(_) => "IkeId(…)",
            Self::User(_) => "User(…)",
        })
    }
}

/// Where the packets come from. The port is absent where the daemon does not tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The client's outer address.
    pub ip: IpAddr,
    /// Its UDP or TCP port.
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (IpAddr::V6(ip), Some(port)) => write!(f, "[{ip}]:{port}"),
            (IpAddr::V4(ip), Some(port)) => write!(f, "{ip}:{port}"),
            (ip, None) => write!(f, "{ip}"),
        }
    }
}

/// An address with its prefix length: what a client may use inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Net {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length in bits, at most 32 or 128.
    pub prefix: u8,
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The client said goodbye.
    ClientDisconnect,
    /// The client fell silent.
    Timeout,
    /// A new session of the same client took its place.
    Replaced,
    /// An operator ended it in the VPN daemon.
    AdminKick,
    /// The controller revoked its key or device.
    Revoked,
    /// The peer was taken out of the configuration.
    PeerRemoved,
    /// The transport broke.
    ConnectionReset,
    /// Authentication failed on renewal.
    AuthFailed,
    /// The VPN interface went away.
    InterfaceDown,
    /// The VPN daemon or the host went down.
    DaemonDown,
    /// It ended while the agent was not running, so nobody saw why.
    AgentRestart,
    /// The daemon's own words, or empty if it gave none. From outside: opaque, shown escaped.
    Unknown(String),
}

impl Reason {
    /// The fixed word in records (`unknown` for any text).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ClientDisconnect => "client_disconnect",
            Self::Timeout => "timeout",
            Self::Replaced => "replaced",
            Self::AdminKick => "admin_kick",
            Self::Revoked => "revoked",
            Self::PeerRemoved => "peer_removed",
            Self::ConnectionReset => "connection_reset",
            Self::AuthFailed => "auth_failed",
            Self::InterfaceDown => "interface_down",
            Self::DaemonDown => "daemon_down",
            Self::AgentRestart => "agent_restart",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Whether a client that is back within [`super::COALESCE`] is still the same connection:
    /// not after an act of an operator, nor after the server itself went away, nor when the daemon
    /// says that another session took its place.
    pub(super) fn may_coalesce(&self) -> bool {
        match self {
            Self::ClientDisconnect | Self::Timeout | Self::ConnectionReset | Self::Unknown(_) => {
                true
            }
            Self::Replaced
            | Self::AdminKick
            | Self::Revoked
            | Self::PeerRemoved
            | Self::AuthFailed
            | Self::InterfaceDown
            | Self::DaemonDown
            | Self::AgentRestart => false,
        }
    }
}

/// Whether an end was seen or concluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Concluded from silence or absence.
    Inferred,
    /// The daemon said so, or the thing itself is gone. Beats [`Self::Inferred`].
    Observed,
}

/// One session as a backend sees it, with the daemon's own counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The backend's name for it.
    pub key: SessionKey,
    /// Who it is.
    pub identity: Identity,
    /// When it began, as far as the backend can tell.
    pub started: Stamp,
    /// Last sign of life.
    pub last_seen: Stamp,
    /// Outer address; none before first contact.
    pub endpoint: Option<Endpoint>,
    /// Inner addresses, bounded by the backend.
    pub virtual_ips: Box<[Net]>,
    /// The daemon's counter of bytes received from the client.
    pub rx: u64,
    /// The daemon's counter of bytes sent to the client.
    pub tx: u64,
    /// What `rx` was when the session began: a WireGuard peer's counter outlives its sessions.
    pub rx_at_start: u64,
    /// What `tx` was when the session began.
    pub tx_at_start: u64,
}

impl Session {
    /// Bytes received from the client in this session.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.rx.saturating_sub(self.rx_at_start)
    }

    /// Bytes sent to the client in this session.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.tx.saturating_sub(self.tx_at_start)
    }
}
