//! ocserv: TLS sessions with user names, read through occtl.
//!
//! The agent runs as root here, which ocserv asks for. Clients are openconnect.

mod gate;

use std::time::Duration;

use anyhow::{Result, ensure};

use self::gate::{Gate, Peer};
use super::operator::{self, Measured, Operated};
use super::part::{Daemon, Length, Scenario, scenario};
use super::scene::{SOON, Scene, SessionNo};
use super::session::{End, Session, Window};
use crate::apt::{self, need};
use crate::lab::{Lab, tunnel};
use crate::shell;

/// An event causes a look at once; the rest is three programs on a busy machine.
const TOLD_MS: i64 = 3_000;
/// A socket that is gone is seen at once, or with the next look.
const GONE_MS: i64 = 12_000;
/// An agent that comes back knows when it was last written down that a client was there.
const WRITTEN_DOWN_MS: i64 = 60_000;
/// A client that is back before this is over is the same session (the agent's `COALESCE`).
const NO_LONGER_THE_SAME: Duration = Duration::from_secs(4);
/// An ocserv that does not run is looked for every 10 s.
const FOUND: Duration = Duration::from_secs(12);

/// See the module's page.
pub(super) struct Ocserv {
    server: Gate,
    /// Clients that stay.
    others: Vec<(Peer, SessionNo)>,
    /// For what is done with many.
    measured: Measured<Peer>,
}

impl Daemon for Ocserv {
    const NAME: &'static str = "ocserv";
    const NEEDS: &'static [apt::Need] = &[
        need("ocserv", "ocserv"),
        need("openconnect", "openconnect"),
        need("openssl", "openssl"),
    ];
    const LOGS: &'static [&'static str] = &[gate::SERVER];

    fn obstacle() -> Result<Option<String>> {
        Ok(tunnel::no_tun())
    }

    fn settings(lab: &Lab) -> String {
        let socket = gate::control_socket(lab);
        format!("[ocserv]\nsocket = \"{}\"\n", socket.display())
    }

    fn start(scene: &mut Scene) -> Result<Self> {
        Ok(Self {
            server: Gate::start_new(scene)?,
            others: Vec::new(),
            measured: Measured::default(),
        })
    }

    fn scenarios() -> Vec<Scenario<Self>> {
        use Length::{Short, Usual};
        vec![
            scenario(Short, "connect", Self::connect),
            scenario(Short, "agent killed in between", Self::agent_killed),
            scenario(Short, "goodbye, and back later", Self::polite),
            scenario(Short, "client killed (kill -9)", Self::killed),
            scenario(Short, "disconnected by an administrator", Self::kicked),
            scenario(Short, "connections disconnect", Self::disconnect),
            scenario(Short, "device revoke", Self::device_revoke),
            scenario(Usual, "personal-key revoke", Self::key_revoke),
            scenario(Short, "disconnect in time (5)", |me, scene| {
                me.disconnect_in_time(scene, 5)
            }),
            scenario(Usual, "disconnect in time (45 more)", |me, scene| {
                me.disconnect_in_time(scene, 45)
            }),
            scenario(Usual, "many leave at once", Self::many_leave),
            scenario(Short, "ocserv stops", Self::stops),
            scenario(Short, "ocserv is killed", Self::crashes),
            scenario(Short, "all that are left say goodbye", Self::all_leave),
        ]
    }
}

impl Ocserv {
    fn connect(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "stays")?;
        let row = scene.row(session)?;
        ensure!(
            row.client_ip == peer.at.address(),
            "the row says that the client is at {}, it is at {}",
            row.client_ip,
            peer.at.address()
        );
        self.others.push((peer, session));
        Ok(())
    }

    fn agent_killed(&mut self, scene: &mut Scene) -> Result<()> {
        let (goes, session) = self.join(scene, "goes")?;
        scene.row(session)?;
        scene.kill_agent()?;
        let (at, ()) = scene.timed(|scene| goes.leave(scene))?;
        scene.start_agent()?;
        let end = End {
            within_ms: WRITTEN_DOWN_MS,
            uncertainty_ms: WRITTEN_DOWN_MS,
            confidence: "inferred",
            ..seen(at, &["agent_restart"])
        };
        scene.ends(session, end);
        Ok(())
    }

    fn polite(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "polite")?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| peer.leave(scene))?;
        scene.ends(session, seen(at, &["client_disconnect"]));
        shell::pause(NO_LONGER_THE_SAME)?;
        let session = again(scene, &self.server, &peer)?;
        self.others.push((peer, session));
        Ok(())
    }

    /// The kernel closes its TCP connection: ocserv knows at once.
    fn killed(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "killed")?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| peer.kill(scene))?;
        scene.ends(session, seen(at, &["connection_reset"]));
        Ok(())
    }

    fn kicked(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "kicked")?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|_| self.server.disconnect(&peer))?;
        scene.ends(session, seen(at, &["admin_kick"]));
        peer.gone(scene)
    }

    /// The look that one end causes may find that others are gone, before ocserv says why.
    fn many_leave(&mut self, scene: &mut Scene) -> Result<()> {
        operator::need_many(self, scene)?;
        for _ in 0..4 {
            let mut sessions = Vec::new();
            for peer in &self.measured.clients {
                sessions.push((peer, again(scene, &self.server, peer)?));
            }
            for (_, session) in &sessions {
                scene.row(*session)?;
            }
            for (peer, session) in sessions {
                let (at, ()) = scene.timed(|scene| peer.leave(scene))?;
                scene.ends(session, seen(at, &["client_disconnect"]));
            }
            scene.settle()?;
            shell::pause(NO_LONGER_THE_SAME)?;
        }
        Ok(())
    }

    fn stops(&mut self, scene: &mut Scene) -> Result<()> {
        let (at, ()) = scene.timed(|scene| scene.lab.stop(gate::SERVER))?;
        self.all_end_and_come_again(scene, at)
    }

    fn crashes(&mut self, scene: &mut Scene) -> Result<()> {
        let (at, ()) = scene.timed(|scene| self.server.crash(scene))?;
        self.all_end_and_come_again(scene, at)
    }

    fn all_end_and_come_again(&mut self, scene: &mut Scene, at: Window) -> Result<()> {
        for (peer, session) in &self.others {
            let end = End {
                within_ms: GONE_MS,
                ..seen(at, &["daemon_down"])
            };
            scene.ends(*session, end);
            peer.gone(scene)?;
        }
        scene.settle()?;
        self.server.start(scene)?;
        shell::pause(FOUND)?;
        for (peer, session) in &mut self.others {
            *session = again(scene, &self.server, peer)?;
        }
        Ok(())
    }

    fn all_leave(&mut self, scene: &mut Scene) -> Result<()> {
        for (peer, session) in &self.others {
            let (at, ()) = scene.timed(|scene| peer.leave(scene))?;
            scene.ends(*session, seen(at, &["client_disconnect"]));
        }
        Ok(())
    }

    /// A new client connects, and that is stated.
    fn join(&self, scene: &mut Scene, name: &str) -> Result<(Peer, SessionNo)> {
        let peer = self.server.new_peer(scene, name)?;
        let session = again(scene, &self.server, &peer)?;
        Ok((peer, session))
    }
}

impl Operated for Ocserv {
    type Client = Peer;
    const IDENTITY: &'static str = "--user";
    /// That it is up is asked of occtl, a process a time, which may be too late.
    const SEEN_AGAIN: bool = false;

    fn new_client(&self, scene: &mut Scene, name: &str) -> Result<Peer> {
        self.server.new_peer(scene, name)
    }

    fn identity(peer: &Peer) -> &str {
        &peer.user
    }

    fn comes(&self, scene: &mut Scene, peer: &Peer) -> Result<SessionNo> {
        again(scene, &self.server, peer)
    }

    fn is_gone(&self, peer: &Peer) -> Result<bool> {
        Ok(!self.server.has(peer)?)
    }

    fn end(at: Window, reasons: &'static [&'static str]) -> End {
        seen(at, reasons)
    }

    fn has_gone(&self, scene: &mut Scene, peer: &Peer) -> Result<()> {
        peer.gone(scene)
    }

    fn measured(&mut self) -> &mut Measured<Peer> {
        &mut self.measured
    }
}

/// A client connects once more, and that is stated as a new session.
fn again(scene: &mut Scene, server: &Gate, peer: &Peer) -> Result<SessionNo> {
    let (started, ()) = scene.timed(|scene| {
        peer.connect(scene)?;
        let what = format!("ocserv with {}", peer.user);
        scene.wait_for(&what, SOON, |_| Ok(server.has(peer)?.then_some(())))
    })?;
    Ok(scene.began(Session {
        identity: peer.user.clone(),
        started,
        start_within_ms: TOLD_MS,
        end: None,
    }))
}

/// An end that ocserv tells.
fn seen(at: Window, reasons: &'static [&'static str]) -> End {
    End {
        at,
        within_ms: TOLD_MS,
        uncertainty_ms: TOLD_MS,
        reasons,
        confidence: "observed",
    }
}
