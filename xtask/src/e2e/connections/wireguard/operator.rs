//! What an operator of the controller does to WireGuard's clients: end one, revoke one, in time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::scene::{SOON, Scene, SessionNo};
use super::peers::Peer;
use super::{WireGuard, again, seen, state};

/// The aim: from the operator's command to the daemon's confirmation, in 99 of 100.
const DISCONNECT_AIM: Duration = Duration::from_secs(1);
/// So many clients are connected at a time while that is measured.
const AT_A_TIME: usize = 5;

impl WireGuard {
    /// `connections disconnect` ends the session, and the client is not let in again.
    pub(super) fn disconnect(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "kicked")?;
        self.disconnect_one(scene, &peer, session)?;
        ensure!(
            !peer.pings()?,
            "the tunnel still answers the client that was disconnected"
        );
        Ok(())
    }

    /// The device's session ends, and so does every one that it begins later.
    pub(super) fn device_revoke(&mut self, scene: &mut Scene) -> Result<()> {
        let (peer, session) = self.join(scene, "revoked")?;
        scene.row(session)?;
        let device = add_device(scene, &peer)?;
        let row = scene.row_that(session, "with its device", SOON, |row| {
            row.all["device_id"] == device
        })?;
        ensure!(
            row.all["user_name"] == "alice",
            "the row does not name the user of its device: {}",
            row.all
        );
        let words = ["device", "revoke", &device, "--reason", "stolen"];
        let server = &self.server;
        let is_gone = |_: &_| Ok((!server.knows(&peer)?).then_some(()));
        let gone = "the daemon without the peer of the revoked device";
        let (at, ()) = scene.timed(|scene| {
            scene.order(&words)?;
            scene.wait_for(gone, SOON, is_gone)
        })?;
        scene.ends(session, seen(at, &["revoked"]));
        scene.settle()?;

        // Somebody on the host lets it in again.
        server.add(&peer)?;
        let (at, session) = scene.timed(|scene| {
            let session = again(scene, &peer)?;
            scene.wait_for(gone, SOON, is_gone)?;
            Ok(session)
        })?;
        scene.ends(session, seen(at, &["revoked"]));
        Ok(())
    }

    /// Clients connect and are disconnected `times` times; the time of each command is measured,
    /// from its start to its end, which comes after the daemon's confirmation.
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
                let took = self.disconnect_one(scene, peer, session)?;
                self.took.push(took);
            }
        }
        self.took.sort_unstable();
        let (p50, p99) = (rank(&self.took, 50), rank(&self.took, 99));
        let figure = format!(
            "disconnect p50 {} ms, p99 {} ms (n={}, aim {} ms)",
            p50.as_millis(),
            p99.as_millis(),
            self.took.len(),
            DISCONNECT_AIM.as_millis()
        );
        if p99 > DISCONNECT_AIM {
            scene.aim_missed(format!("the aim is missed: {figure}"));
        }
        scene.figure("disconnect", figure);
        Ok(())
    }

    /// Disconnects it by the controller's command. Returns how long the command took.
    fn disconnect_one(
        &self,
        scene: &mut Scene,
        peer: &Peer,
        session: SessionNo,
    ) -> Result<Duration> {
        let row = scene.row(session)?;
        let words = ["connections", "disconnect", &row.id];
        let (at, told) = scene.timed(|scene| scene.order(&words))?;
        ensure!(
            !self.server.knows(peer)?,
            "`connections disconnect` succeeded, and the daemon still has the peer"
        );
        scene.ends(session, seen(at, &["admin_kick"]));
        Ok(told.took)
    }
}

/// A personal key of alice's and a device with it that is known by the peer's key. Returns the
/// device's id.
fn add_device(scene: &Scene, peer: &Peer) -> Result<String> {
    let words = ["personal-key", "create", "--user", "alice"];
    let key = id(&scene.fleet.ask(&words)?, "key_id")?;
    let words = ["device", "add", "--key", &key, "--name", "laptop"];
    let device = scene
        .fleet
        .ask(&[&words[..], &["--platform", "linux"]].concat())?;
    let device = id(&device, "device_id")?;
    let words = ["device", "identity", "add", &device, "--wireguard"];
    scene.order(&[&words[..], &[&peer.public]].concat())?;
    Ok(device)
}

/// The first text of this name, wherever it stands in the answer.
fn id(answer: &Value, name: &str) -> Result<String> {
    fn find<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
        match value {
            Value::Object(fields) => {
                let here = fields.get(name).and_then(Value::as_str);
                here.or_else(|| fields.values().find_map(|value| find(value, name)))
            }
            Value::Array(values) => values.iter().find_map(|value| find(value, name)),
            _ => None,
        }
    }
    let found = find(answer, name).map(str::to_owned);
    found.with_context(|| format!("the controller's answer has no `{name}`"))
}

/// The smallest of `sorted` that `percent` of them do not exceed (nearest rank); `sorted` is not
/// empty.
fn rank(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[place - 1]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_99th_percentile_of_50_is_the_slowest() {
        let sorted: Vec<Duration> = (1..=50).map(Duration::from_millis).collect();
        assert_eq!(rank(&sorted, 50), Duration::from_millis(25));
        assert_eq!(rank(&sorted, 99), Duration::from_millis(50));
        assert_eq!(rank(&sorted[..1], 50), Duration::from_millis(1));
    }

    #[test]
    fn an_id_is_found_in_a_list_or_an_object() {
        let listed = json!({"schema": 1, "devices": [{"device_id": "d", "name": "laptop"}]});
        assert_eq!(id(&listed, "device_id").unwrap(), "d");
        assert!(id(&listed, "key_id").is_err());
    }
}
