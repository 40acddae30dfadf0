//! Asks a running agent over its status socket: blocking, bounded in time and size.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::Scope;
use super::wire::{
    Answer, ApplyAnswer, Code, ConnectionsPage, Get, HealthAnswer, MAX_ANSWER_BYTES, Refusal,
    Request, RotationAnswer, VERSION,
};
use crate::core::report::{
    AuthorisationAnswer, ConnectionRow, PublicSummary, SCHEMA, StatusReport,
};
use crate::core::{shown, shown_path};
use crate::host::clock;

/// How long one question may take: the agent answers in a millisecond, or something is wrong.
const DEADLINE: Duration = Duration::from_secs(5);

/// Pages of connections read at most: a million connections, ten times the largest host.
const MAX_PAGES: usize = 100;

/// Why there is no answer. Each sentence says what to do.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no socket, or nobody listens on it.
    #[error(
        "vpn-node-agent is not running: {} ({}). Start it with `systemctl start vpn-node-agent`; \
         `journalctl -u vpn-node-agent -n 50` says why it stopped.",
        if *.refused { "nobody answers on the status socket" } else { "there is no status socket" },
        shown_path(path)
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// The socket is there and dead.
        refused: bool,
    },
    /// The agent does not answer in time.
    #[error(
        "vpn-node-agent does not answer on {} within {} s. Look at `systemctl status \
         vpn-node-agent`; if it hangs, restart it.",
        shown_path(path),
        deadline.as_secs()
    )]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        deadline: Duration,
    },
    /// The kernel or the agent says that this user may not.
    #[error(
        "Not allowed ({}): {} Run this as root, or join the group vpn-node and restart the agent.",
        shown_path(path),
        shown(detail)
    )]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The agent's or the kernel's words.
        detail: String,
        /// The agent answered, and refused; otherwise the socket could not be reached.
        by_agent: bool,
    },
    /// The agent refused for another reason.
    #[error(
        "vpn-node-agent refused the request: {} Try again in a few seconds.",
        shown(message)
    )]
    Refused {
        /// The agent's words.
        message: String,
    },
    /// What answered does not speak this protocol.
    #[error(
        "What answers on {} is not a vpn-node-agent that this program understands: {}. Check \
         --socket, and that agent and CLI have the same version.",
        shown_path(path),
        shown(problem)
    )]
    Garbage {
        /// The socket.
        path: PathBuf,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The kernel failed otherwise.
    #[error("The status socket {} failed: {source}.", shown_path(path))]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The answer to "status", as much of it as this user may see.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// For root, the agent's user and the group.
    Full(Box<StatusReport>),
    /// For everybody else.
    Public(PublicSummary),
}

/// A client of one status socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    deadline: Duration,
}

impl Client {
    /// A client that asks on `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            deadline: DEADLINE,
        }
    }

    /// The same with another deadline for each question.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Asks for the report (without connections), or the summary.
    ///
    /// # Errors
    /// When there is no agent, no permission or no sensible answer.
    pub fn status(&self) -> Result<Status, ClientError> {
        let (scope, value): (_, serde_json::Value) = self.ask(Get::Status, None)?;
        let schema = value.get("schema").and_then(serde_json::Value::as_u64);
        if schema != Some(u64::from(SCHEMA)) {
            return Err(self.garbage(format!("it reports in another schema than {SCHEMA}")));
        }
        let parsed = match scope {
            Scope::Full => serde_json::from_value(value).map(|r| Status::Full(Box::new(r))),
            Scope::Public => serde_json::from_value(value).map(Status::Public),
        };
        parsed.map_err(|error| self.garbage(error.to_string()))
    }

    /// Asks for all live connections, in the order of their ids. They come in pages, each true at
    /// its own moment.
    ///
    /// # Errors
    /// As [`Client::status`]; users who see only the summary are denied.
    pub fn connections(&self) -> Result<Vec<ConnectionRow>, ClientError> {
        let mut all: Vec<ConnectionRow> = Vec::new();
        for _ in 0..MAX_PAGES {
            let after = all.last().map(|row| row.id.clone());
            let (_, page): (_, ConnectionsPage) = self.ask(Get::Connections, after)?;
            let progress = !page.connections.is_empty();
            all.extend(page.connections);
            if !page.more {
                return Ok(all);
            }
            if !progress {
                break;
            }
        }
        Err(self.garbage("it names connections without end".to_owned()))
    }

    /// Asks whether all is well.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn health(&self) -> Result<(Scope, HealthAnswer), ClientError> {
        self.ask(Get::Health, None)
    }

    /// Asks whether this host may serve now, and for how long. Everybody may ask; who sees only
    /// the summary gets no sentence.
    ///
    /// # Errors
    /// As [`Client::status`].
    pub fn authorisation(&self) -> Result<AuthorisationAnswer, ClientError> {
        let (_, answer): (_, AuthorisationAnswer) = self.ask(Get::Authorisation, None)?;
        if answer.schema != SCHEMA {
            return Err(self.garbage(format!("it reports in another schema than {SCHEMA}")));
        }
        Ok(answer)
    }

    /// Has the agent rotate the identity key.
    ///
    /// # Errors
    /// As [`Client::status`]; all but root and the agent's own user are denied.
    pub fn rotate_identity(&self) -> Result<RotationAnswer, ClientError> {
        Ok(self.ask(Get::RotateIdentity, None)?.1)
    }

    /// Has the agent fetch a version and hand it to the updater.
    ///
    /// # Errors
    /// As [`Client::status`]; all but root and the agent's own user are denied.
    pub fn apply_release(&self, version: &str) -> Result<ApplyAnswer, ClientError> {
        let request = Request {
            version: Some(version.to_owned()),
            ..Request::about(Get::ApplyRelease)
        };
        Ok(self.request(&request)?.1)
    }

    fn ask<T: DeserializeOwned>(
        &self,
        get: Get,
        after: Option<String>,
    ) -> Result<(Scope, T), ClientError> {
        self.request(&Request {
            after,
            ..Request::about(get)
        })
    }

    fn request<T: DeserializeOwned>(&self, request: &Request) -> Result<(Scope, T), ClientError> {
        let line = self.exchange(&request.to_line())?;
        let answer: Answer<T> =
            serde_json::from_slice(&line).map_err(|error| self.garbage(error.to_string()))?;
        match answer {
            Answer {
                error: Some(refusal),
                ..
            } => Err(self.refused(refusal)),
            Answer {
                v: VERSION,
                scope: Some(scope),
                ok: Some(value),
                ..
            } => Ok((scope, value)),
            _ => Err(self.garbage("it is neither an answer nor an error".to_owned())),
        }
    }

    /// Sends one line and reads one line, all within the deadline.
    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, ClientError> {
        let end = clock::now().boot + self.deadline;
        let mut stream = dial(&self.path, self.deadline).map_err(|error| self.failed(error))?;
        match stream.write_all(request) {
            // A busy agent answers and closes without reading: its line still waits for us.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) => {}
            sent => sent.map_err(|error| self.failed(error))?,
        }
        let mut answer = Vec::new();
        let mut chunk = [0_u8; 16 * 1024];
        loop {
            let left = end.saturating_sub(clock::now().boot);
            if left.is_zero() {
                return Err(self.failed(ErrorKind::TimedOut.into()));
            }
            let count = stream
                .set_read_timeout(Some(left))
                .and_then(|()| stream.read(&mut chunk));
            let count = match count {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(|error| self.failed(error))?,
            };
            if count == 0 {
                return Err(self.garbage("it closed in the middle of its answer".to_owned()));
            }
            let fresh = &chunk[..count];
            if let Some(length) = fresh.iter().position(|byte| *byte == b'\n') {
                answer.extend_from_slice(&fresh[..length]);
                return Ok(answer);
            }
            answer.extend_from_slice(fresh);
            if answer.len() > MAX_ANSWER_BYTES {
                return Err(self.garbage(format!("it says more than {MAX_ANSWER_BYTES} bytes")));
            }
        }
    }

    fn failed(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            ErrorKind::NotFound => ClientError::NotRunning {
                path,
                refused: false,
            },
            ErrorKind::ConnectionRefused => ClientError::NotRunning {
                path,
                refused: true,
            },
            ErrorKind::PermissionDenied => ClientError::Denied {
                path,
                detail: "the kernel refuses access to the socket.".to_owned(),
                by_agent: false,
            },
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout {
                path,
                deadline: self.deadline,
            },
            _ => ClientError::Io { path, source },
        }
    }

    fn refused(&self, refusal: Refusal) -> ClientError {
        match refusal.code {
            Code::Denied => ClientError::Denied {
                path: self.path.clone(),
                detail: refusal.message,
                by_agent: true,
            },
            Code::UnsupportedVersion | Code::BadRequest | Code::TooLarge => {
                self.garbage(refusal.message)
            }
            Code::Timeout | Code::Busy | Code::Internal => ClientError::Refused {
                message: refusal.message,
            },
        }
    }

    fn garbage(&self, problem: String) -> ClientError {
        ClientError::Garbage {
            path: self.path.clone(),
            problem,
        }
    }
}

/// Whether somebody answers on a socket.
pub(super) enum Reach {
    /// Somebody listens (or is too busy to be asked).
    Answers,
    /// The socket is dead.
    Refused,
    /// There is no file any more.
    Gone,
    /// It cannot be told.
    Failed(io::Error),
}

/// Knocks without a question.
pub(super) fn reach(path: &Path) -> Reach {
    match dial(path, Duration::from_secs(1)) {
        Ok(_) => Reach::Answers,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Reach::Refused,
            ErrorKind::NotFound => Reach::Gone,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Reach::Answers,
            _ => Reach::Failed(error),
        },
    }
}

/// Connects within the deadline. `UnixStream::connect` would wait for ever on the full queue of a
/// stopped agent: the send timeout bounds connect(2) too, but only if set before (socket(7)).
fn dial(path: &Path, deadline: Duration) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let descriptor: OwnedFd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let micros = i64::try_from(deadline.as_micros()).unwrap_or(i64::MAX);
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
