//! ocserv on the VPN host, and its clients: openconnect, each on a machine of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::lan::{Client, HOST};
use super::super::scene::Scene;
use crate::lab::Lab;
use crate::lab::machine::Machine;

/// The server's name in messages and logs.
pub(super) const SERVER: &str = "ocserv-server";
const PORT: &str = "4443";
/// Everybody's.
const PASSWORD: &str = "lab";
const UP_WITHIN: Duration = Duration::from_secs(20);

/// See the module's page.
pub(super) struct Gate {
    machine: Machine,
    folder: PathBuf,
    pin: String,
}

/// A client.
pub(in crate::e2e::connections) struct Peer {
    pub(super) at: Client,
    /// As the controller must show it.
    pub(super) user: String,
    name: String,
    pin: String,
}

/// Where occtl finds the server.
pub(super) fn control_socket(lab: &Lab) -> PathBuf {
    lab.path(SERVER).join("occtl.socket")
}

impl Gate {
    pub(super) fn start_new(scene: &mut Scene) -> Result<Self> {
        let machine = scene.host();
        let folder = scene.lab.path(SERVER);
        fs::create_dir(&folder).context("cannot make ocserv's folder")?;
        let at = |name: &str| folder.join(name).display().to_string();
        let (key, certificate, users) = (at("key.pem"), at("certificate.pem"), at("users"));
        machine.run(&[
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            &key,
            "-out",
            &certificate,
            "-subj",
            "/CN=lab",
            "-days",
            "2",
        ])?;
        let pin = machine.run(&[
            "sh",
            "-c",
            "openssl x509 -in \"$1\" -pubkey -noout | openssl pkey -pubin -outform der |
             openssl dgst -sha256 -binary | openssl base64 -A",
            "sh",
            &certificate,
        ])?;
        fs::write(&users, "").context("cannot write ocserv's users")?;
        let config = format!(
            "auth = \"plain[passwd={users}]\"\ntcp-port = {PORT}\nrun-as-user = root\n\
             run-as-group = root\nsocket-file = {}\nocctl-socket-file = {}\nuse-occtl = true\n\
             server-cert = {certificate}\nserver-key = {key}\nisolate-workers = false\n\
             max-clients = 64\nmax-same-clients = 4\nkeepalive = 30\ndpd = 5\nmobile-dpd = 5\n\
             try-mtu-discovery = false\ndevice = ocv\nipv4-network = 198.18.0.0\n\
             ipv4-netmask = 255.255.255.0\nping-leases = false\ncisco-client-compat = true\n\
             max-ban-score = 0\npid-file = {}\n",
            at("workers.socket"),
            at("occtl.socket"),
            at("pid"),
        );
        fs::write(folder.join("ocserv.conf"), config).context("cannot write ocserv.conf")?;
        let gate = Self {
            machine,
            folder,
            pin: format!("pin-sha256:{}", pin.trim()),
        };
        gate.start(scene)?;
        Ok(gate)
    }

    pub(super) fn start(&self, scene: &mut Scene) -> Result<()> {
        let mut command = self.machine.command("ocserv");
        command
            .arg("-f")
            .arg("-c")
            .arg(self.folder.join("ocserv.conf"));
        scene.lab.start(SERVER, command)?;
        scene.wait_for("ocserv to answer occtl", UP_WITHIN, |_| {
            Ok(self.occtl(&["show", "status"]).is_ok().then_some(()))
        })
    }

    /// All of its processes at once, without a word (kill -9).
    pub(super) fn crash(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.crash(SERVER)
    }

    /// A new client with its user.
    pub(super) fn new_peer(&self, scene: &mut Scene, name: &str) -> Result<Peer> {
        let at = scene.new_client(&format!("client-{name}"))?;
        let users = self.folder.join("users").display().to_string();
        let twice = format!("{PASSWORD}\n{PASSWORD}\n");
        let words = ["ocpasswd", "-c", &users, name];
        self.machine.run_with(&words, Some(&twice))?;
        Ok(Peer {
            at,
            user: name.to_owned(),
            name: format!("openconnect-{name}"),
            pin: self.pin.clone(),
        })
    }

    /// Whether the user is connected.
    pub(super) fn has(&self, peer: &Peer) -> Result<bool> {
        Ok(self.id_of(peer)?.is_some())
    }

    pub(super) fn disconnect(&self, peer: &Peer) -> Result<()> {
        let id = self.id_of(peer)?.context("the client is not connected")?;
        self.occtl(&["disconnect", "id", &id]).map(drop)
    }

    fn id_of(&self, peer: &Peer) -> Result<Option<String>> {
        let users = self.occtl(&["show", "users"])?;
        let mut users = users.lines().map(|line| line.split_whitespace());
        let found = users.find_map(|mut words| {
            let (id, user) = (words.next()?, words.next()?);
            (user == peer.user && words.last() == Some("connected")).then(|| id.to_owned())
        });
        Ok(found)
    }

    fn occtl(&self, words: &[&str]) -> Result<String> {
        let socket = self.folder.join("occtl.socket").display().to_string();
        self.machine
            .run(&[&["occtl", "-s", &socket], words].concat())
    }
}

impl Peer {
    /// Begins to connect.
    pub(super) fn connect(&self, scene: &mut Scene) -> Result<()> {
        // The shell stays when openconnect ends by itself, so that it can be ended like any other.
        let script = "ended=; trap 'ended=1' TERM
            printf '%s\\n' \"$1\" | openconnect --non-inter --passwd-on-stdin --user \"$2\" \\
                --servercert \"$3\" --script /bin/true --reconnect-timeout 1 \"$4\"
            [ \"$ended\" ] || sleep infinity";
        let mut command = self.at.machine.command("sh");
        let server = format!("https://{HOST}:{PORT}");
        command.args(["-c", script, "sh", PASSWORD, &self.user, &self.pin, &server]);
        scene.lab.start(&self.name, command).map(drop)
    }

    /// Says goodbye: openconnect does on SIGINT and SIGTERM.
    pub(super) fn leave(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.stop(&self.name)
    }

    /// Ends without a word (kill -9).
    pub(super) fn kill(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.crash(&self.name)
    }

    /// The server ended its session: it need not try to come back.
    pub(super) fn gone(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.stop(&self.name)
    }
}
