//! Runs occtl(8): bounded in time and output, with no environment of the agent.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{OcservError, events::Hint, events::Lines, users::MAX_ANSWER};
use crate::host::clock;

/// Longest wait for an answer: ocserv gives it at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A process that has closed its output ends at once: it is looked at so often.
const EXIT_LOOK: Duration = Duration::from_millis(1);

/// Read at once.
const READ_BYTES: usize = 16 << 10;

/// Reads of the events before others have their turn.
const READS_AT_ONCE: usize = 8;

/// occtl of this host, for one ocserv.
#[derive(Clone, Debug)]
pub(super) struct Occtl {
    /// The program.
    pub(super) program: PathBuf,
    /// Makes the events come when they happen: occtl itself fills a buffer of 4 KiB first.
    pub(super) stdbuf: PathBuf,
    /// ocserv's control socket.
    pub(super) socket: PathBuf,
}

/// A running `occtl show events`. It ends with this.
#[derive(Debug)]
pub(super) struct Events {
    child: Child,
    /// occtl watches its input for a `q`.
    _stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    lines: Lines,
}

impl Occtl {
    /// What it prints to `words`. It fails where occtl does.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Vec<u8>, OcservError> {
        let mut command = command(&self.program);
        command.arg("-s").arg(&self.socket).args(words);
        let mut child = command
            .stdin(Stdio::null())
            .spawn()
            .map_err(OcservError::Run)?;
        let until = clock::now().boot + ANSWER_LIMIT;
        let answer = read_all(&mut child, until).and_then(|answer| {
            let status = exit_of(&mut child, until)?;
            status
                .success()
                .then_some(answer)
                .ok_or(OcservError::Refused)
        });
        if answer.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        answer
    }

    /// Its version.
    pub(super) fn version(&self) -> Option<String> {
        let answer = self.ask(&["--version"]).ok()?;
        let text = String::from_utf8_lossy(&answer);
        let word = text.lines().next()?.rsplit(' ').next()?;
        let plain = word.bytes().all(|byte| byte.is_ascii_graphic());
        (plain && word.len() <= 32).then(|| word.to_owned())
    }

    /// Starts to listen.
    pub(super) fn events(&self) -> Result<Events, OcservError> {
        let mut command = command(&self.stdbuf);
        command.arg("-oL").arg(&self.program);
        command
            .arg("-s")
            .arg(&self.socket)
            .args(["show", "events"])
            .stdin(Stdio::piped());
        let mut child = command.spawn().map_err(OcservError::Run)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.expect("it is piped");
        let events = Events {
            child,
            _stdin: stdin,
            stdout,
            lines: Lines::default(),
        };
        nonblocking(&events.stdout)?;
        Ok(events)
    }
}

impl Events {
    /// What to wait for.
    pub(super) fn interest(&self) -> PollFd<'_> {
        PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)
    }

    /// What it said since; `None`: it has ended.
    pub(super) fn read(&mut self) -> Option<Vec<Hint>> {
        let mut hints = Vec::new();
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_AT_ONCE {
            match self.stdout.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => hints.extend(self.lines.feed(&buffer[..read])),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(hints)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("LC_ALL", "C")
        // occtl prints local time without saying which.
        .env("TZ", "UTC")
        .current_dir("/")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

fn read_all(child: &mut Child, until: Duration) -> Result<Vec<u8>, OcservError> {
    let mut stdout = child.stdout.take().expect("it is piped");
    nonblocking(&stdout)?;
    let mut answer = Vec::new();
    let mut buffer = [0; READ_BYTES];
    loop {
        match stdout.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let left = until.saturating_sub(clock::now().boot);
                if left.is_zero() {
                    return Err(OcservError::Silent);
                }
                let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                // An error of poll(2) shows in the next read.
                let _ = poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], left);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(OcservError::Run(error)),
        }
        if answer.len() > MAX_ANSWER || clock::now().boot >= until {
            return Err(OcservError::Silent);
        }
    }
}

/// How it ended. One that has said all and does not end must not hang the reader.
fn exit_of(child: &mut Child, until: Duration) -> Result<ExitStatus, OcservError> {
    loop {
        if let Some(status) = child.try_wait().map_err(OcservError::Run)? {
            return Ok(status);
        }
        if clock::now().boot >= until {
            return Err(OcservError::Silent);
        }
        std::thread::sleep(EXIT_LOOK);
    }
}

fn nonblocking(stdout: &ChildStdout) -> Result<(), OcservError> {
    let set = fcntl(stdout, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    set.map(drop)
        .map_err(|error| OcservError::Run(error.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_occtl_that_says_all_and_does_not_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("occtl");
        fs::write(
            &program,
            "#!/bin/sh\necho '[]'\nexec sleep 600 > /dev/null\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let occtl = Occtl {
            program,
            stdbuf: PathBuf::new(),
            socket: PathBuf::new(),
        };
        let asked = occtl.ask(&["show", "users"]);
        assert!(matches!(asked, Err(OcservError::Silent)), "{asked:?}");
    }
}
