//! The demo's update stories: a good release, a package that somebody changed, a release that
//! crashes. Everything is told by the programs of both sides.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::build::Programs;
use crate::lab::Lab;
use crate::lab::fleet::{Fleet, column};
use crate::lab::installed::Stock;
use crate::lab::publisher::{Content, Publisher, pack};
use crate::lab::story::Story;
use crate::shell;

/// The host's updater.toml. The probation is 120 s in production.
const UPDATER: &str = "supervisor = \"plain\"\nprobation = \"10s\"\nextension = \"10s\"\n";
const BASE: &str = env!("CARGO_PKG_VERSION");
const GOOD: &str = "1.1.0";
const CHANGED: &str = "1.2.0";
const CRASHES: &str = "1.3.0";
/// A host waits until its agent has run for half a minute, to know how it was before the switch.
const TRIAL: Duration = Duration::from_secs(150);
const SOON: Duration = Duration::from_secs(60);

/// What publishers have made beforehand, offline.
pub(super) struct Releases {
    stock: Stock,
    publisher: Publisher,
    export: PathBuf,
    root: (PathBuf, String),
}

impl Releases {
    /// Makes keys, packages and signatures while other things are shown.
    pub(super) fn prepare(lab: &Lab, programs: &Programs) -> JoinHandle<Result<Self>> {
        let (folder, programs) = (lab.path("publisher"), programs.clone());
        thread::spawn(move || Self::make(&folder, &programs))
    }

    fn make(folder: &Path, programs: &Programs) -> Result<Self> {
        let stock = Stock::of(programs, &folder.join("programs"))?;
        let publisher = Publisher::offline(
            &programs.controller,
            &folder.join("releases"),
            &folder.join("keys"),
        );
        publisher.init(2, 1)?;
        let out = folder.join("packages");
        fs::create_dir_all(&out).context("cannot make the folder for packages")?;
        let script = "#!/bin/sh\necho 'vpn-node-agent: symbol lookup error' >&2\nexit 127\n";
        // Nobody ever starts the other programs of the last two: small packages are made quickly.
        let none = |name| (name, Content::Script("#!/bin/sh\nexit 1\n"));
        let crash = [
            ("vpn-node-agent", Content::Script(script)),
            none("vpn-node"),
            none("vpn-node-updater"),
            none("vpn-node-wireguard"),
        ];
        let smaller = [
            none("vpn-node"),
            none("vpn-node-updater"),
            none("vpn-node-wireguard"),
        ];
        let all: [(&str, &[_], &str); 3] = [
            (GOOD, &[], "Faster start"),
            (CHANGED, &smaller, "Smaller"),
            (CRASHES, &crash, "A new library"),
        ];
        for (version, changed, description) in all {
            let package = pack(stock.folder(), version, changed, &out)?;
            publisher.add(&package, description)?;
        }
        publisher.sign()?;
        let root = publisher.first_root()?;
        Ok(Self {
            stock,
            export: publisher.repository().to_owned(),
            publisher,
            root,
        })
    }
}

/// Waits for what was prepared, installs the programs on the host, and lets it trust the publisher.
pub(super) fn install(
    story: &Story,
    fleet: &Fleet,
    prepared: JoinHandle<Result<Releases>>,
) -> Result<Releases> {
    let releases = prepared
        .join()
        .map_err(|_| anyhow!("making the releases panicked"))??;
    fleet.host.install(&releases.stock, UPDATER)?;
    story.say(&format!(
        "publishers have made keys and signed releases, offline; the first root has the SHA-256 {}",
        releases.root.1
    ));
    let said = fleet.host.trust(&releases.root.0, &releases.root.1)?;
    story.say("root of the host trusts it: vpn-node-updater trust 1.root.json --sha256 …");
    story.quote(&said);
    Ok(releases)
}

/// All three stories.
pub(super) fn tell(
    story: &Story,
    lab: &mut Lab,
    fleet: &Fleet,
    releases: &Releases,
    server: &str,
) -> Result<String> {
    publish(story, fleet, releases)?;
    let kept = keep_a_good_one(story, lab, fleet)?;
    refuse_a_changed_one(story, lab, fleet, server)?;
    let back = send_a_crashing_one_away(story, lab, fleet)?;
    story.say("vpn-node-updater history, on the host:");
    story.quote(&fleet.host.must_update(&["history"])?);
    Ok(format!(
        "an update kept after {} s of trial, a changed package refused, a crashing release gone after {:.1} s",
        kept.as_secs(),
        back.as_secs_f64()
    ))
}

fn publish(story: &Story, fleet: &Fleet, releases: &Releases) -> Result<()> {
    let data_dir = fleet.data_dir();
    let controller = |words: &[&str]| -> Result<String> {
        let mut command = fleet.controller();
        command.args(words);
        let output = shell::succeed(command, None, SOON)?;
        Ok(output.stdout + &output.stderr)
    };
    // The online key of the publishers' machine comes along: here it is the same machine.
    let keys = releases.publisher.repository().join("online-keys");
    copy_folder(&keys, &data_dir.join("releases/online-keys"))
        .context("cannot bring the online key to the controller")?;
    let from = releases.export.to_string_lossy();
    let words = [
        "release",
        "import",
        &from,
        "--root-sha256",
        &releases.root.1,
    ];
    controller(&words)?;
    story.say("the controller imports and verifies what they signed: release list");
    story.quote(&controller(&["release", "list"])?);
    Ok(())
}

fn keep_a_good_one(story: &Story, lab: &mut Lab, fleet: &Fleet) -> Result<Duration> {
    roll_out(story, lab, fleet, GOOD)?;
    story.say("the host looks at itself first (half a minute after its agent's start), then tries it for 10 s (120 s in production)");
    let (attempt, took) = watch(lab, fleet, GOOD)?;
    ensure!(
        column(&attempt, "phase") == "installed",
        "the good release ended as {attempt}"
    );
    story.say(&format!("{GOOD} is kept. On the host:"));
    story.quote(&update_status(fleet)?);
    controller_says(lab, fleet, GOOD, "completed")?;
    story.say("at the controller:");
    story.quote(&rollout_status(fleet, GOOD)?);
    Ok(took)
}

fn refuse_a_changed_one(story: &Story, lab: &mut Lab, fleet: &Fleet, server: &str) -> Result<()> {
    let folder = fleet.data_dir().join("releases/targets/vpn-node");
    let package = only_package(&folder.join(CHANGED))?;
    let mut bytes = fs::read(&package).context("cannot read the package")?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let temporary = package.with_extension("changed");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, &package))
        .context("cannot change the package")?;
    story.say(&format!(
        "somebody changes one byte of {CHANGED} on the controller's disk"
    ));
    roll_out(story, lab, fleet, CHANGED)?;
    let row = lab.wait_for("the host's refusal at the controller", SOON, || {
        let rows = fleet.rows(&["server", "show", server], "servers")?;
        let row = &rows.first().context("no such server")?["deployment"];
        let refused = column(row, "code") == "target_hash_mismatch";
        Ok(refused.then(|| row.clone()))
    })?;
    story.say(&format!(
        "the host refuses it, and the controller shows why: {}",
        column(&row, "failure_reason")
    ));
    let (_, slot) = fleet.host.running().context("the agent does not answer")?;
    ensure!(slot == GOOD, "{slot} runs instead of {GOOD}");
    fleet.ask(&[
        "rollout",
        "abort",
        CHANGED,
        "--reason",
        "the package was changed",
    ])?;
    Ok(())
}

fn send_a_crashing_one_away(story: &Story, lab: &mut Lab, fleet: &Fleet) -> Result<Duration> {
    story.say(&format!(
        "{CRASHES} is signed by the right people, and crashes at its start"
    ));
    roll_out(story, lab, fleet, CRASHES)?;
    let (attempt, took) = watch(lab, fleet, CRASHES)?;
    ensure!(
        column(&attempt, "phase") == "rolled_back",
        "the crashing release ended as {attempt}"
    );
    let host = &fleet.host;
    lab.wait_for("the former version", SOON, || {
        Ok(host.running().filter(|(_, slot)| slot == GOOD).map(drop))
    })?;
    story.say(&format!(
        "the host sent it away by itself after {:.1} s. On the host:",
        took.as_secs_f64()
    ));
    story.quote(&update_status(fleet)?);
    controller_says(lab, fleet, CRASHES, "halted")?;
    story.say("at the controller:");
    story.quote(&rollout_status(fleet, CRASHES)?);
    Ok(took)
}

fn roll_out(story: &Story, lab: &mut Lab, fleet: &Fleet, version: &str) -> Result<()> {
    let words = ["rollout", "create", version, "--yes"];
    // The controller knows only by the next heartbeat what the host has.
    let what = format!("a rollout of {version}");
    lab.wait_for(&what, SOON, || fleet.ask(&words).map(Some))?;
    story.say(&format!(
        "an operator types: rollout create {version} --yes"
    ));
    Ok(())
}

/// The attempt when it has ended, and how long the new version ran.
fn watch(lab: &mut Lab, fleet: &Fleet, version: &str) -> Result<(Value, Duration)> {
    let mut before = Instant::now();
    let what = format!("the end of the trial of {version}");
    lab.wait_for(&what, TRIAL, || {
        let attempt = fleet.host.software().unwrap_or_default()["attempt"].take();
        let ours = column(&attempt, "version") == version;
        match column(&attempt, "phase").as_str() {
            "installed" | "rolled_back" | "refused" | "failed" if ours => {
                Ok(Some((attempt, before.elapsed())))
            }
            "probation" if ours => Ok(None),
            _ => {
                before = Instant::now();
                Ok(None)
            }
        }
    })
}

fn controller_says(lab: &mut Lab, fleet: &Fleet, version: &str, state: &str) -> Result<()> {
    let what = format!("the rollout of {version} to be {state}");
    lab.wait_for(&what, SOON, || {
        let rows = fleet.rows(&["rollout", "status", version], "rollouts")?;
        let row = rows.first().context("no such rollout")?;
        Ok((column(row, "state") == state).then_some(()))
    })
}

/// `vpn-node update status`, from the version that runs.
fn update_status(fleet: &Fleet) -> Result<String> {
    let mut command = fleet.host.installed_cli();
    command.args(["update", "status"]);
    let output = shell::succeed(command, None, SOON)?;
    Ok(output.stdout + &output.stderr)
}

fn rollout_status(fleet: &Fleet, version: &str) -> Result<String> {
    let mut command = fleet.controller();
    command.args(["rollout", "status", version]);
    Ok(shell::succeed(command, None, SOON)?.stdout)
}

fn only_package(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .flatten();
    let mut files = entries.map(|entry| entry.path());
    files.next().context("there is no package")
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// What `--keep` leaves to be tried.
pub(super) fn say_how_to_go_on(fleet: &Fleet) {
    let mut status = fleet.host.installed_cli();
    status.args(["update", "status"]);
    let rollback = fleet.host.updater(&["rollback"]);
    anstream::println!("  its updates:    {}", shell::show(&status));
    anstream::println!("  back to {BASE}:  {}", shell::show(&rollback));
}
