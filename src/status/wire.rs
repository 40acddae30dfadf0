//! The lines on the status socket, both ways. Pure.

use serde::{Deserialize, Serialize};

use super::Scope;
use crate::core::Now;
use crate::core::report::{AuthorisationAnswer, ConnectionRow, StatusReport};

/// Version of the protocol.
pub(super) const VERSION: u32 = 1;

/// Longest request line: three short fields.
pub(super) const MAX_REQUEST_BYTES: usize = 4 * 1024;

/// Longest answer line that the client reads: a page of connections with room to spare.
pub(super) const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Connections in one answer; at 200 bytes each a page is 2 MB. The client asks for the next.
pub(super) const PAGE: usize = 10_000;

/// The answer to wishes before the enrolment.
const NOT_ENROLLED: &str = "This host is not enrolled: run 'vpn-node enroll'.";

/// Longest `after`: a UUID is 36.
const MAX_AFTER_BYTES: usize = 64;

/// A question: `{"v":1,"get":"status"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) v: u32,
    pub(super) get: Get,
    /// Connections only: those whose id is greater than this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<String>,
    /// "apply_release" only, and always: which version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Get {
    Status,
    Connections,
    Health,
    Authorisation,
    /// A request that changes something: see [`super::Wish`].
    RotateIdentity,
    /// The other one.
    ApplyRelease,
}

/// `{"v":1,"scope":"full","ok":…}` or `{"v":1,"error":{"code":…,"message":…}}`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer<T> {
    pub(super) v: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<Scope>,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub(super) ok: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Refusal>,
}

fn none<T>() -> Option<T> {
    None
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    /// Not a request of this protocol.
    BadRequest,
    /// A protocol version that this agent does not speak.
    UnsupportedVersion,
    /// The request line is too long.
    TooLarge,
    /// The request did not arrive in time.
    Timeout,
    /// Too many ask at once.
    Busy,
    /// This user may not see that.
    Denied,
    /// The agent could not put the answer together.
    Internal,
}

/// One page of connections, in the order of their ids.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConnectionsPage {
    pub(super) schema: u32,
    pub(super) connections: Vec<ConnectionRow>,
    /// Whether there are more after the last one here.
    pub(super) more: bool,
}

/// The answer to "rotate_identity".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationAnswer {
    /// Whether a rotation was begun.
    pub begun: bool,
    /// One sentence: what comes next, or why not.
    pub detail: String,
}

/// The answer to "apply_release".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAnswer {
    /// Whether the agent fetches it now.
    pub begun: bool,
    /// One sentence: what comes next, or why not.
    pub detail: String,
}

/// The answer to "health".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthAnswer {
    /// Whether this host is enrolled.
    pub enrolled: bool,
    /// Whether all is well.
    pub ok: bool,
    /// Why not; empty for users who may only see the public summary.
    pub reasons: Vec<String>,
    /// What is worth a word whether all is well or not; empty for those users too, and from an
    /// agent of a version that had none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

impl Request {
    /// Parses one line (without the line feed).
    pub(super) fn parse(line: &[u8]) -> Result<Self, Refusal> {
        /// Read first: another version may have other fields.
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let Version { v } = serde_json::from_slice(line).map_err(bad_request)?;
        if v != VERSION {
            return Err(Refusal::new(
                Code::UnsupportedVersion,
                format!("This agent speaks version {VERSION} of the status protocol, not {v}."),
            ));
        }
        let request: Self = serde_json::from_slice(line).map_err(bad_request)?;
        if request
            .after
            .as_ref()
            .is_some_and(|id| id.len() > MAX_AFTER_BYTES)
        {
            return Err(Refusal::new(Code::BadRequest, "\"after\" is too long."));
        }
        if request.version.is_some() != (request.get == Get::ApplyRelease) {
            let text = "\"version\" belongs to \"apply_release\", and to nothing else.";
            return Err(Refusal::new(Code::BadRequest, text));
        }
        Ok(request)
    }

    /// Whether it changes something.
    pub(super) fn is_wish(&self) -> bool {
        matches!(self.get, Get::RotateIdentity | Get::ApplyRelease)
    }

    /// A question without anything more.
    pub(super) fn about(get: Get) -> Self {
        Self {
            v: VERSION,
            get,
            after: None,
            version: None,
        }
    }

    /// The request as a line.
    pub(super) fn to_line(&self) -> Vec<u8> {
        line(self)
    }
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The answer line that says so.
    pub(super) fn to_line(&self) -> Vec<u8> {
        line(&Answer::<()> {
            v: VERSION,
            scope: None,
            ok: None,
            error: Some(self.clone()),
        })
    }
}

/// The answer line for a parsed request, as of `now`.
pub(super) fn answer(request: &Request, scope: Scope, report: &StatusReport, now: Now) -> Vec<u8> {
    match (request.get, scope) {
        (Get::Status, Scope::Full) => ok(scope, &report.as_of(now.boot)),
        (Get::Status, Scope::Public) => ok(scope, &report.as_of(now.boot).public_summary()),
        (Get::Health, _) => ok(scope, &health(&report.as_of(now.boot), scope)),
        (Get::Authorisation, _) => ok(scope, &authorisation(report, scope, now)),
        (Get::Connections, Scope::Full) => {
            ok(scope, &page(&report.connections, request.after.as_deref()))
        }
        (Get::RotateIdentity, _) => rotation(scope, Err(NOT_ENROLLED.to_owned())),
        (Get::ApplyRelease, _) => applied(scope, Err(NOT_ENROLLED.to_owned())),
        (Get::Connections, Scope::Public) => Refusal::new(
            Code::Denied,
            "Only root and members of the group vpn-node may see the connections.",
        )
        .to_line(),
    }
}

/// The answer line to "apply_release": what the agent's loop said.
pub(super) fn applied(scope: Scope, said: Result<(), String>) -> Vec<u8> {
    let (begun, detail) = match said {
        Ok(()) => (
            true,
            "The agent fetches it and hands it to the updater.".to_owned(),
        ),
        Err(detail) => (false, detail),
    };
    ok(scope, &ApplyAnswer { begun, detail })
}

/// The answer line to "rotate_identity": what the agent's loop said.
pub(super) fn rotation(scope: Scope, said: Result<(), String>) -> Vec<u8> {
    let answer = match said {
        Ok(()) => RotationAnswer {
            begun: true,
            detail: "A rotation was begun: the new key is used as soon as the controller has accepted it.".to_owned(),
        },
        Err(detail) => RotationAnswer {
            begun: false,
            detail,
        },
    };
    ok(scope, &answer)
}

fn health(report: &StatusReport, scope: Scope) -> HealthAnswer {
    let health = report.health();
    let (reasons, remarks) = match scope {
        Scope::Full => (health.reasons, report.remarks()),
        Scope::Public => (Vec::new(), Vec::new()),
    };
    HealthAnswer {
        enrolled: report.enrolled,
        ok: health.ok,
        reasons,
        remarks,
    }
}

fn authorisation(report: &StatusReport, scope: Scope, now: Now) -> AuthorisationAnswer {
    let mut answer = report.authorisation(now);
    if scope == Scope::Public {
        answer.detail = None;
    }
    answer
}

/// The smallest ids after `after`. The rows may come in any order.
fn page(rows: &[ConnectionRow], after: Option<&str>) -> ConnectionsPage {
    let mut left: Vec<&ConnectionRow> = rows
        .iter()
        .filter(|row| after.is_none_or(|after| row.id.as_str() > after))
        .collect();
    left.sort_by(|a, b| a.id.cmp(&b.id));
    ConnectionsPage {
        schema: crate::core::report::SCHEMA,
        more: left.len() > PAGE,
        connections: left.into_iter().take(PAGE).cloned().collect(),
    }
}

fn ok<T: Serialize>(scope: Scope, value: &T) -> Vec<u8> {
    line(&Answer {
        v: VERSION,
        scope: Some(scope),
        ok: Some(value),
        error: None,
    })
}

/// JSON has no raw line feed, so the line ends where the value ends.
fn line<T: Serialize>(value: &T) -> Vec<u8> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            bytes
        }
        // No map with odd keys and no failing Serialize is in these types; a user of the socket
        // still gets a line if one ever is.
        Err(_) => {
            b"{\"v\":1,\"error\":{\"code\":\"internal\",\"message\":\"cannot encode\"}}\n".to_vec()
        }
    }
}

fn bad_request(error: serde_json::Error) -> Refusal {
    Refusal::new(
        Code::BadRequest,
        format!("Not a status request ({error}). Ask like {{\"v\":1,\"get\":\"status\"}}."),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(count: usize) -> Vec<ConnectionRow> {
        let row = |index: usize| ConnectionRow {
            id: format!("{index:036}"),
            backend: "wireguard/wg0".into(),
            started_ms: i64::MAX,
            last_seen_ms: i64::MAX,
            rx: u64::MAX,
            tx: u64::MAX,
        };
        (0..count).rev().map(row).collect()
    }

    #[test]
    fn requests_are_strict() {
        let get = |line: &str| Request::parse(line.as_bytes()).map(|r| r.get);
        assert_eq!(get(r#"{"v":1,"get":"status"}"#), Ok(Get::Status));
        let code = |line: &str| get(line).unwrap_err().code;
        assert_eq!(code(r#"{"v":2,"ask":"x"}"#), Code::UnsupportedVersion);
        assert_eq!(code(r#"{"v":1,"get":"keys"}"#), Code::BadRequest);
        assert_eq!(code(r#"{"v":1,"get":"status","x":1}"#), Code::BadRequest);
        assert_eq!(code("{\"v\":1,\"get\":\"status\"}\0"), Code::BadRequest);
        assert_eq!(code(&"[".repeat(4000)), Code::BadRequest);
        let long = format!(
            r#"{{"v":1,"get":"connections","after":"{}"}}"#,
            "x".repeat(65)
        );
        assert_eq!(code(&long), Code::BadRequest);
    }

    #[test]
    fn pages_cover_every_connection_once_and_fit_an_answer() {
        let rows = rows(2 * PAGE + 1);
        let mut after: Option<String> = None;
        let mut seen = 0;
        loop {
            let page = page(&rows, after.as_deref());
            assert!(line(&page).len() < MAX_ANSWER_BYTES);
            seen += page.connections.len();
            after = page.connections.last().map(|row| row.id.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!(seen, rows.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(refusal) = Request::parse(&bytes) {
                let line = refusal.to_line();
                prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            }
        }
    }
}
