//! A process that the plain supervisor started, with all that it starts itself.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Gid, Pid, Uid, getppid};

use super::super::How;
use crate::clock::Clock;

/// How often a wait looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running child, the leader of a process group of its own: so the terminal's Ctrl-C reaches the
/// supervisor alone, and what the child leaves behind can be ended.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    group: Pid,
}

impl Running {
    /// Starts `words` through `launcher` (see [`exec_child`]; empty: directly), as this user.
    pub(super) fn start(
        launcher: &[OsString],
        words: &[OsString],
        user: Option<(Uid, Gid)>,
    ) -> io::Result<Self> {
        let mut all = launcher.iter().chain(words);
        let program = all.next().map_or(OsStr::new(""), OsString::as_os_str);
        let mut command = Command::new(program);
        command.args(all).stdin(Stdio::null()).process_group(0);
        if let Some((uid, gid)) = user {
            // std clears the supplementary groups with it.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        let child = command.spawn()?;
        let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        Ok(Self { child, group })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did; what was left of its group is gone then.
    pub(super) fn ended(&mut self) -> Option<How> {
        // Looked at and not yet taken: as long as the leader is there, its number is not another's.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if let Ok(WaitStatus::StillAlive) = waitid(Id::Pid(self.group), flags) {
            return None;
        }
        self.signal(Signal::SIGKILL);
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(error) => return Some(How::Other(error.to_string())),
        };
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => How::Code(code),
            (None, Some(number)) => How::Signal(
                Signal::try_from(number)
                    .map_or_else(|_| format!("signal {number}"), |s| s.to_string()),
            ),
            (None, None) => How::Other("an unknown end".into()),
        })
    }

    /// SIGTERM, and SIGKILL when that does not help within `patience`.
    pub(super) fn end(mut self, patience: Duration, clock: &dyn Clock) -> How {
        self.signal(Signal::SIGTERM);
        // A stopped process (SIGSTOP) takes its SIGTERM only when it goes on.
        self.signal(Signal::SIGCONT);
        let end = clock.now().boot + patience;
        loop {
            if let Some(how) = self.ended() {
                return how;
            }
            if clock.now().boot >= end {
                self.signal(Signal::SIGKILL);
            }
            clock.sleep(LOOK_AGAIN);
        }
    }

    fn signal(&self, signal: Signal) {
        // Fails only for a group that is gone.
        let _ = killpg(self.group, signal);
    }
}

/// Ends whoever was adopted: as process 1 of a container every orphan is ours to bury.
pub(super) fn bury_orphans(own: &[u32]) {
    if std::process::id() != 1 {
        return;
    }
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, peek) {
        let Some(pid) = status.pid() else { return };
        if own
            .iter()
            .any(|own| i32::try_from(*own) == Ok(pid.as_raw()))
        {
            return;
        }
        if waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).is_err() {
            return;
        }
    }
}

/// The launcher: becomes `words`, and gets a SIGTERM when `parent` dies, even by SIGKILL
/// (prctl(2), `PR_SET_PDEATHSIG`, which execve(2) keeps). So the supervisor leaves no orphan.
/// It exists since only a process itself can ask for that, after the change of its user.
///
/// # Errors
/// Always: on success it does not return.
pub fn exec_child(parent: u32, words: &[OsString]) -> io::Error {
    if let Err(errno) = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM) {
        return errno.into();
    }
    // It may have died before.
    if i64::from(getppid().as_raw()) != i64::from(parent) {
        return io::Error::other("the supervisor is gone");
    }
    let Some((program, arguments)) = words.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "no program to run");
    };
    Command::new(program).args(arguments).exec()
}
