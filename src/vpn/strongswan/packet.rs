//! VICI packets: a length, a type, a name for some types, and a message.
//!
//! The format is that of strongSwan's `src/libcharon/plugins/vici/README.md`, "Transport layer" and
//! "Packet layer". Bytes come in any pieces; what is no packet is a [`Fault`] of the connection.

use super::Fault;
use super::message::Section;

/// Longest packet: what charon itself takes for the largest message (`VICI_MESSAGE_SIZE_MAX`).
pub const MAX_PACKET: usize = 512 << 10;

/// Bytes of the length before each packet.
const LENGTH_BYTES: usize = 4;

/// Longest packet. Charon sends longer ones than it takes: a client with more than some 1,100 CHILD
/// SAs makes the description of its IKE SA longer than [`MAX_PACKET`]. Who it is stands at the
/// beginning, which is kept; the rest is passed over.
pub const MAX_LENGTH: usize = 64 << 20;

/// The type of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command and its arguments.
    CmdRequest = 0,
    /// The answer to the command before it.
    CmdResponse = 1,
    /// The command before it does not exist.
    CmdUnknown = 2,
    /// Ask for an event.
    EventRegister = 3,
    /// Ask for it no more.
    EventUnregister = 4,
    /// Done.
    EventConfirm = 5,
    /// The event does not exist.
    EventUnknown = 6,
    /// Something happened.
    Event = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::CmdRequest,
            1 => Self::CmdResponse,
            2 => Self::CmdUnknown,
            3 => Self::EventRegister,
            4 => Self::EventUnregister,
            5 => Self::EventConfirm,
            6 => Self::EventUnknown,
            7 => Self::Event,
            _ => return None,
        })
    }

    fn is_named(self) -> bool {
        matches!(
            self,
            Self::CmdRequest | Self::EventRegister | Self::EventUnregister | Self::Event
        )
    }
}

/// One packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its type.
    pub kind: Kind,
    /// The command or event; empty for types without a name.
    pub name: &'a [u8],
    /// What [`super::message::Section::parse`] reads.
    pub message: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet with its length, as it goes over the socket. `name` has at most 255 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.kind as u8];
        if self.kind.is_named() {
            let length = u8::try_from(self.name.len()).expect("names are short");
            body.push(length);
            body.extend_from_slice(self.name);
        }
        body.extend_from_slice(self.message);
        let length = u32::try_from(body.len()).expect("requests are short");
        [&length.to_be_bytes(), body.as_slice()].concat()
    }

    /// The message, as far as it is not too long: a client that makes its own description long must
    /// not hide the others.
    ///
    /// # Errors
    /// As [`Section::parse`], but for its length.
    pub fn beginning(&self) -> Result<Section<'a>, Fault> {
        match Section::parse(self.message) {
            Err(Fault::TooMany) => Section::parse_beginning(self.message),
            Err(_) if self.may_be_cut() => Section::parse_beginning(self.message),
            parsed => parsed,
        }
    }

    /// Whether it fills all that is kept of a packet.
    fn may_be_cut(&self) -> bool {
        let head = match self.kind.is_named() {
            true => 2 + self.name.len(),
            false => 1,
        };
        head + self.message.len() >= MAX_PACKET
    }

    fn decode(body: &'a [u8]) -> Result<Self, Fault> {
        let (&byte, rest) = body.split_first().ok_or(Fault::Length(0))?;
        let kind = Kind::of(byte).ok_or(Fault::Type(byte))?;
        if !kind.is_named() {
            return Ok(Self {
                kind,
                name: b"",
                message: rest,
            });
        }
        let (&length, rest) = rest.split_first().ok_or(Fault::Malformed)?;
        let (name, message) = rest
            .split_at_checked(length.into())
            .ok_or(Fault::Malformed)?;
        Ok(Self {
            kind,
            name,
            message,
        })
    }
}

/// Puts packets together. Keeps less than [`MAX_PACKET`] between two calls.
#[derive(Debug, Default)]
pub struct Framer {
    partial: Vec<u8>,
    /// How much of a packet that was given out is still to be passed over.
    pass_over: usize,
}

impl Framer {
    /// Gives each packet that `bytes` complete to `each`, in order.
    ///
    /// # Errors
    /// No packet, or what `each` says. Nothing can be read from this connection any more.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(Packet<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let passed = self.pass_over.min(bytes.len());
        self.pass_over -= passed;
        self.partial.extend_from_slice(&bytes[passed..]);
        let mut rest = self.partial.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<LENGTH_BYTES>() {
            let length = u32::from_be_bytes(*length);
            let size = usize::try_from(length).unwrap_or(usize::MAX);
            if size == 0 || size > MAX_LENGTH {
                return Err(Fault::Length(length));
            }
            let kept = size.min(MAX_PACKET);
            let Some((body, after)) = after.split_at_checked(kept) else {
                break;
            };
            each(Packet::decode(body)?)?;
            let passed = (size - kept).min(after.len());
            self.pass_over = size - kept - passed;
            rest = &after[passed..];
        }
        let used = self.partial.len() - rest.len();
        self.partial.drain(..used);
        Ok(())
    }

    /// Whether the last packet is not complete yet.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty() || self.pass_over > 0
    }
}
