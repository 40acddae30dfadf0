//! What an operator does at the controller, whatever the VPN daemon: end a connection, make a
//! device known, revoke it; and how long an order takes. [`Operated`] is what a daemon's file says of
//! its clients for these scenarios to be played with them.

use std::mem;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::part::Daemon;
use super::scene::{SOON, Scene, SessionNo};
use super::session::{End, Window};

/// The user to whom every device here belongs.
const USER: &str = "alice";
/// The aim: from the operator's command to the daemon's confirmation, in 99 of 100.
const AIM: Duration = Duration::from_secs(1);
/// Of fewer times the 99th percentile is the slowest one, which a busy machine makes.
const JUDGED_FROM: usize = 30;
/// So many clients are connected at a time while orders are measured.
const AT_A_TIME: usize = 5;

/// A daemon whose clients the controller can end, with the scenarios that are the same for all.
pub(super) trait Operated: Daemon {
    /// A client, connected or not.
    type Client;

    /// The option of `device identity add` for what the daemon calls its clients.
    const IDENTITY: &'static str;
    /// Whether a refused client that comes again is up for long enough to be seen.
    const SEEN_AGAIN: bool = true;

    /// A client that may connect.
    fn new_client(&self, scene: &mut Scene, name: &str) -> Result<Self::Client>;

    /// What the daemon calls it.
    fn identity(client: &Self::Client) -> &str;

    /// The client connects, and that is stated as a new session.
    fn comes(&self, scene: &mut Scene, client: &Self::Client) -> Result<SessionNo>;

    /// Whether the daemon, asked itself, has no session of the client.
    fn is_gone(&self, client: &Self::Client) -> Result<bool>;

    /// An end that the daemon tells or shows at once.
    fn end(at: Window, reasons: &'static [&'static str]) -> End;

    /// What becomes of a client whose session was ended, until it may come again.
    fn has_gone(&self, _scene: &mut Scene, _client: &Self::Client) -> Result<()> {
        Ok(())
    }

    /// Whether the tunnel answers the client, where that can be asked without a session.
    fn answers(_client: &Self::Client) -> Result<bool> {
        Ok(false)
    }

    /// The clients of [`Self::disconnect_in_time`], and what was measured with them.
    fn measured(&mut self) -> &mut Measured<Self::Client>;

    /// Ends the client's session by `connections disconnect`. Returns how long the command took.
    fn disconnects(
        &self,
        scene: &mut Scene,
        client: &Self::Client,
        session: SessionNo,
    ) -> Result<Duration> {
        let (at, took) = disconnect(scene, session, || self.is_gone(client))?;
        scene.ends(session, Self::end(at, &["admin_kick"]));
        self.has_gone(scene, client)?;
        Ok(took)
    }

    /// The client is out when the command comes back, and stays so.
    fn disconnect(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(self, scene, "ordered")?;
        self.disconnects(scene, &client, session)?;
        ensure!(
            !Self::answers(&client)?,
            "the tunnel still answers the client that was disconnected"
        );
        Ok(())
    }

    /// The device's session ends, and so does the one that it begins later.
    fn device_revoke(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(self, scene, "revoked")?;
        let device = add_device(scene, session, Self::IDENTITY, Self::identity(&client))?;
        let words = ["device", "revoke", &device];
        let at = revoke(scene, &words, || self.is_gone(&client))?;
        scene.ends(session, Self::end(at, &["revoked"]));
        self.has_gone(scene, &client)?;
        if !Self::SEEN_AGAIN {
            return Ok(());
        }
        scene.settle()?;

        let (at, session) = scene.timed(|scene| {
            let session = self.comes(scene, &client)?;
            let gone = "the daemon without the client of the revoked device";
            scene.wait_for(gone, SOON, |_| Ok(self.is_gone(&client)?.then_some(())))?;
            self.has_gone(scene, &client)?;
            Ok(session)
        })?;
        scene.ends(session, Self::end(at, &["revoked"]));
        Ok(())
    }

    /// A key takes the sessions of its devices with it.
    fn key_revoke(&mut self, scene: &mut Scene) -> Result<()> {
        let (client, session) = join(self, scene, "key-revoked")?;
        let device = add_device(scene, session, Self::IDENTITY, Self::identity(&client))?;
        let key = id(&scene.fleet.ask(&["device", "show", &device])?, "key_id")?;
        let words = ["personal-key", "revoke", &key];
        let at = revoke(scene, &words, || self.is_gone(&client))?;
        scene.ends(session, Self::end(at, &["revoked"]));
        self.has_gone(scene, &client)
    }

    /// Clients connect and are disconnected `times` times.
    fn disconnect_in_time(&mut self, scene: &mut Scene, times: usize) -> Result<()> {
        need_many(self, scene)?;
        let clients = mem::take(&mut self.measured().clients);
        let measured = measure(self, scene, &clients, times);
        self.measured().clients = clients;
        measured?;
        self.measured().times.tell(scene);
        Ok(())
    }
}

/// For orders that are measured: clients, and how long each order took.
pub(super) struct Measured<C> {
    pub(super) clients: Vec<C>,
    times: Times,
}

impl<C> Default for Measured<C> {
    fn default() -> Self {
        Self {
            clients: Vec::new(),
            times: Times::default(),
        }
    }
}

/// Sees to it that there are [`AT_A_TIME`] of these clients.
pub(super) fn need_many<D: Operated>(daemon: &mut D, scene: &mut Scene) -> Result<()> {
    while daemon.measured().clients.len() < AT_A_TIME {
        let name = format!("many-{}", daemon.measured().clients.len());
        let client = daemon.new_client(scene, &name)?;
        daemon.measured().clients.push(client);
    }
    Ok(())
}

fn measure<D: Operated>(
    daemon: &mut D,
    scene: &mut Scene,
    clients: &[D::Client],
    times: usize,
) -> Result<()> {
    let mut left = times;
    while left > 0 {
        let mut sessions = Vec::new();
        for client in clients.iter().take(left) {
            sessions.push((client, daemon.comes(scene, client)?));
        }
        left -= sessions.len();
        for (client, session) in sessions {
            let took = daemon.disconnects(scene, client, session)?;
            daemon.measured().times.add(took);
        }
    }
    Ok(())
}

/// A new client connects, and that is stated.
fn join<D: Operated>(daemon: &D, scene: &mut Scene, name: &str) -> Result<(D::Client, SessionNo)> {
    let client = daemon.new_client(scene, name)?;
    let session = daemon.comes(scene, &client)?;
    Ok((client, session))
}

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
fn add_device(scene: &mut Scene, session: SessionNo, kind: &str, identity: &str) -> Result<String> {
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

/// Revokes a device or a personal key, and waits until `is_gone`, asked of the daemon itself, says that
/// the client is out. Returns when that was.
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
