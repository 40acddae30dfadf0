//! A machine of the lab: network and mount namespaces that one sleeping process holds open.
//!
//! They have no names, so nothing of them can be left behind: they end with their last process.
//! /run/wireguard is private, so the agent sees the WireGuard of its own machine and no other.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::Lab;
use crate::shell;

/// Long for a program that answers at once, on a machine that is busy compiling.
const SOON: Duration = Duration::from_secs(15);

/// What the holder does: a loopback, a place for WireGuard's sockets, a sign that both are there.
const HOLD: &str = "ip link set lo up || exit 1
mkdir -p /run/wireguard 2>/dev/null || { mount -t tmpfs tmpfs /run && mkdir -p /run/wireguard; } || exit 1
mount -t tmpfs tmpfs /run/wireguard || exit 1
: > \"$1\"
exec sleep infinity";

/// Where programs run: in namespaces of their own, or simply here.
#[derive(Clone, Copy)]
pub(crate) enum Machine {
    /// The machine that xtask runs on.
    Here,
    /// The namespaces of this process.
    Held(u32),
}

impl Machine {
    /// A new machine, called `name` in messages.
    pub(crate) fn boot(lab: &mut Lab, name: &str) -> Result<Self> {
        let sign = lab.path(&format!("{name}.up"));
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--", "sh", "-c", HOLD, "sh"])
            .arg(&sign);
        let holder = lab.start(name, command)?;
        lab.wait_for(&format!("the namespaces of the {name}"), SOON, || {
            Ok(sign.exists().then_some(Self::Held(holder)))
        })
    }

    /// `program` on this machine.
    pub(crate) fn command(self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        match self {
            Self::Here => Command::new(program),
            Self::Held(holder) => {
                let mut command = Command::new("nsenter");
                command
                    .args(["--net", "--mount", "--target", &holder.to_string(), "--"])
                    .arg(program);
                command
            }
        }
    }

    /// Runs `words` on this machine; its failure is an error.
    pub(crate) fn run(self, words: &[&str]) -> Result<String> {
        self.run_with(words, None)
    }

    /// Like [`Machine::run`], with standard input: for secrets, which never go into arguments.
    pub(crate) fn run_with(self, words: &[&str], input: Option<&str>) -> Result<String> {
        let Some((program, arguments)) = words.split_first() else {
            bail!("no program to run");
        };
        let mut command = self.command(program);
        command.args(arguments);
        shell::succeed(command, input.map(str::as_bytes), SOON).map(|output| output.stdout)
    }

    /// Whether something accepts connections at `address` of this machine.
    pub(crate) fn accepts(self, address: SocketAddr) -> Result<bool> {
        let try_it = move || -> Result<bool> {
            if let Self::Held(holder) = self {
                let namespace = File::open(format!("/proc/{holder}/ns/net"))
                    .context("the machine's network namespace is gone")?;
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .context("cannot enter the machine's network namespace")?;
            }
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        };
        // In a thread of its own: a namespace belongs to the thread that entered it.
        thread::spawn(try_it)
            .join()
            .map_err(|_| anyhow::anyhow!("the probe of {address} panicked"))?
    }
}

/// What [`Machine::boot`] needs and this machine refuses, as a sentence; nothing if all is well.
pub(crate) fn obstacle() -> Result<Option<String>> {
    for program in ["unshare", "nsenter", "ip"] {
        if shell::find(program).is_none() {
            return Ok(Some(format!("there is no program `{program}`")));
        }
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "true"]);
    let tried = shell::output(command, None, SOON)?;
    Ok((!tried.status.success())
        .then(|| format!("namespaces are not allowed here ({})", tried.stderr.trim())))
}
