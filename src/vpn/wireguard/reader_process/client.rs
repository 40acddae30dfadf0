//! The agent's side: asks the WireGuard reader instead of the kernel. One connection a question.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt,
            socket,
            sockopt::{ReceiveTimeout, SendTimeout},
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use super::{
    super::{
        error::ReadError,
        netlink::{DeviceParser, Link, MAX_REMOVED, NetlinkError},
        reading::{DeviceReading, Dump, PeerReading},
    },
    wire::{Answer, Failure, Malformed, Question, VERSION},
};
use crate::host::clock;

/// Longest wait for the list of interfaces, the first question of a poll: on a busy machine that
/// boots, systemd needs seconds to start the reader.
const STARTED_WITHIN: Duration = Duration::from_secs(10);

/// All interfaces of kind `wireguard`, and those with these names.
pub(in super::super) fn links(
    reader: &Path,
    names: &[&str],
    buffer: &mut [u8],
) -> Result<Vec<Link>, ReadError> {
    let names = names.iter().map(|name| name.as_bytes()).collect();
    let talk = Talk::begin(reader, STARTED_WITHIN, &Question::List { names })?;
    match talk.next(buffer)? {
        Answer::Links(links) => Ok(links),
        other => Err(talk.unexpected(&other)),
    }
}

/// Reads all peers of the kernel interface with this index.
pub(in super::super) fn read(
    reader: &Path,
    ifindex: u32,
    limit: Duration,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&PeerReading),
) -> Result<(Dump, DeviceReading), ReadError> {
    let talk = Talk::begin(reader, limit, &Question::Dump { ifindex })?;
    let mut parser = None;
    loop {
        let (family, seq, datagram) = match talk.next(buffer)? {
            Answer::Part {
                family,
                seq,
                datagram,
            } => (family, seq, datagram),
            other => return Err(talk.unexpected(&other)),
        };
        let parser = parser.get_or_insert_with(|| DeviceParser::new(family, seq));
        let over = parser.feed(datagram, sink);
        if over.map_err(ReadError::of_netlink)? {
            return Ok((parser.dump(), parser.device()));
        }
    }
}

/// Takes peers out of the kernel interface with this index.
pub(in super::super) fn remove(
    reader: &Path,
    ifindex: u32,
    limit: Duration,
    public_keys: &[[u8; 32]],
    buffer: &mut [u8],
) -> Result<(), ReadError> {
    for public_keys in public_keys.chunks(MAX_REMOVED) {
        let question = Question::Remove {
            ifindex,
            public_keys,
        };
        let talk = Talk::begin(reader, limit, &question)?;
        match talk.next(buffer)? {
            Answer::Removed => {}
            other => return Err(talk.unexpected(&other)),
        }
    }
    Ok(())
}

/// A question that was asked.
struct Talk<'a> {
    fd: OwnedFd,
    reader: &'a Path,
    until: Duration,
    limit: Duration,
}

impl<'a> Talk<'a> {
    fn begin(
        reader: &'a Path,
        limit: Duration,
        question: &Question<'_>,
    ) -> Result<Self, ReadError> {
        let fail = |errno| silent(reader, errno);
        let fd = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map_err(fail)?;
        // Also for the connection: it waits while the reader's queue is full.
        setsockopt(&fd, SendTimeout, &millis(limit)).map_err(fail)?;
        let addr = UnixAddr::new(reader).map_err(fail)?;
        connect(fd.as_raw_fd(), &addr).map_err(fail)?;
        send(
            fd.as_raw_fd(),
            &question.to_packet(),
            MsgFlags::MSG_NOSIGNAL,
        )
        .map_err(fail)?;
        Ok(Self {
            fd,
            reader,
            until: clock::now().boot.saturating_add(limit),
            limit,
        })
    }

    /// The next packet of the answer.
    fn next<'b>(&self, buffer: &'b mut [u8]) -> Result<Answer<'b>, ReadError> {
        let len = self.receive(buffer).map_err(|e| silent(self.reader, e))?;
        if len == 0 {
            return Err(self.wrong("it hung up"));
        }
        let packet = buffer.get(..len);
        let packet = packet.ok_or_else(|| self.wrong("its packet is too large"))?;
        match packet {
            [version, ..] if *version != VERSION => {
                Err(self.of_other_version(format!("its answer is of version {version}")))
            }
            packet => Answer::of(packet).map_err(|Malformed(what)| self.wrong(what)),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> nix::Result<usize> {
        loop {
            let left = self.until.saturating_sub(clock::now().boot);
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT);
            }
            setsockopt(&self.fd, ReceiveTimeout, &millis(left))?;
            match recv(self.fd.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                received => return received,
            }
        }
    }

    /// What the reader says instead of what was asked.
    fn unexpected(&self, answer: &Answer<'_>) -> ReadError {
        let Answer::Failed(failure) = answer else {
            return self.wrong("it answers another question");
        };
        match *failure {
            Failure::Kernel(errno) => ReadError::of("netlink", Errno::from_raw(errno)),
            Failure::Malformed => NetlinkError::Malformed("as its reader says").into(),
            Failure::Overrun => NetlinkError::Overrun.into(),
            Failure::TooLarge => NetlinkError::TooManyPeers.into(),
            Failure::Deadline => ReadError::Deadline(self.limit.as_millis()),
            Failure::Question => {
                self.of_other_version(format!("it does not understand version {VERSION}"))
            }
        }
    }

    fn of_other_version(&self, why: String) -> ReadError {
        ReadError::ReaderVersion {
            path: self.reader.to_owned(),
            why,
        }
    }

    fn wrong(&self, why: &str) -> ReadError {
        ReadError::Reader {
            path: self.reader.to_owned(),
            why: why.to_owned(),
        }
    }
}

/// Whatever keeps the agent from the reader: it says nothing about any interface.
fn silent(reader: &Path, errno: Errno) -> ReadError {
    let why = match errno {
        Errno::EAGAIN | Errno::ETIMEDOUT => "no answer in time".to_owned(),
        errno => errno.desc().to_owned(),
    };
    ReadError::Reader {
        path: reader.to_owned(),
        why,
    }
}

/// Zero would mean to wait for ever.
fn millis(limit: Duration) -> TimeVal {
    TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX).max(1))
}
