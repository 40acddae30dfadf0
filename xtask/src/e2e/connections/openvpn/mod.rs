//! OpenVPN: clients come, roam, rekey, and end in every way the daemon knows a word for.
//!
//! The agent holds the management interface; scenarios look at the status file. What the server
//! tells goodbye is listed for 5 s more, so polite ends and orders show late.

mod ends;
mod orders;
mod servers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use self::ends::Client;
use self::servers::{DUAL, PLAIN, SERVERS, Server, TCP};
use super::operator::{Measured, Operated as _, Times};
use super::part::{Daemon, Length, Scenario, scenario};
use super::scene::{SOON, Scene, SessionNo};
use super::session::{End, Session, Window};
use crate::apt::{self, need};
use crate::lab::{Lab, tunnel};
use crate::shell;

/// OpenVPN dates starts to the second.
const START_MS: i64 = 2_500;
/// What the agent hears at once, on a busy machine.
const HEARD_MS: i64 = 2_500;
/// Twice the second number of `keepalive 2 6`, and the time between two looks at the counters.
const SILENCE_MS: i64 = 12_000 + 10_000 + HEARD_MS;
/// The last look before the agent was killed.
const LOOK_MS: i64 = 10_000 + HEARD_MS;

/// See the module's page.
pub(super) struct OpenVpn {
    /// A client that stays, with the session it is in.
    alice: Option<(Client, SessionNo)>,
    /// Where the servers have their files.
    folder: PathBuf,
    /// For orders that are measured.
    measured: Measured<Client>,
    /// The same at the server that knows nobody by an IPv4 address.
    slow_clients: usize,
    slow_times: Times,
}

impl Daemon for OpenVpn {
    const NAME: &'static str = "openvpn";
    const NEEDS: &'static [apt::Need] = &[need("openvpn", "openvpn"), need("openssl", "openssl")];
    const LOGS: &'static [&'static str] = &[PLAIN.name, DUAL.name, TCP.name];

    fn obstacle() -> Result<Option<String>> {
        Ok(tunnel::no_tun())
    }

    fn settings(lab: &Lab) -> String {
        let sockets = SERVERS.map(|server| format!("{:?}", server.socket(lab)));
        format!("[openvpn]\nmanagement = [{}]\n", sockets.join(", "))
    }

    fn start(scene: &mut Scene) -> Result<Self> {
        servers::start_all(scene)?;
        Ok(Self {
            alice: None,
            folder: servers::folder(&scene.lab),
            measured: Measured::default(),
            slow_clients: 0,
            slow_times: Times::default(),
        })
    }

    fn scenarios() -> Vec<Scenario<Self>> {
        use Length::{Full, Short, Usual};
        vec![
            scenario(Short, "connect", Self::connect),
            scenario(Short, "polite exit", Self::polite_exit),
            scenario(Usual, "silent client (kill -9)", Self::silent_client),
            scenario(Short, "roam to another address", Self::roam),
            scenario(Short, "reconnect of the same name", Self::reconnect),
            scenario(Short, "same name on another machine", Self::twin),
            scenario(Short, "TCP client killed", Self::tcp_client_killed),
            scenario(Short, "rekey", Self::rekey),
            scenario(Short, "agent killed in between", Self::agent_killed),
            scenario(Short, "connections disconnect", Self::disconnect),
            scenario(Usual, "disconnect after roaming", Self::disconnect_roamed),
            scenario(Short, "disconnect over TCP", Self::disconnect_tcp),
            scenario(Short, "disconnect at a dual-stack server", |me, scene| {
                me.disconnect_dual(scene, 1)
            }),
            scenario(
                Usual,
                "disconnect at a dual-stack server (4 more)",
                |me, scene| me.disconnect_dual(scene, 4),
            ),
            scenario(
                Usual,
                "daemon hangs while a session is to end",
                Self::daemon_hangs,
            ),
            scenario(
                Usual,
                "agent killed while it ends a session",
                Self::killed_meanwhile,
            ),
            scenario(Short, "device revoke", Self::device_revoke),
            scenario(Usual, "personal-key revoke", Self::key_revoke),
            scenario(Usual, "disconnect in time (30)", |me, scene| {
                me.disconnect_in_time(scene, 30)
            }),
            scenario(Full, "disconnect in time (120 more)", |me, scene| {
                me.disconnect_in_time(scene, 120)
            }),
            scenario(Short, "server begins anew (SIGUSR1)", Self::server_anew),
            scenario(Short, "daemon stopped", Self::daemon_stopped),
            scenario(Short, "daemon killed", Self::daemon_killed),
        ]
    }
}

impl OpenVpn {
    fn connect(&mut self, scene: &mut Scene) -> Result<()> {
        let client = Client::new(scene, PLAIN, "alice")?;
        let started = client.start(scene, &["--reneg-sec", "5"])?;
        let session = state(scene, &client, started);
        let row = scene.row(session)?;
        ensure!(
            row.client_ip == client.at.address(),
            "the row says that the client is at {}, it is at {}",
            row.client_ip,
            client.at.address()
        );
        self.alice = Some((client, session));
        Ok(())
    }

    fn polite_exit(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, PLAIN, "polite", &["--explicit-exit-notify", "1"])?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| client.stop(scene))?;
        scene.ends(session, told(at, &["client_disconnect"]));
        Ok(())
    }

    fn silent_client(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, PLAIN, "silent", &[])?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| client.crash(scene))?;
        let end = End {
            within_ms: SILENCE_MS,
            uncertainty_ms: SILENCE_MS,
            ..told(at, &["timeout"])
        };
        scene.ends_within(session, end, SOON + Duration::from_secs(20));
        Ok(())
    }

    fn roam(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = self.alice()?;
        client.at.roam()?;
        let address = client.at.address();
        scene.row_that(*session, "with the new address", SOON, |row| {
            row.client_ip == address
        })?;
        Ok(())
    }

    /// The client restarts its tunnel without a word: the server drops its former session for it.
    fn reconnect(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = self.alice()?;
        let at = client.connects(scene, |scene| client.signal(scene, Signal::SIGUSR1))?;
        scene.ends(*session, told(at, &["replaced"]));
        *session = state(scene, client, at);
        scene.row(*session).map(drop)
    }

    /// A certificate is used on a second machine: the server drops the first one's session.
    fn twin(&mut self, scene: &mut Scene) -> Result<()> {
        let polite = &["--explicit-exit-notify", "1"];
        let (first, session) = join(scene, PLAIN, "copied", &[])?;
        scene.row(session)?;
        let second = first.twin(scene)?;
        // Starts are told in seconds: these two must be told apart.
        shell::pause(Duration::from_secs(3))?;
        let at = second.start(scene, polite)?;
        // It does not know yet, and would take its place back.
        first.crash(scene)?;
        scene.ends(session, told(at, &["replaced"]));
        let session = state(scene, &second, at);
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| second.stop(scene))?;
        scene.ends(session, told(at, &["client_disconnect"]));
        Ok(())
    }

    fn tcp_client_killed(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, TCP, "over-tcp", &[])?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| client.crash(scene))?;
        scene.ends(session, told(at, &["connection_reset"]));
        Ok(())
    }

    fn rekey(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, _) = self.alice()?;
        let before = client.rekeyed(scene);
        shell::pause(Duration::from_secs(12))?;
        let times = client.rekeyed(scene).saturating_sub(before);
        ensure!(times >= 2, "there were {times} rekeys");
        Ok(())
    }

    /// While the agent is away one stays, one comes, one goes, and an administrator ends one.
    fn agent_killed(&mut self, scene: &mut Scene) -> Result<()> {
        let polite = &["--explicit-exit-notify", "1"];
        let (leaver, left) = join(scene, PLAIN, "leaver", polite)?;
        let (kicked, ended) = join(scene, PLAIN, "kicked-by-hand", polite)?;
        scene.row(left)?;
        scene.row(ended)?;
        scene.kill_agent()?;
        let (at, ()) = scene.timed(|scene| leaver.stop(scene))?;
        scene.ends(left, unseen(at));
        let (at, ()) = scene.timed(|scene| {
            PLAIN.kill_by_name(&scene.lab, &kicked.name)?;
            kicked.stop(scene)
        })?;
        scene.ends(ended, unseen(at));
        let (newcomer, came) = join(scene, PLAIN, "newcomer", polite)?;
        // The server lists the one that left for 5 s more.
        shell::pause(Duration::from_secs(7))?;
        scene.start_agent()?;
        scene.row(came)?;
        let (at, ()) = scene.timed(|scene| newcomer.stop(scene))?;
        scene.ends(came, told(at, &["client_disconnect"]));
        Ok(())
    }

    /// All its clients have to come again.
    fn server_anew(&mut self, scene: &mut Scene) -> Result<()> {
        self.again(scene, "observed", |scene| {
            PLAIN.signal(scene, Signal::SIGUSR1)
        })
    }

    fn daemon_stopped(&mut self, scene: &mut Scene) -> Result<()> {
        self.again(scene, "observed", |scene| {
            scene.lab.stop(PLAIN.name)?;
            PLAIN.start(scene)
        })
    }

    fn daemon_killed(&mut self, scene: &mut Scene) -> Result<()> {
        self.again(scene, "inferred", |scene| {
            scene.lab.crash(PLAIN.name)?;
            PLAIN.start(scene)
        })
    }

    /// The server goes through `act`; the client that stays comes back by itself.
    fn again(
        &mut self,
        scene: &mut Scene,
        confidence: &'static str,
        act: impl FnOnce(&mut Scene) -> Result<()>,
    ) -> Result<()> {
        let (client, session) = self.alice()?;
        let (at, started) = scene.timed(|scene| client.connects(scene, act))?;
        let end = End {
            confidence,
            uncertainty_ms: LOOK_MS,
            ..told(at, &["daemon_down"])
        };
        scene.ends(*session, end);
        *session = state(scene, client, started);
        scene.row(*session).map(drop)
    }

    fn alice(&mut self) -> Result<&mut (Client, SessionNo)> {
        let left = self.alice.as_mut();
        left.ok_or_else(|| anyhow::anyhow!("`connect` broke before, which this goes on with"))
    }
}

/// A new client connects, and that is stated.
fn join(
    scene: &mut Scene,
    server: Server,
    name: &str,
    options: &[&str],
) -> Result<(Client, SessionNo)> {
    let client = Client::new(scene, server, name)?;
    let started = client.start(scene, options)?;
    let session = state(scene, &client, started);
    Ok((client, session))
}

fn state(scene: &mut Scene, client: &Client, started: Window) -> SessionNo {
    scene.began(Session {
        identity: client.name.clone(),
        started,
        start_within_ms: START_MS,
        end: None,
    })
}

/// An end that the daemon tells at once.
fn told(at: Window, reasons: &'static [&'static str]) -> End {
    End {
        at,
        within_ms: HEARD_MS,
        uncertainty_ms: HEARD_MS,
        reasons,
        confidence: "observed",
    }
}

/// An end while the agent did not run.
fn unseen(at: Window) -> End {
    End {
        at,
        within_ms: LOOK_MS,
        uncertainty_ms: 60_000,
        reasons: &["agent_restart"],
        confidence: "inferred",
    }
}
