//! A host below a temporary directory: two slots of fake agents, a supervisor, links.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use vpn_node_release::version::Version;
use vpn_node_updater::clock::{Clock, Now, SystemClock};
use vpn_node_updater::config::Config;
use vpn_node_updater::evidence;
use vpn_node_updater::layout::{self, Layout};
use vpn_node_updater::probation::{Ending, Probation, Trial, Watch};
use vpn_node_updater::supervisor::plain::{Plain, Plan, supervise};
use vpn_node_updater::supervisor::{Supervisor, SupervisorError};

use crate::fake_agent::Part;

pub(crate) const OLD: &str = "1.4.0";
pub(crate) const NEW: &str = "1.5.0";

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Host {
    _dir: tempfile::TempDir,
    plan: Plan,
    config: Config,
    clock: FastClock,
    stop: Arc<AtomicBool>,
    supervisor: Option<JoinHandle<Result<(), SupervisorError>>>,
    /// How often a deadline was told in a trial.
    pub(crate) deadlines: usize,
}

impl Host {
    /// Runs a good [`OLD`]; [`NEW`] lies beside it and behaves like this.
    pub(crate) fn new(behaviour: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let clock = FastClock::start();
        plant(&layout, behaviour, clock.speed);
        let plan = Plan {
            agent_arguments: Vec::new(),
            user: None,
            recover: words(&["true"]),
            updater: words(&["sh", "-c", &updater(dir.path(), &layout)]),
            launcher: Vec::new(),
            layout,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let supervisor = {
            let (plan, stop) = (plan.clone(), Arc::clone(&stop));
            std::thread::spawn(move || supervise(&plan, &stop))
        };
        let host = Self {
            _dir: dir,
            plan,
            config: Config {
                extension: Duration::from_secs(60),
                experiment_memory: 96 << 20,
                ..Config::default()
            },
            clock,
            stop,
            supervisor: Some(supervisor),
            deadlines: 0,
        };
        host.answers(OLD);
        host
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.plan.layout
    }

    pub(crate) fn plain(&self) -> Plain {
        Plain::new(self.layout())
    }

    pub(crate) fn extension(&self) -> Duration {
        self.config.extension
    }

    /// For trials in which only the controller matters.
    pub(crate) fn shorten(&mut self) {
        self.config.probation = Duration::from_secs(40);
        self.config.extension = Duration::from_secs(20);
    }

    /// How the controller answers from now on.
    pub(crate) fn controller(&self, word: &str) {
        fs::write(self.layout().root().join("controller"), word).unwrap();
    }

    pub(crate) fn trial(&mut self) -> (Ending, Duration) {
        self.trial_with(|_| {})
    }

    /// What the run does: baseline, link, start, watch. Tells how long it took from the start.
    pub(crate) fn trial_with(&mut self, after_baseline: impl FnOnce(&Self)) -> (Ending, Duration) {
        let mut supervisor = self.plain();
        // Its backend is up two seconds after the start.
        self.clock.sleep(Duration::from_secs(3));
        let mut watch = Watch::new(&self.plan.layout, &self.config, &self.clock)
            .with_answers_within(evidence::ANSWER_WITHIN / self.clock.speed);
        let baseline = watch.baseline(&mut supervisor);
        assert_eq!(baseline.sessions(), 10, "{baseline:?}");
        after_baseline(self);
        self.link_experiment();
        let version = Version::parse(NEW).unwrap();
        let trial = Trial {
            version: &version,
            baseline: &baseline,
            migrates: false,
        };
        let mut deadlines = 0;
        let began = self.clock.now().boot;
        supervisor.start_experiment().unwrap();
        let ending = watch.watch(trial, &mut supervisor, &mut |_| {
            deadlines += 1;
            Ok(())
        });
        self.deadlines = deadlines;
        (ending.unwrap(), self.clock.now().boot - began)
    }

    pub(crate) fn link_experiment(&self) {
        symlink(format!("versions/{NEW}"), self.layout().experiment()).unwrap();
    }

    pub(crate) fn go_back(&self) {
        fs::remove_file(self.layout().experiment()).unwrap();
        self.plain().back_to_stable().unwrap();
    }

    pub(crate) fn commit(&self) {
        fs::remove_file(self.layout().stable()).unwrap();
        fs::rename(self.layout().experiment(), self.layout().stable()).unwrap();
        self.plain().settle().unwrap();
    }

    /// Waits until an agent of this version answers; how long that took, on the trial's clock.
    pub(crate) fn answers(&self, version: &str) -> Duration {
        let began = self.clock.now().boot;
        let layout = self.layout();
        eventually(|| {
            let report = evidence::ask(layout, None, evidence::ANSWER_WITHIN, &SystemClock);
            report.is_ok_and(|report| report.version == version)
        });
        self.clock.now().boot - began
    }

    pub(crate) fn updater_runs(&self) -> usize {
        let runs = fs::read_to_string(self.layout().root().join("runs"));
        runs.unwrap_or_default().lines().count()
    }

    pub(crate) fn second_supervisor(&self) -> SupervisorError {
        supervise(&self.plan, &AtomicBool::new(false)).unwrap_err()
    }

    /// As a SIGTERM does.
    pub(crate) fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.join().unwrap().unwrap();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stop.store(true, Ordering::Relaxed);
            // Best effort: a second panic would hide the first.
            let _ = self.supervisor.take().map(JoinHandle::join);
        } else {
            self.end();
        }
    }
}

/// The host's clock, run faster.
struct FastClock {
    start: Now,
    speed: u32,
}

impl FastClock {
    fn start() -> Self {
        let real = std::env::var_os("VPN_NODE_TEST_REAL_TIME").is_some();
        Self {
            start: SystemClock.now(),
            speed: if real { 1 } else { 10 },
        }
    }
}

impl Clock for FastClock {
    fn now(&self) -> Now {
        let now = SystemClock.now();
        Now {
            boot: self.start.boot + (now.boot - self.start.boot) * self.speed,
            wall_ms: now.wall_ms,
        }
    }

    fn sleep(&self, time: Duration) {
        SystemClock.sleep(time / self.speed);
    }

    fn boot_id(&self) -> String {
        SystemClock.boot_id()
    }
}

/// A good [`OLD`], which is stable, and a [`NEW`] that behaves like this.
pub(crate) fn plant(layout: &Layout, behaviour: &str, speed: u32) {
    for (version, behaviour) in [(OLD, "good"), (NEW, behaviour)] {
        let part = Part {
            version: version.into(),
            behaviour: behaviour.into(),
            socket: layout.status_socket(),
            controller: layout.root().join("controller"),
            speed,
        };
        make_slot(layout, &part);
    }
    symlink(format!("versions/{OLD}"), layout.stable()).unwrap();
}

fn make_slot(layout: &Layout, part: &Part) {
    let slot = layout.version(&Version::parse(&part.version).unwrap());
    let program = layout::agent_program(&slot);
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let script = match part.behaviour.as_str() {
        "crash" => "#!/bin/sh\nexit 1\n".to_owned(),
        "exit_78" => "#!/bin/sh\nexit 78\n".to_owned(),
        _ => format!(
            "#!/bin/sh\nFAKE_AGENT='{}' exec '{}' fake_agent_process --exact --nocapture\n",
            serde_json::to_string(part).unwrap(),
            std::env::current_exe().unwrap().display(),
        ),
    };
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A stand-in that counts its runs and takes the request.
fn updater(dir: &Path, layout: &Layout) -> String {
    format!(
        "echo run >> {}/runs; rm {}/request.json",
        dir.display(),
        layout.incoming().display()
    )
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// Looks again and again until it is so.
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    let end = SystemClock.now().boot + PATIENCE;
    while !is_so() {
        assert!(SystemClock.now().boot < end, "it never was so");
        SystemClock.sleep(Duration::from_millis(10));
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    signal::kill(Pid::from_raw(pid.try_into().unwrap()), None).is_ok()
}

pub(crate) fn kill(pid: u32) {
    signal::kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
}
