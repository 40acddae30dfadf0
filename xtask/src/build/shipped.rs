//! Programs as they are published: without a trace of where they were built, and for hosts that are
//! older than the machine that builds them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{needs, sysroot};
use crate::shell;

/// A release build with link-time optimisation, from nothing, on a small machine.
const BUILD_WITHIN: Duration = Duration::from_secs(3600);
const QUICK: Duration = Duration::from_secs(60);

/// Programs that are built by one run of cargo, which gives a crate the features that any package
/// of the run asks for.
pub(crate) struct Set {
    /// Cargo's packages.
    pub(crate) packages: &'static [&'static str],
    /// Their programs.
    pub(crate) programs: &'static [&'static str],
    /// The profile that they are published in.
    pub(crate) profile: &'static str,
}

/// Builds the programs of `set` as they are published; returns the folder they are in.
pub(crate) fn build_here(set: &Set) -> Result<PathBuf> {
    build(set, shell::repository(), &target(), set.profile)
}

/// Where cargo puts what it builds for publishing from this checkout.
pub(crate) fn target() -> PathBuf {
    shell::repository().join("target/release-build")
}

/// Builds the programs of `set` from `sources` in `target`; returns the folder they are in.
///
/// Paths get into programs by panic messages, by `__FILE__` of C, and by the hash of the compiler's
/// flags. The compiler is told to write other ones, and cargo leaves such flags out of the hash.
pub(crate) fn build(set: &Set, sources: &Path, target: &Path, profile: &str) -> Result<PathBuf> {
    let sysroot = sysroot::provide()?;
    let places = [
        (target.to_owned(), "/target"),
        (sources.to_owned(), "/vpn-node"),
        (cargo_home()?, "/cargo"),
        (sysroot.folder, "/sysroot"),
    ];
    let mut command = shell::cargo();
    command
        .current_dir(sources)
        .args([
            "build",
            "--locked",
            "--quiet",
            "--bins",
            "--profile",
            profile,
        ])
        .args(set.packages.iter().flat_map(|name| ["--package", name]))
        .env_remove("RUSTFLAGS")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            join(&places, "--remap-path-prefix=", "\u{1f}"),
        )
        .env("CFLAGS", join(&places, "-ffile-prefix-map=", " "))
        .env("CC", &sysroot.compiler)
        .env(linker_variable(), &sysroot.compiler)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_INCREMENTAL", "0");
    let shown = shell::show(&command);
    if !shell::tee(command, BUILD_WITHIN)?.status.success() {
        bail!("`{shown}` failed; its messages stand above");
    }
    // Cargo's own word for the folder of the profile `dev`.
    let folder = target.join(if profile == "dev" { "debug" } else { profile });
    for program in set.programs {
        let program = folder.join(program);
        if !program.is_file() {
            bail!("cargo built no {}", program.display());
        }
        needs::check(&program)?;
    }
    Ok(folder)
}

/// Where cargo looks for the linker of this machine's programs ("Configuration" in cargo's book).
fn linker_variable() -> String {
    let architecture = std::env::consts::ARCH.to_uppercase();
    format!("CARGO_TARGET_{architecture}_UNKNOWN_LINUX_GNU_LINKER")
}

/// Copies what git knows of the repository, as it stands in the working tree.
pub(crate) fn copy_sources(to: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.current_dir(shell::repository())
        .args(["ls-files", "-z"])
        .stderr(Stdio::inherit());
    let names = shell::succeed(list, None, QUICK)?.stdout;
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (shell::repository().join(name), to.join(name));
        if !from.is_file() {
            continue; // removed and not committed yet
        }
        let folder = to.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::copy(&from, &to).map(drop))
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn join(places: &[(PathBuf, &str)], flag: &str, between: &str) -> OsString {
    let mut all = OsString::new();
    for (from, to) in places {
        if !all.is_empty() {
            all.push(between);
        }
        all.push(flag);
        all.push(from);
        all.push(format!("={to}"));
    }
    all
}

/// Where cargo keeps the sources of other crates.
fn cargo_home() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("CARGO_HOME") {
        return Ok(folder.into());
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}
