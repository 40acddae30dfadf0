//! A connection to a VPN daemon's control socket: never blocks, never grows without bound.
//!
//! Owns the socket and what still has to be written to it. What the bytes mean is the business of
//! each backend. [`Backoff`] says when to try again after a failure.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockopt, socket,
    sockopt,
};

/// Requests that may wait for a daemon that does not read: each is a short line.
pub const MAX_QUEUED_BYTES: usize = 64 * 1024;

/// The first wait after a failure, doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait between two attempts: how late a daemon is found that came up again.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

/// See the module's page.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    connecting: bool,
    queue: VecDeque<u8>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Begins to connect. Whether that succeeds, the first [`Self::read`] tells.
    ///
    /// # Errors
    /// At once for a unix socket (nobody listens, no permission, its queue is full); what is found
    /// out later comes from [`Self::read`].
    pub fn connect(address: &Address) -> io::Result<Self> {
        let (family, target): (_, Box<dyn nix::sys::socket::SockaddrLike>) = match address {
            Address::Unix(path) => (
                AddressFamily::Unix,
                Box::new(UnixAddr::new(path.as_path())?),
            ),
            Address::Tcp(SocketAddr::V4(to)) => {
                (AddressFamily::Inet, Box::new(SockaddrStorage::from(*to)))
            }
            Address::Tcp(SocketAddr::V6(to)) => {
                (AddressFamily::Inet6, Box::new(SockaddrStorage::from(*to)))
            }
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Stream, flags, None)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
        let connecting = match connect(raw, target.as_ref()) {
            Ok(()) => false,
            Err(nix::errno::Errno::EINPROGRESS) => true,
            Err(error) => return Err(error.into()),
        };
        let socket = match address {
            Address::Unix(_) => Socket::Unix(fd.into()),
            Address::Tcp(_) => Socket::Tcp(fd.into()),
        };
        Ok(Self {
            socket,
            connecting,
            queue: VecDeque::new(),
        })
    }

    /// What to wait for.
    #[must_use]
    pub fn interest(&self) -> PollFd<'_> {
        let mut flags = PollFlags::POLLIN;
        if self.connecting || !self.queue.is_empty() {
            flags |= PollFlags::POLLOUT;
        }
        PollFd::new(self.fd(), flags)
    }

    /// Queues `bytes` and writes what can be written now.
    ///
    /// # Errors
    /// The connection is broken, or the daemon has not read [`MAX_QUEUED_BYTES`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.queue.len() + bytes.len() > MAX_QUEUED_BYTES {
            let why = "the daemon does not read what it is asked";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        self.queue.extend(bytes);
        self.flush()
    }

    /// Writes what is queued, as far as that is possible now.
    ///
    /// # Errors
    /// The connection is broken or was refused.
    pub fn flush(&mut self) -> io::Result<()> {
        self.finish_connecting()?;
        while !self.connecting && !self.queue.is_empty() {
            let (first, _) = self.queue.as_slices();
            match self.socket.write(first) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.queue.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once, at most `buffer` full; `None`: nothing there yet.
    ///
    /// # Errors
    /// The connection is broken, was refused, or was closed by the daemon (`UnexpectedEof`).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.flush()?;
        if self.connecting {
            return Ok(None);
        }
        loop {
            return match self.socket.read(buffer) {
                Ok(0) => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the daemon closed the connection",
                )),
                Ok(read) => Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// A connect(2) under way is over when it has no error and a peer.
    fn finish_connecting(&mut self) -> io::Result<()> {
        if !self.connecting {
            return Ok(());
        }
        let error = getsockopt(&self.fd(), sockopt::SocketError)?;
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let Socket::Tcp(tcp) = &self.socket else {
            return Ok(());
        };
        self.connecting = match tcp.peer_addr() {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::NotConnected => true,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(unix) => unix.as_fd(),
            Socket::Tcp(tcp) => tcp.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(unix) => unix.read(buffer),
            Self::Tcp(tcp) => tcp.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(unix) => unix.write(bytes),
            Self::Tcp(tcp) => tcp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// When to connect again: at once, then later and later.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
    at: Duration,
}

impl Backoff {
    /// The boot-clock instant of the next attempt.
    #[must_use]
    pub fn at(&self) -> Duration {
        self.at
    }

    /// It failed at `now` (boot clock).
    pub fn failed(&mut self, now: Duration) {
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.at = now.saturating_add(wait.min(LONGEST_WAIT));
    }

    /// It works: the next failure begins from the shortest wait.
    pub fn worked(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Reads until `wanted` bytes are there; the peer is in this process, so they come.
    fn read_exactly(stream: &mut Stream, wanted: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 16];
        while all.len() < wanted {
            let _ = nix::poll::poll(&mut [stream.interest()], 1000u16);
            if let Some(read) = stream.read(&mut buffer).unwrap() {
                all.extend_from_slice(&buffer[..read]);
            }
        }
        all
    }

    fn echoes(mut stream: Stream, mut peer: impl Read + Write) {
        stream.send(b"status 3\n").unwrap();
        while !stream.queue.is_empty() {
            stream.flush().unwrap();
        }
        let mut asked = [0; 9];
        peer.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"status 3\n");
        peer.write_all(b"a long answer in several pieces").unwrap();
        assert_eq!(
            read_exactly(&mut stream, 31),
            b"a long answer in several pieces"
        );
        drop(peer);
        let _ = nix::poll::poll(&mut [stream.interest()], 1000u16);
        let ended = stream.read(&mut [0; 16]).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn it_speaks_over_unix_sockets_and_tcp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let stream = Stream::connect(&Address::Unix(path.clone())).unwrap();
        echoes(stream, listener.accept().unwrap().0);
        drop(listener);
        let refused = Stream::connect(&Address::Unix(path)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let stream = Stream::connect(&Address::Tcp(at)).unwrap();
        echoes(stream, listener.accept().unwrap().0);
        drop(listener);
        let mut refused = Stream::connect(&Address::Tcp(at));
        if let Ok(stream) = &mut refused {
            let _ = nix::poll::poll(&mut [stream.interest()], 1000u16);
        }
        let refused = refused.and_then(|mut stream| stream.read(&mut [0; 16]));
        assert_eq!(
            refused.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[test]
    fn a_daemon_that_does_not_read_costs_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut stream = Stream::connect(&Address::Unix(path)).unwrap();
        let failed = (0..10_000).find_map(|_| stream.send(&[b'x'; 1000]).err());
        assert_eq!(failed.unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(stream.queue.len() <= MAX_QUEUED_BYTES);
    }

    #[test]
    fn waits_grow_to_half_a_minute_and_start_over() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.at(), Duration::ZERO);
        let now = Duration::from_secs(100);
        let waits: Vec<u64> = (0..7)
            .map(|_| {
                backoff.failed(now);
                (backoff.at() - now).as_secs()
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        backoff.worked();
        backoff.failed(now);
        assert_eq!(backoff.at() - now, Duration::from_secs(1));
    }
}
