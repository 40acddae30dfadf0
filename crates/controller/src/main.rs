//! `vpn-node-controller`: the control plane of a vpn-node fleet, and its operator's commands.

fn main() -> std::process::ExitCode {
    vpn_node_controller::cli::main()
}
