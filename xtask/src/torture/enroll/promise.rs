//! What must hold after every crash: on the host's disk, and in the controller's tables.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::point::Point;
use crate::lab::Lab;
use crate::lab::fleet::{AGENT, CONTROLLER, Fleet, Token, column};
use crate::lab::host::Host;

/// More events than a shard of any size leaves.
const EVENTS: &str = "100000";

/// A token, and the server that it became.
pub(crate) struct Bound {
    pub(crate) point: Point,
    pub(crate) key: String,
    pub(crate) token: String,
    /// As the host has it; nothing if the point failed before.
    pub(crate) server: Option<String>,
}

/// The host is enrolled, has no leftover of the crash, and nothing of it is open to others.
/// Returns its server id.
pub(crate) fn of_files(host: &Host, token: &Token) -> Result<String> {
    let state = host.state_dir();
    let read = |name: &str| -> Result<Value> {
        let path = state.join(name);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", path.display()))
    };
    let server = column(&read("enrollment.json")?, "server_id");
    ensure!(!server.is_empty(), "enrollment.json names no server");
    let secret = column(&read("identity.json")?, "secret");
    for path in files_below(&state)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        ensure!(
            !name.starts_with('.') && !name.ends_with(".tmp") && !name.contains("pending"),
            "the crash left {} behind",
            path.display()
        );
        let mode = fs::metadata(&path)?.mode() & 0o777;
        ensure!(mode & 0o077 == 0, "{} has mode {mode:04o}", path.display());
    }
    for path in files_below(host.folder())? {
        let is_token = path.starts_with(host.folder().join("credentials"));
        ensure!(
            is_token || !holds(&path, &token.text)?,
            "the token is in {}",
            path.display()
        );
        ensure!(
            secret.is_empty() || path.ends_with("identity.json") || !holds(&path, &secret)?,
            "the identity's secret is in {}",
            path.display()
        );
    }
    Ok(server)
}

/// Each token became one server, the one that its host has; nobody was stopped, nothing alarmed.
/// Returns a sentence for each promise that is broken.
pub(crate) fn of_tables(fleet: &Fleet, lab: &Lab, bound: &[Bound]) -> Result<Vec<String>> {
    let servers = fleet.rows(&["server", "list"], "servers")?;
    let keys = fleet.rows(&["registration-key", "list"], "registration_keys")?;
    let events = fleet.rows(&["events", "list", "--limit", EVENTS], "events")?;
    let mut broken = Vec::new();
    let mut of_key: HashMap<String, Vec<&Value>> = HashMap::new();
    for server in &servers {
        let key = column(server, "registered_with_key");
        of_key.entry(key).or_default().push(server);
    }
    for one in bound {
        let rows = of_key.remove(&one.key).unwrap_or_default();
        let key = keys
            .iter()
            .find(|key| column(key, "registration_key") == one.key);
        let spent_on = key.map(|key| column(key, "used_by_server_id"));
        let why = match (rows.as_slice(), &one.server) {
            // Told already, with its reason.
            (_, None) => continue,
            ([row], Some(server)) if column(row, "server_id") != *server => {
                format!("the host is {server}, the controller's row {row}")
            }
            ([row], _) if column(row, "status") != "active" => {
                format!("the server is not active: {row}")
            }
            ([row], _) if column(row, "verdict") != "verified" => {
                format!("the server is not verified: {row}")
            }
            ([_], Some(server)) if spent_on.as_ref() != Some(server) => {
                format!("the token's row names another server than {server}: {key:?}")
            }
            ([_], _) => continue,
            (rows, _) => format!("{} servers of one token: {rows:?}", rows.len()),
        };
        broken.push(format!("{}: {why}", one.point));
    }
    for row in of_key.values().flatten() {
        broken.push(format!("a server of no token of ours: {row}"));
    }
    for event in events.iter().filter(|event| is_alarm(event)) {
        let server = column(event, "server_id");
        let of = bound
            .iter()
            .find(|one| one.server.as_ref() == Some(&server));
        let point = of.map_or("no point".to_owned(), |one| one.point.to_string());
        broken.push(format!("{point}: a security event: {event}"));
    }
    for name in [AGENT, CONTROLLER, super::shard::TRACED] {
        let log = fs::read_to_string(lab.log(name)).unwrap_or_default();
        if let Some(one) = bound.iter().find(|one| log.contains(&one.token)) {
            broken.push(format!("{}: the token is in the log of {name}", one.point));
        }
    }
    Ok(broken)
}

fn is_alarm(event: &Value) -> bool {
    matches!(column(event, "severity").as_str(), "high" | "critical")
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn holds(path: &Path, text: &str) -> Result<bool> {
    if text.is_empty() {
        bail!("an empty text is everywhere");
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let wanted = text.as_bytes();
    let mut starts = bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == wanted[0]);
    Ok(starts.any(|(at, _)| bytes[at..].starts_with(wanted)))
}
