//! Runs systemctl(1): bounded in time and output, with no environment of the caller.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use crate::core::{shown, shown_path};
use crate::host::clock;

/// /bin and not /usr/bin: both lead to it on merged systems, and this alone on older ones.
const PROGRAM: &str = "/bin/systemctl";

/// A daemon-reload of a host with thousands of units takes seconds.
const WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked whether the program has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// As much as is read of what it says: four properties, or a few sentences of an error. What does
/// not fit the pipe either makes it wait until it is killed.
const MAX_OUTPUT: u64 = 16 * 1024;

/// Why systemctl did not do it.
#[derive(Debug, Error)]
pub enum SystemctlError {
    /// It cannot be run.
    #[error("cannot run {}: {source}. Is systemd installed?", shown_path(program))]
    Run {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It did not end.
    #[error("`systemctl {words}` did not end within {} s and was killed", WITHIN.as_secs())]
    Hangs {
        /// Its arguments.
        words: String,
    },
    /// It refused.
    #[error("`systemctl {words}` failed: {}", shown(said))]
    Failed {
        /// Its arguments.
        words: String,
        /// What it said.
        said: String,
    },
}

/// The program that speaks with systemd.
#[derive(Clone, Debug)]
pub struct Systemctl {
    program: PathBuf,
}

/// What systemd knows of one unit (`systemctl show`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitFacts {
    /// Its own name; another one than that asked for if that is an alias.
    pub id: String,
    /// `loaded`, `not-found`, `masked`, `bad-setting`, …
    pub load_state: String,
    /// `active`, `activating`, `inactive`, `failed`, …
    pub active_state: String,
    /// Its unit file; empty if it has none.
    pub fragment: PathBuf,
}

impl Systemctl {
    /// The one of this host.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::at(Path::new(PROGRAM))
    }

    /// The one at `program`.
    #[must_use]
    pub fn at(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
        }
    }

    /// Asks about `unit`. A unit that is not there is no error: see [`UnitFacts::load_state`].
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn show(&self, unit: &str) -> Result<UnitFacts, SystemctlError> {
        let text = self.run(&[
            "show",
            "--property=Id,LoadState,ActiveState,FragmentPath",
            unit,
        ])?;
        let mut facts = UnitFacts::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "Id" => facts.id = value.to_owned(),
                "LoadState" => facts.load_state = value.to_owned(),
                "ActiveState" => facts.active_state = value.to_owned(),
                "FragmentPath" => facts.fragment = PathBuf::from(value),
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Runs it with `words`; what it printed.
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn run(&self, words: &[&str]) -> Result<String, SystemctlError> {
        let failed = |source| SystemctlError::Run {
            program: self.program.clone(),
            source,
        };
        let mut child = Command::new(&self.program)
            .args(["--no-pager", "--no-ask-password", "--quiet"])
            .args(words)
            // SYSTEMD_*, SYSTEMCTL_* and DBUS_* variables would send it elsewhere.
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let Some(status) = wait(&mut child).map_err(failed)? else {
            return Err(SystemctlError::Hangs {
                words: words.join(" "),
            });
        };
        let stdout = read(child.stdout.take());
        if status.success() {
            return Ok(stdout);
        }
        let said = read(child.stderr.take());
        let said = match said.trim() {
            "" => status.to_string(),
            said => said.replace('\n', " "),
        };
        Err(SystemctlError::Failed {
            words: words.join(" "),
            said,
        })
    }
}

/// None: it did not end in time and is dead now.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let end = clock::now().boot + WITHIN;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if clock::now().boot >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What was read until an error is what there is to show.
        let _ = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
