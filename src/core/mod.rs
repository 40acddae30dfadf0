//! The pure heart: state machines that take an event and the time and return commands.
//! No I/O, no clock, no random number generator and no async runtime in here.
//!
//! Reading order: [`agent`] (the whole), [`lane`] (how it speaks), [`authorisation`] (whether
//! this host may serve), [`trust`] (whom it believes), [`schedule`] (when), [`sessions`] (who is
//! connected), [`update`] (which release it fetches), [`report`] (what it says of itself), [`journal`] (the ids of what it logs), [`gate`] (what another process may do about it).

pub mod agent;
pub mod authorisation;
pub mod gate;
pub mod journal;
pub mod lane;
pub mod report;
pub mod schedule;
pub mod sessions;
mod shown;
mod time;
pub mod trust;
pub mod update;

pub use shown::{MAX_SHOWN_CHARS, Shown, shown, shown_path, shown_seconds};
pub use time::Now;
