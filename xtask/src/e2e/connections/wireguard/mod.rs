//! WireGuard: sessions are handshakes that go on; there is no goodbye.
//!
//! Clients connect, roam, are restarted, fall silent; an administrator takes peers off; interfaces
//! and daemons end; the agent is killed in between. What shows only after 180 s of silence is
//! begun early and judged last.

mod crashes;
mod operator;
mod peers;
mod silence;

use std::time::Duration;

use anyhow::{Result, ensure};

use self::peers::{Peer, Server};
use super::operator::{Measured, Operated as _};
use super::part::{Daemon, Length, Scenario, scenario};
use super::scene::{SOON, Scene, SessionNo};
use super::session::{End, Session, Window};
use crate::apt::{self, need};
use crate::lab::Lab;
use crate::lab::tunnel;
use crate::shell;

/// Looks every second here (5 s by default).
const SETTINGS: &str = "[wireguard]\npoll_s = 1\n";
/// A start or an act of an administrator is dated by the look that found it, on a busy machine.
const LOOK_MS: i64 = 3_000;
/// What makes a client's traffic visible to some looks.
const SOME_LOOKS: Duration = Duration::from_secs(3);

/// See the module's page.
pub(super) struct WireGuard {
    server: Server,
    /// Clients that stay, with the session they are in.
    roamer: Option<(Peer, SessionNo)>,
    silent: Option<(Peer, SessionNo)>,
    others: Vec<(Peer, SessionNo)>,
    /// For orders that are measured.
    measured: Measured<Peer>,
}

impl Daemon for WireGuard {
    const NAME: &'static str = "wireguard";
    const NEEDS: &'static [apt::Need] = &[
        need("wg", "wireguard-tools"),
        need("wireguard-go", "wireguard-go"),
    ];
    const LOGS: &'static [&'static str] = &["wireguard-wg0"];

    fn obstacle() -> Result<Option<String>> {
        Ok(tunnel::no_tun())
    }

    fn settings(_: &Lab) -> String {
        SETTINGS.to_owned()
    }

    fn start(scene: &mut Scene) -> Result<Self> {
        Ok(Self {
            server: Server::start(scene, "wg0", "wireguard-wg0", 51_820)?,
            roamer: None,
            silent: None,
            others: Vec::new(),
            measured: Measured::default(),
        })
    }

    fn scenarios() -> Vec<Scenario<Self>> {
        use Length::{Full, Short, Usual};
        vec![
            scenario(Short, "connect", Self::connect),
            scenario(
                Usual,
                "silent while the agent is killed",
                Self::silent_unseen,
            ),
            scenario(Short, "agent killed in between", Self::agent_killed),
            scenario(Usual, "silent client (kill -9)", Self::silent_client),
            scenario(Short, "roam to another port and address", Self::roam),
            scenario(Short, "client killed and back at once", Self::back_at_once),
            scenario(Short, "network away for 15 s", Self::network_away),
            scenario(Short, "peer removed, and let in again", Self::peer_removed),
            scenario(Short, "connections disconnect", Self::disconnect),
            scenario(Short, "device revoke", Self::device_revoke),
            scenario(Usual, "personal-key revoke", Self::key_revoke),
            scenario(Short, "interface removed", Self::interface_removed),
            scenario(
                Short,
                "daemon killed and started again",
                Self::daemon_killed,
            ),
            scenario(Usual, "daemon stalls for 6 s", Self::daemon_stalls),
            scenario(
                Short,
                "controller killed in between",
                Self::controller_killed,
            ),
            scenario(Short, "disconnect in time (10)", |me, scene| {
                me.disconnect_in_time(scene, 10)
            }),
            scenario(Usual, "disconnect in time (40 more)", |me, scene| {
                me.disconnect_in_time(scene, 40)
            }),
            scenario(Full, "disconnect in time (150 more)", |me, scene| {
                me.disconnect_in_time(scene, 150)
            }),
            scenario(Usual, "rekey under traffic (120 s)", Self::rekey),
            scenario(
                Usual,
                "client back after its timeout",
                Self::back_after_timeout,
            ),
            // Nobody may be silent here whose end is judged to the second.
            scenario(Usual, "agent killed 10 times", |me, scene| {
                me.agent_killed_often(scene, 10)
            }),
            scenario(Full, "agent killed 50 times", |me, scene| {
                me.agent_killed_often(scene, 50)
            }),
            scenario(Full, "a quiet client with keepalives", Self::keepalive_only),
            scenario(Short, "all that are left are removed", Self::remove_all),
        ]
    }
}

impl WireGuard {
    fn connect(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "roamer")?;
        peer.talk(scene)?;
        let row = scene.row(session)?;
        ensure!(
            row.client_ip == peer.at.address(),
            "the row says that the client is at {}, it is at {}",
            row.client_ip,
            peer.at.address()
        );
        self.roamer = Some((peer, session));
        Ok(())
    }

    fn roam(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = played(&mut self.roamer, "connect")?;
        peer.set_port(40_404)?;
        peer.connect(scene)?;
        scene.row_that(*session, "with the new port", SOON, |row| {
            row.client_port == "40404"
        })?;
        peer.at.roam()?;
        peer.connect(scene)?;
        let address = peer.at.address();
        scene.row_that(
            *session,
            "with the new address",
            super::scene::SOON,
            |row| row.client_ip == address,
        )?;
        Ok(())
    }

    /// WireGuard has no goodbye: a client that is back within the silence never left.
    fn back_at_once(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "restarted")?;
        scene.row(session)?;
        let before = self.server.handshake(&peer)?;
        // Handshake times are told in seconds.
        shell::pause(Duration::from_secs(1))?;
        peer.kill(scene)?;
        peer.start(scene)?;
        peer.connect(scene)?;
        ensure!(
            self.server.handshake(&peer)? > before,
            "the client came back without a new handshake"
        );
        shell::pause(SOME_LOOKS)?;
        self.stays(scene, peer, session)
    }

    fn network_away(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "unplugged")?;
        scene.row(session)?;
        peer.at.unplug()?;
        shell::pause(Duration::from_secs(15))?;
        peer.at.plug()?;
        peer.connect(scene)?;
        shell::pause(SOME_LOOKS)?;
        self.stays(scene, peer, session)
    }

    fn peer_removed(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "removed")?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|_| self.server.remove(&peer))?;
        scene.ends(session, seen(at, &["peer_removed"]));
        // Long enough that a look sees it gone: what nobody saw gone was not gone.
        shell::pause(SOME_LOOKS)?;
        self.server.add(&peer)?;
        let again = again(scene, &peer)?;
        self.stays(scene, peer, again)
    }

    fn remove_all(&mut self, scene: &mut Scene) -> Result<()> {
        let left = self.roamer.take().into_iter().chain(self.silent.take());
        self.others.extend(left);
        for (peer, session) in &self.others {
            // A client that has fallen silent and is not back is over already.
            if scene.is_up(*session) {
                let (at, ()) = scene.timed(|_| self.server.remove(peer))?;
                scene.ends(*session, seen(at, &["peer_removed"]));
            }
        }
        Ok(())
    }

    /// A client that nobody is done with must talk: WireGuard has no other sign of life.
    fn stays(&mut self, scene: &mut Scene, peer: Peer, session: SessionNo) -> Result<()> {
        peer.talk(scene)?;
        self.others.push((peer, session));
        Ok(())
    }

    fn join(&self, scene: &mut Scene, name: &str) -> Result<(Peer, SessionNo)> {
        join(scene, &self.server, name)
    }
}

/// A new client connects, and that is stated.
fn join(scene: &mut Scene, server: &Server, name: &str) -> Result<(Peer, SessionNo)> {
    let peer = server.new_peer(scene, name)?;
    let started = peer.connect(scene)?;
    let session = state(scene, &peer, started);
    Ok((peer, session))
}

/// A client that the server knows shakes hands anew, and that is stated as a new session.
fn again(scene: &mut Scene, peer: &Peer) -> Result<SessionNo> {
    peer.forget()?;
    let started = peer.connect(scene)?;
    Ok(state(scene, peer, started))
}

fn state(scene: &mut Scene, peer: &Peer, started: Window) -> SessionNo {
    scene.began(Session {
        identity: peer.public.clone(),
        started,
        start_within_ms: LOOK_MS,
        end: None,
    })
}

/// An end that the next look sees.
fn seen(at: Window, reasons: &'static [&'static str]) -> End {
    End {
        at,
        within_ms: LOOK_MS,
        uncertainty_ms: LOOK_MS,
        reasons,
        confidence: "observed",
    }
}

/// What an earlier scenario left, if it was played to its end.
fn played<'a, T>(left: &'a mut Option<T>, scenario: &str) -> Result<&'a mut T> {
    let left = left.as_mut();
    left.ok_or_else(|| anyhow::anyhow!("`{scenario}` broke before, which this goes on with"))
}
