//! What an administrator of the host and an operator of the controller do to strongSwan's clients.

use anyhow::{Result, ensure};

use super::super::operator;
use super::super::scene::{SOON, Scene};
use super::{StrongSwan, again, charon, seen};

/// So many clients are connected at a time while orders are measured.
const AT_A_TIME: usize = 5;

impl StrongSwan {
    pub(super) fn terminated(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "terminated")?;
        scene.row(session)?;
        let id = self.server.id_of(&peer.identity)?;
        let words = ["--terminate", "--ike-id", &id];
        let (at, _) = scene.timed(|_| self.server.swanctl(&words))?;
        scene.ends(session, seen(at, &["admin_kick"]));
        Ok(())
    }

    pub(super) fn disconnect(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "kicked")?;
        let is_gone = || Ok(!self.server.has(&peer.identity)?);
        let (at, _) = operator::disconnect(scene, session, is_gone)?;
        scene.ends(session, seen(at, &["admin_kick"]));
        ensure!(
            !peer.pings()?,
            "the tunnel still answers the client that was disconnected"
        );
        Ok(())
    }

    /// The device's session ends, and so does every one that it begins later.
    pub(super) fn device_revoke(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "revoked")?;
        let device = operator::add_device(scene, session, "--ike", &peer.identity)?;
        let is_gone = || Ok(!self.server.has(&peer.identity)?);
        let at = operator::revoke_device(scene, &device, is_gone)?;
        scene.ends(session, seen(at, &["revoked"]));
        scene.settle()?;

        let (at, session) = scene.timed(|scene| {
            let session = again(scene, &peer)?;
            let gone = "the daemon without the client of the revoked device";
            scene.wait_for(gone, SOON, |_| Ok(is_gone()?.then_some(())))?;
            Ok(session)
        })?;
        scene.ends(session, seen(at, &["revoked"]));
        Ok(())
    }

    /// A key takes the sessions of its devices with it.
    pub(super) fn key_revoke(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "key-revoked")?;
        let device = operator::add_device(scene, session, "--ike", &peer.identity)?;
        let key = operator::key_of(scene, &device)?;
        let is_gone = || Ok(!self.server.has(&peer.identity)?);
        let at = operator::revoke_key(scene, &key, is_gone)?;
        scene.ends(session, seen(at, &["revoked"]));
        Ok(())
    }

    /// Clients connect and are disconnected `times` times.
    pub(super) fn disconnect_in_time(&mut self, scene: &mut Scene, times: usize) -> Result<()> {
        while self.many.len() < AT_A_TIME {
            let name = format!("many-{}", self.many.len());
            self.many.push(charon::new_peer(scene, &name)?);
        }
        let mut left = times;
        while left > 0 {
            let mut sessions = Vec::new();
            for peer in self.many.iter().take(left) {
                sessions.push((peer, again(scene, peer)?));
            }
            left -= sessions.len();
            for (peer, session) in sessions {
                let is_gone = || Ok(!self.server.has(&peer.identity)?);
                let (at, took) = operator::disconnect(scene, session, is_gone)?;
                scene.ends(session, seen(at, &["admin_kick"]));
                self.times.add(took);
            }
        }
        self.times.tell(scene);
        Ok(())
    }
}
