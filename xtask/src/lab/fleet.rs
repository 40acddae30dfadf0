//! A fleet: a controller and its hosts, one to begin with, driven by their command lines alone, as
//! an operator drives them. What the controller prints as JSON is read here and nowhere else.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Lab;
use super::host::{COMMAND_WITHIN, Host};
use super::machine::Machine;
use crate::build::Programs;
use crate::shell;

const READY_WITHIN: Duration = Duration::from_secs(20);

/// The names under which the two daemons run in the lab.
pub(crate) const AGENT: &str = "vpn-node-agent";
pub(crate) const CONTROLLER: &str = "vpn-node-controller";

/// A registration token, and the id of its key in the controller's tables.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) key: String,
}

/// See the module's page.
pub(crate) struct Fleet {
    /// The first host.
    pub(crate) host: Host,
    pub(crate) machine: Machine,
    programs: Programs,
    folder: PathBuf,
    listen: SocketAddr,
    /// Whom hosts speak to, if that is not the controller itself.
    front: Option<SocketAddr>,
    heartbeat_s: u32,
    agent_settings: String,
}

impl Fleet {
    /// A fleet whose hosts send a heartbeat every `heartbeat_s` seconds; `agent_settings` are what
    /// an agent.toml has besides the directories. Nothing runs yet.
    pub(crate) fn new(
        lab: &Lab,
        programs: Programs,
        machine: Machine,
        heartbeat_s: u32,
        agent_settings: &str,
    ) -> Result<Self> {
        let folder = lab.folder().to_owned();
        Ok(Self {
            host: Host::new(folder.clone(), &programs, machine, agent_settings)?,
            machine,
            programs,
            folder,
            listen: free_address()?,
            front: None,
            heartbeat_s,
            agent_settings: agent_settings.to_owned(),
        })
    }

    /// One more host, in a folder of its own that is called `name`.
    pub(crate) fn add_host(&self, name: &str) -> Result<Host> {
        let folder = self.folder.join("hosts").join(name);
        Host::new(folder, &self.programs, self.machine, &self.agent_settings)
    }

    /// From here on hosts are told to speak to `front`, before the controller is made.
    pub(crate) fn stand_behind(&mut self, front: SocketAddr) {
        self.front = Some(front);
    }

    /// The controller's address for agents.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.front.unwrap_or(self.listen))
    }

    /// Where the controller itself listens.
    pub(crate) fn listens_at(&self) -> SocketAddr {
        self.listen
    }

    /// The controller's keys, settings and database.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.join("controller")
    }

    /// Makes the controller's keys, store and settings; only the heartbeat is not the default.
    pub(crate) fn init_controller(&self) -> Result<()> {
        let mut command = self.controller();
        command.args([
            "init",
            "--url",
            &self.url(),
            "--listen",
            &self.listen.to_string(),
        ]);
        shell::succeed(command, None, COMMAND_WITHIN)?;
        self.set_controller("heartbeat_interval_s", self.heartbeat_s)
    }

    /// Changes one of the controller's settings, before it is started.
    pub(crate) fn set_controller(&self, key: &str, value: u32) -> Result<()> {
        let file = self.data_dir().join("controller.toml");
        fs::read_to_string(&file)
            .and_then(|settings| fs::write(&file, with_setting(&settings, key, value)))
            .with_context(|| format!("cannot change {}", file.display()))
    }

    /// Starts the controller and waits until it accepts connections.
    /// Returns its process id.
    pub(crate) fn start_controller(&self, lab: &mut Lab) -> Result<u32> {
        let mut command = self.controller();
        command.arg("serve");
        let pid = lab.start(CONTROLLER, command)?;
        let what = format!("the controller to accept connections on {}", self.listen);
        lab.wait_for(&what, READY_WITHIN, || {
            Ok(self.machine.accepts(self.listen)?.then_some(pid))
        })
    }

    /// One registration token, as an operator makes it.
    pub(crate) fn create_token(&self) -> Result<Token> {
        let answer = self.ask(&["registration-key", "create", "--expires", "1h"])?;
        let text = find_token(&answer)
            .context("`registration-key create --json` printed no token that begins with vnr1.")?;
        Ok(Token {
            text: text.to_owned(),
            key: column(&answer, "registration_key"),
        })
    }

    /// Starts the agent of the first host. Returns its process id.
    pub(crate) fn start_agent(&self, lab: &mut Lab) -> Result<u32> {
        lab.start(AGENT, self.host.agent())
    }

    /// Rows of one of the controller's tables, as `vpn-node-controller … --json` gives them.
    pub(crate) fn rows(&self, words: &[&str], table: &str) -> Result<Vec<Value>> {
        match self.ask(words)?.get_mut(table).map(Value::take) {
            Some(Value::Array(rows)) => Ok(rows),
            Some(row @ Value::Object(_)) => Ok(vec![row]),
            _ => bail!(
                "`vpn-node-controller {} --json` has no `{table}`",
                words.join(" ")
            ),
        }
    }

    /// The answer of `vpn-node-controller … --json`.
    pub(crate) fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.controller();
        command.args(words).arg("--json");
        let shown = shell::show(&command);
        let output = shell::succeed(command, None, COMMAND_WITHIN)?;
        serde_json::from_str(&output.stdout).with_context(|| format!("`{shown}` printed no JSON"))
    }

    /// `vpn-node-controller` of this fleet, on its machine.
    pub(crate) fn controller(&self) -> Command {
        let mut command = self.machine.command(&self.programs.controller);
        command.arg("--data-dir").arg(self.data_dir());
        command
    }
}

/// An address of the loopback that nothing listens on right now, and that was not given to
/// another fleet of this process: its controller may be about to start, or killed for a moment.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .context("cannot find a free port on 127.0.0.1")?;
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.insert(address) {
            return Ok(address);
        }
    }
}

/// The text of a column, whatever its JSON type; empty if the row has none.
pub(crate) fn column(row: &Value, name: &str) -> String {
    match &row[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The settings with another value of `key`. They are flat: no table can swallow the line.
fn with_setting(settings: &str, key: &str, value: u32) -> String {
    let kept = settings.lines().filter(|line| !line.starts_with(key));
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    format!("{kept}{key} = {value}\n")
}

fn find_token(answer: &Value) -> Option<&str> {
    match answer {
        Value::String(text) => text.starts_with("vnr1.").then_some(text),
        Value::Array(values) => values.iter().find_map(find_token),
        Value::Object(fields) => fields.values().find_map(find_token),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_token_is_found_by_its_prefix() {
        let answer =
            json!({"schema": 1, "registration_keys": [{"notes": "vnr", "token": "vnr1.AAAA"}]});
        assert_eq!(find_token(&answer), Some("vnr1.AAAA"));
        assert_eq!(find_token(&json!({"schema": 1})), None);
    }

    #[test]
    fn a_setting_is_replaced_and_nothing_else() {
        let settings = "url = \"x\"\nheartbeat_interval_s = 30\nlease_s = 1800\n";
        assert_eq!(
            with_setting(settings, "heartbeat_interval_s", 3),
            "url = \"x\"\nlease_s = 1800\nheartbeat_interval_s = 3\n"
        );
    }

    #[test]
    fn a_missing_or_null_column_is_empty() {
        let row = json!({"connection_end": null, "active": true});
        assert_eq!(column(&row, "connection_end"), "");
        assert_eq!(column(&row, "no such"), "");
        assert_eq!(column(&row, "active"), "true");
    }
}
