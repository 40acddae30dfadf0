//! What the agent reads and keeps on this machine.

mod bounded;
pub mod atomic;
pub mod clock;
pub mod hardware;
pub mod ids;
pub mod logging;
pub mod metrics;
pub mod systemd;
