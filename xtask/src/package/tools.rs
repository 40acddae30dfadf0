//! The programs that write packages: those in PATH, else pinned versions of our own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Kind;
use crate::shell;

/// Compiling one of them on a small machine.
const COMPILE_WITHIN: Duration = Duration::from_secs(1800);

/// A program of crates.io.
struct Tool {
    name: &'static str,
    /// What we install. One that is in PATH may be another.
    version: &'static str,
}

const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
};
const CARGO_GENERATE_RPM: Tool = Tool {
    name: "cargo-generate-rpm",
    version: "0.21.1",
};

/// The program that writes this kind.
pub(super) fn provide(kind: Kind) -> Result<PathBuf> {
    match kind {
        Kind::Deb => installed(&CARGO_DEB),
        Kind::Rpm => installed(&CARGO_GENERATE_RPM),
    }
}

/// Looks in PATH and in `target/tools`, and installs it there if it is in neither.
fn installed(tool: &Tool) -> Result<PathBuf> {
    let root = shell::repository().join("target/tools");
    let ours = root.join("bin").join(tool.name);
    if let Some(found) = shell::find(tool.name) {
        return Ok(found);
    }
    if ours.is_file() {
        return Ok(ours);
    }
    anstream::println!(
        "installing {} {} into target/tools (once)",
        tool.name,
        tool.version
    );
    let mut install = shell::cargo();
    install
        .args(["install", "--locked", "--quiet"])
        .args(["--version", tool.version])
        .arg("--root")
        .arg(&root)
        .arg(tool.name)
        // What our own build is told is not meant for it.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR");
    let shown = shell::show(&install);
    let output = shell::tee(install, COMPILE_WITHIN)?;
    output
        .status
        .success()
        .then_some(ours)
        .with_context(|| format!("`{shown}` failed; its messages stand above"))
}
