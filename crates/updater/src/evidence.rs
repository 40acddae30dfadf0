//! What a running agent says about itself, and what the kernel says about its process.
//!
//! A small client of the status socket (`docs/status.md`): one question, one line, bounded in time
//! and size. It reads only the fields that a trial is judged by and ignores all others, so that it
//! understands agents that are older and newer than this updater. The socket lies in a directory of
//! the agent's user: it must be a socket, and that user or root must answer there, before a word is
//! said to it, so that nobody makes root speak to the socket of another daemon.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::time::TimeVal;
use serde::Deserialize;
use vpn_node_release::version::Version;

use crate::clock::Clock;
use crate::layout::Layout;

/// How long one question may take in all: an agent that is well answers in a millisecond.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Longest answer that is read: a report without connections has some hundred bytes a backend.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Longest `/proc/PID/status` that is read; it has 2 KB.
const MAX_STATUS_BYTES: u64 = 64 * 1024;
/// Version of the protocol.
const PROTOCOL: u32 = 1;

/// The part of a report by which a trial is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// The slot that it runs from: a version, or `system`. Older agents do not tell.
    pub running_from: Option<String>,
    /// How old the report was when it was served, in seconds: a loop that hangs makes no new ones.
    pub age_s: u64,
    /// How long it has been running, in seconds.
    pub uptime_s: Option<u64>,
    /// Whether an enrolment is stored on this host; without one there are no heartbeats.
    pub enrolled: bool,
    /// The VPN daemons that are watched.
    pub backends: Vec<Backend>,
    /// Heartbeats since the agent started. Older agents do not count.
    pub heartbeats: Option<Heartbeats>,
    /// The newest accepted one.
    pub last_heartbeat: LastHeartbeat,
    /// The store of connection records.
    pub ledger: Ledger,
}

/// One watched VPN daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Backend {
    /// `wireguard`, `openvpn`, …
    pub kind: String,
    /// Which one, for example the interface.
    pub instance: String,
    /// `up`, or another word.
    pub state: String,
    /// Live sessions.
    pub sessions: u64,
}

/// Heartbeats since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Heartbeats {
    /// How many were tried.
    pub attempted: u64,
    /// How many the controller accepted.
    pub accepted: u64,
    /// Why the latest failed: `none`, `unreachable`, `busy` (429, 5xx) or `refused`.
    pub last_problem: Option<String>,
}

/// The newest accepted heartbeat, and what went wrong since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LastHeartbeat {
    /// When it was sent; absent when none was accepted since the agent started.
    pub at_ms: Option<i64>,
    /// False when the controller's newest answer is a refusal.
    pub accepted: Option<bool>,
    /// Why the latest attempt failed.
    pub last_error: Option<String>,
}

/// The store of connection records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Whether records can be stored. Older agents tell it by `error` alone.
    pub writable: Option<bool>,
    /// Why they cannot.
    pub error: Option<String>,
}

/// How the agent gets on with its controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Nothing was tried yet.
    NotTried,
    /// A heartbeat was accepted.
    Accepted,
    /// It was tried, and got no answer.
    Unreachable,
    /// It was tried, and the controller is there but cannot answer now (429, 5xx).
    Busy,
    /// The controller refused.
    Refused,
}

impl Report {
    /// What became of the heartbeats since the agent started. One that was accepted counts for
    /// good: that is what a trial asks for.
    #[must_use]
    pub fn contact(&self) -> Contact {
        let Some(counted) = &self.heartbeats else {
            return self.contact_without_counts();
        };
        if counted.accepted > 0 {
            return Contact::Accepted;
        }
        match counted.last_problem.as_deref() {
            _ if counted.attempted == 0 => Contact::NotTried,
            Some("busy") => Contact::Busy,
            Some("refused") => Contact::Refused,
            // Also a first attempt that is still under way, and words of newer agents.
            _ => Contact::Unreachable,
        }
    }

    /// For agents that do not count: the newest accepted one says the same.
    fn contact_without_counts(&self) -> Contact {
        let last = &self.last_heartbeat;
        match (last.at_ms, last.accepted, &last.last_error) {
            (Some(_), _, _) => Contact::Accepted,
            (None, Some(false), _) => Contact::Refused,
            (None, _, Some(_)) => Contact::Unreachable,
            (None, _, None) => Contact::NotTried,
        }
    }

    /// Whether the latest word of the controller was a good one: how it is *now*, not how it was.
    #[must_use]
    pub fn in_touch(&self) -> bool {
        let problem = self
            .heartbeats
            .as_ref()
            .and_then(|h| h.last_problem.as_deref());
        self.contact() == Contact::Accepted
            && self.last_heartbeat.accepted != Some(false)
            && match problem {
                Some(problem) => problem == "none",
                None => self.last_heartbeat.last_error.is_none(),
            }
    }

    /// Whether this is a process of that version. Where it runs from decides, if it tells: that is
    /// the slot's name, and the slot is what was installed.
    #[must_use]
    pub fn is_version(&self, version: &Version) -> bool {
        let name = version.to_string();
        match self.running_from.as_deref() {
            Some(from) if from != "system" => from == name || from.ends_with(&format!("/{name}")),
            _ => Version::parse(&self.version).is_ok_and(|said| said == *version),
        }
    }

    /// Whether connection records can be stored.
    #[must_use]
    pub fn ledger_works(&self) -> bool {
        self.ledger.writable != Some(false) && self.ledger.error.is_none()
    }
}

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Silence {
    /// No socket, or nobody behind it.
    #[error("nobody answers on the status socket ({0})")]
    Nobody(String),
    /// Somebody is there and says nothing in time.
    #[error("somebody listens on the status socket, and does not answer")]
    Timeout,
    /// The process behind the socket is not the one on trial.
    #[error("process {found} answers on the status socket, not process {wanted}")]
    Other {
        /// The one on trial.
        wanted: u32,
        /// The one that answers.
        found: u32,
    },
    /// Something else stands in its place, or somebody else answers there.
    #[error("the status socket is not the agent's: {0}")]
    Foreign(String),
    /// An answer without sense.
    #[error("the status socket gives no report: {0}")]
    Garbage(String),
}

/// Asks the agent of this host. With `pid`, that process must be the one that listens there.
///
/// # Errors
/// When there is no report `within` this time.
pub fn ask(
    layout: &Layout,
    pid: Option<u32>,
    within: Duration,
    clock: &dyn Clock,
) -> Result<Report, Silence> {
    let end = clock.now().boot + within;
    let agent = fs::metadata(layout.agent_state()).map(|meta| meta.uid());
    let owners = [0, agent.unwrap_or(0)];
    let door = find(&layout.status_socket(), owners)?;
    let mut stream = dial(&door, within).map_err(silence)?;
    let peer = getsockopt(&stream, sockopt::PeerCredentials).map_err(|e| silence(e.into()))?;
    let found = u32::try_from(peer.pid()).unwrap_or(0);
    // 0: a process of another pid namespace, about which nothing can be told.
    if let Some(wanted) = pid.filter(|wanted| found != 0 && found != *wanted) {
        return Err(Silence::Other { wanted, found });
    }
    if !owners.contains(&peer.uid()) {
        let words = format!("user {} answers there", peer.uid());
        return Err(Silence::Foreign(words));
    }
    match stream.write_all(b"{\"v\":1,\"get\":\"status\"}\n") {
        // A busy agent answers and closes without reading: its line still waits for us.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) => {}
        sent => sent.map_err(silence)?,
    }
    let mut answer = Vec::new();
    let mut chunk = [0_u8; 16 * 1024];
    loop {
        let left = end.saturating_sub(clock.now().boot);
        if left.is_zero() {
            return Err(Silence::Timeout);
        }
        stream.set_read_timeout(Some(left)).map_err(silence)?;
        let count = match stream.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other.map_err(silence)?,
        };
        if count == 0 {
            return Err(Silence::Garbage("it closed in the middle".into()));
        }
        let fresh = &chunk[..count];
        if let Some(length) = fresh.iter().position(|byte| *byte == b'\n') {
            answer.extend_from_slice(&fresh[..length]);
            return parse(&answer);
        }
        answer.extend_from_slice(fresh);
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(Silence::Garbage(format!(
                "more than {MAX_ANSWER_BYTES} bytes"
            )));
        }
    }
}

/// Memory of a process in bytes: resident, and what was swapped out (proc(5), `VmRSS`, `VmSwap`).
/// None when it is gone.
#[must_use]
pub fn memory(pid: u32) -> Option<u64> {
    let file = File::open(format!("/proc/{pid}/status")).ok()?;
    let mut text = String::new();
    file.take(MAX_STATUS_BYTES).read_to_string(&mut text).ok()?;
    parse_memory(&text)
}

fn parse_memory(status: &str) -> Option<u64> {
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let resident = kilobytes("VmRSS:")?;
    Some((resident + kilobytes("VmSwap:").unwrap_or(0)) * 1024)
}

fn parse(line: &[u8]) -> Result<Report, Silence> {
    #[derive(Deserialize)]
    struct Answer {
        v: u32,
        #[serde(default)]
        scope: Option<String>,
        #[serde(default)]
        ok: Option<Report>,
        #[serde(default)]
        error: Option<serde_json::Value>,
    }
    let answer: Answer = serde_json::from_slice(line)
        .map_err(|error| Silence::Garbage(format!("it is not understood ({error})")))?;
    match answer {
        Answer { v, .. } if v != PROTOCOL => Err(Silence::Garbage(format!("protocol {v}"))),
        Answer {
            error: Some(error), ..
        } => {
            let code = error.get("code").and_then(serde_json::Value::as_str);
            Err(Silence::Garbage(format!(
                "it says {:?}",
                code.unwrap_or("no")
            )))
        }
        Answer {
            scope: Some(scope),
            ok: Some(report),
            ..
        } if scope == "full" => Ok(report),
        _ => Err(Silence::Garbage(
            "it tells only what every user may see; the updater must run as root, or as the \
             agent's own user"
                .into(),
        )),
    }
}

/// Opens the socket without speaking to it. What is opened is what is looked at and what is dialled,
/// whatever has its name by then.
fn find(path: &Path, owners: [u32; 2]) -> Result<OwnedFd, Silence> {
    let there = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let cannot = |errno: Errno| silence(errno.into());
    let foreign = |what: &Path, why: &str| Silence::Foreign(format!("{} {why}", what.display()));
    let of_others = |stat: &FileStat| !owners.contains(&stat.st_uid);
    let is = |stat: &FileStat, kind: SFlag| stat.st_mode & SFlag::S_IFMT.bits() == kind.bits();
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(foreign(path, "has no name"));
    };
    let within = open(folder, there, Mode::empty()).map_err(cannot)?;
    let stat = fstat(&within).map_err(cannot)?;
    if !is(&stat, SFlag::S_IFDIR) {
        return Err(foreign(folder, "is no directory"));
    }
    if of_others(&stat) {
        return Err(foreign(folder, "belongs to another user"));
    }
    let door = openat(&within, name, there, Mode::empty()).map_err(cannot)?;
    let stat = fstat(&door).map_err(cannot)?;
    if !is(&stat, SFlag::S_IFSOCK) {
        return Err(foreign(
            path,
            "is a link, or something else that is no socket",
        ));
    }
    if of_others(&stat) {
        return Err(foreign(path, "belongs to another user"));
    }
    Ok(door)
}

/// Connects within the deadline: on the full queue of a stopped agent a plain connect would wait
/// for ever. The send timeout bounds connect(2) too, if it is set before (socket(7)).
fn dial(door: &OwnedFd, within: Duration) -> io::Result<UnixStream> {
    // proc(5): not the name, but what was opened.
    let address = UnixAddr::new(format!("/proc/self/fd/{}", door.as_raw_fd()).as_str())?;
    let descriptor: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let micros = i64::try_from(within.as_micros()).unwrap_or(i64::MAX);
    let limit = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
    setsockopt(&descriptor, sockopt::SendTimeout, &limit)?;
    loop {
        match connect(descriptor.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(descriptor)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn silence(error: io::Error) -> Silence {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Silence::Timeout,
        _ => Silence::Nobody(error.to_string()),
    }
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
