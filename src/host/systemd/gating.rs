//! Which services run only while the gate is open: two files a service in /etc/systemd/system.
//!
//! `UNIT.d/50-vpn-node-gate.conf` binds the service to the gate: it starts after the gate, and
//! stops whenever the gate leaves "active". `vpn-node-gate.service.wants/UNIT` starts it again
//! with the gate. (Not `Upholds=`: systemd 247 does not know it.) A change is done as a whole or
//! undone; of the two files the binding one is made first and removed last, so that a power cut
//! between them never leaves a service that is started and not bound.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::systemctl::{Systemctl, SystemctlError, UnitFacts};
use super::unit_name::ServiceName;
use crate::core::{shown, shown_path};
use crate::host::atomic::{self, AtomicError};

/// The gate's own unit.
pub const GATE: &str = "vpn-node-gate.service";

/// Where an operator's unit files are.
const FOLDER: &str = "/etc/systemd/system";
const DROP_IN: &str = "50-vpn-node-gate.conf";
const BINDING: &str = "\
# Made by `vpn-node gate enable`; `vpn-node gate disable` removes it.
# This service runs only while the gate is open: docs/gate.md of vpn-node.
[Unit]
BindsTo=vpn-node-gate.service
After=vpn-node-gate.service
";
/// Largest drop-in that is read back, to be restored if a change fails.
const MAX_DROP_IN: usize = 64 * 1024;

/// Units that would wait for themselves: the gate asks the agent.
const OURS: [&str; 2] = [GATE, "vpn-node-agent.service"];

/// A gate that can open does so at its second look at the latest; this many times a tenth of a
/// second is waited for it, so that a running VPN is not interrupted by being bound.
const TRIES: u32 = 30;
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Why a service is not bound or unbound; then nothing has changed, unless the text says so.
#[derive(Debug, Error)]
pub enum GatingError {
    /// There is no such unit to bind.
    #[error(
        "{unit} cannot be gated: systemd says it is `{}`. Look at `systemctl status {unit}`.",
        shown(load_state)
    )]
    NotLoaded {
        /// The unit.
        unit: String,
        /// systemd's word.
        load_state: String,
    },
    /// The gate's own unit is missing.
    #[error(
        "{GATE} cannot be used: systemd says it is `{}`. It belongs to the package \
         vpn-node-agent: install it again, or unmask it.",
        shown(load_state)
    )]
    NoGate {
        /// systemd's word.
        load_state: String,
    },
    /// Another name of a unit: what is written under it would be lost with it.
    #[error("{unit} is another name of {}: name that one.", shown(id))]
    Alias {
        /// The unit.
        unit: String,
        /// Its own name.
        id: String,
    },
    /// The agent or the gate.
    #[error("{unit} cannot be gated: the gate itself needs it.")]
    Ours {
        /// The unit.
        unit: String,
    },
    /// systemd refused or hangs.
    #[error("{0}.")]
    Systemctl(#[from] SystemctlError),
    /// A file cannot be written or removed.
    #[error("{0}.")]
    File(#[from] AtomicError),
    /// A folder or link cannot be made, read or removed.
    #[error("cannot {doing} {}: {source}.", shown_path(path))]
    Io {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The change failed, and so did its undoing.
    #[error("{change} Undoing it failed too: {undo} Run `vpn-node gate status` and repeat.")]
    NotUndone {
        /// The first error.
        change: Box<GatingError>,
        /// The second one.
        undo: Box<GatingError>,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GatingError {
    move |source| GatingError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

/// How far a service is gated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// Both files are there.
    Yes,
    /// Bound, but not started again with the gate (`systemctl disable UNIT` removes that link).
    BoundOnly,
    /// Started with the gate, but not bound to it.
    StartedOnly,
    /// Neither.
    No,
}

/// What a change found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// It was like that already.
    pub nothing_to_do: bool,
    /// The gate's service is active.
    pub open: bool,
    /// The service ran before the change.
    pub ran: bool,
}

/// The gated services of one host.
#[derive(Clone, Debug)]
pub struct Gating {
    folder: PathBuf,
    systemctl: Systemctl,
}

impl Gating {
    /// Those of this host.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::at(Path::new(FOLDER), Systemctl::of_this_host())
    }

    /// Those whose files are in `folder`.
    #[must_use]
    pub fn at(folder: &Path, systemctl: Systemctl) -> Self {
        Self {
            folder: folder.to_owned(),
            systemctl,
        }
    }

    /// Binds `unit` to the gate, and starts the gate. A running service goes on if the gate opens
    /// within a moment, else it is stopped until it does. Repeating it mends what is missing.
    ///
    /// # Errors
    /// [`GatingError`]; then it is as before.
    pub fn enable(&self, unit: &ServiceName) -> Result<Change, GatingError> {
        let facts = self.facts(unit)?;
        let gate = self.systemctl.show(GATE)?;
        if gate.load_state != "loaded" {
            return Err(GatingError::NoGate {
                load_state: gate.load_state,
            });
        }
        let before = Before::of(self, unit)?;
        let done = self.bind(unit, &facts, before.gated() == Gated::Yes);
        done.map_err(|error| before.restore(self, unit, error))
    }

    fn bind(
        &self,
        unit: &ServiceName,
        facts: &UnitFacts,
        already: bool,
    ) -> Result<Change, GatingError> {
        self.systemctl.run(&["enable", GATE])?;
        // Without waiting: a closed gate starts for as long as it is closed.
        self.systemctl.run(&["start", "--no-block", GATE])?;
        let ran = is_up(&facts.active_state);
        let open = self.gate_opens(ran && !already)?;
        if !already {
            self.write_binding(unit)?;
            self.write_link(unit, &facts.fragment)?;
        }
        // Also if nothing was written: an earlier try may have ended right before this.
        self.systemctl.run(&["daemon-reload"])?;
        if !already && !open {
            // What a starting unit wants is settled when its start is asked for, and a service
            // that runs is stopped by this: it is bound to the gate now.
            self.systemctl.run(&["restart", "--no-block", GATE])?;
        }
        Ok(Change {
            nothing_to_do: already,
            open,
            ran,
        })
    }

    /// Unbinds `unit`; the gate stops with the last one. Neither starts nor stops the service.
    ///
    /// # Errors
    /// [`GatingError`]; then it is as before, unless only the gate could not be stopped.
    pub fn disable(&self, unit: &ServiceName) -> Result<Change, GatingError> {
        let before = Before::of(self, unit)?;
        let gate_state = self.systemctl.show(GATE)?.active_state;
        let unit_state = self.systemctl.show(unit.as_str())?.active_state;
        let change = Change {
            nothing_to_do: before.gated() == Gated::No,
            open: gate_state == "active",
            ran: is_up(&unit_state),
        };
        if change.nothing_to_do {
            return Ok(change);
        }
        let done = self
            .remove_link(unit)
            .and_then(|()| self.remove_binding(unit))
            .and_then(|()| Ok(self.systemctl.run(&["daemon-reload"])?));
        done.map_err(|error| before.restore(self, unit, error))?;
        if self.units()?.is_empty() {
            self.systemctl.run(&["disable", "--now", GATE])?;
        }
        Ok(change)
    }

    /// Every service that is gated, or half gated, in the order of their names.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn units(&self) -> Result<Vec<(ServiceName, Gated)>, GatingError> {
        let mut names = Vec::new();
        for name in names_in(&self.folder)? {
            let bound = name
                .strip_suffix(".d")
                .and_then(|n| ServiceName::parse(n).ok());
            names.extend(bound.filter(|unit| self.binding(unit).exists()));
        }
        let wanted = names_in(&self.wants())?;
        names.extend(
            wanted
                .iter()
                .filter_map(|name| ServiceName::parse(name).ok()),
        );
        names.sort();
        names.dedup();
        Ok(names
            .into_iter()
            .map(|unit| {
                let gated = self.gated(&unit);
                (unit, gated)
            })
            .collect())
    }

    /// How far `unit` is gated, by its files.
    #[must_use]
    pub fn gated(&self, unit: &ServiceName) -> Gated {
        match (self.binding(unit).exists(), self.link(unit).is_symlink()) {
            (true, true) => Gated::Yes,
            (true, false) => Gated::BoundOnly,
            (false, true) => Gated::StartedOnly,
            (false, false) => Gated::No,
        }
    }

    /// systemd's word for how `unit` is now (`active`, `inactive`, …).
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn active_state(&self, unit: &str) -> Result<String, SystemctlError> {
        Ok(self.systemctl.show(unit)?.active_state)
    }

    fn facts(&self, unit: &ServiceName) -> Result<UnitFacts, GatingError> {
        let name = unit.as_str().to_owned();
        if OURS.contains(&unit.as_str()) {
            return Err(GatingError::Ours { unit: name });
        }
        let facts = self.systemctl.show(unit.as_str())?;
        if facts.load_state != "loaded" {
            return Err(GatingError::NotLoaded {
                unit: name,
                load_state: facts.load_state,
            });
        }
        if facts.id != unit.as_str() {
            return Err(GatingError::Alias {
                unit: name,
                id: facts.id,
            });
        }
        Ok(facts)
    }

    /// Whether the gate is open; with `patience` it is given a moment to open.
    fn gate_opens(&self, patience: bool) -> Result<bool, GatingError> {
        for _ in 0..if patience { TRIES } else { 0 } {
            if self.systemctl.show(GATE)?.active_state == "active" {
                return Ok(true);
            }
            thread::sleep(TRY_EVERY);
        }
        Ok(self.systemctl.show(GATE)?.active_state == "active")
    }

    fn binding(&self, unit: &ServiceName) -> PathBuf {
        self.folder.join(format!("{unit}.d")).join(DROP_IN)
    }

    fn wants(&self) -> PathBuf {
        self.folder.join(format!("{GATE}.wants"))
    }

    fn link(&self, unit: &ServiceName) -> PathBuf {
        self.wants().join(unit.as_str())
    }

    fn write_binding(&self, unit: &ServiceName) -> Result<(), GatingError> {
        let path = self.binding(unit);
        make_folder(parent(&path))?;
        Ok(atomic::write(&path, BINDING.as_bytes(), 0o644)?)
    }

    /// systemd goes by the link's name; its target is the unit's file, as `systemctl enable`
    /// makes it, because a target of another name is worth a warning to it.
    fn write_link(&self, unit: &ServiceName, fragment: &Path) -> Result<(), GatingError> {
        let path = self.link(unit);
        make_folder(parent(&path))?;
        let named = self.folder.join(unit.as_str());
        let target = if fragment.as_os_str().is_empty() {
            &named
        } else {
            fragment
        };
        match symlink(target, &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_symlink() => {}
            made => made.map_err(failed("make the link", &path))?,
        }
        Ok(atomic::sync_dir(parent(&path))?)
    }

    fn remove_binding(&self, unit: &ServiceName) -> Result<(), GatingError> {
        remove(&self.binding(unit))
    }

    fn remove_link(&self, unit: &ServiceName) -> Result<(), GatingError> {
        remove(&self.link(unit))
    }
}

/// What was there before a change, to go back to.
struct Before {
    binding: Option<Vec<u8>>,
    link: Option<PathBuf>,
    none_gated: bool,
}

impl Before {
    fn of(gating: &Gating, unit: &ServiceName) -> Result<Self, GatingError> {
        let binding = match atomic::read_bounded(&gating.binding(unit), MAX_DROP_IN) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let path = gating.link(unit);
        let link = match fs::read_link(&path) {
            Ok(target) => Some(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read the link", &path)(error)),
        };
        Ok(Self {
            binding,
            link,
            none_gated: gating.units()?.is_empty(),
        })
    }

    fn gated(&self) -> Gated {
        // A binding that somebody changed is written anew.
        let bound = self.binding.as_deref() == Some(BINDING.as_bytes());
        match (bound, self.binding.is_some(), self.link.is_some()) {
            (true, _, true) => Gated::Yes,
            (_, true, _) => Gated::BoundOnly,
            (_, false, true) => Gated::StartedOnly,
            (_, false, false) => Gated::No,
        }
    }

    /// Puts it back; the error to report.
    fn restore(&self, gating: &Gating, unit: &ServiceName, change: GatingError) -> GatingError {
        match self.put_back(gating, unit) {
            Ok(()) => change,
            Err(undo) => GatingError::NotUndone {
                change: Box::new(change),
                undo: Box::new(undo),
            },
        }
    }

    fn put_back(&self, gating: &Gating, unit: &ServiceName) -> Result<(), GatingError> {
        match &self.binding {
            Some(bytes) => {
                let path = gating.binding(unit);
                make_folder(parent(&path))?;
                atomic::write(&path, bytes, 0o644)?;
            }
            None => gating.remove_binding(unit)?,
        }
        match &self.link {
            Some(target) => gating.write_link(unit, target)?,
            None => gating.remove_link(unit)?,
        }
        // As far as systemd listens: often it is what failed, and then it has not seen the files
        // that are gone again.
        let _ = gating.systemctl.run(&["daemon-reload"]);
        if self.none_gated {
            let _ = gating.systemctl.run(&["disable", "--now", GATE]);
        }
        Ok(())
    }
}

/// A service that has processes now, or will have.
fn is_up(active_state: &str) -> bool {
    matches!(active_state, "active" | "activating" | "reloading")
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The names in a folder; none if there is no folder.
fn names_in(folder: &Path) -> Result<Vec<String>, GatingError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("read", folder)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("read", folder))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}

fn make_folder(folder: &Path) -> Result<(), GatingError> {
    match fs::create_dir(folder) {
        Ok(()) => Ok(atomic::sync_dir(parent(folder))?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(failed("make", folder)(error)),
    }
}

/// Removes a name, and its folder if that is empty then: as it was before.
fn remove(path: &Path) -> Result<(), GatingError> {
    let folder = parent(path);
    if !folder.exists() {
        return Ok(());
    }
    atomic::remove(path)?;
    match fs::remove_dir(folder) {
        Ok(()) => Ok(atomic::sync_dir(parent(folder))?),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) => Err(failed("remove", folder)(error)),
    }
}

#[cfg(test)]
mod tests;
