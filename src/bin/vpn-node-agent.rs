//! `vpn-node-agent`, the daemon: see [`vpn_node::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vpn_node::daemon::main(std::env::args_os())
}
