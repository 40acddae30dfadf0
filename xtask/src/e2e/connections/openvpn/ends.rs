//! Real OpenVPN ends: the server on the lab's VPN host, and clients on machines of their own.
//!
//! Certificates are made by openssl, in the lab's folder. The status file is where scenarios see
//! whom the server has, apart from the agent.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::super::lan::{self, HOST};
use super::super::scene::{SOON, Scene};
use super::super::session::Window;
use crate::lab::Lab;
use crate::shell;

/// The server's name in the lab, and of its instance.
pub(super) const SERVER: &str = "openvpn-server";
/// What the client prints when it is connected.
const CONNECTED: &str = "Initialization Sequence Completed";
/// A handshake on a busy machine, and a second's pause before each attempt.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// One client and its program.
pub(super) struct Client {
    pub(super) at: lan::Client,
    /// Its common name.
    pub(super) name: String,
    program: String,
}

/// Makes the authority and the server's certificate, and starts the server.
pub(super) fn start_first(scene: &mut Scene) -> Result<()> {
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
    let config = format!(
        "mode server\ntls-server\nproto udp\nlocal {HOST}\nport 1194\ndev tun-lab\ndev-type tun\n\
         topology subnet\nserver 10.98.0.0 255.255.255.0\nca ca.crt\ncert server.crt\n\
         key server.key\ndh none\nkeepalive 2 6\nmanagement {} unix\nstatus status.log 1\n\
         status-version 3\nverb 3\n",
        socket(&scene.lab)
    );
    fs::write(folder.join("server.conf"), config)?;
    start(scene)
}

/// Starts the server, and waits until it has its management interface.
pub(super) fn start(scene: &mut Scene) -> Result<()> {
    let folder = folder(&scene.lab);
    let mut command = scene.host().command("openvpn");
    command
        .arg("--cd")
        .arg(&folder)
        .args(["--config", "server.conf"]);
    let before = said(&scene.lab, SERVER);
    scene.lab.start(SERVER, command)?;
    wait_until_said(scene, SERVER, before)
}

/// The server's management interface.
pub(super) fn socket(lab: &Lab) -> String {
    lab.path("openvpn/server.sock").display().to_string()
}

/// Sends the server a signal.
pub(super) fn signal_server(scene: &Scene, signal: Signal) -> Result<()> {
    let pid = scene.lab.pid(SERVER).context("the server does not run")?;
    shell::end_group(pid, signal);
    Ok(())
}

/// Whether the server has a client of this name, by its status file, which is a second old at most.
pub(super) fn has(scene_folder: &Path, name: &str) -> Result<bool> {
    let list = fs::read_to_string(scene_folder.join("status.log"))?;
    let row = format!("CLIENT_LIST\t{name}\t");
    Ok(list.lines().any(|line| line.starts_with(&row)))
}

/// `kill NAME` over the management interface, which the agent must not hold.
pub(super) fn kill_by_name(lab: &Lab, name: &str) -> Result<()> {
    let mut stream = UnixStream::connect(socket(lab))?;
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

impl Client {
    /// A new client with a certificate of its own, not started yet.
    pub(super) fn new(scene: &mut Scene, name: &str) -> Result<Self> {
        certificate(&folder(&scene.lab), name, "clientAuth")?;
        Ok(Self {
            at: scene.new_client(&format!("client-{name}"))?,
            name: name.to_owned(),
            program: format!("openvpn-client-{name}"),
        })
    }

    /// Starts it, and waits until it is connected. Returns when that was.
    pub(super) fn start(&self, scene: &mut Scene, options: &[&str]) -> Result<Window> {
        let folder = folder(&scene.lab);
        let mut command = self.at.machine.command("openvpn");
        command.arg("--cd").arg(&folder).args([
            "--client",
            "--dev",
            "tun",
            "--proto",
            "udp",
            "--remote",
            HOST,
            "1194",
            "--nobind",
            "--ca",
            "ca.crt",
            "--remote-cert-tls",
            "server",
            "--connect-retry",
            "1",
            "2",
            "--pull-filter",
            "ignore",
            "route",
            "--verb",
            "3",
        ]);
        let (certificate, key) = (format!("{}.crt", self.name), format!("{}.key", self.name));
        command
            .args(["--cert", &certificate, "--key", &key])
            .args(options);
        self.connects(scene, |scene| {
            scene.lab.start(&self.program, command).map(drop)
        })
    }

    /// Does `act`, and waits until the client is connected anew. Returns when that was.
    pub(super) fn connects(
        &self,
        scene: &mut Scene,
        act: impl FnOnce(&mut Scene) -> Result<()>,
    ) -> Result<Window> {
        let before = said(&scene.lab, &self.program);
        let (at, ()) = scene.timed(|scene| {
            act(scene)?;
            wait_until_said(scene, &self.program, before)
        })?;
        Ok(at)
    }

    /// Sends its program a signal.
    pub(super) fn signal(&self, scene: &Scene, signal: Signal) -> Result<()> {
        let pid = scene.lab.pid(&self.program);
        shell::end_group(pid.context("the client does not run")?, signal);
        Ok(())
    }

    /// Ends it as its user does.
    pub(super) fn stop(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.stop(&self.program)
    }

    /// Ends it as a crash does.
    pub(super) fn crash(&self, scene: &mut Scene) -> Result<()> {
        scene.lab.crash(&self.program)
    }

    /// It ended by itself, as the server told it to.
    pub(super) fn ended(&self, scene: &mut Scene) -> Result<()> {
        let program = &self.program;
        let what = format!("the end of {program}");
        scene.lab.forget(program).context(what)
    }

    /// How often its keys were renewed.
    pub(super) fn rekeyed(&self, scene: &Scene) -> usize {
        count(&scene.lab, &self.program, "Control Channel: TLS").saturating_sub(1)
    }
}

/// Where configurations and certificates are.
pub(super) fn folder(lab: &Lab) -> std::path::PathBuf {
    lab.path("openvpn")
}

fn said(lab: &Lab, program: &str) -> usize {
    count(lab, program, CONNECTED)
}

fn count(lab: &Lab, program: &str, words: &str) -> usize {
    let log = fs::read(lab.log(program)).unwrap_or_default();
    String::from_utf8_lossy(&log).matches(words).count()
}

fn wait_until_said(scene: &mut Scene, program: &str, before: usize) -> Result<()> {
    let log = scene.lab.log(program);
    let what = format!("the connection of {program}");
    scene.wait_for(&what, CONNECT_WITHIN, |_| {
        let text = fs::read(&log).unwrap_or_default();
        let times = String::from_utf8_lossy(&text).matches(CONNECTED).count();
        Ok((times > before).then_some(()))
    })
}

fn certificate(folder: &Path, name: &str, usage: &str) -> Result<()> {
    let file = |extension: &str| format!("{name}.{extension}");
    fs::write(
        folder.join("usage"),
        format!("extendedKeyUsage={usage}\nkeyUsage=digitalSignature\n"),
    )?;
    openssl(
        folder,
        &[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            &file("key"),
            "-out",
            &file("csr"),
            "-subj",
            &format!("/CN={name}"),
        ],
    )?;
    openssl(
        folder,
        &[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "usage",
            "-out",
            &file("crt"),
        ],
    )
}

fn openssl(folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new("openssl");
    command.args(arguments).current_dir(folder);
    shell::succeed(command, None, SOON).map(drop)
}
