//! The bounds of what charon may send.

/// Longest packet: what charon itself takes for the largest message (`VICI_MESSAGE_SIZE_MAX`).
pub const MAX_PACKET: usize = 512 << 10;

/// Deepest nesting of sections: charon's deepest is 4 (connection, `child-sas`, child, `old`).
pub const MAX_DEPTH: usize = 8;

/// Most elements of a message. An IKE SA has about 30 and each CHILD SA of it about 25 more.
pub const MAX_ELEMENTS: usize = 1 << 15;

/// Most IKE SAs of one charon, those included that just went down: as for WireGuard.
pub const MAX_SESSIONS: usize = 131_072;
