//! `cargo xtask e2e gate`: a gated VPN runs only while its host is authorised.
//!
//! Real controller, agent, gate and WireGuard; the [`supervisor`](super::supervisor) plays systemd.
//! The agent is stopped and killed, the gate's process is stopped, the controller goes away for
//! longer than the lease: each time the VPN must be down in time, by its interface and by a ping
//! through the tunnel, and up again afterwards. Without the right to make namespaces the same is
//! done with a plain process in the place of the VPN.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::supervisor::Plan;
use crate::apt::{self, need};
use crate::build;
use crate::lab::Lab;
use crate::lab::fleet::{AGENT, CONTROLLER, Fleet};
use crate::lab::machine::{self, Machine};
use crate::lab::story::Story;
use crate::lab::tunnel::{self, Service, Tunnel};
use crate::shell;

/// Seconds between heartbeats here (30 in production), and of silence that the controller allows
/// (1800 in production): so that a lease runs out while one looks.
const HEARTBEAT_S: u32 = 2;
const LEASE_S: u32 = 20;
/// The gate looks every second and gives a silent agent four looks; a machine may be busy besides.
const SECONDS: Duration = Duration::from_secs(40);
/// The agent asks a controller that was gone for long again after two minutes at the latest.
const AFTER_BACKOFF: Duration = Duration::from_secs(150);
const SUPERVISOR: &str = "supervisor";
const UNIT: &str = "systemd/vpn-node-gate.service";

const NEEDS: [apt::Need; 4] = [
    need("ip", "iproute2"),
    need("nsenter", "util-linux"),
    need("ping", "iputils-ping"),
    need("wg", "wireguard-tools"),
];

/// Arguments of `cargo xtask e2e gate`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Take the three programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Do not install Debian packages, even as root
    #[arg(long)]
    no_install: bool,
    /// Only the part that needs no namespaces and no WireGuard
    #[arg(long)]
    processes_only: bool,
}

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let programs = build::programs(options.programs.as_deref(), false)?;
    let without_tunnel = match options.processes_only {
        true => Some("--processes-only was given".to_owned()),
        false => obstacle(!options.no_install)?,
    };
    let mut lab = Lab::open()?;
    let machine = match &without_tunnel {
        None => Machine::boot(&mut lab, "vpn-host")?,
        Some(_) => Machine::Here,
    };
    let fleet = Fleet::new(&lab, programs, machine, HEARTBEAT_S, "")?;
    let mut scene = Scene::set(lab, fleet, without_tunnel.is_none())?;
    match &without_tunnel {
        None => {}
        Some(why) => scene.story.say(&format!(
            "no WireGuard here, a plain process takes its place: {why}"
        )),
    }
    let figures = scene.play()?;
    anstream::println!(
        "e2e gate: ok — {figures}; watchdog {} s, {}, {} s",
        scene.watchdog.as_secs(),
        match without_tunnel {
            None => "real tunnel",
            Some(_) => "processes only",
        },
        scene.story.elapsed().as_secs()
    );
    Ok(ExitCode::SUCCESS)
}

struct Scene {
    lab: Lab,
    fleet: Fleet,
    story: Story,
    vpn: Vpn,
    watchdog: Duration,
    agent: u32,
}

/// What is gated.
enum Vpn {
    Tunnel(Tunnel),
    /// A process that sleeps.
    Process,
}

impl Scene {
    /// Everything runs, and the host is verified.
    fn set(mut lab: Lab, fleet: Fleet, with_tunnel: bool) -> Result<Self> {
        let story = Story::begin();
        fleet.init_controller()?;
        fleet.set_controller("lease_s", LEASE_S)?;
        fleet.start_controller(&mut lab)?;
        fleet.host.enroll(&fleet.create_token()?.text)?;
        let vpn = match with_tunnel {
            true => Vpn::Tunnel(Tunnel::lay(&mut lab, fleet.machine)?),
            false => Vpn::Process,
        };
        let unit = fs::read_to_string(shell::repository().join(UNIT))
            .with_context(|| format!("cannot read {UNIT}"))?;
        let plan = plan(&lab, &fleet, &vpn, &unit)?;
        let watchdog = plan.watchdog;
        let file = lab.path("plan.json");
        fs::write(&file, serde_json::to_vec(&plan)?).context("cannot write the plan")?;

        // Not by its path: cargo may have put a newer one there while it built the programs.
        let mut supervisor = std::process::Command::new("/proc/self/exe");
        supervisor.args(["e2e", "supervisor"]).arg(&file);
        lab.start(SUPERVISOR, supervisor)?;
        let mut scene = Self {
            lab,
            fleet,
            story,
            vpn,
            watchdog,
            agent: 0,
        };
        scene.wait("the gate that waits", |log| {
            log.contains("gate says STATUS=closed")
        })?;
        ensure!(!scene.is_up()?, "the VPN is up before there is an agent");
        scene
            .story
            .say("the host is enrolled, no agent runs: the gate waits, the VPN is down");
        scene.agent = scene.fleet.start_agent(&mut scene.lab)?;
        Ok(scene)
    }

    /// The acts, each with its figure.
    fn play(&mut self) -> Result<String> {
        let up = self.comes_up("the agent is started and verified")?;
        let stopped = {
            signal(self.agent, Signal::SIGSTOP)?;
            let down = self.goes_down("the agent is stopped (SIGSTOP)")?;
            self.in_time(down)?;
            signal(self.agent, Signal::SIGCONT)?;
            self.comes_up("the agent goes on (SIGCONT)")?;
            down
        };
        let killed = {
            self.lab.crash(AGENT)?;
            let down = self.goes_down("the agent is killed (kill -9)")?;
            self.in_time(down)?;
            self.agent = self.fleet.start_agent(&mut self.lab)?;
            self.comes_up("the agent is started again")?;
            down
        };
        let holder = {
            let watched = self.log()?.matches("killed by the watchdog").count();
            signal(self.holder()?, Signal::SIGSTOP)?;
            let down = self.goes_down("the gate's own process is stopped (SIGSTOP)")?;
            ensure!(
                self.log()?.matches("killed by the watchdog").count() == watched + 1,
                "the watchdog did not kill the gate's process"
            );
            // The last sign of life came up to a second before the signal.
            self.in_time(down.saturating_sub(Duration::from_secs(1)))?;
            self.comes_up("a new gate has opened")?;
            down
        };
        let lapsed = {
            self.lab.crash(CONTROLLER)?;
            let down = self.goes_down(&format!("the controller is gone (lease {LEASE_S} s)"))?;
            let lease = Duration::from_secs(LEASE_S.into());
            let early = Duration::from_secs(u64::from(HEARTBEAT_S) + 2);
            ensure!(
                down + early > lease && down < lease + Duration::from_secs(3),
                "the VPN was down after {} of a lease of {LEASE_S} s",
                seconds(down)
            );
            self.fleet.start_controller(&mut self.lab)?;
            self.comes_up("the controller is back")?;
            down
        };
        Ok(format!(
            "up {} after the start; down {} after SIGSTOP of the agent, {} after kill -9, {} after \
             SIGSTOP of the gate, {} into a lease of {LEASE_S} s without controller",
            seconds(up),
            seconds(stopped),
            seconds(killed),
            seconds(holder),
            seconds(lapsed)
        ))
    }

    fn in_time(&self, down: Duration) -> Result<()> {
        ensure!(
            down <= self.watchdog + Duration::from_millis(500),
            "the VPN was up for {}, longer than the watchdog's {} s",
            seconds(down),
            self.watchdog.as_secs()
        );
        Ok(())
    }

    fn comes_up(&mut self, cause: &str) -> Result<Duration> {
        let took = self.until(true, AFTER_BACKOFF, cause)?;
        let mut proof = "";
        if let Vpn::Tunnel(tunnel) = &self.vpn {
            // WireGuard's client asks for a new session some seconds after the old one died.
            let what = format!("a ping through the tunnel after: {cause}");
            self.lab
                .wait_for(&what, SECONDS, || Ok(tunnel.answers()?.then_some(())))?;
            proof = ", a ping goes through";
        }
        self.story.say(&format!(
            "{cause}: the VPN is up after {}{proof}",
            seconds(took)
        ));
        Ok(took)
    }

    fn goes_down(&mut self, cause: &str) -> Result<Duration> {
        let took = self.until(false, SECONDS, cause)?;
        let mut proof = "";
        if let Vpn::Tunnel(tunnel) = &self.vpn {
            ensure!(!tunnel.answers()?, "a ping still goes through the tunnel");
            proof = ", no ping goes through";
        }
        self.story.say(&format!(
            "{cause}: the VPN is down after {}{proof}",
            seconds(took)
        ));
        Ok(took)
    }

    /// Looks until the VPN is up (or down), and how long that took.
    fn until(&mut self, up: bool, within: Duration, cause: &str) -> Result<Duration> {
        let begun = Instant::now();
        let what = format!("the VPN {} after: {cause}", if up { "up" } else { "down" });
        let (vpn, log) = (&self.vpn, self.lab.log(SUPERVISOR));
        self.lab.wait_for(&what, within, || {
            Ok((vpn.is_up(&fs::read_to_string(&log)?)? == up).then(|| begun.elapsed()))
        })
    }

    fn is_up(&self) -> Result<bool> {
        self.vpn.is_up(&self.log()?)
    }

    fn wait(&mut self, what: &str, told: impl Fn(&str) -> bool) -> Result<()> {
        let log = self.lab.log(SUPERVISOR);
        self.lab.wait_for(what, SECONDS, || {
            Ok(told(&fs::read_to_string(&log)?).then_some(()))
        })
    }

    /// What the supervisor has told so far.
    fn log(&self) -> Result<String> {
        fs::read_to_string(self.lab.log(SUPERVISOR)).context("cannot read the supervisor's log")
    }

    /// The gate's process of now.
    fn holder(&self) -> Result<u32> {
        last_id(&self.log()?, "gate started ").context("the supervisor has started no gate")
    }
}

impl Vpn {
    fn is_up(&self, log: &str) -> Result<bool> {
        match self {
            Self::Tunnel(tunnel) => tunnel.server_is_up(),
            Self::Process => Ok(last_id(log, "vpn started ")
                .is_some_and(|id| PathBuf::from(format!("/proc/{id}")).exists())),
        }
    }
}

/// What the supervisor is to run, with the figures of the unit file that we ship.
fn plan(lab: &Lab, fleet: &Fleet, vpn: &Vpn, unit: &str) -> Result<Plan> {
    let exec = value(unit, "ExecStart")?;
    let mut gate = fleet.host.cli();
    gate.args(exec.split_whitespace().skip(1));
    for (key, wanted) in [
        ("Type", "notify"),
        ("Restart", "always"),
        ("WatchdogSignal", "SIGKILL"),
    ] {
        let found = value(unit, key)?;
        ensure!(
            found == wanted,
            "{UNIT} has {key}={found}; the supervisor plays {wanted}"
        );
    }
    Ok(Plan {
        notify: lab.path("notify"),
        gate: shell::words(&gate),
        watchdog: Duration::from_secs(value(unit, "WatchdogSec")?.parse()?),
        restart: Duration::from_secs(value(unit, "RestartSec")?.parse()?),
        vpn: match vpn {
            Vpn::Tunnel(tunnel) => tunnel.service(lab)?,
            Vpn::Process => Service {
                main: ["sleep", "infinity"].map(str::to_owned).to_vec(),
                after_start: Vec::new(),
                after_stop: Vec::new(),
            },
        },
    })
}

/// The value of a directive in a unit file.
fn value<'a>(unit: &'a str, key: &str) -> Result<&'a str> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.with_context(|| format!("{UNIT} has no {key}="))
}

/// The number after the last occurrence of `word`.
fn last_id(log: &str, word: &str) -> Option<u32> {
    let line = log.lines().rev().find_map(|line| line.strip_prefix(word))?;
    line.parse().ok()
}

fn signal(id: u32, signal: Signal) -> Result<()> {
    if id == 0 {
        bail!("there is no process to signal");
    }
    kill(Pid::from_raw(i32::try_from(id)?), signal).with_context(|| format!("cannot send {signal}"))
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Why the part with a tunnel cannot be shown here; nothing if it can.
fn obstacle(may_install: bool) -> Result<Option<String>> {
    if let Some(missing) = apt::provide(&NEEDS, may_install)? {
        return Ok(Some(missing));
    }
    match machine::obstacle()? {
        None => tunnel::obstacle(may_install),
        some => Ok(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_to_the_letter() {
        let unit = "# WatchdogSec=1\nWatchdogSecond=2\nWatchdogSec=10\n";
        assert_eq!(value(unit, "WatchdogSec").unwrap(), "10");
        assert!(value(unit, "Watchdog").is_err());
    }

    #[test]
    fn the_newest_process_counts() {
        let log = "gate started 7\nvpn started 8\ngate started 9\n";
        assert_eq!(last_id(log, "gate started "), Some(9));
        assert_eq!(last_id(log, "vpn started "), Some(8));
        assert_eq!(last_id("", "vpn started "), None);
    }
}
