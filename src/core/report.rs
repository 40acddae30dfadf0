//! What the agent says about itself to people and monitors on the same host.
//!
//! The event loop publishes a [`StatusReport`] after every change; the status socket serves it and
//! the CLI renders it. It holds no secret, no client address and no peer key: an operator may
//! paste it into a ticket. What any local user may see is the [`PublicSummary`].

mod authorised;
mod health;
mod life;
mod update;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Now;
pub use authorised::AuthorisationAnswer;
pub use health::Health;
pub use life::{Life, Lives};
pub use update::{DownloadStatus, UpdateStatus};

/// Version of the JSON shape. It changes only when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// Errors kept for `vpn-node status`: a screenful; the journal has the rest.
pub const MAX_LAST_ERRORS: usize = 10;

/// Longest text kept of one error, in bytes: a long sentence with a path and a URL.
pub const MAX_ERROR_TEXT: usize = 512;

/// Everything the agent says about itself. Durations are whole seconds, sizes are bytes,
/// instants are milliseconds since the Unix epoch by this host's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// Version of the running agent.
    pub version: String,
    /// Process id of the running agent.
    pub pid: u32,
    /// How long the agent has been running.
    pub uptime_s: u64,
    /// How old this report was when it was served. More than a few seconds: the loop is stuck.
    pub age_s: u64,
    /// When it was made (`CLOCK_BOOTTIME`); only to compute `age_s`, so it is not sent.
    #[serde(skip)]
    pub made_at: Duration,
    /// The id the controller gave; none before enrolment.
    pub server_id: Option<String>,
    /// The slot that it runs from: a version, or `system`; none if it was started from elsewhere.
    #[serde(default)]
    pub running_from: Option<String>,
    /// The host's name as the kernel says it.
    pub hostname: String,
    /// The controller in use.
    pub controller_url: Option<String>,
    /// Whether an enrolment is stored on this host.
    pub enrolled: bool,
    /// When it was enrolled.
    pub enrolled_since_ms: Option<i64>,
    /// What the controller thinks of this host.
    pub verification: Verification,
    /// When verified or grace ends without another word, by both clocks; only to answer
    /// [`StatusReport::authorisation`], so it is not sent.
    #[serde(skip)]
    pub authorised_until: Option<Now>,
    /// The heartbeats, newest knowledge.
    pub last_heartbeat: LastHeartbeat,
    /// Counts since the agent started.
    #[serde(default)]
    pub heartbeats: Heartbeats,
    /// Time to the next heartbeat.
    pub next_heartbeat_s: Option<u64>,
    /// The interval that the controller asks for.
    pub heartbeat_interval_s: u64,
    /// This host's clock minus the controller's; none before the first reply.
    pub clock_offset_ms: Option<i64>,
    /// The VPN daemons that are watched.
    pub backends: Vec<BackendStatus>,
    /// Live connections. Served on their own (`vpn-node connections`): there can be 100,000.
    #[serde(skip)]
    pub connections: Arc<Vec<ConnectionRow>>,
    /// Connection records that the controller has not acknowledged yet.
    pub backlog: Backlog,
    /// Integrity of the connection ledger.
    pub ledger: LedgerStatus,
    /// The key that signs; none before enrolment.
    pub identity: Option<IdentityStatus>,
    /// How its software is kept current; none before enrolment.
    #[serde(default)]
    pub update: Option<UpdateStatus>,
    /// How the latest change of the configuration went.
    #[serde(default)]
    pub configuration: ConfigurationStatus,
    /// The newest errors, oldest first, at most [`MAX_LAST_ERRORS`].
    pub last_errors: Vec<ErrorNote>,
}

/// Where the host stands with its controller (docs: "Authorisation and the 30-minute grace").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// The state.
    pub state: VerificationState,
    /// How long it has been in this state.
    pub for_s: u64,
    /// One sentence for people: why it is in this state.
    pub detail: String,
    /// How long the state lasts without a word from the controller (verified, grace).
    pub valid_for_s: Option<u64>,
    /// The controller's verdict on the hardware: pending, verified, failed or mismatch.
    pub hardware_status: Option<String>,
    /// What the controller warned of, one sentence each.
    pub warnings: Vec<String>,
    /// Why the controller stopped this host, as a stable word; only for the log, so it is not sent.
    #[serde(skip)]
    pub stopped: Option<&'static str>,
}

/// The four states of the authorisation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerificationState {
    /// Not asked or not answered since the agent started.
    #[default]
    Unverified,
    /// The controller vouches for this host.
    Verified,
    /// It did, and is silent now; the grace period runs.
    Grace,
    /// It refused, or the grace period is over.
    Lapsed,
}

impl VerificationState {
    /// The word that people and JSON see.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Verified => "verified",
            Self::Grace => "grace",
            Self::Lapsed => "lapsed",
        }
    }
}

/// The newest accepted heartbeat, and what went wrong since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastHeartbeat {
    /// When the newest accepted heartbeat was sent; none if none was accepted.
    pub at_ms: Option<i64>,
    /// The same as an age, by the clock that nobody can set.
    pub seconds_ago: Option<u64>,
    /// Whether the controller's newest answer accepted what it answers; an attempt that got no
    /// answer does not count.
    pub accepted: Option<bool>,
    /// Why the latest attempt failed; none if it did not.
    pub last_error: Option<String>,
}

/// Chained requests (nearly all are heartbeats) since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeats {
    /// How often one was sent, repetitions included.
    pub attempted: u64,
    /// How many the controller accepted.
    pub accepted: u64,
    /// What became of the latest: `none` (accepted, or none was sent yet), `unreachable`, `busy`
    /// (429, 5xx) or `refused`.
    pub last_problem: String,
}

/// One watched VPN daemon or interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// `wireguard`, `openvpn`, …
    pub kind: String,
    /// Which one, for example the interface.
    pub instance: String,
    /// Whether it answers.
    pub state: BackendState,
    /// Whether it has answered since the agent started.
    pub was_up: bool,
    /// Why it does not answer.
    pub error: Option<String>,
    /// Live sessions seen there.
    pub sessions: u64,
    /// What went on there.
    #[serde(flatten)]
    pub activity: Activity,
}

/// What went on at a backend since the agent started; zero where an older agent does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Activity {
    /// Connections that began.
    pub started: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Bytes from all clients.
    pub rx: u64,
    /// Bytes to all clients.
    pub tx: u64,
    /// Bytes a second from all clients, over half a minute.
    pub rx_per_s: u64,
    /// Bytes a second to all clients, likewise.
    pub tx_per_s: u64,
}

/// Whether a backend answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// It answers.
    Up,
    /// It does not.
    Unavailable,
}

/// One live connection: nothing in it says who or from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// The connection id (UUIDv7), the one the controller knows.
    pub id: String,
    /// `kind/instance` of its backend.
    pub backend: String,
    /// When it started.
    pub started_ms: i64,
    /// When it last gave a sign of life.
    pub last_seen_ms: i64,
    /// Bytes received from the client.
    pub rx: u64,
    /// Bytes sent to the client.
    pub tx: u64,
}

/// What waits for the controller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// Records not yet acknowledged.
    pub records: u64,
    /// Their size on disk.
    pub bytes: u64,
    /// Age of the oldest; none if there is none.
    pub oldest_s: Option<u64>,
}

/// Integrity of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    /// Gaps reported so far: ranges of records that are known to be lost.
    pub gaps: u64,
    /// Segments set aside as damaged.
    pub quarantined: u64,
    /// Why records cannot be stored right now; none while they can.
    pub error: Option<String>,
    /// Whether they can, and none waits in memory for the disk.
    #[serde(default)]
    pub writable: bool,
    /// Bytes that are free on the file system of the state, in whole MiB, when they are few.
    #[serde(default)]
    pub low_space_bytes: Option<u64>,
}

/// The signing key, by its public names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// Grows with each rotation.
    pub epoch: u64,
    /// Fingerprint of the public key.
    pub key_id: String,
    /// When a rotation brought this key, by the controller's clock; none for the key of the
    /// enrolment.
    #[serde(default)]
    pub rotated_ms: Option<i64>,
    /// Whether a new key is about to follow it.
    #[serde(default)]
    pub rotating: bool,
}

/// How the latest change of the configuration went (`systemctl reload`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigurationStatus {
    /// Why it was refused; none if it is in force. The one before it holds until that is mended.
    pub error: Option<String>,
    /// Keys that were changed, and that only a restart will read.
    pub needs_restart: Vec<String>,
}

/// One error, for the list of the newest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorNote {
    /// When.
    pub at_ms: i64,
    /// The sentence.
    pub text: String,
}

/// What an unprivileged local user may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicSummary {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// Version of the running agent.
    pub version: String,
    /// Whether this host is enrolled.
    pub enrolled: bool,
    /// Where it stands with its controller.
    pub state: VerificationState,
    /// [`Health::ok`].
    pub healthy: bool,
}

impl StatusReport {
    /// A report that knows nothing yet: what a just started, not enrolled agent publishes.
    #[must_use]
    pub fn starting(version: &str, hostname: &str, pid: u32, made_at: Duration) -> Self {
        Self {
            schema: SCHEMA,
            version: version.to_owned(),
            pid,
            uptime_s: 0,
            age_s: 0,
            made_at,
            server_id: None,
            running_from: None,
            hostname: hostname.to_owned(),
            controller_url: None,
            enrolled: false,
            enrolled_since_ms: None,
            verification: Verification {
                state: VerificationState::Unverified,
                for_s: 0,
                detail: "The agent has just started.".to_owned(),
                valid_for_s: None,
                hardware_status: None,
                warnings: Vec::new(),
                stopped: None,
            },
            authorised_until: None,
            last_heartbeat: LastHeartbeat::default(),
            heartbeats: Heartbeats {
                last_problem: "none".to_owned(),
                ..Heartbeats::default()
            },
            next_heartbeat_s: None,
            heartbeat_interval_s: 30,
            clock_offset_ms: None,
            backends: Vec::new(),
            connections: Arc::default(),
            backlog: Backlog::default(),
            ledger: LedgerStatus::default(),
            identity: None,
            update: None,
            configuration: ConfigurationStatus::default(),
            last_errors: Vec::new(),
        }
    }

    /// The same report as it reads at `boot` (`CLOCK_BOOTTIME`): ages grow, remaining times shrink.
    /// So the loop need not publish once a second, and a stuck loop shows as a growing age.
    #[must_use]
    pub fn as_of(&self, boot: Duration) -> Self {
        let age = boot.saturating_sub(self.made_at).as_secs();
        let older = |value: Option<u64>| value.map(|seconds| seconds.saturating_add(age));
        let nearer = |value: Option<u64>| value.map(|seconds| seconds.saturating_sub(age));
        let mut report = self.clone();
        report.age_s = age;
        report.uptime_s = self.uptime_s.saturating_add(age);
        report.verification.for_s = self.verification.for_s.saturating_add(age);
        report.verification.valid_for_s = nearer(self.verification.valid_for_s);
        report.last_heartbeat.seconds_ago = older(self.last_heartbeat.seconds_ago);
        report.next_heartbeat_s = nearer(self.next_heartbeat_s);
        report.backlog.oldest_s = older(self.backlog.oldest_s);
        report
    }

    /// The part that an unprivileged local user may see.
    #[must_use]
    pub fn public_summary(&self) -> PublicSummary {
        PublicSummary {
            schema: SCHEMA,
            version: self.version.clone(),
            enrolled: self.enrolled,
            state: self.verification.state,
            healthy: self.health().ok,
        }
    }

    /// Adds an error to the list of the newest; the oldest falls out, long text is cut.
    pub fn note_error(&mut self, at_ms: i64, text: &str) {
        if self.last_errors.len() >= MAX_LAST_ERRORS {
            self.last_errors.remove(0);
        }
        let end = text.floor_char_boundary(MAX_ERROR_TEXT);
        let text = text[..end].to_owned();
        self.last_errors.push(ErrorNote { at_ms, text });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StatusReport {
        StatusReport::starting("1.2.3", "gw", 7, Duration::from_secs(100))
    }

    #[test]
    fn ages_grow_and_remaining_times_shrink() {
        let mut made = report();
        made.verification.valid_for_s = Some(60);
        made.last_heartbeat.seconds_ago = Some(5);
        made.next_heartbeat_s = Some(10);
        let seen = made.as_of(Duration::from_secs(130));
        assert_eq!((seen.age_s, seen.uptime_s), (30, 30));
        assert_eq!(seen.verification.valid_for_s, Some(30));
        assert_eq!(seen.last_heartbeat.seconds_ago, Some(35));
        assert_eq!(seen.next_heartbeat_s, Some(0));
        assert_eq!(made.as_of(Duration::ZERO).age_s, 0, "never negative");
    }

    #[test]
    fn the_list_of_errors_is_bounded() {
        let mut report = report();
        for at in 0..100 {
            report.note_error(at, &"é".repeat(1000));
        }
        assert_eq!(report.last_errors.len(), MAX_LAST_ERRORS);
        assert_eq!(report.last_errors[0].at_ms, 90);
        assert!(report.last_errors[0].text.len() <= MAX_ERROR_TEXT);
    }

    #[test]
    fn the_summary_and_the_report_carry_only_what_they_may() {
        let mut report = report();
        report.server_id = Some("secret-server".into());
        report.hostname = "secret-host".into();
        report.note_error(1, "secret-error");
        report.connections = Arc::new(vec![ConnectionRow {
            id: "secret-connection".into(),
            backend: "wireguard/wg0".into(),
            started_ms: 0,
            last_seen_ms: 0,
            rx: 0,
            tx: 0,
        }]);
        let summary = serde_json::to_string(&report.public_summary()).unwrap();
        assert!(!summary.contains("secret"), "{summary}");
        let full = serde_json::to_string(&report).unwrap();
        assert!(full.contains("secret-server") && !full.contains("secret-connection"));
        let read: StatusReport = serde_json::from_str(&full).unwrap();
        assert_eq!(read.server_id, report.server_id);
    }

    #[test]
    fn the_documentation_has_every_field() {
        let page = include_str!("../../docs/status.md");
        let mut report = report();
        report.identity = Some(IdentityStatus {
            epoch: 1,
            key_id: String::new(),
            rotated_ms: None,
            rotating: false,
        });
        report.backends = vec![BackendStatus {
            kind: String::new(),
            instance: String::new(),
            state: BackendState::Up,
            was_up: true,
            error: None,
            sessions: 0,
            activity: Activity::default(),
        }];
        report.note_error(0, "");
        report.update = Some(UpdateStatus {
            download: Some(DownloadStatus::default()),
            updater: Some(update::sample()),
            ..UpdateStatus::default()
        });
        let mut values = vec![serde_json::to_value(&report).unwrap()];
        while let Some(value) = values.pop() {
            match value {
                serde_json::Value::Object(fields) => {
                    for (name, inner) in fields {
                        assert!(
                            page.contains(&format!("`{name}`")),
                            "docs/status.md: {name}"
                        );
                        values.push(inner);
                    }
                }
                serde_json::Value::Array(inner) => values.extend(inner),
                _ => {}
            }
        }
    }
}
