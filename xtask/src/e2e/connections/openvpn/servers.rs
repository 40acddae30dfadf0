//! The OpenVPN servers on the lab's VPN host: one as most are, one that serves IPv6 too, one over TCP.
//!
//! The agent holds their management interfaces. The status file and the log are where scenarios
//! see whom a server has, apart from the agent.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::super::scene::{SOON, Scene};
use super::ends::{certificate, openssl, said, wait_until_said};
use crate::lab::Lab;
use crate::shell;

/// One server.
#[derive(Clone, Copy)]
pub(super) struct Server {
    /// Its name in the lab, and of its instance.
    pub(super) name: &'static str,
    pub(super) port: &'static str,
    /// `proto` of its clients.
    pub(super) client_protocol: &'static str,
    /// Where it listens.
    listens: &'static str,
    /// Its network inside, of 24 bits.
    inside: &'static str,
}

/// Of `proto udp` OpenVPN makes an IPv4 socket.
pub(super) const PLAIN: Server = Server {
    name: "openvpn-server",
    port: "1194",
    client_protocol: "udp4",
    listens: "proto udp",
    inside: "10.98.0.0",
};

/// An IPv6 socket that takes IPv4 as well.
pub(super) const DUAL: Server = Server {
    name: "openvpn-dual",
    port: "1195",
    client_protocol: "udp4",
    listens: "proto udp6",
    inside: "10.98.1.0",
};

pub(super) const TCP: Server = Server {
    name: "openvpn-tcp",
    port: "1196",
    client_protocol: "tcp4",
    listens: "proto tcp-server",
    inside: "10.98.2.0",
};

/// All of them.
pub(super) const SERVERS: [Server; 3] = [PLAIN, DUAL, TCP];

/// Makes the authority and the servers' certificate, and starts the servers.
pub(super) fn start_all(scene: &mut Scene) -> Result<()> {
    let folder = folder(&scene.lab);
    fs::create_dir_all(&folder)?;
    openssl(
        &folder,
        &[
            "req",
            "-x509",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            "ca.key",
            "-out",
            "ca.crt",
            "-subj",
            "/CN=lab",
            "-days",
            "2",
        ],
    )?;
    certificate(&folder, "server", "serverAuth")?;
    for server in SERVERS {
        server.configure(&scene.lab)?;
        server.start(scene)?;
    }
    Ok(())
}

/// Where configurations and certificates are.
pub(super) fn folder(lab: &Lab) -> PathBuf {
    lab.path("openvpn")
}

impl Server {
    /// Starts it, and waits until it has its management interface.
    pub(super) fn start(self, scene: &mut Scene) -> Result<()> {
        let folder = folder(&scene.lab);
        let mut command = scene.host().command("openvpn");
        let config = format!("{}.conf", self.name);
        command.arg("--cd").arg(&folder).args(["--config", &config]);
        let before = said(&scene.lab, self.name);
        scene.lab.start(self.name, command)?;
        wait_until_said(scene, self.name, before)
    }

    fn configure(self, lab: &Lab) -> Result<()> {
        let Self {
            name,
            port,
            listens,
            inside,
            ..
        } = self;
        let config = format!(
            "mode server\ntls-server\n{listens}\nport {port}\ndev {}\ndev-type tun\n\
             topology subnet\nserver {inside} 255.255.255.0\nca ca.crt\ncert server.crt\n\
             key server.key\ndh none\nkeepalive 2 6\nmanagement {} unix\nstatus {name}.status 1\n\
             status-version 3\nverb 3\n",
            // The name of an interface has 15 bytes at most.
            name.replace("openvpn", "tun"),
            self.socket(lab)
        );
        fs::write(folder(lab).join(format!("{name}.conf")), config)?;
        Ok(())
    }

    /// Its management interface.
    pub(super) fn socket(self, lab: &Lab) -> String {
        let socket = format!("openvpn/{}.sock", self.name);
        lab.path(&socket).display().to_string()
    }

    /// Sends it a signal.
    pub(super) fn signal(self, scene: &Scene, signal: Signal) -> Result<()> {
        let pid = scene.lab.pid(self.name);
        shell::end_group(pid.context("the server does not run")?, signal);
        Ok(())
    }

    /// Whether it has a client of this name, by its status file, which is a second old at most.
    pub(super) fn has(self, folder: &Path, name: &str) -> Result<bool> {
        let list = fs::read_to_string(folder.join(format!("{}.status", self.name)))?;
        let row = format!("CLIENT_LIST\t{name}\t");
        Ok(list.lines().any(|line| line.starts_with(&row)))
    }

    /// `kill NAME` over the management interface, which the agent must not hold.
    pub(super) fn kill_by_name(self, lab: &Lab, name: &str) -> Result<()> {
        let mut stream = UnixStream::connect(self.socket(lab))?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(format!("kill {name}\n").as_bytes())?;
        for line in BufReader::new(stream).lines() {
            let line = line.context("the management interface says nothing: is it held?")?;
            if line.starts_with("SUCCESS:") || line.starts_with("ERROR:") {
                ensure!(line.starts_with("SUCCESS:"), "kill {name}: {line}");
                return Ok(());
            }
        }
        anyhow::bail!("the management interface closed before it answered")
    }
}
