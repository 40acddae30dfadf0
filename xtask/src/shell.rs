//! Programs that xtask runs: each with a deadline, in its own process group, stoppable by Ctrl-C.
//!
//! A program gets its own process group so that its children can be ended with it, and so that
//! Ctrl-C reaches xtask alone, which then ends everything in order.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How often a wait looks again. Short beside what is awaited, long beside what a look costs.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a program left behind.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Ctrl-C, SIGTERM or SIGHUP arrived: an error like any other, so that clean-up by `Drop` runs.
#[derive(Debug)]
struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted by a signal")
    }
}

impl std::error::Error for Interrupted {}

/// Whether `error` means that a signal asked us to stop.
pub(crate) fn was_interrupted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Interrupted>())
}

/// From here on the usual signals set a flag, which every wait of this module looks at.
pub(crate) fn catch_signals() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, Arc::clone(flag()))
            .with_context(|| format!("cannot watch for {signal}"))?;
    }
    Ok(())
}

/// An error if a signal asked us to stop.
pub(crate) fn check_interrupted() -> Result<()> {
    if flag().load(Ordering::Relaxed) {
        return Err(Interrupted.into());
    }
    Ok(())
}

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Arc::default)
}

/// Waits like `thread::sleep`, and is cut short by a signal.
pub(crate) fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check_interrupted()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK_AGAIN));
    }
}

/// Runs `command` to its end and keeps what it printed. Fails on the deadline or a signal,
/// not on the program's exit status.
pub(crate) fn output(
    mut command: Command,
    input: Option<&[u8]>,
    within: Duration,
) -> Result<Output> {
    let shown = show(&command);
    command
        .process_group(0)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command)?;
    if let (Some(bytes), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that ends without reading is judged by its exit status, not by this pipe.
        let _ = stdin.write_all(bytes);
    }
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let status = wait(&mut child, &shown, within)?;
    let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        let bytes = reader.map(|reader| reader.join().unwrap_or_default());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    };
    Ok(Output {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// Like [`output`], and a failure of the program is an error with its last words.
pub(crate) fn succeed(command: Command, input: Option<&[u8]>, within: Duration) -> Result<Output> {
    let shown = show(&command);
    let output = output(command, input, within)?;
    if !output.status.success() {
        bail!(
            "`{shown}` failed ({}):\n{}",
            output.status,
            indent(&last_lines(
                &format!("{}{}", output.stdout, output.stderr),
                15
            ))
        );
    }
    Ok(output)
}

/// Runs `command` with its output going to the terminal as it comes, and keeps a copy.
pub(crate) fn tee(mut command: Command, within: Duration) -> Result<Output> {
    let shown = show(&command);
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut command)?;
    let stdout = child.stdout.take().map(|pipe| copy(pipe, false));
    let stderr = child.stderr.take().map(|pipe| copy(pipe, true));
    let status = wait(&mut child, &shown, within)?;
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader
            .map(|reader| reader.join().unwrap_or_default())
            .unwrap_or_default()
    };
    Ok(Output {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

fn spawn(command: &mut Command) -> Result<Child> {
    check_interrupted()?;
    command
        .spawn()
        .with_context(|| format!("cannot start `{}`", show(command)))
}

fn wait(child: &mut Child, shown: &str, within: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child
            .try_wait()
            .context("cannot wait for a child process")?
        {
            return Ok(status);
        }
        let stop = check_interrupted().and_then(|()| {
            if Instant::now() < deadline {
                return Ok(());
            }
            bail!(
                "`{shown}` did not end within {} s and was killed",
                within.as_secs()
            )
        });
        if stop.is_err() {
            end_group(child.id(), Signal::SIGKILL);
            let _ = child.wait();
        }
        stop?;
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends `signal` to the process group that `leader` leads. A group that is gone is no error.
pub(crate) fn end_group(leader: u32, signal: Signal) {
    if let Ok(leader) = i32::try_from(leader) {
        let _ = killpg(Pid::from_raw(leader), signal);
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn copy(pipe: impl Read + Send + 'static, to_stderr: bool) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = String::new();
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line);
            if to_stderr {
                anstream::eprint!("{text}");
            } else {
                anstream::print!("{text}");
            }
            kept.push_str(&text);
            line.clear();
        }
        kept
    })
}

/// A program of this name that can be executed, looked up in PATH and the system's own folders
/// (a user's PATH often lacks /usr/sbin).
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| {
            nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
        })
}

/// The repository's top folder.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies one folder below the repository's top")
}

/// The cargo that runs us, or the one in PATH. What `cargo run` tells us of our own package is not
/// for it: build scripts look at these variables, and one of them (ring's) would be run, with all
/// that depends on it compiled, each time that somebody calls cargo with others.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_a_package) {
            command.env_remove(name);
        }
    }
    command
}

fn is_of_a_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
}

/// Whether we may install packages and make namespaces directly.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// How a person would type `command`.
pub(crate) fn show(command: &Command) -> String {
    words(command).join(" ")
}

/// The program and its arguments.
pub(crate) fn words(command: &Command) -> Vec<String> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// The last `count` lines of `text`.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Every line moved right, so that a program's words stand apart from ours.
pub(crate) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// How a program ended, in words.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_that_it_builds_for_our_own_package() {
        let command = cargo();
        let gone: Vec<_> = command.get_envs().map(|(name, _)| name).collect();
        for variable in ["CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(gone.contains(&variable.as_ref()), "{gone:?}");
        }
        assert!(!is_of_a_package("CARGO_TARGET_DIR"));
    }

    #[test]
    fn output_keeps_both_streams_and_the_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo problem >&2; exit 3"]);
        let output = output(command, Some(b"hello"), Duration::from_secs(10)).unwrap();
        assert_eq!(output.stdout, "hello");
        assert_eq!(output.stderr, "problem\n");
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children_and_named() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60"]);
        let started = Instant::now();
        let error = output(command, None, Duration::from_millis(200))
            .err()
            .unwrap();
        assert!(error.to_string().contains("sleep 60 & sleep 60"), "{error}");
        // The readers end with the pipes, which the grandchild would have kept open.
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_failing_program_is_quoted() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason >&2; false"]);
        let error = succeed(command, None, Duration::from_secs(10))
            .err()
            .unwrap();
        assert!(error.to_string().contains("the reason"), "{error}");
    }

    #[test]
    fn last_lines_of_a_short_text_is_the_text() {
        assert_eq!(last_lines("a\nb", 5), "a\nb");
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
    }
}
