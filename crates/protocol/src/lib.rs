//! p
pub mod hardware;
pub mod metrics;
