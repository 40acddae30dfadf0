//! Which services run only while the gate is open: two files a service in /etc/systemd/system.
//!
//! `UNIT.d/50-vpn-node-gate.conf` binds the service to the gate: it starts after the gate, and
//! stops whenever the gate leaves "active". `vpn-node-gate.service.wants/UNIT` starts it again
//! with the gate. (Not `Upholds=`: systemd 247 does not know it.) A change is done as a whole or
//! undone; of the two files the binding one is made first and removed last, so that a power cut
//! between them never leaves a service that is started and not bound.

mod files;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use thiserror::Error;

use super::systemctl::{Systemctl, SystemctlError, UnitFacts};
use super::unit_name::ServiceName;
use crate::core::{shown, shown_path};
use crate::host::atomic::AtomicError;
use files::{Before, Files};

pub use files::Gated;

/// The gate's own unit.
pub const GATE: &str = "vpn-node-gate.service";

/// Where an operator's unit files are.
const FOLDER: &str = "/etc/systemd/system";

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
    files: Files,
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
            files: Files {
                folder: folder.to_owned(),
            },
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
        let before = Before::of(&self.files, unit)?;
        let done = self.bind(unit, &facts, before.gated() == Gated::Yes);
        done.map_err(|error| self.undo(&before, unit, error))
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
            self.files.write_binding(unit)?;
            self.files.write_link(unit, &facts.fragment)?;
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
        let before = Before::of(&self.files, unit)?;
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
            .files
            .remove_link(unit)
            .and_then(|()| self.files.remove_binding(unit))
            .and_then(|()| Ok(self.systemctl.run(&["daemon-reload"])?));
        done.map_err(|error| self.undo(&before, unit, error))?;
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
        self.files.units()
    }

    /// How far `unit` is gated, by its files.
    #[must_use]
    pub fn gated(&self, unit: &ServiceName) -> Gated {
        self.files.gated(unit)
    }

    /// systemd's word for how `unit` is now (`active`, `inactive`, …).
    ///
    /// # Errors
    /// [`SystemctlError`].
    pub fn active_state(&self, unit: &str) -> Result<String, SystemctlError> {
        Ok(self.systemctl.show(unit)?.active_state)
    }

    /// After `change` failed: as before. Returns the error to report.
    fn undo(&self, before: &Before, unit: &ServiceName, change: GatingError) -> GatingError {
        if let Err(undo) = before.put_back(&self.files, unit) {
            return GatingError::NotUndone {
                change: Box::new(change),
                undo: Box::new(undo),
            };
        }
        // As far as systemd listens: often it is what failed, and then it has not seen the files
        // that are gone again.
        let _ = self.systemctl.run(&["daemon-reload"]);
        if before.none_gated {
            let _ = self.systemctl.run(&["disable", "--now", GATE]);
        }
        change
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
}

/// A service that has processes now, or will have.
fn is_up(active_state: &str) -> bool {
    matches!(active_state, "active" | "activating" | "reloading")
}

#[cfg(test)]
mod tests;
