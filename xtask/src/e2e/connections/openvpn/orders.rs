//! What an operator of the controller does to OpenVPN's clients: end one, revoke one, in time.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::super::operator::{self, Measured, Operated};
use super::super::scene::{SOON, Scene, SessionNo};
use super::super::session::{End, Window};
use super::ends::{Client, count};
use super::servers::{DUAL, PLAIN, Server, TCP, folder};
use super::{OpenVpn, join, state, told, unseen};
use crate::shell;

/// What a server prints when it has dropped a session.
const ENDED: &str = " received, client-instance ";

impl OpenVpn {
    /// A client that roamed is dropped where it is now.
    pub(super) fn disconnect_roamed(&mut self, scene: &mut Scene) -> Result<()> {
        let (mut client, session) = join(scene, PLAIN, "roamed", &[])?;
        scene.row(session)?;
        client.at.roam()?;
        let address = client.at.address();
        scene.row_that(session, "with the new address", SOON, |row| {
            row.client_ip == address
        })?;
        disconnect(scene, PLAIN, &client, session).map(drop)
    }

    pub(super) fn disconnect_tcp(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, TCP, "disconnected-tcp", &[])?;
        disconnect(scene, TCP, &client, session).map(drop)
    }

    /// The daemon does not know the client by its address, and keeps it for 5 s.
    pub(super) fn disconnect_dual(&mut self, scene: &mut Scene, times: usize) -> Result<()> {
        for _ in 0..times {
            let name = format!("dual-{}", self.slow_clients);
            self.slow_clients += 1;
            let (client, session) = join(scene, DUAL, &name, &[])?;
            let took = disconnect(scene, DUAL, &client, session)?;
            self.slow_times.add(took);
        }
        let what = "disconnect at a dual-stack server";
        self.slow_times.tell_without_aim(scene, what);
        Ok(())
    }

    /// The daemon hangs: the command says so before its own time is over, and nobody is ended later.
    pub(super) fn daemon_hangs(&mut self, scene: &mut Scene) -> Result<()> {
        // The client must not give the server up meanwhile.
        let patient = &["--pull-filter", "ignore", "ping-restart"];
        let (client, session) = join(scene, DUAL, "patient", patient)?;
        let id = scene.row(session)?.id;
        DUAL.signal(scene, Signal::SIGSTOP)?;
        let told = scene.controller(&["connections", "disconnect", &id]);
        DUAL.signal(scene, Signal::SIGCONT)?;
        let told = told?;
        ensure!(
            !told.success && told.text.contains("not ended; the host says: "),
            "the command said this of a daemon that hangs: {}",
            told.text
        );
        // Time in which a late order would be obeyed.
        shell::pause(Duration::from_secs(7))?;
        ensure!(
            DUAL.has(&folder(&scene.lab), &client.name)?,
            "the client was ended after the order had failed"
        );
        disconnect(scene, DUAL, &client, session).map(drop)
    }

    /// The agent is killed when it has told the daemon, which keeps the client for 5 s. The next
    /// process gets the order again, and finds nobody.
    pub(super) fn killed_meanwhile(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(scene, DUAL, "half-ended", &[])?;
        let id = scene.row(session)?.id;
        client.may_end(scene);
        let (at, ()) = scene.timed(|scene| {
            scene.order(&["connections", "disconnect", &id, "--wait", "0s"])?;
            client.ended(scene)?;
            scene.kill_agent()?;
            shell::pause(Duration::from_secs(6))
        })?;
        scene.start_agent()?;
        let end = End {
            reasons: &["admin_kick", "agent_restart"],
            confidence: "",
            ..unseen(at)
        };
        scene.ends(session, end);
        let show = ["connections", "show", &id];
        scene.wait_for("the host's word that the order is done", SOON, |fleet| {
            let rows = fleet.rows(&show, "connections")?;
            let asked = rows.iter().flat_map(|row| row["disconnections"].as_array());
            let done = asked
                .flatten()
                .any(|one| one["directive_status"] == "applied");
            Ok(done.then_some(()))
        })
    }
}

impl Operated for OpenVpn {
    type Client = Client;
    const IDENTITY: &'static str = "--cert";

    fn new_client(&self, scene: &mut Scene, name: &str) -> Result<Client> {
        Client::new(scene, PLAIN, name)
    }

    fn identity(client: &Client) -> &str {
        &client.name
    }

    /// The certificate of a revoked device still opens the door.
    fn comes(&self, scene: &mut Scene, client: &Client) -> Result<SessionNo> {
        let started = client.start(scene, &[])?;
        client.may_end(scene);
        Ok(state(scene, client, started))
    }

    fn is_gone(&self, client: &Client) -> Result<bool> {
        Ok(!PLAIN.has(&self.folder, &client.name)?)
    }

    fn end(at: Window, reasons: &'static [&'static str]) -> End {
        told(at, reasons)
    }

    /// Its program ends by itself.
    fn has_gone(&self, scene: &mut Scene, client: &Client) -> Result<()> {
        client.ended(scene)
    }

    fn measured(&mut self) -> &mut Measured<Client> {
        &mut self.measured
    }

    /// The daemon has dropped it when the command comes back.
    fn disconnects(
        &self,
        scene: &mut Scene,
        client: &Client,
        session: SessionNo,
    ) -> Result<Duration> {
        disconnect(scene, PLAIN, client, session)
    }
}

/// Ends a session from the controller. Right after the command, the server's log must have its end.
/// Returns how long the command took.
fn disconnect(
    scene: &mut Scene,
    server: Server,
    client: &Client,
    session: SessionNo,
) -> Result<Duration> {
    scene.row(session)?;
    client.may_end(scene);
    let log = scene.lab.log(server.name);
    let before = count(&log, ENDED);
    let is_gone = || Ok(count(&log, ENDED) == before + 1);
    let (at, took) = operator::disconnect(scene, session, is_gone)?;
    scene.ends(session, told(at, &["admin_kick"]));
    client.ended(scene)?;
    Ok(took)
}
