//! Rollouts.
pub mod windows;
