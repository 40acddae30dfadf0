//! What makes a connection to charon useless.

use super::limits::{MAX_DEPTH, MAX_ELEMENTS, MAX_PACKET, MAX_SESSIONS};

/// The daemon said what VICI does not know, or nothing where it must answer. The connection is
/// closed and made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No length of a packet.
    #[error(
        "charon announced a packet of {0} bytes, which is no VICI (of a packet the first {MAX_PACKET} bytes are read)"
    )]
    Length(u32),
    /// No type of a packet.
    #[error("charon sent a packet of the unknown type {0}")]
    Type(u8),
    /// Not what its lengths and types say.
    #[error("charon sent a packet that is no VICI message")]
    Malformed,
    /// Deeper than [`MAX_DEPTH`].
    #[error("charon sent a message of more than {MAX_DEPTH} levels")]
    TooDeep,
    /// More than [`MAX_ELEMENTS`].
    #[error("charon sent a message of more than {MAX_ELEMENTS} elements")]
    TooMany,
    /// More than [`MAX_SESSIONS`].
    #[error("charon tells of more than {MAX_SESSIONS} IKE SAs")]
    TooManySas,
    /// An SA without an id or state.
    #[error("charon tells of an IKE SA without `{0}`")]
    Missing(&'static str),
    /// A packet that answers nothing.
    #[error("charon sent an answer that nothing was asked for")]
    Unasked,
    /// It does not know what the agent needs.
    #[error("this charon does not know `{0}`: a newer strongSwan is needed")]
    Unknown(&'static str),
    /// It stays silent, or stopped within a packet.
    #[error("charon did not answer `{0}` in time: is it overloaded or stopped?")]
    Silent(&'static str),
}
