//! The commands that the agent gives charon, and how long it waits for their answers.

use std::time::Duration;

use super::{
    message::{Node, Section},
    packet::{Kind, Packet},
};
use crate::core::Now;

/// Longest wait for an answer, and for the rest of a packet: charon answers in milliseconds.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for a whole list: 100,000 SAs at a tenth of the speed that was measured.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(60);

/// The command that charon is working on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) what: Ask,
    pub(super) at: Now,
}

/// One of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Register,
    Version,
    List,
    Terminate { order: u64, id: u64 },
}

impl Asked {
    pub(super) fn until(self) -> Duration {
        let limit = match self.what {
            Ask::List => LIST_LIMIT,
            _ => ANSWER_LIMIT,
        };
        self.at.boot + limit
    }
}

impl Ask {
    pub(super) fn command(self) -> &'static str {
        match self {
            Self::Register => "list-sa",
            Self::Version => "version",
            Self::List => "list-sas",
            Self::Terminate { .. } => "terminate",
        }
    }

    pub(super) fn request(self) -> Vec<u8> {
        let id;
        let arguments = match self {
            Self::Register => return register(self.command()),
            // Without `noblock`: that leaves out the SAs that charon is busy with.
            Self::Version | Self::List => Section::default(),
            // `force`: the client is told once, and charon does not wait for it.
            Self::Terminate { id: number, .. } => {
                id = number.to_string();
                let value = |text: &'static str| Node::Value(text.as_bytes());
                Section::of(vec![
                    (b"ike-id", Node::Value(id.as_bytes())),
                    (b"force", value("yes")),
                ])
            }
        };
        let packet = Packet {
            kind: Kind::CmdRequest,
            name: self.command().as_bytes(),
            message: &arguments.encode(),
        };
        packet.encode()
    }
}

/// The packet that subscribes to `event`.
pub(super) fn register(event: &str) -> Vec<u8> {
    let packet = Packet {
        kind: Kind::EventRegister,
        name: event.as_bytes(),
        message: b"",
    };
    packet.encode()
}
