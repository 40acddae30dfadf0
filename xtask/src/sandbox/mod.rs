//! Every denial of our units, tried from inside of each service: on a machine in namespaces
//! (`cargo xtask container sandbox`) and on a virtual one (`cargo xtask vm sandbox`), by the same
//! attempts with the same expectations.
//!
//! A service's program is replaced by [probe.py](probe.py), and nothing else of its unit: systemd
//! itself is asked. The same attempts are made outside of any sandbox first, as root and as
//! "nobody", where they must succeed: so a denial is the sandbox's and no accident.

mod expected;
mod socket;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::story::Story;
use crate::shell;

/// Where the probe lies on the system.
const PROBE: &str = "/opt/vpn-node-test/probe.py";
/// Two minutes are enough for a processor that is emulated and shared.
const SPEAKS_WITHIN: Duration = Duration::from_secs(120);
/// What `systemctl show` says of a unit that is not part of what it may do: its program, where its
/// files lie, and the state of its last run.
const MAY_DIFFER: [&str; 4] = [
    "ExecStart",
    "ExecStartEx",
    "DropInPaths",
    "NeedDaemonReload",
];

/// A system with our programs and units and a Python, whose services are probed.
pub(crate) trait System {
    /// Runs a command as root.
    fn run(&mut self, words: &[&str]) -> Result<Said>;

    /// Writes a file of root's, with the folders above it.
    fn put(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()>;

    /// Runs a command that must succeed; its output.
    fn must(&mut self, words: &[&str]) -> Result<String> {
        let said = self.run(words)?;
        ensure!(
            said.well,
            "`{}` failed: {}",
            words.join(" "),
            shell::last_lines(&format!("{}{}", said.stdout, said.stderr), 20)
        );
        Ok(said.stdout)
    }
}

/// What a command left behind.
pub(crate) struct Said {
    pub(crate) well: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A denial that systemd itself may not bring about on a system: it is asked for in a unit that asks
/// for nothing else first, and left out if it has no effect there.
struct Doubt {
    attempt: &'static str,
    property: &'static str,
    why: &'static str,
}

const DOUBTS: [Doubt; 1] = [Doubt {
    attempt: "listen_tcp",
    property: "--property=SocketBindDeny=any",
    why: "SocketBindDeny= needs a systemd with BPF_FRAMEWORK, which Debian 11 and 12 have not",
}];

/// What an attempt ended with: "ok", or the error.
type Results = BTreeMap<String, String>;

/// Probes every service of a system on which none of ours runs. The figures, and which promises are
/// broken.
pub(crate) fn play(
    system: &mut impl System,
    story: &Story,
    verbose: bool,
) -> Result<(String, Vec<String>)> {
    system.put(PROBE, include_bytes!("probe.py"), 0o755)?;
    system.must(&["sh", "-ec", TEMPTATIONS])?;
    let mut scene = Scene {
        system,
        story,
        verbose,
    };
    scene.play()
}

struct Scene<'a, S> {
    system: &'a mut S,
    story: &'a Story,
    verbose: bool,
}

impl<S: System> Scene<'_, S> {
    /// What was seen, and which promises are broken.
    fn play(&mut self) -> Result<(String, Vec<String>)> {
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
        let all = services()?;
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
        let askers = socket::tells_askers_apart(self.system)?;
        self.say(&askers);
        let follows = socket::reader_follows_the_agent(self.system)?;
        self.say(&follows);
        let mut figures = format!(
            "{} services, {denials} denials, each with a control that succeeds outside; {askers}; {follows}",
            all.len()
        );
        for (name, why) in &unprovable {
            figures += &format!("; not provable here: {name} ({why})");
        }
        Ok((figures, broken))
    }

    /// Of the doubts the ones that hold here: the attempt that succeeds although it is denied, and
    /// why.
    fn unprovable(&mut self) -> Result<Vec<(&'static str, &'static str)>> {
        let mut found = Vec::new();
        for doubt in &DOUBTS {
            let denied = self.knows(doubt.property)
                && self.outside(&[doubt.property])?.get(doubt.attempt) != Some(&"ok".to_owned());
            if !denied {
                found.push((doubt.attempt, doubt.why));
            }
        }
        Ok(found)
    }

    /// Whether this systemd has the property.
    fn knows(&mut self, property: &str) -> bool {
        let words = ["systemd-run", "--quiet", "--wait", property, "/bin/true"];
        self.system.must(&words).is_ok()
    }

    /// The attempts in a unit without any sandbox.
    fn outside(&mut self, properties: &[&str]) -> Result<Results> {
        let mut words = vec!["systemd-run", "--quiet", "--wait", "--pipe", "--collect"];
        words.extend(properties);
        words.extend(["/usr/bin/python3", PROBE]);
        let said = self.system.must(&words)?;
        parse(&said).with_context(|| format!("the probe outside of a sandbox said: {said}"))
    }

    /// The attempts in the place of a service's program.
    fn inside(&mut self, unit: &str) -> Result<Results> {
        let before = self.properties(unit)?;
        let stay = before.get("Type").is_some_and(|kind| kind != "oneshot");
        let stay = if stay { " --stay" } else { "" };
        let folder = format!("/run/systemd/system/{unit}.d");
        let drop_in = format!("[Service]\nExecStart=\nExecStart=/usr/bin/python3 {PROBE}{stay}\n");
        let place = format!("{folder}/zz-probe.conf");
        self.system.put(&place, drop_in.as_bytes(), 0o644)?;
        self.system.must(&["systemctl", "daemon-reload"])?;
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
        self.system
            .must(&["systemctl", "start", "--no-block", unit])?;
        let results = self.said_by(unit)?;
        // What it started, or the updater after it, goes with it, a socket too; what the next ones
        // find is as before.
        self.system.run(&["systemctl", "stop", unit])?;
        self.system.run(&["systemctl", "stop", "vpn-node-*"])?;
        self.system.run(&["systemctl", "reset-failed", unit])?;
        self.system.must(&["rm", "-r", &folder])?;
        self.system.must(&["systemctl", "daemon-reload"])?;
        Ok(results)
    }

    fn properties(&mut self, unit: &str) -> Result<BTreeMap<String, String>> {
        let shown = self.system.must(&["systemctl", "show", "--all", unit])?;
        let pairs = shown.lines().filter_map(|line| line.split_once('='));
        Ok(pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    fn said_by(&mut self, unit: &str) -> Result<Results> {
        let end = Instant::now() + SPEAKS_WITHIN;
        loop {
            let words = ["journalctl", "-q", "--no-pager", "-o", "cat", "-u", unit];
            let journal = self.system.must(&words)?;
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

/// The names of all services that we ship.
fn services() -> Result<Vec<String>> {
    let folder = shell::repository().join("systemd");
    let listed =
        fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in listed {
        names.extend(entry?.file_name().into_string());
    }
    names.retain(|name| name.ends_with(".service"));
    names.sort();
    Ok(names)
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
ln -sfn system /opt/vpn-node/experiment
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
