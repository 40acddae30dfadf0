//! What an administrator of the host and an operator of the controller do to strongSwan's clients.

use anyhow::Result;

use super::super::operator::{Measured, Operated};
use super::super::scene::{Scene, SessionNo};
use super::super::session::{End, Window};
use super::{Peer, StrongSwan, again, charon, seen};

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
}

impl Operated for StrongSwan {
    type Client = Peer;
    const IDENTITY: &'static str = "--ike";

    fn new_client(&self, scene: &mut Scene, name: &str) -> Result<Peer> {
        charon::new_peer(scene, name)
    }

    fn identity(peer: &Peer) -> &str {
        &peer.identity
    }

    fn comes(&self, scene: &mut Scene, peer: &Peer) -> Result<SessionNo> {
        again(scene, peer)
    }

    fn is_gone(&self, peer: &Peer) -> Result<bool> {
        Ok(!self.server.has(&peer.identity)?)
    }

    fn end(at: Window, reasons: &'static [&'static str]) -> End {
        seen(at, reasons)
    }

    fn answers(peer: &Peer) -> Result<bool> {
        peer.pings()
    }

    fn measured(&mut self) -> &mut Measured<Peer> {
        &mut self.measured
    }
}
