//! The controller's HTTP interface, spoken to by a host that is made in the test.

mod chain;
mod connections;
mod corpus;
mod enrolment;
mod grace;
mod hardware;
mod http;
mod poll;
mod schema;
mod support;
mod verification;
