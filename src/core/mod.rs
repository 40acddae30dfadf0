//! The pure heart: state machines that take an event and the time and return commands.
//! No I/O, no clock, no random number generator and no async runtime in here.

pub mod sessions;
mod time;

pub use time::Now;
