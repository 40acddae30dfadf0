//! `cargo xtask container update`: updates on a host with a real systemd, and the units that we ship.
//!
//! A good release stays; bad ones are sent away, each with its code; a killed updater takes its
//! trial back and tries again; a power cut in a trial boots the stable version. Only the agents are
//! fakes ([`super::agent`]).

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vpn_node_release::handover::{Attempt, Phase, Status};
use vpn_node_release::version::Version;

use super::agent::Behaviour;
use super::machine::Machine;
use super::releases::{Publisher, SHARED, install_system};
use super::rootfs::Suite;
use super::units::{READER, STABLE, TRIAL, UPDATER, enable, ship};
use crate::build;
use crate::lab::story::Story;
use crate::shell;

const INCOMING: &str = "var/lib/vpn-node/updates/incoming";
/// How long a trial lasts here (120 s in production).
const PROBATION: &str = "20s";
/// A bad release must be gone by then.
const SENT_AWAY_WITHIN: Duration = Duration::from_secs(120);
/// A trial, a second one after a kill, and a busy machine.
const DONE_WITHIN: Duration = Duration::from_secs(240);

/// Arguments of `cargo xtask container update`.
#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// Take vpn-node-updater and vpn-node-wireguard from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let Some(lower) = super::prepare("update", Suite::default())? else {
        return Ok(ExitCode::SUCCESS);
    };
    let programs = match &options.programs {
        Some(folder) => folder.clone(),
        None => {
            build::one("vpn-node-updater", "dev")?;
            let agent = build::one("vpn-node", "dev")?;
            agent.parent().context("a program lies in a folder")?.into()
        }
    };
    let mut scene = Scene::set(&lower, &programs)?;
    let figures = scene.play()?;
    anstream::println!(
        "container update: ok — {figures}; {} s",
        scene.story.elapsed().as_secs()
    );
    Ok(ExitCode::SUCCESS)
}

struct Scene {
    machine: Machine,
    publisher: Publisher,
    story: Story,
}

impl Scene {
    /// A host as the package leaves it, booted, with 1.0.0 and a trusted root.
    fn set(lower: &Path, programs: &Path) -> Result<Self> {
        let story = Story::begin();
        let mut machine = Machine::new(lower)?;
        let disk = machine.disk();
        let shared = disk.join(SHARED.trim_start_matches('/'));
        std::fs::create_dir_all(&shared)?;
        for name in ["vpn-node-updater", "vpn-node-wireguard"] {
            std::fs::copy(programs.join(name), shared.join(name))
                .with_context(|| format!("no {name}"))?;
        }
        std::fs::copy("/proc/self/exe", shared.join("xtask"))?;
        install_system(&disk, &Version::new(1, 0, 0))?;
        symlink("system", disk.join("opt/vpn-node/stable"))?;
        ship(&machine)?;
        enable(&machine)?;
        let toml = format!("probation = \"{PROBATION}\"\n");
        machine.write("etc/vpn-node/updater.toml", toml.as_bytes(), 0o644)?;
        // A local change of the agent's unit, which a version on trial must have too.
        let drop_in = b"[Service]\nEnvironment=LOCAL_CHANGE=1\n";
        machine.write(
            &format!("etc/systemd/system/{STABLE}.d/local.conf"),
            drop_in,
            0o644,
        )?;
        let publisher = Publisher::new();
        machine.write("root/root.json", &publisher.root()?, 0o644)?;
        let booted = machine.boot()?;
        let mut scene = Self {
            machine,
            publisher,
            story,
        };
        scene.say(&format!("the machine has booted in {}", seconds(booted)));
        let trust = format!("{SHARED}/vpn-node-updater");
        scene.machine.must(&[&trust, "trust", "/root/root.json"])?;
        scene.runs("1.0.0")?;
        Ok(scene)
    }

    fn play(&mut self) -> Result<String> {
        self.reader_answers()?;
        let kept = self.stays("2.0.0")?;
        let mut away = Vec::new();
        for (version, does, code) in [
            ("3.0.0", Behaviour::Crashes, "crashed"),
            ("3.1.0", Behaviour::CannotReadState, "state_unreadable"),
            ("3.2.0", Behaviour::Ends, "crashed"),
            ("3.3.0", Behaviour::Hangs, "unresponsive"),
        ] {
            let took = self.is_sent_away(version, does, code)?;
            away.push(format!("{} {}", does.word(), seconds(took)));
        }
        let killed = self.kill_in_trial("4.0.0")?;
        let cut = self.cut_power_in_trial("5.0.0")?;
        Ok(format!(
            "kept after {}; sent away: {}; stable {} after a kill of the updater; \
             power cut in a trial: stable in {}",
            seconds(kept),
            away.join(", "),
            seconds(killed),
            seconds(cut)
        ))
    }

    /// The WireGuard reader, in its sandbox: it answers the agent's user and root, holds one
    /// capability while the agent has none, and comes back after a kill.
    fn reader_answers(&mut self) -> Result<()> {
        let ask = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); \
                   s.settimeout(20); s.connect('/run/vpn-node-wireguard/reader.sock'); \
                   s.send(bytes([1, 1, 0])); print(s.recv(65536).hex())";
        let as_user = |user: &str| {
            let user = format!("--reuid={user}");
            self.machine.run(&[
                "setpriv",
                &user,
                "--clear-groups",
                "/usr/bin/python3",
                "-c",
                ask,
            ])
        };
        let none = "01010000"; // the kernel has no WireGuard interface in there
        for user in ["vpn-node", "root", "vpn-node"] {
            let answer = as_user(user)?;
            ensure!(
                answer.stdout.trim() == none,
                "{user}: {}{}",
                answer.stdout,
                answer.stderr
            );
            let pid = self.machine.property(READER, "MainPID")?;
            let status = self
                .machine
                .must(&["cat", &format!("/proc/{pid}/status")])?;
            ensure!(
                status.contains("CapEff:\t0000000000001000"),
                "not CAP_NET_ADMIN alone:\n{status}"
            );
            self.machine.must(&["kill", "-9", &pid])?;
        }
        let stranger = as_user("nobody")?;
        let refused = stranger.stderr.contains("PermissionError");
        ensure!(
            refused,
            "a stranger: {}{}",
            stranger.stdout,
            stranger.stderr
        );
        let pid = self.machine.property(STABLE, "MainPID")?;
        let status = self
            .machine
            .must(&["cat", &format!("/proc/{pid}/status")])?;
        ensure!(
            status.contains("CapBnd:\t0000000000000000"),
            "the agent has capabilities:\n{status}"
        );
        self.say("the WireGuard reader answers the agent's user, who has no capability itself");
        Ok(())
    }

    fn stays(&mut self, version: &str) -> Result<Duration> {
        let began = self.deliver(version, Behaviour::Good)?;
        let attempt = self.ended(version)?;
        ensure!(attempt.phase == Phase::Installed, "{version}: {attempt:?}");
        self.runs(version)?;
        let took = began.elapsed();
        self.say(&format!(
            "{version} is good and stays, after {}",
            seconds(took)
        ));
        Ok(took)
    }

    fn is_sent_away(&mut self, version: &str, does: Behaviour, code: &str) -> Result<Duration> {
        let before = self.stable()?;
        let began = self.deliver(version, does)?;
        let attempt = self.ended(version)?;
        let took = began.elapsed();
        let right = attempt.phase == Phase::RolledBack && attempt.code.as_deref() == Some(code);
        ensure!(right, "{version}: expected {code}, found {attempt:?}");
        ensure!(
            took < SENT_AWAY_WITHIN,
            "{version} was sent away only after {took:?}"
        );
        self.runs(&before)?;
        let blocked = self.status()?.blocked;
        ensure!(
            blocked.iter().any(|b| b.version == version),
            "{version} is not blocked"
        );
        self.say(&format!(
            "{version} {}: sent away ({code}) after {}",
            does.word(),
            seconds(took)
        ));
        Ok(took)
    }

    /// The updater dies in the trial: stable comes back at once, and a new trial follows.
    fn kill_in_trial(&mut self, version: &str) -> Result<Duration> {
        self.deliver(version, Behaviour::Good)?;
        self.wait_for(TRIAL)?;
        let drop_ins = self.machine.property(TRIAL, "DropInPaths")?;
        ensure!(
            !drop_ins.is_empty(),
            "a version on trial has not the local changes"
        );
        let pid = self.machine.property(UPDATER, "MainPID")?;
        self.machine.must(&["kill", "-9", &pid])?;
        let killed = Instant::now();
        self.wait_for(STABLE)?;
        let back = killed.elapsed();
        self.say(&format!(
            "the updater was killed in a trial: stable runs after {}",
            seconds(back)
        ));
        let attempt = self.ended(version)?;
        ensure!(attempt.phase == Phase::Installed, "{version}: {attempt:?}");
        self.runs(version)?;
        self.say(&format!("{version} was tried again, and stays"));
        Ok(back)
    }

    /// The power goes in the trial: the stable version boots, and the attempt is taken up again.
    fn cut_power_in_trial(&mut self, version: &str) -> Result<Duration> {
        let before = self.stable()?;
        self.deliver(version, Behaviour::Good)?;
        self.wait_for(TRIAL)?;
        self.machine.cut_power()?;
        let began = Instant::now();
        self.machine.boot()?;
        let link = std::fs::read_link(self.machine.disk().join("opt/vpn-node/stable"))?;
        ensure!(
            link.ends_with(&before),
            "stable leads to {}",
            link.display()
        );
        let recovered = self
            .machine
            .property("vpn-node-updater-recover.service", "Result")?;
        ensure!(
            recovered == "success",
            "the recovery ended with {recovered}"
        );
        let booted = began.elapsed();
        self.say(&format!(
            "the power went in a trial of {version}: {before} was booted in {}",
            seconds(booted)
        ));
        let attempt = self.ended(version)?;
        ensure!(attempt.phase == Phase::Installed, "{version}: {attempt:?}");
        self.runs(version)?;
        self.say(&format!("{version} was tried again, and stays"));
        Ok(booted)
    }

    fn deliver(&mut self, version: &str, does: Behaviour) -> Result<Instant> {
        let incoming = self.machine.root()?.join(INCOMING);
        let version = Version::parse(version)?;
        self.publisher.deliver(&version, does, &incoming)?;
        Ok(Instant::now())
    }

    /// The attempt for this version, when it is over. Its updater may still wait for its half minute
    /// to pass; the path unit starts the next one after that.
    fn ended(&self, version: &str) -> Result<Attempt> {
        self.eventually(&format!("the end of the attempt for {version}"), || {
            let attempt = self.status().ok().and_then(|status| status.attempt);
            Ok(attempt.filter(|a| a.version == version && a.phase.is_final()))
        })
    }

    fn wait_for(&self, unit: &str) -> Result<()> {
        self.eventually(unit, || {
            let active = self.machine.property(unit, "ActiveState")? == "active";
            Ok(active.then_some(()))
        })
    }

    /// The stable unit runs this version, alone.
    fn runs(&self, version: &str) -> Result<()> {
        self.wait_for(STABLE)?;
        ensure!(
            self.stable()? == version,
            "stable is {}, not {version}",
            self.stable()?
        );
        let trial = self.machine.property(TRIAL, "ActiveState")?;
        ensure!(
            matches!(trial.as_str(), "inactive" | "failed"),
            "the trial is {trial}"
        );
        let pid = self.machine.property(STABLE, "MainPID")?;
        let words = self
            .machine
            .must(&["cat", &format!("/proc/{pid}/cmdline")])?;
        let found = words.split('\0').any(|word| word == version);
        ensure!(found, "what runs is {words:?}, not {version}");
        Ok(())
    }

    fn stable(&self) -> Result<String> {
        let link = self.machine.must(&["readlink", "/opt/vpn-node/stable"])?;
        let name = link.trim().rsplit('/').next().unwrap_or_default();
        Ok(if name == "system" { "1.0.0" } else { name }.to_owned())
    }

    fn status(&self) -> Result<Status> {
        let text = self
            .machine
            .must(&["cat", "/var/lib/vpn-node-updater/status.json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    fn eventually<T>(&self, what: &str, look: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let end = Instant::now() + DONE_WITHIN;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if Instant::now() >= end {
                let journal = self
                    .machine
                    .must(&["journalctl", "-q", "--no-pager", "-n", "40"])?;
                bail!(
                    "{what} did not come; the machine's journal:\n{}",
                    shell::indent(&journal)
                );
            }
            shell::pause(Duration::from_millis(200))?;
        }
    }

    fn say(&mut self, words: &str) {
        self.story.say(words);
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
