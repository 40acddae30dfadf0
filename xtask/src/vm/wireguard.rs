//! A WireGuard server on the guest, of its own kernel and started by `wg-quick@wg0.service`, and
//! one client in a network namespace beside it.

use std::time::Duration;

use anyhow::Result;

use super::qemu::Vm;

/// The unit that a person would start it with.
pub(super) const UNIT: &str = "wg-quick@wg0.service";
/// The client's addresses outside the tunnel (RFC 5737, TEST-NET-1), before and after it roams.
pub(super) const FIRST_ADDRESS: &str = "192.0.2.2";
pub(super) const SECOND_ADDRESS: &str = "192.0.2.3";
/// A lost handshake is tried again after 5 s (the WireGuard paper, section 6.1).
const CONNECTS_WITHIN: Duration = Duration::from_secs(60);

/// The server's keys are where wg-quick looks for them; the client's never leave the namespace's
/// interface. TEST-NET-2 is inside the tunnel.
const LAY: &str = r#"set -e
umask 077
ip netns add client
ip link add wire0 type veth peer name wire0 netns client
ip address add 192.0.2.1/24 dev wire0
ip link set wire0 up
ip -n client address add 192.0.2.2/24 dev wire0
ip -n client link set wire0 up
server=$(wg genkey) client=$(wg genkey)
mkdir -p /etc/wireguard
cat > /etc/wireguard/wg0.conf <<END
[Interface]
PrivateKey = $server
Address = 198.51.100.1/24
ListenPort = 51820
[Peer]
PublicKey = $(wg pubkey <<< "$client")
AllowedIPs = 198.51.100.2/32
END
ip -n client link add wg0 type wireguard
ip netns exec client wg set wg0 private-key /dev/stdin \
    peer "$(wg pubkey <<< "$server")" endpoint 192.0.2.1:51820 \
    allowed-ips 198.51.100.1/32 persistent-keepalive 5 <<< "$client"
ip -n client address add 198.51.100.2/24 dev wg0
ip -n client link set wg0 up
systemctl enable --now --quiet wg-quick@wg0.service
"#;

/// See the module's page.
pub(super) struct Tunnel {
    /// The client's public key.
    pub(super) client: String,
}

impl Tunnel {
    /// Brings up the server, and a client that says hello by itself.
    pub(super) fn lay(vm: &mut Vm) -> Result<Self> {
        vm.sh(LAY)?;
        let client = vm.sh("ip netns exec client wg show wg0 public-key")?;
        Ok(Self {
            client: client.trim().to_owned(),
        })
    }

    /// Waits until a ping goes through.
    pub(super) fn must_answer(&self, vm: &mut Vm) -> Result<()> {
        vm.wait_for("a ping through the tunnel", CONNECTS_WITHIN, |vm| {
            Ok(self.answers(vm)?.then_some(()))
        })
    }

    /// Whether one ping of the client's is answered.
    pub(super) fn answers(&self, vm: &mut Vm) -> Result<bool> {
        let ping = "ip netns exec client ping -n -c 1 -W 2 198.51.100.1";
        Ok(vm.run(ping, CONNECTS_WITHIN)?.status == 0)
    }

    /// The client gets another address, as a telephone does that leaves the house.
    pub(super) fn roam(&self, vm: &mut Vm) -> Result<()> {
        vm.sh("ip -n client address del 192.0.2.2/24 dev wire0 && \
             ip -n client address add 192.0.2.3/24 dev wire0")?;
        self.must_answer(vm)
    }

    /// An administrator takes the client off.
    pub(super) fn remove(&self, vm: &mut Vm) -> Result<()> {
        vm.sh(&format!("wg set wg0 peer '{}' remove", self.client))
            .map(drop)
    }
}
