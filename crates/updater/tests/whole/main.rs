//! The whole way with real processes: the program as supervisor, the program as updater that it
//! starts for a request, signed releases, agents that answer and one that dies.

#[expect(dead_code, reason = "the unit tests use the rest of it")]
#[path = "../../src/testing/repository.rs"]
mod repository;

#[path = "../trials/fake_agent.rs"]
mod fake_agent;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpn_node_release::handover::{Attempt, Phase, Request, Status};
use vpn_node_release::version::{Platform, Version};
use vpn_node_updater::clock::{Clock, SystemClock};
use vpn_node_updater::layout::Layout;

use fake_agent::Part;
use repository::Repository;

const UPDATER: &str = env!("CARGO_BIN_EXE_vpn-node-updater");
/// Nothing takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Not a test: what the slots run. See [`fake_agent`].
#[test]
fn fake_agent_process() {
    fake_agent::run_if_asked();
}

struct Host {
    dir: tempfile::TempDir,
    layout: Layout,
    repository: Repository,
    supervisor: Child,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for path in [layout.opt(), layout.state(), layout.incoming()] {
            fs::create_dir_all(path).unwrap();
        }
        fs::create_dir_all(layout.config().parent().unwrap()).unwrap();
        fs::write(layout.config(), "probation = '10s'\nsupervisor = 'plain'\n").unwrap();
        let mut repository = Repository::new();
        repository.issued = SystemClock.now().wall_ms / 1000 - 60;
        let old = Version::new(1, 4, 0);
        let root = dir.path().join("root.json");
        fs::write(&root, repository.root()).unwrap();
        add(&mut repository, &layout, &old, "good");
        let package = repository.package_of("1.4.0").to_owned();
        repository::unpack_to(&layout.opt(), "system", &package, &old);
        symlink("system", layout.stable()).unwrap();
        let trusted = Command::new(UPDATER)
            .arg("--root")
            .arg(dir.path())
            .arg("trust")
            .arg(root)
            .status();
        assert!(trusted.unwrap().success());
        let supervisor = Command::new(UPDATER)
            .arg("--root")
            .arg(dir.path())
            .arg("supervise")
            .spawn()
            .unwrap();
        let host = Self {
            dir,
            layout,
            repository,
            supervisor,
        };
        host.wait_for_agent("1.4.0");
        host
    }

    /// Publishes a version that behaves like this, and lets the agent ask for it.
    fn ask(&mut self, version: &str, behaviour: &str, id: u8) {
        let parsed = Version::parse(version).unwrap();
        add(&mut self.repository, &self.layout, &parsed, behaviour);
        self.repository.write_to(&self.layout.incoming());
        let request = Request {
            format: 1,
            id: format!("6f1f0c1e-0000-4000-8000-0000000000{id:02}"),
            deployment: None,
            version: version.into(),
            target: format!("vpn-node/{version}/{}.tar.zst", Platform::here()),
        };
        let path = self.layout.incoming().join("request.json");
        let aside = path.with_extension("new");
        fs::write(&aside, serde_json::to_vec(&request).unwrap()).unwrap();
        fs::rename(aside, path).unwrap();
    }

    /// How the attempt for this version ended.
    fn ended(&self, version: &str) -> Attempt {
        wait_for(|| {
            let bytes = fs::read(self.layout.status()).ok()?;
            let status: Status = serde_json::from_slice(&bytes).ok()?;
            let attempt = status.attempt?;
            (attempt.version == version && attempt.phase.is_final()).then_some(attempt)
        })
    }

    fn wait_for_agent(&self, version: &str) {
        wait_for(|| {
            let report = vpn_node_updater::evidence::ask(
                &self.layout,
                None,
                Duration::from_secs(2),
                &SystemClock,
            );
            report.ok().filter(|report| report.version == version)
        });
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.supervisor.id().try_into().unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.supervisor.wait();
    }
}

/// Its updater is the real one, its agent plays a part.
fn add(repository: &mut Repository, layout: &Layout, version: &Version, behaviour: &str) {
    let part = Part {
        version: version.to_string(),
        behaviour: behaviour.into(),
        socket: layout.status_socket(),
        controller: layout.root().join("controller"),
        speed: 1,
    };
    let part = serde_json::to_string(&part).unwrap();
    let own = std::env::current_exe().unwrap();
    let own = own.display();
    repository.add_programs(
        version,
        |_| (),
        |name| {
            let text = match name {
                "agent" => format!(
                    "#!/bin/sh\nFAKE_AGENT='{part}' exec '{own}' fake_agent_process --exact \
                     --nocapture\n"
                ),
                _ => format!("#!/bin/sh\nexec '{UPDATER}' \"$@\"\n"),
            };
            text.into_bytes()
        },
    );
}

fn wait_for<T>(mut is_so: impl FnMut() -> Option<T>) -> T {
    let end = SystemClock.now().boot + PATIENCE;
    loop {
        if let Some(so) = is_so() {
            return so;
        }
        assert!(SystemClock.now().boot < end, "it never was so");
        SystemClock.sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_good_release_stays_and_a_bad_one_goes_by_itself() {
    let mut host = Host::new();
    host.ask("1.5.0", "good", 1);
    let attempt = host.ended("1.5.0");
    assert_eq!(attempt.phase, Phase::Installed, "{attempt:?}");
    host.wait_for_agent("1.5.0");

    host.ask("1.6.0", "crash_later", 2);
    let attempt = host.ended("1.6.0");
    assert_eq!(attempt.phase, Phase::RolledBack, "{attempt:?}");
    assert_eq!(attempt.code.as_deref(), Some("crashed"), "{attempt:?}");
    host.wait_for_agent("1.5.0");
    let stable = fs::read_link(host.layout.stable()).unwrap();
    assert_eq!(stable.to_str(), Some("versions/1.5.0"));
    assert!(fs::symlink_metadata(host.layout.experiment()).is_err());

    // Root looks, and goes back.
    let run = |command: &[&str]| {
        let (output, text) = loop {
            let mut updater = Command::new(UPDATER);
            let updater = updater.arg("--root").arg(host.dir.path()).args(command);
            let output = updater.output().unwrap();
            let both = [&*output.stdout, &*output.stderr].concat();
            let text = String::from_utf8(both).unwrap();
            // The updater of the trial tells its end before it is gone.
            if !text.contains("[busy]") {
                break (output, text);
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        };
        assert!(output.status.success(), "{command:?}: {text}");
        text
    };
    let status = run(&["status"]);
    assert!(status.contains("blocked       1.6.0 until"), "{status}");
    run(&["rollback"]);
    host.wait_for_agent("1.4.0");
    let history = run(&["history"]);
    let events: Vec<&str> = history
        .lines()
        .map(|line| line.split("  ").nth(1).unwrap())
        .map(|rest| rest.split([':', '[']).next().unwrap().trim())
        .collect();
    assert_eq!(events.len(), 4, "{history}");
    assert!(
        events[1].starts_with("installed 1.5.0 from 1.4.0"),
        "{history}"
    );
    assert!(
        events[2].starts_with("rolled_back 1.6.0 from 1.5.0"),
        "{history}"
    );
    assert!(
        events[3].starts_with("installed 1.4.0 from 1.5.0"),
        "{history}"
    );
}
