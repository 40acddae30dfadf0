//! The agent's core against a model of its world, under simulated time.
//!
//! [`world`] is the rig; [`controller`], [`disk`], [`releases`] and [`vpn`] are the models in it. The rest are
//! scenarios, one file for each question.

mod controller;
mod dice;
mod disk;
mod releases;
mod vpn;
mod world;

mod backends;
mod backlog;
mod calm;
mod clock;
mod crash;
mod directives;
mod disconnects;
mod hardware_changes;
mod hostile;
mod names;
mod network;
mod outage;
mod refusals;
mod report;
mod rotation;
mod standing;
mod startup;
mod updates;
mod updates_in_trouble;

use vpn_node_protocol::hardware::{Component, Components};

/// The hardware of the model host.
fn hardware() -> Components {
    Components {
        disk1: Component::from_raw(b"S4EMNX0R"),
        cpu1: Component::from_raw(b"model cpu"),
        ..Components::default()
    }
}
