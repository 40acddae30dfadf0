//! Netlink messages: the dump of a kernel WireGuard interface, and the few others it needs.
//! Pure: datagrams in, peers out. Bounded by the datagrams, which the reader counts.
//!
//! Sources: `linux/netlink.h`, `linux/genetlink.h`, `linux/wireguard.h`, `linux/if_link.h`.
//! The device's private key and the preshared keys are attributes of the dump: passed over where
//! they lie, never copied; the reader wipes its buffer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use super::reading::{DeviceReading, Dump, MAX_PEERS, PeerReading};
use crate::core::sessions::{Endpoint, Net};

/// `GENL_ID_CTRL`: the family that knows the others.
pub const GENL_ID_CTRL: u16 = 0x10;

const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;

pub(super) const NLMSG_NOOP: u16 = 1;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;
pub(super) const WGDEVICE_A_IFINDEX: u16 = 1;
pub(super) const WGDEVICE_A_IFNAME: u16 = 2;
pub(super) const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
pub(super) const WGDEVICE_A_FLAGS: u16 = 5;
pub(super) const WGDEVICE_A_LISTEN_PORT: u16 = 6;
pub(super) const WGDEVICE_A_PEERS: u16 = 8;
pub(super) const WGPEER_A_PUBLIC_KEY: u16 = 1;
pub(super) const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_F_REMOVE_ME: u32 = 1;
pub(super) const WGPEER_A_ENDPOINT: u16 = 4;
pub(super) const WGPEER_A_LAST_HANDSHAKE_TIME: u16 = 6;
pub(super) const WGPEER_A_RX_BYTES: u16 = 7;
pub(super) const WGPEER_A_TX_BYTES: u16 = 8;
pub(super) const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFF_UP: u32 = 1;

const NLA_F_NESTED: u16 = 0x8000;
pub(super) const NLA_TYPE_MASK: u16 = 0x3fff;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Why an answer was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NetlinkError {
    /// Not a netlink message, or not one of this family.
    #[error("the kernel's answer is malformed ({0})")]
    Malformed(&'static str),
    /// The kernel refused; the number is an errno.
    #[error("the kernel answered errno {0}")]
    Kernel(i32),
    /// The kernel ran out of buffer and dropped messages.
    #[error("the kernel dropped part of its answer (overrun)")]
    Overrun,
    /// A bound was met.
    #[error("the answer is refused as too large: more than {MAX_PEERS} peers")]
    TooManyPeers,
}

/// One network interface, as `RTM_GETLINK` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique within a boot and a network namespace.
    pub index: u32,
    /// Name, opaque bytes.
    pub name: Vec<u8>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether its kind is `wireguard`.
    pub wireguard: bool,
}

/// Asks for the id of the generic netlink family `name`.
#[must_use]
pub fn get_family(seq: u32, name: &str) -> Vec<u8> {
    let mut message = request(GENL_ID_CTRL, 0, seq);
    message.extend([CTRL_CMD_GETFAMILY, 1, 0, 0]);
    put_string(&mut message, CTRL_ATTR_FAMILY_NAME, name.as_bytes());
    finish(message)
}

/// Asks for the WireGuard interface with this index and all its peers.
#[must_use]
pub fn get_device(seq: u32, family: u16, ifindex: u32) -> Vec<u8> {
    let mut message = request(family, NLM_F_DUMP, seq);
    message.extend([WG_CMD_GET_DEVICE, 1, 0, 0]);
    put(&mut message, WGDEVICE_A_IFINDEX, &ifindex.to_ne_bytes());
    finish(message)
}

/// Takes these peers out of the WireGuard interface with this index, as `wg set … remove` does. A
/// peer that is not there is no error. At most [`MAX_REMOVED`] fit.
#[must_use]
pub fn remove_peers(seq: u32, family: u16, ifindex: u32, public_keys: &[[u8; 32]]) -> Vec<u8> {
    let mut message = request(family, NLM_F_ACK, seq);
    message.extend([WG_CMD_SET_DEVICE, 1, 0, 0]);
    put(&mut message, WGDEVICE_A_IFINDEX, &ifindex.to_ne_bytes());
    let mut peers = Vec::new();
    for key in public_keys {
        let mut peer = Vec::new();
        put(&mut peer, WGPEER_A_PUBLIC_KEY, key);
        put(&mut peer, WGPEER_A_FLAGS, &WGPEER_F_REMOVE_ME.to_ne_bytes());
        put(&mut peers, NLA_F_NESTED, &peer);
    }
    put(&mut message, WGDEVICE_A_PEERS | NLA_F_NESTED, &peers);
    finish(message)
}

/// Most peers of one [`remove_peers`]: an attribute ends at 64 KiB, and a peer takes 48 bytes.
pub const MAX_REMOVED: usize = 1024;

/// Asks for all interfaces of kind `wireguard`. A kernel that does not know the kind (module not
/// loaded) answers with all interfaces, so look at [`Link::wireguard`].
#[must_use]
pub fn get_wireguard_links(seq: u32) -> Vec<u8> {
    let mut message = request(RTM_GETLINK, NLM_F_DUMP, seq);
    message.extend([0; 16]); // struct ifinfomsg
    let mut kind = Vec::new();
    put_string(&mut kind, IFLA_INFO_KIND, b"wireguard");
    put(&mut message, IFLA_LINKINFO | NLA_F_NESTED, &kind);
    finish(message)
}

/// Asks for one interface by name.
#[must_use]
pub fn get_link(seq: u32, name: &str) -> Vec<u8> {
    let mut message = request(RTM_GETLINK, 0, seq);
    message.extend([0; 16]);
    put_string(&mut message, IFLA_IFNAME, name.as_bytes());
    finish(message)
}

/// Takes the datagrams that answer [`get_device`].
pub struct DeviceParser {
    family: u16,
    seq: u32,
    device: DeviceReading,
    peer: PeerReading,
    in_peer: bool,
    peers: usize,
    interrupted: bool,
}

impl DeviceParser {
    /// For the answer to the request with this sequence number.
    #[must_use]
    pub fn new(family: u16, seq: u32) -> Self {
        Self {
            family,
            seq,
            device: DeviceReading::default(),
            peer: PeerReading::default(),
            in_peer: false,
            peers: 0,
            interrupted: false,
        }
    }

    /// Takes one datagram. True when the dump is over. A peer that is split over several
    /// messages comes out once: everything from its first fragment, addresses from all.
    pub fn feed(
        &mut self,
        datagram: &[u8],
        sink: &mut dyn FnMut(&PeerReading),
    ) -> Result<bool, NetlinkError> {
        let (family, seq) = (self.family, self.seq);
        let over = for_each_message(datagram, seq, &mut |kind, flags, payload| {
            self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
            if kind == family {
                let attributes = payload.get(4..).ok_or(MALFORMED_HEADER)?;
                self.message(attributes, sink)?;
            }
            Ok(())
        })?;
        if over {
            self.flush(sink)?;
        }
        Ok(over)
    }

    /// Whether peers came or went during the dump (`NLM_F_DUMP_INTR`), so that some of those
    /// which stayed may be missing.
    #[must_use]
    pub fn dump(&self) -> Dump {
        if self.interrupted {
            Dump::Interrupted
        } else {
            Dump::Clean
        }
    }

    /// What was said about the interface itself: the first message of a dump has it.
    #[must_use]
    pub fn device(&self) -> DeviceReading {
        self.device
    }

    fn message(
        &mut self,
        attributes: &[u8],
        sink: &mut dyn FnMut(&PeerReading),
    ) -> Result<(), NetlinkError> {
        for attribute in Attributes(attributes) {
            match attribute? {
                (WGDEVICE_A_PEERS, peers) => {
                    for peer in Attributes(peers) {
                        self.peer(peer?.1, sink)?;
                    }
                }
                (WGDEVICE_A_LISTEN_PORT, value) => {
                    let port = u16::from_ne_bytes(array(value)?);
                    self.device.listen_port = (port != 0).then_some(port);
                }
                (WGDEVICE_A_PUBLIC_KEY, value) => self.device.public_key = Some(array(value)?),
                _ => {} // private key, index, name, mark
            }
        }
        Ok(())
    }

    fn peer(
        &mut self,
        attributes: &[u8],
        sink: &mut dyn FnMut(&PeerReading),
    ) -> Result<(), NetlinkError> {
        let mut key = None;
        for attribute in Attributes(attributes) {
            if let (WGPEER_A_PUBLIC_KEY, value) = attribute? {
                key = Some(array(value)?);
            }
        }
        let key: [u8; 32] = key.ok_or(NetlinkError::Malformed("a peer without a public key"))?;
        let continues = self.in_peer && self.peer.public_key == key;
        if !continues {
            self.flush(sink)?;
            self.peer.restart(key);
            self.in_peer = true;
        }
        for attribute in Attributes(attributes) {
            match attribute? {
                (WGPEER_A_ALLOWEDIPS, value) => self.allowed_ips(value)?,
                _ if continues => {}
                (WGPEER_A_ENDPOINT, value) => self.peer.endpoint = sockaddr(value),
                (WGPEER_A_LAST_HANDSHAKE_TIME, value) => {
                    let value: [u8; 16] = array(value)?; // struct __kernel_timespec
                    let (secs, nanos) = (i64_at(&value[..8])?, i64_at(&value[8..])?);
                    self.peer.handshake.secs = u64::try_from(secs).unwrap_or(0);
                    self.peer.handshake.nanos = u32::try_from(nanos)
                        .ok()
                        .filter(|nanos| *nanos < 1_000_000_000)
                        .ok_or(NetlinkError::Malformed("nanoseconds of a handshake"))?;
                }
                (WGPEER_A_RX_BYTES, value) => self.peer.rx = u64::from_ne_bytes(array(value)?),
                (WGPEER_A_TX_BYTES, value) => self.peer.tx = u64::from_ne_bytes(array(value)?),
                _ => {} // preshared key, keepalive, version, and what newer kernels may add
            }
        }
        Ok(())
    }

    fn allowed_ips(&mut self, attributes: &[u8]) -> Result<(), NetlinkError> {
        for entry in Attributes(attributes) {
            let (mut addr, mut prefix) = (None, None);
            for attribute in Attributes(entry?.1) {
                match attribute? {
                    (WGALLOWEDIP_A_IPADDR, value) => addr = ip(value),
                    (WGALLOWEDIP_A_CIDR_MASK, value) => prefix = value.first().copied(),
                    (WGALLOWEDIP_A_FAMILY, _) | (_, _) => {} // the address's length tells it
                }
            }
            if let (Some(addr), Some(prefix)) = (addr, prefix) {
                self.peer.allow(Net { addr, prefix });
            }
        }
        Ok(())
    }

    fn flush(&mut self, sink: &mut dyn FnMut(&PeerReading)) -> Result<(), NetlinkError> {
        if std::mem::take(&mut self.in_peer) {
            self.peers += 1;
            if self.peers > MAX_PEERS {
                return Err(NetlinkError::TooManyPeers);
            }
            sink(&self.peer);
        }
        Ok(())
    }
}

/// Whether this datagram holds the kernel's word that it did what was asked (`NLM_F_ACK`).
pub fn acknowledged(datagram: &[u8], seq: u32) -> Result<bool, NetlinkError> {
    let mut done = false;
    for_each_message(datagram, seq, &mut |kind, _, _| {
        done |= kind == NLMSG_ERROR;
        Ok(())
    })?;
    Ok(done)
}

/// The family id in the answer to [`get_family`], if this datagram holds it.
pub fn family_id(datagram: &[u8], seq: u32) -> Result<Option<u16>, NetlinkError> {
    let mut id = None;
    for_each_message(datagram, seq, &mut |kind, _, payload| {
        if kind == GENL_ID_CTRL {
            for attribute in Attributes(payload.get(4..).ok_or(MALFORMED_HEADER)?) {
                if let (CTRL_ATTR_FAMILY_ID, value) = attribute? {
                    id = Some(u16::from_ne_bytes(array(value)?));
                }
            }
        }
        Ok(())
    })?;
    Ok(id)
}

/// Hands out the interfaces in a datagram. True when a dump is over.
pub fn links(datagram: &[u8], seq: u32, sink: &mut dyn FnMut(Link)) -> Result<bool, NetlinkError> {
    for_each_message(datagram, seq, &mut |kind, _, payload| {
        if kind == RTM_NEWLINK {
            sink(link(payload)?);
        }
        Ok(())
    })
}

/// `struct ifinfomsg` (family, type, index, flags, change), then attributes.
fn link(payload: &[u8]) -> Result<Link, NetlinkError> {
    let (header, attributes) = payload.split_at_checked(16).ok_or(MALFORMED_HEADER)?;
    let mut link = Link {
        index: u32::from_ne_bytes(array(&header[4..8])?),
        up: u32::from_ne_bytes(array(&header[8..12])?) & IFF_UP != 0,
        name: Vec::new(),
        wireguard: false,
    };
    for attribute in Attributes(attributes) {
        match attribute? {
            (IFLA_IFNAME, value) => link.name = c_string(value).to_vec(),
            (IFLA_LINKINFO, value) => {
                for info in Attributes(value) {
                    let (kind, value) = info?;
                    link.wireguard |= kind == IFLA_INFO_KIND && c_string(value) == b"wireguard";
                }
            }
            _ => {}
        }
    }
    Ok(link)
}

const MALFORMED_HEADER: NetlinkError = NetlinkError::Malformed("a message shorter than its header");

/// Takes type, flags and payload of one message.
type Each<'a> = &'a mut dyn FnMut(u16, u16, &[u8]) -> Result<(), NetlinkError>;

/// Calls `each` with type, flags and payload of every data message that answers `seq`.
/// True when `NLMSG_DONE` came. Errors of the kernel, also those within DONE, are errors.
fn for_each_message(mut rest: &[u8], seq: u32, each: Each<'_>) -> Result<bool, NetlinkError> {
    while !rest.is_empty() {
        let header: &[u8; 16] = rest.first_chunk().ok_or(MALFORMED_HEADER)?;
        let len = u32::from_ne_bytes(array(&header[..4])?) as usize;
        let kind = u16::from_ne_bytes(array(&header[4..6])?);
        let flags = u16::from_ne_bytes(array(&header[6..8])?);
        let message_seq = u32::from_ne_bytes(array(&header[8..12])?);
        let payload = rest.get(16..len).ok_or(NetlinkError::Malformed(
            "a message longer than its datagram",
        ))?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        if message_seq != seq {
            continue; // of a request that was given up
        }
        match kind {
            NLMSG_ERROR | NLMSG_DONE => {
                let code = payload
                    .get(..4)
                    .map_or(Ok(0), |code| array(code).map(i32::from_ne_bytes))?;
                if code != 0 {
                    return Err(NetlinkError::Kernel(code.saturating_neg()));
                }
                if kind == NLMSG_DONE {
                    return Ok(true);
                }
                each(kind, flags, payload)?; // an error of 0: done as asked
            }
            NLMSG_OVERRUN => return Err(NetlinkError::Overrun),
            _ => each(kind, flags, payload)?,
        }
    }
    Ok(false)
}

/// `struct nlattr`: length, type, value, padding to 4.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0); // after an error there is no next
        let Some(&[l0, l1, k0, k1]) = rest.first_chunk() else {
            return Some(Err(NetlinkError::Malformed("an attribute cut short")));
        };
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(value) = rest.get(4..len) else {
            return Some(Err(NetlinkError::Malformed("the length of an attribute")));
        };
        self.0 = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value)))
    }
}

/// `struct sockaddr_in` or `sockaddr_in6`; None for what is neither.
fn sockaddr(value: &[u8]) -> Option<Endpoint> {
    let family = u16::from_ne_bytes(*value.first_chunk()?);
    let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]);
    let addr = match family {
        AF_INET => ip(value.get(4..8)?)?,
        AF_INET6 => ip(value.get(8..24)?)?,
        _ => return None,
    };
    Some(Endpoint {
        ip: addr.to_canonical(),
        port: Some(port),
    })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|v6| Ipv6Addr::from(v6).into())
}

fn i64_at(value: &[u8]) -> Result<i64, NetlinkError> {
    array(value).map(i64::from_ne_bytes)
}

fn array<const N: usize>(value: &[u8]) -> Result<[u8; N], NetlinkError> {
    value
        .try_into()
        .map_err(|_| NetlinkError::Malformed("the size of a value"))
}

fn c_string(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn request(kind: u16, flags: u16, seq: u32) -> Vec<u8> {
    let mut message = vec![0; 4]; // the length, when it is known
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend(seq.to_ne_bytes());
    message.extend([0; 4]); // to the kernel
    message
}

fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).expect("requests are short");
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn put_string(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put(message, kind, &[value, &[0]].concat());
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let len = u32::try_from(message.len()).expect("requests are short");
    message[..4].copy_from_slice(&len.to_ne_bytes());
    message
}
