//! Real WireGuard ends: servers on the lab's VPN host, and clients on machines of their own.
//!
//! Both are wireguard-go, which needs a TUN device and nothing of the kernel's. Private keys go by
//! standard input and are in no file.

use std::time::Duration;

use anyhow::{Context, Result};

use super::super::lan::{self, HOST};
use super::super::scene::Scene;
use super::super::session::Window;
use crate::lab::machine::Machine;
use crate::shell;

/// Inside the tunnel (RFC 5737, TEST-NET-2): the servers' address, and the network of the clients.
const SERVER_INSIDE: &str = "198.51.100.1";
const INSIDE: &str = "198.51.100";
/// The interface of every client.
const INTERFACE: &str = "wg0";
/// WireGuard tries a handshake again after 5 s and a bit.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
const PING_WITHIN: Duration = Duration::from_secs(5);

/// One interface of the VPN host.
pub(super) struct Server {
    pub(super) interface: &'static str,
    /// The name of its daemon in the lab.
    pub(super) program: &'static str,
    port: u16,
    machine: Machine,
    private: String,
    public: String,
}

/// One client and its daemon.
pub(in crate::e2e::connections) struct Peer {
    pub(super) at: lan::Client,
    /// Its identity.
    pub(super) public: String,
    name: String,
    private: String,
    server_public: String,
    server_port: u16,
}

impl Server {
    /// A new server with keys of its own that is up.
    pub(super) fn start(
        scene: &mut Scene,
        interface: &'static str,
        program: &'static str,
        port: u16,
    ) -> Result<Self> {
        let machine = scene.host();
        let (private, public) = key_pair(machine)?;
        let server = Self {
            interface,
            program,
            port,
            machine,
            private,
            public,
        };
        server.start_daemon(scene)?;
        Ok(server)
    }

    /// Starts its daemon, without any peer.
    pub(super) fn start_daemon(&self, scene: &mut Scene) -> Result<()> {
        start(scene, self.machine, self.program, self.interface)?;
        let config = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {}\n",
            self.private, self.port
        );
        configure(self.machine, self.interface, SERVER_INSIDE, &config)
    }

    /// A new client that this server knows, and that is up.
    pub(super) fn new_peer(&self, scene: &mut Scene, name: &str) -> Result<Peer> {
        let name = format!("client-{name}");
        let at = scene.new_client(&name)?;
        let (private, public) = key_pair(at.machine)?;
        let peer = Peer {
            at,
            public,
            name: format!("wireguard-{name}"),
            private,
            server_public: self.public.clone(),
            server_port: self.port,
        };
        self.add(&peer)?;
        peer.start(scene)?;
        Ok(peer)
    }

    /// Lets the peer in, as an administrator does.
    pub(super) fn add(&self, peer: &Peer) -> Result<()> {
        let inside = format!("{}/32", peer.inside());
        let words = ["wg", "set", self.interface, "peer", &peer.public];
        self.machine
            .run(&[&words[..], &["allowed-ips", &inside]].concat())?;
        let words = ["ip", "route", "replace", &inside, "dev", self.interface];
        self.machine.run(&words).map(drop)
    }

    /// Takes the peer off, as an administrator does.
    pub(super) fn remove(&self, peer: &Peer) -> Result<()> {
        let words = ["wg", "set", self.interface, "peer", &peer.public, "remove"];
        self.machine.run(&words).map(drop)
    }

    /// Whether the server knows the peer.
    pub(super) fn knows(&self, peer: &Peer) -> Result<bool> {
        let peers = self.machine.run(&["wg", "show", self.interface, "peers"])?;
        Ok(peers.lines().any(|key| key == peer.public))
    }

    /// When the server last shook hands with the peer, in seconds since the Unix epoch; 0: never.
    pub(super) fn handshake(&self, peer: &Peer) -> Result<u64> {
        let words = ["wg", "show", self.interface, "latest-handshakes"];
        let told = self.machine.run(&words)?;
        let of_peer = told
            .lines()
            .find_map(|line| line.strip_prefix(&peer.public));
        let at = of_peer.with_context(|| format!("{} has no such peer", self.interface))?;
        at.trim().parse().context("wg tells no handshake time")
    }
}

impl Peer {
    /// Starts its daemon, which knows the server.
    pub(super) fn start(&self, scene: &mut Scene) -> Result<()> {
        start(scene, self.at.machine, &self.name, INTERFACE)?;
        let config = format!(
            "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nEndpoint = {HOST}:{}\n\
             AllowedIPs = {SERVER_INSIDE}/32\n",
            self.private, self.server_public, self.server_port
        );
        let machine = self.at.machine;
        configure(machine, INTERFACE, &self.inside(), &config)?;
        let words = ["ip", "route", "replace", SERVER_INSIDE, "dev", INTERFACE];
        machine.run(&words).map(drop)
    }

    /// Ends its daemon without a word (kill -9), and its traffic.
    pub(super) fn kill(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.stop(&self.traffic())?;
        scene.lab.crash(&self.name)
    }

    /// Forgets the keys that were agreed on: the next packet begins with a new handshake.
    pub(super) fn forget(&self) -> Result<()> {
        let machine = self.at.machine;
        machine.run(&[
            "wg",
            "set",
            INTERFACE,
            "peer",
            &self.server_public,
            "remove",
        ])?;
        let endpoint = format!("{HOST}:{}", self.server_port);
        let inside = format!("{SERVER_INSIDE}/32");
        let words = ["wg", "set", INTERFACE, "peer", &self.server_public];
        let rest = ["endpoint", &endpoint, "allowed-ips", &inside];
        machine.run(&[&words[..], &rest].concat()).map(drop)
    }

    /// Sends from another port from now on.
    pub(super) fn set_port(&self, port: u16) -> Result<()> {
        let words = ["wg", "set", INTERFACE, "listen-port", &port.to_string()];
        self.at.machine.run(&words).map(drop)
    }

    /// Sends something every `seconds` when there is nothing else to send.
    pub(super) fn keep_alive(&self, seconds: u16) -> Result<()> {
        let words = ["wg", "set", INTERFACE, "peer", &self.server_public];
        let rest = ["persistent-keepalive", &seconds.to_string()];
        let machine = self.at.machine;
        machine.run(&[&words[..], &rest].concat()).map(drop)
    }

    /// Whether one ping through the tunnel is answered.
    pub(super) fn pings(&self) -> Result<bool> {
        let mut command = self.at.machine.command("ping");
        command.args(["-n", "-c", "1", "-W", "1", SERVER_INSIDE]);
        Ok(shell::output(command, None, PING_WITHIN)?.status.success())
    }

    /// Pings until the tunnel answers; when that began and was so.
    pub(super) fn connect(&self, scene: &mut Scene) -> Result<Window> {
        let what = format!("an answer through the tunnel of {}", self.name);
        let (window, ()) = scene.timed(|scene| {
            scene.wait_for(&what, CONNECT_WITHIN, |_| Ok(self.pings()?.then_some(())))
        })?;
        Ok(window)
    }

    /// Sends something every second from now on.
    pub(super) fn talk(&self, scene: &mut Scene) -> Result<()> {
        let mut command = self.at.machine.command("ping");
        command.args(["-n", "-q", "-i", "1", SERVER_INSIDE]);
        scene.lab.start(&self.traffic(), command).map(drop)
    }

    fn traffic(&self) -> String {
        format!("{}-traffic", self.name)
    }

    /// Its address inside the tunnel.
    fn inside(&self) -> String {
        format!("{INSIDE}.{}", self.at.number)
    }
}

fn key_pair(machine: Machine) -> Result<(String, String)> {
    let private = machine.run(&["wg", "genkey"])?;
    let public = machine.run_with(&["wg", "pubkey"], Some(&private))?;
    Ok((private.trim().to_owned(), public.trim().to_owned()))
}

fn start(scene: &mut Scene, machine: Machine, name: &str, interface: &str) -> Result<()> {
    let mut command = machine.command("wireguard-go");
    command.args(["--foreground", interface]);
    scene.lab.start(name, command)?;
    scene.wait_for(&format!("the interface of {name}"), CONNECT_WITHIN, |_| {
        machine.run(&["wg", "show", interface]).map(Some)
    })?;
    Ok(())
}

fn configure(machine: Machine, interface: &str, address: &str, config: &str) -> Result<()> {
    machine.run_with(&["wg", "setconf", interface, "/dev/stdin"], Some(config))?;
    let address = format!("{address}/32");
    machine.run(&["ip", "address", "add", &address, "dev", interface])?;
    let words = ["ip", "link", "set", interface, "up"];
    machine.run(&words).map(drop)
}
