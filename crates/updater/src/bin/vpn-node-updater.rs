//! `vpn-node-updater`, root's helper on the host: see [`vpn_node_updater::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vpn_node_updater::cli::main(std::env::args_os())
}
