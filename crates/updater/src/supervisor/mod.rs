//! Who starts and stops the agent: systemd, or a plain process of our own.
//!
//! The updater moves links; a supervisor moves processes. Every method may be called twice, and
//! after a crash in any of them: the second call brings about the same end.

pub mod plain;
pub mod systemd;

use std::fmt;

use serde::{Deserialize, Serialize};

/// A process of the agent, as the supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// It runs.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// It shall be started, and none of it runs yet: the other agent is still ending.
    Waiting,
    /// It is being started and has not said that it is ready.
    Starting,
    /// It ended by itself, or was ended by the kernel or the watchdog.
    Exited {
        /// How.
        how: How,
    },
    /// It was never started in this boot, or was stopped on request.
    Stopped,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// With this exit code.
    Code(i32),
    /// By a signal; its name.
    Signal(String),
    /// It gave no sign of life and was killed for that.
    Watchdog,
    /// It took more memory than it may and was killed for that.
    Memory,
    /// In another way, in words.
    Other(String),
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(name) => write!(f, "killed by {name}"),
            Self::Watchdog => f.write_str("killed by the watchdog, since it gave no sign of life"),
            Self::Memory => f.write_str("killed, since it took too much memory"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

impl From<&str> for How {
    fn from(words: &str) -> Self {
        Self::Other(words.to_owned())
    }
}

/// Starts, stops and looks at the two agents of a host: that of `stable` and that of `experiment`.
pub trait Supervisor {
    /// The stable agent's process.
    ///
    /// # Errors
    /// When the supervisor itself cannot be asked.
    fn stable_state(&mut self) -> Result<ProcessState, SupervisorError>;

    /// The experiment's process.
    ///
    /// # Errors
    /// As [`Self::stable_state`].
    fn experiment_state(&mut self) -> Result<ProcessState, SupervisorError>;

    /// Stops the stable agent and starts what the link `experiment` leads to. Returns as soon as
    /// it is under way; whether it lives is for [`Self::experiment_state`] to tell. One that runs
    /// already is stopped first: it may have been started from another slot.
    ///
    /// # Errors
    /// When it could not be started. The caller then goes back to stable.
    fn start_experiment(&mut self) -> Result<(), SupervisorError>;

    /// Stops both; on return neither runs. Used only where the agent's state is kept or put back;
    /// [`Self::start_experiment`], [`Self::back_to_stable`] or [`Self::settle`] always follows.
    ///
    /// # Errors
    /// When one still runs.
    fn stop(&mut self) -> Result<(), SupervisorError>;

    /// Stops the experiment if it runs and starts the stable agent if it does not. Must not wait
    /// until that is ready: recovery calls it at boot, before the stable unit may start. No
    /// supervisor at all (a container that is being built) is no error: nothing runs then.
    ///
    /// # Errors
    /// When the experiment still runs, or stable could not be started.
    fn back_to_stable(&mut self) -> Result<(), SupervisorError>;

    /// After a commit: `stable` leads to the new version now; `experiment` may still. Makes the
    /// stable agent run what its link leads to, and the experiment run no more. Also after a
    /// `rollback` by root. Must not wait, as [`Self::back_to_stable`].
    ///
    /// # Errors
    /// When the stable agent could not be started.
    fn settle(&mut self) -> Result<(), SupervisorError>;
}

/// What the supervisor could not do: a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SupervisorError(String);

impl SupervisorError {
    /// What failed, on what, why, and what to do.
    pub fn new(sentence: impl fmt::Display) -> Self {
        Self(sentence.to_string())
    }
}
