//! What the agent reads and keeps on this machine.

pub mod atomic;
pub mod clock;
