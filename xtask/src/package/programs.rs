//! The programs of the packages, gathered in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Flavour, Wanted};
use crate::build;
use crate::build::shipped::{self, Set};
use crate::release::{self, PROGRAMS};
use crate::shell;

const MANUALS: &str = "vpn-node-manuals";
const STRIP_WITHIN: Duration = Duration::from_secs(60);

/// How the controller is built.
const CONTROLLER: Set = Set {
    packages: &["vpn-node-controller"],
    programs: &["vpn-node-controller"],
    profile: "release",
};

/// Where the programs of each package are.
pub(super) struct Programs {
    /// A folder with all that [`PROGRAMS`] names.
    pub(super) agent: PathBuf,
    /// The file.
    pub(super) controller: PathBuf,
    /// What writes man pages and completions; it is in no package.
    pub(super) manuals: PathBuf,
}

/// Those that are published, built here or by an earlier run.
pub(super) fn published(build: bool) -> Result<build::Programs> {
    let (agent, controller) = if build {
        (release::programs()?, shipped::build_here(&CONTROLLER)?)
    } else {
        let before = shipped::target();
        (before.join("agent"), before.join(CONTROLLER.profile))
    };
    Ok(build::Programs {
        agent: agent.join("vpn-node-agent"),
        cli: agent.join("vpn-node"),
        controller: controller.join("vpn-node-controller"),
        updater: agent.join("vpn-node-updater"),
        wireguard: agent.join("vpn-node-wireguard"),
    })
}

/// Builds what is wanted and gathers it in `folder`.
pub(super) fn provide(wanted: &Wanted, folder: &Path) -> Result<Programs> {
    let mut programs = match wanted.flavour {
        Flavour::Release | Flavour::Rehearsal => Programs {
            agent: release::programs()?,
            controller: shipped::build_here(&CONTROLLER)?.join("vpn-node-controller"),
            manuals: build::one(MANUALS, "dev")?,
        },
        Flavour::Quick => quick(folder)?,
    };
    if let Some(folder) = &wanted.agent_programs {
        programs.agent = std::path::absolute(folder)
            .with_context(|| format!("cannot resolve {}", folder.display()))?;
    }
    Ok(programs)
}

/// Those of `cargo build`, without their symbols: a tenth of the size.
fn quick(folder: &Path) -> Result<Programs> {
    let built = build::programs(None, false)?;
    let from = built
        .agent
        .parent()
        .context("a program lies in a folder")?
        .to_owned();
    let agent = folder.join("agent");
    for program in PROGRAMS {
        strip(&from.join(program), &agent.join(program))?;
    }
    let controller = folder.join("vpn-node-controller");
    strip(&built.controller, &controller)?;
    let manuals = from.join(MANUALS);
    Ok(Programs {
        agent,
        controller,
        manuals,
    })
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut command = Command::new("strip");
    command.arg("-o").arg(to).arg(from);
    shell::succeed(command, None, STRIP_WITHIN).map(drop)
}
