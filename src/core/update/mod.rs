//! What the agent does about releases: which one it was told to fetch, how far that is, how it
//! ended. The download itself is a worker's; installing is the updater's, whose answer is read
//! from its status file.
//!
//! At most one release is worked on. Its [`Job`] is on disk before the controller hears that it
//! was taken up, so that the agent which starts next (it may be the new version, on trial) goes on
//! or tells the outcome. The last deployment is told with every heartbeat.

mod job;
mod judge;
mod machine;
mod outcome;
mod report;
mod steps;

use std::time::Duration;

use vpn_node_release::handover;

pub use job::{Job, Kept, Order, Step};
pub use judge::Refusal;
pub use machine::{Answer, Setup, Updates};

/// Something happened.
#[derive(Debug)]
pub enum Event {
    /// The updater's status file was read, as [`Command::Look`] asked; none: there is no updater.
    Software(Option<Box<handover::Status>>),
    /// Metadata was fetched and holds.
    Fresh {
        /// [`Command::Fetch::run`] or [`Command::Check::run`].
        run: u64,
    },
    /// More of the package has arrived.
    Progress {
        /// Which run of the worker.
        run: u64,
        /// How far it is.
        progress: Progress,
    },
    /// The worker is done: the release is handed over, or the metadata checked; or why not.
    Ended {
        /// Which run of the worker.
        run: u64,
        /// Why it failed.
        result: Result<(), Failure>,
    },
}

/// Something to do.
#[derive(Debug)]
pub enum Command {
    /// Read the updater's status file.
    Look,
    /// Keep this for the next start.
    Keep(Box<Kept>),
    /// Fetch a release, verify it, and hand it to the updater.
    Fetch {
        /// Names it in the answers.
        run: u64,
        /// Which.
        order: Order,
        /// [`handover::Request::id`].
        request: String,
        /// What spares the download of what the updater would refuse.
        known: Known,
        /// How often it was tried before: another address of the same repository may do better.
        failures: u32,
    },
    /// Fetch and verify metadata, nothing more.
    Check {
        /// Names it in the answers.
        run: u64,
        /// As in [`Command::Fetch`].
        failures: u32,
    },
    /// Stop the worker, whatever it does.
    Stop,
    /// Remove what was downloaded and the request to the updater, once the worker has stopped.
    Clean,
}

/// What the updater told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Which releases it takes.
    pub channel: String,
    /// The highest counter that it ever verified.
    pub counter: u64,
    /// No version below this is safe.
    pub security_floor: Option<String>,
}

/// How far a download is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the package on disk.
    pub bytes: u64,
    /// Bytes of the package in all.
    pub total: u64,
    /// Bytes a second, of the last few seconds.
    pub bytes_per_s: u64,
}

/// Why a download, or a look at the metadata, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// A stable word (`docs/releases.md`).
    pub code: &'static str,
    /// A sentence.
    pub detail: String,
    /// Whether trying again may help, and not before how long.
    pub retry: Option<Duration>,
}

#[cfg(test)]
mod tests;
