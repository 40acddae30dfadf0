//! strongSwan: IKE SAs, whose charon says itself when and why they begin and end.
//!
//! Clients connect, roam, rekey, authenticate anew, say goodbye or fall silent; an administrator
//! and the controller's operator end them; charon stops and crashes; the agent is killed in between.

mod charon;
mod crashes;
mod operator;
mod renewal;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use self::charon::{Charon, Peer};
use super::operator::{Measured, Operated as _};
use super::part::{Daemon, Length, Scenario, scenario};
use super::scene::{SOON, Scene, SessionNo};
use super::session::{End, Session, Window};
use crate::apt::{self, need};
use crate::lab::{Lab, tunnel};
use crate::shell;

/// The plugin that makes kernel support needless, of the package libcharon-extra-plugins.
const LIBIPSEC: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";
/// charon tells at once; the rest is the busy machine.
const TOLD_MS: i64 = 2_000;
/// Dead peer detection here: 2 s of silence, then five requests in 7.4 s; rounded up.
const SILENCE_MS: i64 = 16_000;
/// A client that is back before this is over is the same session (the agent's `COALESCE`).
const NO_LONGER_THE_SAME: Duration = Duration::from_secs(4);

/// See the module's page.
pub(super) struct StrongSwan {
    server: Charon,
    roamer: Option<(Peer, SessionNo)>,
    /// Clients that stay.
    others: Vec<(Peer, SessionNo)>,
    /// For orders that are measured.
    measured: Measured<Peer>,
}

impl Daemon for StrongSwan {
    const NAME: &'static str = "strongswan";
    const NEEDS: &'static [apt::Need] = &[
        need("charon-systemd", "charon-systemd"),
        need("swanctl", "strongswan-swanctl"),
    ];
    const LOGS: &'static [&'static str] = &[charon::SERVER];

    fn obstacle() -> Result<Option<String>> {
        let missing =
            || format!("there is no {LIBIPSEC} (apt-get install libcharon-extra-plugins)");
        let plugin = (!Path::new(LIBIPSEC).exists()).then(missing);
        Ok(plugin.or_else(tunnel::no_tun))
    }

    fn settings(lab: &Lab) -> String {
        let vici = charon::server_socket(lab);
        format!("[strongswan]\nvici = \"{}\"\n", vici.display())
    }

    fn start(scene: &mut Scene) -> Result<Self> {
        Ok(Self {
            server: charon::start_server(scene)?,
            roamer: None,
            others: Vec::new(),
            measured: Measured::default(),
        })
    }

    fn scenarios() -> Vec<Scenario<Self>> {
        use Length::{Full, Short, Usual};
        vec![
            scenario(Short, "connect", Self::connect),
            scenario(Short, "agent killed in between", Self::agent_killed),
            scenario(Short, "roam to another address (MOBIKE)", Self::roam),
            scenario(Short, "rekey by either side", Self::rekey),
            scenario(Short, "reauthentication", Self::reauthenticate),
            scenario(
                Short,
                "reauthentication, make before break",
                Self::make_before_break,
            ),
            scenario(Usual, "not reauthenticated in time", Self::expires),
            scenario(Short, "goodbye, and back later", Self::polite),
            scenario(Short, "silent client (kill -9)", Self::silent),
            scenario(Short, "client killed and back at once", Self::replaced),
            scenario(Short, "network away for 2 s", Self::network_away),
            scenario(Short, "terminated by an administrator", Self::terminated),
            scenario(Short, "connections disconnect", Self::disconnect),
            scenario(Short, "device revoke", Self::device_revoke),
            scenario(Usual, "personal-key revoke", Self::key_revoke),
            scenario(Short, "disconnect in time (10)", |me, scene| {
                me.disconnect_in_time(scene, 10)
            }),
            scenario(Usual, "disconnect in time (40 more)", |me, scene| {
                me.disconnect_in_time(scene, 40)
            }),
            scenario(Short, "charon stops", Self::charon_stops),
            scenario(Short, "charon is killed", Self::charon_killed),
            scenario(Usual, "charon restarts unseen", Self::restarts_unseen),
            scenario(Usual, "agent killed 10 times", |me, scene| {
                me.agent_killed_often(scene, 10)
            }),
            scenario(Full, "agent killed 50 times", |me, scene| {
                me.agent_killed_often(scene, 50)
            }),
            scenario(Short, "all that are left say goodbye", Self::all_leave),
        ]
    }
}

impl StrongSwan {
    fn connect(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "roamer")?;
        ensure!(peer.pings()?, "the tunnel does not answer");
        let row = scene.row(session)?;
        ensure!(
            row.client_ip == peer.at.address(),
            "the row says that the client is at {}, it is at {}",
            row.client_ip,
            peer.at.address()
        );
        ensure!(
            row.all["virtual_ips"].to_string().contains("198.18.0."),
            "the row does not tell the client's inner address: {}",
            row.all
        );
        self.roamer = Some((peer, session));
        Ok(())
    }

    fn roam(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = played(&mut self.roamer)?;
        peer.at.roam()?;
        let address = peer.at.address();
        scene.row_that(*session, "with the new address", SOON, |row| {
            row.client_ip == address
        })?;
        // Its CHILD SA moves after its IKE SA.
        let answer = "an answer through the tunnel after roaming";
        scene.wait_for(answer, SOON, |_| Ok(peer.pings()?.then_some(())))?;
        Ok(())
    }

    /// Another id each time; and an agent that starts anew finds the session under the last one.
    fn rekey(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, _) = played(&mut self.roamer)?;
        let server = &self.server;
        let mut id = server.id_of(&peer.identity)?;
        let server_sa = id.clone();
        let by_client: &[&str] = &["--rekey", "--ike", "rw"];
        let by_server: &[&str] = &["--rekey", "--ike-id", &server_sa];
        for (charon, words) in [(server, by_server), (&peer.charon, by_client)] {
            charon.swanctl(words)?;
            scene.wait_for("another id of the SA", SOON, |_| {
                let now = server.id_of(&peer.identity)?;
                Ok((now != id).then_some(()))
            })?;
            id = server.id_of(&peer.identity)?;
        }
        ensure!(peer.pings()?, "the tunnel does not answer after rekeying");
        scene.settle()?;
        scene.kill_agent()?;
        scene.start_agent()?;
        shell::pause(NO_LONGER_THE_SAME)
    }

    fn polite(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "polite")?;
        ensure!(peer.pings()?, "the tunnel does not answer");
        let (at, ()) = scene.timed(|_| peer.leave())?;
        scene.ends(session, seen(at, &["client_disconnect"]));
        let row = scene.row_that(session, "with its end", SOON, |row| row.ended_ms.is_some())?;
        // Told by the last event of its CHILD SA: it was never listed.
        ensure!(
            row.all["rx_bytes"].as_u64().unwrap_or_default() > 0,
            "the row of a session between two lists counts no bytes: {}",
            row.all
        );
        shell::pause(NO_LONGER_THE_SAME)?;
        let again = again(scene, &peer)?;
        self.others.push((peer, again));
        Ok(())
    }

    fn silent(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "silent")?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| peer.kill(scene))?;
        let end = End {
            within_ms: SILENCE_MS,
            uncertainty_ms: 2 * SILENCE_MS,
            ..seen(at, &["timeout"])
        };
        scene.ends(session, end);
        Ok(())
    }

    /// `unique = replace`: the old session ends when the new one is there.
    fn replaced(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "replaced")?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| {
            peer.kill(scene)?;
            peer.charon.start(scene)
        })?;
        let started = peer.connect(scene)?;
        let until = Window {
            to_ms: started.to_ms,
            ..at
        };
        scene.ends(session, seen(until, &["replaced"]));
        let session = state(scene, &peer, started);
        self.others.push((peer, session));
        Ok(())
    }

    fn network_away(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "unplugged")?;
        scene.row(session)?;
        peer.at.unplug()?;
        shell::pause(Duration::from_secs(2))?;
        peer.at.plug()?;
        shell::pause(NO_LONGER_THE_SAME)?;
        self.others.push((peer, session));
        Ok(())
    }

    fn all_leave(&mut self, scene: &mut Scene) -> Result<()> {
        self.others.extend(self.roamer.take());
        for (peer, session) in &self.others {
            if scene.is_up(*session) {
                let (at, ()) = scene.timed(|_| peer.leave())?;
                scene.ends(*session, seen(at, &["client_disconnect"]));
            }
        }
        Ok(())
    }

    /// A new client connects, and that is stated.
    fn join(&self, scene: &mut Scene, name: &str) -> Result<(Peer, SessionNo)> {
        let peer = charon::new_peer(scene, name)?;
        let session = again(scene, &peer)?;
        Ok((peer, session))
    }
}

/// A client connects once more, and that is stated as a new session.
fn again(scene: &mut Scene, peer: &Peer) -> Result<SessionNo> {
    let started = peer.connect(scene)?;
    Ok(state(scene, peer, started))
}

fn state(scene: &mut Scene, peer: &Peer, started: Window) -> SessionNo {
    scene.began(Session {
        identity: peer.identity.clone(),
        started,
        start_within_ms: TOLD_MS,
        end: None,
    })
}

/// An end that charon tells.
fn seen(at: Window, reasons: &'static [&'static str]) -> End {
    End {
        at,
        within_ms: TOLD_MS,
        uncertainty_ms: TOLD_MS,
        reasons,
        confidence: "observed",
    }
}

/// What the first scenario left, if it was played to its end.
fn played<T>(left: &mut Option<T>) -> Result<&mut T> {
    let left = left.as_mut();
    left.ok_or_else(|| anyhow::anyhow!("`connect` broke before, which this goes on with"))
}
