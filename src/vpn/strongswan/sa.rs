//! One IKE SA as charon describes it in `list-sa`, `ike-updown` and the other events.
//!
//! Decides what of it is a session and why one ended. Pure; names stay opaque bytes.

use std::{net::IpAddr, time::Duration};

use super::{Fault, message::Section};
use crate::core::sessions::{Endpoint, Identity, Net, Reason};

/// Most inner addresses kept of one client: records hold no more.
pub const MAX_VIPS: usize = 16;

/// The part of charon's states (`ike_sa_state_t`) that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// `ESTABLISHED` or `REKEYING`: it carries traffic.
    Up,
    /// `DELETING`: no traffic any more, but charon has not said that it is down.
    Deleting,
    /// Half open, superseded by a rekey, or a copy of another host's: never a session.
    Other,
}

/// Why an SA went down, as far as its description tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The client deleted it.
    Client,
    /// This side deleted it: an administrator, or charon stops.
    Ours,
    /// This side deleted it when it was to be renewed, and was not: its lifetime is over. Charon
    /// does not tell it apart from [`Self::Ours`].
    Expired,
    /// A request to the client was never answered.
    Timeout,
    /// It is not said: another one takes its place.
    Silent,
}

/// One CHILD SA and what it counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// Unique within one run of charon.
    pub unique_id: u64,
    /// Bytes from the client.
    pub rx: u64,
    /// Bytes to the client.
    pub tx: u64,
    /// Seconds since the last packet from the client.
    pub idle_s: Option<u64>,
}

/// What is used of one IKE SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeSa {
    /// Unique within one run of charon.
    pub unique_id: u64,
    /// See [`State`].
    pub state: State,
    /// Who is on the other end.
    pub identity: Identity,
    /// Its outer address.
    pub endpoint: Option<Endpoint>,
    /// The virtual addresses it got.
    pub vips: Box<[Net]>,
    /// Whether this host got virtual addresses: then it is a client there, and nobody's server.
    pub we_are_client: bool,
    /// Seconds since it was established.
    pub established_s: u64,
    /// Until it is to be rekeyed or authenticated anew, zero if that is overdue; charon does not
    /// tell it of one that goes down.
    pub renew_in: Option<Duration>,
    /// Why it goes down, if it does.
    pub leave: Leave,
    /// Its CHILD SAs, if they are told.
    pub children: Vec<Child>,
}

impl IkeSa {
    /// Reads the section of an SA.
    ///
    /// # Errors
    /// It has no id or state.
    pub fn read(section: &Section<'_>) -> Result<Self, Fault> {
        let unique_id = unique_id(section)?;
        let word = section.value("state").ok_or(Fault::Missing("state"))?;
        let state = match word {
            b"ESTABLISHED" | b"REKEYING" => State::Up,
            b"DELETING" => State::Deleting,
            _ => State::Other,
        };
        let children = section.section("child-sas").map(|children| {
            let read = children.sections().map(|(_, child)| child);
            read.filter_map(Child::read).collect()
        });
        Ok(Self {
            unique_id,
            state,
            identity: identity(section),
            endpoint: endpoint(section),
            vips: vips(section.list("remote-vips")),
            we_are_client: !section.list("local-vips").is_empty(),
            established_s: section.number("established").unwrap_or(0),
            renew_in: renew_in(section),
            leave: leave(section, state),
            children: children.unwrap_or_default(),
        })
    }

    /// Whether somebody is connected by it.
    ///
    /// Not who opened it counts: every rekey may change that, and of two gateways either may begin.
    /// But where this host got a virtual address, it is itself the client.
    #[must_use]
    pub fn is_session(&self) -> bool {
        self.state == State::Up && !self.we_are_client
    }
}

impl Child {
    /// Reads the section of a CHILD SA; `None` without an id.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        Some(Self {
            unique_id: section.number("uniqueid")?,
            rx: section.number("bytes-in").unwrap_or(0),
            tx: section.number("bytes-out").unwrap_or(0),
            idle_s: section.number("use-in"),
        })
    }
}

/// The id of an SA's section.
///
/// # Errors
/// It has none.
pub fn unique_id(section: &Section<'_>) -> Result<u64, Fault> {
    section.number("uniqueid").ok_or(Fault::Missing("uniqueid"))
}

/// The client's outer address and port; `ike-update` has them one level above the SA.
#[must_use]
pub fn endpoint(section: &Section<'_>) -> Option<Endpoint> {
    let port = section.number("remote-port");
    Some(Endpoint {
        ip: address(section.value("remote-host")?)?,
        port: port.and_then(|port| u16::try_from(port).ok()),
    })
}

/// What was authenticated last and says most: the EAP or XAuth name, else the IKE identity.
fn identity(section: &Section<'_>) -> Identity {
    let named = |name| section.value(name).map(<[u8]>::to_vec);
    if let Some(name) = named("remote-eap-id") {
        return Identity::Eap(name);
    }
    if let Some(name) = named("remote-xauth-id") {
        return Identity::User(name);
    }
    Identity::IkeId(named("remote-id").unwrap_or_default())
}

fn leave(section: &Section<'_>, state: State) -> Leave {
    let deletes = |list| section.list(list).contains(&b"IKE_DELETE".as_slice());
    match state {
        State::Deleting if deletes("tasks-passive") => Leave::Client,
        State::Deleting => Leave::Ours,
        _ if !section.list("tasks-active").is_empty() => Leave::Timeout,
        _ => Leave::Silent,
    }
}

impl Leave {
    /// The reason that it gives when nothing more comes.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Client => Reason::ClientDisconnect,
            Self::Ours => Reason::AdminKick,
            Self::Expired | Self::Timeout => Reason::Timeout,
            Self::Silent => Reason::Unknown(String::new()),
        }
    }
}

/// Seconds, negative when it is overdue.
fn renew_in(section: &Section<'_>) -> Option<Duration> {
    let seconds = |name| {
        let text = std::str::from_utf8(section.value(name)?).ok()?;
        let seconds: i64 = text.parse().ok()?;
        Some(u64::try_from(seconds).unwrap_or(0))
    };
    let times = ["rekey-time", "reauth-time"].into_iter();
    times.filter_map(seconds).min().map(Duration::from_secs)
}

fn vips(list: &[&[u8]]) -> Box<[Net]> {
    let of = |text: &&[u8]| {
        let addr = address(text)?;
        let prefix = if addr.is_ipv4() { 32 } else { 128 };
        Some(Net { addr, prefix })
    };
    list.iter().filter_map(of).take(MAX_VIPS).collect()
}

fn address(text: &[u8]) -> Option<IpAddr> {
    // A link-local address may carry its interface (`fe80::1%eth0`).
    let text = std::str::from_utf8(text).ok()?;
    text.split('%').next()?.parse().ok()
}
