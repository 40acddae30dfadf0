//! The answer of a userspace daemon to `get=1`, parsed as it arrives. Pure, bounded.
//!
//! Format: <https://www.wireguard.com/xplatform/>, `key=value` lines, peers one after the other,
//! at last `errno=0` and an empty line. The private key and the preshared keys are in it; they
//! are passed over where they lie, and what a line leaves behind is wiped.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use zeroize::Zeroize as _;

use super::reading::{MAX_PEERS, PeerReading};
use crate::core::sessions::{Endpoint, Net};

/// Longest line taken: keys are 64 digits, addresses shorter, future keys surely below this.
pub const MAX_LINE: usize = 256;

/// Most bytes of one answer: [`MAX_PEERS`] peers of 337 bytes each as measured, and half as much
/// again for those with many addresses.
pub const MAX_BYTES: usize = 64 << 20;

/// The request of the protocol.
pub const GET: &[u8] = b"get=1\n\n";

/// Why an answer was refused. Line numbers instead of lines: a line may hold a secret.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UapiError {
    /// No daemon of this protocol writes that.
    #[error("line {line} of its answer is not in the WireGuard UAPI format ({what})")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What was expected.
        what: &'static str,
    },
    /// A bound was met.
    #[error("its answer is refused as too large: more than {limit} {what}")]
    TooLarge {
        /// The bound.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
    /// The daemon itself could not answer.
    #[error("the daemon answered errno {0}; its own log says why")]
    Daemon(i64),
    /// The connection closed within the answer.
    #[error("its answer was cut after {0} bytes")]
    Cut(usize),
}

/// Takes an answer piece by piece and hands out each peer when it is whole.
pub struct Parser {
    /// A line that began in an earlier piece.
    partial: [u8; MAX_LINE],
    partial_len: usize,
    peer: PeerReading,
    in_peer: bool,
    peers: usize,
    bytes: usize,
    lines: u64,
    errno: Option<i64>,
    done: bool,
}

impl Parser {
    /// Ready for the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            partial: [0; MAX_LINE],
            partial_len: 0,
            peer: PeerReading::default(),
            in_peer: false,
            peers: 0,
            bytes: 0,
            lines: 0,
            errno: None,
            done: false,
        }
    }

    /// Takes the next piece. True when the answer is over; what follows then is not read.
    pub fn feed(
        &mut self,
        mut piece: &[u8],
        sink: &mut dyn FnMut(&PeerReading),
    ) -> Result<bool, UapiError> {
        self.bytes = self.bytes.saturating_add(piece.len());
        if self.bytes > MAX_BYTES {
            return Err(too_large(MAX_BYTES, "bytes"));
        }
        while !self.done {
            let Some(end) = piece.iter().position(|byte| *byte == b'\n') else {
                self.keep(piece)?;
                break;
            };
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            piece = rest;
            if self.partial_len == 0 {
                self.line(line, sink)?;
            } else {
                self.keep(line)?;
                let mut whole = self.partial;
                let len = std::mem::take(&mut self.partial_len);
                let result = self.line(&whole[..len], sink);
                whole.zeroize();
                self.partial.zeroize();
                result?;
            }
        }
        Ok(self.done)
    }

    /// The error of a connection that closed now.
    #[must_use]
    pub fn cut(&self) -> UapiError {
        UapiError::Cut(self.bytes)
    }

    fn keep(&mut self, piece: &[u8]) -> Result<(), UapiError> {
        let end = self.partial_len + piece.len();
        let room = self
            .partial
            .get_mut(self.partial_len..end)
            .ok_or(too_large(MAX_LINE, "bytes in one line"))?;
        room.copy_from_slice(piece);
        self.partial_len = end;
        Ok(())
    }

    fn line(&mut self, line: &[u8], sink: &mut dyn FnMut(&PeerReading)) -> Result<(), UapiError> {
        self.lines += 1;
        if line.len() > MAX_LINE {
            return Err(too_large(MAX_LINE, "bytes in one line"));
        }
        if line.is_empty() {
            return self.end_of_answer(sink);
        }
        let at = line.iter().position(|byte| *byte == b'=');
        let (key, value) = match at {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => return Err(self.malformed("no key=value")),
        };
        match key {
            b"public_key" => {
                let key = hex_key(value).ok_or(self.malformed("public_key"))?;
                self.flush(sink)?;
                self.peer.restart(key);
                self.in_peer = true;
            }
            b"errno" => self.errno = Some(number(value).ok_or(self.malformed("errno"))?),
            _ if !self.in_peer => {} // private_key, listen_port, fwmark
            b"rx_bytes" => self.peer.rx = self.count(value, "rx_bytes")?,
            b"tx_bytes" => self.peer.tx = self.count(value, "tx_bytes")?,
            b"last_handshake_time_sec" => {
                self.peer.handshake.secs = self.count(value, "last_handshake_time_sec")?;
            }
            b"last_handshake_time_nsec" => {
                self.peer.handshake.nanos = u32::try_from(self.count(value, "…_nsec")?)
                    .ok()
                    .filter(|nanos| *nanos < 1_000_000_000)
                    .ok_or(self.malformed("last_handshake_time_nsec"))?;
            }
            b"endpoint" => {
                self.peer.endpoint = Some(endpoint(value).ok_or(self.malformed("endpoint"))?);
            }
            b"allowed_ip" => {
                let net = net(value).ok_or(self.malformed("allowed_ip"))?;
                self.peer.allow(net);
            }
            _ => {} // preshared_key, and what newer daemons may add
        }
        Ok(())
    }

    fn end_of_answer(&mut self, sink: &mut dyn FnMut(&PeerReading)) -> Result<(), UapiError> {
        match self.errno {
            None => return Err(self.malformed("an empty line before errno")),
            Some(0) => {}
            Some(errno) => return Err(UapiError::Daemon(errno)),
        }
        self.done = true;
        self.flush(sink)
    }

    fn flush(&mut self, sink: &mut dyn FnMut(&PeerReading)) -> Result<(), UapiError> {
        if std::mem::take(&mut self.in_peer) {
            self.peers += 1;
            if self.peers > MAX_PEERS {
                return Err(too_large(MAX_PEERS, "peers"));
            }
            sink(&self.peer);
        }
        Ok(())
    }

    fn count(&self, value: &[u8], what: &'static str) -> Result<u64, UapiError> {
        number(value).ok_or(self.malformed(what))
    }

    fn malformed(&self, what: &'static str) -> UapiError {
        UapiError::Malformed {
            line: self.lines,
            what,
        }
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Parser {
    fn drop(&mut self) {
        self.partial.zeroize();
    }
}

fn too_large(limit: usize, what: &'static str) -> UapiError {
    UapiError::TooLarge { limit, what }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    text(value)?.parse().ok()
}

fn hex_key(value: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut key = [0; 32];
    if value.len() != 64 {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(value.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(key)
}

/// `1.2.3.4:5`, `[fd00::1]:5`, `[fe80::1%eth0]:5`. The zone names a local interface, no client.
fn endpoint(value: &[u8]) -> Option<Endpoint> {
    let value = text(value)?;
    let (ip, port) = match value.strip_prefix('[') {
        None => {
            let addr: SocketAddr = value.parse().ok()?;
            (addr.ip(), addr.port())
        }
        Some(v6) => {
            let (host, port) = v6.rsplit_once("]:")?;
            let ip: Ipv6Addr = host.split('%').next()?.parse().ok()?;
            (IpAddr::V6(ip), port.parse().ok()?)
        }
    };
    Some(Endpoint {
        ip: ip.to_canonical(),
        port: Some(port),
    })
}

fn net(value: &[u8]) -> Option<Net> {
    let (addr, prefix) = text(value)?.split_once('/')?;
    let addr: IpAddr = addr.parse().ok()?;
    let prefix: u8 = prefix.parse().ok()?;
    let most = if addr.is_ipv4() { 32 } else { 128 };
    (prefix <= most).then_some(Net { addr, prefix })
}
