//! What the controller decides. PURE: time, randomness and the stored state are arguments, and
//! what is to be written comes back as [`Effect`]s, which the store carries out in the same
//! transaction that read the state.

pub mod boot;
pub mod chain;
pub mod challenge;
pub mod clones;
pub mod connections;
pub mod devices;
pub mod drift;
pub mod effect;
pub mod enrolment;
pub mod events;
pub mod exchange;
mod grace;
pub mod heartbeat;
pub mod introduction;
pub mod lifecycle;
pub mod request;
pub mod rollout;
pub mod rotation;
pub mod state;
mod verification;
pub mod witness;

#[cfg(test)]
mod interleavings;

pub use effect::Effect;
pub use state::Snapshot;
