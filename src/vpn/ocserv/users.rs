//! What `occtl --json` says: the users that are connected, and the server itself.
//!
//! occtl's JSON is nearly JSON: 1.1 names `Routes` twice in one object and puts a comma after the
//! last member. It is read member by member, so the first does no harm; the second is taken out
//! before. Names are opaque; what has no id or start is refused as a whole. For every byte beyond
//! ASCII in a name occtl 1.1 prints the same `\u00ff`: which bytes they are, its table for people says.

use std::net::IpAddr;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::OcservError;
use crate::core::{
    Now,
    sessions::{Endpoint, Identity, Net, Session, SessionKey, Stamp, stamp_of},
};

/// Longest answer that is read: a user has about a kilobyte.
pub const MAX_ANSWER: usize = 64 << 20;

/// Most users of one ocserv: as for the other daemons.
pub const MAX_SESSIONS: usize = 65_536;

/// Stands for a byte of a name beyond ASCII that occtl's JSON does not tell; no UTF-8 has this one.
const UNCLEAR: u8 = 0xff;

/// The server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Names its life: process id and start.
    pub epoch: u64,
}

/// Reads `show users`: those who are connected.
///
/// # Errors
/// It is not what occtl prints.
pub fn users(answer: &[u8], now: Now) -> Result<Vec<Session>, OcservError> {
    let answer: Vec<Object> = parse(answer)?;
    if answer.len() > MAX_SESSIONS {
        return Err(OcservError::TooMany);
    }
    let mut sessions = Vec::new();
    for user in &answer {
        if text(user, "State").ok_or(OcservError::Answer)? == "connected" {
            sessions.push(session(user, now)?);
        }
    }
    Ok(sessions)
}

/// Whether the JSON hides who somebody is: then [`complete_names`] is to be called.
#[must_use]
pub fn any_name_unclear(sessions: &[Session]) -> bool {
    sessions.iter().any(|session| unclear(session).is_some())
}

/// Completes unclear names from what `show users` prints without `--json`. A name of which it has not
/// exactly one reading becomes empty: a user who cannot be told from another one is nobody.
pub fn complete_names(sessions: &mut [Session], table: &[u8]) {
    for session in sessions {
        let (SessionKey::Ocserv { id, .. }, Some(name)) = (&session.key, unclear(session)) else {
            continue;
        };
        let name = name_in_table(table, *id, name).unwrap_or_default();
        session.identity = Identity::User(name);
    }
}

/// The name of a session, if bytes of it are unclear.
fn unclear(session: &Session) -> Option<&[u8]> {
    match &session.identity {
        Identity::User(name) if name.contains(&UNCLEAR) => Some(name),
        _ => None,
    }
}

/// What stands after this id at the beginning of a line, where `name` says how long it is and which
/// bytes of it are known. A name may hold line ends, and so pretend to be another line.
fn name_in_table(table: &[u8], id: u64, name: &[u8]) -> Option<Vec<u8>> {
    // As occtl prints it: both to the right of 8 places (src/occtl/unix.c).
    let before = format!("{id:>8} {:1$}", "", 8usize.saturating_sub(name.len()));
    let ends = (0..table.len()).filter(|at| table[*at] == b'\n');
    let lines = std::iter::once(table).chain(ends.map(|end| &table[end + 1..]));
    let mut readings = lines.filter_map(|line| {
        let (read, rest) = line
            .strip_prefix(before.as_bytes())?
            .split_at_checked(name.len())?;
        let fits = |(read, known): (&u8, &u8)| match *known {
            UNCLEAR => !read.is_ascii(),
            known => *read == known,
        };
        (rest.starts_with(b" ") && read.iter().zip(name).all(fits)).then_some(read)
    });
    let first = readings.next()?;
    readings.next().is_none().then(|| first.to_vec())
}

/// Reads `show status`.
///
/// # Errors
/// As [`users`].
pub fn status(answer: &[u8]) -> Result<Status, OcservError> {
    let answer: Object = parse(answer)?;
    let number = |name| number(&answer, name).ok_or(OcservError::Answer);
    let (pid, since) = (number("Server PID")?, number("raw_up_since")?);
    Ok(Status {
        epoch: (since ^ pid.rotate_left(40)).max(1),
    })
}

/// An object whose members may come twice: the first one counts.
struct Object(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    members.entry(name).or_insert(value);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn parse<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T, OcservError> {
    let text = String::from_utf8_lossy(answer);
    serde_json::from_str(&without_last_commas(&text)).map_err(|_| OcservError::Answer)
}

/// Takes out the commas that nothing but a closing bracket follows.
fn without_last_commas(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let (mut quoted, mut escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        let last = letter == ',' && !quoted && {
            let rest = text[at + 1..].trim_start();
            rest.starts_with(['}', ']'])
        };
        if !last {
            clean.push(letter);
        }
        (quoted, escaped) = match letter {
            '"' if !escaped => (!quoted, false),
            '\\' if quoted && !escaped => (true, true),
            _ => (quoted, false),
        };
    }
    clean
}

fn session(user: &Object, now: Now) -> Result<Session, OcservError> {
    let id = number(user, "ID").ok_or(OcservError::Answer)?;
    let (since, started) = since(user, now).ok_or(OcservError::Answer)?;
    let endpoint = address(user, "Remote IP").map(|ip| Endpoint { ip, port: None });
    let inside = ["IPv4", "IPv6"].into_iter();
    let virtual_ips = inside.filter_map(|name| {
        let addr = address(user, name)?;
        let prefix = if addr.is_ipv4() { 32 } else { 128 };
        Some(Net { addr, prefix })
    });
    Ok(Session {
        key: SessionKey::Ocserv { id, since },
        identity: Identity::User(name(text(user, "Username").unwrap_or_default())),
        started,
        last_seen: started,
        endpoint,
        virtual_ips: virtual_ips.collect(),
        rx: number(user, "RX").unwrap_or(0),
        tx: number(user, "TX").unwrap_or(0),
        rx_at_start: 0,
        tx_at_start: 0,
    })
}

/// A user name, with [`UNCLEAR`] for each byte that occtl hides. Other versions may print UTF-8.
fn name(text: &str) -> Vec<u8> {
    let hidden = char::from(UNCLEAR);
    let known = |letter: char| letter.is_ascii() || letter == hidden;
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Vec::new(); // No UTF-8: different names would become one.
    }
    if !text.chars().all(known) {
        return text.into();
    }
    let byte = |letter: char| {
        if letter == hidden {
            UNCLEAR
        } else {
            letter as u8
        }
    };
    text.chars().map(byte).collect()
}

/// When it connected: the second if this ocserv tells it, else the minute, which names the session;
/// and the best that is known of the instant.
fn since(user: &Object, now: Now) -> Option<(i64, Stamp)> {
    if let Some(raw) = number(user, "raw_connected_at") {
        let since = i64::try_from(raw).ok()?;
        return Some((since, at_wall(since, now)));
    }
    let minute = minute(text(user, "Connected at")?)?;
    // `_Connected at` has seconds while they are few: "    4s"; later on " 1h:02m".
    let elapsed = text(user, "_Connected at").and_then(|text| {
        let seconds = text.trim().strip_suffix('s')?;
        seconds.trim().parse::<u64>().ok()
    });
    let started = match elapsed {
        Some(seconds) => {
            let boot = now
                .boot
                .saturating_sub(std::time::Duration::from_secs(seconds));
            stamp_of(boot, now)
        }
        None => at_wall(minute, now),
    };
    Some((minute, started))
}

/// Unix seconds of `2026-11-22 02:07`; occtl runs with TZ=UTC.
fn minute(text: &str) -> Option<i64> {
    let instant = format!("{}:00Z", text.trim().replace(' ', "T"));
    let instant: jiff::Timestamp = instant.parse().ok()?;
    Some(instant.as_second())
}

fn at_wall(seconds: i64, now: Now) -> Stamp {
    let ago_ms = now.wall_ms.saturating_sub(seconds.saturating_mul(1000));
    let ago = std::time::Duration::from_millis(u64::try_from(ago_ms).unwrap_or(0));
    stamp_of(now.boot.saturating_sub(ago), now)
}

fn text<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.0.get(name)?.as_str()
}

/// Counters are printed as text, ids as numbers.
fn number(object: &Object, name: &str) -> Option<u64> {
    let value = object.0.get(name)?;
    value
        .as_u64()
        .or_else(|| value.as_str()?.trim().parse().ok())
}

fn address(object: &Object, name: &str) -> Option<IpAddr> {
    text(object, name)?.parse().ok()
}
