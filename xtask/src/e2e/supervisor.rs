//! Plays systemd for two services: the gate, and a VPN that is bound to it.
//!
//! It keeps the rules of systemd that the gate is built on, with the figures of the unit file
//! that is shipped: READY=1 makes the gate active and starts the VPN (`vpn-node-gate.service.wants`,
//! `After=`); a gate that ends takes the VPN with it (`BindsTo=`) and is started anew
//! (`Restart=always`, `RestartSec=`); one that is active and silent is killed (`WatchdogSec=`,
//! `WatchdogSignal=SIGKILL`). It runs as a program of the lab and tells what it does by one line an
//! event. That systemd itself does the same was tried with systemd 252.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::lab::tunnel::Service;
use crate::shell;

/// How often it looks. Short beside what is measured.
const TURN: Duration = Duration::from_millis(20);
/// A VPN that does not end by itself is killed, and one that does not come up has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What it runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// Where the notification socket is made.
    pub(super) notify: PathBuf,
    /// The gate's program and arguments.
    pub(super) gate: Vec<String>,
    pub(super) watchdog: Duration,
    pub(super) restart: Duration,
    pub(super) vpn: Service,
}

/// Runs until a signal ends it; then it ends both services.
pub(super) fn run(plan: &Path) -> Result<ExitCode> {
    shell::catch_signals()?;
    let text = fs::read(plan).with_context(|| format!("cannot read {}", plan.display()))?;
    let plan: Plan = serde_json::from_slice(&text).context("the plan is not understood")?;
    let socket = UnixDatagram::bind(&plan.notify).context("cannot make the notification socket")?;
    socket.set_nonblocking(true)?;
    let mut supervisor = Supervisor {
        plan,
        socket,
        gate: Gate::Dead {
            again: Instant::now(),
        },
        vpn: None,
    };
    let ended = loop {
        if let Err(error) = supervisor.turn().and_then(|()| shell::pause(TURN)) {
            break error;
        }
    };
    supervisor.end()?;
    if shell::was_interrupted(&ended) {
        return Ok(ExitCode::SUCCESS);
    }
    Err(ended)
}

struct Supervisor {
    plan: Plan,
    socket: UnixDatagram,
    gate: Gate,
    vpn: Option<Child>,
}

/// The states of the gate's unit.
enum Gate {
    Dead { again: Instant },
    Activating(Child),
    Active { child: Child, alive: Instant },
}

impl Supervisor {
    fn turn(&mut self) -> Result<()> {
        self.listen()?;
        let now = Instant::now();
        match &mut self.gate {
            Gate::Dead { again } if now >= *again => {
                let child = start(&self.plan.gate, Some(&self.plan.notify))?;
                tell(&format!("gate started {}", child.id()));
                self.gate = Gate::Activating(child);
            }
            Gate::Dead { .. } => {}
            Gate::Activating(child) => {
                if let Some(status) = child.try_wait()? {
                    self.gate_ended(&shell::ending(status))?;
                }
            }
            Gate::Active { child, alive } => {
                if let Some(status) = child.try_wait()? {
                    self.gate_ended(&shell::ending(status))?;
                } else if now.duration_since(*alive) > self.plan.watchdog {
                    child.kill()?;
                    child.wait()?;
                    self.gate_ended("killed by the watchdog")?;
                }
            }
        }
        Ok(())
    }

    /// Takes what the gate has said since.
    fn listen(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            for line in said.lines() {
                match line {
                    "READY=1" => self.gate_opened()?,
                    "WATCHDOG=1" => {
                        if let Gate::Active { alive, .. } = &mut self.gate {
                            *alive = Instant::now();
                        }
                    }
                    other => tell(&format!("gate says {other}")),
                }
            }
        }
        Ok(())
    }

    fn gate_opened(&mut self) -> Result<()> {
        let again = Instant::now();
        self.gate = match std::mem::replace(&mut self.gate, Gate::Dead { again }) {
            Gate::Activating(child) => {
                tell("gate active");
                Gate::Active {
                    child,
                    alive: Instant::now(),
                }
            }
            other => other,
        };
        if self.vpn.is_none() {
            self.start_vpn()?;
        }
        Ok(())
    }

    fn gate_ended(&mut self, how: &str) -> Result<()> {
        tell(&format!("gate ended: {how}"));
        self.gate = Gate::Dead {
            again: Instant::now() + self.plan.restart,
        };
        self.stop_vpn()
    }

    fn start_vpn(&mut self) -> Result<()> {
        let child = start(&self.plan.vpn.main, None)?;
        let id = child.id();
        self.vpn = Some(child);
        for words in &self.plan.vpn.after_start {
            let end = Instant::now() + PATIENCE;
            while !shell::output(command(words)?, None, PATIENCE)?
                .status
                .success()
            {
                ensure!(Instant::now() < end, "`{}` fails", words.join(" "));
                shell::pause(TURN)?;
            }
        }
        tell(&format!("vpn started {id}"));
        Ok(())
    }

    fn stop_vpn(&mut self) -> Result<()> {
        let Some(mut child) = self.vpn.take() else {
            return Ok(());
        };
        terminate(&mut child)?;
        for words in &self.plan.vpn.after_stop {
            shell::output(command(words)?, None, PATIENCE)?;
        }
        tell("vpn stopped");
        Ok(())
    }

    /// Not by [`shell::pause`]: a signal has come already.
    fn end(&mut self) -> Result<()> {
        let again = Instant::now();
        match std::mem::replace(&mut self.gate, Gate::Dead { again }) {
            Gate::Dead { .. } => {}
            Gate::Activating(mut child) | Gate::Active { mut child, .. } => {
                child.kill()?;
                child.wait()?;
            }
        }
        if let Some(child) = &mut self.vpn {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

fn start(words: &[String], notify: Option<&Path>) -> Result<Child> {
    let mut command = command(words)?;
    if let Some(socket) = notify {
        command.env("NOTIFY_SOCKET", socket);
    }
    command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", words.join(" ")))
}

fn command(words: &[String]) -> Result<Command> {
    let (program, arguments) = words.split_first().context("no program to run")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// SIGTERM, and SIGKILL if that does not help.
fn terminate(child: &mut Child) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    kill(pid, Signal::SIGTERM)?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= end {
            child.kill()?;
        }
        shell::pause(Duration::from_millis(5))?;
    }
    Ok(())
}

fn tell(event: &str) {
    anstream::println!("{event}");
}
