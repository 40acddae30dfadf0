//! charon and the agent end while clients are connected.

use std::time::Duration;

use anyhow::Result;

use super::super::scene::Scene;
use super::super::session::{End, Window};
use super::charon::SERVER;
use super::{NO_LONGER_THE_SAME, StrongSwan, again, seen};
use crate::shell;

/// A charon that is gone is looked for after a second.
const GONE_MS: i64 = 4_000;
/// A charon that does not run is looked for every 5 s.
const FOUND: Duration = Duration::from_secs(7);
/// An agent that comes back knows when it was last written down that a client was there.
const WRITTEN_DOWN_MS: i64 = 60_000;

impl StrongSwan {
    pub(super) fn charon_stops(&mut self, scene: &mut Scene) -> Result<()> {
        let (at, ()) = scene.timed(|scene| scene.lab.stop(SERVER))?;
        self.all_end(scene, at);
        scene.settle()?;
        self.all_again(scene)
    }

    pub(super) fn charon_killed(&mut self, scene: &mut Scene) -> Result<()> {
        let (at, ()) = scene.timed(|scene| scene.lab.crash(SERVER))?;
        self.all_end(scene, at);
        scene.settle()?;
        self.all_again(scene)
    }

    /// The agent does not see that charon is another one now, but that its SAs are.
    pub(super) fn restarts_unseen(&mut self, scene: &mut Scene) -> Result<()> {
        scene.kill_agent()?;
        let (at, ()) = scene.timed(|scene| scene.lab.crash(SERVER))?;
        self.server.start(scene)?;
        scene.start_agent()?;
        for (_, session) in &self.others {
            if scene.is_up(*session) {
                scene.ends(*session, unseen(at));
            }
        }
        scene.settle()?;
        self.clients_again(scene)
    }

    fn all_end(&mut self, scene: &mut Scene, at: Window) {
        self.others.extend(self.roamer.take());
        for (_, session) in &self.others {
            if scene.is_up(*session) {
                let end = End {
                    within_ms: GONE_MS,
                    ..seen(at, &["daemon_down"])
                };
                scene.ends(*session, end);
            }
        }
    }

    /// charon starts again, and its clients come back.
    fn all_again(&mut self, scene: &mut Scene) -> Result<()> {
        self.server.start(scene)?;
        shell::pause(FOUND)?;
        self.clients_again(scene)
    }

    fn clients_again(&mut self, scene: &mut Scene) -> Result<()> {
        for (peer, session) in &mut self.others {
            // What it has of its session is worth nothing; it may have noticed that already.
            let forget = ["--terminate", "--ike", "rw", "--force"];
            let _ = peer.charon.swanctl(&forget);
            *session = again(scene, peer)?;
        }
        Ok(())
    }

    /// While the agent is dead one client stays, one goes, and one comes.
    pub(super) fn agent_killed(&mut self, scene: &mut Scene) -> Result<()> {
        let (stays, first) = self.join(scene, "stays")?;
        let (goes, second) = self.join(scene, "goes")?;
        scene.row(first)?;
        scene.row(second)?;
        scene.kill_agent()?;
        let (at, ()) = scene.timed(|_| goes.leave())?;
        let (comes, third) = self.join(scene, "comes")?;
        scene.start_agent()?;
        scene.ends(second, unseen(at));
        scene.row(third)?;
        self.others.push((stays, first));
        self.others.push((comes, third));
        Ok(())
    }

    /// Every other time the client goes while the agent is dead.
    pub(super) fn agent_killed_often(&mut self, scene: &mut Scene, times: u64) -> Result<()> {
        let peer = super::charon::new_peer(scene, &format!("turns-{times}"))?;
        for turn in 0..times {
            let session = again(scene, &peer)?;
            let unseen_end = turn % 2 == 1;
            if unseen_end {
                scene.row(session)?;
            }
            // Anywhere on the way to the controller; the same in every run.
            shell::pause(Duration::from_millis(turn * 137 % 1500))?;
            scene.kill_agent()?;
            if unseen_end {
                let (at, ()) = scene.timed(|_| peer.leave())?;
                scene.ends(session, unseen(at));
            }
            scene.start_agent()?;
            if !unseen_end {
                scene.row(session)?;
                let (at, ()) = scene.timed(|_| peer.leave())?;
                scene.ends(session, seen(at, &["client_disconnect"]));
            }
            scene.settle()?;
            shell::pause(NO_LONGER_THE_SAME)?;
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
        ..seen(at, &["agent_restart", "daemon_down", "unknown"])
    }
}
