//! The client of the controller: TLS trust, one HTTP exchange at a time, the enrolment, and the
//! download of releases.
//!
//! It believes nothing: what comes back are bytes that the core or the enrolment verifies. TLS
//! keeps onlookers out; who the controller is, its signatures say.

mod client;
pub mod enrol;
mod tls;
pub mod update;

pub use client::{ANSWER_TIMEOUT, Answer, Client, ClientError, Options, Path};
pub use tls::{TlsError, check_ca_file};
