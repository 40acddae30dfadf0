//! Where our programs are: built by cargo, or taken from a folder that the caller names.
//! Those that are published are built by [`shipped`].

mod needs;
pub(crate) mod shipped;
mod sysroot;

pub(crate) use sysroot::NEWEST_GLIBC;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;

/// Our packages: cargo's name, the folder of its Cargo.toml from the repository's top, and the
/// profile that it is shipped in.
const PACKAGES: [(&str, &str, &str); 2] = [
    ("vpn-node", ".", "agent"),
    ("vpn-node-controller", "crates/controller", "release"),
];

/// The programs of one build.
#[derive(Clone)]
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    pub(crate) cli: PathBuf,
    pub(crate) controller: PathBuf,
    pub(crate) updater: PathBuf,
    pub(crate) wireguard: PathBuf,
}

impl Programs {
    /// Each from where `find` has it.
    fn all(find: impl Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        Ok(Self {
            agent: find("vpn-node-agent")?,
            cli: find("vpn-node")?,
            controller: find("vpn-node-controller")?,
            updater: find("vpn-node-updater")?,
            wireguard: find("vpn-node-wireguard")?,
        })
    }
}

/// Takes the programs from `folder` if there is one, else builds them.
pub(crate) fn programs(folder: Option<&Path>, release: bool) -> Result<Programs> {
    match folder {
        Some(folder) => in_folder(folder),
        None => build(release),
    }
}

fn in_folder(folder: &Path) -> Result<Programs> {
    let folder = std::path::absolute(folder).context("cannot resolve --programs")?;
    Programs::all(|name| {
        let file = folder.join(name);
        if file.is_file() {
            return Ok(file);
        }
        bail!("--programs: there is no {}", file.display())
    })
}

fn build(release: bool) -> Result<Programs> {
    // Cargo gives a crate the features that any package of one build asks for. A release build is
    // what a host gets, so agent and controller are built apart; a debug build shares all with
    // the tests, which is quicker.
    let messages = if release {
        PACKAGES
            .iter()
            // It travels in the agent's package.
            .chain(&[("vpn-node-updater", "crates/updater", "agent")])
            .map(|(package, _, profile)| cargo_build(&["--package", package, "--profile", profile]))
            .collect::<Result<String>>()?
    } else {
        cargo_build(&["--workspace"])?
    };
    Programs::all(|name| program(&messages, name))
}

/// Builds the program of the package `name` in this profile.
pub(crate) fn one(name: &str, profile: &str) -> Result<PathBuf> {
    let messages = cargo_build(&["--package", name, "--profile", profile])?;
    program(&messages, name)
}

/// Builds the example `name` of a package in this profile.
pub(crate) fn example(package: &str, name: &str, profile: &str) -> Result<PathBuf> {
    let words = [
        "--package",
        package,
        "--example",
        name,
        "--profile",
        profile,
    ];
    let messages = cargo_build(&words)?;
    executable(&messages, name, false).with_context(|| format!("cargo built no example `{name}`"))
}

fn cargo_build(words: &[&str]) -> Result<String> {
    let mut command = shell::cargo();
    command.args(["build", "--locked", "--bins"]).args(words);
    messages(command)
}

/// Runs cargo; its messages for people go to the terminal, those for programs come back.
pub(crate) fn messages(mut command: Command) -> Result<String> {
    command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    shell::check_interrupted()?;
    if !output.status.success() {
        bail!(
            "`{}` failed; its messages stand above",
            shell::show(&command)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn program(messages: &str, name: &str) -> Result<PathBuf> {
    executable(messages, name, false).with_context(|| format!("cargo built no program `{name}`"))
}

/// The path in cargo's message about the binary target `name` (see "JSON messages" in cargo's
/// book): the one with a test harness if it shall be a `test`, else the one without.
pub(crate) fn executable(messages: &str, name: &str, test: bool) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .filter(|message| (message["profile"]["test"] == true) == test)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_the_one_of_the_named_target() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"vpn-node"},"executable":"/t/vpn-node"}"#,
            "\nnot json\n",
            r#"{"reason":"compiler-artifact","target":{"name":"vpn_node"},"executable":null}"#,
        );
        assert_eq!(
            executable(messages, "vpn-node", false),
            Some(PathBuf::from("/t/vpn-node"))
        );
        assert_eq!(executable(messages, "vpn_node", false), None);
    }

    #[test]
    fn the_test_binary_is_the_one_with_a_harness_and_the_name() {
        let messages = concat!(
            r#"{"profile":{"test":false},"target":{"name":"it"},"executable":"/t/it"}"#,
            "\n",
            r#"{"profile":{"test":true},"target":{"name":"api"},"executable":"/t/deps/api-1"}"#,
            "\n",
            r#"{"profile":{"test":true},"target":{"name":"it"},"executable":"/t/deps/it-1"}"#,
        );
        let found = |name, test| executable(messages, name, test);
        assert_eq!(found("it", true), Some(PathBuf::from("/t/deps/it-1")));
        assert_eq!(found("it", false), Some(PathBuf::from("/t/it")));
        assert_eq!(found("lib", true), None);
    }
}
