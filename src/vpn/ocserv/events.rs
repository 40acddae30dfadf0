//! What `occtl show events` says, line by line, in its text form: the JSON form has no reasons.
//!
//! A line is a hint, never the truth: user names stand in it, and a user may choose one that looks
//! like a line. Who is connected, `show users` tells; a hint only says why somebody is not any more.

use crate::core::sessions::Reason;

/// Longest line that is read: user names have at most 128 bytes.
pub const MAX_LINE: usize = 4096;

/// Somebody came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Connected.
    Came,
    /// Disconnected.
    Went {
        /// ocserv's id of the session.
        id: u64,
        /// As ocserv words it.
        reason: Reason,
    },
}

/// Puts lines together. Keeps less than [`MAX_LINE`] between two calls; longer lines are left out.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// The hints in the lines that `bytes` complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Hint> {
        let mut hints = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE.saturating_sub(self.partial.len());
            self.too_long |= piece.len() > room;
            self.partial
                .extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                if !self.too_long {
                    hints.extend(hint(&String::from_utf8_lossy(&self.partial)));
                }
                self.partial.clear();
                self.too_long = false;
            }
        }
        hints
    }
}

/// Reads from the right, where nothing is chosen by users.
fn hint(line: &str) -> Option<Hint> {
    let line = line.trim_end();
    let (_, said) = line.split_once(": ")?;
    if said.starts_with("connected user '") {
        return Some(Hint::Came);
    }
    let said = said.strip_prefix("disconnect user '")?;
    let (said, why) = said.rsplit_once(" (reason: ")?;
    let (reason, _) = why.rsplit_once(", time:")?;
    let (said, _) = said.rsplit_once(" with IP ")?;
    let (said, _) = said.rsplit_once(" from ")?;
    let (_, id) = said.strip_suffix(')')?.rsplit_once("' (")?;
    Some(Hint::Went {
        id: id.parse().ok()?,
        reason: of(reason),
    })
}

/// The words are those of ocserv's `discon_reason_to_str`.
fn of(word: &str) -> Reason {
    match word {
        "user disconnected" => Reason::ClientDisconnect,
        "server disconnected" => Reason::AdminKick,
        "idle timeout" | "session timeout" | "DPD timeout" => Reason::Timeout,
        // The transport broke: nobody said goodbye.
        "unspecified error" => Reason::ConnectionReset,
        "unknown" => Reason::Unknown(String::new()),
        other => Reason::Unknown(other.as_bytes().escape_ascii().to_string()),
    }
}
