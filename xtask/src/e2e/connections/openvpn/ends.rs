//! OpenVPN clients, on machines of their own, and the certificates of all ends.
//!
//! Certificates are made by openssl, in the lab's folder.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::super::lan::{self, HOST};
use super::super::scene::{SOON, Scene};
use super::super::session::Window;
use super::servers::{Server, folder};
use crate::lab::Lab;
use crate::shell;

/// What the client prints when it is connected.
const CONNECTED: &str = "Initialization Sequence Completed";
/// A handshake on a busy machine, and a second's pause before each attempt.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// One client and its program.
pub(in crate::e2e::connections) struct Client {
    pub(super) at: lan::Client,
    /// Its common name.
    pub(super) name: String,
    server: Server,
    program: String,
}

impl Client {
    /// A new client with a certificate of its own, not started yet.
    pub(super) fn new(scene: &mut Scene, server: Server, name: &str) -> Result<Self> {
        certificate(&folder(&scene.lab), name, "clientAuth")?;
        Self::on_a_machine(scene, server, name, name)
    }

    /// The same certificate on another machine.
    pub(super) fn twin(&self, scene: &mut Scene) -> Result<Self> {
        let machine = format!("{}-twin", self.name);
        Self::on_a_machine(scene, self.server, &self.name, &machine)
    }

    fn on_a_machine(scene: &mut Scene, server: Server, name: &str, machine: &str) -> Result<Self> {
        Ok(Self {
            at: scene.new_client(&format!("client-{machine}"))?,
            name: name.to_owned(),
            server,
            program: format!("openvpn-client-{machine}"),
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
            self.server.client_protocol,
            "--remote",
            HOST,
            self.server.port,
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

    /// It is about to be told by the server to end.
    pub(super) fn may_end(&self, scene: &mut Scene) {
        scene.lab.may_end(&self.program);
    }

    /// Waits until it has ended by itself, as the server told it to.
    pub(super) fn ended(&self, scene: &mut Scene) -> Result<()> {
        let by = Instant::now() + SOON;
        while scene.lab.runs(&self.program)? {
            ensure!(
                Instant::now() < by,
                "{} still runs, though the server told it to end",
                self.program
            );
            shell::pause(shell::LOOK_AGAIN)?;
        }
        Ok(())
    }

    /// How often its keys were renewed.
    pub(super) fn rekeyed(&self, scene: &Scene) -> usize {
        count(&scene.lab.log(&self.program), "Control Channel: TLS").saturating_sub(1)
    }
}

/// How often a program has said that it is connected, or serves.
pub(super) fn said(lab: &Lab, program: &str) -> usize {
    count(&lab.log(program), CONNECTED)
}

/// How often a log has these words.
pub(super) fn count(log: &Path, words: &str) -> usize {
    let log = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&log).matches(words).count()
}

/// Waits until a program says so once more.
pub(super) fn wait_until_said(scene: &mut Scene, program: &str, before: usize) -> Result<()> {
    let log = scene.lab.log(program);
    let what = format!("the connection of {program}");
    scene.wait_for(&what, CONNECT_WITHIN, |_| {
        Ok((count(&log, CONNECTED) > before).then_some(()))
    })
}

/// A key and a certificate of the lab's authority.
pub(super) fn certificate(folder: &Path, name: &str, usage: &str) -> Result<()> {
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

/// Runs openssl in the folder.
pub(super) fn openssl(folder: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new("openssl");
    command.args(arguments).current_dir(folder);
    shell::succeed(command, None, SOON).map(drop)
}
