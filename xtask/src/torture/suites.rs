//! Suites that are tests of a package: run in their full length, with what they print.
//!
//! Such a test is short in an ordinary run and long with `VPN_NODE_TORTURE=full` (some know `usual`,
//! which is between). The last line
//! that it prints has its figures; the verdict line here repeats them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::shell;

/// What a test looks for.
const VARIABLE: &str = "VPN_NODE_TORTURE";
const LIST_WITHIN: Duration = Duration::from_secs(60);
/// Far above what any suite takes.
const RUN_WITHIN: Duration = Duration::from_secs(3600);

/// Words for cargo with which tests run nearly as quick as what is shipped: our code and what seals,
/// optimised; the rest of the dev profile, and what was built with it, stays as it is.
pub(crate) const OPTIMISED: [&str; 10] = [
    "--config",
    "profile.dev.package.vpn-node.opt-level=3",
    "--config",
    "profile.dev.package.vpn-node-protocol.opt-level=3",
    "--config",
    "profile.dev.package.hpke.opt-level=3",
    "--config",
    "profile.dev.package.chacha20.opt-level=3",
    "--config",
    "profile.dev.package.poly1305.opt-level=3",
];

/// Where the tests of a suite are.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    /// The words with which cargo builds the test binary.
    pub(crate) target: &'static [&'static str],
    /// The target's name, since other packages may have such a target too.
    pub(crate) binary: &'static str,
    /// A part of the names of its tests.
    pub(crate) test: &'static str,
}

/// How a suite ended.
pub(crate) struct Ran {
    pub(crate) passed: bool,
    /// What its last line says.
    pub(crate) figures: String,
    pub(crate) took: Duration,
}

/// Builds the suite's test binary, runs its tests in full length, gives the verdict.
pub(crate) fn run(suite: &Suite) -> Result<ExitCode> {
    let binary = build(suite, &[])?;
    let ran = run_built(&binary, suite, "full")?;
    anstream::println!(
        "torture {}: {}: {}, {} s",
        suite.name,
        if ran.passed { "ok" } else { "FAILED" },
        ran.figures,
        ran.took.as_secs()
    );
    Ok(if ran.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the suite's tests from a binary that is built, in the length `scale`; nothing is the short one.
pub(crate) fn run_built(binary: &Path, suite: &Suite, scale: &str) -> Result<Ran> {
    if !has_tests(binary, suite)? {
        bail!(
            "there is no test whose name contains `{}` in package {} ({}): this suite is not here yet",
            suite.test,
            suite.package,
            suite.target.join(" ")
        );
    }
    let started = Instant::now();
    let mut command = of_suite(binary, suite);
    command
        .args(["--include-ignored", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, scale);
    let output = shell::tee(command, RUN_WITHIN)?;
    Ok(Ran {
        passed: output.status.success(),
        figures: figures(&output.stdout).unwrap_or("no figures").to_owned(),
        took: started.elapsed(),
    })
}

/// Builds the suite's test binary; `more` are further words for cargo.
pub(crate) fn build(suite: &Suite, more: &[&str]) -> Result<PathBuf> {
    anstream::println!("building the tests of {}", suite.package);
    let mut command = shell::cargo();
    command
        // The workspace, for the same features as in `cargo xtask test`: nothing is built twice.
        .args(["test", "--locked", "--no-run", "--workspace"])
        .args(suite.target)
        .args(more);
    build::executable(&build::messages(command)?, suite.binary, true)
        .context("cargo built no test binary of this suite")
}

fn has_tests(binary: &Path, suite: &Suite) -> Result<bool> {
    let mut command = of_suite(binary, suite);
    command.args(["--include-ignored", "--list", "--format=terse"]);
    let listed = shell::succeed(command, None, LIST_WITHIN)?;
    Ok(listed.stdout.lines().any(|line| line.ends_with(": test")))
}

fn of_suite(binary: &Path, suite: &Suite) -> Command {
    let mut command = Command::new(binary);
    // Where `cargo test` would run it.
    let folder = match suite.package {
        "vpn-node-controller" => shell::repository().join("crates/controller"),
        _ => shell::repository().to_owned(),
    };
    command.arg(suite.test).current_dir(folder);
    command
}

/// The last line of the tests themselves, not of their harness, which leaves its own line
/// `test NAME ... ` open for what comes first.
fn figures(output: &str) -> Option<&str> {
    output
        .lines()
        .map(|line| {
            let begun = line.strip_prefix("test ");
            let rest = begun.and_then(|begun| begun.split_once(" ... "));
            rest.map_or(line, |(_, rest)| rest).trim()
        })
        .rev()
        .find(|line| !is_of_harness(line))
}

fn is_of_harness(line: &str) -> bool {
    ["", "ok", "FAILED", "ignored", "failures:"].contains(&line)
        || line.starts_with("test result: ")
        || line.starts_with("running ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_the_last_line_that_the_harness_did_not_print() {
        let output = "\nrunning 1 test\ntest x::torture_clone ... building\n\
                      500 clones, 500 found, 0 innocent\nok\n\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n\n";
        assert_eq!(figures(output), Some("500 clones, 500 found, 0 innocent"));
        let at_once = "running 1 test\ntest torture_clone ... 7 clones\nok\n";
        assert_eq!(figures(at_once), Some("7 clones"));
        assert_eq!(figures("running 0 tests\n\ntest result: ok.\n"), None);
    }
}
