//! What an operator does at the controller, whatever the VPN daemon: end a connection, make a
//! device known, revoke it; and how long an order takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::scene::{SOON, Scene, SessionNo};
use super::session::Window;

/// The user to whom every device here belongs.
const USER: &str = "alice";
/// The aim: from the operator's command to the daemon's confirmation, in 99 of 100.
const AIM: Duration = Duration::from_secs(1);
/// Of fewer times the 99th percentile is the slowest one, which a busy machine makes.
const JUDGED_FROM: usize = 30;

/// Ends a session by `connections disconnect`. Returns when that was, and how long the command
/// took, which ends after the daemon's confirmation.
///
/// `is_gone` asks the daemon itself whether the client is out, right after the command.
pub(super) fn disconnect(
    scene: &mut Scene,
    session: SessionNo,
    is_gone: impl FnOnce() -> Result<bool>,
) -> Result<(Window, Duration)> {
    let row = scene.row(session)?;
    let words = ["connections", "disconnect", &row.id];
    let (at, told) = scene.timed(|scene| scene.order(&words))?;
    ensure!(
        is_gone()?,
        "`connections disconnect` succeeded, and the daemon still has the client"
    );
    Ok((at, told.took))
}

/// A personal key and a device of it that is known by `identity`, which `kind` is the option of
/// (such as `--wireguard`). Waits until the row of `session` names device and user. Returns the
/// device's id.
pub(super) fn add_device(
    scene: &mut Scene,
    session: SessionNo,
    kind: &str,
    identity: &str,
) -> Result<String> {
    let words = ["personal-key", "create", "--user", USER];
    let key = id(&scene.fleet.ask(&words)?, "key_id")?;
    let words = ["device", "add", "--key", &key, "--name", "laptop"];
    let words = [&words[..], &["--platform", "linux"]].concat();
    let device = id(&scene.fleet.ask(&words)?, "device_id")?;
    scene.order(&["device", "identity", "add", &device, kind, identity])?;
    let row = scene.row_that(session, "with its device", SOON, |row| {
        row.all["device_id"] == device
    })?;
    ensure!(
        row.all["user_name"] == USER,
        "the row does not name the user of its device: {}",
        row.all
    );
    Ok(device)
}

/// The personal key that a device belongs to.
pub(super) fn key_of(scene: &Scene, device: &str) -> Result<String> {
    id(&scene.fleet.ask(&["device", "show", device])?, "key_id")
}

/// Revokes a device and waits until `is_gone`, asked of the daemon itself, says that its client is
/// out. Returns when that was.
pub(super) fn revoke_device(
    scene: &mut Scene,
    device: &str,
    is_gone: impl FnMut() -> Result<bool>,
) -> Result<Window> {
    revoke(scene, &["device", "revoke", device], is_gone)
}

/// The same with a personal key and the client of one of its devices.
pub(super) fn revoke_key(
    scene: &mut Scene,
    key: &str,
    is_gone: impl FnMut() -> Result<bool>,
) -> Result<Window> {
    revoke(scene, &["personal-key", "revoke", key], is_gone)
}

fn revoke(
    scene: &mut Scene,
    words: &[&str],
    mut is_gone: impl FnMut() -> Result<bool>,
) -> Result<Window> {
    let words = [words, &["--reason", "stolen"]].concat();
    let (at, ()) = scene.timed(|scene| {
        scene.order(&words)?;
        let gone = "the daemon without the client that was revoked";
        scene.wait_for(gone, SOON, |_| Ok(is_gone()?.then_some(())))
    })?;
    Ok(at)
}

/// How long orders took.
#[derive(Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Tells the figures so far; a missed aim breaks the scenario, from [`JUDGED_FROM`] times on.
    pub(super) fn tell(&mut self, scene: &mut Scene) {
        let (p99, figure) = self.figure("disconnect");
        let figure = format!("{figure}, aim {} ms)", AIM.as_millis());
        if p99 > AIM && self.0.len() >= JUDGED_FROM {
            let late = self.0.iter().rev().take_while(|took| **took > AIM);
            let late: Vec<_> = late.map(|took| took.as_millis().to_string()).collect();
            let late = late.join(", ");
            scene.aim_missed(format!("the aim is missed: {figure}; late: {late} ms"));
        }
        scene.figure("disconnect", figure);
    }

    /// Tells the figures so far of `what`, for which there is no aim.
    pub(super) fn tell_without_aim(&mut self, scene: &mut Scene, what: &'static str) {
        let (_, figure) = self.figure(what);
        scene.figure(what, format!("{figure})"));
    }

    /// The 99th percentile, and the beginning of the sentence that tells it.
    fn figure(&mut self, what: &str) -> (Duration, String) {
        self.0.sort_unstable();
        let (p50, p99) = (rank(&self.0, 50), rank(&self.0, 99));
        let figure = format!(
            "{what} p50 {} ms, p99 {} ms (n={}",
            p50.as_millis(),
            p99.as_millis(),
            self.0.len()
        );
        (p99, figure)
    }
}

/// The smallest of `sorted` that `percent` of them do not exceed (nearest rank).
fn rank(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(place - 1).copied().unwrap_or_default()
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
