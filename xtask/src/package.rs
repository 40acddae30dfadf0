//! `cargo xtask package`: the .deb and .rpm of the agent and of the controller.
//!
//! What is in them is said by `[package.metadata.deb]` and `[package.metadata.generate-rpm]` of
//! the two packages' Cargo.toml. The tools are used if they are installed, never compiled here.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::PACKAGES;
use crate::release;
use crate::shell;

/// A release build with link-time optimisation, from nothing, on a small machine.
const BUILD_WITHIN: Duration = Duration::from_secs(3600);

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this kind
    #[arg(value_enum)]
    kind: Option<Kind>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Deb,
    Rpm,
}

/// Builds the programs once, then each package from them.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    shell::catch_signals()?;
    let kinds: Vec<Kind> = [Kind::Deb, Kind::Rpm]
        .into_iter()
        .filter(|kind| options.kind.is_none_or(|only| only == *kind))
        .collect();
    let missing: Vec<&str> = kinds
        .iter()
        .map(|kind| tool(*kind))
        .filter(|tool| shell::find(tool).is_none())
        .collect();
    if !missing.is_empty() {
        anstream::eprintln!(
            "error: {} not installed; install with: cargo install --locked {}",
            missing.join(" and "),
            missing.join(" ")
        );
        return Ok(ExitCode::FAILURE);
    }
    for (package, _, profile) in PACKAGES {
        let mut build = shell::cargo();
        build.args([
            "build",
            "--locked",
            "--profile",
            profile,
            "--bins",
            "--package",
            package,
        ]);
        if package == "vpn-node" {
            // It travels in the agent's package and has none of its own.
            build.args(["--package", "vpn-node-updater"]);
        }
        must_succeed(build)?;
    }
    write_manifest()?;
    for kind in kinds {
        for (package, folder, profile) in PACKAGES {
            must_succeed(command(kind, package, folder, profile))?;
        }
    }
    anstream::println!("the packages are in target/debian and target/generate-rpm");
    Ok(ExitCode::SUCCESS)
}

/// What `/opt/vpn-node/system/manifest.json` says: the updater reads there which version the
/// package brought, as in every directory beside it.
fn write_manifest() -> Result<()> {
    let target = shell::repository().join("target");
    let bytes = release::manifest_of(&target.join("agent"))?;
    let folder = target.join("package");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("manifest.json");
    fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))
}

fn tool(kind: Kind) -> &'static str {
    match kind {
        Kind::Deb => "cargo-deb",
        Kind::Rpm => "cargo-generate-rpm",
    }
}

fn command(kind: Kind, package: &str, folder: &str, profile: &str) -> Command {
    let mut command = shell::cargo();
    match kind {
        Kind::Deb => command.args(["deb", "--locked", "--no-build", "--package", package]),
        // It takes the folder, not the name.
        Kind::Rpm => command.args(["generate-rpm", "--package", folder]),
    };
    command.args(["--profile", profile]);
    command
}

fn must_succeed(command: Command) -> Result<()> {
    let shown = shell::show(&command);
    let output = shell::tee(command, BUILD_WITHIN)?;
    output
        .status
        .success()
        .then_some(())
        .with_context(|| format!("`{shown}` failed; its messages stand above"))
}
