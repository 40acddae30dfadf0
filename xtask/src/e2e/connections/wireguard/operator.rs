//! What an operator of the controller does to WireGuard's clients: end one, revoke one, in time.

use anyhow::{Result, ensure};

use super::super::operator;
use super::super::scene::{SOON, Scene};
use super::{WireGuard, again, seen, state};

/// So many clients are connected at a time while orders are measured.
const AT_A_TIME: usize = 5;

impl WireGuard {
    /// The peer is taken off, and is not let in again.
    pub(super) fn disconnect(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "kicked")?;
        let is_gone = || Ok(!self.server.knows(&peer)?);
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
        let device = operator::add_device(scene, session, "--wireguard", &peer.public)?;
        let is_gone = || Ok(!self.server.knows(&peer)?);
        let at = operator::revoke_device(scene, &device, is_gone)?;
        scene.ends(session, seen(at, &["revoked"]));
        scene.settle()?;

        // Somebody on the host lets it in again.
        self.server.add(&peer)?;
        let (at, session) = scene.timed(|scene| {
            let session = again(scene, &peer)?;
            let gone = "the daemon without the peer of the revoked device";
            scene.wait_for(gone, SOON, |_| Ok(is_gone()?.then_some(())))?;
            Ok(session)
        })?;
        scene.ends(session, seen(at, &["revoked"]));
        Ok(())
    }

    /// A key takes the sessions of its devices with it.
    pub(super) fn key_revoke(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "key-revoked")?;
        let device = operator::add_device(scene, session, "--wireguard", &peer.public)?;
        let key = operator::key_of(scene, &device)?;
        let is_gone = || Ok(!self.server.knows(&peer)?);
        let at = operator::revoke_key(scene, &key, is_gone)?;
        scene.ends(session, seen(at, &["revoked"]));
        Ok(())
    }

    /// Clients connect and are disconnected `times` times.
    pub(super) fn disconnect_in_time(&mut self, scene: &mut Scene, times: usize) -> Result<()> {
        while self.many.len() < AT_A_TIME {
            let name = format!("many-{}", self.many.len());
            let peer = self.server.new_peer(scene, &name)?;
            self.server.remove(&peer)?;
            self.many.push(peer);
        }
        let mut left = times;
        while left > 0 {
            let mut sessions = Vec::new();
            for peer in self.many.iter().take(left) {
                self.server.add(peer)?;
                peer.forget()?;
                let started = peer.connect(scene)?;
                sessions.push((peer, state(scene, peer, started)));
            }
            left -= sessions.len();
            for (peer, session) in sessions {
                let is_gone = || Ok(!self.server.knows(peer)?);
                let (at, took) = operator::disconnect(scene, session, is_gone)?;
                scene.ends(session, seen(at, &["admin_kick"]));
                self.times.add(took);
            }
        }
        self.times.tell(scene);
        Ok(())
    }
}
