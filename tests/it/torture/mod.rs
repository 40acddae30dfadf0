//! The agent's own core against the controller's own handlers, at scale and under simulated time:
//! what would take a fleet weeks takes minutes. The network between them is the only model.
//!
//! [`fleet`] is the rig, [`host`] a host in it, [`clone`] asks whether copies are found and honest hosts left alone. The
//! long forms (`VPN_NODE_TORTURE=full`) are what `cargo xtask torture` runs.

mod clone;
// The same dice as in the plays of the core alone.
#[path = "../../../src/core/agent/tests/dice.rs"]
mod dice;
mod fleet;
mod host;

/// Whether the long form is wanted.
fn is_full() -> bool {
    std::env::var_os("VPN_NODE_TORTURE").is_some_and(|value| value == "full")
}
