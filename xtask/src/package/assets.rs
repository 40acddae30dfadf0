//! The files of each package: the one list from which both the .deb and the .rpm are made.
//!
//! What lies in `systemd/` is taken by its name, so a new unit needs no line here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vpn_node_release::version::Version;

use super::programs::Programs;
use super::{Kind, Package};
use crate::release::PROGRAMS;
use crate::shell;

/// One file of a package.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asset {
    /// Where it lies here, absolute.
    pub(super) from: PathBuf,
    /// Where it is to lie, absolute, with its name.
    pub(super) to: String,
    pub(super) kind: Sort,
    /// In packages of this kind alone; none: in both.
    pub(super) only: Option<Kind>,
}

/// How a package manager treats it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// 0644
    Plain,
    /// 0755
    Program,
    /// 0644, and an operator's changes outlive upgrades.
    Config,
    /// 0644, and may be left out at installation (rpm's `--nodocs`).
    Doc,
}

/// All files of `package`; those that have to be made are made in `folder`.
pub(super) fn of(
    package: Package,
    programs: &Programs,
    folder: &Path,
    version: &Version,
) -> Result<Vec<Asset>> {
    let mut all = match package {
        Package::Agent => agent(programs, folder, version)?,
        Package::Controller => controller(programs),
    };
    all.extend(units(package)?);
    all.sort_by(|a, b| a.to.cmp(&b.to));
    Ok(all)
}

fn agent(programs: &Programs, folder: &Path, version: &Version) -> Result<Vec<Asset>> {
    let manifest = folder.join("manifest.json");
    super::write_manifest(&programs.agent, version, &manifest)?;
    let system = "/opt/vpn-node/system";
    let mut all: Vec<Asset> = PROGRAMS
        .iter()
        .map(|name| {
            let to = format!("{system}/bin/{name}");
            asset(programs.agent.join(name), to, Sort::Program)
        })
        .collect();
    let doc = "/usr/share/doc/vpn-node-agent";
    all.extend([
        asset(manifest, format!("{system}/manifest.json"), Sort::Plain),
        ours(
            "packaging/agent/links",
            format!("{system}/libexec/links"),
            Sort::Program,
        ),
        ours(
            "config/agent.toml",
            "/etc/vpn-node/agent.toml",
            Sort::Config,
        ),
        ours("README.md", format!("{doc}/README.md"), Sort::Doc),
        ours("docs/gate.md", format!("{doc}/gate.md"), Sort::Doc),
        ours("docs/journal.md", format!("{doc}/journal.md"), Sort::Doc),
        ours("docs/updates.md", format!("{doc}/updates.md"), Sort::Doc),
        ours(
            "docs/wireguard-reader.md",
            format!("{doc}/wireguard-reader.md"),
            Sort::Doc,
        ),
    ]);
    Ok(all)
}

fn controller(programs: &Programs) -> Vec<Asset> {
    let doc = "/usr/share/doc/vpn-node-controller";
    vec![
        asset(
            programs.controller.clone(),
            "/usr/bin/vpn-node-controller",
            Sort::Program,
        ),
        ours(
            "config/controller.toml",
            format!("{doc}/examples/controller.toml"),
            Sort::Doc,
        ),
        ours("README.md", format!("{doc}/README.md"), Sort::Doc),
    ]
}

/// What lies in `systemd/` and belongs to `package`.
fn units(package: Package) -> Result<Vec<Asset>> {
    let top = shell::repository().join("systemd");
    let mut all = Vec::new();
    for file in files_below(&top)? {
        let name = file
            .strip_prefix(&top)
            .ok()
            .and_then(Path::to_str)
            .with_context(|| format!("a name that is no text: {}", file.display()))?;
        if owner(name) == package {
            let to = place(name)?;
            all.push(asset(file.clone(), to, Sort::Plain));
        }
    }
    Ok(all)
}

/// Whose a file of `systemd/` is.
fn owner(name: &str) -> Package {
    if name.contains("vpn-node-controller") {
        Package::Controller
    } else {
        Package::Agent
    }
}

/// Where a file of `systemd/` goes.
fn place(name: &str) -> Result<String> {
    const UNITS: [&str; 6] = ["service", "socket", "path", "timer", "target", "slice"];
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
    let folder = match (folder, ending) {
        ("", ending) if UNITS.contains(&ending) => "/usr/lib/systemd/system",
        ("", "catalog") => "/usr/lib/systemd/catalog",
        ("" | "system-preset", "preset") => "/usr/lib/systemd/system-preset",
        // The package's scripts link them where systemd is new enough.
        ("", "conf") if ["notify-reload.conf", "registration-token.conf"].contains(&file) => {
            "/usr/lib/vpn-node"
        }
        ("sysusers.d", "conf") => "/usr/lib/sysusers.d",
        ("tmpfiles.d", "conf") => "/usr/lib/tmpfiles.d",
        _ => bail!(
            "systemd/{name} is of no kind that `cargo xtask package` knows; \
             say in xtask/src/package/assets.rs where it belongs on a host"
        ),
    };
    Ok(format!("{folder}/{file}"))
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let listed =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in listed {
        let path = entry
            .with_context(|| format!("cannot list {}", folder.display()))?
            .path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn asset(from: PathBuf, to: impl Into<String>, kind: Sort) -> Asset {
    let to = to.into();
    Asset {
        from,
        to,
        kind,
        only: None,
    }
}

/// A file of the repository.
fn ours(from: &str, to: impl Into<String>, kind: Sort) -> Asset {
    asset(shell::repository().join(from), to, kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_systemd_is_in_one_package() {
        let count = files_below(&shell::repository().join("systemd"))
            .unwrap()
            .len();
        let agent = units(Package::Agent).unwrap();
        let controller = units(Package::Controller).unwrap();
        assert_eq!(agent.len() + controller.len(), count);
        let has = |all: &[Asset], to: &str| all.iter().any(|asset| asset.to == to);
        assert!(has(&agent, "/usr/lib/systemd/system/vpn-node-updater.path"));
        assert!(has(&agent, "/usr/lib/tmpfiles.d/vpn-node.conf"));
        assert!(has(
            &controller,
            "/usr/lib/systemd/system/vpn-node-controller.service"
        ));
        assert!(has(
            &controller,
            "/usr/lib/sysusers.d/vpn-node-controller.conf"
        ));
    }

    #[test]
    fn a_file_of_an_unknown_kind_is_named() {
        let error = place("notes.txt").unwrap_err().to_string();
        assert!(error.contains("systemd/notes.txt"), "{error}");
        assert!(place("elsewhere/x.service").is_err());
        assert_eq!(
            place("notify-reload.conf").unwrap(),
            "/usr/lib/vpn-node/notify-reload.conf"
        );
    }
}
