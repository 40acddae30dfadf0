//! What the agent reads and keeps on this machine.

pub mod atomic;
pub(crate) mod bounded;
pub mod clock;
pub mod hardware;
pub mod ids;
pub mod installation;
pub mod logging;
pub mod metrics;
pub mod sealing;
pub mod secrecy;
pub mod slots;
pub mod state;
pub mod systemd;
