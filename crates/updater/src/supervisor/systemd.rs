//! The supervisor of most hosts: systemd, asked and told through systemctl.
//!
//! Two units run the same program from two links, and exclude each other (`Conflicts=`): starting
//! one stops the other first. That the stable agent comes back when the experiment fails is
//! systemd's own work (`OnFailure=`), and happens without this program too.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{How, ProcessState, Supervisor, SupervisorError};
use crate::clock::{Clock, SystemClock};

/// The unit that runs what `stable` leads to.
pub const STABLE_UNIT: &str = "vpn-node-agent.service";
/// The unit that runs what `experiment` leads to.
pub const EXPERIMENT_UNIT: &str = "vpn-node-agent-exp.service";

/// A question, or an order that is only queued: an answer of systemd takes milliseconds, and
/// seconds on a host that swaps.
const ASK_WITHIN: Duration = Duration::from_secs(20);
/// An order that is waited for: an agent has 20 s to end (`TimeoutStopSec=`), on a slow disk 75 s
/// (`EXTEND_TIMEOUT_USEC`), and then a SIGKILL.
const STOP_WITHIN: Duration = Duration::from_secs(90);
/// How often a stop is repeated: a unit that fails while it is stopped starts the other one.
const STOP_TRIES: u32 = 3;
/// Longest answer; five properties have 200 bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
/// Where Debian, Fedora and their kin have systemctl. The caller's own PATH does not count: the
/// updater is root.
const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";
/// Read after the links ("t" is behind digits): a trial that ends is over, whatever the stable unit
/// does then.
const ONLY_ONCE: &str = "[Service]\nRestart=no\n";
/// sd_booted(3): systemd is the init process if this is there. Units of this boot go there too.
const BOOTED: &str = "/run/systemd/system";

/// See the module.
#[derive(Debug)]
pub struct Systemd {
    program: PathBuf,
    booted: PathBuf,
}

impl Default for Systemd {
    fn default() -> Self {
        Self::with("systemctl", BOOTED)
    }
}

impl Systemd {
    /// With another systemctl and another sign of a running systemd: for tests.
    #[must_use]
    pub fn with(program: impl Into<PathBuf>, booted: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            booted: booted.into(),
        }
    }

    /// Whether systemd runs here. In a container that is being built it does not.
    fn is_booted(&self) -> bool {
        self.booted.is_dir()
    }

    fn state(&self, unit: &str) -> Result<ProcessState, SupervisorError> {
        let properties = "--property=ActiveState,Result,MainPID,ExecMainStatus,Job";
        let text = self.systemctl(&["show", properties, unit], ASK_WITHIN)?;
        parse_state(&text).ok_or_else(|| {
            SupervisorError::new(format!(
                "systemctl show {unit} gave no state; is the unit file installed?"
            ))
        })
    }

    /// On return neither runs, nor is about to. One that does not stop in time, or asks for more of
    /// it again and again (`EXTEND_TIMEOUT_USEC`), is not asked any more.
    fn stop_units(&self, units: &[&str]) -> Result<(), SupervisorError> {
        let words = |order: &[&'static str]| [order, units].concat();
        let mut why = None;
        for _ in 0..STOP_TRIES {
            why = self.systemctl(&words(&["stop"]), STOP_WITHIN).err();
            let mut idle = true;
            for unit in units {
                idle &= is_idle(&self.state(unit)?);
            }
            if idle {
                return Ok(());
            }
            // An error here means that there was nothing to kill.
            let _ = self.systemctl(&words(&["kill", "--signal=KILL"]), ASK_WITHIN);
        }
        Err(why.unwrap_or_else(|| {
            SupervisorError::new(format!(
                "{} cannot be stopped; look at `systemctl status {}`",
                units.join(" or "),
                units.join(" ")
            ))
        }))
    }

    /// Stops the experiment if it is there. Asked first: at boot a stop would queue up behind the
    /// very job that this program is.
    fn stop_experiment(&self) -> Result<(), SupervisorError> {
        if is_idle(&self.state(EXPERIMENT_UNIT)?) {
            return Ok(());
        }
        self.stop_units(&[EXPERIMENT_UNIT])
    }

    /// What root allows the stable unit by drop-ins (`systemctl edit`), a version on trial may do
    /// too: otherwise it would fail for a right that it will have. Links in /run: they are made anew
    /// for each trial, and a boot forgets them.
    fn mirror_local_changes(&self) -> Result<(), SupervisorError> {
        let words = ["show", "--property=DropInPaths", "--value", STABLE_UNIT];
        let found = self.systemctl(&words, ASK_WITHIN)?;
        let folder = self.booted.join(format!("{EXPERIMENT_UNIT}.d"));
        let changed = replace_links(&folder, found.split_whitespace())
            .map_err(|e| SupervisorError::new(format!("cannot write {}: {e}", folder.display())))?;
        if changed {
            self.systemctl(&["daemon-reload"], ASK_WITHIN)?;
        }
        Ok(())
    }

    fn systemctl(&self, words: &[&str], within: Duration) -> Result<String, SupervisorError> {
        let shown = format!("systemctl {}", words.join(" "));
        let cannot = |why: String| SupervisorError::new(format!("`{shown}` failed: {why}"));
        let output = bounded(&self.program, words, within).map_err(|e| cannot(e.to_string()))?;
        match output.code {
            Some(0) => Ok(output.stdout),
            _ => Err(cannot(output.stderr.trim().escape_debug().to_string())),
        }
    }
}

impl Supervisor for Systemd {
    fn stable_state(&mut self) -> Result<ProcessState, SupervisorError> {
        self.state(STABLE_UNIT)
    }

    fn experiment_state(&mut self) -> Result<ProcessState, SupervisorError> {
        self.state(EXPERIMENT_UNIT)
    }

    fn start_experiment(&mut self) -> Result<(), SupervisorError> {
        self.stop_experiment()?;
        self.mirror_local_changes()?;
        // What an earlier trial left would look like a failure of this one. Units that are not
        // loaded cannot be reset, which is as good.
        let _ = self.systemctl(&["reset-failed", EXPERIMENT_UNIT], ASK_WITHIN);
        // Conflicts= stops the stable agent. The ledger's lock makes a moment with both harmless.
        self.systemctl(&["start", "--no-block", EXPERIMENT_UNIT], ASK_WITHIN)?;
        Ok(())
    }

    fn stop(&mut self) -> Result<(), SupervisorError> {
        if !self.is_booted() {
            return Ok(());
        }
        self.stop_units(&[EXPERIMENT_UNIT, STABLE_UNIT])
    }

    fn back_to_stable(&mut self) -> Result<(), SupervisorError> {
        if !self.is_booted() {
            return Ok(());
        }
        self.stop_experiment()?;
        self.systemctl(&["start", "--no-block", STABLE_UNIT], ASK_WITHIN)?;
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SupervisorError> {
        if !self.is_booted() {
            return Ok(());
        }
        self.stop_experiment()?;
        // "restart" starts a stopped unit too, and merges with the start job of a boot.
        self.systemctl(&["restart", "--no-block", STABLE_UNIT], ASK_WITHIN)?;
        Ok(())
    }
}

/// Puts links to these files into the folder, numbered in their order, and nothing else. Tells
/// whether anything was there or is there now.
fn replace_links<'p>(folder: &Path, paths: impl Iterator<Item = &'p str>) -> io::Result<bool> {
    let existed = match fs::remove_dir_all(folder) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    let mut links = 0_u32;
    for path in paths {
        if links == 0 {
            fs::create_dir(folder)?;
        }
        symlink(path, folder.join(format!("{links:03}.conf")))?;
        links += 1;
    }
    if links > 0 {
        fs::write(folder.join("trial.conf"), ONLY_ONCE)?;
    }
    Ok(existed || links > 0)
}

fn is_idle(state: &ProcessState) -> bool {
    matches!(state, ProcessState::Exited { .. } | ProcessState::Stopped)
}

/// The answer of `systemctl show` (systemctl(1), org.freedesktop.systemd1(5)).
fn parse_state(text: &str) -> Option<ProcessState> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    };
    let pid = value("MainPID")
        .and_then(|pid| pid.parse().ok())
        .unwrap_or(0);
    let job = value("Job").is_some_and(|job| !job.is_empty() && job != "0");
    Some(match value("ActiveState")? {
        "active" if pid != 0 => ProcessState::Running { pid },
        "failed" => ProcessState::Exited {
            how: how(value("Result")?, value("ExecMainStatus").unwrap_or("")),
        },
        "inactive" if job => ProcessState::Waiting,
        "inactive" => ProcessState::Stopped,
        // activating, reloading, deactivating (which soon is one of the others).
        _ => ProcessState::Starting,
    })
}

/// `Result=` of systemd.service(5) (`$SERVICE_RESULT`).
fn how(result: &str, status: &str) -> How {
    match result {
        "exit-code" => status
            .parse()
            .map_or_else(|_| How::Other(result.into()), How::Code),
        "signal" | "core-dump" => {
            let number = status.parse().ok();
            let name = number.and_then(|n: i32| nix::sys::signal::Signal::try_from(n).ok());
            How::Signal(name.map_or_else(|| format!("signal {status}"), |name| name.to_string()))
        }
        "watchdog" => How::Watchdog,
        "oom-kill" => How::Memory,
        "timeout" => How::Other("it was not ready, or did not stop, in time".into()),
        "protocol" => How::Other("it ended without having said that it is ready".into()),
        other => How::Other(other.escape_debug().to_string()),
    }
}

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a program that says little; it is killed when it takes too long.
fn bounded(program: &Path, words: &[&str], within: Duration) -> io::Result<Output> {
    let clock = SystemClock;
    let mut child = Command::new(program)
        .args(words)
        .env_clear()
        .envs([("PATH", PATH), ("LC_ALL", "C"), ("SYSTEMD_COLORS", "0")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let end = clock.now().boot + within;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if clock.now().boot >= end {
            child.kill()?;
            child.wait()?;
            let words = format!("no end within {} s", within.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        clock.sleep(Duration::from_millis(10));
    };
    let text = |pipe: Option<&mut dyn Read>| {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.take(MAX_ANSWER_BYTES).read_to_end(&mut bytes)?;
        }
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Output {
        code: status.code(),
        stdout: text(child.stdout.as_mut().map(|p| p as &mut dyn Read))?,
        stderr: text(child.stderr.as_mut().map(|p| p as &mut dyn Read))?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn shown(active: &str, result: &str, pid: u32, status: i32, job: &str) -> ProcessState {
        parse_state(&format!(
            "MainPID={pid}\nResult={result}\nExecMainStatus={status}\nActiveState={active}\n{job}"
        ))
        .unwrap()
    }

    #[test]
    fn every_state_of_a_unit_is_understood() {
        let exited = |how| ProcessState::Exited { how };
        for (active, result, pid, status, job, expected) in [
            (
                "active",
                "success",
                7,
                0,
                "",
                ProcessState::Running { pid: 7 },
            ),
            (
                "activating",
                "success",
                7,
                0,
                "Job=5",
                ProcessState::Starting,
            ),
            ("deactivating", "success", 7, 0, "", ProcessState::Starting),
            ("inactive", "success", 0, 0, "Job=5", ProcessState::Waiting),
            ("inactive", "success", 0, 0, "", ProcessState::Stopped),
            ("inactive", "success", 0, 0, "Job=", ProcessState::Stopped),
            ("failed", "exit-code", 0, 78, "", exited(How::Code(78))),
            (
                "failed",
                "signal",
                0,
                9,
                "",
                exited(How::Signal("SIGKILL".into())),
            ),
            (
                "failed",
                "core-dump",
                0,
                11,
                "",
                exited(How::Signal("SIGSEGV".into())),
            ),
            ("failed", "watchdog", 0, 6, "", exited(How::Watchdog)),
            ("failed", "oom-kill", 0, 9, "", exited(How::Memory)),
            (
                "failed",
                "resources",
                0,
                0,
                "",
                exited(How::Other("resources".into())),
            ),
        ] {
            assert_eq!(
                shown(active, result, pid, status, job),
                expected,
                "{active} {result}"
            );
        }
        assert_eq!(parse_state("Unit x could not be found.\n"), None);
    }

    /// A systemctl that writes its orders down and answers with the states of a file.
    fn host(booted: bool) -> (tempfile::TempDir, Systemd) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemctl");
        let here = dir.path().display();
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {here}/orders\n\
             case $1,$2 in show,--property=DropInPaths) cat {here}/drop-ins;; show,*) cat {here}/state;; stop,*) [ -e {here}/stubborn ] || echo ActiveState=inactive > {here}/state;; kill,*) rm {here}/stubborn;; \
             reset-failed,*) echo 'not loaded' >&2; exit 1;; esac\n"
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("state"), "ActiveState=active\nMainPID=7\n").unwrap();
        fs::write(dir.path().join("drop-ins"), "").unwrap();
        let sign = if booted { "." } else { "none" };
        let systemd = Systemd::with(program, dir.path().join(sign));
        (dir, systemd)
    }

    fn orders(dir: &tempfile::TempDir) -> Vec<String> {
        let text = fs::read_to_string(dir.path().join("orders")).unwrap_or_default();
        let orders = text.lines().filter(|line| !line.starts_with("show"));
        orders.map(str::to_owned).collect()
    }

    #[test]
    fn a_running_experiment_is_stopped_before_it_is_started_or_left() {
        let (dir, mut systemd) = host(true);
        systemd.start_experiment().unwrap();
        systemd.back_to_stable().unwrap();
        systemd.settle().unwrap();
        assert_eq!(
            orders(&dir),
            [
                "stop vpn-node-agent-exp.service",
                "reset-failed vpn-node-agent-exp.service",
                "start --no-block vpn-node-agent-exp.service",
                "start --no-block vpn-node-agent.service",
                "restart --no-block vpn-node-agent.service",
            ]
        );
        assert_eq!(systemd.experiment_state().unwrap(), ProcessState::Stopped);
        fs::write(dir.path().join("orders"), "").unwrap();
        systemd.stop().unwrap();
        assert_eq!(
            orders(&dir),
            ["stop vpn-node-agent-exp.service vpn-node-agent.service"]
        );
    }

    #[test]
    fn what_does_not_stop_is_killed() {
        let (dir, mut systemd) = host(true);
        fs::write(dir.path().join("stubborn"), "").unwrap();
        systemd.stop().unwrap();
        let units = "vpn-node-agent-exp.service vpn-node-agent.service";
        let expected =
            ["stop", "kill --signal=KILL", "stop"].map(|order| format!("{order} {units}"));
        assert_eq!(orders(&dir), expected);
    }

    #[test]
    fn what_root_allows_the_stable_unit_holds_for_a_trial() {
        let (dir, mut systemd) = host(true);
        let folder = dir.path().join("vpn-node-agent-exp.service.d");
        let drop_ins = |text: &str| fs::write(dir.path().join("drop-ins"), text).unwrap();
        drop_ins("/etc/systemd/system/a.d/z.conf /run/systemd/system/a.d/b.conf\n");
        systemd.start_experiment().unwrap();
        let link = |name: &str| fs::read_link(folder.join(name)).unwrap();
        assert_eq!(
            link("000.conf"),
            Path::new("/etc/systemd/system/a.d/z.conf")
        );
        assert_eq!(
            link("001.conf"),
            Path::new("/run/systemd/system/a.d/b.conf")
        );
        assert!(orders(&dir).contains(&"daemon-reload".to_owned()));
        let last = fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .max();
        let last = fs::read_to_string(last.unwrap()).unwrap();
        assert!(last.contains("Restart=no"), "{last}");
        drop_ins("\n");
        systemd.start_experiment().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn where_systemd_does_not_run_nothing_runs() {
        let (dir, mut systemd) = host(false);
        systemd.stop().unwrap();
        systemd.back_to_stable().unwrap();
        systemd.settle().unwrap();
        assert!(orders(&dir).is_empty());
    }

    #[test]
    fn a_systemctl_that_fails_or_hangs_is_an_error_with_its_words() {
        let (dir, mut systemd) = host(true);
        fs::write(dir.path().join("state"), "").unwrap();
        let error = systemd.stable_state().unwrap_err().to_string();
        assert!(error.contains("vpn-node-agent.service"), "{error}");
        let hangs = bounded(Path::new("/bin/sleep"), &["60"], Duration::from_millis(50));
        assert_eq!(hangs.err().unwrap().kind(), io::ErrorKind::TimedOut);
        let mut nowhere = Systemd::with("/nonexistent/systemctl", "/");
        assert!(
            nowhere
                .settle()
                .unwrap_err()
                .to_string()
                .contains("systemctl")
        );
    }
}
