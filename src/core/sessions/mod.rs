//! Who is connected: one pure reducer turns what the backends observe into connection events.
//!
//! A backend (`crate::vpn`) reports [`Obs`]; the [`Reducer`] owns connection ids, identities,
//! coalescing, reasons and counts, and answers with [`SessionEvent`]s: start, update, end.
//! Nothing in here reads a clock, draws a random number or does I/O. What has to survive a
//! restart of the agent leaves as [`KnownSession`], in which nobody can read who it was.

mod event;
mod held;
mod known;
mod obs;
#[cfg(test)]
mod random_tests;
mod reducer;
#[cfg(test)]
mod tests;
mod types;

pub use event::{Change, SessionEvent, SessionRecord, What};
pub use held::COALESCE;
pub use known::{KeyHash, KnownSession};
pub use obs::{End, Obs, Patch};
pub use reducer::{
    BackendStatus, Confirmed, Counts, Intended, LiveSession, RESTORED_PATIENCE, Reducer,
};
pub use types::{
    BackendId, BackendKind, Confidence, Endpoint, Identity, Net, Reason, Session, SessionKey,
    Stamp, connection_id, stamp_of,
};
