//! The part of a [`Host`] that is about releases: the installed programs, the updater, and what
//! both leave on disk.
//!
//! The host's folder is the updater's `--root`: `/opt/vpn-node/system` as a package leaves it, the
//! plain supervisor as the agent's parent, `updater.toml` with a short probation.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vpn_node_release::digest::Digest;
use vpn_node_release::version::Version;

use super::host::{COMMAND_WITHIN, Host};
use crate::build::Programs;
use crate::release;
use crate::shell;

/// An updater that is told to go back ends the agent and starts another one.
const UPDATER_WITHIN: Duration = Duration::from_secs(120);

/// The three programs of a package, small enough to be copied often: without their symbols.
pub(crate) struct Stock {
    folder: PathBuf,
    manifest: Vec<u8>,
}

impl Stock {
    /// Makes them in `folder`.
    pub(crate) fn of(programs: &Programs, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let all = [
            &programs.agent,
            &programs.cli,
            &programs.updater,
            &programs.wireguard,
        ];
        for (program, name) in all.into_iter().zip(release::PROGRAMS) {
            let to = folder.join(name);
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(&to).arg(program);
            if shell::find("strip").is_none()
                || shell::succeed(strip, None, UPDATER_WITHIN).is_err()
            {
                fs::copy(program, &to)
                    .with_context(|| format!("cannot copy {}", program.display()))?;
            }
        }
        let manifest = release::manifest_of(folder, &Version::parse(env!("CARGO_PKG_VERSION"))?)?;
        let folder = folder.to_owned();
        Ok(Self { folder, manifest })
    }

    /// Where they are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Host {
    /// Puts the programs where the deb and the rpm put them, and `settings` into updater.toml.
    pub(crate) fn install(&self, stock: &Stock, settings: &str) -> Result<()> {
        let opt = self.at("opt/vpn-node");
        let bin = opt.join("system/bin");
        let put = || -> std::io::Result<()> {
            fs::create_dir_all(&bin)?;
            for name in release::PROGRAMS {
                fs::hard_link(stock.folder.join(name), bin.join(name))?;
            }
            fs::write(opt.join("system/manifest.json"), &stock.manifest)?;
            symlink("system", opt.join("stable"))?;
            fs::write(self.at("etc/vpn-node/updater.toml"), settings)
        };
        put().with_context(|| format!("cannot install vpn-node in {}", opt.display()))
    }

    /// A path of this host's tree.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder().join(path)
    }

    /// `vpn-node-updater` of this host, from the version that runs.
    pub(crate) fn updater(&self, words: &[&str]) -> Command {
        let program = self.at("opt/vpn-node/stable/bin/vpn-node-updater");
        let mut command = self.machine.command(program);
        command.arg("--root").arg(self.folder()).args(words);
        command
    }

    /// Runs it to its end: exit status and what it said.
    pub(crate) fn update(&self, words: &[&str]) -> Result<shell::Output> {
        shell::output(self.updater(words), None, UPDATER_WITHIN)
    }

    /// The same, and a failure is an error.
    pub(crate) fn must_update(&self, words: &[&str]) -> Result<String> {
        let output = shell::succeed(self.updater(words), None, UPDATER_WITHIN)?;
        Ok(output.stdout + &output.stderr)
    }

    /// The plain supervisor, which runs the agent and, when it is asked for, the updater.
    pub(crate) fn supervise(&self) -> Command {
        let mut command = self.updater(&["supervise", "--", "--config"]);
        command.arg(self.config());
        command
    }

    /// `vpn-node` as it was installed.
    pub(crate) fn installed_cli(&self) -> Command {
        let mut command = self
            .machine
            .command(self.at("opt/vpn-node/stable/bin/vpn-node"));
        command.arg("--config").arg(self.config());
        command
    }

    /// Believes the publisher whose first root has this SHA-256.
    pub(crate) fn trust(&self, root: &Path, sha256: &str) -> Result<String> {
        let file = root.to_string_lossy();
        self.must_update(&["trust", &file, "--sha256", sha256])
    }

    /// What the updater says about itself (`status.json`); nothing before its first word.
    pub(crate) fn software(&self) -> Option<Value> {
        let bytes = fs::read(self.at("var/lib/vpn-node-updater/status.json")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Its history, the oldest line first.
    pub(crate) fn history(&self) -> Vec<Value> {
        let path = self.at("var/lib/vpn-node-updater/history.jsonl");
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Where one of the links `stable`, `experiment` and `previous` leads; nothing if it is absent.
    pub(crate) fn link(&self, name: &str) -> Option<String> {
        let to = fs::read_link(self.at("opt/vpn-node").join(name)).ok()?;
        Some(to.to_string_lossy().into_owned())
    }

    /// Everything that a refused update must leave as it was: the updater's trust, the links, and
    /// which versions are there.
    pub(crate) fn trusted_state(&self) -> Result<BTreeMap<String, String>> {
        let mut state = BTreeMap::new();
        for entry in entries(&self.at("var/lib/vpn-node-updater/trust"))? {
            let bytes =
                fs::read(&entry).with_context(|| format!("cannot read {}", entry.display()))?;
            state.insert(entry.display().to_string(), Digest::of(&bytes).to_string());
        }
        for name in ["stable", "experiment", "previous"] {
            state.insert(name.to_owned(), self.link(name).unwrap_or_default());
        }
        for entry in entries(&self.at("opt/vpn-node/versions"))? {
            state.insert(entry.display().to_string(), "a version".to_owned());
        }
        Ok(state)
    }

    /// Which version answers on the status socket, and from which slot it runs.
    pub(crate) fn running(&self) -> Option<(String, String)> {
        let report = self.report()?;
        let text = |name: &str| report[name].as_str().unwrap_or_default().to_owned();
        Some((text("version"), text("running_from")))
    }

    /// The id that the controller gave this host.
    pub(crate) fn server_id(&self) -> Result<String> {
        let mut command = self.cli();
        command.args(["status", "--json"]);
        let output = shell::output(command, None, COMMAND_WITHIN)?;
        let answer: Value = serde_json::from_str(&output.stdout).with_context(|| {
            format!(
                "`vpn-node status --json` printed no JSON: {}",
                output.stderr
            )
        })?;
        let id = find_text(&answer, "server_id").unwrap_or_default();
        ensure!(!id.is_empty(), "`vpn-node status --json` has no server_id");
        Ok(id)
    }
}

/// The first child of a process (proc(5)): the agent of a supervisor.
pub(crate) fn child_of(parent: u32) -> Result<i32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let first = text.split_whitespace().next();
    first
        .and_then(|id| id.parse().ok())
        .context("the supervisor has no child")
}

fn find_text(value: &Value, key: &str) -> Option<String> {
    match value {
        Value::Object(fields) => match fields.get(key).and_then(Value::as_str) {
            Some(text) => Some(text.to_owned()),
            None => fields.values().find_map(|one| find_text(one, key)),
        },
        Value::Array(values) => values.iter().find_map(|one| find_text(one, key)),
        _ => None,
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", folder.display()));
        }
    };
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry.context("cannot list a folder")?.path());
    }
    paths.retain(|path| !path.is_dir() || path.parent().is_some_and(|p| p.ends_with("versions")));
    paths.sort();
    Ok(paths)
}
