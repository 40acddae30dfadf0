//! The reader's side: one question, its answer, and the next one.
//!
//! It holds nothing between two questions. Whoever asks must be the user that systemd made the
//! socket for, or root; the others wait in the socket's queue, which systemd bounds. When nobody has
//! asked for [`IDLE_LIMIT`] it ends, and systemd starts it with the next question.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{
            fs::MetadataExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::PathBuf,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        MsgFlags, UnixAddr, getsockname, getsockopt, recv, send, sendmsg, sockopt::PeerCredentials,
    },
};
use thiserror::Error;

use super::{
    super::{
        ANSWER_LIMIT,
        error::ReadError,
        netlink::{Link, NetlinkError},
        nl_socket,
    },
    Datagrams,
    scrub::scrub,
    wire::{Answer, Failure, MAX_PACKET, PART_HEADER, Question, part_header},
};

/// After so long without a question the process ends: nothing of it stays in memory on a host whose
/// agent does not run, and after an upgrade the next question starts the new program.
pub const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// For the question to arrive, and for each packet of the answer to be taken.
const PACKET_LIMIT: Duration = Duration::from_secs(2);

/// Most bytes of one dump that are passed on: 131,072 peers with two addresses each take half.
const MAX_DUMP: usize = 64 << 20;

/// The kernel's datagram; with its header it is a packet.
const BUFFER_BYTES: usize = MAX_PACKET - PART_HEADER;

/// Why the reader cannot work at all.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Not started by systemd.
    #[error(
        "standard input is no listening socket ({0}): systemd starts this program \
         (vpn-node-wireguard.socket); by hand there is --check"
    )]
    NoSocket(Errno),
    /// The socket has no name, or its file is gone.
    #[error(
        "cannot tell whose socket {path} is ({source}); `systemctl restart \
         vpn-node-wireguard.socket` makes it anew"
    )]
    Owner {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No more questions can be taken.
    #[error("cannot take a question: {0}")]
    Accept(io::Error),
}

/// What can be done with WireGuard in the kernel. A trait, so that tests need no kernel.
pub trait Asked {
    /// All interfaces of kind `wireguard`, and those with these names.
    ///
    /// # Errors
    /// Why not.
    fn links(&mut self, names: &[&str]) -> Result<Vec<Link>, ReadError>;

    /// Gives `each` the datagrams of a dump until it says that it is over. They are wiped behind it.
    ///
    /// # Errors
    /// Why not, or what `each` said.
    fn dump(&mut self, ifindex: u32, each: Datagrams<'_>) -> Result<(), ReadError>;

    /// Takes peers out.
    ///
    /// # Errors
    /// Why not.
    fn remove(&mut self, ifindex: u32, public_keys: &[[u8; 32]]) -> Result<(), ReadError>;
}

/// The reader with its socket.
pub struct Server {
    listener: UnixListener,
    /// Who may ask besides root.
    owner: u32,
}

impl Server {
    /// On a listening `SOCK_SEQPACKET` socket with a name. Its file's owner may ask.
    ///
    /// # Errors
    /// [`ServerError`] for what is none.
    pub fn on(listener: UnixListener) -> Result<Self, ServerError> {
        let name: UnixAddr = getsockname(listener.as_raw_fd()).map_err(ServerError::NoSocket)?;
        let path = name.path().ok_or(ServerError::NoSocket(Errno::EINVAL))?;
        let file = fs::metadata(path).map_err(|source| ServerError::Owner {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            listener,
            owner: file.uid(),
        })
    }

    /// Answers until nobody has asked for so long.
    ///
    /// # Errors
    /// When no more questions can be taken.
    pub fn serve(&self, idle: Duration) -> Result<(), ServerError> {
        self.serve_with(&mut Kernel::new(), idle)
    }

    /// The same with another kernel.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub fn serve_with(&self, kernel: &mut dyn Asked, idle: Duration) -> Result<(), ServerError> {
        let mut packet = vec![0; MAX_PACKET];
        let idle = PollTimeout::try_from(idle).unwrap_or(PollTimeout::MAX);
        loop {
            let mut waiting = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut waiting, idle) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(ServerError::Accept(errno.into())),
            }
            match self.listener.accept() {
                // Its client is told, or has left; the next one is served in any case.
                Ok((stream, _)) if self.may_ask(&stream) => {
                    let _ = converse(&stream, kernel, &mut packet);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ServerError::Accept(error)),
            }
        }
    }

    /// The socket's mode says so already; this holds if somebody opens it.
    fn may_ask(&self, stream: &UnixStream) -> bool {
        let uid = getsockopt(stream, PeerCredentials).map(|peer| peer.uid());
        uid.is_ok_and(|uid| may_ask(uid, self.owner))
    }
}

fn may_ask(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

fn converse(stream: &UnixStream, kernel: &mut dyn Asked, packet: &mut [u8]) -> nix::Result<()> {
    let set = stream
        .set_read_timeout(Some(PACKET_LIMIT))
        .and_then(|()| stream.set_write_timeout(Some(PACKET_LIMIT)));
    set.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
    // MSG_TRUNC: the whole length, also of what did not fit.
    let len = recv(stream.as_raw_fd(), packet, MsgFlags::MSG_TRUNC)?;
    // Whoever does not wait any more has taken the question for a failure: nothing is done late.
    if has_left(stream) {
        return Ok(());
    }
    let answer = match packet.get(..len).map(Question::of) {
        Some(Ok(question)) => answer(&question, stream, kernel),
        _ => Err(Failure::Question),
    };
    let last = match answer {
        Ok(None) => return Ok(()),
        Ok(Some(last)) => last,
        Err(failure) => Answer::Failed(failure).to_packet(),
    };
    send(stream.as_raw_fd(), &last, MsgFlags::MSG_NOSIGNAL).map(drop)
}

/// Whether the other end is closed.
fn has_left(stream: &UnixStream) -> bool {
    let mut ends = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    let polled = poll(&mut ends, PollTimeout::ZERO);
    polled.is_ok_and(|ready| ready > 0)
        && ends[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

/// The last packet of the answer, if the parts do not end it.
fn answer(
    question: &Question<'_>,
    stream: &UnixStream,
    kernel: &mut dyn Asked,
) -> Result<Option<Vec<u8>>, Failure> {
    let last = match question {
        Question::List { names } => {
            // Names that are no text belong to no interface that is read.
            let names = names
                .iter()
                .filter_map(|name| std::str::from_utf8(name).ok());
            let names: Vec<&str> = names.collect();
            Answer::Links(kernel.links(&names).map_err(failure)?)
        }
        Question::Remove {
            ifindex,
            public_keys,
        } => {
            kernel.remove(*ifindex, public_keys).map_err(failure)?;
            Answer::Removed
        }
        Question::Dump { ifindex } => {
            pass_on(*ifindex, stream, kernel)?;
            return Ok(None);
        }
    };
    Ok(Some(last.to_packet()))
}

/// Passes a dump on, part by part, each scrubbed first.
fn pass_on(ifindex: u32, stream: &UnixStream, kernel: &mut dyn Asked) -> Result<(), Failure> {
    let mut passed = 0;
    let mut too_large = false;
    let dumped = kernel.dump(ifindex, &mut |family, seq, datagram| {
        let over = scrub(datagram, family)?;
        passed += datagram.len();
        if passed > MAX_DUMP {
            too_large = true;
            return Ok(true);
        }
        let header = part_header(family, seq);
        let both = [io::IoSlice::new(&header), io::IoSlice::new(datagram)];
        sendmsg::<UnixAddr>(stream.as_raw_fd(), &both, &[], MsgFlags::MSG_NOSIGNAL, None).map_err(
            |errno| ReadError::Call {
                call: "sendmsg",
                errno,
            },
        )?;
        Ok(over)
    });
    dumped.map_err(failure)?;
    if too_large {
        return Err(Failure::TooLarge);
    }
    Ok(())
}

fn failure(error: ReadError) -> Failure {
    match error {
        ReadError::Gone(errno) | ReadError::Denied(errno) | ReadError::Call { errno, .. } => {
            Failure::Kernel(errno as i32)
        }
        ReadError::Netlink(NetlinkError::Kernel(errno)) => Failure::Kernel(errno),
        ReadError::Netlink(NetlinkError::Overrun) => Failure::Overrun,
        ReadError::Deadline(_) => Failure::Deadline,
        _ => Failure::Malformed,
    }
}

/// The kernel itself.
struct Kernel {
    buffer: Box<[u8]>,
}

impl Kernel {
    fn new() -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
        }
    }
}

impl Asked for Kernel {
    fn links(&mut self, names: &[&str]) -> Result<Vec<Link>, ReadError> {
        nl_socket::links(true, names, ANSWER_LIMIT, &mut self.buffer)
    }

    fn dump(&mut self, ifindex: u32, each: Datagrams<'_>) -> Result<(), ReadError> {
        nl_socket::dump(ifindex, ANSWER_LIMIT, &mut self.buffer, each)
    }

    fn remove(&mut self, ifindex: u32, public_keys: &[[u8; 32]]) -> Result<(), ReadError> {
        nl_socket::remove(ifindex, ANSWER_LIMIT, public_keys, &mut self.buffer)
    }
}

/// For an operator, as root: each WireGuard interface of the kernel in a line, read as the agent's
/// questions are answered.
///
/// # Errors
/// Why the kernel does not tell.
pub fn check() -> Result<Vec<String>, ReadError> {
    let mut kernel = Kernel::new();
    let mut lines = Vec::new();
    for link in kernel.links(&[])? {
        let mut peers = 0_usize;
        let read = nl_socket::read(link.index, ANSWER_LIMIT, &mut kernel.buffer, &mut |_| {
            peers += 1;
        });
        let (_, device) = read?;
        let state = if link.up { "up" } else { "down" };
        let port = device
            .listen_port
            .map_or_else(|| "no port".to_owned(), |port| format!("UDP port {port}"));
        let name = link.name.escape_ascii();
        lines.push(format!("{name}: {state}, {port}, {peers} peers"));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    /// Counts what it is told to take out.
    struct Counts(usize);

    impl Asked for Counts {
        fn links(&mut self, _names: &[&str]) -> Result<Vec<Link>, ReadError> {
            panic!("nobody asks for links")
        }

        fn dump(&mut self, _ifindex: u32, _each: Datagrams<'_>) -> Result<(), ReadError> {
            panic!("nobody asks for a dump")
        }

        fn remove(&mut self, _ifindex: u32, public_keys: &[[u8; 32]]) -> Result<(), ReadError> {
            self.0 += public_keys.len();
            Ok(())
        }
    }

    #[test]
    fn for_somebody_who_has_left_nothing_is_taken_out() {
        let question = Question::Remove {
            ifindex: 9,
            public_keys: &[[1; 32]],
        };
        for (leaves, taken_out) in [(true, 0), (false, 1)] {
            let (theirs, ours) = socketpair(
                AddressFamily::Unix,
                SockType::SeqPacket,
                None,
                SockFlag::SOCK_CLOEXEC,
            )
            .unwrap();
            send(
                theirs.as_raw_fd(),
                &question.to_packet(),
                MsgFlags::MSG_NOSIGNAL,
            )
            .unwrap();
            let stays = (!leaves).then_some(theirs);
            let mut kernel = Counts(0);
            converse(&ours.into(), &mut kernel, &mut [0; 1024]).unwrap();
            assert_eq!(kernel.0, taken_out);
            drop(stays);
        }
    }

    #[test]
    fn only_root_and_the_user_whom_the_socket_was_made_for_may_ask() {
        assert!(may_ask(0, 998) && may_ask(998, 998));
        assert!(!may_ask(997, 998) && !may_ask(65534, 998));
    }
}
