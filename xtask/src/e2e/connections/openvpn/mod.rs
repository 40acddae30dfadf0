//! OpenVPN: clients come, roam, rekey, and end in every way the daemon knows a word for.
//!
//! The agent holds the management interface; scenarios look at the status file. What the server
//! tells goodbye is listed for 5 s more, so polite ends and orders show late.

mod ends;

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use self::ends::{Client, SERVER};
use super::operator;
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
}

impl Daemon for OpenVpn {
    const NAME: &'static str = "openvpn";
    const NEEDS: &'static [apt::Need] = &[need("openvpn", "openvpn"), need("openssl", "openssl")];
    const LOGS: &'static [&'static str] = &[SERVER];

    fn obstacle() -> Result<Option<String>> {
        Ok(tunnel::no_tun())
    }

    fn settings(lab: &Lab) -> String {
        format!("[openvpn]\nmanagement = [\"{}\"]\n", ends::socket(lab))
    }

    fn start(scene: &mut Scene) -> Result<Self> {
        ends::start_first(scene)?;
        Ok(Self { alice: None })
    }

    fn scenarios() -> Vec<Scenario<Self>> {
        use Length::{Short, Usual};
        vec![
            scenario(Short, "connect", Self::connect),
            scenario(Short, "polite exit", Self::polite_exit),
            scenario(Usual, "silent client (kill -9)", Self::silent_client),
            scenario(Short, "roam to another address", Self::roam),
            scenario(Short, "reconnect of the same name", Self::reconnect),
            scenario(Short, "rekey", Self::rekey),
            scenario(Short, "agent killed in between", Self::agent_killed),
            scenario(Short, "connections disconnect", Self::disconnect),
            scenario(Short, "device revoke", Self::device_revoke),
            scenario(Short, "server begins anew (SIGUSR1)", Self::server_anew),
            scenario(Short, "daemon stopped", Self::daemon_stopped),
            scenario(Short, "daemon killed", Self::daemon_killed),
        ]
    }
}

impl OpenVpn {
    fn connect(&mut self, scene: &mut Scene) -> Result<()> {
        let client = Client::new(scene, "alice")?;
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
        let (client, session) = join(scene, "polite", &["--explicit-exit-notify", "1"])?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| client.stop(scene))?;
        scene.ends(session, told(at, &["client_disconnect"]));
        Ok(())
    }

    fn silent_client(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, "silent", &[])?;
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

    /// The client restarts its tunnel: the server has a new session of it within two seconds.
    fn reconnect(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = self.alice()?;
        let before = scene.row(*session)?.client_port;
        client.connects(scene, |scene| client.signal(scene, Signal::SIGUSR1))?;
        scene.row_that(*session, "with the new port", SOON, |row| {
            row.client_port != before
        })?;
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
        let (leaver, left) = join(scene, "leaver", polite)?;
        let (kicked, ended) = join(scene, "kicked-by-hand", polite)?;
        scene.row(left)?;
        scene.row(ended)?;
        scene.kill_agent()?;
        let (at, ()) = scene.timed(|scene| leaver.stop(scene))?;
        scene.ends(left, unseen(at));
        let (at, ()) = scene.timed(|scene| {
            ends::kill_by_name(&scene.lab, &kicked.name)?;
            kicked.stop(scene)
        })?;
        scene.ends(ended, unseen(at));
        let (newcomer, came) = join(scene, "newcomer", polite)?;
        // The server lists the one that left for 5 s more.
        shell::pause(Duration::from_secs(7))?;
        scene.start_agent()?;
        scene.row(came)?;
        let (at, ()) = scene.timed(|scene| newcomer.stop(scene))?;
        scene.ends(came, told(at, &["client_disconnect"]));
        Ok(())
    }

    fn disconnect(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, "disconnected", &[])?;
        let folder = ends::folder(&scene.lab);
        let is_gone = || {
            // The status file is written every second.
            shell::pause(Duration::from_millis(1_500))?;
            Ok(!ends::has(&folder, &client.name)?)
        };
        let (at, _) = operator::disconnect(scene, session, is_gone)?;
        scene.ends(session, told(at, &["admin_kick"]));
        client.ended(scene)
    }

    fn device_revoke(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, "revoked", &[])?;
        let device = operator::add_device(scene, session, "--cert", &client.name)?;
        let folder = ends::folder(&scene.lab);
        let is_gone = || Ok(!ends::has(&folder, &client.name)?);
        let at = operator::revoke_device(scene, &device, is_gone)?;
        scene.ends(session, told(at, &["revoked"]));
        client.ended(scene)
    }

    /// All its clients have to come again.
    fn server_anew(&mut self, scene: &mut Scene) -> Result<()> {
        self.again(scene, "observed", |scene| {
            ends::signal_server(scene, Signal::SIGUSR1)
        })
    }

    fn daemon_stopped(&mut self, scene: &mut Scene) -> Result<()> {
        self.again(scene, "observed", |scene| {
            scene.lab.stop(SERVER)?;
            ends::start(scene)
        })
    }

    fn daemon_killed(&mut self, scene: &mut Scene) -> Result<()> {
        self.again(scene, "inferred", |scene| {
            scene.lab.crash(SERVER)?;
            ends::start(scene)
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
fn join(scene: &mut Scene, name: &str, options: &[&str]) -> Result<(Client, SessionNo)> {
    let client = Client::new(scene, name)?;
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
