//! What the distributions' own checkers say about the packages: lintian and rpmlint. A finding is an
//! error; what we do otherwise on purpose stands with its reason in `packaging/*/lintian-overrides`
//! and `packaging/rpmlint.toml`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Built, Kind};
use crate::apt::{self, Need, need};
use crate::shell;

/// Both unpack and read everything.
const CHECK_WITHIN: Duration = Duration::from_secs(600);

/// Looks at all packages; returns what was left out and why.
pub(super) fn run(built: &Built) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    for kind in [Kind::Deb, Kind::Rpm] {
        let files: Vec<_> = built.of_kind(kind).collect();
        if files.is_empty() {
            continue;
        }
        let (program, needs, command): (_, &[Need], fn() -> Command) = match kind {
            Kind::Deb => ("lintian", &[need("lintian", "lintian")], lintian),
            // It asks rpm, and Debian only recommends that.
            Kind::Rpm => (
                "rpmlint",
                &[need("rpmlint", "rpmlint"), need("rpm", "rpm")],
                rpmlint,
            ),
        };
        if let Some(missing) = apt::provide(needs, true)? {
            skipped.push(format!("{program} was left out: {missing}"));
            continue;
        }
        for file in files {
            look(command(), file)?;
        }
    }
    Ok(skipped)
}

fn lintian() -> Command {
    let mut command = Command::new("lintian");
    command.args(["--fail-on=error,warning", "--tag-display-limit=0"]);
    if shell::is_root() {
        command.arg("--allow-root");
    }
    command
}

fn rpmlint() -> Command {
    let mut command = Command::new("rpmlint");
    command.args(["--strict", "--ignore-unused-rpmlintrc", "--config"]);
    command.arg(shell::repository().join("packaging/rpmlint.toml"));
    command
}

fn look(mut command: Command, file: &Path) -> Result<()> {
    command.env("LC_ALL", "C.UTF-8").arg(file);
    let output = shell::output(command, None, CHECK_WITHIN)?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "findings about {}:\n{}{}",
        file.display(),
        shell::indent(&output.stdout),
        shell::indent(&output.stderr)
    )
}
