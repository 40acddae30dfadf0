//! Asks the kernel over netlink: which interfaces there are, the peers of one, and to take some out.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, send,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use super::{
    error::ReadError,
    netlink::{self, DeviceParser, Link, MAX_REMOVED, NetlinkError},
    reading::{DeviceReading, Dump, PeerReading, wipe},
};
use crate::host::clock;

/// Most interfaces looked at in one list.
const MAX_LINKS: usize = 4096;

/// Interfaces of this process's network namespace: those of kind `wireguard` if `all`, and of
/// other kinds those with these names.
pub(super) fn links(
    all: bool,
    names: &[&str],
    limit: Duration,
    buffer: &mut [u8],
) -> Result<Vec<Link>, ReadError> {
    let mut links = Vec::new();
    if all {
        let socket = Socket::open(SockProtocol::NetlinkRoute, limit)?;
        let message = netlink::get_wireguard_links(SEQ);
        socket.ask(&message, buffer, &mut |datagram| {
            let over = netlink::links(datagram, SEQ, &mut |link| {
                if link.wireguard && links.len() < MAX_LINKS {
                    links.push(link);
                }
            });
            over.map_err(ReadError::of_netlink)
        })?;
    }
    for name in names {
        let named = link(name, limit, buffer)?;
        links.extend(named.filter(|link| !link.wireguard));
    }
    Ok(links)
}

/// The interface called `name`; none if the network namespace has no such one.
fn link(name: &str, limit: Duration, buffer: &mut [u8]) -> Result<Option<Link>, ReadError> {
    let mut found = None;
    let socket = Socket::open(SockProtocol::NetlinkRoute, limit)?;
    let message = netlink::get_link(SEQ, name);
    let asked = socket.ask(&message, buffer, &mut |datagram| {
        netlink::links(datagram, SEQ, &mut |link| found = Some(link))
            .map_err(ReadError::of_netlink)?;
        Ok(found.is_some())
    });
    match asked {
        Err(ReadError::Gone(_)) => Ok(None),
        asked => asked.map(|()| found),
    }
}

/// Reads all peers of the kernel interface with this index.
pub(super) fn read(
    ifindex: u32,
    limit: Duration,
    buffer: &mut [u8],
    sink: &mut dyn FnMut(&PeerReading),
) -> Result<(Dump, DeviceReading), ReadError> {
    let mut parser = None;
    dump(ifindex, limit, buffer, &mut |family, seq, datagram| {
        let parser = parser.get_or_insert_with(|| DeviceParser::new(family, seq));
        parser.feed(datagram, sink).map_err(ReadError::of_netlink)
    })?;
    let parser = parser.ok_or(NetlinkError::Malformed("no answer"))?;
    Ok((parser.dump(), parser.device()))
}

/// What [`dump`] gives the datagrams to, with the numbers of the family and of the question; it
/// says when the dump is over.
pub type Datagrams<'a> = &'a mut dyn FnMut(u16, u32, &mut [u8]) -> Result<bool, ReadError>;

/// Asks for the kernel interface with this index. Each datagram, keys and all, is wiped after
/// `each` had it.
pub(super) fn dump(
    ifindex: u32,
    limit: Duration,
    buffer: &mut [u8],
    each: Datagrams<'_>,
) -> Result<(), ReadError> {
    let socket = Socket::open(SockProtocol::NetlinkGeneric, limit)?;
    let family = socket.family("wireguard", buffer)?;
    let seq = SEQ + 1;
    let message = netlink::get_device(seq, family, ifindex);
    socket.ask(&message, buffer, &mut |datagram| {
        each(family, seq, datagram)
    })
}

/// Takes peers out of the kernel interface with this index. The kernel says when it is done; it
/// asks for CAP_NET_ADMIN, as for reading.
pub(super) fn remove(
    ifindex: u32,
    limit: Duration,
    public_keys: &[[u8; 32]],
    buffer: &mut [u8],
) -> Result<(), ReadError> {
    let socket = Socket::open(SockProtocol::NetlinkGeneric, limit)?;
    let family = socket.family("wireguard", buffer)?;
    let seq = SEQ + 1;
    for some in public_keys.chunks(MAX_REMOVED) {
        let message = netlink::remove_peers(seq, family, ifindex, some);
        socket.ask(&message, buffer, &mut |datagram| {
            netlink::acknowledged(datagram, seq).map_err(ReadError::of_netlink)
        })?;
    }
    Ok(())
}

/// Each socket is used for one question after another, and starts to count anew.
const SEQ: u32 = 1;

struct Socket {
    fd: OwnedFd,
    until: Duration,
    limit: Duration,
}

impl Socket {
    fn open(protocol: SockProtocol, limit: Duration) -> Result<Self, ReadError> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )
        .map_err(|errno| ReadError::of("socket", errno))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))
            .map_err(|errno| ReadError::of("bind", errno))?;
        let until = clock::now().boot.saturating_add(limit);
        Ok(Self { fd, until, limit })
    }

    /// The id of a generic netlink family; [`ReadError::Gone`] without its module.
    fn family(&self, name: &str, buffer: &mut [u8]) -> Result<u16, ReadError> {
        let mut family = None;
        let message = netlink::get_family(SEQ, name);
        self.ask(&message, buffer, &mut |datagram| {
            family = netlink::family_id(datagram, SEQ).map_err(ReadError::of_netlink)?;
            Ok(family.is_some())
        })?;
        Ok(family.ok_or(NetlinkError::Malformed("no family id"))?)
    }

    /// Sends `message` and gives `each` the datagrams of the answer until it says true.
    fn ask(
        &self,
        message: &[u8],
        buffer: &mut [u8],
        each: &mut dyn FnMut(&mut [u8]) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        send(self.fd.as_raw_fd(), message, MsgFlags::empty())
            .map_err(|errno| ReadError::of("send", errno))?;
        loop {
            let len = self.receive(buffer)?;
            let over = match buffer.get_mut(..len) {
                Some(datagram) => each(datagram),
                None => Err(NetlinkError::Malformed("a datagram larger than 64 KiB").into()),
            };
            let received = len.min(buffer.len());
            wipe(&mut buffer[..received]);
            if over? {
                return Ok(());
            }
        }
    }

    /// The next datagram of the kernel; anybody may send to a netlink socket, only it is heard.
    fn receive(&self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        loop {
            let left = self.until.saturating_sub(clock::now().boot);
            if left.is_zero() {
                return Err(ReadError::Deadline(self.limit.as_millis()));
            }
            // Zero would mean to wait for ever.
            let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1);
            setsockopt(&self.fd, ReceiveTimeout, &TimeVal::milliseconds(millis))
                .map_err(|errno| ReadError::of("setsockopt", errno))?;
            match recv(&self.fd, buffer) {
                Ok((len, Some(0))) => return Ok(len),
                Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(ReadError::of("recvfrom", errno)),
            }
        }
    }
}

/// Length (the whole, even if cut: MSG_TRUNC) and the sender's port id.
fn recv(fd: &OwnedFd, buffer: &mut [u8]) -> nix::Result<(usize, Option<u32>)> {
    use nix::sys::socket::{RecvMsg, recvmsg};
    let mut iov = [std::io::IoSliceMut::new(buffer)];
    let message: RecvMsg<'_, '_, NetlinkAddr> =
        recvmsg(fd.as_raw_fd(), &mut iov, None, MsgFlags::MSG_TRUNC)?;
    Ok((message.bytes, message.address.map(|addr| addr.pid())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[test]
    fn the_running_kernel_tells_its_loopback_interface_and_its_control_family() {
        let mut buffer = vec![0; 64 << 10];
        let lo = link("lo", LIMIT, &mut buffer).unwrap().unwrap();
        assert_eq!((lo.index, lo.wireguard), (1, false));
        assert_eq!(lo.name, b"lo");
        assert_eq!(link("no-such-link0", LIMIT, &mut buffer).unwrap(), None);
        let socket = Socket::open(SockProtocol::NetlinkGeneric, LIMIT).unwrap();
        let family = socket.family("nlctrl", &mut buffer).unwrap();
        assert_eq!(family, netlink::GENL_ID_CTRL);
        let missing = socket.family("no-such-family", &mut buffer);
        assert!(matches!(missing, Err(ReadError::Gone(_))), "{missing:?}");
        assert!(buffer.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_link_without_peers_to_tell_is_an_error() {
        let read = read(1, LIMIT, &mut vec![0; 64 << 10], &mut |_| {
            panic!("a peer of lo")
        });
        assert!(read.is_err());
    }
}
