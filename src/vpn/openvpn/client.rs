//! One client as OpenVPN lists it, and its addresses in OpenVPN's notations.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::core::Now;
use crate::core::sessions::{Endpoint, Identity, Net};

/// How OpenVPN writes a name that it does not have.
pub(super) const UNDEF: &[u8] = b"UNDEF";

/// How long a client without a virtual address counts as still connecting, in seconds: the
/// handshake has 60 s (`--hand-window`). Bridges without an address pool never give one.
const CONNECTING: i64 = 60;

/// A row of the list of clients. Names are opaque bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) common_name: Vec<u8>,
    /// As it is written, also in the prefix of log lines.
    pub(super) real_address: Vec<u8>,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) virtual_ips: Vec<Net>,
    pub(super) rx: u64,
    pub(super) tx: u64,
    /// In the daemon's local time; equal in all formats.
    pub(super) since_text: Vec<u8>,
    /// Unix seconds; not in format 1.
    pub(super) since: Option<i64>,
    pub(super) username: Option<Vec<u8>>,
    /// Not in format 1.
    pub(super) cid: Option<u64>,
}

impl Client {
    /// Whether it is connected, and not only about to be. `time` is when the table was made.
    pub(super) fn is_up(&self, time: Option<i64>) -> bool {
        if !self.virtual_ips.is_empty() {
            // Addresses are given after the authentication: who has one and is called `UNDEF` has
            // that name, or none, and is connected all the same.
            return true;
        }
        let settled = match (time, self.since) {
            (Some(time), Some(since)) => time.saturating_sub(since) >= CONNECTING,
            // Format 1 has virtual addresses in its routing table only.
            _ => true,
        };
        settled && self.common_name != UNDEF
    }

    /// Who it is: the certificate, or the user where none is asked for.
    pub(super) fn identity(&self) -> Identity {
        match &self.username {
            Some(username) if self.common_name == UNDEF => Identity::User(username.clone()),
            username => Identity::Certificate {
                common_name: self.common_name.clone(),
                serial: Vec::new(),
                sha256: None,
                username: username.clone(),
            },
        }
    }

    /// How long it is connected. `time` is when it was listed; where that is `None`, local times
    /// tell: `local_time` when it was listed, and its own.
    pub(super) fn age(&self, time: Option<i64>, local_time: &[u8], now: Now) -> Option<Duration> {
        let seconds = match time.zip(self.since) {
            Some((time, since)) => time.checked_sub(since)?,
            None => local(local_time)?.checked_sub(local(&self.since_text)?)?,
        };
        let age = Duration::from_secs(u64::try_from(seconds).ok()?);
        // Both are whole seconds; the rest of this one is known where the clocks agree.
        let millis = u64::try_from(now.wall_ms.rem_euclid(1000)).unwrap_or(0);
        let agrees = time.is_none_or(|time| time == now.wall_ms.div_euclid(1000));
        Some(age + Duration::from_millis(if agrees { millis } else { 0 }))
    }

    /// What stands before the daemon's log lines about it.
    pub(super) fn label(&self) -> Vec<u8> {
        [&self.common_name[..], &self.real_address[..]].join(&b'/')
    }
}

/// Local time as OpenVPN 2.6 or 2.4 prints it, in seconds since some instant: good for differences.
fn local(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    ["%Y-%m-%d %H:%M:%S", "%a %b %e %H:%M:%S %Y"]
        .iter()
        .find_map(|format| DateTime::strptime(format, text).ok())
        .and_then(|civil| civil.to_zoned(TimeZone::UTC).ok())
        .map(|zoned| zoned.timestamp().as_second())
}

/// Reads `1.2.3.4:5`, `[::1]:5`, a bare IPv6 or IPv4 address, each also after `udp4:`, `tcp6-server:`
/// and the like, and IPv4-mapped ones as IPv4. `None` if it is none of these.
pub(super) fn parse_address(text: &[u8]) -> Option<Endpoint> {
    let text = without_protocol(std::str::from_utf8(text).ok()?);
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(Endpoint {
            ip: with_port.ip().to_canonical(),
            port: Some(with_port.port()),
        });
    }
    let inner = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    Some(Endpoint {
        ip: inner.unwrap_or(text).parse::<IpAddr>().ok()?.to_canonical(),
        port: None,
    })
}

/// OpenVPN 2.7 writes the protocol before the address.
fn without_protocol(text: &str) -> &str {
    match text.split_once(':') {
        Some((protocol, rest))
            if (protocol.starts_with("udp") || protocol.starts_with("tcp"))
                && protocol.len() <= "tcp6-server".len() =>
        {
            rest
        }
        _ => text,
    }
}

/// A virtual address: one host, unless a prefix length is written.
pub(super) fn parse_net(text: &[u8]) -> Option<Net> {
    let text = std::str::from_utf8(text).ok()?;
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr, Some(prefix.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let addr: IpAddr = addr.parse().ok()?;
    let bits = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.unwrap_or(bits);
    (prefix <= bits).then_some(Net { addr, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_all_notations() {
        let shown =
            |text: &str| parse_address(text.as_bytes()).map(|endpoint| endpoint.to_string());
        for (written, read) in [
            ("10.78.0.11:50764", "10.78.0.11:50764"),
            ("fd78::12", "fd78::12"),
            ("[fd78::12]:1194", "[fd78::12]:1194"),
            ("[fd78::12]", "fd78::12"),
            ("udp4:10.0.0.1:7", "10.0.0.1:7"),
            ("tcp6-server:[::1]:7", "[::1]:7"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(shown(written).as_deref(), Some(read), "{written}");
        }
        for bad in [
            "",
            "bob",
            "10.0.0.1:",
            "10.0.0.1:70000",
            "1.2.3.4:5/6.6.6.6:7",
            "udp4:",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn virtual_addresses_have_a_prefix_in_bounds() {
        let shown = |text: &str| parse_net(text.as_bytes()).map(|net| net.to_string());
        assert_eq!(shown("10.8.0.2").as_deref(), Some("10.8.0.2/32"));
        assert_eq!(shown("fd88::1000/64").as_deref(), Some("fd88::1000/64"));
        assert_eq!(shown("10.8.0.2/33"), None);
        assert_eq!(shown("aa:bb:cc:dd:ee:ff"), None);
    }

    #[test]
    fn who_is_not_authenticated_is_not_connected() {
        let mut client = Client {
            common_name: UNDEF.to_vec(),
            since: Some(1000),
            ..Client::default()
        };
        assert!(!client.is_up(Some(2000)));
        client.common_name = b"bob".to_vec();
        assert!(!client.is_up(Some(1059)), "it may still be authenticated");
        assert!(client.is_up(Some(1060)), "a bridge gives no addresses");
        client.virtual_ips.extend(parse_net(b"10.8.0.2"));
        assert!(client.is_up(Some(1000)));
        client.common_name = UNDEF.to_vec();
        client.username = Some(b"bob".to_vec());
        assert!(client.is_up(Some(1000)));
        assert_eq!(client.identity(), Identity::User(b"bob".to_vec()));
    }
}
