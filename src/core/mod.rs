//! The pure heart: state machines that take an event and the time and return commands.
//! No I/O, no clock, no random number generator and no async runtime in here.

pub mod sessions;
pub mod report;
mod shown;
mod time;

pub use shown::{MAX_SHOWN_CHARS, Shown, shown, shown_path, shown_seconds};
pub use time::Now;
