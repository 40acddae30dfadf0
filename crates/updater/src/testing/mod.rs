//! A host in a temporary directory, with a supervisor and a judge that do as they are told, and a
//! disk that breaks when it is told to.

pub(crate) mod repository;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;
use vpn_node_release::code::UpdaterCode;
use vpn_node_release::handover::Request;
use vpn_node_release::trust::install_root;
use vpn_node_release::version::{Platform, Version};

use crate::clock::fake::FakeClock;
use crate::config::Config;
use crate::disk::{Disk, Gate};
use crate::error::UpdateError;
use crate::host::Host;
use crate::journal::{self, Journal, Slot};
use crate::layout::Layout;
use crate::probation::{Baseline, Deadline, Ending, Probation, Trial};
use crate::recovery::apply::to_rest;
use crate::run::{self, Outcome};
use crate::slots::{self, Links};
use crate::supervisor::{ProcessState, Supervisor, SupervisorError};
use crate::verify::Kept;
use repository::Repository;

/// A host that runs the package's 1.4.0 and trusts [`Repository`].
pub(crate) struct World {
    pub(crate) _dir: tempfile::TempDir,
    pub(crate) layout: Layout,
    pub(crate) config: Config,
    pub(crate) clock: FakeClock,
    pub(crate) processes: Rc<RefCell<Processes>>,
    pub(crate) judge: Judge,
    pub(crate) repository: Repository,
    pub(crate) said: Vec<String>,
    /// Ends the world of the updater at a change on disk.
    pub(crate) breaker: Arc<Breaker>,
}

/// What runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Processes {
    pub(crate) stable: Option<PathBuf>,
    pub(crate) experiment: Option<PathBuf>,
    /// The supervisor refuses to start an experiment.
    pub(crate) broken: bool,
    /// It cannot stop one either.
    pub(crate) stuck: bool,
    /// How often both were stopped.
    pub(crate) stops: u32,
}

/// Something that happens during a trial.
type Meanwhile = Box<dyn FnMut(&Layout)>;

/// How a trial ends, and what happens meanwhile.
pub(crate) struct Judge {
    pub(crate) ending: Ending,
    pub(crate) meanwhile: Option<Meanwhile>,
    /// What happens while the baseline is taken.
    pub(crate) before: Option<Meanwhile>,
    pub(crate) watched: u32,
    pub(crate) migrates: Vec<bool>,
}

impl World {
    pub(crate) fn new() -> Self {
        // In memory if there is a place: some tests make a thousand hosts, each with many an fsync.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let layout = Layout::new(dir.path());
        for path in [layout.opt(), layout.state(), layout.incoming()] {
            fs::create_dir_all(path).unwrap();
        }
        let mut repository = Repository::new();
        let package = repository::package(&Version::new(1, 4, 0), repository::FORMAT);
        repository::unpack_to(&layout.opt(), "system", &package, &Version::new(1, 4, 0));
        std::os::unix::fs::symlink("system", layout.stable()).unwrap();
        let mut store = Kept::open(&layout, &Disk::default(), false).unwrap();
        install_root(&mut store, &repository.root(), false).unwrap();
        repository.add(&Version::new(1, 5, 0), |_| ());
        let world = Self {
            _dir: dir,
            layout,
            config: Config::default(),
            clock: FakeClock::default(),
            processes: Rc::default(),
            judge: Judge {
                ending: Ending::Keep { remark: None },
                meanwhile: None,
                before: None,
                watched: 0,
                migrates: Vec::new(),
            },
            repository,
            said: Vec::new(),
            breaker: Arc::default(),
        };
        world.processes.borrow_mut().stable = Some(world.layout.system());
        world
    }

    /// The agent downloads everything and asks for `version`.
    pub(crate) fn ask(&self, version: &str, id: u8) {
        self.repository.write_to(&self.layout.incoming());
        let request = Request {
            format: 1,
            id: format!("6f1f0c1e-0000-4000-8000-0000000000{id:02}"),
            deployment: Some(7),
            version: version.into(),
            target: format!("vpn-node/{version}/{}.tar.zst", Platform::here()),
        };
        let text = serde_json::to_vec(&request).unwrap();
        fs::write(self.layout.incoming().join("request.json"), text).unwrap();
    }

    /// With everything in its place.
    pub(crate) fn with<T>(&mut self, act: impl FnOnce(&mut Host<'_>) -> T) -> T {
        let disk = Disk::with_gate(self.breaker.clone());
        let mut supervisor = FakeSupervisor {
            layout: self.layout.clone(),
            processes: self.processes.clone(),
            breaker: self.breaker.clone(),
        };
        let said = &mut self.said;
        let mut log = |line: &str| said.push(line.to_owned());
        let mut probation = FakeProbation {
            judge: &mut self.judge,
            layout: &self.layout,
            breaker: self.breaker.clone(),
        };
        act(&mut Host {
            layout: &self.layout,
            disk: &disk,
            clock: &self.clock,
            config: &self.config,
            supervisor: &mut supervisor,
            probation: &mut probation,
            log: &mut log,
        })
    }

    pub(crate) fn run(&mut self) -> Result<Outcome, UpdateError> {
        self.with(run::run)
    }

    /// The power comes back: nothing runs but what a boot starts, and recovery comes first.
    pub(crate) fn reboot(&mut self) {
        self.reboot_without_stable();
        let stable = fs::canonicalize(self.layout.stable()).unwrap();
        self.processes.borrow_mut().stable = Some(stable);
    }

    /// The same for a host whose package was purged.
    pub(crate) fn reboot_without_stable(&mut self) {
        self.breaker.mend();
        *self.clock.boot.borrow_mut() += "+";
        *self.processes.borrow_mut() = Processes::default();
        self.with(to_rest).unwrap();
    }

    pub(crate) fn journal(&self) -> Option<Journal> {
        journal::read(&self.layout)
    }

    pub(crate) fn links(&self) -> Links {
        Links::read(&self.layout)
    }

    /// The version that `stable` leads to; it is whole, unchanged, and what runs.
    pub(crate) fn stable(&self) -> String {
        let links = self.links();
        let slot = links.stable.slot().expect("stable leads to a slot");
        assert!(slots::is_whole(&self.layout, slot));
        slots::check(&self.layout, slot).unwrap();
        let manifest = slots::manifest(&self.layout, slot).unwrap();
        manifest.version.to_string()
    }

    /// No experiment, one agent, that of `stable`; nothing left over.
    pub(crate) fn assert_at_rest(&self) {
        self.stable();
        assert_eq!(self.links().experiment, slots::Link::Absent);
        let processes = self.processes.borrow();
        assert_eq!(processes.experiment, None);
        let stable = fs::canonicalize(self.layout.stable()).unwrap();
        assert_eq!(processes.stable.as_deref(), Some(stable.as_path()));
        assert!(!self.layout.staging().exists());
        assert!(!self.layout.work().exists());
    }

    /// Every byte of what runs and of what is trusted.
    pub(crate) fn fingerprint(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all = Vec::new();
        walk(&self.layout.opt(), &mut all);
        walk(&self.layout.trust(), &mut all);
        all.sort();
        all
    }

    pub(crate) fn slot(version: &str) -> Slot {
        Slot::Version(version.parse().unwrap())
    }
}

fn walk(path: &Path, all: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(path).into_iter().flatten() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            walk(&path, all);
        } else if meta.is_symlink() {
            let text = fs::read_link(&path).unwrap();
            all.push((path, text.into_os_string().into_encoded_bytes()));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
}

/// Fails changes on disk: the n-th one, or all from there on, which is what a dead process does.
#[derive(Default)]
pub(crate) struct Breaker {
    /// Changes until it breaks; 0: never.
    left: AtomicUsize,
    seen: AtomicUsize,
    errno: AtomicUsize,
    /// Once broken it stays so: the power is gone.
    dies: AtomicBool,
    dead: AtomicBool,
}

impl Breaker {
    /// At the `at`-th change from now (from 1) the power goes.
    pub(crate) fn die_at(&self, at: usize) {
        self.fail_at(at, Errno::EIO);
        self.dies.store(true, Ordering::Relaxed);
    }

    /// The `at`-th change from now fails with `errno`, and so do all after it.
    pub(crate) fn fail_at(&self, at: usize, errno: Errno) {
        self.mend();
        self.left.store(at, Ordering::Relaxed);
        self.errno.store(errno as usize, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.left.store(0, Ordering::Relaxed);
        self.seen.store(0, Ordering::Relaxed);
        self.dies.store(false, Ordering::Relaxed);
        self.dead.store(false, Ordering::Relaxed);
    }

    pub(crate) fn broke(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        left > 0 && self.seen.load(Ordering::Relaxed) >= left
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }
}

impl Gate for Breaker {
    fn before(&self, doing: &'static str, _: &Path) -> io::Result<()> {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 || seen < left {
            return Ok(());
        }
        if self.dies.load(Ordering::Relaxed) {
            self.dead.store(true, Ordering::Relaxed);
        } else if doing == "remove" {
            // A full disk lets one remove.
            return Ok(());
        }
        let errno = i32::try_from(self.errno.load(Ordering::Relaxed)).unwrap();
        Err(io::Error::from_raw_os_error(errno))
    }
}

struct FakeSupervisor {
    layout: Layout,
    processes: Rc<RefCell<Processes>>,
    breaker: Arc<Breaker>,
}

impl FakeSupervisor {
    fn alive(&self) -> Result<(), SupervisorError> {
        if self.breaker.is_dead() {
            return Err(SupervisorError::new("the updater is dead"));
        }
        Ok(())
    }
}

impl Supervisor for FakeSupervisor {
    fn stable_state(&mut self) -> Result<ProcessState, SupervisorError> {
        Ok(match self.processes.borrow().stable {
            Some(_) => ProcessState::Running { pid: 1 },
            None => ProcessState::Stopped,
        })
    }

    fn experiment_state(&mut self) -> Result<ProcessState, SupervisorError> {
        Ok(match self.processes.borrow().experiment {
            Some(_) => ProcessState::Running { pid: 2 },
            None => ProcessState::Stopped,
        })
    }

    fn start_experiment(&mut self) -> Result<(), SupervisorError> {
        self.alive()?;
        let mut processes = self.processes.borrow_mut();
        processes.stable = None;
        if processes.broken {
            return Err(SupervisorError::new("the unit cannot be loaded"));
        }
        processes.experiment = fs::canonicalize(self.layout.experiment()).ok();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), SupervisorError> {
        self.alive()?;
        let mut processes = self.processes.borrow_mut();
        (processes.stable, processes.experiment) = (None, None);
        processes.stops += 1;
        Ok(())
    }

    fn back_to_stable(&mut self) -> Result<(), SupervisorError> {
        self.alive()?;
        let mut processes = self.processes.borrow_mut();
        if processes.stuck {
            return Err(SupervisorError::new("the unit does not stop"));
        }
        processes.experiment = None;
        if processes.stable.is_none() {
            processes.stable = fs::canonicalize(self.layout.stable()).ok();
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SupervisorError> {
        self.alive()?;
        let mut processes = self.processes.borrow_mut();
        processes.experiment = None;
        processes.stable = fs::canonicalize(self.layout.stable()).ok();
        Ok(())
    }
}

struct FakeProbation<'a> {
    judge: &'a mut Judge,
    layout: &'a Layout,
    breaker: Arc<Breaker>,
}

impl Probation for FakeProbation<'_> {
    fn baseline(&mut self, _: &mut dyn Supervisor) -> Baseline {
        if let Some(act) = &mut self.judge.before {
            act(self.layout);
        }
        Baseline::default()
    }

    fn watch(
        &mut self,
        trial: Trial<'_>,
        _: &mut dyn Supervisor,
        note: &mut dyn FnMut(Deadline) -> Result<(), UpdateError>,
    ) -> Result<Ending, UpdateError> {
        note(Deadline {
            at_ms: 1_795_000_120_000,
            why: None,
        })?;
        assert!(!self.breaker.is_dead());
        self.judge.watched += 1;
        self.judge.migrates.push(trial.migrates);
        if let Some(act) = &mut self.judge.meanwhile {
            act(self.layout);
        }
        Ok(self.judge.ending.clone())
    }
}

/// The verdict that the new version is at fault.
pub(crate) fn sick() -> Ending {
    Ending::Revert {
        code: UpdaterCode::Crashed,
        detail: "it ended with exit code 1 after 5 s".into(),
    }
}
