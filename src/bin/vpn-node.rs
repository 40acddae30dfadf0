//! `vpn-node`, the command on the host: see [`vpn_node::cli`].

use std::process::ExitCode;

use vpn_node::{cli, daemon};

fn main() -> ExitCode {
    cli::run(std::env::args_os(), daemon::enrol::by_command).into()
}
