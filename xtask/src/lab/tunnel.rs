//! A real WireGuard server on the lab's VPN host, and one client on a machine of its own.
//!
//! The two machines are joined by a pair of virtual Ethernet devices made inside their
//! namespaces, so nothing of it is visible outside. WireGuard is the kernel's if it has it, else
//! wireguard-go on a TUN device; the agent reads the one by netlink, the other by its socket.

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Lab;
use super::machine::Machine;
use crate::apt::{self, need};
use crate::shell;

/// The client's address outside the tunnel (RFC 5737, TEST-NET-1): what the controller must show.
pub(crate) const CLIENT_ADDRESS: &str = "192.0.2.2";
const SERVER_ADDRESS: &str = "192.0.2.1";
/// The addresses inside the tunnel (TEST-NET-2).
const SERVER_INSIDE: &str = "198.51.100.1";
const CLIENT_INSIDE: &str = "198.51.100.2";
const PORT: &str = "51820";
/// The Ethernet device between the machines, and the WireGuard interfaces.
const WIRE: &str = "wire0";
const INTERFACE: &str = "wg0";
const UP_WITHIN: Duration = Duration::from_secs(15);

/// See the module's page. Its processes belong to the lab, which ends them.
pub(crate) struct Tunnel {
    server: Machine,
    client: Machine,
    client_key: String,
    server_config: String,
    in_kernel: bool,
}

impl Tunnel {
    /// Boots the client's machine, joins it with `server`, and brings both ends up.
    pub(crate) fn open(lab: &mut Lab, server: Machine) -> Result<Self> {
        let tunnel = Self::lay(lab, server)?;
        add_interface(lab, server, "wireguard-server")?;
        configure(server, SERVER_INSIDE, &tunnel.server_config)?;
        Ok(tunnel)
    }

    /// The same with the client's end alone: [`Tunnel::service`] brings up the server's.
    pub(crate) fn lay(lab: &mut Lab, server: Machine) -> Result<Self> {
        let client = Machine::boot(lab, "vpn-client")?;
        join(server, client)?;
        let in_kernel = add_interface(lab, client, "wireguard-client")?;

        let (server_private, server_public) = key_pair(server)?;
        let (client_private, client_public) = key_pair(client)?;
        let server_config = format!(
            "[Interface]\nPrivateKey = {server_private}\nListenPort = {PORT}\n\
             [Peer]\nPublicKey = {client_public}\nAllowedIPs = {CLIENT_INSIDE}/32\n"
        );
        let to_server = format!(
            "[Interface]\nPrivateKey = {client_private}\n\
             [Peer]\nPublicKey = {server_public}\nEndpoint = {SERVER_ADDRESS}:{PORT}\n\
             AllowedIPs = {SERVER_INSIDE}/32\n"
        );
        configure(client, CLIENT_INSIDE, &to_server)?;
        Ok(Self {
            server,
            client,
            client_key: client_public,
            server_config,
            in_kernel,
        })
    }

    /// The server's end as a service: what a unit file would have in `ExecStart=` and around it.
    /// Its keys are in a file of the lab's private folder.
    pub(crate) fn service(&self, lab: &Lab) -> Result<Service> {
        let config = lab.path("wireguard-server.conf");
        fs::write(&config, &self.server_config).context("cannot write the server's keys")?;
        let config = config.display().to_string();
        let address = format!("{SERVER_INSIDE}/30");
        let on_server = |words: &[&str]| {
            let mut command = self.server.command(words[0]);
            command.args(&words[1..]);
            shell::words(&command)
        };
        let (main, first, last) = if self.in_kernel {
            (
                on_server(&["sleep", "infinity"]),
                on_server(&["ip", "link", "add", INTERFACE, "type", "wireguard"]),
                vec![on_server(&["ip", "link", "delete", INTERFACE])],
            )
        } else {
            (
                on_server(&["wireguard-go", "--foreground", INTERFACE]),
                on_server(&["wg", "show", INTERFACE]),
                Vec::new(),
            )
        };
        Ok(Service {
            main,
            after_start: vec![
                first,
                on_server(&["wg", "setconf", INTERFACE, &config]),
                on_server(&["ip", "address", "add", &address, "dev", INTERFACE]),
                on_server(&["ip", "link", "set", INTERFACE, "up"]),
            ],
            after_stop: last,
        })
    }

    /// Whether the server's interface is there.
    pub(crate) fn server_is_up(&self) -> Result<bool> {
        let devices = self.server.run(&["cat", "/proc/net/dev"])?;
        Ok(devices.contains(&format!("{INTERFACE}:")))
    }

    /// Whether one ping of the client's is answered within a second.
    pub(crate) fn answers(&self) -> Result<bool> {
        let mut command = self.client.command("ping");
        command.args(["-n", "-c", "1", "-W", "1", SERVER_INSIDE]);
        Ok(shell::output(command, None, UP_WITHIN)?.status.success())
    }

    /// Which WireGuard it is.
    pub(crate) fn kind(&self) -> &'static str {
        if self.in_kernel {
            "kernel"
        } else {
            "wireguard-go"
        }
    }

    /// Pings the server from the client, inside the tunnel. Returns ping's own summary.
    pub(crate) fn ping(&self) -> Result<String> {
        let words = [
            "ping",
            "-n",
            "-c",
            "3",
            "-i",
            "0.3",
            "-W",
            "3",
            SERVER_INSIDE,
        ];
        let said = self
            .client
            .run(&words)
            .context("no ping goes through the tunnel")?;
        let summary = said
            .lines()
            .find(|line| line.contains("packets transmitted"));
        Ok(summary.unwrap_or("ping succeeded").to_owned())
    }

    /// The client's public key.
    pub(crate) fn client_key(&self) -> &str {
        &self.client_key
    }

    /// The client takes another key, which the server knows, and is there again.
    pub(crate) fn come_again(&mut self) -> Result<()> {
        let (private, public) = key_pair(self.client)?;
        let words = ["wg", "set", INTERFACE, "private-key", "/dev/stdin"];
        self.client.run_with(&words, Some(&private))?;
        let words = ["wg", "set", INTERFACE, "peer", &public, "allowed-ips"];
        let inside = format!("{CLIENT_INSIDE}/32");
        self.server.run(&[&words[..], &[&inside]].concat())?;
        self.client_key = public;
        self.ping().map(drop)
    }

    /// Whether the server has the client's peer.
    pub(crate) fn has_client(&self) -> Result<bool> {
        let peers = self.server.run(&["wg", "show", INTERFACE, "peers"])?;
        Ok(peers.lines().any(|peer| peer == self.client_key))
    }
}

/// A program that runs as long as its service, and the commands around it, each as its words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) main: Vec<String>,
    /// In this order, each until it succeeds.
    pub(crate) after_start: Vec<Vec<String>>,
    pub(crate) after_stop: Vec<Vec<String>>,
}

/// Why no WireGuard can run here; nothing if one can.
pub(crate) fn obstacle(may_install: bool) -> Result<Option<String>> {
    // Only the kernel knows whether it has WireGuard: as a module it loads at the first use.
    let mut command = Command::new("unshare");
    command.args(["--net", "ip", "link", "add", INTERFACE, "type", "wireguard"]);
    if shell::output(command, None, UP_WITHIN)?.status.success() {
        return Ok(None);
    }
    let in_user_space = [need("wireguard-go", "wireguard-go")];
    if let Some(missing) = apt::provide(&in_user_space, may_install)? {
        return Ok(Some(format!("the kernel has no WireGuard; {missing}")));
    }
    Ok(no_tun().map(|why| format!("the kernel has no WireGuard, and {why}")))
}

/// Why no VPN in user space can run here; nothing if one can.
pub(crate) fn no_tun() -> Option<String> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun");
    let error = tun.err()?;
    Some(format!("/dev/net/tun cannot be opened ({error})"))
}

fn join(server: Machine, client: Machine) -> Result<()> {
    let Machine::Held(client_pid) = client else {
        anyhow::bail!("the client needs a machine of its own");
    };
    let client_pid = client_pid.to_string();
    server.run(&[
        "ip",
        "link",
        "add",
        WIRE,
        "type",
        "veth",
        "peer",
        "name",
        WIRE,
        "netns",
        &client_pid,
    ])?;
    for (machine, address) in [(server, SERVER_ADDRESS), (client, CLIENT_ADDRESS)] {
        machine.run(&[
            "ip",
            "address",
            "add",
            &format!("{address}/30"),
            "dev",
            WIRE,
        ])?;
        machine.run(&["ip", "link", "set", WIRE, "up"])?;
    }
    Ok(())
}

/// Adds the WireGuard interface. Returns whether it is the kernel's.
fn add_interface(lab: &mut Lab, machine: Machine, name: &str) -> Result<bool> {
    if machine
        .run(&["ip", "link", "add", INTERFACE, "type", "wireguard"])
        .is_ok()
    {
        return Ok(true);
    }
    shell::check_interrupted()?;
    let mut command = machine.command("wireguard-go");
    command.args(["--foreground", INTERFACE]);
    lab.start(name, command)?;
    lab.wait_for(&format!("the interface of {name}"), UP_WITHIN, || {
        machine.run(&["wg", "show", INTERFACE]).map(Some)
    })?;
    Ok(false)
}

fn key_pair(machine: Machine) -> Result<(String, String)> {
    let private = machine.run(&["wg", "genkey"])?;
    let public = machine.run_with(&["wg", "pubkey"], Some(&private))?;
    Ok((private.trim().to_owned(), public.trim().to_owned()))
}

/// The configuration holds a private key, so it goes by standard input.
fn configure(machine: Machine, address: &str, config: &str) -> Result<()> {
    machine.run_with(&["wg", "setconf", INTERFACE, "/dev/stdin"], Some(config))?;
    machine.run(&[
        "ip",
        "address",
        "add",
        &format!("{address}/30"),
        "dev",
        INTERFACE,
    ])?;
    machine
        .run(&["ip", "link", "set", INTERFACE, "up"])
        .map(drop)
}
