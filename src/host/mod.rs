//! What the agent reads and keeps on this machine.

pub mod clock;
