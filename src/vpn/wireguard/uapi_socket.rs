//! Asks a userspace daemon over its unix socket, or takes peers out of it: one deadline for
//! everything, nothing kept.

use std::{
    io::{Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};

use super::{
    error::ReadError,
    reading::{DeviceReading, PeerReading, wipe},
    uapi::{GET, Parser, remove_peers},
};
use crate::host::clock;

/// Reads all peers of the daemon that listens at `path`, and with `derive` the interface's public
/// key. Returns when the answer is whole or `limit` is over. `buffer` is scratch space; it holds
/// nothing of the answer afterwards.
pub(super) fn read(
    path: &Path,
    limit: Duration,
    derive: bool,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&PeerReading),
) -> Result<DeviceReading, ReadError> {
    let mut parser = if derive {
        Parser::with_public_key()
    } else {
        Parser::new()
    };
    ask(path, limit, GET, &mut parser, buffer, sink)?;
    Ok(parser.device())
}

/// Takes peers out of the daemon that listens at `path`. It says so itself; the next reading shows
/// whether that was true.
pub(super) fn remove(
    path: &Path,
    limit: Duration,
    public_keys: &[[u8; 32]],
    buffer: &mut [u8],
) -> Result<(), ReadError> {
    let request = remove_peers(public_keys);
    let mut parser = Parser::new();
    ask(path, limit, &request, &mut parser, buffer, &mut |_| {})
}

fn ask(
    path: &Path,
    limit: Duration,
    request: &[u8],
    parser: &mut Parser,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&PeerReading),
) -> Result<(), ReadError> {
    let deadline = Deadline {
        at: clock::now().boot.saturating_add(limit),
        limit,
    };
    let mut stream = open(path)?;
    deadline.wait(&stream, PollFlags::POLLOUT)?;
    // The request is smaller than any socket buffer: it goes out whole or not at all.
    stream
        .write_all(request)
        .map_err(|error| call("write", &error))?;
    loop {
        deadline.wait(&stream, PollFlags::POLLIN)?;
        let len = match stream.read(buffer) {
            Ok(0) => return Err(parser.cut().into()),
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(call("read", &error)),
        };
        let over = parser.feed(&buffer[..len], sink);
        wipe(&mut buffer[..len]);
        if over? {
            return Ok(());
        }
    }
}

/// Connects without waiting: the connect of a blocking socket waits for ever on a daemon that
/// does not accept.
fn open(path: &Path) -> Result<UnixStream, ReadError> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|errno| ReadError::of("socket", errno))?;
    let addr = UnixAddr::new(path).map_err(|errno| ReadError::of("connect", errno))?;
    connect(fd.as_raw_fd(), &addr).map_err(|errno| ReadError::of("connect", errno))?;
    Ok(UnixStream::from(fd))
}

fn call(call: &'static str, error: &std::io::Error) -> ReadError {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
    ReadError::Call { call, errno }
}

struct Deadline {
    at: Duration,
    limit: Duration,
}

impl Deadline {
    fn wait(&self, stream: &UnixStream, flags: PollFlags) -> Result<(), ReadError> {
        loop {
            let left = self.at.saturating_sub(clock::now().boot);
            if left.is_zero() {
                return Err(ReadError::Deadline(self.limit.as_millis()));
            }
            // Rounded up, or the last fraction of a millisecond would spin.
            let left = left.saturating_add(Duration::from_millis(1));
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(stream.as_fd(), flags)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(ReadError::of("poll", errno)),
            }
        }
    }
}
