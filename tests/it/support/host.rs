//! A VPN host in a temporary directory, with both programs as they are installed.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_for;

/// One host: state, runtime and socket directories, and the daemon when it runs.
pub(crate) struct Host {
    dir: tempfile::TempDir,
    agent: Option<Child>,
    environment: Vec<(&'static str, OsString)>,
    user: Option<u32>,
}

impl Host {
    /// A host with this configuration besides its directories.
    pub(crate) fn new(config: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("vpn-node-host")
            .tempdir()
            .unwrap();
        let host = Self {
            dir,
            agent: None,
            environment: Vec::new(),
            user: None,
        };
        fs::create_dir(host.sockets()).unwrap();
        let text = format!(
            "state_dir = {:?}\nruntime_dir = {:?}\n{config}\n[wireguard]\nsocket_dir = {:?}\nkernel = false\npoll_s = 1\n",
            host.state(),
            host.runtime(),
            host.sockets(),
        );
        fs::write(host.config(), text).unwrap();
        host
    }

    /// For tests that are root: the daemon runs as this user, who gets the host's files.
    pub(crate) fn run_as(&mut self, user: u32) {
        // As systemd makes it for the unit's user.
        fs::create_dir(self.runtime()).unwrap();
        let everything = [
            self.dir().to_owned(),
            self.runtime(),
            self.sockets(),
            self.config(),
        ];
        for path in everything {
            std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        }
        self.user = Some(user);
    }

    /// Sets a variable for both programs from now on.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.environment.push((name, value.into()));
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// Where a userspace WireGuard daemon puts its socket.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.dir.path().join("wireguard")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    /// Where the programs may leave a core dump: their working directory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("agent.toml")
    }

    /// Runs `vpn-node` with `input` on standard input.
    pub(crate) fn command(&self, args: &[&str], input: &str) -> Output {
        self.begin(args, input).wait_with_output().unwrap()
    }

    /// Starts `vpn-node` with `input` on standard input, and does not wait for its end.
    pub(crate) fn begin(&self, args: &[&str], input: &str) -> Child {
        let mut child = Command::new(env!("CARGO_BIN_EXE_vpn-node"))
            .arg("--config")
            .arg(self.config())
            .args(args)
            .envs(self.environment.clone())
            .current_dir(self.dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child
    }

    /// `vpn-node status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let output = self.command(&["status", "--json"], "");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vpn-node-agent"));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let child = command
            .arg("--config")
            .arg(self.config())
            .envs(self.environment.clone())
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(child);
        wait_for("the agent's status socket", || {
            self.status()["pid"].as_u64()
        });
    }

    /// Runs the daemon where it is expected to refuse; its output.
    pub(crate) fn start_in_vain(&self) -> Output {
        self.start_with(&[])
    }

    /// Runs the daemon's program with these options, to its end.
    pub(crate) fn start_with(&self, options: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vpn-node-agent"))
            .arg("--config")
            .arg(self.config())
            .args(options)
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent runs").id()
    }

    /// Ends the daemon by this signal, and tells how it ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
        end_by(&mut self.agent.take().expect("the agent runs"), signal)
    }

    /// Sends this signal, once, waits for the daemon's end, and tells how it ended.
    pub(crate) fn signal_once(&mut self, signal: Signal) -> ExitStatus {
        let mut agent = self.agent.take().expect("the agent runs");
        kill(Pid::from_raw(agent.id().cast_signed()), signal).unwrap();
        wait_for("the agent's end", || agent.try_wait().unwrap())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }
}

/// Ends a process by this signal. Again and again: the first SIGSEGV goes to the handler of Rust's
/// runtime, which looks for a stack overflow and gives the next one its usual effect.
pub(crate) fn end_by(child: &mut Child, signal: Signal) -> ExitStatus {
    wait_for("the end of a process", || {
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        child.try_wait().unwrap()
    })
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
    }
}
