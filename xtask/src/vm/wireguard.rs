//! A WireGuard server on the guest, of its own kernel, and a client in a network namespace beside it:
//! one that stays, of a server that `wg-quick@wg0.service` starts ([`Tunnel`]), or one after the
//! other ([`serve`], [`session`]).

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

/// The client's network and a wire to it, and the client's interface, whose key never leaves it.
/// TEST-NET-2 is inside the tunnel.
const WIRE: &str = r#"set -e
umask 077
ip netns add client
ip link add wire0 type veth peer name wire0 netns client
ip address add 192.0.2.1/24 dev wire0
ip link set wire0 up
ip -n client address add 192.0.2.2/24 dev wire0
ip -n client link set wire0 up
server=$(wg genkey)
ip -n client link add wg0 type wireguard
ip netns exec client wg set wg0 peer "$(wg pubkey <<< "$server")" \
    endpoint 192.0.2.1:51820 allowed-ips 198.51.100.1/32
ip -n client link set wg0 up
"#;

/// A server whose keys are where wg-quick looks for them, and the client that says hello by itself.
const LAY: &str = r#"
client=$(wg genkey)
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
ip -n client address add 198.51.100.2/24 dev wg0
ip netns exec client wg set wg0 private-key /dev/stdin \
    peer "$(wg pubkey <<< "$server")" persistent-keepalive 5 <<< "$client"
systemctl enable --now --quiet wg-quick@wg0.service
"#;

/// A server that knows nobody yet and that the next boot does not know.
const SERVE: &str = r#"
ip link add wg0 type wireguard
wg set wg0 listen-port 51820 private-key /dev/stdin <<< "$server"
ip address add 198.51.100.1/24 dev wg0
ip link set wg0 up
"#;

/// A client of this number comes, pings and goes.
const SESSION: &str = r#"set -e
key=$(wg genkey)
public=$(printf %s "$key" | wg pubkey)
wg set wg0 peer "$public" allowed-ips "198.51.100.$N/32"
printf %s "$key" | ip netns exec client wg set wg0 private-key /dev/stdin
ip -n client address flush dev wg0
ip -n client address add "198.51.100.$N/24" dev wg0
ip netns exec client ping -q -c 2 -i 0.5 -W 5 198.51.100.1 >/dev/null
sleep "$STAYS"
wg set wg0 peer "$public" remove
"#;

/// See the module's page.
pub(super) struct Tunnel {
    /// The client's public key.
    pub(super) client: String,
}

impl Tunnel {
    /// Brings up the server, and a client that says hello by itself.
    pub(super) fn lay(vm: &mut Vm) -> Result<Self> {
        vm.sh(&format!("{WIRE}{LAY}"))?;
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

/// Brings up a server and the network of the clients of [`session`].
pub(super) fn serve(vm: &mut Vm) -> Result<()> {
    vm.sh(&format!("{WIRE}{SERVE}")).map(drop)
}

/// One client connects and goes after `stays`. `number` is from 2 to 250.
pub(super) fn session(vm: &mut Vm, number: u32, stays: &str) -> Result<()> {
    vm.sh(&format!("N={number}\nSTAYS={stays}\n{SESSION}"))
        .map(drop)
}
