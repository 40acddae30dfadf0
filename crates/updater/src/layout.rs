//! Where everything lies. The only place that spells a path of the host.
//!
//! `--root DIR` puts the whole tree below DIR: tests, demonstrations and containers use it. Links
//! inside the tree are relative, so a tree may be moved.

use std::path::{Path, PathBuf};

use vpn_node_release::version::Version;

/// All paths of one host, or of a tree that looks like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Default for Layout {
    fn default() -> Self {
        Self::new("/")
    }
}

impl Layout {
    /// The tree below `root`; `/` is the host itself.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What every path begins with.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the host itself and no tree beside it.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    // --- /opt/vpn-node: programs. Root's. ---

    /// Where the programs of all versions lie.
    #[must_use]
    pub fn opt(&self) -> PathBuf {
        self.at("opt/vpn-node")
    }

    /// The version that the deb or rpm owns; the updater only reads it.
    #[must_use]
    pub fn system(&self) -> PathBuf {
        self.opt().join("system")
    }

    /// One directory a version.
    #[must_use]
    pub fn versions(&self) -> PathBuf {
        self.opt().join("versions")
    }

    /// The slot of one version.
    #[must_use]
    pub fn version(&self, version: &Version) -> PathBuf {
        self.versions().join(version.to_string())
    }

    /// Where a slot is made: beside the others, so that it comes to its place by a rename.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.opt().join(".staging")
    }

    /// Link to the slot that a boot starts.
    #[must_use]
    pub fn stable(&self) -> PathBuf {
        self.opt().join("stable")
    }

    /// Link to the slot on trial; absent when there is none.
    #[must_use]
    pub fn experiment(&self) -> PathBuf {
        self.opt().join("experiment")
    }

    /// Link to the slot that was stable before; absent when there was none.
    #[must_use]
    pub fn previous(&self) -> PathBuf {
        self.opt().join("previous")
    }

    /// Left by the package's scripts when a deb or rpm came during a trial.
    #[must_use]
    pub fn package_waits(&self) -> PathBuf {
        self.opt().join(".package-waits")
    }

    // --- /var/lib/vpn-node: the agent's. Nothing in it is believed. ---

    /// The agent's state directory.
    #[must_use]
    pub fn agent_state(&self) -> PathBuf {
        self.at("var/lib/vpn-node")
    }

    /// The number of the format that the agent's state has.
    #[must_use]
    pub fn state_format(&self) -> PathBuf {
        self.agent_state().join("state-format")
    }

    /// Names the version that may migrate the state, because a snapshot of it was kept.
    #[must_use]
    pub fn migration_permitted(&self) -> PathBuf {
        self.agent_state().join("migration-permitted")
    }

    /// Where the agent puts what it downloaded: `metadata/`, `targets/`, `request.json`.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.agent_state().join("updates/incoming")
    }

    /// The agent's status socket.
    #[must_use]
    pub fn status_socket(&self) -> PathBuf {
        self.at("run/vpn-node/status.sock")
    }

    // --- /var/lib/vpn-node-updater: root's, outside of what the agent could rename away. ---

    /// The updater's own state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.at("var/lib/vpn-node-updater")
    }

    /// The TUF store: what is trusted, and the highest that was ever verified.
    #[must_use]
    pub fn trust(&self) -> PathBuf {
        self.state().join("trust")
    }

    /// The two copies of the journal.
    #[must_use]
    pub fn journal(&self) -> [PathBuf; 2] {
        ["journal.a", "journal.b"].map(|name| self.state().join(name))
    }

    /// One line an attempt, the oldest first.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.state().join("history.jsonl")
    }

    /// What everyone may read ([`vpn_node_release::handover::Status`]).
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.state().join("status.json")
    }

    /// Pin, opt-out and blocked versions ([`crate::hold::Hold`]).
    #[must_use]
    pub fn policy(&self) -> PathBuf {
        self.state().join("policy.json")
    }

    /// The updater's own copy of what came in.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.state().join("work")
    }

    /// Which package a slot was unpacked from: its SHA-256.
    #[must_use]
    pub fn package_of(&self, version: &Version) -> PathBuf {
        self.packages().join(version.to_string())
    }

    /// One small file a slot ([`Self::package_of`]).
    #[must_use]
    pub fn packages(&self) -> PathBuf {
        self.state().join("packages")
    }

    /// The agent's state before a migration, one directory a version that migrated.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.state().join("snapshots")
    }

    /// Held (flock(2)) by the one updater that runs.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    /// Where the plain supervisor takes orders (`vpn-node-updater supervise`); root's alone.
    #[must_use]
    pub fn supervisor_socket(&self) -> PathBuf {
        self.at("run/vpn-node-updater/supervisor.sock")
    }

    /// Held for one change of policy, status or history ([`crate::lock::brief`]).
    #[must_use]
    pub fn brief_lock(&self) -> PathBuf {
        self.state().join("lock.brief")
    }

    // --- The rest of the host. ---

    /// The updater's configuration; optional.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.at("etc/vpn-node/updater.toml")
    }

    /// Files that package managers lock (fcntl(2)) while they work.
    #[must_use]
    pub fn package_manager_locks(&self) -> [PathBuf; 4] {
        [
            "var/lib/dpkg/lock-frontend",
            "var/lib/dpkg/lock",
            "var/lib/rpm/.rpm.lock",
            "usr/lib/sysimage/rpm/.rpm.lock",
        ]
        .map(|path| self.at(path))
    }
}

/// The agent's program inside a slot.
#[must_use]
pub fn agent_program(slot: &Path) -> PathBuf {
    slot.join("bin/vpn-node-agent")
}

/// The updater's program inside a slot.
#[must_use]
pub fn updater_program(slot: &Path) -> PathBuf {
    slot.join("bin/vpn-node-updater")
}

/// The first root metadata that a package brings along; believed only from `system/`.
#[must_use]
pub fn packaged_root(slot: &Path) -> PathBuf {
    slot.join("share/release-root.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_prefixes_every_path() {
        let layout = Layout::new("/tmp/tree");
        let mut all = vec![
            layout.system(),
            layout.version(&Version::new(1, 4, 0)),
            layout.staging(),
            layout.stable(),
            layout.experiment(),
            layout.previous(),
            layout.incoming(),
            layout.state_format(),
            layout.migration_permitted(),
            layout.status_socket(),
            layout.trust(),
            layout.history(),
            layout.status(),
            layout.policy(),
            layout.work(),
            layout.snapshots(),
            layout.lock(),
            layout.supervisor_socket(),
            layout.config(),
        ];
        all.extend(layout.journal());
        all.extend(layout.package_manager_locks());
        for path in all {
            assert!(path.starts_with("/tmp/tree"), "{}", path.display());
        }
        assert_eq!(
            Layout::default().version(&Version::new(1, 4, 0)),
            Path::new("/opt/vpn-node/versions/1.4.0")
        );
    }

    #[test]
    fn nothing_of_root_lies_below_what_the_agent_owns() {
        let layout = Layout::default();
        assert!(!layout.state().starts_with(layout.agent_state()));
        assert!(!layout.opt().starts_with(layout.agent_state()));
    }
}
