//! Follows a program from system call to system call (ptrace(2)) and kills it where one is told.
//!
//! Every entry into a system call and every return from one is a boundary: killed at the entry,
//! the call is not done; killed at the return, it is done and the program does not know. All
//! threads of the program count together, in the order in which they stop. What is followed dies
//! with us.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::shell;

/// Stops itself so that it can be seized before its first system call, then becomes the program.
const HOLD: &str = "kill -STOP $$; exec \"$@\"";

/// What to do at a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// The program, and with it everything that it started.
    Kill,
    /// Only the process that came to the boundary, one that the program started.
    KillOne,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Boundaries that it came to.
    pub(crate) stops: u64,
    /// Whether it was killed at one of them, not later and not from elsewhere.
    pub(crate) killed: bool,
    /// Its exit status, if it ended by itself.
    pub(crate) status: Option<i32>,
}

/// A program that is followed. Dropping it kills the program.
pub(crate) struct Followed {
    leader: u32,
    thread: Option<JoinHandle<Result<Ended>>>,
}

impl Followed {
    /// Whether the program has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Kills the program now, wherever it is.
    pub(crate) fn kill(&self) {
        // Of a program that has ended only the number is left, which may be another's by now.
        if !self.is_over() {
            shell::end_group(self.leader, Signal::SIGKILL);
        }
    }

    /// Waits for the program's end.
    pub(crate) fn end(mut self) -> Result<Ended> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            _ => bail!("the tracer panicked"),
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.kill();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts `command` with `input` on its standard input and follows it from its first system call;
/// `at` is asked at each boundary, with its number and the thread that came to it.
pub(crate) fn start(
    command: &Command,
    input: Vec<u8>,
    output: Stdio,
    at: impl FnMut(u64, Pid) -> Next + Send + 'static,
) -> Result<Followed> {
    let mut held = held(command);
    held.stdin(Stdio::piped()).stdout(Stdio::null());
    held.stderr(output).process_group(0);
    follow(move || {
        let mut child = held.spawn().context("cannot start the shell `sh`")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(&input)
                .context("cannot write to the program")?;
        }
        let pid = seize_held(&child)?;
        Ok((pid, Tracer::new(pid, false, at)))
    })
}

/// Follows the running program `pid` from now on, which leads its process group.
pub(crate) fn attach(
    pid: u32,
    at: impl FnMut(u64, Pid) -> Next + Send + 'static,
) -> Result<Followed> {
    let leader = Pid::from_raw(i32::try_from(pid).context("no process id")?);
    follow(move || {
        seize_running(leader)?;
        Ok((leader, Tracer::new(leader, true, at)))
    })
}

/// Why programs cannot be followed here, as a sentence; nothing if they can.
pub(crate) fn obstacle() -> Option<String> {
    let tried = start(&Command::new("true"), Vec::new(), Stdio::null(), |_, _| {
        Next::GoOn
    })
    .and_then(Followed::end);
    match tried {
        Ok(Ended { stops: 1.., .. }) => None,
        Ok(_) => Some("ptrace(2) shows no system calls here".to_owned()),
        Err(error) => Some(format!("ptrace(2) is not permitted here: {error:#}")),
    }
}

/// Every ptrace request must come from the thread that seized, so one thread does all of it.
fn follow<F: FnMut(u64, Pid) -> Next>(
    begin: impl FnOnce() -> Result<(Pid, Tracer<F>)> + Send + 'static,
) -> Result<Followed> {
    let (tell, told) = mpsc::channel();
    let thread = std::thread::spawn(move || match begin() {
        Ok((leader, tracer)) => {
            let _ = tell.send(leader);
            drop(tell);
            tracer.run()
        }
        Err(error) => Err(error),
    });
    match told.recv() {
        Ok(leader) => Ok(Followed {
            leader: leader.as_raw().unsigned_abs(),
            thread: Some(thread),
        }),
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            _ => anyhow!("the tracer panicked"),
        }),
    }
}

fn held(command: &Command) -> Command {
    let mut held = Command::new("sh");
    held.args(["-c", HOLD, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => held.env(name, value),
            None => held.env_remove(name),
        };
    }
    held
}

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL
}

fn seize_held(child: &Child) -> Result<Pid> {
    let pid = Pid::from_raw(i32::try_from(child.id()).context("no process id")?);
    let seized = match waitpid(pid, Some(WaitPidFlag::WUNTRACED)) {
        Ok(WaitStatus::Stopped(..)) => {
            ptrace::seize(pid, options()).context("PTRACE_SEIZE was refused")
        }
        Ok(other) => return Err(anyhow!("the program ended before its start ({other:?})")),
        Err(error) => Err(error).context("cannot wait for the program"),
    };
    if seized.is_err() {
        let _ = killpg(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
    }
    seized?;
    kill(pid, Signal::SIGCONT).context("cannot continue the program")?;
    Ok(pid)
}

/// All threads: those that are begun meanwhile are found by looking again, or come by themselves.
fn seize_running(leader: Pid) -> Result<()> {
    let tasks = format!("/proc/{leader}/task");
    let mut seized = HashSet::new();
    loop {
        let before = seized.len();
        for entry in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            let name = entry.context("cannot read a thread's id")?.file_name();
            let Ok(id) = name.to_string_lossy().parse() else {
                continue;
            };
            let thread = Pid::from_raw(id);
            if !seized.insert(thread) {
                continue;
            }
            match ptrace::seize(thread, options()) {
                Ok(()) => ptrace::interrupt(thread).context("PTRACE_INTERRUPT was refused")?,
                // It has ended, or its begetter was seized and brought it along.
                Err(Errno::ESRCH | Errno::EPERM) if seized.len() > 1 => {}
                Err(error) => return Err(error).context("PTRACE_SEIZE was refused"),
            }
        }
        if seized.len() == before {
            return Ok(());
        }
    }
}

struct Tracer<F> {
    leader: Pid,
    at: F,
    /// Whether boundaries count already: not while the shell still is what runs.
    counts: bool,
    ended: Ended,
}

impl<F: FnMut(u64, Pid) -> Next> Tracer<F> {
    fn new(leader: Pid, counts: bool, at: F) -> Self {
        Self {
            leader,
            at,
            counts,
            ended: Ended {
                stops: 0,
                killed: false,
                status: None,
            },
        }
    }

    fn run(mut self) -> Result<Ended> {
        // Only what this thread follows: other threads wait for their own.
        let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(ours)) {
                Ok(WaitStatus::Exited(pid, status)) if pid == self.leader => {
                    self.ended.status = Some(status);
                    return Ok(self.ended);
                }
                Ok(WaitStatus::Signaled(pid, ..)) if pid == self.leader => return Ok(self.ended),
                Ok(status) => self.resume(status)?,
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(self.ended),
                Err(error) => return Err(error).context("cannot wait for what is traced"),
            }
        }
    }

    fn resume(&mut self, status: WaitStatus) -> Result<()> {
        let (thread, signal) = match status {
            WaitStatus::PtraceSyscall(thread) => {
                self.boundary(thread);
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, event) => {
                self.counts |= event == ptrace::Event::PTRACE_EVENT_EXEC as i32;
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            _ => return Ok(()),
        };
        if self.ended.killed {
            // Nobody goes a step further: not the other processes either, which die with us only
            // when the leader is dead.
            return Ok(());
        }
        match ptrace::syscall(thread, signal) {
            // Killed meanwhile: its end is what comes next.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).context("PTRACE_SYSCALL was refused"),
        }
    }

    fn boundary(&mut self, thread: Pid) {
        if !self.counts || self.ended.killed {
            return;
        }
        self.ended.stops += 1;
        match (self.at)(self.ended.stops, thread) {
            Next::GoOn => {}
            Next::Kill => {
                self.ended.killed = true;
                let _ = kill(self.leader, Signal::SIGKILL);
            }
            // kill(2) takes the id of any thread for its process.
            Next::KillOne => {
                let _ = kill(thread, Signal::SIGKILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted() -> bool {
        let obstacle = obstacle();
        obstacle
            .iter()
            .for_each(|why| anstream::eprintln!("skipped: {why}"));
        obstacle.is_none()
    }

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    fn run(text: &str, at: impl FnMut(u64, Pid) -> Next + Send + 'static) -> Ended {
        let followed = start(&script(text), b"input\n".to_vec(), Stdio::null(), at).unwrap();
        followed.end().unwrap()
    }

    #[test]
    fn every_boundary_is_seen_and_the_program_ends_as_it_would() {
        if !permitted() {
            return;
        }
        let count = || run("read word; test $word = input && exit 7", |_, _| Next::GoOn);
        let first = count();
        assert_eq!((first.status, first.killed), (Some(7), false));
        // An entry and a return each, but for exec, which returns only, and exit, which enters only.
        assert!(first.stops > 20 && first.stops % 2 == 0, "{first:?}");
        assert_eq!(count(), first);
    }

    #[test]
    fn killed_at_the_entry_a_call_is_not_done_and_at_the_return_it_is() {
        if !permitted() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("made");
        let mut command = Command::new("mkdir");
        command.arg(&file);
        let mut made = Vec::new();
        for boundary in 1.. {
            let at = move |stop, _| match stop {
                stop if stop == boundary => Next::Kill,
                _ => Next::GoOn,
            };
            let followed = start(&command, Vec::new(), Stdio::null(), at).unwrap();
            if !followed.end().unwrap().killed {
                break;
            }
            made.push(file.exists());
            let _ = fs::remove_dir(&file);
        }
        // Never before one boundary, always from it on, and that is a return, which is even
        // because exec, the first, only returns.
        let from = made.iter().position(|made| *made).unwrap();
        assert!(made[from..].iter().all(|made| *made), "{made:?}");
        assert!(from > 0 && from % 2 == 0, "{from}");
    }

    #[test]
    fn a_running_program_is_followed_with_all_that_it_starts_and_dies_when_dropped() {
        if !permitted() {
            return;
        }
        let mut child = script("while :; do sleep 0.01; done")
            .process_group(0)
            .spawn()
            .unwrap();
        let (tell, told) = mpsc::channel();
        let followed = attach(child.id(), move |stop, _| {
            let _ = tell.send(stop);
            Next::GoOn
        })
        .unwrap();
        assert!(told.iter().any(|stop| stop == 50));
        drop(followed);
        // The tracer has waited for it already.
        assert!(child.try_wait().is_err());
    }

    #[test]
    fn a_program_that_is_not_there_is_an_end_not_a_hang() {
        if !permitted() {
            return;
        }
        let ended = start(
            &Command::new("/no such program"),
            Vec::new(),
            Stdio::null(),
            |_, _| Next::GoOn,
        );
        let ended = ended.unwrap().end().unwrap();
        assert_eq!((ended.stops, ended.status), (0, Some(127)));
    }

    #[test]
    fn a_child_does_nothing_more_after_the_boundary_at_which_all_are_killed() {
        if !permitted() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        // A child that counts, and its parent, the leader, which waits.
        let text = format!("(for n in 1 2 3 4 5 6 7 8 9; do mkdir {path}/$n; done) & wait");
        let shared = std::sync::Arc::new(std::sync::Mutex::new(0));
        let (seen, watched) = (shared.clone(), folder.path().to_owned());
        let followed = start(&script(&text), Vec::new(), Stdio::null(), move |_, _| {
            let made = fs::read_dir(&watched).unwrap().count();
            *seen.lock().unwrap() = made;
            if made == 3 { Next::Kill } else { Next::GoOn }
        });
        assert!(followed.unwrap().end().unwrap().killed);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(*shared.lock().unwrap(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
