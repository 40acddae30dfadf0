//! The worker against a small server in this process: one that serves well, and ones that do not.
//! All of it is plain HTTP on loopback; TLS is the controller client's, and tested with it.

mod hostile;
mod resume;
mod server;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use vpn_node_protocol::encoding::Digest;
use vpn_node_release::trust::{DirFetch, MemoryStore, Repository, install_root};

use self::server::Server;
use self::tree::{Tree, order};
use super::error::FetchFailure;
use super::rate::MinimumRate;
use super::source::{Access, Source};
use super::{Folders, Run, Settings, Task};
use crate::core::update::{Event, Failure, Known};
use crate::remote::tls;

/// A host with an updater that trusts the tree's root.
struct Host {
    dir: tempfile::TempDir,
    settings: Settings,
    rate: MinimumRate,
    events: mpsc::Receiver<Event>,
    to_events: mpsc::Sender<Event>,
}

impl Host {
    fn new(tree: &Tree) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let updater_root = dir.path().join("root.json");
        std::fs::write(&updater_root, &tree.root).unwrap();
        let (to_events, events) = mpsc::channel(1000);
        Self {
            settings: Settings {
                folders: Folders::new(dir.path()),
                updater_root,
                repository: None,
                controllers: Vec::new(),
                server_pin: None,
                ca_file: None,
                proxy: None,
                min_rate: 1,
                max_bytes: 100_000_000,
                past_ms: 0,
            },
            rate: MinimumRate {
                least: 1,
                window: Duration::from_secs(30),
            },
            dir,
            events,
            to_events,
        }
    }

    /// A peer that says nothing is given up soon.
    fn impatient(mut self) -> Self {
        self.rate.window = Duration::from_millis(300);
        self.rate.least = 1_000_000;
        self
    }

    fn run(&self, task: &Task, server: &Server) -> Result<(), FetchFailure> {
        self.run_until(task, server, watch::channel(false).1)
    }

    fn run_until(
        &self,
        task: &Task,
        server: &Server,
        stopped: watch::Receiver<bool>,
    ) -> Result<(), FetchFailure> {
        let run = Run {
            id: 1,
            settings: self.settings.clone().into(),
            events: self.to_events.clone(),
            stopped: stopped.clone(),
        };
        let access = Access {
            tls: tls::config(Some(Digest::of(&[b"no server has it"])), None).unwrap(),
            proxy: None,
            rate: self.rate,
            https_only: false,
        };
        run.settings.folders.create().unwrap();
        run.work(task, &Source::new(&server.url(), access, stopped)?)
    }

    fn fetch(&self, server: &Server) -> Result<(), FetchFailure> {
        self.run(&fetch(), server)
    }

    /// The code, and whether it is tried again; and that nothing was handed over.
    fn refused(&self, server: &Server) -> (&'static str, Option<Duration>) {
        let failure = Failure::from(self.fetch(server).unwrap_err());
        assert!(!self.incoming().join("request.json").exists());
        (failure.code, failure.retry)
    }

    fn code(&self, server: &Server) -> &'static str {
        self.refused(server).0
    }

    fn incoming(&self) -> PathBuf {
        self.dir.path().join("updates/incoming")
    }

    fn partial(&self) -> PathBuf {
        self.dir.path().join("updates/partial/package")
    }

    /// Every file of the agent's own store.
    fn trusted(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.dir.path().join("updates/trust"))
    }

    /// Plays the updater: the whole workflow again, from the incoming files alone.
    fn updater_accepts(&self, tree: &Tree) {
        let mut store = MemoryStore::default();
        install_root(&mut store, &tree.root, false).unwrap();
        let mut fetch = DirFetch::below(&self.incoming());
        let mut repository = Repository::open(store, tree::now()).unwrap();
        repository.refresh(&mut fetch).unwrap();
        let target = repository.target(&mut fetch, &order().target).unwrap();
        let mut package = Vec::new();
        target.download(&mut fetch, &mut package).unwrap();
        assert!(package == tree.package, "the package to the byte");
        let request = std::fs::read(self.incoming().join("request.json")).unwrap();
        let request: vpn_node_release::handover::Request =
            serde_json::from_slice(&request).unwrap();
        assert_eq!(
            (request.id.as_str(), request.deployment),
            ("a-request", Some(5))
        );
        assert_eq!(request.version, "1.5.0");
    }
}

fn fetch() -> Task {
    Task::Fetch {
        order: order(),
        request: "a-request".to_owned(),
        known: Known {
            channel: "stable".to_owned(),
            counter: 7,
            security_floor: Some("1.0.0".to_owned()),
        },
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => drop(found.insert(path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found
}
