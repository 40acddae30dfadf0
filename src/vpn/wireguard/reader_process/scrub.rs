//! Takes the keys out of what the kernel says, in place, before it leaves the process. Pure.
//!
//! It keeps what the agent has a use for and zeroes every other value, so a secret that a newer
//! kernel adds is gone as well. What it does not understand is refused as a whole.

use super::super::netlink::{
    NLA_TYPE_MASK, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkError,
    WGDEVICE_A_FLAGS, WGDEVICE_A_IFINDEX, WGDEVICE_A_IFNAME, WGDEVICE_A_LISTEN_PORT,
    WGDEVICE_A_PEERS, WGDEVICE_A_PUBLIC_KEY, WGPEER_A_ALLOWEDIPS, WGPEER_A_ENDPOINT,
    WGPEER_A_FLAGS, WGPEER_A_LAST_HANDSHAKE_TIME, WGPEER_A_PUBLIC_KEY, WGPEER_A_RX_BYTES,
    WGPEER_A_TX_BYTES,
};

/// Of an interface: not its private key, not its mark.
const OF_DEVICE: [u16; 6] = [
    WGDEVICE_A_IFINDEX,
    WGDEVICE_A_IFNAME,
    WGDEVICE_A_PUBLIC_KEY,
    WGDEVICE_A_FLAGS,
    WGDEVICE_A_LISTEN_PORT,
    WGDEVICE_A_PEERS,
];

/// Of a peer: not its preshared key.
const OF_PEER: [u16; 7] = [
    WGPEER_A_PUBLIC_KEY,
    WGPEER_A_FLAGS,
    WGPEER_A_ENDPOINT,
    WGPEER_A_LAST_HANDSHAKE_TIME,
    WGPEER_A_RX_BYTES,
    WGPEER_A_TX_BYTES,
    WGPEER_A_ALLOWEDIPS,
];

/// Scrubs one datagram of a dump of `family`. True when the kernel says no more after it.
///
/// # Errors
/// For what is no datagram of such a dump; then nothing of it may be passed on.
pub(in super::super) fn scrub(datagram: &mut [u8], family: u16) -> Result<bool, NetlinkError> {
    let mut over = false;
    let mut at = 0;
    while at < datagram.len() {
        let rest = &mut datagram[at..];
        let header: &[u8; 16] = rest.first_chunk().ok_or(CUT)?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let payload = rest.get_mut(16..len).ok_or(CUT)?;
        match kind {
            NLMSG_DONE | NLMSG_ERROR => over = true,
            NLMSG_NOOP | NLMSG_OVERRUN => {}
            kind if kind == family => device(payload.get_mut(4..).ok_or(CUT)?)?,
            _ => return Err(NetlinkError::Malformed("a message that was not asked for")),
        }
        at += len.next_multiple_of(4);
    }
    Ok(over)
}

const CUT: NetlinkError = NetlinkError::Malformed("a message cut short");

fn device(attributes: &mut [u8]) -> Result<(), NetlinkError> {
    each(attributes, &mut |kind, value| match kind {
        WGDEVICE_A_PEERS => each(value, &mut |_, attributes| {
            each(attributes, &mut |kind, value| {
                keep_if(OF_PEER.contains(&kind), value);
                Ok(())
            })
        }),
        kind => {
            keep_if(OF_DEVICE.contains(&kind), value);
            Ok(())
        }
    })
}

fn keep_if(known: bool, value: &mut [u8]) {
    if !known {
        value.fill(0);
    }
}

/// Takes type and value of one attribute.
type Each<'a> = &'a mut dyn FnMut(u16, &mut [u8]) -> Result<(), NetlinkError>;

/// `struct nlattr`: length, type, value, padding to 4, which is zeroed too.
fn each(mut rest: &mut [u8], take: Each<'_>) -> Result<(), NetlinkError> {
    while !rest.is_empty() {
        let &[l0, l1, k0, k1] = rest.first_chunk().ok_or(CUT)?;
        let len = usize::from(u16::from_ne_bytes([l0, l1]));
        let next = len.next_multiple_of(4).min(rest.len());
        let (attribute, following) = rest.split_at_mut(next);
        let value = attribute.get_mut(4..len).ok_or(CUT)?;
        take(u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value)?;
        attribute[len..].fill(0);
        rest = following;
    }
    Ok(())
}
