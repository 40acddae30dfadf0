//! The network outside the VPN: the lab's VPN host and its clients, each on a machine of its own.
//!
//! Every client hangs on the host by a pair of virtual Ethernet devices made inside their
//! namespaces, and has one address that it can change, as a telephone does that leaves a house.
//! Nothing of it is visible outside.

use anyhow::{Result, bail};

use crate::lab::Lab;
use crate::lab::machine::Machine;

/// The VPN host's address for clients (RFC 5737, TEST-NET-1).
pub(super) const HOST: &str = "192.0.2.1";
/// The networks between which clients roam (TEST-NET-1 and TEST-NET-3).
const NETWORKS: [&str; 2] = ["192.0.2", "203.0.113"];
/// The client's end of the pair.
const WIRE: &str = "wire0";
/// One below the last host number of a network of 24 bits.
const MAX_CLIENTS: u8 = 250;

/// See the module's page.
pub(super) struct Lan {
    host: Machine,
    clients: u8,
}

/// One client's machine.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) machine: Machine,
    /// Its host number in every network, from 2 on: for addresses inside the VPN, too.
    pub(super) number: u8,
    host: Machine,
    network: usize,
}

impl Lan {
    /// Gives the host its address.
    pub(super) fn lay(host: Machine) -> Result<Self> {
        host.run(&["ip", "address", "add", &format!("{HOST}/32"), "dev", "lo"])?;
        Ok(Self { host, clients: 0 })
    }

    /// A new client's machine, called `name` in messages, that reaches the host and nobody else.
    pub(super) fn join(&mut self, lab: &mut Lab, name: &str) -> Result<Client> {
        if self.clients == MAX_CLIENTS {
            bail!("the network is full");
        }
        self.clients += 1;
        let machine = Machine::boot(lab, name)?;
        let Machine::Held(holder) = machine else {
            bail!("a client needs a machine of its own");
        };
        let client = Client {
            machine,
            number: self.clients + 1,
            host: self.host,
            network: 0,
        };
        let (device, holder) = (client.device(), holder.to_string());
        self.host.run(&[
            "ip", "link", "add", &device, "type", "veth", "peer", "name", WIRE, "netns", &holder,
        ])?;
        self.host.run(&["ip", "link", "set", &device, "up"])?;
        machine.run(&["ip", "link", "set", WIRE, "up"])?;
        client.take_address()?;
        Ok(client)
    }
}

impl Client {
    /// Where it is now, as the controller must show it.
    pub(super) fn address(&self) -> String {
        format!("{}.{}", NETWORKS[self.network], self.number)
    }

    /// Moves to the other network: the old address is gone, the new one works.
    pub(super) fn roam(&mut self) -> Result<()> {
        let left = self.address();
        self.network = (self.network + 1) % NETWORKS.len();
        self.take_address()?;
        self.machine
            .run(&["ip", "address", "del", &format!("{left}/32"), "dev", WIRE])?;
        self.host.run(&["ip", "route", "del", &left]).map(drop)
    }

    /// Pulls the plug: from now on neither side hears the other.
    pub(super) fn unplug(&self) -> Result<()> {
        let words = ["ip", "link", "set", &self.device(), "down"];
        self.host.run(&words).map(drop)
    }

    /// Puts the plug back. A link that was down has lost its routes.
    pub(super) fn plug(&self) -> Result<()> {
        let words = ["ip", "link", "set", &self.device(), "up"];
        self.host.run(&words)?;
        self.route()
    }

    fn take_address(&self) -> Result<()> {
        let address = format!("{}/32", self.address());
        self.machine
            .run(&["ip", "address", "add", &address, "dev", WIRE])?;
        self.route()
    }

    fn route(&self) -> Result<()> {
        let address = self.address();
        let words = ["ip", "route", "replace", HOST, "dev", WIRE, "src", &address];
        self.machine.run(&words)?;
        let device = self.device();
        let words = [
            "ip", "route", "replace", &address, "dev", &device, "src", HOST,
        ];
        self.host.run(&words).map(drop)
    }

    /// The host's end of the pair.
    fn device(&self) -> String {
        format!("to{}", self.number)
    }
}
