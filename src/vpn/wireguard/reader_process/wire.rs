//! What agent and WireGuard reader say to each other, version 1: one packet is a question, some are
//! its answer (`docs/wireguard-reader.md`, frozen). Pure: bytes to values and back.
//!
//! Both sides are bounded: a packet is [`MAX_PACKET`] at most, and what is in it is counted before
//! it is taken. Numbers are little-endian; what the kernel said is passed on as it said it.

use super::super::{
    discover::{MAX_INTERFACES, MAX_NAME},
    netlink::{Link, MAX_REMOVED},
};

/// The first byte of every packet.
pub const VERSION: u8 = 1;

/// The largest packet: a datagram of the kernel (32 KiB at most) with its header fits twice.
pub const MAX_PACKET: usize = 64 << 10;

/// Bytes before the kernel's datagram in [`Answer::Part`].
pub const PART_HEADER: usize = 8;

/// Most interfaces in one answer: far more than are read ([`MAX_INTERFACES`]), and they fit into a
/// packet.
pub const MAX_LINKS: usize = 1024;

const LIST: u8 = 1;
const DUMP: u8 = 2;
const REMOVE: u8 = 3;

const LINKS: u8 = 1;
const PART: u8 = 2;
const REMOVED: u8 = 3;
const FAILED: u8 = 4;

const UP: u8 = 1;
const WIREGUARD: u8 = 2;

/// What the agent asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question<'a> {
    /// All interfaces of kind `wireguard`, and of any kind those with these names.
    List {
        /// 1 to 15 bytes each, 64 names at most.
        names: Vec<&'a [u8]>,
    },
    /// The interface with this index and its peers.
    Dump {
        /// Its index.
        ifindex: u32,
    },
    /// These peers taken out of the interface with this index.
    Remove {
        /// Its index.
        ifindex: u32,
        /// 1 to [`MAX_REMOVED`].
        public_keys: &'a [[u8; 32]],
    },
}

/// One packet of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// To `List`: all of it.
    Links(Vec<Link>),
    /// To `Dump`: a part of it, until the kernel's own end.
    Part {
        /// The kernel's number for messages about WireGuard.
        family: u16,
        /// The number of the question that the kernel answers.
        seq: u32,
        /// Its datagram, without keys.
        datagram: &'a [u8],
    },
    /// To `Remove`: the kernel did it.
    Removed,
    /// It was not done, or not to its end.
    Failed(Failure),
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The kernel refused; an errno.
    Kernel(i32),
    /// The kernel's answer was not understood, so nothing of it was passed on.
    Malformed,
    /// The kernel dropped a part of its answer.
    Overrun,
    /// The kernel did not answer in time.
    Deadline,
    /// The answer is larger than the reader passes on.
    TooLarge,
    /// The question was not understood.
    Question,
}

/// Not a packet of this protocol; what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl Question<'_> {
    /// As a packet.
    ///
    /// # Panics
    /// With more names or keys, or longer names, than the protocol has room for.
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        match self {
            Self::List { names } => {
                assert!(names.len() <= MAX_INTERFACES, "too many names");
                let mut packet = vec![VERSION, LIST, small(names.len())];
                for name in names {
                    put_name(&mut packet, name);
                }
                packet
            }
            Self::Dump { ifindex } => [&[VERSION, DUMP], &ifindex.to_le_bytes()[..]].concat(),
            Self::Remove {
                ifindex,
                public_keys,
            } => {
                assert!((1..=MAX_REMOVED).contains(&public_keys.len()), "keys");
                let keys = public_keys.as_flattened();
                [&[VERSION, REMOVE], &ifindex.to_le_bytes()[..], keys].concat()
            }
        }
    }
}

impl<'a> Question<'a> {
    /// What a packet asks.
    ///
    /// # Errors
    /// [`Malformed`] for another version, a question that there is not, and anything that does not
    /// fit exactly.
    pub fn of(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, mut rest) = open(packet)?;
        match kind {
            LIST => {
                let count = take(&mut rest, 1)?[0];
                if usize::from(count) > MAX_INTERFACES {
                    return Err(Malformed("too many names"));
                }
                let names: Result<_, _> = (0..count).map(|_| take_name(&mut rest)).collect();
                let names = names?;
                ended(rest)?;
                Ok(Self::List { names })
            }
            DUMP => {
                let ifindex = take_u32(&mut rest)?;
                ended(rest)?;
                Ok(Self::Dump { ifindex })
            }
            REMOVE => {
                let ifindex = take_u32(&mut rest)?;
                let (public_keys, odd) = rest.as_chunks();
                if !odd.is_empty() || !(1..=MAX_REMOVED).contains(&public_keys.len()) {
                    return Err(Malformed("the number of keys"));
                }
                Ok(Self::Remove {
                    ifindex,
                    public_keys,
                })
            }
            _ => Err(Malformed("an unknown question")),
        }
    }
}

impl Answer<'_> {
    /// As a packet. Interfaces past [`MAX_LINKS`] are left out, and names that no interface has.
    #[must_use]
    pub fn to_packet(&self) -> Vec<u8> {
        match self {
            Self::Links(links) => {
                let named = |link: &&Link| (1..=MAX_NAME).contains(&link.name.len());
                let links: Vec<&Link> = links.iter().filter(named).take(MAX_LINKS).collect();
                let mut packet = vec![VERSION, LINKS];
                packet.extend(u16::try_from(links.len()).unwrap_or(0).to_le_bytes());
                for link in links {
                    packet.extend(link.index.to_le_bytes());
                    packet.push(u8::from(link.up) * UP + u8::from(link.wireguard) * WIREGUARD);
                    put_name(&mut packet, &link.name);
                }
                packet
            }
            Self::Part {
                family,
                seq,
                datagram,
            } => [&part_header(*family, *seq)[..], datagram].concat(),
            Self::Removed => vec![VERSION, REMOVED],
            Self::Failed(failure) => {
                let (code, errno) = failure.code();
                [&[VERSION, FAILED, code], &errno.to_le_bytes()[..]].concat()
            }
        }
    }
}

impl<'a> Answer<'a> {
    /// What a packet says.
    ///
    /// # Errors
    /// As [`Question::of`].
    pub fn of(packet: &'a [u8]) -> Result<Self, Malformed> {
        let (kind, mut rest) = open(packet)?;
        match kind {
            LINKS => {
                let count = take_u16(&mut rest)?;
                if usize::from(count) > MAX_LINKS {
                    return Err(Malformed("too many interfaces"));
                }
                let links: Result<_, _> = (0..count).map(|_| take_link(&mut rest)).collect();
                let links = links?;
                ended(rest)?;
                Ok(Self::Links(links))
            }
            PART => Ok(Self::Part {
                family: take_u16(&mut rest)?,
                seq: take_u32(&mut rest)?,
                datagram: rest,
            }),
            REMOVED => ended(rest).map(|()| Self::Removed),
            FAILED => {
                let code = take(&mut rest, 1)?[0];
                let errno = take_u32(&mut rest)?.cast_signed();
                ended(rest)?;
                Ok(Self::Failed(Failure::of(code, errno)?))
            }
            _ => Err(Malformed("an unknown answer")),
        }
    }
}

/// What stands before the kernel's datagram, so that it need not be copied.
#[must_use]
pub fn part_header(family: u16, seq: u32) -> [u8; PART_HEADER] {
    let ([f0, f1], [s0, s1, s2, s3]) = (family.to_le_bytes(), seq.to_le_bytes());
    [VERSION, PART, f0, f1, s0, s1, s2, s3]
}

impl Failure {
    fn code(self) -> (u8, i32) {
        match self {
            Self::Kernel(errno) => (1, errno),
            Self::Malformed => (2, 0),
            Self::Overrun => (3, 0),
            Self::Deadline => (4, 0),
            Self::TooLarge => (5, 0),
            Self::Question => (6, 0),
        }
    }

    fn of(code: u8, errno: i32) -> Result<Self, Malformed> {
        let failure = match code {
            1 => Self::Kernel(errno),
            2 => Self::Malformed,
            3 => Self::Overrun,
            4 => Self::Deadline,
            5 => Self::TooLarge,
            6 => Self::Question,
            _ => return Err(Malformed("an unknown failure")),
        };
        (failure.code().1 == errno)
            .then_some(failure)
            .ok_or(Malformed("an errno where none belongs"))
    }
}

fn open(packet: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    match packet {
        [VERSION, kind, rest @ ..] if packet.len() <= MAX_PACKET => Ok((*kind, rest)),
        [VERSION, ..] => Err(Malformed("the size of a packet")),
        _ => Err(Malformed("another version of the protocol")),
    }
}

fn ended(rest: &[u8]) -> Result<(), Malformed> {
    let over = rest.is_empty();
    over.then_some(()).ok_or(Malformed("bytes behind the end"))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest
        .split_at_checked(count)
        .ok_or(Malformed("a packet cut short"))?;
    *rest = left;
    Ok(taken)
}

fn take_u16(rest: &mut &[u8]) -> Result<u16, Malformed> {
    let bytes = take(rest, 2)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, Malformed> {
    let bytes = take(rest, 4)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn take_name<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = usize::from(take(rest, 1)?[0]);
    if !(1..=MAX_NAME).contains(&len) {
        return Err(Malformed("the length of a name"));
    }
    take(rest, len)
}

fn take_link(rest: &mut &[u8]) -> Result<Link, Malformed> {
    let index = take_u32(rest)?;
    let flags = take(rest, 1)?[0];
    if flags & !(UP | WIREGUARD) != 0 {
        return Err(Malformed("the flags of an interface"));
    }
    Ok(Link {
        index,
        name: take_name(rest)?.to_vec(),
        up: flags & UP != 0,
        wireguard: flags & WIREGUARD != 0,
    })
}

fn put_name(packet: &mut Vec<u8>, name: &[u8]) {
    assert!((1..=MAX_NAME).contains(&name.len()), "a name's length");
    packet.push(small(name.len()));
    packet.extend(name);
}

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("checked before")
}

#[cfg(test)]
mod tests;
