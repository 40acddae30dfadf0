//! Interfaces, daemons and the agent end while clients are connected.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::super::scene::Scene;
use super::super::session::{End, Window};
use super::peers::Server;
use super::{SOME_LOOKS, WireGuard, again, join, seen};
use crate::shell;

/// An agent that comes back knows when it was last written down that a client was there.
const WRITTEN_DOWN_MS: i64 = 60_000;

impl WireGuard {
    pub(super) fn interface_removed(&mut self, scene: &mut Scene) -> Result<()> {
        let server = Server::start(scene, "wg1", "wireguard-wg1", 51_821)?;
        let (peer, session) = join(scene, &server, "of-wg1")?;
        ensure!(
            scene.row(session)?.all["backend_instance"] == "wg1",
            "the row does not say that the interface is wg1"
        );
        // wireguard-go that is asked to end takes its interface and its socket with it.
        let (at, ()) = scene.timed(|scene| scene.lab.stop(server.program))?;
        scene.ends(session, seen(at, &["interface_down"]));
        peer.kill(scene)
    }

    pub(super) fn daemon_killed(&mut self, scene: &mut Scene) -> Result<()> {
        let server = Server::start(scene, "wg2", "wireguard-wg2", 51_822)?;
        let (peer, session) = join(scene, &server, "of-wg2")?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|scene| scene.lab.crash(server.program))?;
        scene.ends(session, seen(at, &["interface_down"]));
        shell::pause(SOME_LOOKS)?;
        server.start_daemon(scene)?;
        server.add(&peer)?;
        let session = again(scene, &peer)?;
        scene.row(session)?;
        let (at, ()) = scene.timed(|_| server.remove(&peer))?;
        scene.ends(session, seen(at, &["peer_removed"]));
        Ok(())
    }

    /// While the agent is dead one client stays, one is removed, and one comes.
    pub(super) fn agent_killed(&mut self, scene: &mut Scene) -> Result<()> {
        let (stays, first) = self.join(scene, "stays")?;
        let (goes, second) = self.join(scene, "goes")?;
        scene.row(first)?;
        scene.row(second)?;
        scene.kill_agent()?;
        let (at, ()) = scene.timed(|_| self.server.remove(&goes))?;
        let (comes, third) = self.join(scene, "comes")?;
        shell::pause(SOME_LOOKS)?;
        scene.start_agent()?;
        scene.ends(second, unseen(at));
        scene.row(third)?;
        self.stays(scene, stays, first)?;
        self.stays(scene, comes, third)
    }

    /// Now before the agent can have seen the client, now while its start is written down or on its
    /// way; and every other time the client goes while the agent is dead.
    pub(super) fn agent_killed_often(&mut self, scene: &mut Scene, times: u64) -> Result<()> {
        for turn in 0..times {
            let (peer, session) = self.join(scene, &format!("turn-{times}-{turn}"))?;
            let unseen_end = turn % 2 == 1;
            if unseen_end {
                scene.row(session)?;
            }
            // Anywhere in a look and the way to the controller; the same in every run.
            shell::pause(Duration::from_millis(turn * 137 % 1500))?;
            scene.kill_agent()?;
            if unseen_end {
                let (at, ()) = scene.timed(|_| self.server.remove(&peer))?;
                scene.ends(session, unseen(at));
            }
            scene.start_agent()?;
            if !unseen_end {
                scene.row(session)?;
                let (at, ()) = scene.timed(|_| self.server.remove(&peer))?;
                scene.ends(session, seen(at, &["peer_removed"]));
            }
            scene.settle()?;
            peer.kill(scene)?;
        }
        Ok(())
    }
}

/// An end that nobody saw: it was up when it was last written down, and is not there now.
fn unseen(at: Window) -> End {
    End {
        within_ms: WRITTEN_DOWN_MS,
        uncertainty_ms: WRITTEN_DOWN_MS,
        confidence: "inferred",
        ..seen(at, &["agent_restart", "peer_removed"])
    }
}
