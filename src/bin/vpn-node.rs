//! `vpn-node`, the command on the host: see [`vpn_node::cli`].

use std::process::ExitCode;

use vpn_node::cli::{self, EnrollRequest, Enrolled};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), enroll).into()
}

/// CALL SITE of the enrolment: `vpn_node::remote::enroll::enroll` goes here.
fn enroll(_request: EnrollRequest) -> Result<Enrolled, std::io::Error> {
    Err(std::io::Error::other(
        "This build of vpn-node cannot enrol: it has no client of the controller.",
    ))
}
