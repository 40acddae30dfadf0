//! What WireGuard's clients are to an operator of the controller: peers that the server knows or not.

use anyhow::Result;

use super::super::operator::{Measured, Operated};
use super::super::scene::{Scene, SessionNo};
use super::super::session::{End, Window};
use super::{Peer, WireGuard, again, seen};

impl Operated for WireGuard {
    type Client = Peer;
    const IDENTITY: &'static str = "--wireguard";

    fn new_client(&self, scene: &mut Scene, name: &str) -> Result<Peer> {
        self.server.new_peer(scene, name)
    }

    fn identity(peer: &Peer) -> &str {
        &peer.public
    }

    /// Somebody on the host lets it in again.
    fn comes(&self, scene: &mut Scene, peer: &Peer) -> Result<SessionNo> {
        self.server.add(peer)?;
        again(scene, peer)
    }

    fn is_gone(&self, peer: &Peer) -> Result<bool> {
        Ok(!self.server.knows(peer)?)
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
