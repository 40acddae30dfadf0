//! The means of one run: paths, disk, clock, and who moves and judges the agent. Tests put their
//! own in place of each.

use crate::clock::Clock;
use crate::config::Config;
use crate::disk::Disk;
use crate::layout::Layout;
use crate::probation::Probation;
use crate::supervisor::Supervisor;

/// Everything that a run works with.
pub struct Host<'a> {
    /// Where things lie.
    pub layout: &'a Layout,
    /// How they are changed.
    pub disk: &'a Disk,
    /// The time.
    pub clock: &'a dyn Clock,
    /// updater.toml.
    pub config: &'a Config,
    /// Who starts and stops the agent.
    pub supervisor: &'a mut dyn Supervisor,
    /// Who judges a new version.
    pub probation: &'a mut dyn Probation,
    /// Where a line for the journal of the system goes.
    pub log: &'a mut dyn FnMut(&str),
}

impl Host<'_> {
    /// One line for whoever reads the service's log.
    pub fn say(&mut self, line: &str) {
        (self.log)(line);
    }
}

impl std::fmt::Debug for Host<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("layout", self.layout)
            .finish_non_exhaustive()
    }
}
