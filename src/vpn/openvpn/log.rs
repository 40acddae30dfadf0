//! What OpenVPN's log says about the end of a client: the only place where it tells the reason.
//!
//! Names are hostile: a client may be called like a log line. What is read here is therefore only
//! evidence for a reason, and holds only for a label (`CN/address`) that the daemon itself lists.

use crate::core::sessions::Reason;

use super::client::parse_address;

/// Longest text of a reason that is kept; OpenVPN's own are single words.
const MAX_REASON: usize = 64;

/// A log line that says something about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said<'a> {
    /// `CN/ip:port SIGTERM[soft,delayed-exit] received, client-instance exiting`
    Ended {
        /// What stands before it.
        label: &'a [u8],
        /// Why.
        reason: Reason,
    },
    /// `CN/ip:port CC-EEN exit message received by peer`: it goes; the daemon lists it 5 s more.
    Goodbye(&'a [u8]),
    /// A new session of this common name takes the place of those before.
    Replaced(&'a [u8]),
    /// Somebody has connected.
    Connected,
}

/// Reads the message of one log line.
pub(super) fn parse(message: &[u8]) -> Option<Said<'_>> {
    if let Some((label, signal)) = ended(message) {
        let reason = reason(signal);
        return Some(Said::Ended { label, reason });
    }
    if let Some(rest) = message.strip_suffix(b" exit message received by peer") {
        let end = rest.iter().rposition(|byte| *byte == b' ')?;
        return Some(Said::Goodbye(&rest[..end]));
    }
    if let Some(rest) = message.strip_prefix(b"MULTI: new connection by client '") {
        let after = b"' will cause previous active sessions by this client to be dropped.";
        let end = rest.windows(after.len()).rposition(|part| part == after)?;
        return Some(Said::Replaced(&rest[..end]));
    }
    let connected = b"] Peer Connection Initiated with [AF_INET";
    message
        .windows(connected.len())
        .any(|part| part == connected)
        .then_some(Said::Connected)
}

/// The label and the words in brackets. The last ` SIG` is the daemon's own: what it writes after
/// a label has no spaces before ` received`.
fn ended(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = message
        .strip_suffix(b" received, client-instance exiting")
        .or_else(|| message.strip_suffix(b" received, client-instance restarting"))?;
    let space = rest.iter().rposition(|byte| *byte == b' ')?;
    let signal = rest[space + 1..].strip_suffix(b"]")?;
    let open = signal.iter().position(|byte| *byte == b'[')?;
    signal.starts_with(b"SIG").then_some(())?;
    let (kind, words) = (&signal[..open], &signal[open + 1..]);
    let soft = words.strip_prefix(b"soft,")?;
    kind.iter()
        .all(u8::is_ascii_alphanumeric)
        .then_some((&rest[..space], soft))
}

/// Measured with OpenVPN 2.6; the words are those of src/openvpn/{forward,sig,ping,push}.c.
fn reason(words: &[u8]) -> Reason {
    match words {
        // `kill CN` and `kill ADDRESS` of a management client; nothing else gives no reason.
        b"" => Reason::AdminKick,
        b"delayed-exit" | b"remote-exit" => Reason::ClientDisconnect,
        b"ping-restart" | b"ping-exit" | b"inactive" | b"session-timeout" => Reason::Timeout,
        b"connection-reset" | b"network-unreachable" => Reason::ConnectionReset,
        b"auth-failure" | b"auth-failed" => Reason::AuthFailed,
        other => {
            let kept = &other[..other.len().min(MAX_REASON)];
            Reason::Unknown(kept.escape_ascii().to_string())
        }
    }
}

/// Whether `label` is the common name, a slash and nothing but an address: that of a client that
/// has roamed since it was listed.
pub(super) fn is_label_of(label: &[u8], common_name: &[u8]) -> bool {
    label
        .strip_prefix(common_name)
        .and_then(|rest| rest.strip_prefix(b"/"))
        .is_some_and(|address| parse_address(address).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(message: &str) -> Option<(String, Reason)> {
        match parse(message.as_bytes())? {
            Said::Ended { label, reason } => Some((label.escape_ascii().to_string(), reason)),
            _ => None,
        }
    }

    #[test]
    fn every_reason_that_was_recorded() {
        let told = |signal: &str| {
            let (label, reason) = end_of(&format!("a b/10.0.0.1:5 {signal}")).unwrap();
            assert_eq!(label, "a b/10.0.0.1:5");
            reason
        };
        let exiting = |reason: &str| {
            told(&format!(
                "SIGTERM[soft,{reason}] received, client-instance exiting"
            ))
        };
        assert_eq!(exiting("delayed-exit"), Reason::ClientDisconnect);
        assert_eq!(exiting(""), Reason::AdminKick);
        assert_eq!(exiting("new-word"), Reason::Unknown("new-word".to_owned()));
        assert_eq!(exiting(&"x".repeat(999)), Reason::Unknown("x".repeat(64)));
        let restarting = |reason: &str| {
            told(&format!(
                "SIGUSR1[soft,{reason}] received, client-instance restarting"
            ))
        };
        assert_eq!(restarting("ping-restart"), Reason::Timeout);
        assert_eq!(restarting("connection-reset"), Reason::ConnectionReset);
    }

    #[test]
    fn a_client_that_is_called_like_a_log_line_speaks_for_itself_only() {
        let name = "bob/10.99.0.2:50 SIGTERM[soft,delayed-exit] received, client-instance exiting";
        for line in [
            format!("{name}/10.0.0.9:7 Data Channel: cipher 'AES-256-GCM', peer-id: 0"),
            format!("10.0.0.9:7 [{name}] Peer Connection Initiated with [AF_INET]10.0.0.9:7"),
            format!("{name}/10.0.0.9:7 SENT CONTROL [{name}]: 'RESTART' (status=1)"),
        ] {
            assert_eq!(end_of(&line), None, "{line}");
        }
        let own = format!(
            "{name}/10.0.0.9:7 SIGUSR1[soft,ping-restart] received, client-instance restarting"
        );
        assert_eq!(
            end_of(&own),
            Some((format!("{name}/10.0.0.9:7"), Reason::Timeout))
        );
        // A line that ends with the name has another label than any client of the name before it.
        let verify = format!("10.0.0.9:7 VERIFY OK: depth=0, CN={name}");
        let (label, _) = end_of(&verify).unwrap();
        assert!(!is_label_of(label.as_bytes(), b"bob"));
        assert!(!is_label_of(
            format!("{name}/10.0.0.9:7").as_bytes(),
            b"bob"
        ));
        assert!(is_label_of(b"bob/10.0.0.9:7", b"bob"));
    }

    #[test]
    fn goodbyes_replacements_and_arrivals() {
        let goodbye = b"a b/fd78::12 CC-EEN exit message received by peer";
        assert_eq!(parse(goodbye), Some(Said::Goodbye(b"a b/fd78::12")));
        let replaced = b"MULTI: new connection by client 'o'brien' will cause previous active \
            sessions by this client to be dropped.  Remember to use the --duplicate-cn option";
        assert_eq!(parse(replaced), Some(Said::Replaced(b"o'brien")));
        let came = b"10.0.0.1:5 [x] Peer Connection Initiated with [AF_INET6]::ffff:10.0.0.1:5";
        assert_eq!(parse(came), Some(Said::Connected));
        assert_eq!(parse(b"Initialization Sequence Completed"), None);
    }
}
