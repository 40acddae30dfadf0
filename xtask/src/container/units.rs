//! The unit files of this repository on a machine where no package was installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::machine::Machine;
use crate::shell;

pub(super) const STABLE: &str = "vpn-node-agent.service";
pub(super) const TRIAL: &str = "vpn-node-agent-exp.service";
pub(super) const READER: &str = "vpn-node-wireguard.service";
pub(super) const UPDATER: &str = "vpn-node-updater.service";

/// Puts them where a package puts them, before the machine boots.
pub(super) fn ship(machine: &Machine) -> Result<()> {
    for (from, to) in [
        ("", "systemd/system"),
        ("sysusers.d", "sysusers.d"),
        ("tmpfiles.d", "tmpfiles.d"),
    ] {
        for path in files(&folder().join(from))? {
            let name = path.file_name().and_then(|name| name.to_str());
            let place = format!("usr/lib/{to}/{}", name.context("a name")?);
            machine.write(&place, &fs::read(&path)?, 0o644)?;
        }
    }
    Ok(())
}

/// Enables those that the package enables.
pub(super) fn enable(machine: &Machine) -> Result<()> {
    let wants = machine
        .disk()
        .join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    for unit in [
        STABLE,
        "vpn-node-updater-recover.service",
        "vpn-node-updater.path",
    ] {
        symlink(format!("/usr/lib/systemd/system/{unit}"), wants.join(unit))?;
    }
    Ok(())
}

fn folder() -> PathBuf {
    shell::repository().join("systemd")
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in listed {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.is_file());
    Ok(paths)
}
