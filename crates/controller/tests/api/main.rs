//! The controller's HTTP interface, spoken to by a host that is made in the test.

mod chain;
mod clones;
mod connections;
mod corpus;
mod devices;
mod disconnects;
mod enrolment;
mod events;
mod grace;
mod hardware;
mod hostile;
mod http;
mod interleaving;
mod introduction;
mod operator;
mod poll;
mod raw;
mod reenrolment;
mod resolving;
mod revocation;
mod rollouts;
mod rotation;
mod schema;
mod support;
mod verification;
mod witness;
