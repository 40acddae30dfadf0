//! A lab: a private folder, the programs that run in it, and a promise that both are gone afterwards.
//!
//! The promise is kept by `Drop` (end, error, Ctrl-C), and after a crash of xtask itself by the
//! next run, which reads the [`record`] that each lab leaves in its folder.
//! Owns the children and the log files; [`machine`] is where they run, [`fleet`] and [`host`] what
//! they are.

pub(crate) mod fleet;
pub(crate) mod host;
pub(crate) mod installed;
pub(crate) mod machine;
pub(crate) mod publisher;
pub(crate) mod record;
pub(crate) mod story;
pub(crate) mod tunnel;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use self::record::{Process, Record};
use crate::shell;

/// How long a program may take to end by itself before it is killed.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How many log lines of a program an error quotes.
const QUOTED_LINES: usize = 15;

/// See the module's page. Dropping it ends everything in it, unless [`Lab::keep`] was called.
pub(crate) struct Lab {
    folder: PathBuf,
    record: Record,
    running: Vec<Running>,
}

struct Running {
    name: String,
    child: Child,
    may_end: bool,
}

impl Lab {
    /// A new lab in the folder for temporary files. Removes what crashed runs left behind.
    pub(crate) fn open() -> Result<Self> {
        Self::open_in(&std::env::temp_dir())
    }

    /// A new lab in memory if the machine has a place for that, for what would wait for a disk
    /// all the time.
    pub(crate) fn open_in_memory() -> Result<Self> {
        let memory = Path::new(record::MEMORY);
        let usable = nix::unistd::access(memory, nix::unistd::AccessFlags::W_OK).is_ok();
        if usable {
            Self::open_in(memory)
        } else {
            Self::open()
        }
    }

    fn open_in(place: &Path) -> Result<Self> {
        record::sweep();
        let folder = tempfile::Builder::new()
            .prefix(record::PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(place)
            .context("cannot make a temporary folder")?
            .keep();
        let lab = Self {
            record: Record::of_this_process()?,
            folder,
            running: Vec::new(),
        };
        fs::create_dir(lab.path("logs")).context("cannot make the folder for logs")?;
        lab.record.save(&lab.folder)?;
        Ok(lab)
    }

    /// The lab's folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A path in the lab's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where the program called `name` logs.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// Starts a program that runs on, in its own process group; both its streams go to its log.
    pub(crate) fn start(&mut self, name: &str, mut command: Command) -> Result<u32> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(name))
            .and_then(|log| Ok((log.try_clone()?, log)))
            .with_context(|| format!("cannot open the log of {name}"))?;
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.0)
            .stderr(log.1);
        shell::check_interrupted()?;
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", shell::show(&command)))?;
        let pid = child.id();
        self.running.push(Running {
            name: name.to_owned(),
            child,
            may_end: false,
        });
        self.record.processes.extend(Process::now(name, pid));
        self.record.save(&self.folder)?;
        Ok(pid)
    }

    /// Ends a program at once, as a crash or a power cut would (SIGKILL).
    pub(crate) fn crash(&mut self, name: &str) -> Result<()> {
        let at = self.running.iter().position(|running| running.name == name);
        let Some(at) = at else {
            bail!("{name} does not run");
        };
        let mut running = self.running.remove(at);
        shell::end_group(running.child.id(), Signal::SIGKILL);
        running
            .child
            .wait()
            .with_context(|| format!("cannot wait for {name}"))?;
        self.record.processes.retain(|process| process.name != name);
        self.record.save(&self.folder)
    }

    /// The process id of the program called `name`, if it was started and not ended from here.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        let of_name = self.running.iter().find(|running| running.name == name);
        of_name.map(|running| running.child.id())
    }

    /// Whether the program called `name` was started and has not ended, by itself or from here.
    pub(crate) fn runs(&mut self, name: &str) -> Result<bool> {
        let ended = |running: &mut Running| running.child.try_wait();
        let of_name = self.running.iter_mut().find(|running| running.name == name);
        let Some(running) = of_name else {
            return Ok(false);
        };
        if ended(running).context("cannot watch a child")?.is_none() {
            return Ok(true);
        }
        self.forget(name)?;
        Ok(false)
    }

    /// Ends a program in order (SIGTERM), and at once if it does not.
    pub(crate) fn stop(&mut self, name: &str) -> Result<()> {
        for running in self.running.iter_mut().filter(|one| one.name == name) {
            end(&mut running.child);
        }
        self.forget(name)
    }

    /// Watches `name` no longer: somebody else has ended it, and has waited for it.
    pub(crate) fn forget(&mut self, name: &str) -> Result<()> {
        self.running.retain(|running| running.name != name);
        self.record.processes.retain(|process| process.name != name);
        self.record.save(&self.folder)
    }

    /// From here on `name` may end by itself without breaking a wait.
    pub(crate) fn may_end(&mut self, name: &str) {
        for running in self.running.iter_mut().filter(|one| one.name == name) {
            running.may_end = true;
        }
    }

    /// Looks at `attempt` until it gives a value. `what` completes the sentence "waited for …".
    ///
    /// An error of one attempt is only remembered: the deadline's message quotes the last one. A
    /// program of the lab that ends meanwhile ends the wait, since nothing that is awaited can come.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut attempt: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut last = String::new();
        loop {
            shell::check_interrupted()?;
            match attempt() {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => last.clear(),
                Err(error) if shell::was_interrupted(&error) => return Err(error),
                Err(error) => last = format!("\nthe last try said: {error:#}"),
            }
            if let Some((name, end)) = self.first_that_ended()? {
                bail!(
                    "{name} ended ({end}) while this was awaited: {what}{}",
                    self.words_of(&name)
                );
            }
            if Instant::now() >= deadline {
                let words: String = self
                    .running
                    .iter()
                    .map(|running| self.words_of(&running.name))
                    .collect();
                bail!(
                    "waited {} s in vain for this: {what}{last}{words}",
                    within.as_secs()
                );
            }
            thread::sleep(shell::LOOK_AGAIN);
        }
    }

    fn first_that_ended(&mut self) -> Result<Option<(String, String)>> {
        for running in self.running.iter_mut().filter(|one| !one.may_end) {
            if let Some(status) = running.child.try_wait().context("cannot watch a child")? {
                return Ok(Some((running.name.clone(), shell::ending(status))));
            }
        }
        Ok(None)
    }

    /// The last log lines of `name` as a paragraph, or nothing if it said nothing.
    fn words_of(&self, name: &str) -> String {
        self.words_since(name, 0)
    }

    /// The same of what it said after the first `bytes` of its log.
    pub(crate) fn words_since(&self, name: &str, bytes: usize) -> String {
        let log = fs::read(self.log(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(log.get(bytes..).unwrap_or_default());
        if log.trim().is_empty() {
            return String::new();
        }
        let lines = shell::indent(&shell::last_lines(&log, QUOTED_LINES));
        format!("\nthe last lines of {name}:\n{}", lines.trim_end())
    }

    /// Leaves everything running and the folder in place, for [`record::stop_kept`] to end.
    pub(crate) fn keep(mut self) -> Result<()> {
        self.record.kept = true;
        self.record.save(&self.folder)?;
        self.running.clear();
        self.record.processes.clear();
        self.folder = PathBuf::new();
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.folder.as_os_str().is_empty() {
            return;
        }
        for running in self.running.iter_mut().rev() {
            end(&mut running.child);
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            anstream::eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}

/// Asks a program's group to end, then ends it.
fn end(child: &mut Child) {
    shell::end_group(child.id(), Signal::SIGTERM);
    let deadline = Instant::now() + END_WITHIN;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(10));
    }
    // Also when the leader has ended: its group may have other members.
    shell::end_group(child.id(), Signal::SIGKILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell_script(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn dropping_a_lab_ends_its_programs_and_removes_its_folder() {
        let mut lab = Lab::open().unwrap();
        let folder = lab.folder().to_owned();
        let pid = lab
            .start("sleeper", shell_script("sleep 1000 & sleep 1000"))
            .unwrap();
        assert!(record::is_alive(pid));
        drop(lab);
        assert!(!record::is_alive(pid));
        assert!(!folder.exists());
    }

    #[test]
    fn a_program_that_ends_early_ends_the_wait_with_its_words() {
        let mut lab = Lab::open().unwrap();
        lab.start("agent", shell_script("echo no such key; exit 7"))
            .unwrap();
        let error = lab
            .wait_for("a heartbeat", Duration::from_secs(20), || Ok(None::<()>))
            .unwrap_err()
            .to_string();
        assert!(error.contains("agent ended (exit status 7)"), "{error}");
        assert!(
            error.contains("a heartbeat") && error.contains("no such key"),
            "{error}"
        );
    }

    #[test]
    fn a_wait_in_vain_says_what_was_awaited_and_the_last_try() {
        let mut lab = Lab::open().unwrap();
        let error = lab
            .wait_for(
                "the sky to fall",
                Duration::ZERO,
                || -> Result<Option<()>> { bail!("it holds") },
            )
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the sky to fall") && error.contains("it holds"),
            "{error}"
        );
    }

    #[test]
    fn a_crashed_program_is_no_longer_watched() {
        let mut lab = Lab::open().unwrap();
        lab.start("agent", shell_script("sleep 1000")).unwrap();
        lab.crash("agent").unwrap();
        lab.wait_for("nothing", Duration::ZERO, || Ok(Some(())))
            .unwrap();
        assert!(lab.crash("agent").is_err());
    }
}
