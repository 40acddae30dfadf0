//! `cargo xtask container sandbox`: every denial of our units, tried from inside of each service.
//!
//! A service's program is replaced by [probe.py](probe.py), and nothing else of its unit: systemd
//! itself is asked. The same attempts are made outside of any sandbox first, as root and as
//! "nobody", where they must succeed: so a denial is the sandbox's and no accident.

mod expected;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::machine::{self, Machine};
use super::rootfs::{self, Suite};
use super::units;
use crate::build::{self, Programs};
use crate::lab::story::Story;
use crate::package::{self, Flavour};
use crate::release::PROGRAMS;
use crate::shell;

/// Where the probe lies in the machine.
const PROBE: &str = "/opt/vpn-node-test/probe.py";
const SPEAKS_WITHIN: Duration = Duration::from_secs(60);
/// What `systemctl show` says of a unit that is not part of what it may do: its program, where its
/// files lie, and the state of its last run.
const MAY_DIFFER: [&str; 4] = [
    "ExecStart",
    "ExecStartEx",
    "DropInPaths",
    "NeedDaemonReload",
];

/// Arguments of `cargo xtask container sandbox`.
#[derive(Default, clap::Args)]
pub(crate) struct Options {
    /// Take our programs from this folder instead of building them
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// The Debian that they run on
    #[arg(long, value_enum, default_value = "bookworm")]
    suite: Suite,
    /// Show the answer to each attempt
    #[arg(long)]
    verbose: bool,
}

/// What an attempt ended with: "ok", or the error.
type Results = BTreeMap<String, String>;

/// The whole of it.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    if let Some(why) = machine::obstacle() {
        anstream::println!("container sandbox: skipped — {why}");
        return Ok(ExitCode::SUCCESS);
    }
    let lower = match rootfs::provide(options.suite)? {
        Ok(lower) => lower,
        Err(why) => {
            anstream::println!("container sandbox: skipped — {why}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let programs = match (&options.programs, options.suite.flavour()) {
        (None, Flavour::Release) => package::published(true)?,
        (folder, _) => build::programs(folder.as_deref(), false)?,
    };
    let scene = Scene::set(&lower, &programs, options.verbose)?;
    let (figures, broken) = scene.play()?;
    let seconds = scene.story.elapsed().as_secs();
    if broken.is_empty() {
        anstream::println!("container sandbox: ok — {figures}; {seconds} s");
        return Ok(ExitCode::SUCCESS);
    }
    for one in &broken {
        anstream::eprintln!("broken: {one}");
    }
    anstream::println!(
        "container sandbox: FAILED — {} broken; {figures}; {seconds} s",
        broken.len()
    );
    Ok(ExitCode::FAILURE)
}

struct Scene {
    machine: Machine,
    story: Story,
    verbose: bool,
}

impl Scene {
    /// A machine with our programs and units, and things to be tempted by.
    fn set(lower: &Path, programs: &Programs, verbose: bool) -> Result<Self> {
        let story = Story::begin();
        let mut machine = Machine::new(lower)?;
        let bin = machine.disk().join("opt/vpn-node/system/bin");
        std::fs::create_dir_all(&bin)?;
        let folder = programs
            .agent
            .parent()
            .context("programs lie in a folder")?;
        for name in PROGRAMS {
            let from = folder.join(name);
            std::fs::copy(&from, bin.join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        machine.write(&PROBE[1..], include_bytes!("probe.py"), 0o755)?;
        units::ship(&machine)?;
        let booted = machine.boot()?;
        story.say(&format!(
            "the machine has booted in {:.1} s",
            booted.as_secs_f64()
        ));
        machine.must(&["sh", "-ec", TEMPTATIONS])?;
        Ok(Self {
            machine,
            story,
            verbose,
        })
    }

    /// What was seen, and which promises are broken.
    fn play(&self) -> Result<(String, Vec<String>)> {
        let mut broken = Vec::new();
        let outside = self.outside(&[])?;
        broken.extend(expected::fair("root", &outside, |_| true));
        let nobody = self.outside(&[
            "--property=User=nobody",
            "--property=RuntimeDirectory=probe",
        ])?;
        broken.extend(expected::fair("nobody", &nobody, expected::nobody_may));
        self.say(&format!(
            "outside of a sandbox {} of {} attempts succeed as root, {} as nobody",
            succeeded(&outside),
            outside.len(),
            succeeded(&nobody)
        ));
        let unprovable = self.unprovable()?;
        let names: Vec<&str> = unprovable.iter().map(|(name, _)| *name).collect();
        let mut denials = 0;
        let all = units::services()?;
        for unit in &all {
            let service = expected::of(unit)?;
            let results = self.inside(unit)?;
            let judged = service.judge(unit, &results, &names);
            denials += judged.denied;
            self.say(&format!(
                "{unit}: {} attempts denied, {} allowed",
                judged.denied, judged.allowed
            ));
            if self.verbose {
                let list: Vec<_> = results
                    .iter()
                    .map(|(name, said)| format!("{name} {said}"))
                    .collect();
                self.story.quote(&list.join("\n"));
            }
            broken.extend(judged.broken);
        }
        let askers = socket::tells_askers_apart(&self.machine)?;
        self.say(&askers);
        let mut figures = format!(
            "{} services, {denials} denials, each with a control that succeeds outside; {askers}",
            all.len()
        );
        for (name, why) in &unprovable {
            figures += &format!("; not provable here: {name} ({why})");
        }
        Ok((figures, broken))
    }

    /// Denials that systemd itself does not bring about here, each asked for in a unit that asks
    /// for nothing else; and why. One that it does not know is none.
    fn unprovable(&self) -> Result<Vec<(&'static str, &'static str)>> {
        let mut found = Vec::new();
        for (name, properties, why) in [
            (
                "listen_tcp",
                ["--property=SocketBindDeny=any", "--quiet"],
                "SocketBindDeny= needs a systemd with BPF_FRAMEWORK, which Debian 11 and 12 have not",
            ),
            (
                "write_run_lock",
                [
                    "--property=ProtectSystem=strict",
                    "--property=ProtectControlGroups=yes",
                ],
                "systemd 252 and older leave /run writable under this kernel, whose list of mounts it misreads",
            ),
        ] {
            let denied = properties.iter().all(|argument| self.knows(argument))
                && self
                    .outside(&properties)?
                    .get(name)
                    .is_none_or(|said| said != "ok");
            if !denied {
                found.push((name, why));
            }
        }
        Ok(found)
    }

    /// Whether systemd-run takes this argument.
    fn knows(&self, argument: &str) -> bool {
        let words = ["systemd-run", "--quiet", "--wait", argument, "/bin/true"];
        self.machine.must(&words).is_ok()
    }

    /// The attempts in a unit without any sandbox.
    fn outside(&self, properties: &[&str]) -> Result<Results> {
        let mut words = vec!["systemd-run", "--quiet", "--wait", "--pipe", "--collect"];
        words.extend(properties);
        words.extend(["/usr/bin/python3", PROBE]);
        let said = self.machine.must(&words)?;
        parse(&said).with_context(|| format!("the probe outside of a sandbox said: {said}"))
    }

    /// The attempts in the place of a service's program.
    fn inside(&self, unit: &str) -> Result<Results> {
        let machine = &self.machine;
        let before = self.properties(unit)?;
        let stay = before.get("Type").is_some_and(|kind| kind != "oneshot");
        let stay = if stay { " --stay" } else { "" };
        let folder = format!("/run/systemd/system/{unit}.d");
        let drop_in = format!("[Service]\nExecStart=\nExecStart=/usr/bin/python3 {PROBE}{stay}\n");
        machine.must(&["mkdir", "-p", &folder])?;
        let place = machine.root()?.join(&folder[1..]).join("zz-probe.conf");
        machine::put(&place, drop_in.as_bytes(), 0o644)?;
        machine.must(&["systemctl", "daemon-reload"])?;
        let after = self.properties(unit)?;
        ensure!(
            before.keys().eq(after.keys()),
            "{unit}: the drop-in adds a property"
        );
        for (name, value) in &before {
            let same = MAY_DIFFER.contains(&name.as_str()) || set(&after[name]) == set(value);
            ensure!(
                same,
                "{unit}: the drop-in changes {name}= from {value} to {}",
                after[name]
            );
        }
        let started = machine.run(&["systemctl", "start", "--no-block", unit])?;
        ensure!(started.status.success(), "{unit}: {}", started.stderr);
        let results = self.said_by(unit)?;
        // What it started goes with it, a socket too; what the next ones find is as before.
        machine.run(&["systemctl", "stop", unit])?;
        machine.run(&["systemctl", "reset-failed", unit])?;
        machine.must(&["rm", "-r", &folder])?;
        machine.must(&["systemctl", "daemon-reload"])?;
        Ok(results)
    }

    fn properties(&self, unit: &str) -> Result<BTreeMap<String, String>> {
        let shown = self.machine.must(&["systemctl", "show", "--all", unit])?;
        let pairs = shown.lines().filter_map(|line| line.split_once('='));
        Ok(pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    fn said_by(&self, unit: &str) -> Result<Results> {
        let end = Instant::now() + SPEAKS_WITHIN;
        loop {
            let words = ["journalctl", "-q", "--no-pager", "-o", "cat", "-u", unit];
            let journal = self.machine.must(&words)?;
            if let Some(results) = parse(&journal) {
                return Ok(results);
            }
            if Instant::now() >= end {
                bail!(
                    "{unit}: the probe said nothing; its journal:\n{}",
                    shell::indent(&journal)
                );
            }
            shell::pause(Duration::from_millis(100))?;
        }
    }

    fn say(&self, words: &str) {
        self.story.say(words);
    }
}

fn parse(text: &str) -> Option<Results> {
    let line = text.lines().find_map(|line| line.strip_prefix("PROBES "))?;
    serde_json::from_str(line).ok()
}

/// Names in a list come in any order.
fn set(value: &str) -> BTreeSet<&str> {
    value.split(' ').collect()
}

fn succeeded(results: &Results) -> usize {
    results.values().filter(|result| *result == "ok").count()
}

/// Files and directories that only a sandbox keeps one from, and a set-user-ID program.
const TEMPTATIONS: &str = "
systemd-sysusers
systemd-tmpfiles --create
ln -sfn system /opt/vpn-node/stable
ln -sfn system /opt/vpn-node/experiment
for name in vpn-node vpn-node-agent vpn-node-updater; do
    ln -s /opt/vpn-node/stable/bin/$name /usr/bin/$name
done
touch /var/lib/vpn-node-controller/made
cp /bin/grep /usr/local/bin/grep-as-root
chmod 4755 /usr/local/bin/grep-as-root
mkdir -p /home/probe /home/everyones /srv/everyones /var/lib/probe-secret /boot
chmod 755 /home/probe
chmod 1777 /home/everyones /srv/everyones
echo secret | tee /home/probe/file /tmp/probe-file > /var/lib/probe-secret/key
chmod 644 /home/probe/file /tmp/probe-file
chmod 600 /var/lib/probe-secret/key
chown games /var/lib/probe-secret /var/lib/probe-secret/key
chmod 700 /var/lib/probe-secret
mknod -m 666 /dev/probe-device c 1 3
mkdir -p -m 1777 /run/lock
";
