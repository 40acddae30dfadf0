//! The fake agent: what runs in every slot of these hosts. It leaves a line with its witness
//! ([`Start`]) before anything else, then behaves as its release was made to.
//!
//! The witness lies beside the host's tree: power cuts and torn files do not reach it.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::json;
use vpn_node_release::version::Version;
use vpn_node_updater::journal::Slot;
use vpn_node_updater::layout::Layout;
use vpn_node_updater::slots;

use super::releases::FIRST;

/// How long a question may take to arrive.
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(crate) struct Options {
    behaviour: Behaviour,
    version: Version,
    /// The script, as it was started
    program: PathBuf,
}

/// What a release does when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Behaviour {
    /// Answers as an agent that is well.
    Good,
    /// Ends with an error at once.
    Crashes,
    /// Answers, but has lost its VPN daemon.
    Lame,
    /// As good, but nobody signed it.
    Unsigned,
}

impl Behaviour {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Crashes => "crashes",
            Self::Lame => "lame",
            Self::Unsigned => "unsigned",
        }
    }
}

/// One line of the witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) pid: u32,
    pub(super) version: Version,
    /// Somebody signed it.
    pub(super) signed: bool,
    /// Its slot had its mark, and every file as it was packed.
    pub(super) whole: bool,
    /// Another agent of the same host ran still.
    pub(super) second: bool,
}

/// Where the agents of the host at `root` leave their lines.
pub(super) fn witness(root: &Path) -> PathBuf {
    root.with_file_name("witness")
}

/// What the witness has seen. A line is written at once, and so never torn.
pub(super) fn starts(root: &Path) -> Result<Vec<Start>> {
    let text = match fs::read_to_string(witness(root)) {
        Err(none) if none.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.context("cannot read the witness")?,
    };
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .context("a line of the witness is damaged")
}

/// The hidden command.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = root(&options.program)?;
    let layout = Layout::new(&root);
    let running = File::create(root.with_file_name("running")).context("cannot make the lock")?;
    let lock = Flock::lock(running, FlockArg::LockExclusiveNonblock);
    testify(options, &root, &layout, lock.is_err())?;
    match options.behaviour {
        Behaviour::Crashes => anyhow::bail!("this release is broken"),
        behaviour => serve(&layout, &options.version, behaviour),
    }
}

/// The tree in which `program` lies.
fn root(program: &Path) -> Result<PathBuf> {
    let up = program
        .ancestors()
        .find(|folder| folder.ends_with("opt/vpn-node"));
    up.and_then(|opt| opt.parent()?.parent())
        .map(Path::to_owned)
        .with_context(|| format!("{} lies in no slot", program.display()))
}

fn testify(options: &Options, root: &Path, layout: &Layout, second: bool) -> Result<()> {
    let slot = match &options.version {
        first if *first == FIRST => Slot::System,
        other => Slot::Version(other.clone()),
    };
    let start = Start {
        pid: std::process::id(),
        version: options.version.clone(),
        signed: options.behaviour != Behaviour::Unsigned,
        whole: slots::is_whole(layout, &slot) && slots::check(layout, &slot).is_ok(),
        second,
    };
    let mut line = serde_json::to_string(&start)?;
    line.push('\n');
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(witness(root))
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .context("cannot write to the witness")
}

fn serve(layout: &Layout, version: &Version, behaviour: Behaviour) -> Result<()> {
    let path = layout.status_socket();
    // Of the agent before.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    loop {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        // Who asks badly gets nothing.
        let _ = answer(stream, version, behaviour);
    }
}

fn answer(mut stream: UnixStream, version: &Version, behaviour: Behaviour) -> Result<()> {
    stream.set_read_timeout(Some(ASKED_WITHIN))?;
    BufReader::new(&stream).read_line(&mut String::new())?;
    let state = if behaviour == Behaviour::Lame {
        "down"
    } else {
        "up"
    };
    let report = json!({
        "v": 1,
        "scope": "full",
        "ok": {
            "version": version,
            "age_s": 0,
            // Long enough that nobody waits for it to find its daemons.
            "uptime_s": 600,
            "enrolled": true,
            "backends": [{"kind": "wireguard", "instance": "wg0", "state": state, "sessions": 5}],
            "heartbeats": {"attempted": 3, "accepted": 3, "last_problem": "none"},
            "last_heartbeat": {"at_ms": 1, "accepted": true},
            "ledger": {"writable": true},
        }
    });
    stream.write_all(format!("{report}\n").as_bytes())?;
    Ok(())
}
