//! `vpn-node`, the command on the host: see [`vpn_node::cli`].

use std::process::ExitCode;

use vpn_node::cli::{self, EnrollRequest, Enrolled};
use vpn_node::daemon::enrol::{self, CommandError};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), enroll).into()
}

fn enroll(request: EnrollRequest) -> Result<Enrolled, CommandError> {
    let told = |text: &str| anstream::eprintln!("vpn-node: {text}");
    let done = enrol::by_command(&request.token, &request.settings, told)?;
    Ok(Enrolled {
        server_id: done.enrolment.server_id,
        controller_url: done.enrolment.urls.join(", "),
        key_fingerprint: done.enrolment.identity_key.id().to_string(),
        pending: done.status == "pending",
        warnings: done.warnings,
    })
}
