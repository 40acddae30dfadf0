//! The answer of a userspace daemon to `get=1`, parsed as it arrives. Pure, bounded.
//!
//! Format: <https://www.wireguard.com/xplatform/>, `key=value` lines, peers one after the other,
//! at last `errno=0` and an empty line. The private key and the preshared keys are in it; they
//! are passed over where they lie, and what a line leaves behind is wiped.

use memchr::{memchr, memrchr};
use thiserror::Error;
use zeroize::Zeroize as _;

pub use super::values::MAX_LINE;
use super::{
    reading::{DeviceReading, MAX_PEERS, PeerReading},
    values::{endpoint, hex_key, nanos, net, number, parsed, public_key_of, whole_line},
};

/// Most bytes of one answer: [`MAX_PEERS`] peers of 337 bytes each as measured, and half as much
/// again for those with many addresses.
pub const MAX_BYTES: usize = 64 << 20;

/// The request for everything.
pub const GET: &[u8] = b"get=1\n\n";

/// The request to take these peers out, as `wg set … remove` makes it. A daemon that does not know
/// one of them says yes too. The answer is an errno alone; [`Parser`] takes it.
#[must_use]
pub fn remove_peers(public_keys: &[[u8; 32]]) -> Vec<u8> {
    let mut request = String::from("set=1\n");
    for key in public_keys {
        request += "public_key=";
        for byte in key {
            request += &format!("{byte:02x}");
        }
        request += "\nremove=true\n";
    }
    (request + "\n").into_bytes()
}

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
    /// A line that began in an earlier piece, with room for its end.
    partial: [u8; MAX_LINE + 1],
    partial_len: usize,
    device: DeviceReading,
    derive: bool,
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
            partial: [0; MAX_LINE + 1],
            partial_len: 0,
            device: DeviceReading::default(),
            derive: false,
            peer: PeerReading::default(),
            in_peer: false,
            peers: 0,
            bytes: 0,
            lines: 0,
            errno: None,
            done: false,
        }
    }

    /// The same, which also works out the interface's public key. The protocol has only the private
    /// one, which is otherwise passed over.
    #[must_use]
    pub fn with_public_key() -> Self {
        let mut parser = Self::new();
        parser.derive = true;
        parser
    }

    /// What was said about the interface itself.
    #[must_use]
    pub fn device(&self) -> DeviceReading {
        self.device
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
        if self.partial_len > 0 && !self.done {
            let Some(end) = memchr(b'\n', piece) else {
                self.keep(piece)?;
                return Ok(false);
            };
            self.keep(&piece[..end])?;
            piece = &piece[end + 1..];
            self.kept_line(sink)?;
        }
        let lines = memrchr(b'\n', piece).map_or(0, |last| last + 1);
        let (mut lines, rest) = piece.split_at(lines);
        while !self.done && !lines.is_empty() {
            lines = self.line(lines, sink)?;
        }
        if !self.done {
            self.keep(rest)?;
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
        let room = self.partial[..MAX_LINE]
            .get_mut(self.partial_len..end)
            .ok_or(LONG_LINE)?;
        room.copy_from_slice(piece);
        self.partial_len = end;
        Ok(())
    }

    /// Takes the line that was kept, now that its end is known, and wipes it.
    fn kept_line(&mut self, sink: &mut dyn FnMut(&PeerReading)) -> Result<(), UapiError> {
        let mut whole = self.partial;
        self.partial.zeroize();
        let len = std::mem::take(&mut self.partial_len);
        whole[len] = b'\n';
        let result = self.line(&whole[..=len], sink).map(drop);
        whole.zeroize();
        result
    }

    /// Takes the first line of `lines`, which has an end. Returns the lines behind it.
    ///
    /// Values are read up to the end of their line in one pass: this is where the time goes when
    /// there are many peers.
    fn line<'a>(
        &mut self,
        lines: &'a [u8],
        sink: &mut dyn FnMut(&PeerReading),
    ) -> Result<&'a [u8], UapiError> {
        self.lines += 1;
        let line = self.lines;
        let wrong = move |what| UapiError::Malformed { line, what };
        if let Some(value) = after(lines, b"public_key=") {
            let mut key = [0; 32];
            let behind = hex_key(value, &mut key).ok_or(wrong("public_key"))?;
            self.flush(sink)?;
            self.peer.restart(key);
            self.in_peer = true;
            return Ok(behind);
        }
        let peer = &mut self.peer;
        let behind = match lines {
            [b'\n', behind @ ..] => {
                self.end_of_answer(sink)?;
                return Ok(behind);
            }
            [b'e', ..] if let Some(value) = after(lines, b"errno=") => {
                let (value, behind) = whole_line(value).ok_or(LONG_LINE)?;
                self.errno = Some(parsed(value).ok_or(wrong("errno"))?);
                return Ok(behind);
            }
            _ if !self.in_peer => {
                if let Some(value) = after(lines, b"listen_port=") {
                    let port = whole_line(value).and_then(|(port, _)| parsed(port));
                    self.device.listen_port = port.filter(|port| *port != 0);
                } else if self.derive
                    && let Some(value) = after(lines, b"private_key=")
                {
                    self.device.public_key = public_key_of(value);
                }
                None
            }
            [b'r', ..] => after(lines, b"rx_bytes=")
                .map(|value| number(value, &mut peer.rx).ok_or(wrong("rx_bytes"))),
            [b't', ..] => after(lines, b"tx_bytes=")
                .map(|value| number(value, &mut peer.tx).ok_or(wrong("tx_bytes"))),
            [b'l', ..] => {
                if let Some(value) = after(lines, b"last_handshake_time_sec=") {
                    let read = number(value, &mut peer.handshake.secs);
                    Some(read.ok_or(wrong("last_handshake_time_sec")))
                } else {
                    after(lines, b"last_handshake_time_nsec=").map(|value| {
                        nanos(value, &mut peer.handshake.nanos)
                            .ok_or(wrong("last_handshake_time_nsec"))
                    })
                }
            }
            [b'e', ..] => after(lines, b"endpoint=").map(|value| {
                let (endpoint, behind) = endpoint(value).ok_or(wrong("endpoint"))?;
                peer.endpoint = Some(endpoint);
                Ok(behind)
            }),
            [b'a', ..] => after(lines, b"allowed_ip=").map(|value| {
                let (net, behind) = net(value).ok_or(wrong("allowed_ip"))?;
                peer.allow(net);
                Ok(behind)
            }),
            [b'p', ..] => passed_over(lines).map(Ok),
            _ => None, // what newer daemons may add
        };
        match behind {
            Some(behind) => behind,
            None => {
                let (line, behind) = whole_line(lines).ok_or(LONG_LINE)?;
                memchr(b'=', line).ok_or(wrong("no key=value"))?;
                Ok(behind)
            }
        }
    }

    fn end_of_answer(&mut self, sink: &mut dyn FnMut(&PeerReading)) -> Result<(), UapiError> {
        let line = self.lines;
        let what = "an empty line before errno";
        match self.errno {
            None => return Err(UapiError::Malformed { line, what }),
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

const LONG_LINE: UapiError = UapiError::TooLarge {
    limit: MAX_LINE,
    what: "bytes in one line",
};

fn too_large(limit: usize, what: &'static str) -> UapiError {
    UapiError::TooLarge { limit, what }
}

/// What follows `key`, if `lines` begins with it. Of a known length, so it is two comparisons.
fn after<'a, const N: usize>(lines: &'a [u8], key: &[u8; N]) -> Option<&'a [u8]> {
    let (start, rest) = lines.split_first_chunk::<N>()?;
    (start == key).then_some(rest)
}

/// What is behind a line that every peer has and that says nothing here. The preshared key is not
/// even looked at.
fn passed_over(lines: &[u8]) -> Option<&[u8]> {
    if let Some(value) = after(lines, b"preshared_key=") {
        let (end, behind) = value.get(64..)?.split_first()?;
        return (*end == b'\n').then_some(behind);
    }
    if let Some(value) = after(lines, b"persistent_keepalive_interval=") {
        return whole_line(value).map(|(_, behind)| behind);
    }
    after(lines, b"protocol_version=1\n")
}
