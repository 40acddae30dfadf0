//! One line of the management interface (management-notes.txt of OpenVPN 2.6).
//!
//! What a client wrote reaches no further than the bytes of the line: environment blocks are
//! recognised and dropped, since passwords can be in them.

use super::lines::PASSWORD_PROMPT;

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// `>INFO:OpenVPN Management Interface Version …`: the interface is ours.
    Greeting,
    /// `ENTER PASSWORD:`
    PasswordPrompt,
    /// `SUCCESS:` of a command, and its text.
    Success(&'a [u8]),
    /// `ERROR:` of a command.
    Error(&'a [u8]),
    /// `>STATE:` or a line of the answer to `state`.
    State(State),
    /// `>LOG:TIME,FLAGS,MESSAGE`
    Log(&'a [u8]),
    /// `>BYTECOUNT_CLI:`
    ByteCount {
        /// Client id.
        cid: u64,
        /// Bytes from it.
        rx: u64,
        /// Bytes to it.
        tx: u64,
    },
    /// `>CLIENT:ESTABLISHED` or `DISCONNECT`: the list of clients has changed.
    ClientsChanged,
    /// What only the daemon's real management client may answer, and what that is.
    Claim(&'static str),
    /// A notification that is not used.
    Other,
    /// A line of an answer.
    Plain(&'a [u8]),
}

/// A state of the daemon, since when (Unix seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) since: i64,
    pub(super) name: StateName,
}

/// The states that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StateName {
    /// It serves.
    Connected,
    /// It begins anew, without its clients (SIGUSR1, SIGHUP).
    Reconnecting,
    /// It ends.
    Exiting,
    /// On the way to `Connected`.
    Other,
}

/// Reads one line without its end.
pub(super) fn parse(line: &[u8]) -> Message<'_> {
    if line == PASSWORD_PROMPT {
        return Message::PasswordPrompt;
    }
    if let Some(text) = line.strip_prefix(b"SUCCESS:") {
        return Message::Success(text.trim_ascii());
    }
    if let Some(text) = line.strip_prefix(b"ERROR:") {
        return Message::Error(text.trim_ascii());
    }
    match line.strip_prefix(b">") {
        Some(notification) => notified(notification),
        None => Message::Plain(line),
    }
}

fn notified(line: &[u8]) -> Message<'_> {
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return Message::Other;
    };
    let (kind, rest) = (&line[..colon], &line[colon + 1..]);
    match kind {
        b"INFO" if rest.starts_with(b"OpenVPN Management Interface Version") => Message::Greeting,
        b"STATE" => state(rest).map_or(Message::Other, Message::State),
        b"LOG" => {
            let mut parts = rest.splitn(3, |byte| *byte == b',');
            parts.nth(2).map_or(Message::Other, Message::Log)
        }
        b"BYTECOUNT_CLI" => byte_count(rest).unwrap_or(Message::Other),
        b"CLIENT" => client(rest),
        b"PASSWORD" | b"NEED-OK" | b"NEED-STR" => Message::Claim("its passwords"),
        b"PK_SIGN" | b"RSA_SIGN" | b"NEED-CERTIFICATE" => Message::Claim("its private key"),
        b"HOLD" => Message::Claim("its start (`management-hold`)"),
        _ => Message::Other,
    }
}

fn client(rest: &[u8]) -> Message<'_> {
    let word = rest.split(|byte| *byte == b',').next().unwrap_or_default();
    match word {
        b"ESTABLISHED" | b"DISCONNECT" => Message::ClientsChanged,
        b"CONNECT" | b"REAUTH" | b"CR_RESPONSE" => {
            Message::Claim("the authentication of clients (`management-client-auth`)")
        }
        _ => Message::Other,
    }
}

fn byte_count(rest: &[u8]) -> Option<Message<'_>> {
    let mut numbers = std::str::from_utf8(rest).ok()?.split(',');
    let mut next = || numbers.next()?.parse::<u64>().ok();
    Some(Message::ByteCount {
        cid: next()?,
        rx: next()?,
        tx: next()?,
    })
}

/// `1795311027,CONNECTED,SUCCESS,10.88.0.1,…`
pub(super) fn state(line: &[u8]) -> Option<State> {
    let mut fields = line.split(|byte| *byte == b',');
    let since = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let name = match fields.next()? {
        b"CONNECTED" => StateName::Connected,
        b"RECONNECTING" => StateName::Reconnecting,
        b"EXITING" => StateName::Exiting,
        _ => StateName::Other,
    };
    Some(State { since, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_kind() {
        let greeting = b">INFO:OpenVPN Management Interface Version 5 -- type 'help' for more info";
        assert_eq!(parse(greeting), Message::Greeting);
        assert_eq!(parse(b"SUCCESS: pid=27177"), Message::Success(b"pid=27177"));
        assert_eq!(
            parse(b"ERROR: client-kill command failed"),
            Message::Error(b"client-kill command failed")
        );
        let exiting = State {
            since: 1_795_311_159,
            name: StateName::Exiting,
        };
        assert_eq!(
            parse(b">STATE:1795311159,EXITING,SIGTERM,,,,,"),
            Message::State(exiting)
        );
        assert_eq!(
            parse(b">LOG:1795311032,I,a, b/1:2 x,y"),
            Message::Log(b"a, b/1:2 x,y")
        );
        assert_eq!(
            parse(b">BYTECOUNT_CLI:0,1918,1802"),
            Message::ByteCount {
                cid: 0,
                rx: 1918,
                tx: 1802
            }
        );
        assert_eq!(parse(b">CLIENT:ESTABLISHED,0"), Message::ClientsChanged);
        assert_eq!(parse(b">CLIENT:DISCONNECT,4"), Message::ClientsChanged);
        assert_eq!(parse(b">CLIENT:ENV,password=hunter2"), Message::Other);
        assert!(matches!(parse(b">CLIENT:CONNECT,0,1"), Message::Claim(_)));
        assert!(matches!(
            parse(b">HOLD:Waiting for hold release:0"),
            Message::Claim(_)
        ));
        assert_eq!(parse(b">NOTIFY:info,remote-exit,EXIT"), Message::Other);
        assert_eq!(parse(b">FATAL:x"), Message::Other);
        assert_eq!(parse(b">BYTECOUNT_CLI:x"), Message::Other);
        assert_eq!(parse(b">"), Message::Other);
        assert_eq!(parse(b"END"), Message::Plain(b"END"));
    }
}
