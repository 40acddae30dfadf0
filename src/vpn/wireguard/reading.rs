//! What a WireGuard interface says about one peer, whichever way it was asked. No secrets: the
//! bytes that held them are wiped here.

use crate::core::sessions::{Endpoint, Net};

/// Most inner addresses that are kept of one peer. A peer that routes whole sites may list
/// thousands; the first ones say who it is, and records stay small.
pub const MAX_ALLOWED_IPS: usize = 32;

/// Most peers read from one interface: wireguard-go stops at 65,536, kernel interfaces with
/// 100,000 were measured. Beyond it the answer is refused rather than memory risked.
pub const MAX_PEERS: usize = 131_072;

/// Whether a dump may be trusted to miss nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// It may.
    Clean,
    /// Peers came or went while it was read.
    Interrupted,
}

/// When the last handshake was, in the daemon's own words: Unix time, or (boringtun) elapsed.
/// Zero in both parts: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Seconds.
    pub secs: u64,
    /// Nanoseconds, below 1e9.
    pub nanos: u32,
}

/// One peer of one answer. Parsers fill one and the same again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerReading {
    /// Curve25519 public key.
    pub public_key: [u8; 32],
    /// Absent before first contact.
    pub endpoint: Option<Endpoint>,
    /// Last handshake.
    pub handshake: Handshake,
    /// Bytes from the peer.
    pub rx: u64,
    /// Bytes to the peer.
    pub tx: u64,
    /// At most [`MAX_ALLOWED_IPS`].
    pub allowed_ips: Vec<Net>,
}

/// What an answer says about the interface itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceReading {
    /// UDP port that clients come to; none if the interface has not chosen one.
    pub listen_port: Option<u16>,
    /// The interface's own Curve25519 public key.
    pub public_key: Option<[u8; 32]>,
}

/// Zeroes what was read, keys and all. The barrier keeps the compiler from leaving that out
/// because nobody looks at the zeroes; byte by byte, as `Zeroize` does it, takes as long as parsing.
pub(super) fn wipe(read: &mut [u8]) {
    read.fill(0);
    zeroize::optimization_barrier(&*read);
}

impl PeerReading {
    /// Empties it for the peer `public_key`, and keeps its memory.
    pub(super) fn restart(&mut self, public_key: [u8; 32]) {
        self.allowed_ips.clear();
        *self = Self {
            public_key,
            allowed_ips: std::mem::take(&mut self.allowed_ips),
            ..Self::default()
        };
    }

    /// Adds an inner address while there is room.
    pub(super) fn allow(&mut self, net: Net) {
        if self.allowed_ips.len() < MAX_ALLOWED_IPS {
            self.allowed_ips.push(net);
        }
    }
}
