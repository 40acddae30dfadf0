//! What is linked into the programs of a package: crates, their versions and their licences.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use toml::Table;

use crate::shell;

const ASK_WITHIN: Duration = Duration::from_secs(300);

/// One crate of somebody else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Dependency {
    pub(super) name: String,
    pub(super) version: String,
    /// An SPDX expression.
    pub(super) license: String,
    pub(super) authors: Vec<String>,
    /// SHA-256 of the file that crates.io serves (Cargo.lock has it).
    pub(super) checksum: Option<String>,
    /// Where its sources are on this machine.
    pub(super) folder: PathBuf,
    /// Those of the list that it needs itself: name and version.
    pub(super) needs: BTreeSet<(String, String)>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    #[serde(default)]
    authors: Vec<String>,
    manifest_path: PathBuf,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

/// What cargo links for these packages of ours on this platform, without what only runs at build
/// time, in the order of names.
pub(super) fn of(packages: &[&str]) -> Result<Vec<Dependency>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // `tree` knows which features a build of just these packages has; `metadata` knows the rest.
    let mut tree = shell::cargo();
    tree.args(["tree", "--locked", "--edges", "normal,no-proc-macro"])
        .args(["--target", &target, "--prefix", "none", "--format", "{p}"])
        .args(packages.iter().flat_map(|name| ["--package", name]));
    let linked = names_in(&shell::succeed(tree, None, ASK_WITHIN)?.stdout);
    let mut metadata = shell::cargo();
    metadata.args(["metadata", "--locked", "--format-version=1"]);
    metadata.args(["--filter-platform", &target]);
    let metadata = shell::succeed(metadata, None, ASK_WITHIN)?.stdout;
    let metadata = serde_json::from_str(&metadata).context("cargo's metadata")?;
    let lock = shell::repository().join("Cargo.lock");
    let lock = std::fs::read_to_string(&lock)
        .with_context(|| format!("cannot read {}", lock.display()))?;
    Ok(join(&linked, metadata, &checksums(&lock)?))
}

/// Lines like `anyhow v1.0.1 (*)`: each name and version once.
fn names_in(tree: &str) -> BTreeSet<(String, String)> {
    tree.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            Some((name, words.next()?.strip_prefix('v')?.to_owned()))
        })
        .collect()
}

fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    let lock: Table = lock.parse().context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let text = |package: &toml::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    Ok(packages
        .into_iter()
        .flatten()
        .filter_map(|package| {
            let name = (text(package, "name")?, text(package, "version")?);
            Some((name, text(package, "checksum")?))
        })
        .collect())
}

fn join(
    linked: &BTreeSet<(String, String)>,
    metadata: Metadata,
    checksums: &BTreeMap<(String, String), String>,
) -> Vec<Dependency> {
    let by_id: BTreeMap<&str, (String, String)> = metadata
        .packages
        .iter()
        .map(|one| (one.id.as_str(), (one.name.clone(), one.version.clone())))
        .collect();
    let needs = |id: &str| {
        let node = metadata.resolve.nodes.iter().find(|node| node.id == id);
        let needs = node.into_iter().flat_map(|node| &node.dependencies);
        needs
            .filter_map(|id| by_id.get(id.as_str()))
            .filter(|name| linked.contains(*name))
            .cloned()
            .collect()
    };
    let mut all: Vec<Dependency> = metadata
        .packages
        .iter()
        // Our own have no source.
        .filter(|one| one.source.is_some())
        .filter_map(|one| {
            let name = (one.name.clone(), one.version.clone());
            linked.contains(&name).then(|| Dependency {
                license: one.license.clone().unwrap_or_else(|| "unknown".into()),
                authors: one.authors.clone(),
                checksum: checksums.get(&name).cloned(),
                folder: one
                    .manifest_path
                    .parent()
                    .map_or_else(PathBuf::new, Path::to_path_buf),
                needs: needs(&one.id),
                name: name.0,
                version: name.1,
            })
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_has_a_licence_and_a_checksum() {
        let agent = of(&["vpn-node", "vpn-node-updater"]).unwrap();
        let has = |name: &str| agent.iter().any(|one| one.name == name);
        assert!(has("ring") && has("tokio") && has("zstd-sys"));
        assert!(!has("vpn-node-protocol"), "our own are not somebody else's");
        assert!(!has("serde_derive"), "it runs at build time only");
        assert!(!has("libsqlite3-sys"), "that is the controller's");
        for one in &agent {
            assert!(one.checksum.as_ref().is_some_and(|sum| sum.len() == 64));
            assert_ne!(one.license, "unknown", "{}", one.name);
            assert!(one.folder.is_dir(), "{}", one.name);
        }
        let rustls = agent.iter().find(|one| one.name == "rustls").unwrap();
        assert!(rustls.needs.iter().any(|(name, _)| name == "ring"));
    }

    #[test]
    fn a_crate_that_is_listed_twice_is_one() {
        let names = names_in("vpn-node v0.1.0 (/here)\nring v0.17.14\n\nring v0.17.14 (*)\n");
        assert_eq!(names.len(), 2);
    }
}
