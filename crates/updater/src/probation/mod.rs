//! How a new version is judged: it must do at least what the former one did.
//!
//! The run asks for a [`Baseline`] before the switch and for an [`Ending`] after it. [`judge`] is
//! pure and decides; [`watch`] looks once a second and does what the judge asks for.

mod baseline;
pub mod judge;
mod watch;

use vpn_node_release::code::UpdaterCode;
use vpn_node_release::version::Version;

use crate::error::UpdateError;
use crate::supervisor::Supervisor;

pub use baseline::Baseline;
pub use watch::Watch;

/// What is on trial.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The version that must show up.
    pub version: &'a Version,
    /// How the host was before.
    pub baseline: &'a Baseline,
    /// The new version may have migrated the agent's state: stable cannot be started beside it for
    /// a counter-check before the snapshot is restored.
    pub migrates: bool,
}

/// When the trial will be judged; told at its start and at every extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Wall clock, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Why it was extended, as a sentence; absent at the start.
    pub why: Option<String>,
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The new version stays.
    Keep {
        /// What the operator should know nevertheless ("the controller was unreachable").
        remark: Option<String>,
    },
    /// The host goes back and the version is blocked.
    Revert {
        /// Why.
        code: UpdaterCode,
        /// What was seen, as a sentence.
        detail: String,
    },
}

/// Takes the baseline and watches the trial. The run has set the link and written the journal;
/// it starts the experiment itself before it calls [`Self::watch`], and goes back or commits after.
pub trait Probation {
    /// Looks at the running stable version; an agent that does not answer gives an empty baseline.
    fn baseline(&mut self, supervisor: &mut dyn Supervisor) -> Baseline;

    /// Watches until the verdict. `note` writes a new deadline into journal and status.
    ///
    /// # Errors
    /// What `note` returns, or that somebody else ended the trial; the run then goes back to
    /// stable and blames nobody.
    fn watch(
        &mut self,
        trial: Trial<'_>,
        supervisor: &mut dyn Supervisor,
        note: &mut dyn FnMut(Deadline) -> Result<(), UpdateError>,
    ) -> Result<Ending, UpdateError>;
}
