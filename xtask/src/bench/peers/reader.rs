//! The program that is measured (`xtask/reader`): built as the agent is shipped, run on the machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::build;
use crate::lab::machine::Machine;
use crate::shell;

const PROGRAM: &str = "wireguard-reader";
/// Many readings of many peers on a busy machine.
const READ_WITHIN: Duration = Duration::from_secs(300);
/// A daemon that other work held up is asked again; the figures are CPU time, so that is fair.
const TRIES: usize = 3;

/// The program, and where it runs.
pub(super) struct Reader {
    file: PathBuf,
    machine: Machine,
}

/// What it says about its polls.
#[derive(Default)]
pub(super) struct Polls {
    /// CPU time of each, in milliseconds.
    pub(super) cpu_ms: Vec<f64>,
    pub(super) connected: usize,
    pub(super) peak_kib: u64,
}

#[derive(Deserialize)]
struct Said {
    cpu_us: Vec<f64>,
    #[serde(default)]
    connected: usize,
    #[serde(default)]
    peak_kib: u64,
}

#[derive(Deserialize)]
struct Both {
    direct: Said,
    relayed: Said,
}

impl Reader {
    /// Takes `file` if there is one, else builds it.
    pub(super) fn find(file: Option<&Path>, machine: Machine) -> Result<Self> {
        let file = match file {
            Some(file) => std::path::absolute(file).context("cannot resolve --reader")?,
            None => {
                anstream::println!(
                    "building as the agent is shipped (a first build takes minutes)"
                );
                build::one(PROGRAM, "agent")?
            }
        };
        if !file.is_file() {
            bail!("there is no {}", file.display());
        }
        Ok(Self { file, machine })
    }

    /// Reads and compares with the product's backend.
    pub(super) fn poll(&self, count: usize) -> Result<Polls> {
        let said: Said = self.say(&["poll", "/run/wireguard", &count.to_string()])?;
        Ok(Polls {
            cpu_ms: millis(said.cpu_us),
            connected: said.connected,
            peak_kib: said.peak_kib,
        })
    }

    /// Reads a prepared kernel of so many peers: CPU times in milliseconds of the agent's side
    /// through the reader process, and of the agent that asks by itself.
    pub(super) fn kernel(&self, peers: usize, count: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let words = ["kernel", &peers.to_string(), &count.to_string()];
        let Both { direct, relayed } = self.say(&words)?;
        Ok((millis(relayed.cpu_us), millis(direct.cpu_us)))
    }

    /// CPU times of `wg show all dump`, in milliseconds.
    pub(super) fn wg(&self, count: usize) -> Result<Vec<f64>> {
        let said: Said = self.say(&["run", &count.to_string(), "wg", "show", "all", "dump"])?;
        Ok(millis(said.cpu_us))
    }

    fn say<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T> {
        let mut tries = 1;
        let output = loop {
            let mut command = in_mounts(self.machine, &self.file);
            command.args(words);
            match shell::succeed(command, None, READ_WITHIN) {
                Ok(output) => break output,
                Err(error) if tries < TRIES && !shell::was_interrupted(&error) => tries += 1,
                Err(error) => return Err(error),
            }
        };
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("{PROGRAM} said what is no figure: {}", output.stdout))
    }
}

/// `program` with the sockets of the machine, but in our network namespace.
pub(super) fn in_mounts(machine: Machine, program: &Path) -> Command {
    let Machine::Held(holder) = machine else {
        return Command::new(program);
    };
    let mut command = Command::new("nsenter");
    command
        .args(["--mount", "--target", &holder.to_string(), "--"])
        .arg(program);
    command
}

fn millis(micros: Vec<f64>) -> Vec<f64> {
    micros.into_iter().map(|micros| micros / 1000.0).collect()
}
