//! Whoever publishes releases: a repository, the keys of people with one passphrase for all of
//! them, and `vpn-node-controller release …` as they type it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use vpn_node_release::digest::Digest;
use vpn_node_release::version::{Platform, Version};

use crate::release;
use crate::shell;

/// A passphrase is made slow on purpose, and this is an unoptimised build on a busy machine.
const WITHIN: Duration = Duration::from_secs(300);

/// See the module's page.
pub(crate) struct Publisher {
    /// `vpn-node-controller`.
    program: PathBuf,
    repository: PathBuf,
    keys: PathBuf,
}

impl Publisher {
    /// One who works in the directory `repository`, without a controller.
    pub(crate) fn offline(program: &Path, repository: &Path, keys: &Path) -> Self {
        Self {
            program: program.to_owned(),
            repository: repository.to_owned(),
            keys: keys.to_owned(),
        }
    }

    /// Makes keys and repository, with fewer keys than the default: each costs a second of work.
    pub(crate) fn init(&self, root_keys: u32, targets_keys: u32) -> Result<String> {
        fs::create_dir_all(&self.keys).context("cannot make the folder for keys")?;
        fs::write(self.passphrase(), "correct horse battery staple, twice\n")
            .context("cannot write the passphrase")?;
        let keys = self.keys.to_string_lossy();
        let (root_keys, targets_keys) = (root_keys.to_string(), targets_keys.to_string());
        let passphrase = self.passphrase();
        self.release(&[
            "init",
            "--keys",
            &keys,
            "--root-keys",
            &root_keys,
            "--targets-keys",
            &targets_keys,
            "--passphrase-file",
            &passphrase.to_string_lossy(),
        ])
    }

    /// Stages a package.
    pub(crate) fn add(&self, package: &Path, description: &str) -> Result<String> {
        let package = package.to_string_lossy();
        self.release(&["add", &package, "--description", description])
    }

    /// Signs what is staged: that publishes it.
    pub(crate) fn sign(&self) -> Result<String> {
        let (key, passphrase) = (self.keys.join("targets-1.key"), self.passphrase());
        self.release(&[
            "sign",
            "--key",
            &key.to_string_lossy(),
            "--passphrase-file",
            &passphrase.to_string_lossy(),
        ])
    }

    /// `vpn-node-controller release …`.
    pub(crate) fn release(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("release").arg("--repository");
        command.arg(&self.repository).args(words);
        let output = shell::succeed(command, None, WITHIN)?;
        Ok(output.stdout + &output.stderr)
    }

    /// The first root metadata, and its SHA-256 as people tell it to hosts.
    pub(crate) fn first_root(&self) -> Result<(PathBuf, String)> {
        let path = self.repository.join("metadata/1.root.json");
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((path, Digest::of(&bytes).to_string()))
    }

    /// Where the signed files lie.
    pub(crate) fn repository(&self) -> &Path {
        &self.repository
    }

    fn passphrase(&self) -> PathBuf {
        self.keys.join("passphrase")
    }
}

/// Packs a version from `stock`, where `changed` programs take the place of those: a script that
/// misbehaves is packed, signed and installed like any other agent. Returns the package.
pub(crate) fn pack(
    stock: &Path,
    version: &str,
    changed: &[(&str, Content<'_>)],
    out: &Path,
) -> Result<PathBuf> {
    let programs = tempfile::tempdir_in(out).context("cannot make a folder for a package")?;
    for name in release::PROGRAMS {
        let to = programs.path().join(name);
        let content = changed.iter().find(|(changed, _)| *changed == name);
        match content {
            None => fs::hard_link(stock.join(name), &to),
            Some((_, Content::Script(text))) => fs::write(&to, text),
            Some((_, Content::Program(other))) => fs::hard_link(stock.join(other), &to),
        }
        .with_context(|| format!("cannot put {name} into a package"))?;
    }
    let version = Version::parse(version)?;
    release::package(programs.path(), &version, &Platform::here(), out)
}

/// What stands in the place of a program.
pub(crate) enum Content<'a> {
    /// This text.
    Script(&'a str),
    /// The program of this name.
    Program(&'a str),
}
