//! The controller's HTTP interface, spoken to by a host that is made in the test.

mod chain;
mod clones;
mod connections;
mod enrolment;
mod http;
mod poll;
mod resolving;
mod schema;
mod support;
mod verification;
mod witness;
