//! A VPN host of the fleet: its folder, and its programs as an operator runs them.
//!
//! The folder is the root of a tree like a host's own: `etc/vpn-node/agent.toml`, the state in
//! `var/lib/vpn-node`, the status socket in `run/vpn-node`. Several hosts of one fleet differ by
//! their folder alone. What is about releases stands in [`installed`](super::installed).

use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::machine::Machine;
use crate::build::Programs;
use crate::shell;

/// A command of ours that takes longer has hung.
pub(crate) const COMMAND_WITHIN: Duration = Duration::from_secs(20);
/// What docs/status.md promises for one conversation, twice over.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// The longest answer that docs/status.md allows.
const MAX_ANSWER_BYTES: u64 = 4 * 1024 * 1024;

/// See the module's page.
pub(crate) struct Host {
    pub(super) programs: Programs,
    pub(super) machine: Machine,
    folder: PathBuf,
}

impl Host {
    /// A host in `folder`, which is made if it is not there; `settings` are what its agent.toml
    /// has besides the directories. Nothing runs yet.
    pub(crate) fn new(
        folder: PathBuf,
        programs: &Programs,
        machine: Machine,
        settings: &str,
    ) -> Result<Self> {
        let host = Self {
            programs: programs.clone(),
            machine,
            folder,
        };
        let etc = host.folder.join("etc/vpn-node");
        for private in [host.state_dir(), host.runtime_dir(), etc] {
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(&private)
                .with_context(|| format!("cannot make {}", private.display()))?;
        }
        let config = format!(
            "state_dir = {:?}\nruntime_dir = {:?}\n\n{settings}",
            host.state_dir(),
            host.runtime_dir()
        );
        fs::write(host.config(), config).context("cannot write agent.toml")?;
        Ok(host)
    }

    /// Everything of this host on disk.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the agent keeps its identity and ledger.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.folder.join("var/lib/vpn-node")
    }

    /// Where the agent answers `vpn-node status`.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime_dir().join("status.sock")
    }

    fn runtime_dir(&self) -> PathBuf {
        self.folder.join("run/vpn-node")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("etc/vpn-node/agent.toml")
    }

    /// `vpn-node` of this host, on its machine.
    pub(crate) fn cli(&self) -> Command {
        let mut command = self.machine.command(&self.programs.cli);
        command
            .arg("--config")
            .arg(self.config())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--socket")
            .arg(self.socket());
        command
    }

    /// `vpn-node-agent` of this host, on its machine.
    pub(crate) fn agent(&self) -> Command {
        let mut command = self.machine.command(&self.programs.agent);
        command.arg("--config").arg(self.config());
        command
    }

    /// Enrols the host with `token`, which goes to standard input.
    pub(crate) fn enroll(&self, token: &str) -> Result<()> {
        let mut command = self.cli();
        command.arg("enroll");
        shell::succeed(command, Some(token.as_bytes()), COMMAND_WITHIN).map(drop)
    }

    /// What `vpn-node status` tells a person. A sick host is an exit status, not a failure of ours.
    pub(crate) fn status(&self) -> Result<String> {
        let mut command = self.cli();
        command.arg("status");
        shell::output(command, None, COMMAND_WITHIN).map(|output| output.stdout + &output.stderr)
    }

    /// How many connections the agent itself reports as live.
    pub(crate) fn live_connections(&self) -> Result<usize> {
        let mut command = self.cli();
        command.args(["connections", "--json"]);
        let output = shell::succeed(command, None, COMMAND_WITHIN)?;
        let answer: Value = serde_json::from_str(&output.stdout)
            .context("`vpn-node connections --json` printed no JSON")?;
        let rows = answer["connections"].as_array();
        rows.map(Vec::len)
            .context("`vpn-node connections --json` has no `connections`")
    }

    /// The agent's report from its socket (docs/status.md), for who asks too often to start
    /// `vpn-node status` each time. Nothing while no agent answers.
    pub(crate) fn report(&self) -> Option<Value> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
        stream.write_all(b"{\"v\":1,\"get\":\"status\"}\n").ok()?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_ANSWER_BYTES))
            .read_line(&mut line)
            .ok()?;
        let mut answer: Value = serde_json::from_str(&line).ok()?;
        answer.get_mut("ok").map(Value::take)
    }

    /// When the controller took the newest answered heartbeat of the running agent, by the host's
    /// clock in milliseconds since the Unix epoch; nothing if it took none.
    pub(crate) fn accepted_heartbeat(&self) -> Option<i64> {
        let report = self.report()?;
        let last = &report["last_heartbeat"];
        last["at_ms"]
            .as_i64()
            .filter(|_| last["accepted"].as_bool() == Some(true))
    }

    /// Whether the running agent knows that the controller has verified this host.
    pub(crate) fn is_verified(&self) -> bool {
        self.report()
            .is_some_and(|report| report["verification"]["state"] == "verified")
    }
}
