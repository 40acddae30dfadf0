//! The Cargo.toml of a crate without code, which says to cargo-deb and cargo-generate-rpm what is
//! in a package; and running them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use toml::{Table, Value};
use vpn_node_release::version::Version;

use super::assets::{Asset, Sort};
use super::extras::source_date;
use super::{Flavour, Kind, Package};
use crate::build::NEWEST_GLIBC;
use crate::shell;

/// Compressing some megabytes on a busy machine.
const PACK_WITHIN: Duration = Duration::from_secs(600);

/// Writes the crate into `folder`, in place of what was there.
pub(super) fn write(
    package: Package,
    flavour: Flavour,
    version: &Version,
    files: &[Asset],
    folder: &Path,
) -> Result<()> {
    let written = package.folder().join("package.toml");
    let text = fs::read_to_string(&written)
        .with_context(|| format!("cannot read {}", written.display()))?;
    let recipe = recipe(&text, flavour, version, files, &package.folder())
        .with_context(|| format!("{} is not as expected", written.display()))?;
    let source = folder.join("src");
    fs::create_dir_all(&source)
        .and_then(|()| fs::write(source.join("lib.rs"), ""))
        .and_then(|()| fs::write(folder.join("Cargo.toml"), recipe))
        .with_context(|| format!("cannot write into {}", folder.display()))
}

/// The text of package.toml with version, scripts and files.
fn recipe(
    text: &str,
    flavour: Flavour,
    version: &Version,
    files: &[Asset],
    scripts: &Path,
) -> Result<String> {
    let mut recipe: Table = text.parse()?;
    // It belongs to no workspace.
    recipe.insert("workspace".to_owned(), Value::Table(Table::new()));
    let package = table(&mut recipe, "package")?;
    package.insert("version".to_owned(), version.to_string().into());
    let metadata = table(package, "metadata")?;

    let deb = table(metadata, "deb")?;
    deb.insert("maintainer-scripts".to_owned(), text_of(scripts)?.into());
    let config = files.iter().filter(|file| file.kind == Sort::Config);
    let config: Vec<Value> = config.map(|file| file.to.clone().into()).collect();
    deb.insert("conf-files".to_owned(), config.into());
    deb.insert("assets".to_owned(), assets(files, Kind::Deb)?);
    deb.insert("systemd-units".to_owned(), units(files));
    let depends = deb.get_mut("depends");
    if let Some(depends) = depends.filter(|_| flavour != Flavour::Quick) {
        // Not by dpkg-shlibdeps (cargo-deb's $auto): it asks this machine's newer glibc, where
        // threads are no library of their own, and would name that one.
        let (major, minor) = NEWEST_GLIBC;
        let ours = format!("libc6 (>= {major}.{minor}), libgcc-s1");
        *depends = text_in(depends)?.replace("$auto", &ours).into();
    }

    let rpm = table(metadata, "generate-rpm")?;
    rpm.insert("version".to_owned(), with_tilde(version).into());
    for (key, script) in rpm.iter_mut() {
        if let (true, Some(name)) = (key.ends_with("_script"), script.as_str()) {
            *script = text_of(&scripts.join(name))?.into();
        }
    }
    rpm.insert("assets".to_owned(), assets(files, Kind::Rpm)?);
    Ok(recipe.to_string())
}

fn assets(files: &[Asset], kind: Kind) -> Result<Value> {
    let mut all = Vec::new();
    for file in files {
        if file.only.is_some_and(|only| only != kind) {
            continue;
        }
        let mut one = Table::new();
        one.insert("source".to_owned(), text_of(&file.from)?.into());
        let to = match kind {
            // cargo-deb knows its own additions (copyright) again by such a path only.
            Kind::Deb => file.to.trim_start_matches('/'),
            Kind::Rpm => &file.to,
        };
        one.insert("dest".to_owned(), to.into());
        let mode = match file.kind {
            Sort::Program => "755",
            Sort::Plain | Sort::Config | Sort::Doc => "644",
        };
        one.insert("mode".to_owned(), mode.into());
        match (kind, file.kind) {
            (Kind::Rpm, Sort::Config) => {
                one.insert("config".to_owned(), "noreplace".into());
            }
            (Kind::Rpm, Sort::Doc) => {
                one.insert("doc".to_owned(), true.into());
            }
            _ => {}
        }
        all.push(Value::Table(one));
    }
    Ok(all.into())
}

/// What cargo-deb writes into Debian's scripts (for `#DEBHELPER#`), one entry a unit: enabled as an
/// operator last had it, stopped when the package is removed. What is started or restarted has an
/// order, which the scripts themselves keep.
fn units(files: &[Asset]) -> Value {
    const FOLDER: &str = "/usr/lib/systemd/system/";
    let names = files.iter().filter_map(|file| file.to.strip_prefix(FOLDER));
    // cargo-deb takes `x.service` and `x.path` as one.
    let names: BTreeSet<&str> = names
        .filter_map(|name| Some(name.rsplit_once('.')?.0))
        .collect();
    let entry = |name: &str| {
        let mut entry = Table::new();
        entry.insert("unit-name".to_owned(), name.into());
        // `vpn-node gate enable` does that.
        entry.insert("enable".to_owned(), (name != "vpn-node-gate").into());
        entry.insert("start".to_owned(), false.into());
        let restart = name == "vpn-node-controller";
        entry.insert("restart-after-upgrade".to_owned(), restart.into());
        entry.insert("stop-on-upgrade".to_owned(), false.into());
        Value::Table(entry)
    };
    names.into_iter().map(entry).collect::<Vec<_>>().into()
}

/// Makes the package of a crate that [`write`] wrote, in the directory `out`.
pub(super) fn pack(
    kind: Kind,
    tool: &Path,
    folder: &Path,
    version: &Version,
    flavour: Flavour,
) -> Result<PathBuf> {
    let name = folder
        .file_name()
        .and_then(|name| name.to_str())
        .context("the crate's folder has the package's name")?;
    let file = place(kind, name, version, flavour);
    let version = with_tilde(version);
    let mut command = match kind {
        Kind::Deb => {
            let mut command = Command::new(tool);
            command.args(["--no-build", "--no-strip", "--quiet", "--deb-version"]);
            command.arg(format!("{version}-{PACKAGING}"));
            if flavour != Flavour::Release {
                command.arg("--fast");
            }
            command
        }
        Kind::Rpm => {
            let mut command = Command::new(tool);
            command.arg("generate-rpm");
            if flavour != Flavour::Release {
                command.arg("--payload-compress=none");
            }
            command
        }
    };
    command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        // Packages of the same files are the same.
        .env("SOURCE_DATE_EPOCH", source_date()?.as_second().to_string())
        .arg("--output")
        .arg(&file);
    shell::succeed(command, None, PACK_WITHIN)?;
    Ok(file)
}

/// Where a package goes.
pub(super) fn place(kind: Kind, name: &str, version: &Version, flavour: Flavour) -> PathBuf {
    let (version, architecture) = (with_tilde(version), architecture(kind));
    flavour.folder().join(match kind {
        Kind::Deb => format!("{name}_{version}-{PACKAGING}_{architecture}.deb"),
        Kind::Rpm => format!("{name}-{version}-{PACKAGING}.{architecture}.rpm"),
    })
}

/// How often this version was packaged: there is no second time, a new package is a new version.
const PACKAGING: &str = "1";

/// Both package managers sort "~" before the end of a word, as semver does with "-".
pub(super) fn with_tilde(version: &Version) -> String {
    version.to_string().replacen('-', "~", 1)
}

/// This machine's architecture, as this kind of package calls it.
fn architecture(kind: Kind) -> &'static str {
    match (kind, std::env::consts::ARCH) {
        (Kind::Deb, "x86_64") => "amd64",
        (Kind::Deb, "aarch64") => "arm64",
        (_, architecture) => architecture,
    }
}

fn table<'a>(of: &'a mut Table, key: &str) -> Result<&'a mut Table> {
    of.get_mut(key)
        .and_then(Value::as_table_mut)
        .with_context(|| format!("there is no table `{key}`"))
}

fn text_in(value: &Value) -> Result<&str> {
    value
        .as_str()
        .with_context(|| format!("{value} is no text"))
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("a path that is no text: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(package: Package, flavour: Flavour, kind: Sort) -> Table {
        let text = fs::read_to_string(package.folder().join("package.toml")).unwrap();
        let file = Asset {
            from: "/here/agent.toml".into(),
            to: "/etc/vpn-node/agent.toml".to_owned(),
            kind,
            only: None,
        };
        let version = Version::parse("1.2.0-rc.1").unwrap();
        let recipe = recipe(&text, flavour, &version, &[file], &package.folder()).unwrap();
        recipe.parse::<Table>().unwrap()
    }

    #[test]
    fn version_scripts_and_files_are_filled_in() {
        let recipe = example(Package::Agent, Flavour::Release, Sort::Config);
        let package = &recipe["package"];
        assert_eq!(package["version"].as_str(), Some("1.2.0-rc.1"));
        let deb = &package["metadata"]["deb"];
        assert_eq!(
            deb["conf-files"][0].as_str(),
            Some("/etc/vpn-node/agent.toml")
        );
        let depends = deb["depends"].as_str().unwrap();
        assert_eq!(depends, "libc6 (>= 2.31), libgcc-s1, systemd");
        let rpm = &package["metadata"]["generate-rpm"];
        assert_eq!(rpm["version"].as_str(), Some("1.2.0~rc.1"));
        assert_eq!(rpm["assets"][0]["config"].as_str(), Some("noreplace"));
    }

    #[test]
    fn every_script_that_is_named_exists() {
        for package in Package::ALL {
            let recipe = example(package, Flavour::Quick, Sort::Plain);
            let rpm = recipe["package"]["metadata"]["generate-rpm"]
                .as_table()
                .unwrap();
            let scripts: Vec<_> = rpm
                .iter()
                .filter(|(key, _)| key.ends_with("_script"))
                .collect();
            assert!(!scripts.is_empty());
            for (key, script) in scripts {
                assert!(Path::new(script.as_str().unwrap()).is_file(), "{key}");
            }
            for script in ["postinst", "prerm", "postrm"] {
                assert!(package.folder().join(script).is_file(), "{script}");
            }
        }
    }
}
