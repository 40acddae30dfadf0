//! Silence: what is still the same session, and when it is over.

use std::time::Duration;

use anyhow::Result;

use super::super::scene::{Scene, SessionNo};
use super::super::session::End;
use super::peers::Peer;
use super::{LOOK_MS, SOME_LOOKS, WireGuard, again, played, seen};
use crate::shell;

/// REJECT_AFTER_TIME of WireGuard: so long a client may be silent and be the same session.
const SILENCE: Duration = Duration::from_secs(180);
/// Silence, one look more, the way to the controller, and a busy machine.
const SILENCE_SHOWS: Duration = Duration::from_secs(215);
/// REKEY_AFTER_TIME is 120 s; a lost handshake is tried again after 5 s.
const REKEY_SHOWS: Duration = Duration::from_secs(140);

impl WireGuard {
    /// The end is judged when the silence is over.
    pub(super) fn silent_client(&mut self, scene: &mut Scene) -> Result<()> {
        self.silent = Some(self.falls_silent(scene, "silent", LOOK_MS)?);
        Ok(())
    }

    /// The agent that starts anew knows the last handshake and not what came after it: it may date
    /// the end anywhere in the silence, as the row admits.
    pub(super) fn silent_unseen(&mut self, scene: &mut Scene) -> Result<()> {
        self.falls_silent(scene, "silent-unseen", milliseconds(SILENCE))?;
        scene.kill_agent()?;
        scene.start_agent()
    }

    /// A client that talks, and then is no more.
    fn falls_silent(
        &mut self,
        scene: &mut Scene,
        name: &str,
        within_ms: i64,
    ) -> Result<(Peer, SessionNo)> {
        let (peer, session) = self.join(scene, name)?;
        peer.talk(scene)?;
        scene.row(session)?;
        shell::pause(SOME_LOOKS)?;
        let (at, ()) = scene.timed(|scene| peer.kill(scene))?;
        let end = End {
            within_ms,
            // Of silence one knows when it began, and that it was over when the keys were.
            uncertainty_ms: milliseconds(SILENCE) + LOOK_MS,
            confidence: "inferred",
            ..seen(at, &["timeout"])
        };
        scene.ends_within(session, end, SILENCE_SHOWS);
        Ok((peer, session))
    }

    pub(super) fn back_after_timeout(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = played(&mut self.silent, "silent client")?;
        scene.row_that(*session, "with its end", SILENCE_SHOWS, |row| {
            row.ended_ms.is_some()
        })?;
        peer.start(scene)?;
        *session = again(scene, peer)?;
        peer.talk(scene)
    }

    pub(super) fn rekey(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, _) = played(&mut self.roamer, "connect")?;
        let before = self.server.handshake(peer)?;
        let server = &self.server;
        scene.wait_for("another handshake under traffic", REKEY_SHOWS, |_| {
            shell::pause(Duration::from_secs(1))?;
            Ok((server.handshake(peer)? > before).then_some(()))
        })?;
        shell::pause(SOME_LOOKS)
    }

    /// A handshake every 125 s is all that is seen of it: less patience than 180 s would flap.
    pub(super) fn keepalive_only(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "quiet")?;
        peer.keep_alive(25)?;
        shell::pause(2 * SILENCE)?;
        self.others.push((peer, session));
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
