//! The two files that gate a service: made, removed, found, and put back as they were.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{GATE, GatingError};
use crate::host::atomic;
use crate::host::systemd::unit_name::ServiceName;

const DROP_IN: &str = "50-vpn-node-gate.conf";
const BINDING: &str = "\
# Made by `vpn-node gate enable`; `vpn-node gate disable` removes it.
# This service runs only while the gate is open: /usr/share/doc/vpn-node-agent/gate.md.
[Unit]
BindsTo=vpn-node-gate.service
After=vpn-node-gate.service
";
/// Largest drop-in that is read back, to be restored if a change fails.
const MAX_DROP_IN: usize = 64 * 1024;

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

/// The folder of an operator's unit files, and ours among them.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) folder: PathBuf,
}

impl Files {
    /// Every service that is gated, or half gated, in the order of their names.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub(super) fn units(&self) -> Result<Vec<(ServiceName, Gated)>, GatingError> {
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
    pub(super) fn gated(&self, unit: &ServiceName) -> Gated {
        match (self.binding(unit).exists(), self.link(unit).is_symlink()) {
            (true, true) => Gated::Yes,
            (true, false) => Gated::BoundOnly,
            (false, true) => Gated::StartedOnly,
            (false, false) => Gated::No,
        }
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

    pub(super) fn write_binding(&self, unit: &ServiceName) -> Result<(), GatingError> {
        let path = self.binding(unit);
        make_folder(parent(&path))?;
        Ok(atomic::write(&path, BINDING.as_bytes(), 0o644)?)
    }

    /// systemd goes by the link's name; its target is the unit's file, as `systemctl enable`
    /// makes it, because a target of another name is worth a warning to it.
    pub(super) fn write_link(
        &self,
        unit: &ServiceName,
        fragment: &Path,
    ) -> Result<(), GatingError> {
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

    pub(super) fn remove_binding(&self, unit: &ServiceName) -> Result<(), GatingError> {
        remove(&self.binding(unit))
    }

    pub(super) fn remove_link(&self, unit: &ServiceName) -> Result<(), GatingError> {
        remove(&self.link(unit))
    }
}

/// What was there before a change, to go back to.
pub(super) struct Before {
    binding: Option<Vec<u8>>,
    link: Option<PathBuf>,
    pub(super) none_gated: bool,
}

impl Before {
    pub(super) fn of(files: &Files, unit: &ServiceName) -> Result<Self, GatingError> {
        let binding = match atomic::read_bounded(&files.binding(unit), MAX_DROP_IN) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let path = files.link(unit);
        let link = match fs::read_link(&path) {
            Ok(target) => Some(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read the link", &path)(error)),
        };
        Ok(Self {
            binding,
            link,
            none_gated: files.units()?.is_empty(),
        })
    }

    pub(super) fn gated(&self) -> Gated {
        // A binding that somebody changed is written anew.
        let bound = self.binding.as_deref() == Some(BINDING.as_bytes());
        match (bound, self.binding.is_some(), self.link.is_some()) {
            (true, _, true) => Gated::Yes,
            (_, true, _) => Gated::BoundOnly,
            (_, false, true) => Gated::StartedOnly,
            (_, false, false) => Gated::No,
        }
    }

    /// Puts the files back.
    ///
    /// # Errors
    /// If that fails too.
    pub(super) fn put_back(&self, files: &Files, unit: &ServiceName) -> Result<(), GatingError> {
        match &self.binding {
            Some(bytes) => {
                let path = files.binding(unit);
                make_folder(parent(&path))?;
                atomic::write(&path, bytes, 0o644)?;
            }
            None => files.remove_binding(unit)?,
        }
        match &self.link {
            Some(target) => files.write_link(unit, target),
            None => files.remove_link(unit),
        }
    }
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

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GatingError {
    move |source| GatingError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}
