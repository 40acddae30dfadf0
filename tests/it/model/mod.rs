//! Small models of the protocol, searched exhaustively: every order of every loss, repetition,
//! delay and crash within the stated bounds.
//!
//! [`explorer`] searches. [`enrolment`] is the life of a token, [`chain`] that of a request chain
//! with copies, a controller that loses memory, rotation and acknowledgement; the controller's
//! half of it is the product's own [`vpn_node_controller::rules::chain::judge`]. Each model takes
//! seeded faults, and a search that did not find them would prove nothing.

mod chain;
mod enrolment;
mod explorer;
