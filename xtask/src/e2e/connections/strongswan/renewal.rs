//! Clients authenticate anew, before or after they end what they have; and one does not.

use anyhow::{Result, ensure};

use super::super::scene::{SOON, Scene};
use super::super::session::Window;
use super::charon::{self, Charon, Peer};
use super::{NO_LONGER_THE_SAME, StrongSwan, again, played, seen};
use crate::shell;

/// charon deletes the SA then.
const LIFETIME_MS: i64 = 7_000;
/// After so long without an answer it gives the client up; rounded up.
const GIVEN_UP_MS: i64 = 10_000;

impl StrongSwan {
    pub(super) fn reauthenticate(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, _) = played(&mut self.roamer)?;
        anew(scene, &self.server, peer)
    }

    /// The new SA is up before the old one is deleted: one session all the same.
    pub(super) fn make_before_break(&mut self, scene: &mut Scene) -> Result<()> {
        let peer = charon::new_peer_with(scene, "overlaps", "make_before_break = yes")?;
        let session = again(scene, &peer)?;
        scene.row(session)?;
        for _ in 0..2 {
            anew(scene, &self.server, &peer)?;
            ensure!(peer.pings()?, "the tunnel does not answer");
        }
        self.others.push((peer, session));
        Ok(())
    }

    /// charon puts it out, and that is no administrator's doing. The client does not answer.
    pub(super) fn expires(&mut self, scene: &mut Scene) -> Result<()> {
        let name = format!("late{}", charon::SHORT_LIVED);
        let peer = charon::new_peer(scene, name.trim_end_matches(".test"))?;
        let (started, session) = scene.timed(|scene| again(scene, &peer))?;
        scene.row(session)?;
        peer.at.unplug()?;
        let at = Window {
            from_ms: started.from_ms + LIFETIME_MS,
            to_ms: started.to_ms + LIFETIME_MS + GIVEN_UP_MS,
        };
        scene.ends(session, seen(at, &["timeout"]));
        scene.row_that(session, "with its end", SOON, |row| row.ended_ms.is_some())?;
        Ok(())
    }
}

fn anew(scene: &mut Scene, server: &Charon, peer: &Peer) -> Result<()> {
    let before = server.id_of(&peer.identity)?;
    let words = ["--rekey", "--ike", "rw", "--reauth"];
    peer.charon.swanctl(&words)?;
    scene.wait_for("another SA", SOON, |_| {
        let again = server.has(&peer.identity)? && server.id_of(&peer.identity)? != before;
        Ok(again.then_some(()))
    })?;
    shell::pause(NO_LONGER_THE_SAME)
}
