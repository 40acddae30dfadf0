//! The supervisor of containers, demonstrations and tests: `vpn-node-updater supervise`.
//!
//! [`supervise`] is the parent of the agent and of the updater; [`Plain`] is what the updater, a
//! process of its own here as under systemd, tells it over a socket that only root can reach.
//! One connection carries one order and one answer, each a line of JSON.

mod child;
mod keeper;
mod supervise;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ProcessState, Supervisor, SupervisorError};
use crate::layout::Layout;

pub use child::exec_child;
pub use supervise::{Plan, supervise};

/// Longest line, both ways: two states with a sentence each.
const MAX_LINE_BYTES: u64 = 16 * 1024;
/// How long an order may take: an agent has 20 s to end, and both may have to.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What the updater may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    /// Only tell.
    State,
    /// [`Supervisor::start_experiment`].
    StartExperiment,
    /// [`Supervisor::stop`].
    Stop,
    /// [`Supervisor::back_to_stable`].
    BackToStable,
    /// [`Supervisor::settle`].
    Settle,
}

/// How both agents are after the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct States {
    stable: ProcessState,
    experiment: ProcessState,
}

/// The updater's end.
#[derive(Clone, Debug)]
pub struct Plain {
    socket: PathBuf,
}

impl Plain {
    /// For the supervisor of this host or tree.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self {
            socket: layout.supervisor_socket(),
        }
    }

    /// Gives an order; none when no supervisor runs.
    fn tell(&self, order: Order) -> Result<Option<States>, SupervisorError> {
        let shown = self.socket.display();
        let failed = |why: &dyn std::fmt::Display| {
            SupervisorError::new(format!("the supervisor at {shown} did not answer: {why}"))
        };
        let stream = match UnixStream::connect(&self.socket) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            other => other.map_err(|error| failed(&error))?,
        };
        let exchanged = (|| {
            stream.set_read_timeout(Some(ANSWER_WITHIN))?;
            stream.set_write_timeout(Some(ANSWER_WITHIN))?;
            let mut line = serde_json::to_vec(&order)?;
            line.push(b'\n');
            (&stream).write_all(&line)?;
            let mut answer = Vec::new();
            BufReader::new(&stream)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut answer)?;
            std::io::Result::Ok(answer)
        })();
        let answer = exchanged.map_err(|error| failed(&error))?;
        let answer: Result<States, String> =
            serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
        answer.map(Some).map_err(SupervisorError::new)
    }

    fn states(&self) -> Result<States, SupervisorError> {
        self.tell(Order::State)?.ok_or_else(|| self.nobody())
    }

    fn nobody(&self) -> SupervisorError {
        SupervisorError::new(format!(
            "no supervisor runs at {}; start `vpn-node-updater supervise`, or set supervisor = \
             \"systemd\" in updater.toml",
            self.socket.display()
        ))
    }
}

impl Supervisor for Plain {
    fn stable_state(&mut self) -> Result<ProcessState, SupervisorError> {
        Ok(self.states()?.stable)
    }

    fn experiment_state(&mut self) -> Result<ProcessState, SupervisorError> {
        Ok(self.states()?.experiment)
    }

    fn start_experiment(&mut self) -> Result<(), SupervisorError> {
        let under_way = self.tell(Order::StartExperiment)?;
        under_way.map(drop).ok_or_else(|| self.nobody())
    }

    fn stop(&mut self) -> Result<(), SupervisorError> {
        self.tell(Order::Stop).map(drop)
    }

    fn back_to_stable(&mut self) -> Result<(), SupervisorError> {
        self.tell(Order::BackToStable).map(drop)
    }

    fn settle(&mut self) -> Result<(), SupervisorError> {
        self.tell(Order::Settle).map(drop)
    }
}
