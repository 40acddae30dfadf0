//! `vpn-node-wireguard`, the WireGuard reader: see [`vpn_node::daemon::wireguard_reader`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vpn_node::daemon::wireguard_reader::main(std::env::args_os())
}
