//! One host: a tree that looks like one, the real updater in it, and what stands there.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use vpn_node_release::bundle::{Content, Mode};
use vpn_node_updater::clock::SystemClock;
use vpn_node_updater::evidence::{self, Report, Silence};
use vpn_node_updater::layout::Layout;

use super::agent::Behaviour;
use super::releases::{FIRST, Releases, contents, packed};
use crate::shell;

/// The shortest probation that a host may have, and no longer wait for a controller.
const CONFIG: &str = "supervisor = \"plain\"\nprobation = \"10s\"\nextension = \"0s\"\n";
/// A command of root reads and writes small files; the machine is busy.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// One question to an agent.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// The first request's id.
pub(super) const REQUEST: &str = "6f1f0c1e-0000-4000-8000-000000000001";

/// See the module's page. `folder` has the tree in `root`, and beside it what the host's disk does
/// not have: the witness and the log.
pub(super) struct Tree {
    folder: PathBuf,
    pub(super) root: PathBuf,
    pub(super) layout: Layout,
    pub(super) updater: PathBuf,
}

impl Tree {
    /// A host that has the first version from its package, and trusts the repository's root.
    pub(super) fn plant(
        folder: &Path,
        updater: &Path,
        releases: &Releases,
    ) -> anyhow::Result<Self> {
        let tree = Self::at(folder, updater);
        let layout = &tree.layout;
        for made in [
            layout.system(),
            layout.versions(),
            layout.incoming(),
            layout.root().join("etc/vpn-node"),
            layout.root().join("var/lib/vpn-node-updater"),
        ] {
            fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        for entry in contents(&FIRST, Behaviour::Good, updater)? {
            let path = layout.system().join(entry.path.as_str());
            let mode = match entry.mode {
                Mode::Executable => 0o755,
                Mode::Plain => 0o644,
            };
            let Content::Bytes(bytes) = entry.content else {
                bail!("the first version has files from elsewhere");
            };
            write(&path, &bytes, mode)?;
        }
        let (_, manifest) = packed(&FIRST, Behaviour::Good, updater)?;
        write(
            &layout.system().join("manifest.json"),
            &serde_json::to_vec(&manifest)?,
            0o644,
        )?;
        symlink("system", layout.stable()).context("cannot make the link `stable`")?;
        write(&layout.state_format(), b"1\n", 0o644)?;
        write(&layout.config(), CONFIG.as_bytes(), 0o644)?;
        let root = folder.join("root.json");
        write(&root, &releases.root, 0o644)?;
        let mut trust = tree.command(&["trust"]);
        trust.arg(&root);
        shell::succeed(trust, None, COMMAND_WITHIN)?;
        Ok(tree)
    }

    /// The host in `folder`, which was planted or copied before.
    pub(super) fn at(folder: &Path, updater: &Path) -> Self {
        let root = folder.join("root");
        Self {
            folder: folder.to_owned(),
            layout: Layout::new(&root),
            root,
            updater: updater.to_owned(),
        }
    }

    /// The same host in another folder.
    pub(super) fn copy_to(&self, folder: &Path) -> anyhow::Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(&self.root).arg(folder);
        shell::succeed(copy, None, COMMAND_WITHIN)?;
        Ok(Self::at(folder, &self.updater))
    }

    /// The updater with these words, for this tree.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.updater);
        command.arg("--root").arg(&self.root).args(words);
        command
    }

    /// Runs the updater to its end.
    pub(super) fn run(&self, words: &[&str]) -> anyhow::Result<shell::Output> {
        shell::output(self.command(words), None, COMMAND_WITHIN)
    }

    /// What the agent that runs says of itself.
    pub(super) fn report(&self) -> Result<Report, Silence> {
        evidence::ask(&self.layout, None, ANSWERS_WITHIN, &SystemClock)
    }

    /// Where the programs of this host log.
    pub(super) fn log(&self) -> anyhow::Result<Stdio> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        log.map(Stdio::from).context("cannot open a log")
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What a new boot does not find: sockets, and what they lie in.
    pub(super) fn clear_run(&self) {
        let _ = fs::remove_dir_all(self.root.join("run"));
    }
}

/// A file with its folders.
fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, bytes))
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(failed)
}
