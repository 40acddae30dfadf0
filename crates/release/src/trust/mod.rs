//! The client: from one root that was installed by hand to the packages that may be unpacked.
//!
//! [`Repository`] runs the workflow of TUF 1.0.34, section 5; each clause stands beside the line
//! that enforces it. It asks a [`Fetch`] for files and believes nothing of what comes; it keeps in
//! a [`Store`] what it verified, and in the [`HighWater`] file what it will never go back behind.
//!
//! Reading order: [`client`], [`roles`], [`delegations`], [`target`], [`high_water`], [`store`],
//! [`fetch`].

pub mod client;
pub mod delegations;
pub mod fetch;
pub mod high_water;
pub mod roles;
pub mod store;
pub mod target;

pub use client::{Repository, Summary, install_root};
pub use fetch::{DirFetch, Fetch, FetchError};
pub use high_water::{HighWater, ReleaseMark};
pub use store::{FileStore, MemoryStore, Store, StoreError};
pub use target::TargetInfo;

/// The earliest that the present can be: the clock, unless something that must lie in the past is
/// later (the build of this program, the time that the controller signed last). A clock that was
/// set to 1970 by a dead battery then does not make old metadata fresh again.
///
/// What verified metadata says about its own time is added by [`Repository::open`].
#[must_use]
pub fn not_before(clock: jiff::Timestamp, past: &[jiff::Timestamp]) -> jiff::Timestamp {
    past.iter().copied().fold(clock, jiff::Timestamp::max)
}
