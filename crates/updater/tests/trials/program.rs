//! `vpn-node-updater supervise` as a program of its own: signals, and a death without warning.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpn_node_updater::clock::SystemClock;
use vpn_node_updater::evidence;
use vpn_node_updater::layout::Layout;
use vpn_node_updater::supervisor::plain::Plain;
use vpn_node_updater::supervisor::{ProcessState, Supervisor};

use crate::host::{OLD, eventually, plant};

struct Supervise {
    _dir: tempfile::TempDir,
    layout: Layout,
    program: Child,
}

impl Supervise {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        plant(&layout, "good", 1);
        std::fs::create_dir_all(layout.state()).unwrap();
        let program = Command::new(env!("CARGO_BIN_EXE_vpn-node-updater"))
            .arg("--root")
            .arg(dir.path())
            .arg("supervise")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let host = Self {
            _dir: dir,
            layout,
            program,
        };
        eventually(|| host.answers());
        host
    }

    fn answers(&self) -> bool {
        let report = evidence::ask(&self.layout, None, evidence::ANSWER_WITHIN, &SystemClock);
        report.is_ok_and(|report| report.version == OLD)
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(self.program.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }
}

impl Drop for Supervise {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn a_signal_ends_the_agent_first_and_then_the_supervisor() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut host = Supervise::start();
        host.send(signal);
        let status = host.program.wait().unwrap();
        assert!(status.success(), "{status}");
        assert!(!host.answers());
    }
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_agent_behind() {
    let mut host = Supervise::start();
    let state = Plain::new(&host.layout).stable_state().unwrap();
    assert!(matches!(state, ProcessState::Running { .. }), "{state:?}");
    host.send(Signal::SIGKILL);
    host.program.wait().unwrap();
    eventually(|| !host.answers());
}
