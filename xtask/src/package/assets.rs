//! The files of each package: the one list from which both the .deb and the .rpm are made.
//!
//! What lies in `systemd/` is taken by its name, so a new unit needs no line here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vpn_node_release::version::Version;

use super::programs::Programs;
use super::{Kind, Package, paper};
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
        Package::Controller => vec![controller(programs)],
    };
    all.extend(written(package)?);
    all.push(readme(package, &all, folder)?);
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
    all.push(asset(
        manifest,
        format!("{system}/manifest.json"),
        Sort::Plain,
    ));
    Ok(all)
}

fn controller(programs: &Programs) -> Asset {
    asset(
        programs.controller.clone(),
        "/usr/bin/vpn-node-controller",
        Sort::Program,
    )
}

/// What is taken from the repository as it is.
fn written(package: Package) -> Result<Vec<Asset>> {
    let mut all = match package {
        Package::Agent => vec![
            ours(
                "packaging/agent/links",
                "/opt/vpn-node/system/libexec/links",
                Sort::Program,
            ),
            ours(
                "config/agent.toml",
                "/etc/vpn-node/agent.toml",
                Sort::Config,
            ),
        ],
        Package::Controller => vec![ours(
            "config/controller.toml",
            format!("{}/examples/controller.toml", package.documents()),
            Sort::Doc,
        )],
    };
    all.extend(units(package)?);
    all.extend(pages(package)?);
    Ok(all)
}

/// The pages of `docs/`: all of them, since each leads to others; what stands below (`decisions/`) is
/// for who reads the sources. In one folder, where their links lead as they do here.
fn pages(package: Package) -> Result<Vec<Asset>> {
    let all = files_below(&shell::repository().join("docs"))?;
    let all = all.into_iter().filter_map(|file| {
        let name = file.strip_prefix(shell::repository().join("docs")).ok()?;
        let name = name.to_str().filter(|name| !name.contains('/'))?;
        let to = format!("{}/{name}", package.documents());
        Some(asset(file.clone(), to, Sort::Doc))
    });
    Ok(all.collect())
}

/// README.md, made in `folder`: its links lead to where `files` are on a host.
fn readme(package: Package, files: &[Asset], folder: &Path) -> Result<Asset> {
    let written = shell::repository().join("README.md");
    let text = fs::read_to_string(&written)
        .with_context(|| format!("cannot read {}", written.display()))?;
    let text = paper::readme(&text, &package.documents(), |target| {
        let from = shell::repository().join(target);
        let file = files.iter().find(|file| file.from == from)?;
        Some(file.to.as_str())
    });
    let made = folder.join(format!("{}.README.md", package.name()));
    fs::write(&made, text).with_context(|| format!("cannot write {}", made.display()))?;
    let to = format!("{}/README.md", package.documents());
    Ok(asset(made, to, Sort::Doc))
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

    /// Both packages, with all their texts: what is taken as it is, and README.md.
    fn texts() -> Vec<(Package, Vec<Asset>, tempfile::TempDir)> {
        let texts = |package| {
            let folder = tempfile::tempdir().unwrap();
            let mut all = written(package).unwrap();
            all.push(readme(package, &all, folder.path()).unwrap());
            (package, all, folder)
        };
        Package::ALL.into_iter().map(texts).collect()
    }

    /// Whether the package brings what a link or a citation in a page leads to.
    fn leads(package: Package, all: &[Asset], target: &str) -> bool {
        let (file, _) = target.split_once('#').unwrap_or((target, ""));
        let to = match file.starts_with('/') {
            true => file.to_owned(),
            false => format!("{}/{file}", package.documents()),
        };
        file.is_empty() || target.contains("://") || all.iter().any(|asset| asset.to == to)
    }

    /// What a text calls a page: words that end with `.md`.
    fn cited(text: &str) -> Vec<&str> {
        text.split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c)))
            .map(|word| word.trim_end_matches('.'))
            .filter(|word| word.ends_with(".md"))
            .collect()
    }

    #[test]
    fn every_link_of_a_shipped_page_leads_to_a_shipped_file() {
        let mut count = 0;
        for (package, all, _folder) in texts() {
            for page in all.iter().filter(|asset| asset.to.ends_with(".md")) {
                let text = fs::read_to_string(&page.from).unwrap();
                for (_, _, target, _) in paper::links(&text) {
                    assert!(leads(package, &all, target), "{}: {target}", page.to);
                    count += 1;
                }
                for cited in cited(&text) {
                    // A page's path in the sources is no path on a host; what is not shipped is
                    // named as in the sources.
                    let elsewhere = cited.starts_with("docs/decisions/");
                    assert!(
                        elsewhere || !cited.starts_with("docs/"),
                        "{}: {cited} in place of a link",
                        page.to
                    );
                }
            }
        }
        assert!(count > 100, "{count}");
    }

    /// By its whole path, or, in a unit, by the name of one that `Documentation=` has.
    #[test]
    fn every_page_that_an_installed_text_names_is_shipped() {
        let mut count = 0;
        for (package, all, _folder) in texts() {
            let mut files: Vec<PathBuf> = all
                .iter()
                .filter(|asset| !asset.to.ends_with(".md"))
                .map(|asset| asset.from.clone())
                .collect();
            files.push(package.folder().join("lintian-overrides"));
            for file in files {
                let text = fs::read_to_string(&file).unwrap();
                let whole: Vec<&str> = cited(&text)
                    .into_iter()
                    .filter(|name| name.starts_with('/'))
                    .collect();
                for name in cited(&text) {
                    let known = whole.iter().any(|path| path.ends_with(&format!("/{name}")));
                    let named = name.starts_with('/') || known && !name.contains('/');
                    assert!(
                        named && leads(package, &all, name),
                        "{}: no {name} on a host",
                        file.display()
                    );
                    count += 1;
                }
            }
        }
        assert!(count > 50, "{count}");
    }

    /// What programs say; man pages and help have a test of their own (`xtask/manuals`).
    #[test]
    fn every_page_that_a_program_names_is_shipped() {
        let mut count = 0;
        for (package, all, _folder) in texts() {
            let sources: &[&str] = match package {
                Package::Agent => &["src", "crates/updater", "crates/protocol", "crates/release"],
                Package::Controller => &["crates/controller", "crates/protocol", "crates/release"],
            };
            for folder in sources {
                for file in files_below(&shell::repository().join(folder)).unwrap() {
                    let name = file.to_str().unwrap();
                    if !name.ends_with(".rs") || name.contains("tests") {
                        continue;
                    }
                    let text = fs::read_to_string(&file).unwrap();
                    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                    let said = product
                        .lines()
                        .filter(|line| !line.trim_start().starts_with("//"));
                    for name in said.flat_map(cited) {
                        assert!(
                            name.starts_with('/') && leads(package, &all, name),
                            "{}: no {name} on a host",
                            file.display()
                        );
                        count += 1;
                    }
                }
            }
        }
        assert!(count >= 4, "{count}");
    }
}
