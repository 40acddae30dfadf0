//! One charon, on the VPN host or on a client, with a configuration of its own.
//!
//! ESP is done by the plugin kernel-libipsec on a TUN device, so that no kernel needs to know it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::lan::{Client, HOST};
use super::super::scene::Scene;
use super::super::session::Window;
use crate::lab::Lab;
use crate::lab::machine::Machine;
use crate::shell;

/// The address that clients reach through the tunnel (RFC 5737, TEST-NET-2).
pub(super) const INSIDE: &str = "198.51.100.1";
/// What clients get: benchmarking addresses (RFC 2544), of which nothing else here is.
const POOL: &str = "198.18.0.0/24";
/// The same for all: who a client is, its IKE identity says.
const SECRET: &str = "lab";
const PROPOSALS: &str = "aes128-sha256-modp2048";
/// The end of the names of clients who are to authenticate anew after seconds.
pub(super) const SHORT_LIVED: &str = ".short.test";
/// The server's name in messages and logs.
pub(super) const SERVER: &str = "charon-server";
const UP_WITHIN: Duration = Duration::from_secs(20);
/// A ping is answered in milliseconds or not at all.
const PING_WITHIN: Duration = Duration::from_secs(5);

/// Where a charon runs, and its folder in the lab's.
pub(super) struct Charon {
    pub(super) machine: Machine,
    pub(super) name: String,
    folder: PathBuf,
}

/// A client.
pub(in crate::e2e::connections) struct Peer {
    pub(super) at: Client,
    pub(super) charon: Charon,
    /// As the controller must show it.
    pub(super) identity: String,
}

/// Where the server's VICI socket is.
pub(super) fn server_socket(lab: &Lab) -> PathBuf {
    lab.path(SERVER).join("vici")
}

/// Starts the server: pre-shared key, one session an identity, silence is noticed in seconds. Who is
/// in [`SHORT_LIVED`] is to authenticate anew after 4 s, or is put out after 7 s; there silence is
/// not noticed before.
pub(super) fn start_server(scene: &mut Scene) -> Result<Charon> {
    let machine = scene.host();
    machine.run(&["ip", "address", "add", &format!("{INSIDE}/32"), "dev", "lo"])?;
    let connection = |name, remote_id: String, times| {
        format!(
            " {name} {{\n  version = 2\n  local_addrs = {HOST}\n  encap = yes\n  unique = replace\n  \
             {times}\n  rekey_time = 0\n  pools = clients\n  proposals = {PROPOSALS}\n  \
             local {{\n   auth = psk\n   id = server.test\n  }}\n  \
             remote {{\n   auth = psk\n   id = {remote_id}\n  }}\n  \
             children {{\n   net {{\n    local_ts = {INSIDE}/32\n    esp_proposals = aes128-sha256\n    \
             dpd_action = clear\n   }}\n  }}\n }}\n"
        )
    };
    let short =
        "reauth_time = 4s\n  over_time = 3s\n  rand_time = 0\n  mobike = no\n  dpd_delay = 0";
    let config = format!(
        "connections {{\n{}{}}}\n\
         pools {{\n clients {{\n  addrs = {POOL}\n }}\n}}\n{}",
        connection("short", format!("*{SHORT_LIVED}"), short),
        connection("rw", "%any".to_owned(), "dpd_delay = 2s"),
        secrets()
    );
    let charon = Charon::prepare(scene, machine, SERVER, "", &config)?;
    charon.start(scene)?;
    Ok(charon)
}

/// A new client, whose charon runs and has done nothing yet.
pub(super) fn new_peer(scene: &mut Scene, name: &str) -> Result<Peer> {
    new_peer_with(scene, name, "")
}

/// The same with further options of its charon.
pub(super) fn new_peer_with(scene: &mut Scene, name: &str, options: &str) -> Result<Peer> {
    let identity = format!("{name}.test");
    let name = format!("client-{name}");
    let at = scene.new_client(&name)?;
    let config = format!(
        "connections {{\n rw {{\n  version = 2\n  remote_addrs = {HOST}\n  encap = yes\n  vips = 0.0.0.0\n  \
         dpd_delay = 2s\n  rekey_time = 0\n  proposals = {PROPOSALS}\n  \
         local {{\n   auth = psk\n   id = {identity}\n  }}\n  remote {{\n   auth = psk\n   id = server.test\n  }}\n  \
         children {{\n   net {{\n    remote_ts = {INSIDE}/32\n    esp_proposals = aes128-sha256\n   }}\n  }}\n }}\n}}\n{}",
        secrets()
    );
    let charon = Charon::prepare(
        scene,
        at.machine,
        &format!("charon-{name}"),
        options,
        &config,
    )?;
    charon.start(scene)?;
    Ok(Peer {
        at,
        charon,
        identity,
    })
}

fn secrets() -> String {
    format!("secrets {{\n ike-all {{\n  secret = {SECRET}\n }}\n}}\n")
}

impl Charon {
    fn prepare(
        scene: &Scene,
        machine: Machine,
        name: &str,
        options: &str,
        config: &str,
    ) -> Result<Self> {
        let folder = scene.lab.path(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make the folder of {name}"))?;
        let socket = folder.join("vici");
        let daemon = format!(
            "charon-systemd {{\n {options}\n load = random nonce aes sha1 sha2 hmac kdf gmp kernel-libipsec \
             kernel-netlink socket-default vici updown\n journal {{\n  default = -1\n }}\n \
             filelog {{\n  stderr {{\n   default = 1\n   flush_line = yes\n  }}\n }}\n \
             retransmit_tries = 4\n retransmit_timeout = 1.0\n retransmit_base = 1.2\n \
             plugins {{\n  vici {{\n   socket = unix://{}\n  }}\n  kernel-libipsec {{\n   \
             allow_peer_ts = yes\n  }}\n }}\n}}\nswanctl {{\n load = pem\n}}\n",
            socket.display()
        );
        let write = |file: &str, text: &str| {
            fs::write(folder.join(file), text).with_context(|| format!("cannot write {file}"))
        };
        write("strongswan.conf", &daemon)?;
        write("swanctl.conf", config)?;
        Ok(Self {
            machine,
            name: name.to_owned(),
            folder,
        })
    }

    /// Starts it and lets it read its configuration.
    pub(super) fn start(&self, scene: &mut Scene) -> Result<()> {
        let mut command = self.machine.command("env");
        command.args([&self.environment()[0], "charon-systemd"]);
        scene.lab.start(&self.name, command)?;
        let what = format!("the VICI socket of {}", self.name);
        scene.wait_for(&what, UP_WITHIN, |_| {
            let stats = self.swanctl(&["--stats"]);
            Ok(stats.is_ok().then_some(()))
        })?;
        self.swanctl(&["--load-all", "--noprompt"]).map(drop)
    }

    /// Runs swanctl against it.
    pub(super) fn swanctl(&self, words: &[&str]) -> Result<String> {
        let uri = format!("unix://{}", self.folder.join("vici").display());
        let environment = self.environment();
        let (swanctl, environment) = (["swanctl"], environment.each_ref().map(String::as_str));
        let all = [
            &["env"][..],
            &environment,
            &swanctl,
            words,
            &["--uri", &uri],
        ];
        self.machine.run(&all.concat())
    }

    fn environment(&self) -> [String; 2] {
        let folder = self.folder.display();
        [
            format!("STRONGSWAN_CONF={folder}/strongswan.conf"),
            format!("SWANCTL_DIR={folder}"),
        ]
    }

    /// Whether it has an SA with this identity that carries traffic.
    pub(super) fn has(&self, identity: &str) -> Result<bool> {
        let sas = self.swanctl(&["--list-sas", "--raw"])?;
        let of_it = format!("remote-id={identity} ");
        let mut sas = sas.lines();
        Ok(sas.any(|sa| sa.contains(&of_it) && sa.contains(" state=ESTABLISHED ")))
    }

    /// The id of the SA of this identity.
    pub(super) fn id_of(&self, identity: &str) -> Result<String> {
        let sas = self.swanctl(&["--list-sas", "--raw"])?;
        let of_it = format!("remote-id={identity} ");
        let sa = sas.lines().find(|sa| sa.contains(&of_it));
        let (_, rest) = sa
            .and_then(|sa| sa.split_once("uniqueid="))
            .with_context(|| format!("{} has no SA of {identity}", self.name))?;
        Ok(rest.split(' ').next().unwrap_or_default().to_owned())
    }
}

impl Peer {
    /// Connects; when that was.
    pub(super) fn connect(&self, scene: &mut Scene) -> Result<Window> {
        let (window, _) =
            scene.timed(|_| self.charon.swanctl(&["--initiate", "--child", "net"]))?;
        Ok(window)
    }

    /// Says goodbye.
    pub(super) fn leave(&self) -> Result<()> {
        self.charon
            .swanctl(&["--terminate", "--ike", "rw"])
            .map(drop)
    }

    /// Ends its charon without a word (kill -9).
    pub(super) fn kill(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.crash(&self.charon.name)
    }

    /// Sends some packets; whether all were answered.
    pub(super) fn pings(&self) -> Result<bool> {
        let mut command = self.at.machine.command("ping");
        command.args(["-n", "-q", "-c", "3", "-i", "0.2", "-W", "1", INSIDE]);
        Ok(shell::output(command, None, PING_WITHIN)?.status.success())
    }
}
